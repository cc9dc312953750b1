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

from lsh_gan import datasets
from lsh_gan.datasets import Source
from lsh_gan.generators import Generator

Shape = tuple[int, int, int]  # height, width, channels
UNPADDED = (28, 28)  # of the shipped images as they are published


def check(
    config: Any, expected: Shape | None, generators: list[Generator], samples: Iterable[Source]
) -> None:
    """Compares the size of all that is judged with that of the reference images.

    Args:
        config: See `configs/default.py`.
        expected: Of the reference images; None if it is not known, which checks nothing.
        generators: What is judged.
        samples: Likewise; of features nothing is checked.

    Raises:
        ValueError: A generator or samples of another size, or a generator of RGB images and a grey
            reference; the message names both and the way out. Or shipped images are resized, and
            samples are those images without their border, which would be resized to other places.
    """
    fields = config.reference
    name = Path(fields.sketch or fields.samples_of or fields.images).name
    fixed = fields.sketch or fields.samples_of
    padded = fields.images in datasets.NAMED and not (fixed or fields.features)
    samples = [source for source in samples if source.kind == "images"]
    for source in samples:
        if padded and fields.side and source.first_size == UNPADDED:
            raise ValueError(
                f"samples {source.path} have 28×28 pixels, but the images of {name} are padded to "
                f"32×32 before they are resized to {fields.side}; pad the samples with black "
                "pixels too, 2 at each side"
            )
    if expected is None:
        return
    height, width, channels = expected
    has = f"but the reference {name} has {height}×{width}"
    for generator in generators:
        side = generator.resolution
        if (side, side) != (height, width):
            way_out = f"say --config.reference.side={side} to crop and resize the reference"
            if fields.sketch:
                way_out = f"expected a sketch of images of {side}×{side}"
            elif fields.samples_of:
                way_out = "expected reference.samples_of to name a generator of the same size"
            raise ValueError(
                f"generator {generator.name} makes images of {side}×{side} pixels, {has}; {way_out}"
            )
        if generator.image_channels > channels:
            raise ValueError(
                f"generator {generator.name} makes RGB images, but the reference {name} is grey; "
                "expected a reference in colour, or a generator of grey images"
            )
    for source in samples:
        size = source.image_shape[:2]
        if size != (height, width):
            way_out = f"resize them to {height}×{width}"
            if size == UNPADDED and padded:  # resized ones would be in another place
                way_out = (
                    f"pad them with black pixels to {height}×{width}, 2 at each side, as the "
                    "reference is"
                )
            elif not fixed:
                side = min(height, width)
                way_out += f", or say --config.reference.side={side} to crop and resize both"
            raise ValueError(
                f"samples {source.path} have {size[0]}×{size[1]} pixels, {has}; {way_out}"
            )


def check_colours(path: str, batches: Iterable[np.ndarray] | None, expected: Shape | None) -> None:
    """Refuses coloured samples where the reference is grey; RGB files of grey images are grey.

    Args:
        path: What the samples are called.
        batches: Uint8 `[b, h, w, c]` each; None for features.
        expected: As in `check`.

    Raises:
        ValueError: The channels of an image differ (its number).
    """
    if batches is None or expected is None or expected[-1] > 1:
        return
    start = 0
    for images in batches:
        coloured = (images != images[..., :1]).any(axis=(1, 2, 3))
        if coloured.any():
            raise ValueError(
                f"samples {path}: image {start + int(coloured.argmax())} is in colour, but the "
                "reference is grey; convert the samples to grey, or give a reference in colour"
            )
        start += len(images)
