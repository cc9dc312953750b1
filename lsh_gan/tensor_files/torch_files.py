"""Reads what `torch.save` wrote, without torch: the zip format and the legacy format.

Zip: `NAME/data.pkl` refers to storages by persistent ids, `NAME/data/KEY` holds their bytes,
`NAME/byteorder` the byte order (little when absent). Legacy: five pickles (magic number, protocol,
system information, object, list of storage keys), then for each key an int64 count and the bytes;
little-endian whatever the machine. Source: torch/serialization.py and torch/_utils.py.
"""

import io
import os
import sys
import zipfile
from typing import Any, BinaryIO

import numpy as np

from lsh_gan.tensor_files import objects, pickles
from lsh_gan.tensor_files.values import FormatError, Limits

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
LEGACY_START = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # that number, pickled, after the protocol
_PROTOCOL = 1001
_EXPANDED_BYTES = 2**28  # above this, refuse what compresses better than any weights do
_MOST_COMPRESSED = 100
_MOST_NESTED = 3  # a tensor in an NVIDIA pickle is a legacy file inside the pickle: one level


def read_zip(archive: zipfile.ZipFile, *, limits: Limits) -> Any:
    """Reads a torch zip archive."""
    names = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
    if len(names) != 1:
        raise FormatError(f"a zip file with {len(names)} data.pkl is not a torch file.")
    folder = names[0].removesuffix("data.pkl")
    byte_order = "little"
    if f"{folder}byteorder" in archive.namelist():
        byte_order = member(archive, f"{folder}byteorder", limits).decode("ascii", "replace")
    if byte_order not in ("little", "big"):
        raise FormatError(f"has byte order {byte_order!r}; expected 'little' or 'big'.")
    storages: dict[str, objects.Storage] = {}

    def persistent_load(identifier):
        dtype, key, count, _ = _storage_identifier(identifier)
        if key not in storages:
            data = member(archive, f"{folder}data/{key}", limits, stored=True)
            array = np.frombuffer(data, np.uint8)
            if byte_order != sys.byteorder:
                array = array.view(dtype).byteswap().view(np.uint8)
            storages[key] = objects.Storage(dtype, array)
        if storages[key].data.size != count * dtype.itemsize:
            found = storages[key].data.size
            raise FormatError(f"storage {key} has {found} bytes; {count} {dtype} were expected.")
        return storages[key]._replace(dtype=dtype)

    stream = io.BytesIO(member(archive, names[0], limits))
    return _load_object(stream, persistent_load, limits, level=0)


def member(archive: zipfile.ZipFile, name: str, limits: Limits, *, stored: bool = False) -> bytes:
    """Reads one member, its checksum checked.

    Raises:
        FormatError: Absent, too large, or compressed although `stored`.
    """
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise FormatError(f"lacks its member {name}.") from None
    if info.file_size > limits.num_bytes:
        raise FormatError(f"{name} has {info.file_size} bytes; at most {limits.num_bytes}.")
    if info.file_size > max(_EXPANDED_BYTES, _MOST_COMPRESSED * info.compress_size):
        raise FormatError(f"{name} expands {info.compress_size} bytes to {info.file_size}.")
    if stored and info.compress_type != zipfile.ZIP_STORED:
        raise FormatError(f"{name} is compressed; torch stores its members as they are.")
    return archive.read(info)


def read_legacy(stream: BinaryIO, *, limits: Limits, level: int = 0) -> Any:
    """Reads the legacy format from a seekable binary file that ends with the data."""
    start = stream.tell()
    available = stream.seek(0, os.SEEK_END) - start
    stream.seek(start)
    for name, expected in (("magic number", _MAGIC_NUMBER), ("protocol", _PROTOCOL)):
        found = pickles.load(stream, limits=limits)
        if found != expected:
            raise FormatError(f"has {name} {found!r}; expected {expected}.")
    pickles.load(stream, limits=limits)
    storages: dict[str, objects.Storage] = {}

    def persistent_load(identifier):
        nonlocal available
        if isinstance(identifier, tuple) and identifier[:1] == ("module",):
            return identifier[1]  # the class of a module, with its source text, which stays text
        dtype, key, count, view = _storage_identifier(identifier)
        if key not in storages:
            available -= dtype.itemsize * count
            if available < 0:
                raise FormatError(f"ends before the end of storage {key} (truncated?).")
            storages[key] = objects.Storage(dtype, np.zeros(dtype.itemsize * count, np.uint8))
        storage = storages[key]._replace(dtype=dtype)
        return _storage_view(storage, view) if view else storage

    value = _load_object(stream, persistent_load, limits, level=level)
    keys = pickles.load(stream, limits=limits)
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storages):
        raise FormatError("does not list the storages that its tensors use.")
    for key in keys:
        _fill(storages[key], stream, key)
    return value


def read_pickle(stream: BinaryIO, *, limits: Limits) -> Any:
    """Reads one plain pickle, such as NVIDIA's, whose tensors are legacy files inside of it."""
    return _load_object(stream, None, limits, level=0)


def _load_object(stream: BinaryIO, persistent_load: Any, limits: Limits, *, level: int) -> Any:
    """Reads the pickle that holds the object; tensors inside of it may be legacy files again."""

    def load_from_bytes(data):
        if not isinstance(data, bytes) or level >= _MOST_NESTED:
            raise FormatError(f"nests torch files deeper than {_MOST_NESTED}.")
        return read_legacy(io.BytesIO(data), limits=limits, level=level + 1)

    return pickles.load(
        stream,
        extra_constructors={"torch.storage._load_from_bytes": load_from_bytes},
        persistent_load=persistent_load,
        limits=limits,
    )


def _storage_identifier(identifier: Any) -> tuple[np.dtype, str, int, Any]:
    """Checks ("storage", class, key, location, count[, view]); the location is ignored."""
    if not isinstance(identifier, tuple) or len(identifier) not in (5, 6):
        raise FormatError(f"refers to {identifier!r} instead of a storage.")
    kind, storage_class, key, _, count, *view = identifier
    if kind != "storage" or not isinstance(key, str) or not _is_count(count):
        raise FormatError(f"refers to {identifier!r} instead of a storage.")
    return objects.storage_dtype(storage_class), key, count, view[0] if view else None


def _is_count(number: Any) -> bool:
    return isinstance(number, int) and 0 <= number < 2**48


def _storage_view(storage: objects.Storage, view: Any) -> objects.Storage:
    """A part of a storage: (key, offset, count), as torch before 0.4 wrote them."""
    _, offset, count = view
    itemsize = storage.dtype.itemsize
    if not _is_count(offset) or not _is_count(count):
        raise FormatError(f"has a view {view!r} of a storage.")
    if (offset + count) * itemsize > storage.data.size:
        raise FormatError(f"has a view {view!r} outside of its storage.")
    part = storage.data[offset * itemsize : (offset + count) * itemsize]
    return objects.Storage(storage.dtype, part)


def _fill(storage: objects.Storage, stream: BinaryIO, key: str) -> None:
    count = int.from_bytes(stream.read(8), "little")
    expected = storage.data.size // storage.dtype.itemsize
    if count != expected:
        raise FormatError(f"storage {key} has {count} elements; its tensors say {expected}.")
    if stream.readinto(storage.data) != storage.data.size:
        raise FormatError(f"ends before the end of storage {key} (truncated?).")
    if sys.byteorder == "big":
        storage.data.view(storage.dtype).byteswap(inplace=True)
