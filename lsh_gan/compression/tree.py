"""Compresses a whole parameter tree, tensor by tensor: rounds, packs and reports."""

import dataclasses
import functools
import itertools
import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.core import FrozenDict
from jaxtyping import Float32, UInt16

from lsh_gan import devices
from lsh_gan.compression import packing, quantization, rules
from lsh_gan.compression.clipping import Values, threshold
from lsh_gan.compression.packing import Layout, PackedTensor, PackedTree
from lsh_gan.compression.quantization import Grid
from lsh_gan.compression.rules import CompressionSpec, Params, TensorPlan, join


class QuantizedTensor(NamedTuple):
    """One tensor as codes, and sums over axis 1 for its report, in units of max `|w|` squared."""

    codes: UInt16[jax.Array, "groups group channels"]
    grid: Grid
    alpha: Float32[jax.Array, "#groups 1 #channels"]  # clipping threshold
    max_abs: Float32[jax.Array, "#groups 1 #channels"]  # max `|w|` of each threshold's values
    num_clipped: Float32[jax.Array, "groups 1 channels"]  # number of values with `|w|` > alpha
    signal: Float32[jax.Array, "groups 1 channels"]  # sum of squared values
    noise: Float32[jax.Array, "groups 1 channels"]  # sum of squared errors


@functools.partial(jax.jit, static_argnames=("spec", "channel_axis", "num_groups"))
def _quantize_tensor(
    x: jax.Array, bits: jax.Array, spec: CompressionSpec, channel_axis: int, num_groups: int
) -> QuantizedTensor:
    axes = (0, 1, 2) if spec.granularity == "per_tensor" else (1,)
    grouped = quantization.to_groups(x, channel_axis=channel_axis, num_groups=num_groups)
    values = Values(grouped, bits, axes)
    alpha = threshold(values, spec)
    grid = quantization.clipped_grid(*values.limits(), alpha, bits, scheme=spec.scheme)
    codes = quantization.quantize(values.x, grid, bits, scheme=spec.scheme)
    errors = quantization.dequantize(codes, grid) - values.x
    clipped = (jnp.abs(values.x) > alpha).astype(jnp.float32)
    squares = ((x * values.per_unit()) ** 2 for x in (values.x, errors))
    sums = (jnp.sum(x, axis=1, keepdims=True) for x in (clipped, *squares))
    return QuantizedTensor(codes.astype(jnp.uint16), grid, alpha, values.max_abs(), *sums)


@devices.usual
def quantize_tensor(x: jax.Array, plan: TensorPlan) -> QuantizedTensor:
    """Quantizes one tensor; compiles once per shape and method, for all widths."""
    spec, num_groups = plan.spec, layout_of(plan, x.shape).grid_shape[0]
    static = dataclasses.replace(spec, bits=None, group_size=None, rules=())
    result = _quantize_tensor(x, jnp.int32(spec.bits), static, plan.channel_axis, num_groups)
    if isinstance(x, jax.core.Tracer):
        return result
    lost = (np.asarray(result.alpha) <= 0) & (np.asarray(result.max_abs) > 0)
    if lost.any():
        raise ValueError(
            f"{join(plan.path)}: clipping {spec.clipping!r} gives threshold 0 in {lost.sum()} of"
            f" {lost.size} {spec.granularity} ranges whose values are not all zero; use a higher"
            " percentile, a coarser granularity or another method."
        )
    return result


@devices.usual
@functools.partial(jax.jit, static_argnames=("shape", "axis"))
def _decode(codes: jax.Array, grid: Grid, shape: tuple[int, ...], axis: int) -> jax.Array:
    """Decodes codes `[groups, group, channels]` to a float32 tensor of the given shape."""
    values = quantization.dequantize(codes, grid)
    return quantization.from_groups(values, shape=shape, channel_axis=axis)


class QuantizedTree(NamedTuple):
    """A planned and quantized tree."""

    # In tree order; the last entry is None for tensors that stay float32.
    tensors: list[tuple[TensorPlan, jax.Array, QuantizedTensor | None]]
    empty: tuple[tuple[str, ...], ...]  # paths of empty sub-trees
    treedef: Any  # tree definition of `jax.tree_util`


