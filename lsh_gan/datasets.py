"""Reference images: uint8 `[n, h, w, c]`."""

import gzip
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

PACKAGED = Path(__file__).parent / "packaged"
SHIPPED = ("fashion_mnist",)
IDX_UINT8_IMAGES = 0x00000803
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes
_RANGE_UNKNOWN = ("I", "F")


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
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected an idx file of images")
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, OSError) as error:
        raise ValueError(f"{path}: not a complete gzip file ({error})") from error
    if len(data) < 16 or struct.unpack(">I", data[:4])[0] != IDX_UINT8_IMAGES:
        raise ValueError(f"{path}: not an idx file of 8-bit images (magic {data[:4].hex()!r})")
    n, h, w = struct.unpack(">3I", data[4:16])
    if len(data) != 16 + n * h * w:
        raise ValueError(f"{path}: {len(data) - 16} bytes of pixels, expected {n}×{h}×{w}")
    return np.frombuffer(data, np.uint8, offset=16).reshape(n, h, w, 1)


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


def load_images(source: str | Path, *, side: int = 0) -> np.ndarray:
    """Loads reference images.

    Args:
        source: 'fashion_mnist' (the shipped 10,000 test images, padded to 32×32), a folder of
            images (searched recursively, in order of path), an idx file, or an `.npz` or `.npy`
            file of uint8 `[n, h, w]`, `[n, h, w, 1]` or `[n, h, w, 3]` (in an npz the first array).
        side: 0 keeps the images, which must then all have one size. Otherwise the largest centred
            square of each is resized to `side` pixels (Lanczos), as is usual for GAN data sets.

    Returns:
        Uint8 `[n, h, w, c]`, c in {1, 3}.

    Raises:
        FileNotFoundError: No such source.
        ValueError: An empty folder, a file that is no image, mixed sizes with `side=0`, or an array
            of another type or rank.
    """
    if str(source) in SHIPPED:
        images = pad_to(_read_array(PACKAGED / str(source) / "images.npz"), 32)
        return images if side in (0, 32) else np.stack([_square(i, side) for i in images])
    path = Path(source)
    if path.is_dir():
        return _read_folder(path, side)
    if not path.is_file():
        raise FileNotFoundError(
            f"images {str(source)!r}: no such folder or file; shipped: {', '.join(SHIPPED)}"
        )
    images = _read_array(path) if path.suffix in (".npz", ".npy") else read_idx_images(path)
    return images if side == 0 else np.stack([_square(image, side) for image in images])


def image_shape(source: str | Path, *, side: int = 0) -> tuple[int, int, int, int]:
    """Shape `(n, h, w, c)` of what `load_images` returns; of files from their headers alone.

    Raises:
        FileNotFoundError, ValueError: As `load_images`, but for what only pixels show.
    """
    path = Path(source)
    if str(source) in SHIPPED:
        n, height, width, channels = len(load_images(source)), 32, 32, 1
    elif path.is_dir():
        files = _files(path)
        headers = [_header(file) for file in _track(files, "reading sizes")]
        if side == 0:
            _check_one_size(files, [size for size, _ in headers])
        (width, height), channels = headers[0][0], max(channels for _, channels in headers)
        n = len(files)
    elif path.suffix in (".npz", ".npy") and path.is_file():
        n, height, width, channels = _check_array(path, *array_header(path))
    else:
        n, height, width, channels = load_images(source).shape
    return (n, side, side, channels) if side else (n, height, width, channels)


def first_size(source: str | Path) -> tuple[int, int]:
    """Height and width of the first image of a source as it is; raises as `image_shape`."""
    if Path(source).is_dir():
        return _header(_files(Path(source))[0])[0][::-1]
    return image_shape(source)[1:3]


def _read_array(path: Path) -> np.ndarray:
    images = load_array(path)
    return images.reshape(_check_array(path, images.shape, images.dtype))


def _check_array(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, int, int, int]:
    """Returns the shape of images with the axis of the channels."""
    if dtype != np.uint8:
        raise ValueError(f"{path}: images are {dtype}; expected uint8, 0 to 255")
    shape = (*shape, 1) if len(shape) == 3 else shape
    if len(shape) != 4 or shape[-1] not in (1, 3) or 0 in shape:
        raise ValueError(f"{path}: images have shape {shape}; expected [n, h, w, 1 or 3]")
    return shape


