"""Decides what a path holds, images or features, by content and not by name.

| path | what is taken |
|---|---|
| name of `NAMED` | its test images, padded to 32×32; `name:train` its training images |
| folder | its image files in order of path, including those of subfolders and links |
| zip of image files | likewise; labels beside them are not needed |
| `.npz` | the only array that fits by shape and type; of several, the only one of `NAMES` |
| `.npy` | its array |
| idx file of the MNIST family, gzipped or not | its images |

An array holds features if it is floating `[n, d]`, and images if it is `[n, h, w]`, `[n, h, w, c]`
or `[n, c, h, w]` with c in {1, 3, 4}. Channels are last if the last axis can be channels. They are
first if only the first can, or if both can and only channels first makes the images square.

Opening reads only headers. Pixels are decoded for the requested rows, a batch at a time.
"""

import functools
import gzip
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lsh_gan.datasets import image_files
from lsh_gan.datasets.image_files import UNREADABLE, rest
from lsh_gan.datasets.named import NAMED, is_named, load_named
from lsh_gan.datasets.source import AS_STORED, Decoding, Source, cut
from lsh_gan.errors import few

_EXPECTED = (
    "expected a folder or zip of image files, .npz or .npy arrays (images uint8 [n, h, w, c] or "
    "[n, c, h, w], features float [n, d]), or an idx file"
)
# Usual names of arrays, in lower or upper case.
NAMES = {
    "images": ("images", "imgs", "samples", "x", "arr_0", "arr_1"),
    "features": ("features", "feats", "reps", "embeddings", "activations", "x", "arr_0", "arr_1"),
}
# Floating [n, d] arrays of these names are not features.
NOT_FEATURES = ("mu", "sigma", "mu_s", "sigma_s", "y", "label", "labels", "z", "latents", "logits")
CHANNELS = (1, 3, 4)
_IDX_UINT8_IMAGES = b"\x00\x00\x08\x03"

_KNOWN = {  # first bytes of other files that users give -> what the file is, and what to do
    b"\x89HDF": "an HDF5 file; save its array as .npy",
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file with git lfs pull",
    b"\x80": "a pickle, which is not read because that can run code; save its array as .npy",
    b"<": "a web page or XML",
}


def open_source(
    path: str | Path, kinds: Sequence[str] = ("images",), decoding: Decoding = AS_STORED
) -> Source:
    """Finds out what a path holds, from headers alone.

    Args:
        path: See the module.
        kinds: Accepted kinds, "images" or "features"; the preferred one first.
        decoding: How images are decoded.

    Raises:
        FileNotFoundError: No such path.
        ValueError: Nothing of these kinds, or a damaged file (the message has the file, and what
            was expected). Reading rows raises it for errors in pixels or values.
    """
    path = str(path)
    if is_named(path):
        images = pad_to(load_named(path)[0], 32)
        source = of_array(path, lambda: images, images.shape, images.dtype, decoding, "data set")
    elif os.path.isdir(path):
        if "images" not in kinds:
            raise ValueError(f"{path}: is a folder; expected float features [n, d], .npy or .npz")
        source = image_files.open_files(path, *image_files.list_folder(path), decoding)
    elif not os.path.isfile(path):
        raise FileNotFoundError(
            f"{path!r}: no such folder or file; data sets: {', '.join(NAMED)}; {_EXPECTED}"
        )
    else:
        source = _open_file(path, kinds, decoding)
    if source.kind not in kinds:
        expected = "float features [n, d]" if source.kind == "images" else "images"
        hint = "" if source.kind == "images" else "; give features as reference.features"
        raise ValueError(f"{path}: holds {source.kind} ({source.taken}); expected {expected}{hint}")
    return source


def load_images(path: str | Path, **decoding: Any) -> np.ndarray:
    """Reads all images of a path, uint8 `[n, h, w, c]`, with fields of `Decoding` as options."""
    return open_source(path, decoding=Decoding(**decoding)).load()


def _open_file(path: str, kinds: Sequence[str], decoding: Decoding) -> Source:
    with open(path, "rb") as stream:
        head = stream.read(512)
    if head.startswith(b"\x93NUMPY"):
        return _from_arrays(path, {"": _npy_header(path)}, kinds, decoding)
    if head.startswith(b"PK"):
        return _open_zip(path, kinds, decoding)
    zipped = head.startswith(b"\x1f\x8b")
    if zipped or head.startswith(_IDX_UINT8_IMAGES):
        images = _idx_images(path, zipped=zipped)
        return of_array(path, lambda: images, images.shape, images.dtype, decoding, "an idx file")
    found = next((f": {what}" for magic, what in _KNOWN.items() if head.startswith(magic)), "")
    if head[257:262] == b"ustar":
        found = ": a tar archive; unpack it"
    if not found and image_files.is_image_name(path):
        found = ": one image; give the folder that it is in"
    raise ValueError(f"{path}: not an idx file, nor .npy, .npz or a zip{found}; {_EXPECTED}")


