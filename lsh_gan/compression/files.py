"""Packed parameter trees on disk; the layout is described in `packing`."""

import contextlib
import hashlib
import json
import math
import os
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lsh_gan.compression.packing import (
    Layout,
    PackedTensor,
    PackedTree,
    implied_zero_point,
    pack_codes,
    unpack_codes,
)
from lsh_gan.compression.spec import MAX_BITS, SCHEMES

MAGIC = b"LSHGANPK"
VERSION = 1
_PREFIX = struct.Struct("<8sIQ")
_DIGEST_BYTES = 32


def _header(layouts: Sequence[Layout], empty: Sequence, metadata: dict[str, Any]) -> bytes:
    tensors = [
        [layout.path, layout.shape, None]
        if layout.bits is None
        else [*layout[:4], layout.scheme, layout.grid_shape]
        for layout in layouts
    ]
    content = {"empty": empty, "metadata": metadata, "tensors": tensors}
    return json.dumps(content, separators=(",", ":"), sort_keys=True, allow_nan=False).encode()


def file_bytes(layouts: Sequence[Layout], empty: Sequence, metadata: dict[str, Any]) -> int:
    """The size of the file that `save_packed` would write, in bytes."""
    payload = sum(layout.num_bytes() for layout in layouts)
    return _PREFIX.size + _DIGEST_BYTES + len(_header(layouts, empty, metadata)) + payload


def _parts(tensor: PackedTensor) -> list[bytes]:
    parts = [tensor.codes.tobytes()]
    if tensor.layout.bits is not None:
        parts.append(tensor.scale.astype("<f4").tobytes())
        if width := tensor.layout.zero_point_bits():
            parts.append(pack_codes(tensor.zero_point.astype(np.uint16).reshape(-1), width))
    return [bytes(part) for part in parts]


def save_packed(path: str | os.PathLike, packed: PackedTree) -> int:
    """Writes a packed tree as one file and returns its size in bytes.

    The file appears whole or not at all: it is written beside its place and moved there.

    Raises:
        TypeError, ValueError: The metadata is not JSON.
        OSError: The folder is missing or not writable.
    """
    path = Path(path)
    header = _header([t.layout for t in packed.tensors], packed.empty, packed.metadata)
    parts = [header, *(part for tensor in packed.tensors for part in _parts(tensor))]
    prefix = _PREFIX.pack(MAGIC, VERSION, len(header))
    digest = hashlib.sha256(prefix)
    for part in parts:
        digest.update(part)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines([prefix, digest.digest(), *parts])
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        raise
    return path.stat().st_size


def _whole_numbers(values: Any, low: int) -> tuple[int, ...]:
    if not all(type(value) is int and value >= low for value in values):
        raise ValueError(f"expected whole numbers from {low}, got {values}")
    return tuple(values)


def _path(keys: Any) -> tuple[str, ...]:
    if not keys or not all(isinstance(key, str) for key in keys):
        raise ValueError(f"expected a path of strings, got {keys}")
    return tuple(keys)


def _layout(entry: list) -> Layout:
    path, shape, bits, *rest = entry
    layout = Layout(_path(path), _whole_numbers(shape, 1), bits)
    if bits is None:
        return layout
    axis, scheme, grid_shape = rest
    groups, one, channels = _whole_numbers(grid_shape, 1)
    (bits, axis) = (*_whole_numbers([bits], 1), *_whole_numbers([axis], 0))
    if bits > MAX_BITS or axis >= max(len(shape), 1) or scheme not in SCHEMES or one != 1:
        raise ValueError(f"tensor {'/'.join(path)} has an impossible layout {entry}")
    outputs = shape[axis] if len(shape) > 1 else 1
    if channels not in (1, outputs) or math.prod(shape) // outputs % groups:
        raise ValueError(f"tensor {'/'.join(path)}: grid {grid_shape} does not fit shape {shape}")
    return Layout(layout.path, layout.shape, bits, axis, scheme, (groups, one, channels))


def _tensor(layout: Layout, payload: memoryview) -> PackedTensor:
    num_codes, num_scales, num_zeros = layout.part_bytes()
    codes = np.frombuffer(payload[:num_codes], np.uint8)
    if layout.bits is None:
        return PackedTensor(layout, codes)
    scale = np.frombuffer(payload[num_codes:][:num_scales], "<f4").reshape(layout.grid_shape)
    zero_point = implied_zero_point(layout)
    if num_zeros:
        stored = np.frombuffer(payload[num_codes + num_scales :][:num_zeros], np.uint8)
        stored = unpack_codes(stored, zero_point.size, layout.zero_point_bits())
        zero_point = stored.astype(np.float32).reshape(layout.grid_shape)
    return PackedTensor(layout, codes, scale.astype(np.float32), zero_point)


def _checked_body(path: Path, data: memoryview) -> tuple[bytes, memoryview]:
    start = _PREFIX.size + _DIGEST_BYTES
    if bytes(data[:8]) != MAGIC:
        raise ValueError(
            f"{path}: not a packed parameter file (no {MAGIC.decode()} at its start); convert a "
            f"downloaded checkpoint first: python -m checkpoints_tools.convert --input={path} "
            "--output=FOLDER"
        )
    if len(data) < start:
        raise ValueError(f"{path}: truncated after {len(data)} bytes.")
    _, version, header_bytes = _PREFIX.unpack(data[: _PREFIX.size])
    if version != VERSION:
        raise ValueError(f"{path}: format version {version}; this program reads {VERSION}.")
    body = data[start:]
    digest = hashlib.sha256(data[: _PREFIX.size])
    digest.update(body)
    if digest.digest() != data[_PREFIX.size : start]:
        raise ValueError(f"{path}: damaged or truncated, the checksum does not match.")
    return bytes(body[:header_bytes]), body[header_bytes:]


def load_packed(path: str | os.PathLike) -> PackedTree:
    """Reads a packed tree; parses JSON and raw numbers, executes nothing.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Not a packed file, another version, truncated, or the checksum fails.
    """
    path = Path(path)
    header, payload = _checked_body(path, memoryview(path.read_bytes()))
    try:
        header = json.loads(header)
        layouts = [_layout(entry) for entry in header["tensors"]]
        empty = tuple(_path(keys) for keys in header["empty"])
        metadata = dict(header["metadata"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: the header is malformed: {error}.") from None
    expected = sum(layout.num_bytes() for layout in layouts)
    if expected != len(payload):
        raise ValueError(f"{path}: {len(payload)} payload bytes where the header says {expected}.")
    tensors = []
    for layout in layouts:
        tensors.append(_tensor(layout, payload))
        payload = payload[layout.num_bytes() :]
    return PackedTree(tuple(tensors), empty, metadata)
