"""What a path holds: images or features. It is decided here alone, by content and not by name.

| path | what is taken |
|---|---|
| name of `SHIPPED` | the shipped images, padded to 32×32 |
| folder | its image files in order of path, those of folders within it and behind links included |
| zip of image files | likewise; labels beside them are not needed |
| `.npz` | the only array that fits by shape and type, or of several the only one of `NAMES` |
| `.npy` | its array |
| idx file of the MNIST family, gzipped or not | its images |

An array is of features if it is floating `[n, d]`, and of images if it is `[n, h, w]`,
`[n, h, w, c]` or `[n, c, h, w]` with c in {1, 3, 4}: channels are last where that axis can be
channels, but first where both can and only that makes the images square.

Opening reads headers alone; pixels are decoded for the rows that are asked for, a batch at a time.
"""

import dataclasses
import functools
import gzip
import itertools
import os
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

PACKAGED = Path(__file__).parent / "packaged"
SHIPPED = ("fashion_mnist",)
READABLE = (
    "a folder or zip of image files, .npz or .npy arrays (images uint8 [n, h, w, c] or "
    "[n, c, h, w], features float [n, d]), or an idx file"
)
# Usual names of arrays, in any case of letters.
NAMES = {
    "images": ("images", "imgs", "samples", "x", "arr_0", "arr_1"),
    "features": ("features", "feats", "reps", "embeddings", "activations", "x", "arr_0", "arr_1"),
}
# What floating [n, d] arrays of these names hold is not features.
NOT_FEATURES = ("mu", "sigma", "mu_s", "sigma_s", "y", "label", "labels", "z", "latents", "logits")
CHANNELS = (1, 3, 4)
BATCH = 32
IDX_UINT8_IMAGES = 0x00000803

