"""What all sources have in common: images or features that are read a batch at a time."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

BATCH = 32


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """What was found at a path."""

    path: str  #: as given
    kind: str  #: "images" or "features"
    shape: tuple[int, ...]  #: `(n, h, w, c)` of images once they are decoded, or `(n, d)`
    taken: str  #: what was taken and what was left out, in words
    #: Height and width of the first image as it is stored; None for features.
    first_size: tuple[int, int] | None
    #: Function of the numbers of rows that yields them in batches, uint8 or float32.
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
        if self.kind != "images":
            return None
        _, height, width, channels = self.shape
        return height, width, channels

    def load(self) -> np.ndarray:
        """All rows: uint8 `[n, h, w, c]` or float32 `[n, d]`; raises as `open_source`."""
        return np.concatenate(list(self.read(np.arange(len(self)))))


class Decoding(NamedTuple):
    """How stored images become uint8 `[h, w, c]`."""

    #: 0 keeps sizes, which must then be equal; else the largest centred square of each is resized
    #: to `side` pixels (Lanczos), as is usual for GAN data sets.
    side: int = 0
    background: int = 255  #: grey level below transparent images, 0 black to 255 white
    #: The value of files of 16 bits that is white; 0 takes 65535, and refuses sets that never reach
    #: a quarter of it, because scans of 10 to 14 bits look like that.
    white_level: int = 0
    #: 'fail' makes an image that cannot be read an error; 'skip' decodes all image files once when
    #: they are opened, and leaves those out.
    on_error: str = "fail"


AS_STORED = Decoding()


def cut(rows: np.ndarray) -> list[np.ndarray]:
    """Cuts numbers of rows into batches."""
    return [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]


def progress(parts: Iterable, total: int, description: str) -> Iterable:
    """Goes through so many parts with a bar; silent where there is no terminal."""
    return track(parts, description, total, transient=True, disable=not Console().is_terminal)
