"""Recognises other formats by their first bytes or members, and says how to convert them."""

import re
from collections.abc import Iterable

READ = "a torch, pickle, safetensors, npz or npy file"
_ARRAYS = "save its arrays by name with np.savez or safetensors"
_PYTORCH = "torch.save(model.state_dict(), 'model.pth')"

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
_ENDINGS: dict[str, str] = {
    r"\.(index|meta|data-\d+-of-\d+)": f"a part of a TensorFlow checkpoint: {_ARRAYS}",
    r"\.pb": f"a TensorFlow graph: {_ARRAYS}",
    r"\.onnx": f"an ONNX model: {_ARRAYS}",
    r"\.h5|\.hdf5": f"a damaged HDF5 file; {_ARRAYS}",
}


def describe(start: bytes, name: str) -> str:
    """Says what a file is, by its first 300 bytes and its name."""
    if not start:
        return "is empty (0 bytes): the download or the copy failed."
    for pattern, title in _STARTS:
        if re.match(pattern, start, re.DOTALL | re.IGNORECASE):
            return f"is {title}; expected {READ}."
    for ending, title in _ENDINGS.items():
        if re.search(rf"({ending})$", name):
            return f"is {title}; expected {READ}."
    return f"starts with {start[:8]!r}; expected {READ}."


def describe_zip(names: Iterable[str]) -> str | None:
    """Says what a zip file is, by its members; None if torch may have written it."""
    ends = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in ends and any("/code/" in f"/{name}" for name in names):
        return (
            "is a TorchScript program (torch.jit.save), whose settings are in its code, which is "
            f"not run: load it with torch.jit.load and save its tensors, {_PYTORCH}"
        )
    if "model.weights.h5" in ends:
        return f"is a Keras model: {_ARRAYS}"
    if "data.pkl" not in ends:
        shown = ", ".join(sorted(names)[:3])
        return f"is a zip file of {shown or 'nothing'}, not of torch: unpack it first"
    return None
