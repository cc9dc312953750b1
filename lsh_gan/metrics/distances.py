"""Blocks of squared Euclidean distances in float32, with a bound on their error.

A set is held as blocks `[block, d]`, shifted by the mean of the reference and scaled by a power of
two, so that ‖x‖² − 2xy + ‖y‖² loses nothing to a large mean and cannot overflow. The last block is
filled with rows of infinite norm, which are nobody's neighbours.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsh_gan.metrics.inputs import Array

_UNIT = 2.0**-24  # unit roundoff of float32
_TINY = 1e-30  # stands for underflow: features are scaled to norms around 1
_MIN_BLOCK = 128


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


def block_size(rows: int, memory_mb: int) -> int:
    """Rows in a block, a power of two: several float32 tiles [block, block] fit in `memory_mb`."""
    limit = 2 ** int(math.log2(math.sqrt(memory_mb * 2**20 / 24)))
    return max(_MIN_BLOCK, min(limit, 2 ** math.ceil(math.log2(max(rows, 2)))))


def fit_frame(features: Array) -> Frame:
    """Returns the shift (mean) and scale (power of two near 1 / largest value) of a set."""
    if isinstance(features, np.ndarray):
        mean = features.mean(axis=0, dtype=np.float64)
    else:
        mean = np.asarray(features.astype(jnp.float32).mean(axis=0), np.float64)
    if features.dtype != np.float64:
        mean = mean.astype(np.float32).astype(np.float64)
    largest = float(max(abs(features.max() - mean.min()), abs(features.min() - mean.max())))
    scale = 2.0 ** -math.ceil(math.log2(largest)) if largest > 0 else 1.0
    return Frame(mean, scale)


@functools.partial(jax.jit, static_argnames="size")
def _to_block(x: jax.Array, shift: jax.Array, scale: jax.Array, *, size: int):
    x = (x.astype(jnp.float32) - shift) * scale
    sq = jnp.sum(x * x, axis=1)
    fill = size - x.shape[0]
    return jnp.pad(x, ((0, fill), (0, 0))), jnp.pad(sq, (0, fill), constant_values=jnp.inf)


def to_blocks(features: Array, frame: Frame, size: int, source: str) -> Blocks:
    """Cuts `features` `[n, d]` into shifted, scaled float32 blocks of `size` rows.

    Raises:
        ValueError: A row lies so far from the reference that its square overflows float32.
    """
    blocks, norms = [], []
    shift = np.zeros_like(frame.shift, np.float32) if _wide(features) else frame.shift
    for start in range(0, features.shape[0], size):
        x = features[start : start + size]
        if _wide(features):
            # float64 is shifted in float64; narrower input subtracts exactly enough in float32.
            x = ((x - frame.shift) * frame.scale).astype(np.float32)
        scale = 1.0 if _wide(features) else frame.scale
        x, sq = _to_block(x, np.float32(shift), np.float32(scale), size=size)
        blocks.append(x)
        norms.append(sq)
    finite = np.isfinite(np.concatenate([np.asarray(s) for s in norms]))[: features.shape[0]]
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(f"{source} row {row} lies too far from the reference: float32 overflows.")
    return Blocks(features.shape[0], size, tuple(blocks), tuple(norms))


def _wide(features: Array) -> bool:
    return isinstance(features, np.ndarray) and features.dtype == np.float64


def sq_distances(x: jax.Array, x_sq: jax.Array, y: jax.Array, y_sq: jax.Array) -> jax.Array:
    """Squared distances `[a, b]` between rows of x `[a, d]` and y `[b, d]`, at least 0."""
    dot = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.maximum(x_sq[:, None] + y_sq[None, :] - 2 * dot, 0)


def smallest(x: jax.Array, k: int, axis: int) -> tuple[jax.Array, jax.Array]:
    """The k smallest values of x `[a, b]` along `axis`, ascending, and their places, `[*, k]`.

    The k smallest lie in the k strided groups with the smallest minima, so that one cheap pass
    leaves little to select from.
    """
    length = x.shape[axis]
    stride = 1
    while length // (2 * stride) >= 4 * k and 4 * stride * stride <= length:
        stride *= 2
    width = length // stride
    if axis == 1:
        groups = x.reshape(x.shape[0], stride, width)
        _, ids = _top_k(-groups.min(axis=1), k)
        values = jnp.take_along_axis(groups, ids[:, None, :], axis=2)
    else:
        groups = x.reshape(stride, width, x.shape[1])
        _, ids = _top_k(-groups.min(axis=0).T, k)
        values = jnp.take_along_axis(groups, ids.T[None], axis=1).transpose(2, 0, 1)
    places = jnp.arange(stride)[:, None] * width + ids[:, None, :]
    values, at = _top_k(-values.reshape(len(ids), -1), k)
    return -values, jnp.take_along_axis(places.reshape(len(ids), -1), at, axis=1)


def _top_k(x: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    # Without the barrier XLA's CPU compiler turns a sliced top_k into a full sort.
    return jax.lax.optimization_barrier(jax.lax.top_k(x, k))


class Nearest(NamedTuple):
    """The k nearest others of each row: squared distances, ascending, and rows, `[n, k]` each."""

    sq: jax.Array | np.ndarray
    rows: jax.Array | np.ndarray


@functools.partial(jax.jit, static_argnames=("k", "diagonal"))
def _self_tile(x, x_sq, y, y_sq, best_x, best_y, first_x, first_y, *, k: int, diagonal: bool):
    d2 = sq_distances(x, x_sq, y, y_sq)
    if diagonal:
        d2 = jnp.where(jnp.eye(d2.shape[0], dtype=bool), jnp.inf, d2)

    def merge(best, axis, first):
        sq, places = smallest(d2, k, axis)
        sq, at = _top_k(-jnp.concatenate([best.sq, sq], axis=1), k)
        rows = jnp.concatenate([best.rows, places + first], axis=1)
        return Nearest(-sq, jnp.take_along_axis(rows, at, axis=1))

    best_x = merge(best_x, 1, first_y)
    return best_x, best_y if diagonal else merge(best_y, 0, first_x)


def nearest_others(blocks: Blocks, k: int) -> Nearest:
    """The k nearest others of every row, ascending, float32 and int32 `[n, k]`.

    Distances are symmetric: only tiles on and above the diagonal are computed, and each serves its
    rows and its columns.
    """
    count, size = len(blocks.features), blocks.size
    best = [Nearest(jnp.full((size, k), jnp.inf), jnp.zeros((size, k), jnp.int32))] * count
    for i in range(count):
        for j in range(i, count):
            x, y = blocks.features[i], blocks.features[j]
            x_sq, y_sq = blocks.sq_norms[i], blocks.sq_norms[j]
            first = np.int32(i * size), np.int32(j * size)
            found = _self_tile(x, x_sq, y, y_sq, best[i], best[j], *first, k=k, diagonal=i == j)
            best[i], best[j] = found if i != j else (found[0], found[0])
    return Nearest(
        *(np.concatenate([np.asarray(b[f]) for b in best])[: blocks.rows] for f in (0, 1))
    )
