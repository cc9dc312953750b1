"""Reads a file of tensors, in the format that its first bytes show, without running any of it."""

import io
import os
import re
import tokenize
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open

from lsh_gan.tensor_files import torch_files
from lsh_gan.tensor_files.pickles import DAMAGED
from lsh_gan.tensor_files.values import FormatError

_DAMAGED = (
    *DAMAGED, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, SafetensorError,
    SyntaxError, tokenize.TokenError,  # from the header of an npy file
    OSError,  # from seeking to an invalid position
)  # fmt: skip

# Formats that are not read, by their first bytes or their ending, and how to convert them.
_READ = "a torch, pickle, safetensors, npz or npy file"
_ARRAYS = "save its arrays by name with np.savez or safetensors"

_STARTS: tuple[tuple[bytes, str], ...] = (
    (rb"\s*<(!doctype|html|\?xml)", "a web page: the download went to a page, not to the file"),
    (rb"version https://git-lfs", "a Git LFS pointer, not the file itself: run `git lfs pull`"),
    (rb"\x89HDF\r\n\x1a\n", f"an HDF5 file (Keras weights?): {_ARRAYS}"),
    (rb"....TFL3", f"a TensorFlow Lite model: {_ARRAYS}"),
    (rb"\x08[\x01-\x1f](\x12|.{0,40}(onnx|pytorch|tf2onnx))", f"an ONNX model: {_ARRAYS}"),
    (rb"GGUF", f"a GGUF file: {_ARRAYS}"),
    (rb"\x1f\x8b", "a gzip archive: unpack it first (gunzip, or tar -xzf)"),
    (rb"BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!", "an archive: unpack it first"),
    (rb".{257}ustar", "a tar archive: unpack it first (tar -xf)"),
    (rb"%PDF", "a PDF document"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF....WEBP", "an image"),
    (rb"\x12\x01\x00\x00", f"an MXNet parameter file: {_ARRAYS}"),
    (rb"[\x80-\x8f\xde\xdf].?.?[\xa0-\xbf\xd9][a-z_]", f"a msgpack file (Flax?): {_ARRAYS}"),
    (rb"\s*[{\[]", "a text file in JSON, without tensors"),
)
_ENDINGS: tuple[tuple[str, str], ...] = (
    (r"\.(index|meta|data-\d+-of-\d+)", f"a part of a TensorFlow checkpoint: {_ARRAYS}"),
    (r"\.pb", f"a TensorFlow graph: {_ARRAYS}"),
    (r"\.onnx", f"an ONNX model: {_ARRAYS}"),
    (r"\.h5|\.hdf5", f"a damaged HDF5 file; {_ARRAYS}"),
)


def read(path: str | os.PathLike) -> Any:
    """Reads the tensors and values in a file without running any code in it.

    Formats, recognised by content and not by name: torch zip and torch legacy (`torch.save`),
    pickles (also NVIDIA's persistent ones), safetensors, npz, and npy (also several in sequence).

    Returns:
        Nested dicts, lists and tuples of NumPy arrays (native byte order; views of shared
        storages may be read-only), numbers, strings and a `Standin` for each other object.

    Raises:
        FileNotFoundError: No such file.
        FormatError: A damaged or malicious file, or another format; one line with the path.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: {'not a file' if path.exists() else 'no such file'}.")
    with path.open("rb") as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about invalid escapes in strings of a damaged file
        try:
            return _read_stream(stream, path)
        except FormatError as error:
            raise FormatError(f"{path}: {_one_line(error)}") from error
        except _DAMAGED as error:
            raise FormatError(f"{path}: damaged file: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    """Returns the message, printable and short, whatever names the file contains."""
    return "".join(char if char.isprintable() else "?" for char in str(error)[:400])


def _read_stream(stream: BinaryIO, path: Path) -> Any:
    start, size = stream.read(300), path.stat().st_size
    stream.seek(0)
    if start.startswith(b"PK\x03\x04"):
        return _read_zip(stream)
    if start.startswith(b"\x93NUMPY"):
        return _npy(stream.read())
    if len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < size:
        return _safetensors(path)
    if torch_files.is_legacy(start):
        return torch_files.read_legacy(stream)
    if start[:1] == b"\x80" and start[1:2] <= b"\x05" and size > 1:
        return torch_files.read_pickle(stream)
    if not start:
        raise FormatError("is empty (0 bytes): the download or the copy failed.")
    flags = re.DOTALL | re.IGNORECASE
    titles = [title for pattern, title in _STARTS if re.match(pattern, start, flags)]
    titles += [title for ending, title in _ENDINGS if re.search(rf"({ending})$", path.name)]
    found = f"is {titles[0]}" if titles else f"starts with {start[:8]!r}"
    raise FormatError(f"{found}; expected {_READ}.")


def _read_zip(stream: BinaryIO) -> Any:
    if not zipfile.is_zipfile(stream):
        raise FormatError("damaged file: the zip file has no end; copy or save it again.")
    with zipfile.ZipFile(stream) as archive:
        names = archive.namelist()
        if names and all(name.endswith(".npy") for name in names):
            return {name.removesuffix(".npy"): _npy(archive.read(name)) for name in names}
        ends = {name.rpartition("/")[2] for name in names}
        if "constants.pkl" in ends and any("/code/" in f"/{name}" for name in names):
            raise FormatError(
                "is a TorchScript program (torch.jit.save), whose settings are in its code, which "
                "is not run: load it with torch.jit.load and save its tensors, "
                "torch.save(model.state_dict(), 'model.pth')."
            )
        if "model.weights.h5" in ends:
            raise FormatError(f"is a Keras model: {_ARRAYS}.")
        if "archive_format" in ends:
            raise FormatError(
                "is a program of torch.export: save its tensors, "
                "torch.save(program.state_dict, 'model.pth')."
            )
        if "data.pkl" not in ends and "version" in ends:
            raise FormatError("is incomplete: torch.save did not end; save it again.")
        if "data.pkl" not in ends:
            shown = ", ".join(sorted(names)[:3]) or "nothing"
            raise FormatError(f"is a zip file of {shown}, not of torch: unpack it first.")
        return torch_files.read_zip(archive)


def _npy(content: bytes) -> np.ndarray | list[np.ndarray]:
    """Reads an npy file: an array, or a list if several follow each other (Equinox)."""
    stream = io.BytesIO(content)
    arrays: list[np.ndarray] = []
    while stream.tell() < len(content) or not arrays:
        try:
            array = np.lib.format.read_array(stream, allow_pickle=False)
        except ValueError as error:
            if "Object arrays" not in str(error):
                raise
            raise FormatError(f"holds Python objects (a dict?): {_ARRAYS} ({error}).") from None
        arrays.append(array.astype(array.dtype.newbyteorder("="), copy=False))
    return arrays if len(arrays) > 1 else arrays[0]


def _safetensors(path: Path) -> dict[str, Any]:
    """Reads a safetensors file, tensors in the order of their bytes; keeps `__metadata__`."""
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
