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
from lsh_gan.tensor_files.values import Budget, FormatError, shown, shown_parts

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PICKLED_MAGIC_NUMBER = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_PROTOCOL = 1001
_EXPANDED_BYTES = 2**28  # above this, refuse what compresses better than any weights do
_MOST_COMPRESSED = 100
_MOST_NESTED = 3  # a tensor in an NVIDIA pickle is a legacy file inside the pickle: one level


def read_zip(archive: zipfile.ZipFile, *, budget: Budget) -> Any:
    """Reads a torch zip archive."""
    names = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
    if len(names) != 1:
        raise FormatError(f"a zip file with {len(names)} data.pkl is not a torch file.")
    folder = names[0].removesuffix("data.pkl")
    byte_order = "little"
    if f"{folder}byteorder" in archive.namelist():
        byte_order = member(archive, f"{folder}byteorder", budget).decode("ascii", "replace")
    if byte_order not in ("little", "big"):
        raise FormatError(f"has byte order {shown(byte_order)}; expected 'little' or 'big'.")
    storages: dict[str, objects.Storage] = {}

    def persistent_load(identifier):
        dtype, key, count = _storage_identifier(identifier)
        if key not in storages:
            data = member(archive, f"{folder}data/{key}", budget, stored=True)
            array = np.frombuffer(data, np.uint8)
            if byte_order != sys.byteorder:
                array = array.view(dtype).byteswap().view(np.uint8)
            storages[key] = objects.Storage(dtype, array)
        if storages[key].data.size != count * dtype.itemsize:
            found = storages[key].data.size
            raise FormatError(f"storage {key} has {found} bytes; {count} {dtype} were expected.")
        return storages[key]._replace(dtype=dtype)

    stream = io.BytesIO(member(archive, names[0], budget))
    return _load_object(stream, persistent_load, budget, level=0)


def most_expanded(compressed_bytes: int) -> int:
    """What so many bytes of a zip file may expand to: images with much black compress well."""
    return max(_EXPANDED_BYTES, _MOST_COMPRESSED * compressed_bytes)


def member(archive: zipfile.ZipFile, name: str, budget: Budget, *, stored: bool = False) -> bytes:
    """Reads one member, its checksum checked; refuses a compressed one if `stored`."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise FormatError(f"lacks its member {name}.") from None
    most = budget.limits.num_bytes
    if info.file_size > most:
        raise FormatError(f"{name} has {info.file_size} bytes; at most {most}.")
    if info.file_size > most_expanded(info.compress_size):
        raise FormatError(f"{name} expands {info.compress_size} bytes to {info.file_size}.")
    if stored and info.compress_type != zipfile.ZIP_STORED:
        raise FormatError(f"{name} is compressed; torch stores its members as they are.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise FormatError(f"{name} is compressed by method {info.compress_type}; expected deflate.")
    budget.charge(info.file_size)
    # The size is asked for, as reading to the end expands more when the member is larger than said.
    with archive.open(info) as stream:
        return stream.read(info.file_size)


def is_legacy(start: bytes) -> bool:
    """Whether a file with these first bytes is in the legacy format: it pickles a number first."""
    # Protocols from 4 on put the start of a frame (FRAME and its length) before it.
    number = start[11:] if start[2:3] == b"\x95" else start[2:]
    return start[:1] == b"\x80" and number.startswith(_PICKLED_MAGIC_NUMBER)


def read_legacy(stream: BinaryIO, *, budget: Budget, level: int = 0) -> Any:
    """Reads the legacy format from a seekable binary file that ends with the data."""
    start = stream.tell()
    available = stream.seek(0, os.SEEK_END) - start
    stream.seek(start)
    for name, expected in (("magic number", _MAGIC_NUMBER), ("protocol", _PROTOCOL)):
        found = pickles.load(stream, budget=budget)
        if not isinstance(found, int) or found != expected:
            raise FormatError(f"has {name} {shown(found)}; expected {expected}.")
    pickles.load(stream, budget=budget)
    storages: dict[str, objects.Storage] = {}

    def persistent_load(identifier):
        nonlocal available
        if isinstance(identifier, tuple) and identifier[0] == "module":
            return identifier[1]  # the class of a module, with its source text, which stays text
        dtype, key, count = _storage_identifier(identifier)
        if key not in storages:
            available -= dtype.itemsize * count
            if available < 0:
                raise FormatError(f"ends before the end of storage {key} (truncated?).")
            budget.charge(dtype.itemsize * count)
            data = np.zeros(dtype.itemsize * count, np.uint8)
            storages[key] = objects.Storage(dtype, data)
        return storages[key]._replace(dtype=dtype)

    value = _load_object(stream, persistent_load, budget, level=level)
    keys = pickles.load(stream, budget=budget)
    texts = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not texts or len(keys) != len(storages) or sorted(keys) != sorted(storages):
        raise FormatError("does not list the storages that its tensors use.")
    for key in keys:
        _fill(storages[key], stream, key)
    return value


def read_pickle(stream: BinaryIO, *, budget: Budget) -> Any:
    """Reads one plain pickle, such as NVIDIA's, whose tensors are legacy files inside of it."""
    return _load_object(stream, None, budget, level=0)


def _load_object(stream: BinaryIO, persistent_load: Any, budget: Budget, *, level: int) -> Any:
    """Reads the pickle that holds the object; tensors inside of it may be legacy files again."""

    def load_from_bytes(data):
        if not isinstance(data, bytes) or level >= _MOST_NESTED:
            raise FormatError(f"nests torch files deeper than {_MOST_NESTED}.")
        return read_legacy(io.BytesIO(data), budget=budget, level=level + 1)

    return pickles.load(
        stream,
        extra_constructors={"torch.storage._load_from_bytes": load_from_bytes},
        persistent_load=persistent_load,
        budget=budget,
    )


def _storage_identifier(identifier: Any) -> tuple[np.dtype, str, int]:
    """Checks ("storage", class, key, location, count[, None]); the location is ignored.

    In the place of None torch before 0.4 has views of storages that tensors share.
    """
    if not isinstance(identifier, tuple) or len(identifier) not in (5, 6):
        raise FormatError(f"refers to {shown_parts(identifier)} instead of a storage.")
    kind, storage_class, key, _, count, *view = identifier
    known = kind == "storage" and isinstance(key, str) and objects.is_count(count)
    if not known or any(part is not None for part in view):
        raise FormatError(f"refers to {shown_parts(identifier)} instead of a storage.")
    return objects.torch_dtype(storage_class), key, count


def _fill(storage: objects.Storage, stream: Any, key: str) -> None:
    count = int.from_bytes(stream.read(8), "little")
    expected = storage.data.size // storage.dtype.itemsize
    if count != expected:
        raise FormatError(f"storage {key} has {count} elements; its tensors say {expected}.")
    if stream.readinto(storage.data) != storage.data.size:
        raise FormatError(f"ends before the end of storage {key} (truncated?).")
    if sys.byteorder == "big":
        storage.data.view(storage.dtype).byteswap(inplace=True)