def quantize_tree(
    params: Params, spec: CompressionSpec, channel_axes: Mapping[str, int] | None
) -> QuantizedTree:
    """Plans and quantizes every tensor; different shapes compile in parallel threads."""
    leaves, treedef = rules.flatten(params)
    plans = rules.plan_tensors(leaves, spec, channel_axes)
    arrays = [leaf for _, leaf in leaves]
    alike: dict[tuple, list[int]] = {}
    for i, plan in enumerate(plans):
        if plan.spec.bits is not None:
            static = dataclasses.replace(plan.spec, bits=None)
            alike.setdefault((arrays[i].shape, plan.channel_axis, static), []).append(i)

    def run(indices: list[int]) -> list[tuple[int, QuantizedTensor]]:
        return [(i, quantize_tensor(arrays[i], plans[i])) for i in indices]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        traced = any(isinstance(x, jax.core.Tracer) for x in arrays)  # bound to this thread
        run_all: Callable = map if traced else pool.map
        done = dict(itertools.chain(*run_all(run, alike.values())))
    tensors = [(plan, arrays[i], done.get(i)) for i, plan in enumerate(plans)]
    return QuantizedTree(tensors, empty_subtrees(params), treedef)


def layout_of(plan: TensorPlan, shape: tuple[int, ...]) -> Layout:
    """Returns the layout of a planned tensor."""
    spec, axis = plan.spec, plan.channel_axis
    if spec.bits is None:
        return Layout(plan.path, shape, None)
    grouped = spec.granularity == "per_group" and spec.group_size
    groups = quantization.fan_in(shape, axis) // grouped if grouped else 1
    channels = 1 if spec.granularity == "per_tensor" else shape[axis]
    return Layout(plan.path, shape, spec.bits, axis, spec.scheme, (groups, 1, channels))


def _pack_tensor(
    plan: TensorPlan, leaf: jax.Array, quantized: QuantizedTensor | None
) -> PackedTensor:
    layout = layout_of(plan, leaf.shape)
    if quantized is None or layout.bits is None:
        return packing.plain_tensor(plan.path, leaf)
    codes, grid = quantized.codes, quantized.grid
    arrays = [packing.pack_codes(codes, layout.bits), np.asarray(grid.scale, "<f4")]
    if len(layout.parts()) == 3:  # with zero points
        arrays.append(packing.pack_codes(grid.zero_point, layout.bits))
    return PackedTensor(layout, tuple(arrays))


def empty_subtrees(params: Params) -> tuple[tuple[str, ...], ...]:
    """Lists the paths of empty dicts, which a list of tensors would not keep."""
    if not isinstance(params, dict | FrozenDict):
        return ()
    flat = traverse_util.flatten_dict(params, keep_empty_nodes=True)
    empty = (path for path, leaf in flat.items() if leaf is traverse_util.empty_node)
    return tuple(tuple(map(str, path)) for path in empty)