# Left out of folders and zips, beside names that begin with a dot.
_SYSTEM = ("__macosx", "@eadir", "$recycle.bin", "thumbs.db", "desktop.ini")
# Of endings: none of Pillow's, or of what is no image or would have to be drawn by other programs.
_NO_IMAGES = (None, "PDF", "EPS", "WMF", "HDF5", "GRIB", "BUFR", "MPEG")
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes
_GREY = ("1", "L", "LA", "La", "I", *_SIXTEEN_BIT)
_UNREADABLE = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, RuntimeError, struct.error, zlib.error,
    zipfile.BadZipFile, Image.DecompressionBombError,
)  # fmt: skip
_KNOWN = {  # by their first bytes: files that people give, and what to do
    b"\x89HDF": "an HDF5 file; save its array as .npy",
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file with git lfs pull",
    b"\x80": "a pickle, which is not read because that can run code; save its array as .npy",
    b"<": "a web page or XML",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """What was found at a path.

    Attributes:
        path: The path.
        kind: "images" or "features".
        shape: `(n, h, w, c)` of images once they are decoded, or `(n, d)`.
        taken: What was taken and what was left out, in words.
        first_size: Height and width of the first image as it is stored; None for features.
        read: Function of the numbers of rows that yields them in batches, uint8 or float32.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    taken: str
    first_size: tuple[int, int] | None
    read: Callable[[np.ndarray], Iterator[np.ndarray]] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def dtype(self) -> str:
        """Of what is read."""
        return "uint8" if self.kind == "images" else "float32"

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """Height, width and channels; None for features."""
        return self.shape[1:] if self.kind == "images" else None

    def load(self) -> np.ndarray:
        """All rows: uint8 `[n, h, w, c]` or float32 `[n, d]`; raises as `open_source`."""
        return np.concatenate(list(self.read(np.arange(len(self)))))


class Decoding(NamedTuple):
    """How stored images become uint8 `[h, w, c]`.

    Attributes:
        side: 0 keeps sizes, which must then be equal; else the largest centred square of each is
            resized to `side` pixels (Lanczos), as is usual for GAN data sets.
        background: Grey level on which transparent images are laid, 0 black to 255 white.
        white_level: The value of files of 16 bits that is white; 0 takes 65535, and refuses sets
            that never reach a quarter of it, because scans of 10 to 14 bits look like that.
    """

    side: int = 0
    background: int = 255
    white_level: int = 0


AS_STORED = Decoding()


def open_source(
    path: str | Path, kinds: Sequence[str] = ("images",), decoding: Decoding = AS_STORED
) -> Source:
    """Finds out what a path holds, from headers alone.

    Args:
        path: See the module.
        kinds: What may be taken, "images" or "features", the preferred one first.
        decoding: How images are decoded.

    Raises:
        FileNotFoundError: No such path.
        ValueError: Nothing of that kind, or something damaged: the file, and what was expected.
            Reading raises it for what only pixels or values show.
    """
    path = str(path)
    if path in SHIPPED:
        images = pad_to(np.load(PACKAGED / path / "images.npz")["images"][..., None], 32)
        source = _images(path, lambda: images, images.shape, images.dtype, decoding, "shipped")
    elif os.path.isdir(path):
        if "images" not in kinds:
            raise ValueError(f"{path}: is a folder; expected float features [n, d], .npy or .npz")
        source = _image_files(path, *_folder(path), decoding)
    elif not os.path.isfile(path):
        raise FileNotFoundError(
            f"{path!r}: no such folder or file; shipped: {', '.join(SHIPPED)}; {_EXPECTED}"
        )
    else:
        source = _open_file(path, kinds, decoding)
    if source.kind not in kinds:
        expected = "float features [n, d]" if source.kind == "images" else "images"
        hint = "" if source.kind == "images" else "; give features as reference.features"
        raise ValueError(f"{path}: holds {source.kind} ({source.taken}); expected {expected}{hint}")
    return source


def load_images(path: str | Path, **decoding: int) -> np.ndarray:
    """All images of a path, uint8 `[n, h, w, c]`; fields of `Decoding`; as `open_source`."""
    return open_source(path, decoding=Decoding(**decoding)).load()


def _open_file(path: str, kinds: Sequence[str], decoding: Decoding) -> Source:
    with open(path, "rb") as stream:
        head = stream.read(64)
    if head.startswith(b"\x93NUMPY"):
        return _from_arrays(path, {"": _npy_header(path)}, kinds, decoding)
    if head.startswith(b"PK"):
        return _open_zip(path, kinds, decoding)
    if head.startswith((b"\x1f\x8b", struct.pack(">I", IDX_UINT8_IMAGES))):
        images = read_idx_images(path)
        return _images(path, lambda: images, images.shape, images.dtype, decoding, "an idx file")
    found = next((f": {what}" for magic, what in _KNOWN.items() if head.startswith(magic)), "")
    if not found and _is_image_name(path):
        found = ": one image; give the folder that it is in"
    raise ValueError(f"{path}: not an idx file, nor .npy, .npz or a zip{found}; {_EXPECTED}")


_EXPECTED = f"expected {READABLE}"


# --- arrays --------------------------------------------------------------------------------------

Header = tuple[tuple[int, ...], np.dtype]


def _open_zip(path: str, kinds: Sequence[str], decoding: Decoding) -> Source:
    try:
        archive = zipfile.ZipFile(path)
        names, left_out = _image_names(
            info.filename for info in archive.infolist() if not info.is_dir()
        )
        if names:
            return _image_files(path, names, archive.open, left_out, decoding)
        arrays = [name for name in archive.namelist() if name.endswith(".npy")]
        headers = {name.removesuffix(".npy"): _npy_header(path, archive, name) for name in arrays}
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: not a readable array file or zip ({error})") from error
    if not arrays:
        raise ValueError(f"{path}: a zip without images or arrays{_few(left_out)}; {_EXPECTED}")
    return _from_arrays(path, headers, kinds, decoding)


def _npy_header(path: str, archive: zipfile.ZipFile | None = None, name: str = "") -> Header:
    """Shape and type of an array, without its values."""
    try:
        with archive.open(name) if archive else open(path, "rb") as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                read = np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
            return shape, dtype
    except _UNREADABLE as error:
        where = f"{path}: array {name!r}" if name else path
        raise ValueError(f"{where}: not a readable array file ({error})") from error


def _values(path: str, name: str) -> np.ndarray:
    """An array of an `.npz` file, or that of an `.npy` file, from which rows are read in place."""
    try:
        if not name:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[name]
    except _UNREADABLE as error:
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
    said += f" and not {', '.join(others[:5])}{', ...' * (len(others) > 5)}" if others else ""
    said += f": {dtype} {shape}"
    if _role(shape, dtype) == "features":
        return Source(path, "features", shape, said, None, functools.partial(_rows, path, values))
    if "images" not in kinds:
        raise ValueError(f"{path}: {said}; expected float features [n, d]")
    return _images(path, values, shape, dtype, decoding, said)


def _role(shape: tuple[int, ...], dtype: np.dtype) -> str | None:
    if len(shape) == 2 and np.issubdtype(dtype, np.floating):
        return "features"
    return "images" if _layout(shape) else None


def _choose(path: str, headers: dict[str, Header], kinds: Sequence[str]) -> str:
    """The name of the array to take."""
    if len(headers) == 1:
        return next(iter(headers))
    for kind in (*kinds, *NAMES):  # what is not asked for is refused by what it is
        fitting = [
            name
            for name, header in headers.items()
            if _role(*header) == kind and not (kind == "features" and name.lower() in NOT_FEATURES)
        ]
        fitting = [name for name in fitting if name.lower() in NAMES[kind]] or fitting
        pixels = [name for name in fitting if headers[name][1] in (np.uint8, np.bool_)]
        fitting = pixels or fitting
        if len(fitting) == 1 or (fitting and kind not in kinds):
            return fitting[0]
        if fitting:
            raise ValueError(
                f"{path}: several arrays hold {kind} ({_listed(headers, fitting)}); name the one "
                f"that is meant {kind!r}, or save it alone"
            )
    raise ValueError(f"{path}: no array of images or features ({_listed(headers)}); {_EXPECTED}")


def _listed(headers: dict[str, Header], names: Iterable[str] | None = None) -> str:
    listed = [f"{name} {headers[name][1]} {headers[name][0]}" for name in names or headers]
    return ", ".join(listed[:6]) + ", ..." * (len(listed) > 6)


def _layout(shape: tuple[int, ...]) -> tuple[tuple[int, int, int, int], bool] | None:
    """The shape with channels last, and whether they come first; None if it is not of images."""
    if 0 in shape or len(shape) not in (3, 4):
        return None
    if len(shape) == 3:  # many rows of 3 pixels are one image with channels
        one_image = shape[2] in CHANNELS[1:] and shape[1] > 2 * shape[2]
        return None if one_image else ((*shape, 1), False)
    n, a, b, c = shape
    first = a in CHANNELS and (c not in CHANNELS or (b == c and a != b))
    if not first and c not in CHANNELS:
        return None
    return ((n, b, c, a), True) if first else (shape, False)


def _images(
    path: str,
    values: Callable[[], np.ndarray],
    shape: tuple[int, ...],
    dtype: np.dtype,
    decoding: Decoding,
    said: str,
) -> Source:
    """Images of an array."""
    if _layout(shape) is None:
        raise ValueError(
            f"{path}: images have shape {shape}; expected [n, h, w], [n, h, w, c] or [n, c, h, w] "
            f"with c in {CHANNELS}, or floating features [n, d]"
        )
    if dtype not in (np.uint8, np.bool_):
        raise ValueError(f"{path}: images are {dtype}{_range_hint(values())}")
    (n, h, w, c), first = _layout(shape)
    colours, side = (1 if c == 1 else 3), decoding.side

    def read(rows: np.ndarray) -> Iterator[np.ndarray]:
        stored = values()
        for part in _cut(rows):
            x = np.asarray(stored[part])
            x = np.moveaxis(x, 1, -1) if first else x.reshape(-1, h, w, c)
            x = x * np.uint8(255) if x.dtype == np.bool_ else x
            if side or c == 4:
                drawn = (Image.fromarray(i[..., 0] if c == 1 else i) for i in x)
                x = np.stack([_decode(image, decoding)[0] for image in drawn])
            yield np.ascontiguousarray(x)

    if len(shape) == 4:
        said += f", channels {'first' if first else 'last'}"
    size = (side, side) if side else (h, w)
    return Source(path, "images", (n, *size, colours), said, (h, w), read)


def _range_hint(x: np.ndarray) -> str:
    """What is expected of images of another type than uint8, and how to get there."""
    expected = "; expected uint8, 0 to 255"
    if x.dtype.kind not in "fiu":
        return expected
    low, high = float(x.min()), float(x.max())
    scaled = {(0, 1): "x * 255", (-1, 1): "(x + 1) * 127.5", (0, 255): "x"}  # narrow ones first
    bounds = [(a, b) for a, b in scaled if a <= low and high <= b]
    how = f": save np.uint8(np.round({scaled[bounds[0]]}))" if bounds else ""
    return f" from {low:g} to {high:g}{expected}{how}"


def _rows(path: str, values: Callable[[], np.ndarray], rows: np.ndarray) -> Iterator[np.ndarray]:
    """Features of an array as float32, checked."""
    stored = values()
    for part in _cut(rows):
        wide = np.asarray(stored[part])
        with np.errstate(over="ignore"):
            narrow = wide.astype(np.float32)
        for x in (wide, narrow):
            finite = np.isfinite(x).all(axis=1)
            if not finite.all():
                row, largest = part[~finite][0], np.abs(wide[~finite][0]).max()
                beyond = f"{largest:.3g}; expected magnitudes of float32, up to 3.4e+38"
                raise ValueError(f"{path}: row {row} holds {'NaN or Inf' if x is wide else beyond}")
        yield narrow


def _cut(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]


def read_idx_images(path: str | Path) -> np.ndarray:
    """Reads a file of the MNIST family (`*-images-idx3-ubyte`, gzipped or not).

    Args:
        path: The file.

    Returns:
        uint8 `[n, h, w, 1]`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not an idx file of 8-bit images, or it is truncated.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; expected an idx file of images")
    with open(path, "rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if zipped else open(path, "rb") as stream:
            head = stream.read(16)
            if len(head) < 16 or struct.unpack(">I", head[:4])[0] != IDX_UINT8_IMAGES:
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
    """Surrounds images with black pixels, evenly, up to `side`.

    Args:
        images: uint8 `[n, h, w, c]`, `h` and `w` at most `side`.
        side: Height and width of the result, pixels.

    Returns:
        uint8 `[n, side, side, c]`.

    Raises:
        ValueError: An image is larger than `side`.
    """
    h, w = images.shape[1:3]
    if max(h, w) > side:
        raise ValueError(f"images of {h}×{w} pixels do not fit into {side}×{side}")
    rows, columns = side - h, side - w
    pad = ((0, 0), (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0))
    return np.pad(images, pad)


# --- image files ---------------------------------------------------------------------------------

Open = Callable[[str], IO[bytes]]


def _is_image_name(name: str) -> bool:
    ending = os.path.splitext(name)[1].lower()
    return Image.registered_extensions().get(ending) not in _NO_IMAGES


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM


def _image_names(names: Iterable[str]) -> tuple[list[str], Counter]:
    """The names of image files, in order of path, and how many others there are of which kind."""
    found, left_out = [], Counter()
    for name in names:
        if any(map(_hidden, name.split("/"))):
            left_out["hidden"] += 1
        elif _is_image_name(name):
            found.append(name)
        else:
            left_out[os.path.splitext(name)[1].lower() or "without ending"] += 1
    return sorted(found, key=lambda name: name.split("/")), left_out


def _folder(path: str) -> tuple[list[str], Open, Counter]:
    """The image files of a folder, as `_image_files` takes them.

    Links are followed; a folder that is reached twice, or that holds the link, is read once.
    """
    seen, passed, found, waiting = set(), Counter(), [], [path]
    for top in waiting:  # grows: folders behind links come after those that are in the tree
        for folder, folders, files in os.walk(top, onerror=_refuse):
            identity = os.path.realpath(folder)
            if identity in seen:
                passed["folders reached twice"] += 1
                folders.clear()
                continue
            seen.add(identity)
            for name in [*folders, *files]:
                full = os.path.join(folder, name)
                if _hidden(name) or not os.path.islink(full):
                    continue
                if not os.path.exists(full):
                    raise ValueError(f"{full}: a link to {os.readlink(full)}, which is not there")
                target = os.path.realpath(full)
                if not os.path.isdir(target):
                    continue
                if f"{identity}/".startswith(f"{target.rstrip('/')}/"):
                    passed["links to folders that they are in"] += 1
                else:
                    waiting.append(full)
            shown = [name for name in folders if not _hidden(name)]
            passed["hidden folders"] += len(folders) - len(shown)
            folders[:] = shown
            found += [os.path.relpath(os.path.join(folder, name), path) for name in files]
    names, left_out = _image_names(name.replace(os.sep, "/") for name in found)
    left_out += passed  # of counts above 0
    return names, lambda name: open(os.path.join(path, name), "rb"), left_out


def _refuse(error: OSError) -> None:
    """What `os.walk` would pass over: a folder that cannot be read."""
    raise error


class _Look(NamedTuple):
    """What the header of an image file says."""

    size: tuple[int, int]  # height, width
    channels: int
    transparent: bool
    frames: bool  # several


def _look(image: Image.Image, decoding: Decoding) -> _Look:
    width, height = image.size
    # Of PNG files Pillow's own `getexif` would decode the pixels; TIFF files are turned already.
    orientation = Image.Image.getexif(image).get(0x0112, 1)
    if orientation in (5, 6, 7, 8) and image.format != "TIFF":
        width, height = height, width
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise TypeError(
            f"pixels of mode {image.mode!r}, whose range is unknown; expected 8 or 16 bits"
        )
    if _cut_to_eight(image) and decoding.white_level not in (0, 65535):
        raise TypeError("colours of 16 bits, of which 8 are read; without reference.white_level")
    channels = 1 if image.mode in _GREY else 3
    frames = getattr(image, "is_animated", False)
    return _Look((height, width), channels, image.has_transparency_data, bool(frames))


def _cut_to_eight(image: Image.Image) -> bool:
    """Whether Pillow reads the upper 8 of 16 bits, as of colours."""
    tiles = getattr(image, "tile", ())
    return image.mode not in _SIXTEEN_BIT and any(";16" in str(tile[3]) for tile in tiles)


def _image_files(
    path: str, names: list[str], open_: Open, left_out: Counter, decoding: Decoding
) -> Source:
    """Images of files.

    Args:
        path: Of the folder or zip.
        names: Of the files, in order.
        open_: Opens a name for reading.
        left_out: Numbers of others, by kind.
        decoding: How they are decoded.
    """
    if not names:
        raise ValueError(
            f"{path}: no images{_few(left_out)}; expected files such as .png or .jpg, or the path "
            "of an array or a zip itself"
        )

    def use(name: str, function: Callable[[Image.Image, Decoding], Any]) -> Any:
        where = f"{path}/{name}"
        try:
            # As a stream: of a path Pillow maps some TIFF files, and does not turn those.
            with open_(name) as stream, Image.open(stream) as image:
                return function(image, decoding)
        except TypeError as error:
            raise ValueError(f"{where}: {error}") from error
        except _UNREADABLE as error:
            raise ValueError(f"{where}: not a readable image ({error})") from error

    first: dict[_Look, str] = {}
    count: Counter[_Look] = Counter()
    with ThreadPoolExecutor() as pool:
        parts = (names[i : i + 1024] for i in range(0, len(names), 1024))
        looks = (pool.map(lambda name: use(name, _look), part) for part in parts)
        looks = progress(itertools.chain.from_iterable(looks), len(names), "reading headers")
        for name, look in zip(names, looks, strict=True):
            first.setdefault(look, name)
            count[look] += 1
    (look, name), *others = first.items()
    for other, other_name in others if decoding.side == 0 else ():
        if other.size != look.size:
            (h, w), (height, width) = other.size, look.size
            raise ValueError(
                f"{path}/{other_name}: {w}×{h} pixels, but {name} has {width}×{height}; set "
                "reference.side to crop and resize all to one size"
            )
    channels = max(look.channels for look in count)
    size = (decoding.side, decoding.side) if decoding.side else look.size

    def decode(row: int) -> tuple[np.ndarray, int]:
        pixels, peak = use(names[row], _decode)
        if pixels.shape[:2] != size:
            raise ValueError(f"{path}/{names[row]}: its header says another size than its pixels")
        return np.broadcast_to(pixels, (*size, channels)), peak

    def read(rows: np.ndarray) -> Iterator[np.ndarray]:
        brightest = 0
        with ThreadPoolExecutor() as pool:
            batches = (pool.map(decode, part) for part in _cut(rows))
            batch = next(batches)
            for following in itertools.chain(batches, [None]):  # is decoded meanwhile
                pixels, peaks = zip(*batch, strict=True)
                brightest = max(brightest, *peaks)
                yield np.stack(pixels)
                batch = following
        if 0 < brightest < 2**14 and not decoding.white_level:
            white = 2 ** max(8, brightest.bit_length()) - 1
            raise ValueError(
                f"{path}: files of 16 bits without a value above {brightest} would be dark, as "
                f"scans of {white.bit_length()} bits are: say --config.reference.white_level="
                f"{white}, or 65535 if they are dark (of colours, convert them to 8 bits)"
            )

    said = f"{len(names)} image files{_few(left_out)}"
    transparent = sum(count[look] for look in count if look.transparent)
    if transparent:
        said += f"; {transparent} with transparency, laid on grey level {decoding.background}"
    frames = sum(count[look] for look in count if look.frames)
    said += f"; {frames} of several frames, of which the first is taken" if frames else ""
    return Source(path, "images", (len(names), *size, channels), said, look.size, read)


def _few(left_out: Counter) -> str:
    kinds = [f"{number} {kind}" for kind, number in left_out.most_common(6)]
    return f"; left out: {', '.join(kinds)}{', ...' * (len(left_out) > 6)}" if kinds else ""


def _decode(image: Image.Image, decoding: Decoding) -> tuple[np.ndarray, int]:
    """Decodes an image to uint8 `[h, w, c]`, and its largest value if it has 16 bits, else 0."""
    background, cut, peak = decoding.background, _cut_to_eight(image), 0
    image.load()  # turns TIFF files
    ImageOps.exif_transpose(image, in_place=True)
    mode = "L" if image.mode in _GREY else "RGB"
    if image.mode in _SIXTEEN_BIT or image.mode == "I":
        # Pillow gives files of the PNM family in mode I scaled to 16 bits, whatever their range.
        white = 65535 if image.mode == "I" else decoding.white_level or 65535
        values = np.asarray(image).astype(np.int64)
        peak = 65535 if image.mode == "I" else int(values.max())
        scaled = ((values * 255 + white // 2) // white).clip(0, 255)
        scaled[values == image.info.get("transparency", -1)] = background
        image = Image.fromarray(scaled.astype(np.uint8))
    elif image.has_transparency_data:
        ground = Image.new("RGBA", image.size, (background, background, background, 255))
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    image = image.convert(mode)
    if cut:
        peak = int(np.asarray(image).max()) << 8 | 255
    if decoding.side:
        width, height = image.size
        edge = min(width, height)
        left, top = (width - edge) // 2, (height - edge) // 2
        # Cropped first: `resize(box=...)` would let pixels outside the square bleed in.
        image = image.crop((left, top, left + edge, top + edge))
        image = image.resize((decoding.side, decoding.side), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    return pixels.reshape(*pixels.shape[:2], -1), peak


def progress(parts: Iterable, total: int, description: str) -> Iterator:
    """Goes through parts with a bar that counts their rows; silent where there is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, transient=True, disable=not Console().is_terminal) as bar:
        task = bar.add_task(description, total=total)
        for part in parts:
            yield part
            bar.advance(task, len(part) if isinstance(part, np.ndarray) else 1)
