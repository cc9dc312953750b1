"""Image files in folders and zips: finds them, reads their headers, and decodes them."""

import itertools
import os
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from absl import logging
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION

from lsh_gan.datasets.source import Decoding, Source, cut, progress
from lsh_gan.errors import few

# Names that are left out of folders and zips, as are names that begin with a dot.
_SYSTEM = ("__macosx", "@eadir", "$recycle.bin", "thumbs.db", "desktop.ini")
# Formats of endings that are left out: unknown to Pillow, no images, or drawn by other programs.
_NO_IMAGES = (None, "PDF", "EPS", "WMF", "HDF5", "GRIB", "BUFR", "MPEG")
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes
_GREY = ("1", "L", "LA", "La", "I", *_SIXTEEN_BIT)
UNREADABLE = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, RuntimeError, struct.error, zlib.error,
    zipfile.BadZipFile, Image.DecompressionBombError,
)  # fmt: skip

Open = Callable[[str], IO[bytes]]


def is_image_name(name: str) -> bool:
    """Whether a file of this name is an image that Pillow reads by itself."""
    ending = os.path.splitext(name)[1].lower()
    return Image.registered_extensions().get(ending) not in _NO_IMAGES


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM


def image_names(names: Iterable[str]) -> tuple[list[str], Counter]:
    """Returns the names of image files, in order of path, and counts of other files by kind."""
    found: list[str] = []
    left_out: Counter[str] = Counter()
    for name in names:
        if any(map(_hidden, name.split("/"))):
            left_out["hidden"] += 1
        elif is_image_name(name):
            found.append(name)
        else:
            left_out[os.path.splitext(name)[1].lower() or "without ending"] += 1
    return sorted(found, key=lambda name: name.split("/")), left_out


def list_folder(path: str) -> tuple[list[str], Open, Counter]:
    """Lists the image files of a folder for `open_files`; follows links, reads each folder once."""
    seen = set(map(str, Path(path).resolve().parents))
    passed: Counter[str] = Counter()
    found = []
    for folder, folders, files in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            passed["folders reached twice"] += 1
            folders.clear()
            continue
        seen.add(real)
        passed["hidden folders"] += sum(map(_hidden, folders))
        folders[:] = sorted(name for name in folders if not _hidden(name))
        for file in (os.path.join(folder, name) for name in files if not _hidden(name)):
            if not os.path.exists(file):
                raise ValueError(f"{file}: a link to {os.readlink(file)}, which is not there")
        found += [os.path.relpath(os.path.join(folder, name), path) for name in files]
    names, left_out = image_names(name.replace(os.sep, "/") for name in found)
    left_out += passed  # drops counts of 0
    return names, lambda name: open(os.path.join(path, name), "rb"), left_out


class _Look(NamedTuple):
    """Properties of an image that the header of its file gives."""

    size: tuple[int, int]  # height, width
    channels: int
    transparent: bool
    frames: bool  # whether there are several


def _look(image: Image.Image, decoding: Decoding) -> _Look:
    width, height = image.size
    # For PNG files, Pillow's own `getexif` would decode the pixels. TIFF files are turned already.
    orientation = Image.Image.getexif(image).get(0x0112, 1)
    if orientation in (5, 6, 7, 8) and image.format != "TIFF":
        width, height = height, width
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise TypeError(
            f"pixels of mode {image.mode!r}, whose range is unknown; expected 8 or 16 bits"
        )
    if _cut_to_eight(image) and decoding.white_level not in (0, 65535):
        raise TypeError("colours of 16 bits, of which 8 are read; remove reference.white_level")
    channels = 1 if image.mode in _GREY else 3
    frames = getattr(image, "is_animated", False)
    return _Look((height, width), channels, image.has_transparency_data, bool(frames))


def _cut_to_eight(image: Image.Image) -> bool:
    """Whether Pillow reads only the upper 8 of 16 bits, as it does for colours."""
    tiles = getattr(image, "tile", ())
    return image.mode not in _SIXTEEN_BIT and any(";16" in str(tile[3]) for tile in tiles)


