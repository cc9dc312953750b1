"""Results on disk that need not be computed twice: checked when read, never trusted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from absl import logging

T = TypeVar("T")


def kept(
    file: Path, *, read: Callable[[Path], T], make: Callable[[], T], write: Callable[[Path, T], Any]
) -> T:
    """Returns what `file` holds; makes and writes it if there is none, or a damaged or stale one.

    Args:
        file: Where it is kept; the folder is made if missing.
        read: Reads the file; raises ValueError for one that is damaged or of other content.
        make: Computes the value.
        write: Writes the value.
    """
    if file.exists():
        try:
            return read(file)
        except ValueError as error:
            logging.warning("%s; it is computed again", str(error).rstrip("."))
    value = make()
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file, value)
    return value
