"""Packed parameter trees: codes that take exactly their bits, in one safetensors file.

The file opens with `safetensors.torch.load_file` or any other reader of the format. A tensor's name
is its path, keys joined by "/" ("params/conv/kernel"; in a key "/" is %2F, and % is %25):

| name | type and shape | content |
|---|---|---|
| PATH | F32, of the tensor | the values, where the tensor is not quantized |
| PATH | U8 `[ceil(size * bits / 8)]` | the codes, where it is quantized, see `pack_codes` |
| PATH.scale | F32 `[groups, 1, channels]` | step of the grid |
| PATH.zero_point | U8, as codes of the grid's shape | code of 0; "affine", 2 bits or more |

`value = (code - zero_point) * scale`; the codes of a group and channel lie as `quantize_tensor`
cuts the tensor. Where no zero points are stored, they are the middle of the grid. The metadata has
one entry, `lsh_gan`, in JSON: `version` of the layout; `quantized`, which holds shape, bits and
channel axis of each quantized tensor, in the order of their names; `empty`, paths of empty
sub-trees; `metadata` of the caller; and 32 digits of the `sha256` over all of that and the tensors.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.core import FrozenDict

from lsh_gan.compression.quantization import Grid, fan_in, num_levels
from lsh_gan.compression.rules import Params, TensorPlan, join, path_of
from lsh_gan.compression.spec import CompressionSpec
from lsh_gan.compression.tree import QuantizedTensor, dequantize_tensor, quantize_tree


class Layout(NamedTuple):
    """What the header says of one tensor; enough to know its bytes."""

    path: tuple[str, ...]  # keys from the root
    shape: tuple[int, ...]  # shape of the tensor
    bits: int | None  # width of a code; None for float32 values
    channel_axis: int = 0  # output axis, counted from 0
    scheme: str = "symmetric"  # "symmetric" or "affine"
    # Shape of scale and zero point, `[groups, 1, channels]` or `[1, 1, 1]`.
    grid_shape: tuple[int, ...] = ()

    def zero_point_bits(self) -> int:
        """Width of a stored zero point; 0 where the grid implies it."""
        return self.bits if self.scheme == "affine" and self.bits and self.bits > 1 else 0

    def part_bytes(self) -> tuple[int, int, int]:
        """Bytes of values or codes, of scales, and of zero points."""
        size = math.prod(self.shape)
        if self.bits is None:
            return 4 * size, 0, 0
        grid = math.prod(self.grid_shape)
        zero_points = packed_bytes(grid, self.zero_point_bits())
        return packed_bytes(size, self.bits), 4 * grid, zero_points

    def num_bytes(self) -> int:
        """Bytes of the tensor in the payload."""
        return sum(self.part_bytes())


class PackedTensor(NamedTuple):
    """One tensor as it lies in a file."""

    layout: Layout
    codes: np.ndarray  # uint8: bit-packed codes, or the bytes of float32 values
    scale: np.ndarray | None = None  # float32, of `layout.grid_shape`; None of float32 values
    zero_point: np.ndarray | None = None  # likewise


class PackedTree(NamedTuple):
    """A compressed parameter tree."""

    tensors: tuple[PackedTensor, ...]  #: the tensors in tree order
    #: Paths of empty sub-trees, which hold no tensor but belong to the tree.
    empty: tuple[tuple[str, ...], ...]
    #: JSON values of the caller, such as the generator's name and its configuration.
    metadata: dict[str, Any]


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of `count` codes of `bits` bits."""
    return -(-count * bits // 8)


def pack_codes(codes: np.ndarray, bits: int) -> np.ndarray:
    """Packs whole numbers below 2^bits, low bits first, without gaps.

    Args:
        codes: uint16 `[n]`.
        bits: 1 to 16. Above 8 the low bytes come first, then the packed high bits.

    Returns:
        uint8 `[ceil(n * bits / 8)]` (the two parts of codes above 8 bits need no more).
    """
    if bits > 8:
        high = pack_codes(codes >> 8, bits - 8)
        return np.concatenate([(codes & 0xFF).astype(np.uint8), high])
    octets = np.zeros((-(-codes.size // 8), 8), np.uint64)
    octets.reshape(-1)[: codes.size] = codes
    words = np.zeros(len(octets), "<u8")
    for i in range(8):
        words |= octets[:, i] << np.uint64(i * bits)
    rows = words.view(np.uint8).reshape(-1, 8)[:, :bits]
    return rows.reshape(-1)[: packed_bytes(codes.size, bits)]


def unpack_codes(packed: np.ndarray, count: int, bits: int) -> np.ndarray:
    """The inverse of `pack_codes`: uint16 `[count]`."""
    if bits > 8:
        high = unpack_codes(packed[count:], count, bits - 8)
        return packed[:count].astype(np.uint16) | (high << np.uint16(8))
    rows = np.zeros((-(-count // 8), 8), np.uint8)
    padded = np.zeros(len(rows) * bits, np.uint8)
    padded[: packed.size] = packed
    rows[:, :bits] = padded.reshape(-1, bits)
    words = rows.view("<u8")
    shifts = np.arange(8, dtype=np.uint64) * np.uint64(bits)
    octets = (words >> shifts) & np.uint64((1 << bits) - 1)
    return octets.astype(np.uint16).reshape(-1)[:count]


def layout_of(plan: TensorPlan, shape: tuple[int, ...]) -> Layout:
    """The layout of a planned tensor."""
    spec, axis = plan.spec, plan.channel_axis
    if spec.bits is None:
        return Layout(plan.path, shape, None)
    grouped = spec.granularity == "per_group" and spec.group_size
    groups = fan_in(shape, axis) // grouped if grouped else 1
    channels = 1 if spec.granularity == "per_tensor" else shape[axis]
    return Layout(plan.path, shape, spec.bits, axis, spec.scheme, (groups, 1, channels))


def _pack_tensor(plan, leaf: jax.Array, quantized: QuantizedTensor | None) -> PackedTensor:
    layout = layout_of(plan, leaf.shape)
    if quantized is None or layout.bits is None:
        return PackedTensor(layout, np.asarray(leaf, "<f4").reshape(-1).view(np.uint8))
    return PackedTensor(
        layout,
        pack_codes(np.asarray(quantized.codes).reshape(-1), layout.bits),
        np.asarray(quantized.grid.scale),
        np.asarray(quantized.grid.zero_point),
    )


def empty_subtrees(params: Params) -> tuple[tuple[str, ...], ...]:
    """Paths of empty dicts, which a list of tensors alone would lose."""
    if not isinstance(params, dict | FrozenDict):
        return ()
    flat = traverse_util.flatten_dict(params, keep_empty_nodes=True)
    empty = (path for path, leaf in flat.items() if leaf is traverse_util.empty_node)
    return tuple(tuple(map(str, path)) for path in empty)


def pack(
    params: Params,
    spec: CompressionSpec,
    *,
    channel_axes: Mapping[str, int] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> PackedTree:
    """Compresses a parameter tree into bit-packed codes.

    Args:
        params: A tree of floating arrays.
        spec: The compression; `bits=None` keeps float32 values.
        channel_axes: Path pattern -> output axis, as the generator declares it; default -1.
        metadata: JSON values stored with the tree.

    Returns:
        The packed tree; `unpack` of it equals `compress(params, spec, ...)[0]` bit for bit.

    Raises:
        ValueError, TypeError: As `compress`.
    """
    quantized, _ = quantize_tree(params, spec, channel_axes)
    return pack_quantized(quantized, empty_subtrees(params), metadata)


def pack_quantized(
    quantized: Sequence[tuple[TensorPlan, jax.Array, QuantizedTensor | None]],
    empty: tuple[tuple[str, ...], ...],
    metadata: Mapping[str, Any] | None,
) -> PackedTree:
    """The packed tree of what `quantize_tree` returns."""
    return PackedTree(tuple(_pack_tensor(*item) for item in quantized), empty, dict(metadata or {}))


def _unpack_tensor(tensor: PackedTensor) -> jax.Array:
    layout = tensor.layout
    if layout.bits is None:
        return jnp.asarray(tensor.codes.view("<f4").astype(np.float32).reshape(layout.shape))
    codes = unpack_codes(tensor.codes, math.prod(layout.shape), layout.bits)
    groups, _, channels = layout.grid_shape
    channels = layout.shape[layout.channel_axis] if len(layout.shape) > 1 else channels
    return dequantize_tensor(
        jnp.asarray(codes.reshape(groups, -1, channels)),
        Grid(jnp.asarray(tensor.scale), jnp.asarray(tensor.zero_point)),
        shape=layout.shape,
        channel_axis=layout.channel_axis,
    )


def unpack(packed: PackedTree, *, like: Any = None) -> Any:
    """The parameter tree of a packed tree.

    Args:
        packed: The packed tree.
        like: A tree of the same paths, for parameters that are not nested dicts; leaves may be
            shapes.

    Returns:
        Float32 arrays in nested dicts, or in a tree like `like`.

    Raises:
        ValueError: `like` has another path or shape (the first one).
    """
    if like is not None:
        known = {tensor.layout.path: tensor for tensor in packed.tensors}
        leaves, treedef = jax.tree_util.tree_flatten_with_path(like)
        for keys, leaf in leaves:
            tensor = known.get(path_of(keys))
            if tensor is None or tensor.layout.shape != tuple(leaf.shape):
                found = tensor.layout.shape if tensor else "nothing"
                raise ValueError(
                    f"{join(path_of(keys))}: the packed tree has {found}; expected {leaf.shape}"
                )
        unpacked = [_unpack_tensor(known[path_of(keys)]) for keys, _ in leaves]
        return jax.tree_util.tree_unflatten(treedef, unpacked)
    flat: dict[tuple[str, ...], Any] = dict.fromkeys(packed.empty, traverse_util.empty_node)
    flat |= {tensor.layout.path: _unpack_tensor(tensor) for tensor in packed.tensors}
    return traverse_util.unflatten_dict(flat)


def update(packed: PackedTree, variables: Params) -> PackedTree:
    """The packed tree of variables that were unpacked and then changed in some places.

    Tensors whose values are still the same keep their codes; others are stored as float32.
    """
    known = {tensor.layout.path: tensor for tensor in packed.tensors}
    tensors = []
    for path, leaf in traverse_util.flatten_dict(variables).items():
        tensor = known.get(path)
        if tensor is None or not np.array_equal(_unpack_tensor(tensor), leaf):
            values = np.asarray(leaf, "<f4")
            tensor = PackedTensor(
                Layout(path, values.shape, None), values.reshape(-1).view(np.uint8)
            )
        tensors.append(tensor)
    return PackedTree(tuple(tensors), empty_subtrees(variables), packed.metadata)


def implied_zero_point(layout: Layout) -> np.ndarray:
    """The zero point of the symmetric grid, which is not stored."""
    half_range = (num_levels(jnp.int32(layout.bits)) - 1) / 2
    return np.full(layout.grid_shape, half_range, np.float32)
