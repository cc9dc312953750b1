"""Packed parameter trees on disk, as safetensors; the layout is described in `packing`."""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lsh_gan.compression.packing import (
    Layout,
    PackedTensor,
    PackedTree,
    implied_zero_point,
    pack_codes,
    unpack_codes,
)
from lsh_gan.compression.spec import MAX_BITS

VERSION = 2  # 1 was a format of our own
_FORMER_START = b"LSHGANPK"
_ENTRY = "lsh_gan"  # the only one, as safetensors writes several in any order
_DTYPES: dict[str, np.dtype] = {"F32": np.dtype(np.float32), "U8": np.dtype(np.uint8)}
_COMPACT: dict[str, Any] = {"separators": (",", ":"), "allow_nan": False}


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


def _stored(layout: Layout) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Name, type and shape of what a tensor takes in the file."""
    name = _name(layout.path)
    if layout.bits is None:
        yield name, "F32", layout.shape
        return
    num_codes, _, num_zeros = layout.part_bytes()
    yield name, "U8", (num_codes,)
    yield f"{name}.scale", "F32", layout.grid_shape
    if num_zeros:
        yield f"{name}.zero_point", "U8", (num_zeros,)


def file_bytes(layouts: Sequence[Layout], empty: Sequence, metadata: dict[str, Any]) -> int:
    """The size of the file that `save_packed` would write, in bytes."""
    text = json.dumps(_header(layouts, empty, metadata) | {"sha256": "0" * 32}, **_COMPACT)
    entries: dict[str, Any] = {"__metadata__": {_ENTRY: text}}
    end = 0
    for name, dtype, shape in sorted(
        (part for layout in layouts for part in _stored(layout)),
        key=lambda part: (-_DTYPES[part[1]].itemsize, part[0]),
    ):
        start, end = end, end + math.prod(shape) * _DTYPES[dtype].itemsize
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": (start, end)}
    length = len(json.dumps(entries, ensure_ascii=False, **_COMPACT).encode())
    return 8 + -(-length // 8) * 8 + end


def _arrays(tensor: PackedTensor) -> list[np.ndarray]:
    """The arrays that `_stored` names."""
    layout = tensor.layout
    if layout.bits is None:
        return [tensor.codes.view("<f4").reshape(layout.shape)]
    assert tensor.scale is not None
    assert tensor.zero_point is not None
    arrays = [tensor.codes, tensor.scale.astype("<f4")]
    if width := layout.zero_point_bits():
        arrays.append(pack_codes(tensor.zero_point.astype(np.uint16).reshape(-1), width))
    return [np.ascontiguousarray(array) for array in arrays]


def _digest(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True, **_COMPACT).encode())
    for name in sorted(arrays):
        digest.update(f"{name}{arrays[name].dtype}{arrays[name].shape}".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()[:32]


def save_packed(path: str | os.PathLike, packed: PackedTree) -> int:
    """Writes a packed tree as one safetensors file and returns its size in bytes.

    The file appears whole or not at all: it is written beside its place and moved there.

    Raises:
        TypeError, ValueError: The metadata is not JSON.
        OSError: The folder is missing or not writable.
    """
    path = Path(path)
    arrays = {
        name: array
        for tensor in packed.tensors
        for (name, _, _), array in zip(_stored(tensor.layout), _arrays(tensor), strict=True)
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


def _layout(name: str, numbers: list[int], arrays: dict[str, np.ndarray]) -> Layout:
    scale = arrays[f"{name}.scale"]
    *shape, bits, axis = numbers
    sizes = all(type(number) is int and number >= 1 for number in (*shape, bits, axis + 1))
    if not sizes or bits > MAX_BITS or axis >= max(len(shape), 1):
        raise ValueError(f"{name} has impossible shape, bits, channel axis {numbers}")
    groups, one, channels = scale.shape
    outputs = shape[axis] if len(shape) > 1 else 1
    fits = groups and one == 1 and channels in (1, outputs)
    if not fits or math.prod(shape) // outputs % groups:
        raise ValueError(f"{name}: grid {scale.shape} does not fit shape {shape}")
    scheme = "affine" if f"{name}.zero_point" in arrays else "symmetric"
    return Layout(_path(name), tuple(shape), bits, axis, scheme, scale.shape)


def _tensor(layout: Layout, arrays: dict[str, np.ndarray]) -> PackedTensor:
    """Takes the arrays of a tensor out of `arrays`."""
    found = []
    for name, dtype, shape in _stored(layout):
        array = arrays.pop(name)
        if array.dtype != _DTYPES[dtype] or array.shape != tuple(shape):
            raise ValueError(f"{name} is {array.dtype} {array.shape}; expected {dtype} {shape}")
        found.append(array)
    codes, scale, *stored = found
    zero_point = implied_zero_point(layout)
    if stored:
        numbers = unpack_codes(stored[0], zero_point.size, layout.zero_point_bits())
        zero_point = numbers.astype(np.float32).reshape(layout.grid_shape)
    return PackedTensor(layout, codes, scale, zero_point)


def _plain(name: str, array: np.ndarray) -> PackedTensor:
    if array.dtype != np.float32:
        raise ValueError(f"{name} is {array.dtype}; expected F32")
    return PackedTensor(Layout(_path(name), array.shape, None), array.reshape(-1).view(np.uint8))


def _read(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    with path.open("rb") as file:
        start = file.read(9)
    if start.startswith(_FORMER_START):
        raise ValueError(
            f"{path}: packed by an earlier version, in a format that is no longer read; run again "
            "what made it"
        )
    way_out = (
        "convert a downloaded checkpoint first: python -m checkpoints_tools.convert "
        f"--input={path} --output=FOLDER"
    )
    if start[8:] != b"{":
        raise ValueError(f"{path}: not a packed parameter file (no safetensors file); {way_out}")
    try:
        with safe_open(path, "numpy") as file:
            text = (file.metadata() or {}).get(_ENTRY)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, AttributeError) as error:  # the latter of types that NumPy lacks
        raise ValueError(f"{path}: damaged or truncated safetensors file: {error}") from None
    if text is None:
        raise ValueError(
            f"{path}: not a packed parameter file (a safetensors file without the metadata "
            f"{_ENTRY!r}); {way_out}"
        )
    return text, arrays


def load_packed(path: str | os.PathLike) -> PackedTree:
    """Reads a packed tree; parses JSON and raw numbers, executes nothing.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Not a packed file, another version, truncated, or the checksum fails.
    """
    path = Path(path)
    text, arrays = _read(path)
    try:
        header = json.loads(text)
        if header["version"] != VERSION:
            raise ValueError(f"version {header['version']}; this program reads {VERSION}")
        if header.pop("sha256") != _digest(header, arrays):
            raise ValueError("the checksum does not match")
        names = sorted(name for name in arrays if f"{name}.scale" in arrays)
        tensors = [
            _tensor(_layout(name, numbers, arrays), arrays)
            for name, numbers in zip(names, header["quantized"], strict=True)
        ]
        tensors += [_plain(name, array) for name, array in arrays.items()]
        empty = tuple(_path(name) for name in header["empty"])
        metadata = dict(header["metadata"])
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: damaged packed parameter file: {error}") from None
    return PackedTree(tuple(tensors), empty, metadata)