def open_files(
    path: str, names: list[str], open_: Open, left_out: Counter, decoding: Decoding
) -> Source:
    """Makes a source of image files, in order; `left_out` counts the other files by kind."""
    if not names:
        raise ValueError(
            f"{path}: no images{rest(left_out)}; expected files such as .png or .jpg, or the path "
            "of an array or a zip itself"
        )

    def use(name: str, function: Callable[[Image.Image, Decoding], Any]) -> Any:
        try:
            # As a stream: given a path, Pillow memory-maps some TIFF files and does not turn them.
            with open_(name) as stream, Image.open(stream) as image:
                return function(image, decoding)
        except (TypeError, *UNREADABLE) as error:
            said = str(error)
            if not isinstance(error, TypeError):
                unknown = isinstance(error, UnidentifiedImageError)  # its message names the stream
                said = f"not a readable image ({'of no known format' if unknown else said})"
                if decoding.on_error == "fail":
                    said += "; reference.on_error = 'skip' leaves such files out"
            raise ValueError(f"{path}/{name}: {said}") from error

    def look_at(name: str) -> _Look | None:
        try:
            if decoding.on_error == "skip":
                use(name, decode)
            return use(name, _look)
        except ValueError as error:
            if decoding.on_error == "fail":
                raise
            logging.warning("%s: is left out", error)
            return None

    first: dict[_Look, str] = {}
    count: Counter[_Look] = Counter()
    found = []
    with ThreadPoolExecutor() as pool:
        parts = (names[i : i + 1024] for i in range(0, len(names), 1024))
        looks = itertools.chain.from_iterable(pool.map(look_at, part) for part in parts)
        bar = progress(looks, len(names), "reading headers")
        for name, look in zip(names, bar, strict=True):
            if look is not None:
                found.append(name)
                first.setdefault(look, name)
                count[look] += 1
    if damaged := len(names) - len(found):
        left_out, names = left_out + Counter({"that cannot be read": damaged}), found
    if not names:
        raise ValueError(f"{path}: none of its {damaged} images can be read")
    (usual, usual_name), *others = first.items()
    (height, width) = usual.size
    for ((h, w), *_), other_name in others if decoding.side == 0 else ():
        if (h, w) != usual.size:
            raise ValueError(
                f"{path}/{other_name}: {w}×{h} pixels, but {usual_name} has {width}×{height}; set "
                "reference.side (of `evaluate`: resize) to crop and resize all to one size"
            )
    channels = max(look.channels for look in count)
    size = (decoding.side, decoding.side) if decoding.side else usual.size

    def decode_row(row: int) -> tuple[np.ndarray, int]:
        pixels, peak = use(names[row], decode)
        if pixels.shape[:2] != size:
            raise ValueError(f"{path}/{names[row]}: its header says another size than its pixels")
        return np.broadcast_to(pixels, (*size, channels)), peak

    brightest = 0  # of all rows read so far, because a few images of a set may be dark

    def read(rows: np.ndarray) -> Iterator[np.ndarray]:
        nonlocal brightest
        with ThreadPoolExecutor() as pool:
            batches = (pool.map(decode_row, part) for part in cut(rows))
            # While one batch is used, the next one is decoded.
            for batch, _ in itertools.pairwise(itertools.chain(batches, [iter(())])):
                pixels, peaks = zip(*batch, strict=True)
                brightest = max(brightest, *peaks)
                yield np.stack(pixels)
        if 0 < brightest < 2**14 and not decoding.white_level:
            white = 2 ** max(8, brightest.bit_length()) - 1
            raise ValueError(
                f"{path}: files of 16 bits without a value above {brightest} would be dark, as "
                f"scans of {white.bit_length()} bits are: say --config.reference.white_level="
                f"{white}, or 65535 if they are dark (of colours, convert them to 8 bits)"
            )

    said = f"{len(names)} image files{rest(left_out)}"
    if transparent := sum(count[look] for look in count if look.transparent):
        said += f"; {transparent} with alpha, laid on grey level {decoding.background}"
    if frames := sum(count[look] for look in count if look.frames):
        said += f"; {frames} of several frames, of which the first is taken"
    return Source(path, "images", (len(names), *size, channels), said, usual.size, read)


def rest(left_out: Counter) -> str:
    """Says in words what was left out; "" if nothing."""
    kinds = few(f"{number} {kind}" for kind, number in left_out.most_common())
    return f"; left out: {kinds}" if kinds else ""


def decode(image: Image.Image, decoding: Decoding) -> tuple[np.ndarray, int]:
    """Decodes an image to uint8 `[h, w, c]`, and its largest value if it has 16 bits, else 0."""
    background, cut, peak = decoding.background, _cut_to_eight(image), 0
    image.load()  # turns TIFF files
    ImageOps.exif_transpose(image, in_place=True)
    mode = "L" if image.mode in _GREY else "RGB"
    if image.mode in _SIXTEEN_BIT or image.mode == "I":
        # Pillow reads PNM files in mode I, scaled to 16 bits whatever their range.
        white = 65535 if image.mode == "I" else decoding.white_level or 65535
        values = np.asarray(image).astype(np.int64)
        peak = 65535 if image.mode == "I" else int(values.max())
        scaled = ((values * 255 + white // 2) // white).clip(0, 255)
        if getattr(image, "tag_v2", {}).get(PHOTOMETRIC_INTERPRETATION) == 0:
            scaled = 255 - scaled  # TIFF files where 0 is white; Pillow inverts those of 8 bits
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
        # Crop first: `resize(box=...)` would mix in pixels from outside the square.
        image = image.crop((left, top, left + edge, top + edge))
        image = image.resize((decoding.side, decoding.side), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    return pixels.reshape(*pixels.shape[:2], -1), peak
