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

from lsh_gan.metrics.inputs import Array, is_wide, narrow, on_host_if_free

_UNIT = 2.0**-24  # unit roundoff of float32
TINY = 1e-30  # stands for underflow: features are scaled to norms around 1
_LARGEST = float(np.finfo(np.float32).max)
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


def block_size(rows: int, d: int, memory_mb: int) -> int:
    """Rows in a block, a power of two: several float32 tiles [block, block] fit in `memory_mb`.

    On a CPU a tile also stays in the caches between its product and what is asked of it, unless d
    is so small that starting it would cost more.
    """
    if memory_mb < 1:
        raise ValueError(f"memory_mb = {memory_mb}; expected at least 1.")
    limit = 2 ** int(math.log2(math.sqrt(memory_mb * 2**20 / 24)))
    if jax.default_backend() == "cpu":
        limit = min(limit, 512 if d >= 512 else 2048)
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


@jax.jit
def _to_block(x: jax.Array, shift: jax.Array, scale: jax.Array, rows: jax.Array):
    x = (x.astype(jnp.float32) - shift) * scale
    sq = jnp.sum(x * x, axis=1)
    return x, jnp.where(jnp.arange(len(x)) < rows, sq, jnp.inf)


def to_blocks(features: Array, frame: Frame, size: int, source: str) -> Blocks:
    """Cuts `features` `[n, d]` into shifted, scaled float32 blocks of `size` rows.

    Raises:
        ValueError: A row lies so far from the reference that its square overflows float32.
    """
    blocks, norms = [], []
    features = on_host_if_free(features)
    wide = is_wide(features, frame.shift)
    shift = np.zeros_like(frame.shift, np.float32) if wide else frame.shift
    for start in range(0, features.shape[0], size):
        x = features[start : start + size]
        if wide:
            # float64 is shifted in float64; narrower input subtracts exactly enough in float32.
            x = narrow(x, *frame)
        scale, rows = 1.0 if wide else frame.scale, x.shape[0]
        # Filled up before it is compiled for: another n is the same program.
        if rows < size:
            numpy = np if isinstance(x, np.ndarray) else jnp
            x = numpy.pad(x, ((0, size - rows), (0, 0)))
        x, sq = _to_block(x, np.float32(shift), np.float32(scale), np.int32(rows))
        blocks.append(x)
        norms.append(sq)
    finite = np.isfinite(np.concatenate([np.asarray(s) for s in norms]))[: features.shape[0]]
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(f"{source} row {row} lies too far from the reference: float32 overflows.")
    return Blocks(features.shape[0], size, tuple(blocks), tuple(norms))


def sq_distances(x: jax.Array, x_sq: jax.Array, y: jax.Array, y_sq: jax.Array) -> jax.Array:
    """Squared distances `[a, b]` between rows of x `[a, d]` and y `[b, d]`, at least 0."""
    dot = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.maximum(x_sq[:, None] + y_sq[None, :] - 2 * dot, 0)


def k_smallest(x: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The k smallest values of x `[..., a, b]` along axis -2, ascending, and places `[..., k, b]`.

    k is at most a. Of equal values the first come first.
    """
    if jax.default_backend() != "cpu":
        values, at = jax.lax.top_k(-x.swapaxes(-1, -2), k)
        return -values.swapaxes(-1, -2), at.swapaxes(-1, -2)
    # One minimum after another, across columns: a third of what XLA's top_k takes on a CPU.
    place = jnp.arange(x.shape[-2])[:, None]
    x = jnp.minimum(x, _LARGEST)  # so that what is missing stays apart from what was taken
    values, places = [], []
    for _ in range(k):
        values.append(x.min(axis=-2, keepdims=True))
        places.append(jnp.where(x == values[-1], place, x.shape[-2]).min(axis=-2, keepdims=True))
        x = jnp.where(place == places[-1], jnp.inf, x)
    values = jnp.concatenate(values, axis=-2)
    return jnp.where(values == _LARGEST, jnp.inf, values), jnp.concatenate(places, axis=-2)


def smallest(x: jax.Array, k: int, axis: int) -> tuple[jax.Array, jax.Array]:
    """The k smallest values of x `[a, b]` along `axis`, ascending, and their places, `[k, *]`.

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
        _, ids = k_smallest(groups.min(axis=1).T, k)
        values = jnp.take_along_axis(groups, ids.T[:, None, :], axis=2).transpose(1, 2, 0)
    else:
        groups = x.reshape(stride, width, x.shape[1])
        _, ids = k_smallest(groups.min(axis=0), k)
        values = jnp.take_along_axis(groups, ids[None], axis=1)
    places = jnp.arange(stride)[:, None, None] * width + ids
    values, at = k_smallest(values.reshape(stride * k, -1), k)
    return values, jnp.take_along_axis(places.reshape(stride * k, -1), at, axis=0)


class Nearest(NamedTuple):
    """The k nearest others of each row: squared distances, ascending, and rows."""

    sq: jax.Array | np.ndarray
    rows: jax.Array | np.ndarray


@functools.partial(jax.jit, static_argnames=("k", "diagonal"))
def _self_tile(x, x_sq, y, y_sq, best_x, best_y, first_x, first_y, *, k: int, diagonal: bool):
    d2 = sq_distances(x, x_sq, y, y_sq)
    if diagonal:
        d2 = jnp.where(jnp.eye(d2.shape[0], dtype=bool), jnp.inf, d2)

    def merge(best, axis, first):
        sq, places = smallest(d2, k, axis)
        sq, at = k_smallest(jnp.concatenate([best.sq, sq]), k)
        rows = jnp.concatenate([best.rows, places + first])
        return Nearest(sq, jnp.take_along_axis(rows, at, axis=0))

    best_x = merge(best_x, 1, first_y)
    return best_x, best_y if diagonal else merge(best_y, 0, first_x)


def nearest_others(blocks: Blocks, k: int) -> Nearest:
    """The k nearest others of every row, float32 and int32 `[n, k]`.

    Distances are symmetric: only tiles on and above the diagonal are computed, and each serves its
    rows and its columns.
    """
    count, size = len(blocks.features), blocks.size
    none = Nearest(np.full((k, size), np.inf, np.float32), np.zeros((k, size), np.int32))
    best = [none] * count
    for i in range(count):
        for j in range(i, count):
            x, y = blocks.features[i], blocks.features[j]
            x_sq, y_sq = blocks.sq_norms[i], blocks.sq_norms[j]
            first = np.int32(i * size), np.int32(j * size)
            found = _self_tile(x, x_sq, y, y_sq, best[i], best[j], *first, k=k, diagonal=i == j)
            best[i], best[j] = found if i != j else (found[0], found[0])
    joined = (np.concatenate([np.asarray(b[f]) for b in best], axis=1) for f in (0, 1))
    return Nearest(*(values[:, : blocks.rows].T for values in joined))
