"""Packed parameter trees: codes of exactly `bits` bits each, in one safetensors file.

`safetensors.torch.load_file` and any other reader of the format can open the file. The name of a
tensor is its path: keys joined by "/" ("params/conv/kernel"; in a key "/" is %2F, and % is %25).

| name | type and shape | content |
|---|---|---|
| PATH | F32, shape of the tensor | the values, if the tensor is not quantized |
| PATH | U8 `[ceil(size * bits / 8)]` | the codes, if it is quantized, see `pack_codes` |
| PATH/scale | F32 `[groups, 1, channels]` | step of the grid |
| PATH/zero_point | U8, packed codes, one per scale | code of 0; only "affine" from 2 bits on |

`value = (code - zero_point) * scale`. Codes are in the order `[groups, group, channels]` of
`quantization.to_groups`. Zero points that are not stored are the middle of the grid. The metadata
have one entry, `lsh_gan`, in JSON: `version` of the layout; `quantized`, which has `[*shape, bits,
channel axis]` of each quantized tensor (both PATH and PATH/scale exist), in the order of names;
`empty`, the paths of empty sub-trees; `metadata` of the caller; and the first 32 digits of the
`sha256` of all this and the tensors. docs/compression.md decodes a file without this package.
"""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

VERSION = 3  # in 2, names could collide with those of other tensors; 1 was not safetensors
_ENTRY = "lsh_gan"  # the only entry, because safetensors writes several in any order
_COMPACT: dict[str, Any] = {"separators": (",", ":"), "allow_nan": False}


