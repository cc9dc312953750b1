"""Reads a file of tensors in whatever format its first bytes say, and runs nothing in it."""

import errno
import math
import os
import re
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open

from lsh_gan.tensor_files import formats, objects, torch_files
from lsh_gan.tensor_files.pickles import DAMAGED
from lsh_gan.tensor_files.values import DEFAULT_LIMITS, Budget, FormatError, Limits, check_depth

_DAMAGED = (
    *DAMAGED, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, SafetensorError,
)  # fmt: skip
_LONGEST_MESSAGE = 400
_MOST_BUILT = 4  # times the size of a file: bytes, arrays of them, and working copies
_SMALL = 2**28  # bytes that a file of any size may build
_NPY_MAGIC = b"\x93NUMPY"
_NPY_HEADER = re.compile(
    r"\{'descr': '([<>|=]?[biufcSU]\d{1,7})', 'fortran_order': (True|False), "
    r"'shape': \(([\d, ]*)\),? *\}\s*"
)


def read(path: str | os.PathLike, *, limits: Limits = DEFAULT_LIMITS) -> Any:
    """Reads the tensors and values in a file without running anything that it contains.

    Formats, told by content and not by name: torch zip and torch legacy (`torch.save`), pickles
    (NVIDIA's persistent ones too), safetensors, npz and npy (one, or several one after the other).

    Args:
        path: The file.
        limits: Bounds on size, depth and number of values.

    Returns:
        Nested dicts, lists and tuples of NumPy arrays (native byte order; views of shared
        storages may be read-only), numbers, strings and a `Standin` for each other object.

    Raises:
        FileNotFoundError: No such file.
        FormatError: Damaged, hostile, too large, or another format; one line with the path.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: {'not a file' if path.exists() else 'no such file'}.")
    try:
        size = path.stat().st_size
        if size > limits.num_bytes:
            raise FormatError(f"has {size} bytes; at most {limits.num_bytes} are read.")
        with path.open("rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd escapes in a damaged file's strings
            most = min(_MOST_BUILT * size + _SMALL, _MOST_BUILT * limits.num_bytes)
            budget = Budget(limits, most)
            value = _read_stream(stream, size, path, budget)
        check_depth(value, limits)
    except FormatError as error:
        raise FormatError(f"{path}: {_one_line(error)}") from error
    except _DAMAGED as error:
        raise FormatError(f"{path}: damaged file: {_one_line(error)}") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # what seeking to a position that is no position gives
            raise
        raise FormatError(f"{path}: damaged file: it refers to bytes outside of it.") from error
    return value


def _one_line(error: Exception) -> str:
    """The message, printable and not long whatever names the file made up."""
    text = str(error)[: _LONGEST_MESSAGE + 1]
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]}…"


def _read_stream(stream: BinaryIO, size: int, path: Path, budget: Budget) -> Any:
    start = stream.read(300)
    stream.seek(0)
    if start.startswith(b"PK\x03\x04"):
        return _read_zip(stream, size, budget)
    if start.startswith(_NPY_MAGIC):
        return _npy(stream.read(), budget.limits)
    if len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < size:
        return _safetensors(path)
    if torch_files.is_legacy(start):
        return torch_files.read_legacy(stream, budget=budget)
    if start[:1] == b"\x80" and start[1:2] <= b"\x05" and size > 1:
        return torch_files.read_pickle(stream, budget=budget)
    raise FormatError(formats.describe(start, path.name))


def _read_zip(stream: BinaryIO, size: int, budget: Budget) -> Any:
    limits = budget.limits
    with zipfile.ZipFile(stream) as archive:
        names = archive.namelist()
        if len(names) > limits.values:
            raise FormatError(f"has {len(names)} members; at most {limits.values}.")
        if names and all(name.endswith(".npy") for name in names):
            arrays = Budget(limits, min(torch_files.most_expanded(size), limits.num_bytes))
            return {
                name.removesuffix(".npy"): _npy(torch_files.member(archive, name, arrays), limits)
                for name in names
            }
        title = formats.describe_zip(names)
        if title is not None:
            raise FormatError(f"{title}.")
        return torch_files.read_zip(archive, budget=budget)


def _npy(content: bytes, limits: Limits) -> np.ndarray | list[np.ndarray]:
    """An npy file, or as a list the arrays of several that follow each other (Equinox)."""
    data = memoryview(content)
    arrays: list[np.ndarray] = []
    while data or not arrays:
        shape, dtype, order, start = _npy_header(data)
        end = start + math.prod(shape) * dtype.itemsize
        end = end if data[end : end + len(_NPY_MAGIC)] == _NPY_MAGIC else len(data)
        arrays.append(objects.array_from_bytes(data[start:end], dtype, shape, order))
        if len(arrays) > limits.values:
            raise FormatError(f"has more than {limits.values} arrays.")
        data = data[end:]
    return arrays if len(arrays) > 1 else arrays[0]


def _npy_header(data: bytes | memoryview) -> tuple[tuple[int, ...], np.dtype, str, int]:
    """Shape, type and order of an npy file, and where its values begin."""
    length_bytes = 2 if data[6:7] == b"\x01" else 4
    start = 8 + length_bytes
    end = start + int.from_bytes(data[8:start], "little")
    header = bytes(data[start:end]).decode("latin-1")
    match = _NPY_HEADER.fullmatch(header)
    if match is None:
        raise FormatError(f"has an npy header {header[:80]!r}, not of plain numbers or strings.")
    shape = tuple(int(n) for n in match[3].split(",") if n.strip())
    return shape, np.dtype(match[1]), "F" if match[2] == "True" else "C", end


def _safetensors(path: Path) -> dict[str, Any]:
    """A safetensors file, its tensors in the order of their bytes; `__metadata__` is kept."""
    with safe_open(path, "numpy") as file:
        tensors: dict[str, Any] = {}
        if (metadata := file.metadata()) is not None:
            tensors["__metadata__"] = metadata
        for name in file.offset_keys():
            try:
                tensors[name] = file.get_tensor(name)
            except AttributeError as error:
                raise FormatError(f"tensor {name} has a type without array form: {error}") from None
    return tensors