# --- arrays --------------------------------------------------------------------------------------

Header = tuple[tuple[int, ...], np.dtype]


def _open_zip(path: str, kinds: Sequence[str], decoding: Decoding) -> Source:
    try:
        archive = zipfile.ZipFile(path)
        names, left_out = image_files.image_names(
            info.filename for info in archive.infolist() if not info.is_dir()
        )
        if names:
            return image_files.open_files(path, names, archive.open, left_out, decoding)
        arrays = [name for name in archive.namelist() if name.endswith(".npy")]
        headers = {name.removesuffix(".npy"): _npy_header(path, archive, name) for name in arrays}
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: not a readable array file or zip ({error})") from error
    if not arrays and any(name.endswith("/data.pkl") for name in archive.namelist()):
        raise ValueError(f"{path}: a file of torch.save; save its array as .npy; {_EXPECTED}")
    if not arrays:
        raise ValueError(f"{path}: a zip without images or arrays{rest(left_out)}; {_EXPECTED}")
    return _from_arrays(path, headers, kinds, decoding)


def _npy_header(path: str, archive: zipfile.ZipFile | None = None, name: str = "") -> Header:
    """Reads shape and type of an array, without its values."""
    try:
        with archive.open(name) if archive else open(path, "rb") as stream:
            first = np.lib.format.read_magic(stream) == (1, 0)
            read = "read_array_header_1_0" if first else "read_array_header_2_0"
            shape, _, dtype = getattr(np.lib.format, read)(stream)
            return shape, dtype
    except UNREADABLE as error:
        where = f"{path}: array {name!r}" if name else path
        raise ValueError(f"{where}: not a readable array file ({error})") from error


def _values(path: str, name: str) -> np.ndarray:
    """Reads an array of an `.npz` file, or maps the array of an `.npy` file into memory."""
    try:
        if not name:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[name]
    except UNREADABLE as error:
        raise ValueError(f"{path}: not a readable array file ({error})") from error


def _from_arrays(
    path: str, headers: dict[str, Header], kinds: Sequence[str], decoding: Decoding
) -> Source:
    name = _choose(path, headers, kinds)
    shape, dtype = headers[name]
    if dtype.hasobject:
        raise ValueError(f"{path}: not a readable array file (it holds Python objects)")
    values = functools.partial(_values, path, name)
    others = [other for other in headers if other != name]
    said = f"array {name!r}" if name else "an array"
    said += f" and not {few(others)}" if others else ""
    said += f": {dtype} {shape}"
    if "images" not in kinds and _role(shape, dtype) != "features":
        raise ValueError(f"{path}: {said}; expected float features [n, d]")
    return of_array(path, values, shape, dtype, decoding, said)


def _role(shape: tuple[int, ...], dtype: np.dtype) -> str | None:
    if len(shape) == 2 and np.issubdtype(dtype, np.floating):
        return "features"
    return "images" if _layout(shape) else None


def _choose(path: str, headers: dict[str, Header], kinds: Sequence[str]) -> str:
    if len(headers) == 1:
        return next(iter(headers))
    for kind in (*kinds, *NAMES):  # also kinds that are refused, so that the error can name them
        fitting = [
            name
            for name, header in headers.items()
            if _role(*header) == kind and not (kind == "features" and name.lower() in NOT_FEATURES)
        ]
        fitting = [name for name in fitting if name.lower() in NAMES[kind]] or fitting
        fitting = [name for name in fitting if headers[name][1] in (np.uint8, np.bool_)] or fitting
        if len(fitting) == 1 or (fitting and kind not in kinds):
            return fitting[0]
        if fitting:
            raise ValueError(
                f"{path}: several arrays hold {kind} ({_listed(headers, fitting)}); name the one "
                f"that is meant {kind!r}, or save it alone"
            )
    raise ValueError(f"{path}: no array of images or features ({_listed(headers)}); {_EXPECTED}")


def _listed(headers: dict[str, Header], names: Iterable[str] | None = None) -> str:
    return few(f"{name} {headers[name][1]} {headers[name][0]}" for name in names or headers)