@devices.usual
def pack(
    params: Params,
    spec: CompressionSpec,
    *,
    channel_axes: Mapping[str, int] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> PackedTree:
    """Compresses a parameter tree into bit-packed codes; `metadata` are JSON values.

    `unpack` of the result equals `compress(params, spec, ...)[0]` bit for bit. Arguments and errors
    are those of `compress`.
    """
    return pack_quantized(quantize_tree(params, spec, channel_axes), metadata)


def pack_quantized(quantized: QuantizedTree, metadata: Mapping[str, Any] | None) -> PackedTree:
    """Packs the result of `quantize_tree`."""
    tensors = tuple(_pack_tensor(*item) for item in quantized.tensors)
    return PackedTree(tensors, quantized.empty, dict(metadata or {}))


def _unpack_tensor(tensor: PackedTensor) -> jax.Array:
    layout, (values, *rest) = tensor
    if layout.bits is None:
        return jax.device_put(values)
    scale, *stored = rest
    zero_point = np.full(scale.shape, (2**layout.bits - 1) / 2, np.float32)  # symmetric grids
    if stored:
        zero_point = packing.unpack_codes(stored[0], scale.size, layout.bits)
        zero_point = zero_point.reshape(scale.shape).astype(np.float32)
    codes = packing.unpack_codes(values, math.prod(layout.shape), layout.bits)
    channels = layout.shape[layout.channel_axis] if len(layout.shape) > 1 else 1
    codes = codes.reshape(len(scale), -1, channels)
    codes, *grid = jax.device_put((codes, scale, zero_point))
    return _decode(codes, Grid(*grid), layout.shape, layout.channel_axis)


@devices.usual
def unpack(packed: PackedTree, *, like: Any = None) -> Any:
    """Decodes a packed tree to float32 arrays, in nested dicts or in a tree like `like`.

    `like` is for parameters that are not nested dicts; its leaves may be shapes. A ValueError has
    the first path at which the shapes differ.
    """
    flat: dict[tuple[str, ...], Any] = dict.fromkeys(packed.empty, traverse_util.empty_node)
    flat |= {tensor.layout.path: _unpack_tensor(tensor) for tensor in packed.tensors}
    tree = traverse_util.unflatten_dict(flat)
    if like is None:
        return tree
    rules.compare_shapes(tree, like, source="the packed tree")
    return jax.tree_util.tree_map_with_path(lambda keys, _: flat[rules.path_of(keys)], like)


def update(packed: PackedTree, variables: Params) -> PackedTree:
    """Packs variables that were unpacked and partly changed; changed tensors become float32."""
    known = {tensor.layout.path: tensor for tensor in packed.tensors}
    tensors = []
    for path, leaf in traverse_util.flatten_dict(variables).items():
        tensor = known.get(path)
        if tensor is None or not np.array_equal(_unpack_tensor(tensor), leaf):
            tensor = packing.plain_tensor(path, leaf)
        tensors.append(tensor)
    return PackedTree(tuple(tensors), empty_subtrees(variables), packed.metadata)


class TensorReport(NamedTuple):
    """Report on one tensor, quantized or kept."""

    path: str  #: keys joined by "/"
    shape: tuple[int, ...]  #: shape of the tensor
    rule: str  #: pattern of the rule that decided, or "default"
    #: Width of a code. None if the tensor stays float32; all fields below except `bytes` are None
    #: then.
    bits: int | None
    bytes: int  #: bytes of the tensor in the packed file
    clipping: str | None = None  #: as in `CompressionSpec`
    granularity: str | None = None  #: likewise
    scheme: str | None = None  #: likewise
    channel_axis: int | None = None  #: output axis, counted from 0
    #: Clipping thresholds, float32 `[groups, channels]` (`[1, 1]` per tensor). This and the two
    #: fields below are None under `jit`.
    alpha: Float32[np.ndarray, "#groups #channels"] | None = None
    share_clipped: float | None = None  #: share of values beyond their threshold, 0 to 1
    #: Signal-to-quantization-noise ratio in dB; inf without any error.
    sqnr_db: float | None = None
    #: Share of exact zeros if they caused "affine" instead of "symmetric"; else 0.
    pruned: float | None = None


class CompressionReport(NamedTuple):
    """Report on a compressed tree."""

    tensors: tuple[TensorReport, ...]  #: one report per tensor, in tree order
    bytes: int  #: size of the packed file with its header, without the caller's metadata
    float32_bytes: int  #: four bytes per parameter
    num_parameters: int  #: values in the tree

    @property
    def ratio(self) -> float:
        """Bytes in float32 divided by packed bytes."""
        return self.float32_bytes / self.bytes

    @property
    def bits_per_parameter(self) -> float:
        """Bits of the packed file per parameter."""
        return 8 * self.bytes / self.num_parameters


def _tensor_report(
    plan: TensorPlan, shape: tuple[int, ...], quantized: QuantizedTensor | None
) -> TensorReport:
    num_bytes = layout_of(plan, shape).num_bytes()
    kept = TensorReport(join(plan.path), shape, plan.rule, plan.spec.bits, num_bytes)
    if quantized is None:
        return kept
    how = {name: getattr(plan.spec, name) for name in ("clipping", "granularity", "scheme")}
    kept = kept._replace(**how, channel_axis=plan.channel_axis, pruned=plan.pruned)
    if isinstance(quantized.alpha, jax.core.Tracer):
        return kept
    unit = np.asarray(quantized.max_abs, np.float64) ** 2
    signal, noise = ((unit * np.asarray(x)).sum() for x in (quantized.signal, quantized.noise))
    clipped = np.asarray(quantized.num_clipped, np.float64).sum()
    return kept._replace(
        alpha=np.asarray(quantized.alpha)[:, 0],
        share_clipped=float(clipped / quantized.codes.size),
        sqnr_db=float(10 * np.log10(signal / noise)) if noise > 0 else math.inf,
    )


@devices.usual
def compress(
    params: Params, spec: CompressionSpec, *, channel_axes: Mapping[str, int] | None = None
) -> tuple[Any, CompressionReport]:
    """Rounds a parameter tree onto quantization grids; may be jitted (`spec` static).

    Under `jit` values are unknown: NaN is not refused, pruned tensors keep a symmetric grid, and
    the report has only sizes.

    Args:
        params: Any tree of floating arrays: parameters, or whole variables with statistics. Paths
            are its keys, attributes and list indices, joined by "/".
        spec: The compression; `bits=None` returns the tree unchanged.
        channel_axes: Path pattern -> output axis, as the generator declares it; the first match
            wins. The default is 0 for arrays named "weight", as in Equinox and torch, else -1
            (every Flax kernel). The report has the axis of each tensor.

    Returns:
        The same tree with float32 arrays, where quantized tensors are on their grids, sharded as
        the parameters if these have explicit mesh axes; and the report.

    Raises:
        TypeError: A leaf is not a floating array, or `params` is one array and not a tree.
        ValueError: NaN or Inf (path and index), an empty tree, a rule or a channel axis that
            matches nothing, a group size that does not divide the fan-in, a width but nothing to
            quantize, or a threshold of 0.
    """
    quantized = quantize_tree(params, spec, channel_axes)
    leaves = [
        _decode(found.codes, found.grid, leaf.shape, plan.channel_axis) if found else leaf
        for plan, leaf, found in quantized.tensors
    ]
    leaves = list(map(devices.laid_out_as, leaves, jax.tree.leaves(params)))
    return jax.tree_util.tree_unflatten(quantized.treedef, leaves), report_quantized(quantized)


def report_quantized(quantized: QuantizedTree) -> CompressionReport:
    """Reports on the result of `quantize_tree`."""
    reports = [_tensor_report(plan, leaf.shape, codes) for plan, leaf, codes in quantized.tensors]
    layouts = [layout_of(plan, leaf.shape) for plan, leaf, _ in quantized.tensors]
    size = sum(leaf.size for _, leaf, _ in quantized.tensors)
    packed_size = packing.file_bytes(layouts, quantized.empty, {})
    return CompressionReport(tuple(reports), packed_size, 4 * size, size)


def format_report(report: CompressionReport) -> str:
    """Formats the report as a text table, one line per tensor; alpha is the median threshold."""
    rows = [("tensor", "shape", "axis", "bits", "alpha", "clipped", "SQNR dB", "bytes")]
    for path, shape, _, bits, size, *_, axis, alpha, clipped, sqnr, _ in report.tensors:
        width = ("", "float32") if bits is None else (str(axis), str(bits))
        loss = ("", "", "")
        if alpha is not None:
            loss = (f"{float(np.median(alpha)):.4g}", f"{clipped:.3%}", f"{sqnr:.1f}")
        rows.append((path, "x".join(map(str, shape)), *width, *loss, f"{size:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    lines += [
        f"{tensor.path} is pruned ({tensor.pruned:.0%} zeros): its grid is affine"
        + (", which keeps 0" if tensor.bits != 1 else "; 1 bit has no level at 0")
        for tensor in report.tensors
        if tensor.pruned
    ]
    lines.append(
        f"{report.bytes:,} bytes, {report.ratio:.2f} times smaller than float32,"
        f" {report.bits_per_parameter:.2f} bits per parameter"
    )
    return "\n".join(lines)