def array_header(path: str | Path) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array that `load_array` returns, without reading its values.

    Raises:
        FileNotFoundError, ValueError: As `load_array`.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as member:
                return _npy_header(member)
        with Path(path).open("rb") as stream:
            return _npy_header(stream)
    except (ValueError, OSError, EOFError, IndexError, zipfile.BadZipFile):
        loaded = load_array(path)  # says what is wrong, or knows the rare format
        return loaded.shape, loaded.dtype


def _npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(stream)
    if version not in readers:
        raise ValueError(f"version {version}")
    shape, _, dtype = readers[version](stream)
    return shape, dtype


def load_array(path: str | Path) -> np.ndarray:
    """Reads the array of an `.npy` file, or the first one of an `.npz` file; never a pickle.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, holds Python objects, or is a folder.
    """
    if Path(path).is_dir():
        raise ValueError(f"{path}: is a folder; expected an .npy or .npz file")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with Path(path).open("rb") as stream:
            loaded = np.load(stream, allow_pickle=False)
            return loaded if isinstance(loaded, np.ndarray) else loaded[loaded.files[0]]
    except (ValueError, OSError, EOFError, IndexError, zipfile.BadZipFile) as error:
        # NumPy takes whatever it does not know for a pickle, and advises to run it.
        reason = "neither .npy nor .npz" if "pickle" in str(error) else error
        raise ValueError(f"{path}: not a readable array file ({reason})") from error


def _read_folder(folder: Path, side: int) -> np.ndarray:
    files = _files(folder)
    if side == 0:
        _check_one_size(files, (_header(file)[0] for file in files))
    images = [_read_file(file, side) for file in _track(files, "reading images")]
    if len({image.shape[-1] for image in images}) > 1:
        images = [np.repeat(i, 3, -1) if i.shape[-1] == 1 else i for i in images]
    return np.stack(images)


def _track(files: list[Path], description: str) -> Iterable[Path]:
    """A bar while files are read; silent where there is no terminal."""
    return track(files, description, transient=True, disable=not Console().is_terminal)


def _files(folder: Path) -> list[Path]:
    extensions = Image.registered_extensions()
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in extensions)
    if not files:
        raise ValueError(f"{folder}: no images; expected files such as .png or .jpg")
    return files


def _header(file: Path) -> tuple[tuple[int, int], int]:
    """Width and height of an image, and its channels once it is decoded."""
    try:
        with Image.open(file) as image:
            return image.size, 1 if _is_grey(image) else 3
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file}: not a readable image ({error})") from error


def _check_one_size(files: list[Path], sizes: Iterable[tuple[int, int]]) -> None:
    """Compares the sizes in the headers, before any pixel is decoded."""
    first = None
    for file, size in zip(files, sizes, strict=True):
        first = first or size
        if size != first:
            raise ValueError(
                f"{file}: {size[0]}×{size[1]} pixels, but {files[0].name} has {first[0]}×{first[1]}"
                "; set reference.side to crop and resize all to one size"
            )


def _read_file(file: Path, side: int) -> np.ndarray:
    try:
        with Image.open(file) as image:
            pixels = _eight_bit(file, image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file}: not a readable image ({error})") from error
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return _square(pixels, side) if side else pixels


def _is_grey(image: Image.Image) -> bool:
    return image.mode in ("1", "L", *_SIXTEEN_BIT, *_RANGE_UNKNOWN)


def _eight_bit(file: Path, image: Image.Image) -> np.ndarray:
    """Decodes to uint8 `[h, w]` or `[h, w, 3]`, 16 bits to the nearest of 8 (65535 is white)."""
    # Pillow gives files of the PNM family in mode I scaled to 16 bits, whatever their range.
    if image.mode in _SIXTEEN_BIT or (image.mode == "I" and image.format == "PPM"):
        return ((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)
    if image.mode in _RANGE_UNKNOWN:
        raise ValueError(
            f"{file}: pixels of mode {image.mode!r}, whose range is unknown; expected 8 or 16 bits"
        )
    return np.asarray(image.convert("L" if _is_grey(image) else "RGB"))


def _square(pixels: np.ndarray, side: int) -> np.ndarray:
    """Crops `[h, w, c]` to its largest centred square and resizes that to `[side, side, c]`."""
    h, w, channels = pixels.shape
    edge = min(h, w)
    left, top = (w - edge) // 2, (h - edge) // 2
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    # Cropped first: `resize(box=...)` would let pixels outside the square bleed in.
    square = image.crop((left, top, left + edge, top + edge))
    resized = square.resize((side, side), Image.Resampling.LANCZOS)
    return np.asarray(resized).reshape(side, side, channels)
