"""Reads what `torch.save` wrote, without torch: the zip format and the legacy format.

Zip: `NAME/data.pkl` refers to storages by persistent ids, `NAME/data/KEY` holds their bytes,
`NAME/byteorder` the byte order (little when absent). Legacy: five pickles (magic number, protocol,
system information, object, list of storage keys), then for each key an int64 count and the bytes;
always little-endian. Source: torch/serialization.py and torch/_utils.py.
"""

import io
import os
import zipfile
from typing import Any, BinaryIO

import numpy as np

from lsh_gan.tensor_files import objects, pickles
from lsh_gan.tensor_files.values import FormatError

_PICKLED_MAGIC_NUMBER = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def read_zip(archive: zipfile.ZipFile) -> Any:
    """Reads a torch zip archive."""
    pickled = next(name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl")
    folder = pickled.removesuffix("data.pkl")
    byte_order = "little"
    if f"{folder}byteorder" in archive.namelist():
        byte_order = archive.read(f"{folder}byteorder").decode("ascii", "replace")
    if byte_order not in ("little", "big"):
        raise FormatError(f"has byte order {byte_order!r}; expected 'little' or 'big'.")
    storages: dict[str, objects.Storage] = {}

    def persistent_load(identifier):
        dtype, key, _ = _storage_identifier(identifier)
        if key not in storages:
            array = np.frombuffer(archive.read(f"{folder}data/{key}"), np.uint8)
            if byte_order == "big":
                array = array.view(dtype).byteswap().view(np.uint8)
            storages[key] = objects.Storage(dtype, array)
        return storages[key]._replace(dtype=dtype)

    return read_pickle(io.BytesIO(archive.read(pickled)), persistent_load)


def is_legacy(start: bytes) -> bool:
    """Whether a file with these first bytes is in the legacy format: it begins with a number."""
    # From protocol 4 on, the start of a frame (FRAME and its length) precedes the number.
    number = start[11:] if start[2:3] == b"\x95" else start[2:]
    return start[:1] == b"\x80" and number.startswith(_PICKLED_MAGIC_NUMBER)


def read_legacy(stream: BinaryIO) -> Any:
    """Reads the legacy format from a seekable binary file that ends with the data."""
    start = stream.tell()
    available = stream.seek(0, os.SEEK_END) - start
    stream.seek(start)
    for _ in range(3):  # magic number, protocol, system information
        read_pickle(stream)
    storages: dict[str, objects.Storage] = {}

    def persistent_load(identifier):
        nonlocal available
        if isinstance(identifier, tuple) and identifier[0] == "module":
            return identifier[1]  # the class of a module; its source text is ignored
        dtype, key, count = _storage_identifier(identifier)
        if key not in storages:
            available -= dtype.itemsize * count
            if available < 0:
                raise FormatError(f"ends before the end of storage {key} (truncated?).")
            data = np.zeros(dtype.itemsize * count, np.uint8)
            storages[key] = objects.Storage(dtype, data)
        return storages[key]._replace(dtype=dtype)

    value = read_pickle(stream, persistent_load)
    keys = read_pickle(stream)
    if sorted(keys) != sorted(storages):
        raise FormatError("does not list the storages that its tensors use.")
    for key in keys:
        storage, count = storages[key], int.from_bytes(stream.read(8), "little")
        expected = storage.data.size // storage.dtype.itemsize
        if count != expected:
            raise FormatError(f"storage {key} has {count} elements; its tensors say {expected}.")
        if stream.readinto(storage.data) != storage.data.size:  # type: ignore[attr-defined]
            raise FormatError(f"ends before the end of storage {key} (truncated?).")
    return value


def read_pickle(stream: BinaryIO, persistent_load: Any = None) -> Any:
    """Reads a pickle whose tensors may be nested legacy files, as in NVIDIA's pickles."""
    nested = {"torch.storage._load_from_bytes": lambda data: read_legacy(io.BytesIO(data))}
    return pickles.load(stream, nested, persistent_load)


def _storage_identifier(identifier: Any) -> tuple[np.dtype, str, int]:
    """Checks ("storage", class, key, location, count[, None]); the location is ignored.

    Instead of None, torch before 0.4 may have a view of a shared storage; that is refused.
    """
    kind, storage_class, key, _, count, *view = identifier
    if kind != "storage" or not objects.is_count(count) or any(x is not None for x in view):
        raise FormatError(f"refers to {identifier} instead of a storage.")
    return objects.torch_dtype(storage_class), key, count
