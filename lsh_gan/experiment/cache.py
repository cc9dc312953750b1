"""Results on disk that need not be computed twice: checked when read, never trusted."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import platformdirs
from absl import logging
from safetensors import SafetensorError

T = TypeVar("T")
FOLDER_VARIABLE = "LSH_GAN_CACHE"  # of the environment: another folder


def folder() -> Path:
    """The user's cache folder of this program, which every run shares; it may be deleted."""
    return Path(os.environ.get(FOLDER_VARIABLE) or platformdirs.user_cache_dir("lsh-gan"))


def cached(
    file: Path, *, read: Callable[[Path], T], make: Callable[[], T], write: Callable[[Path, T], Any]
) -> T:
    """Returns what `file` holds; makes and writes it if there is none, or a damaged or stale one.

    A file that cannot be written is a warning. It appears whole, whoever else writes it.

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
    part = file.with_name(f"{os.getpid()}.{file.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write(part, value)
        part.replace(file)
    except (OSError, SafetensorError) as error:
        logging.warning("%s: is not kept (%s)", file, getattr(error, "strerror", None) or error)
        part.unlink(missing_ok=True)
    return value
