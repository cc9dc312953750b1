"""Resizing by the rules of common image libraries, each as one matrix per direction.

What "bilinear" means differs between image libraries. The rule is part of a feature network: with
another rule its features are different (Parmar et al. 2022, arXiv:2104.11222).
"""

import jax.numpy as jnp
import numpy as np
from jax import lax


def weights(size: int, side: int, *, rule: str) -> np.ndarray:
    """Makes the matrix that maps `size` pixels to `side`: float64 `[side, size]`, rows add up to 1.

    Each output is a mean of the pixels around its position, weighted by a triangle, or by a cubic.

    * "antialiased" widens the triangle when reducing, like Pillow's `BILINEAR` on float images and
      torch's `interpolate(mode="bilinear", align_corners=False, antialias=True)`;
    * "half_pixel" interpolates two neighbours, never more, as torch does without antialiasing;
    * "tensorflow1" does the same half a pixel off, at `i * size / side` in float32, like TensorFlow
      1's `resize_bilinear` in the original FID network, and torch-fidelity's copy of it;
    * "bicubic" is Pillow's `BICUBIC` on 8-bit images: antialiased, and rounded after each
      direction. The width is first, as before Pillow 13, which begins with the height of tall ones.
    """
    step = size / side
    positions = (np.arange(side) + 0.5) * step
    if rule == "tensorflow1":
        left = np.arange(side, dtype=np.float32) * (np.float32(size) / np.float32(side))
        positions = left.astype(np.float64) + 0.5
    width = max(step, 1.0) if rule in ("antialiased", "bicubic") else 1.0
    distances = np.abs(np.arange(size) + 0.5 - positions[:, None]) / width
    found = cubic(distances, -0.5) if rule == "bicubic" else np.maximum(1.0 - distances, 0.0)
    return found / found.sum(axis=1, keepdims=True)


def cubic(distances: np.ndarray, a: float) -> np.ndarray:
    """Evaluates Keys's cubic kernel (1981, eq. 4) at distances in pixels; a is −½ or −¾."""
    near = ((a + 2) * distances - (a + 3)) * distances**2 + 1
    far = (((distances - 5) * distances + 8) * distances - 4) * a
    return np.where(distances < 1, near, np.where(distances < 2, far, 0))


def resize(images, side: int, *, rule: str):
    """Resizes float32 images `[n, h, w, c]` to `side` × `side`, whatever their aspect ratio."""
    rows, columns = ("yh,nhwc->nywc", 1), ("xw,nhwc->nhxc", 2)
    for product, axis in (columns, rows) if rule == "bicubic" else (rows, columns):  # like Pillow
        if (size := images.shape[axis]) != side:
            matrix = jnp.asarray(weights(size, side, rule=rule), jnp.float32)
            images = jnp.einsum(product, matrix, images, precision=lax.Precision.HIGHEST)
            if rule == "bicubic":
                images = jnp.clip(jnp.floor(images + 0.5), 0, 255)
    return images
