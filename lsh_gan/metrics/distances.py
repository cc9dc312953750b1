"""Blocks of squared Euclidean distances in float32, with a bound on their error.

A set is held as blocks `[block, d]`, shifted by the mean of the reference and scaled by a power of
two, so that ‖x‖² − 2xy + ‖y‖² loses nothing to a large mean and cannot overflow; see `fit_frame`
for those that need neither. The last block is filled with rows of infinite norm, which are nobody's
neighbours.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsh_gan.metrics.inputs import Array, is_wide, narrow, on_host_if_free, readable

_UNIT = 2.0**-24  # unit roundoff of float32
TINY = 1e-30  # stands for underflow: features are scaled to norms around 1
_MIN_BLOCK = 128
_ORDINARY = 2.0**10  # features up to so much larger or smaller than 1 are not scaled
_SOME = 256  # rows that say how wide a set is
_FEW = 32  # of so many pairs of a tile one may be taken by itself


class Frame(NamedTuple):
    """The coordinates that both sets are moved to: `(x - shift) * scale`."""

    shift: np.ndarray  # [d] float64
    scale: float  # a power of two


class Blocks(NamedTuple):
    """A set of features, ready for distance kernels.

    Attributes:
        rows: Number of real rows.
        size: Rows in a block.
        features: Blocks, float32 `[size, d]`.
        sq_norms: Their squared norms, float32 `[size]`; inf in the filling rows.
    """

    rows: int
    size: int
    features: tuple[jax.Array, ...]
    sq_norms: tuple[jax.Array, ...]


def slack(d: int) -> float:
    """Relative error bound of a squared distance, as a share of ‖x‖² + ‖y‖².

    Rounding errors of a dot product of length d grow like √d units in practice (Higham & Mary 2019,
    doi:10.1137/18M1226312); twice that, and 8 units for the sums and for rounding the input.
    """
    return (8 + 2 * math.sqrt(d)) * _UNIT


def block_size(rows: int, d: int, memory_mb: int) -> int:
    """Rows in a block: several float32 tiles [block, block] fit in `memory_mb`.

    On a CPU a tile also stays in the caches between its product and what is asked of it, unless d
    is so small that starting it would cost more, and blocks are of equal size, a multiple of 8, so
    that little is filled up. Elsewhere the size is a power of two.
    """
    if memory_mb < 1:
        raise ValueError(f"memory_mb = {memory_mb}; expected at least 1.")
    limit = 2 ** int(math.log2(math.sqrt(memory_mb * 2**20 / 24)))
    if jax.default_backend() == "cpu":
        limit = max(_MIN_BLOCK, min(limit, 720 if d >= 512 else 2048))
        return max(_MIN_BLOCK, 8 * math.ceil(rows / (8 * math.ceil(rows / limit))))
    return max(_MIN_BLOCK, min(limit, 2 ** math.ceil(math.log2(max(rows, 2)))))


def fit_frame(features: Array) -> Frame:
    """Returns the shift (mean) and scale (power of two near 1 / largest value) of a set.

    Float32 features that are of ordinary size and lie around the origin, beside their spread, stay
    as they are, so that nobody needs a second copy of them.
    """
    if isinstance(features, np.ndarray):
        mean = features.mean(axis=0, dtype=np.float64)
    else:
        mean = np.asarray(features.astype(jnp.float32).mean(axis=0), np.float64)
    if features.dtype != np.float64:
        mean = mean.astype(np.float32).astype(np.float64)
    largest = float(max(abs(features.max() - mean.min()), abs(features.min() - mean.max())))
    scale = 2.0 ** -math.ceil(math.log2(largest)) if largest > 0 else 1.0
    if features.dtype == np.float32 and 1 / _ORDINARY <= scale <= _ORDINARY:
        some = np.asarray(features[:_SOME], np.float64)
        if np.sum(mean**2) <= np.mean(np.sum((some - mean) ** 2, axis=1)):
            return Frame(np.zeros_like(mean), 1.0)
    return Frame(mean, scale)


@jax.jit
def move(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """`(x - shift) * scale` in float32."""
    return (x.astype(jnp.float32) - shift) * scale


@jax.jit
def _sq_norms(x: jax.Array, rows: jax.Array) -> jax.Array:
    return jnp.where(jnp.arange(len(x)) < rows, jnp.sum(x * x, axis=1), jnp.inf)


def to_blocks(features: Array, frame: Frame, size: int, source: str) -> Blocks:
    """Cuts `features` `[n, d]` into shifted, scaled float32 blocks of `size` rows.

    Raises:
        ValueError: A row lies so far from the reference that its square overflows float32.
    """
    blocks, norms = [], []
    features = on_host_if_free(features)
    wide = is_wide(features, frame.shift)
    scale, shift = frame.scale, frame.shift
    as_is = not shift.any() and scale == 1 and features.dtype == np.float32
    if wide:
        scale, shift = 1.0, np.zeros_like(shift)
    for start in range(0, features.shape[0], size):
        x = features[start : start + size]
        if wide:
            # float64 is shifted in float64; narrower input subtracts exactly enough in float32.
            x = narrow(x, *frame)
        rows = x.shape[0]
        # Filled up before it is compiled for: another n is the same program.
        if rows < size:
            numpy = np if isinstance(x, np.ndarray) else jnp
            x = numpy.pad(x, ((0, size - rows), (0, 0)))
        x = readable(x) if as_is else move(x, np.float32(shift), np.float32(scale))
        blocks.append(x)
        norms.append(_sq_norms(x, np.int32(rows)))
    finite = np.isfinite(np.concatenate([np.asarray(s) for s in norms]))[: features.shape[0]]
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(f"{source} row {row} lies too far from the reference: float32 overflows.")
    return Blocks(features.shape[0], size, tuple(blocks), tuple(norms))


@jax.jit
def dots(x: jax.Array, y: jax.Array) -> jax.Array:
    """Dot products `[a, b]` of the rows of x `[a, d]` and y `[b, d]`, in full float32.

    A program of its own: compiled together with what is asked of a tile, XLA's product for CPUs is
    up to a third slower.
    """
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)


def sq_distances(dot: Any, x_sq: Any, y_sq: Any) -> Any:
    """Squared distances, at least 0, from dot products and squared norms that broadcast.

    NumPy gives NumPy, so that a few pairs of any number are no new program.
    """
    return (x_sq + y_sq - 2 * dot).clip(0)


def few_places(mask: jax.Array) -> np.ndarray | None:
    """Flat places of what is true in a tile, or None where that is too much to take one by one.

    Nearly all of a tile is false, and eight bytes are looked at at a time.

    Args:
        mask: bool `[a, b]`, a · b a multiple of 8.

    Returns:
        int64 `[places]`, ascending; None if more than a quarter of the groups of eight hold some.
    """
    flat = np.asarray(mask).reshape(-1)
    words = np.flatnonzero(flat.view(np.uint64))
    if len(words) > len(flat) // _FEW:
        return None
    places = (8 * words[:, None] + np.arange(8)).reshape(-1)
    return places[flat[places]]