class Layout(NamedTuple):
    """Layout of one tensor in the file; it determines the number of bytes."""

    path: tuple[str, ...]  # keys from the root
    shape: tuple[int, ...]  # shape of the tensor
    bits: int | None  # width of a code; None for float32 values
    channel_axis: int = 0  # output axis, counted from 0
    scheme: str = "symmetric"  # "symmetric" or "affine"
    grid_shape: tuple[int, ...] = ()  # of scale and zero point, `[groups, 1, channels]`

    def parts(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Lists the arrays of the tensor in the file: ending of the name, type, shape."""
        if self.bits is None:
            return [("", "f4", self.shape)]
        codes = packed_bytes(math.prod(self.shape), self.bits)
        parts = [("", "u1", (codes,)), ("/scale", "f4", self.grid_shape)]
        if self.scheme == "affine" and self.bits > 1:  # else it is the middle of the grid
            zero_points = packed_bytes(math.prod(self.grid_shape), self.bits)
            parts.append(("/zero_point", "u1", (zero_points,)))
        return parts

    def num_bytes(self) -> int:
        """Returns the bytes of the tensor in the payload."""
        return sum(math.prod(shape) * np.dtype(dtype).itemsize for _, dtype, shape in self.parts())


class PackedTensor(NamedTuple):
    """One tensor as it is stored in a file."""

    layout: Layout
    arrays: tuple[np.ndarray, ...]  # in the order of `layout.parts()`


def plain_tensor(path: tuple[str, ...], values: Any) -> PackedTensor:
    """Makes a tensor that is stored as float32."""
    values = np.asarray(values, "<f4", order="C")
    return PackedTensor(Layout(path, values.shape, None), (values,))


class PackedTree(NamedTuple):
    """A compressed parameter tree."""

    tensors: tuple[PackedTensor, ...]  #: the tensors in tree order
    #: Paths of empty sub-trees, which have no tensors but belong to the tree.
    empty: tuple[tuple[str, ...], ...]
    #: JSON values of the caller, such as the generator's name and its configuration.
    metadata: dict[str, Any]


def packed_bytes(count: int, bits: int) -> int:
    """Returns the bytes that `count` codes of `bits` bits take."""
    return -(-count * bits // 8)


def pack_codes(codes: Any, bits: int) -> np.ndarray:
    """Packs n integers below 2^bits without gaps, low bits first.

    Above 8 bits, all low bytes come first, then the packed high bits. Returns uint8
    `[ceil(n * bits / 8)]`.
    """
    codes = np.asarray(codes).astype(np.uint16).reshape(-1)
    if bits > 8:
        return np.concatenate([(codes & 0xFF).astype(np.uint8), pack_codes(codes >> 8, bits - 8)])
    digits = np.unpackbits(codes.astype(np.uint8)[:, None], axis=1, count=bits, bitorder="little")
    return np.packbits(digits, bitorder="little")


def unpack_codes(packed: np.ndarray, count: int, bits: int) -> np.ndarray:
    """Inverts `pack_codes`; returns uint16 `[count]`."""
    if bits > 8:
        high = unpack_codes(packed[count:], count, bits - 8)
        return packed[:count].astype(np.uint16) | (high << np.uint16(8))
    digits = np.unpackbits(packed, count=count * bits, bitorder="little").reshape(count, bits)
    return np.packbits(digits, axis=1, bitorder="little")[:, 0].astype(np.uint16)


def _name(path: Sequence[str]) -> str:
    return "/".join(key.replace("%", "%25").replace("/", "%2F") for key in path)


def _path(name: str) -> tuple[str, ...]:
    return tuple(map(unquote, name.split("/")))


def _header(layouts: Sequence[Layout], empty: Sequence, metadata: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": VERSION,
        "quantized": [
            [*layout.shape, layout.bits, layout.channel_axis]
            for layout in sorted(layouts, key=lambda layout: _name(layout.path))
            if layout.bits is not None
        ],
        "empty": [_name(path) for path in empty],
        "metadata": metadata,
    }


def file_bytes(layouts: Sequence[Layout], empty: Sequence, metadata: dict[str, Any]) -> int:
    """Computes the size in bytes of the file that `save_packed` would write."""
    arrays = {
        _name(layout.path) + ending: np.zeros(shape, dtype)
        for layout in layouts
        for ending, dtype, shape in layout.parts()
    }
    header = _header(layouts, empty, metadata)
    return len(save(arrays, {_ENTRY: json.dumps(header | {"sha256": "0" * 32}, **_COMPACT)}))


def _digest(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True, **_COMPACT).encode())
    for name in sorted(arrays):
        digest.update(f"{name}{arrays[name].dtype}{arrays[name].shape}".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()[:32]


def save_packed(path: str | os.PathLike, packed: PackedTree) -> int:
    """Writes a packed tree as one safetensors file and returns its size in bytes.

    The write is atomic: the file is written under another name beside it, then renamed.

    Raises:
        TypeError, ValueError: The metadata is not JSON.
        OSError: The folder is missing or not writable.
    """
    path = Path(path)
    arrays = {
        _name(layout.path) + ending: array
        for layout, stored in packed.tensors
        for (ending, _, _), array in zip(layout.parts(), stored, strict=True)
    }
    header = _header([t.layout for t in packed.tensors], packed.empty, packed.metadata)
    text = json.dumps(header | {"sha256": _digest(header, arrays)}, **_COMPACT)
    data = save(arrays, {_ENTRY: text})
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return len(data)


def load_packed(path: str | os.PathLike) -> PackedTree:
    """Reads a packed tree; parses JSON and raw numbers, and runs no code of the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Not a packed file, another version, a truncated file, or a wrong checksum.
    """
    try:
        with safe_open(path, "numpy") as file:
            text = (file.metadata() or {})[_ENTRY]
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, AttributeError) as error:  # the last for unknown types
        raise ValueError(
            f"{path}: not a packed parameter file (safetensors with metadata {_ENTRY!r}), or a "
            f"damaged one ({error}); convert a downloaded checkpoint first: python -m "
            f"checkpoints_tools.convert --input={path} --output=FOLDER"
        ) from None
    try:
        header = json.loads(text)
        if header["version"] != VERSION:
            raise ValueError(f"version {header['version']}; this program reads {VERSION}")
        if header.pop("sha256") != _digest(header, arrays):
            raise ValueError("the checksum does not match")
        names = sorted(name for name in arrays if f"{name}/scale" in arrays)
        tensors = []
        for name, numbers in zip(names, header["quantized"], strict=True):
            *shape, bits, axis = numbers
            scheme = "affine" if f"{name}/zero_point" in arrays else "symmetric"
            grid_shape = arrays[f"{name}/scale"].shape
            layout = Layout(_path(name), tuple(shape), bits, axis, scheme, grid_shape)
            stored = tuple(arrays.pop(name + ending) for ending, _, _ in layout.parts())
            tensors.append(PackedTensor(layout, stored))
        tensors += [plain_tensor(_path(name), array) for name, array in arrays.items()]
        empty = tuple(map(_path, header["empty"]))
        return PackedTree(tuple(tensors), empty, dict(header["metadata"]))
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: damaged packed parameter file: {error}") from None