def _layout(shape: tuple[int, ...]) -> tuple[tuple[int, int, int, int], bool] | None:
    """Returns the shape with channels last, and whether they are first; None if not of images."""
    if 0 in shape or len(shape) not in (3, 4):
        return None
    if len(shape) == 3:  # with 1, 3 or 4 columns and many rows it is one image, [h, w, c]
        n, h, w = shape
        return None if w in CHANNELS and h > 2 * w else ((n, h, w, 1), False)
    n, a, b, c = shape
    if a in CHANNELS and (c not in CHANNELS or (b == c and a != b)):
        return (n, b, c, a), True
    return ((n, a, b, c), False) if c in CHANNELS else None


def of_array(
    path: str,
    values: Callable[[], np.ndarray],
    shape: tuple[int, ...],
    dtype: np.dtype,
    decoding: Decoding,
    said: str,
) -> Source:
    """Makes a source of the array that `values` returns; `said` describes what was taken."""
    if _role(shape, dtype) == "features":
        return Source(path, "features", shape, said, None, functools.partial(_rows, path, values))
    layout = _layout(shape)
    if layout is None:
        raise ValueError(
            f"{path}: images have shape {shape}; expected [n, h, w], [n, h, w, c] or [n, c, h, w] "
            f"with c in {CHANNELS}, or floating features [n, d]"
        )
    if dtype not in (np.uint8, np.bool_):
        raise ValueError(f"{path}: images are {dtype}{_range_hint(values())}")
    (n, h, w, c), first = layout
    colours, side = (1 if c == 1 else 3), decoding.side

    def read(rows: np.ndarray) -> Iterator[np.ndarray]:
        stored = values()
        for part in cut(rows):
            x = np.asarray(stored[part])
            x = np.moveaxis(x, 1, -1) if first else x.reshape(-1, h, w, c)
            x = x * np.uint8(255) if x.dtype == np.bool_ else x
            if side or c == 4:
                drawn = (Image.fromarray(i[..., 0] if c == 1 else i) for i in x)
                x = np.stack([image_files.decode(image, decoding)[0] for image in drawn])
            yield np.ascontiguousarray(x)

    if len(shape) == 4:
        said += f", channels {'first' if first else 'last'}"
    size = (side, side) if side else (h, w)
    return Source(path, "images", (n, *size, colours), said, (h, w), read)


def _range_hint(x: np.ndarray) -> str:
    """Says, for images that are not uint8, what range they have and how to convert them."""
    low, high = float(x.min()), float(x.max())
    scaled = {(0, 1): "x * 255", (-1, 1): "(x + 1) * 127.5", (0, 255): "x"}  # narrow ones first
    fitting = (scale for (a, b), scale in scaled.items() if a <= low and high <= b)
    how = next((f": save np.uint8(np.round({scale}))" for scale in fitting), "")
    return f" from {low:g} to {high:g}; expected uint8, 0 to 255{how}"


def _rows(path: str, values: Callable[[], np.ndarray], rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yields features of an array as float32; checks that they are finite."""
    stored = values()
    for part in cut(rows):
        wide = np.asarray(stored[part])
        with np.errstate(over="ignore"):
            narrow = wide.astype(np.float32)
        finite = np.isfinite(narrow).all(axis=1)
        if not finite.all():
            row, largest = part[~finite][0], np.abs(wide[~finite][0]).max()
            beyond = f"{largest:.3g}; expected magnitudes of float32, up to 3.4e+38"
            said = beyond if np.isfinite(largest) else "NaN or Inf"
            raise ValueError(f"{path}: row {row} holds {said}")
        yield narrow


def _idx_images(path: str, *, zipped: bool) -> np.ndarray:
    """Reads an MNIST-like file (`*-images-idx3-ubyte`, gzipped or not), uint8 `[n, h, w, 1]`."""
    try:
        with gzip.open(path) if zipped else open(path, "rb") as stream:
            head = stream.read(16)
            if len(head) < 16 or not head.startswith(_IDX_UINT8_IMAGES):
                raise ValueError(
                    f"{path}: not an idx file of 8-bit images (magic {head[:4].hex()!r}); "
                    f"{_EXPECTED}; unpack archives of other kinds"
                )
            n, h, w = struct.unpack(">3I", head[4:])
            data = stream.read(n * h * w + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: not a complete gzip file ({error})") from error
    if len(data) != n * h * w:
        raise ValueError(f"{path}: {len(data)} bytes of pixels, expected {n}×{h}×{w}")
    return np.frombuffer(data, np.uint8).reshape(n, h, w, 1)


def pad_to(images: np.ndarray, side: int) -> np.ndarray:
    """Pads uint8 `[n, h, w, c]` evenly with black to `side`; raises ValueError if larger."""
    h, w = images.shape[1:3]
    if max(h, w) > side:
        raise ValueError(f"images of {h}×{w} pixels do not fit into {side}×{side}")
    rows, columns = side - h, side - w
    pad = ((0, 0), (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0))
    return np.pad(images, pad)
