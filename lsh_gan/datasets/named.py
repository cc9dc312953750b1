"""Named data sets: their images, files and licences.

`name` gives the test images, which no generator was trained on; `name:train` the training images.
`stacked_mnist` is made of the images of `mnist`: its 1,000 modes are known (see `stack`).
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from lsh_gan.errors import choose

PACKAGED = Path(__file__).parent.parent / "packaged"
FOLDER_VARIABLE = "LSH_GAN_CACHE"  # environment variable for another cache folder
TRAIN = ":train"
_ROUNDS = 10  # uses of each training image per channel of a stacked data set


def cache_folder() -> Path:
    """Returns the cache folder of the user, which all runs share; it may be deleted."""
    return Path(os.environ.get(FOLDER_VARIABLE) or platformdirs.user_cache_dir("lsh_gan"))


@dataclasses.dataclass(frozen=True)
class NamedDataset:
    """A named data set.

    Its file holds the test set: uint8 `images [n, h, w]` or `[n, h, w, 3]` and, if there are
    classes, integer `labels [n]`. A fetched file also holds `train_images` and `train_labels`.
    """

    name: str  # name that replaces a path
    licence: str  # of the images, and of the package that they come in
    fetched: bool = False  # whether `checkpoints_tools.fetch` fetches it; else it is only shipped
    stacks: str = ""  # name of the data set whose images are stacked, see `stack`

    def cached_file(self) -> Path:
        """Returns the path to which `checkpoints_tools.fetch` writes it."""
        return cache_folder() / "datasets" / f"{self.name}.npz"


_MNIST = "CC BY-SA 3.0, copyright Y. LeCun and C. Cortes; package MIT, copyright Juan Cazala"
_NOTO = "Apache-2.0, Google (Noto Emoji); package MIT, copyright Cal Henderson"
_NASA = "NASA Blue Marble, not under copyright; package MIT, copyright Jeffrey Whitaker"
NAMED = {
    dataset.name: dataset
    for dataset in (
        NamedDataset("fashion_mnist", "MIT, copyright Zalando SE"),
        NamedDataset("mnist", _MNIST, fetched=True),
        NamedDataset("stacked_mnist", _MNIST, stacks="mnist"),
        NamedDataset("animals", "MIT, copyright SinaSR-6", fetched=True),
        NamedDataset("emoji", _NOTO, fetched=True),
        NamedDataset("earth", _NASA, fetched=True),
    )
}


def find_named(name: str) -> NamedDataset:
    """Finds a data set by name, with or without `:train`; raises ValueError if unknown."""
    return choose("data set", name.removesuffix(TRAIN), NAMED)


def is_named(path: str) -> bool:
    """Whether a path is the name of a data set, with or without `:train`."""
    return path.removesuffix(TRAIN) in NAMED


def named_file(path: str) -> Path:
    """Returns the file with the images of a name; it may not be fetched yet."""
    dataset = find_named(path)
    dataset = NAMED.get(dataset.stacks, dataset)
    shipped = PACKAGED / dataset.name / "images.npz"
    is_shipped = not path.endswith(TRAIN) and shipped.is_file()
    return shipped if is_shipped else dataset.cached_file()


def load_named(path: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads images and labels of `name` (the test set) or of `name:train` (the training set).

    Returns uint8 `[n, h, w, c]`, and integer labels `[n]`: classes, modes of a stacked data set, or
    None.

    Raises:
        ValueError: No data set of that name; or its training images cannot be fetched.
        FileNotFoundError: The data set must be fetched first; the message has the command.
    """
    name, of_training = path.removesuffix(TRAIN), path.endswith(TRAIN)
    if stacks := find_named(name).stacks:
        images, labels = load_named(stacks + TRAIN * of_training)
        return stack(images, labels, _ROUNDS if of_training else 1)
    file = named_file(path)
    if not file.is_file() and not NAMED[name].fetched:
        raise ValueError(f"{path!r}: only its test images are shipped, as {name!r}")
    if not file.is_file():
        raise FileNotFoundError(
            f"{path!r}: not fetched yet; run python -m checkpoints_tools.fetch {name}"
        )
    split = "train_" if of_training else ""
    with np.load(file) as arrays:
        images, labels = arrays[f"{split}images"], arrays.get(f"{split}labels")
    return images if images.ndim == 4 else images[..., None], labels


def stack(images: np.ndarray, labels: Any, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Puts three random grey images into the channels of a colour image.

    Each of `images [n, h, w, 1]`, with `labels [n]` 0 to 9, is in each channel once per round. This
    makes 1,000 modes, to count how many of them a generator covers (Metz et al. 2017,
    arXiv:1611.02163, appendix D, with all images of MNIST).

    Returns:
        Uint8 `[rounds n, h, w, 3]`, and modes `[rounds n]`: the three classes as decimal digits.

    Examples:
        >>> grey = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
        >>> colour, modes = stack(grey, np.arange(10), 2)
        >>> colour.shape, bool((colour[:, 0, 0] @ [100, 10, 1] == modes).all())
        ((20, 1, 1, 3), True)
    """
    rng, n = np.random.default_rng(0), len(images)
    rows = np.stack([[rng.permutation(n) for _ in range(3)] for _ in range(rounds)])
    rows = rows.swapaxes(1, 2).reshape(-1, 3)
    return images[rows, :, :, 0].transpose(0, 2, 3, 1), labels[rows] @ np.array([100, 10, 1])
