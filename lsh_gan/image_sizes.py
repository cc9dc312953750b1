"""Images that are compared have one size, which is checked before any of them is decoded.

A feature network scales whatever it gets to its own input, so that another size would pass without
a word: it is another image, blurred or cut otherwise, and scores by another image's features.
Grey images are repeated to three channels by the network, so that they may be compared with
coloured ones; a generator of colours, however, never makes what a grey reference holds.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lsh_gan import config_checks, datasets
from lsh_gan.generators import Generator

Shape = tuple[int, int, int]  # height, width, channels
UNPADDED = (28, 28)  # of the shipped images as they are published


def of_reference(config: Any) -> Shape | None:
    """Shape of the images that `config.reference.images` names; None for another reference.

    Raises:
        FileNotFoundError, ValueError: As `datasets.image_shape`; fewer than k + 2 or than asked.
    """
    fields = config.reference
    if fields.sketch or fields.samples_of or fields.features:
        return None
    n, *shape = datasets.image_shape(fields.images, side=fields.side)
    check_count(config, fields.images, n)
    return tuple(shape)


def check_count(config: Any, source: str, count: int) -> int:
    """Number of images or features that the reference takes of a source that has `count`.

    Raises:
        ValueError: The source has fewer than k + 2, than asked or than `hash.min_count` needs.
    """
    n = config.reference.num_images or count
    if n > count or n < config.k + 2:
        close = f"; the nearest is {count}" if count >= config.k + 2 else ""
        raise ValueError(
            f"reference.num_images = {n}: {source} has {count}, and k = {config.k} needs "
            f"at least {config.k + 2}{close}"
        )
    config_checks.check_min_count(config, n)
    return n


def are_features(path: str) -> bool:
    """Whether given samples are features, `.npy` `[m, d]`, and no images."""
    return path.endswith(".npy") and len(datasets.array_header(path)[0]) == 2


def of_samples(config: Any, paths: Iterable[str]) -> dict[str, Shape]:
    """Shapes of the given samples, by path; without those that are features.

    Raises:
        FileNotFoundError, ValueError: As `datasets.image_shape`; or shipped images are resized, and
            samples are those images without their border, which would be resized to other places.
    """
    side = config.reference.side
    shapes = {}
    for path in paths:
        if are_features(path):
            continue
        shapes[path] = datasets.image_shape(path, side=side)[1:]
        if side and _are_padded(config) and datasets.first_size(path) == UNPADDED:
            raise ValueError(
                f"samples {path} have 28×28 pixels, but the images of {config.reference.images} "
                f"are padded to 32×32 before they are resized to {side}; pad the samples with "
                "black pixels too, 2 at each side"
            )
    return shapes


def check(
    config: Any, expected: Shape | None, generators: list[Generator], samples: dict[str, Shape]
) -> None:
    """Compares the size of all that is judged with that of the reference images.

    Args:
        config: See `configs/default.py`.
        expected: Of the reference images; None if it is not known, which checks nothing.
        generators: What is judged.
        samples: Likewise, as `of_samples` gives it.

    Raises:
        ValueError: A generator or samples of another size, or a generator of RGB images and a grey
            reference; the message names both and the way out.
    """
    if expected is None:
        return
    height, width, channels = expected
    name = _name(config)
    for generator in generators:
        made = generator.resolution
        if (made, made) != (height, width):
            raise ValueError(
                f"generator {generator.name} makes images of {made}×{made} pixels, but the "
                f"reference {name} has {height}×{width}; {_other_reference(config, made)}"
            )
        if generator.image_channels > channels:
            raise ValueError(
                f"generator {generator.name} makes RGB images, but the reference {name} is grey; "
                "expected a reference in colour, or a generator of grey images"
            )
    for path, (*size, _) in samples.items():
        if tuple(size) != (height, width):
            raise ValueError(
                f"samples {path} have {size[0]}×{size[1]} pixels, but the reference {name} has "
                f"{height}×{width}; {_other_samples(config, height, width, tuple(size))}"
            )


def check_colours(path: str, images: np.ndarray | None, expected: Shape | None) -> None:
    """Refuses coloured samples where the reference is grey; RGB files of grey images are grey.

    Args:
        path: What the samples are called.
        images: Uint8 `[n, h, w, c]`; None for features.
        expected: As in `check`.

    Raises:
        ValueError: The channels of an image differ (its number).
    """
    if images is None or expected is None or expected[-1] > 1:
        return
    for number, image in enumerate(images):
        if (image != image[..., :1]).any():
            raise ValueError(
                f"samples {path}: image {number} is in colour, but the reference is grey; convert "
                "the samples to grey, or give a reference in colour"
            )


def _name(config: Any) -> str:
    fields = config.reference
    return Path(fields.sketch or fields.samples_of or fields.images).name


def _other_reference(config: Any, side: int) -> str:
    """How to get a reference of the size of a generator."""
    if config.reference.sketch:
        return f"expected a sketch of images of {side}×{side}"
    if config.reference.samples_of:
        return "expected reference.samples_of to name a generator of the same size"
    return f"say --config.reference.side={side} to crop and resize the reference"


def _are_padded(config: Any) -> bool:
    """Whether the reference is one of the shipped ones, whose images have a black border."""
    fields = config.reference
    return fields.images in datasets.SHIPPED and not (
        fields.sketch or fields.samples_of or fields.features
    )


def _other_samples(config: Any, height: int, width: int, size: tuple[int, int]) -> str:
    """How to get samples of the size of the reference."""
    fields = config.reference
    if fields.sketch or fields.samples_of:
        return f"resize them to {height}×{width}"
    if size == UNPADDED and _are_padded(config):
        # Resized ones would not be in the same place as those of the reference.
        return (
            f"pad them with black pixels to {height}×{width}, 2 at each side, as the reference is"
        )
    return (
        f"resize them to {height}×{width}, or say --config.reference.side={min(height, width)} to "
        "crop and resize both"
    )
