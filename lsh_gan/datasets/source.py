"""What all sources have in common: images or features that are read a batch at a time."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import track

BATCH = 32


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Images or features that were found at a path."""

    path: str  #: the path as given
    kind: str  #: "images" or "features"
    shape: tuple[int, ...]  #: `(n, h, w, c)` of images once they are decoded, or `(n, d)`
    taken: str  #: what was taken and what was left out, in words
    #: Height and width of the first image as it is stored; None for features.
    first_size: tuple[int, int] | None
    #: Function of row indices that yields these rows in batches, uint8 or float32.
    read: Callable[[np.ndarray], Iterator[np.ndarray]] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def dtype(self) -> str:
        """Type of the values that are read."""
        return "uint8" if self.kind == "images" else "float32"

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """Height, width and channels; None for features."""
        if self.kind != "images":
            return None
        _, height, width, channels = self.shape
        return height, width, channels

    def load(self) -> np.ndarray:
        """Reads all rows: uint8 `[n, h, w, c]` or float32 `[n, d]`; raises as `open_source`."""
        return np.concatenate(list(self.read(np.arange(len(self)))))


class Decoding(NamedTuple):
    """How stored images become uint8 `[h, w, c]`."""

    #: 0 keeps the sizes, which must be equal. Else the largest centred square of each image is
    #: resized to `side` pixels (Lanczos), as is usual for GAN data sets.
    side: int = 0
    background: int = 255  #: grey level behind transparent images, 0 black to 255 white
    #: Value of white in 16-bit files. 0 means 65535, and refuses data sets that never reach a
    #: quarter of it, because they look like scans of 10 to 14 bits.
    white_level: int = 0
    #: 'fail': an image that cannot be read is an error. 'skip': all image files are decoded once
    #: when they are opened, and those that cannot be read are left out.
    on_error: str = "fail"


AS_STORED = Decoding()


def cut(rows: np.ndarray) -> list[np.ndarray]:
    """Splits row indices into batches."""
    return [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]


def has_bars() -> bool:
    """Returns whether progress bars can be drawn; they cannot below a "!" of a notebook."""
    return Console().is_terminal and "JPY_PARENT_PID" not in os.environ  # where no cursor goes up


def progress(parts: Iterable, total: int, description: str) -> Iterable:
    """Iterates over `total` parts with a progress bar; without a terminal, shows none."""
    return track(parts, escape(description), total, transient=True, disable=not has_bars())
