"""Bilinear resizing by the three rules in use, each as one matrix per direction.

Image libraries agree on "bilinear" only for the name. The rule is part of a feature network: with
another one its features are other numbers (Parmar et al. 2022, arXiv:2104.11222).
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import lax

from lsh_gan.errors import choose


def antialiased_matrix(size: int, side: int) -> np.ndarray:
    """Builds a triangle filter, widened when reducing; pixel centres at half integers.

    Equals Pillow's `BILINEAR` on float images and torch's `interpolate(mode="bilinear",
    align_corners=False, antialias=True)`. The result is float64 `[side, size]`; rows add up to 1.
    """
    step = size / side
    width = max(step, 1.0)
    centres = (np.arange(side) + 0.5) * step
    distances = np.abs(np.arange(size) + 0.5 - centres[:, None]) / width
    weights = np.maximum(1.0 - distances, 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def half_pixel_matrix(size: int, side: int) -> np.ndarray:
    """Interpolates two neighbours, never more; pixel centres at half integers; `[side, size]`.

    Equals torch's `interpolate(mode="bilinear", align_corners=False)`.
    """
    return _two_neighbours(np.maximum((np.arange(side) + 0.5) * (size / side) - 0.5, 0.0), size)


def tensorflow1_matrix(size: int, side: int) -> np.ndarray:
    """Interpolates two neighbours at `i * size / side`, no half-pixel shift; `[side, size]`.

    Equals TensorFlow 1's `resize_bilinear(align_corners=False)`, where the original FID network
    has it inside of its graph, and torch-fidelity's copy of it: positions are float32.
    """
    positions = np.arange(side, dtype=np.float32) * (np.float32(size) / np.float32(side))
    return _two_neighbours(positions.astype(np.float64), size)


def _two_neighbours(positions: np.ndarray, size: int) -> np.ndarray:
    left = np.minimum(np.floor(positions).astype(int), size - 1)
    share = positions - left
    rows = np.arange(len(positions))
    matrix = np.zeros((len(positions), size))
    np.add.at(matrix, (rows, left), 1.0 - share)
    np.add.at(matrix, (rows, np.minimum(left + 1, size - 1)), share)
    return matrix


RULES: dict[str, Callable[[int, int], np.ndarray]] = {
    "antialiased": antialiased_matrix,
    "half_pixel": half_pixel_matrix,
    "tensorflow1": tensorflow1_matrix,
}


def resize(images, side: int, *, rule: str):
    """Resizes float32 images `[n, h, w, c]` to `side` × `side`, whatever their aspect ratio.

    Raises:
        ValueError: `rule` is no key of `RULES`.
    """
    matrix = choose("resize rule", rule, RULES)
    height, width = images.shape[1:3]
    if height != side:
        rows = jnp.asarray(matrix(height, side), jnp.float32)
        images = jnp.einsum("yh,nhwc->nywc", rows, images, precision=lax.Precision.HIGHEST)
    if width != side:
        columns = jnp.asarray(matrix(width, side), jnp.float32)
        images = jnp.einsum("xw,nywc->nyxc", columns, images, precision=lax.Precision.HIGHEST)
    return images
