"""Second look, in float64, at the few comparisons that float32 cannot decide."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from lsh_gan.metrics.distances import TINY, Blocks, dots, slack, sq_distance_bounds
from lsh_gan.metrics.inputs import ORDINARY, Array
from lsh_gan.metrics.nearest import Nearest

_FEW_ROWS, _ROWS = 32, 128  # rows whose radii are found at a time, so that two programs do
_CHUNK_VALUES = 2**18  # float64 differences held at a time


class BallBounds(NamedTuple):
    """Balls around the rows of a set, padded block by block.

    Attributes:
        inner: Lower bound of the squared radius, float32 `[size]` a block; -inf in filling rows.
        outer: Upper bound of the squared radius.
    """

    inner: tuple[np.ndarray, ...]
    outer: tuple[np.ndarray, ...]


def bounds(sq_radii: np.ndarray, sq_norms: np.ndarray, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds of squared radii that float32 distances gave; -inf for no ball.

    The k-th neighbour has a norm of at most ‖r‖ + radius, which bounds its error.

    Args:
        sq_radii: Squared radii, float32 `[..., n]`; not finite where there is no ball.
        sq_norms: Those of the centres, float32 `[n]`.
        d: Features of a row.
    """
    ball = np.isfinite(sq_radii)
    radii = np.where(ball, sq_radii, np.float32(0))
    error = np.float32(slack(d)) * (sq_norms + (np.sqrt(sq_norms) + np.sqrt(radii)) ** 2)
    error += np.float32(TINY)
    return tuple(np.where(ball, b, np.float32(-np.inf)) for b in (radii - error, radii + error))


def in_own_units(bounds: Iterable[np.ndarray], scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of squared radii for distances of features as given, from those of scaled features.

    Args:
        bounds: Lower and upper bounds, float32 `[p]` each.
        scale: What features were multiplied by; where it is extreme, squares of the features are
            no ordinary float64 numbers, and nothing is bounded.

    Returns:
        Lower and upper bounds, float64 `[p]` each.
    """
    inner, outer = (bound.astype(np.float64) for bound in bounds)
    if not 1 / ORDINARY < scale < ORDINARY:
        return np.full_like(inner, -np.inf), np.full_like(outer, np.inf)
    return inner / scale**2, outer / scale**2


def within_balls(
    sq: np.ndarray,
    bounds: tuple[np.ndarray, np.ndarray],
    radii: Callable[[np.ndarray], np.ndarray],
    inclusive: bool,
) -> np.ndarray:
    """Which exact squared distances lie within balls, bool `[p]`.

    Args:
        sq: float64 `[p]`.
        bounds: Lower and upper bounds of the squared radii, see `in_own_units`.
        radii: Gives exact squared radii, float64, at places among the p; asked where bounds leave
            it open, since a radius is many distances.
        inclusive: Whether a point on the sphere belongs to the ball.
    """
    inner, outer = bounds
    inside = sq < inner
    some = np.flatnonzero(~inside & (sq <= outer))
    radius = radii(some)
    inside[some] = sq[some] <= radius if inclusive else sq[some] < radius
    return inside


def all_sq_norms(blocks: Blocks) -> np.ndarray:
    """Squared norms, float32 `[n]`."""
    return np.concatenate([np.asarray(s) for s in blocks.sq_norms])[: blocks.rows]


def balls_of(blocks: Blocks, sq_radii: np.ndarray, d: int) -> BallBounds:
    """Bounds the squared radii `[n]` that float32 distances gave, block by block."""
    sq_norms = all_sq_norms(blocks)
    fill = len(blocks.sq_norms) * blocks.size - blocks.rows

    def cut(values):
        padded = np.pad(values.astype(np.float32), (0, fill), constant_values=-np.inf)
        return tuple(np.split(padded, len(blocks.sq_norms)))

    return BallBounds(*(cut(bound) for bound in bounds(sq_radii, sq_norms, d)))


def take(features: Array, rows: np.ndarray) -> np.ndarray:
    """Rows of `features` as float64 on the host, exactly."""
    return _take(features, rows).astype(np.float64)


def _take(features: Array, rows: np.ndarray) -> np.ndarray:
    if isinstance(features, jax.Array) and features.platform() == "cpu":
        features = np.asarray(features)  # a view: NumPy gathers rows without a compiled program
    if isinstance(features, np.ndarray):
        return features.take(rows, axis=0)  # three times as fast as features[rows]
    # A program for every power of two, not for every number of rows.
    filled = np.zeros(2 ** math.ceil(math.log2(max(len(rows), 1))), np.int32)
    filled[: len(rows)] = rows
    return np.asarray(features[filled])[: len(rows)]


def exact_sq_distances(x: Array, y: Array, rows_x: np.ndarray, rows_y: np.ndarray) -> np.ndarray:
    """Squared distances of pairs (x[rows_x[i]], y[rows_y[i]]), float64 `[p]`, by differences."""
    out = np.empty(len(rows_x))
    step = max(1, _CHUNK_VALUES // x.shape[1])
    for start in range(0, len(rows_x), step):
        cut = slice(start, start + step)
        difference = take(x, rows_x[cut]) - take(y, rows_y[cut])
        out[cut] = np.sum(np.square(difference, out=difference), axis=1)
    return out


def sq_distances_to_others(
    features: Array, rows: np.ndarray, members: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields some of the rows, and their squared distances to members but themselves.

    Args:
        features: The set, `[n, d]`.
        rows: int `[q]`.
        members: Rows that they are compared with, int `[s]`.

    Yields:
        int `[some]`, and float64 `[some, s]`, inf where a row meets itself.
    """
    step = max(1, _CHUNK_VALUES // len(members))
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        pairs = np.repeat(some, len(members)), np.tile(members, len(some))
        sq = exact_sq_distances(features, features, *pairs).reshape(len(some), -1)
        yield some, np.where(some[:, None] == members, np.inf, sq)


@jax.jit
def _within(dot, x_sq, y_sq, outer, share):
    """Which pairs of a tile may have a squared distance of at most `outer` `[a]`."""
    lower, _ = sq_distance_bounds(dot, x_sq[:, None], y_sq[None, :], share)
    return lower <= outer[:, None]


def _pick(blocks: Blocks, rows: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Some rows of a set of blocks, `[size, d]`, and their squared norms; the rest is filling."""
    x = np.zeros((size, blocks.features[0].shape[1]), np.float32)
    x_sq = np.full(size, np.inf, np.float32)
    block, place = np.divmod(rows, blocks.size)
    for j in np.unique(block):
        at = np.flatnonzero(block == j)
        x[at] = _take(blocks.features[j], place[at])
        x_sq[at] = np.asarray(blocks.sq_norms[j])[place[at]]
    return x, x_sq


def exact_sq_radii(
    features: Array, blocks: Blocks, nearest: Nearest, outer: np.ndarray, rows: np.ndarray, k: int
) -> np.ndarray:
    """Squared distances in float64 of some rows to their k-th nearest other row.

    The nearest that are held are all that can matter, unless the last of them is as near as the
    k-th, up to the error of float32.

    Args:
        features: The set as given, `[n, d]`.
        blocks: The same set for the float32 kernels.
        nearest: The nearest others, at least k of each row.
        outer: Upper bounds of the squared radii, float32 `[n]`.
        rows: The rows asked for, int `[q]`.
        k: Which neighbour.

    Returns:
        float64 `[q]`.
    """
    held = nearest.rows[rows]
    sq = exact_sq_distances(features, features, np.repeat(rows, held.shape[1]), held.ravel())
    radii = np.partition(sq.reshape(held.shape), k - 1, axis=1)[:, k - 1]
    last, _ = bounds(nearest.sq[rows, -1], all_sq_norms(blocks)[rows], features.shape[1])
    open_rows = (last <= outer[rows]) & (radii > 0)  # none is nearer than an equal row
    if open_rows.any():
        radii[open_rows] = _searched(features, blocks, outer, rows[open_rows], k)
    return radii


def _searched(
    features: Array, blocks: Blocks, outer: np.ndarray, rows: np.ndarray, k: int
) -> np.ndarray:
    """What `exact_sq_radii` returns, from all rows that float32 cannot rule out."""
    radii = []
    for chosen, q, other in _near(blocks, outer, rows, features.shape[1]):
        sq = exact_sq_distances(features, features, chosen[q], other)
        order = np.lexsort((sq, q))
        first = np.searchsorted(q[order], np.arange(len(chosen)))
        radii.append(sq[order][first + k - 1])
    return np.concatenate(radii)


def _near(blocks: Blocks, outer: np.ndarray, rows: np.ndarray, d: int) -> Iterator[tuple]:
    """Pairs of some rows with all others that float32 cannot rule out to lie within `outer`.

    Yields:
        Some of the rows, int `[q]`; places in them, ascending, and other rows, int `[pairs]` each.
    """
    share = np.float32(slack(d))
    size = _FEW_ROWS if len(rows) <= _FEW_ROWS else _ROWS
    for start in range(0, len(rows), size):
        chosen = rows[start : start + size]
        x, x_sq = _pick(blocks, chosen, size)
        limit = np.full(size, -np.inf, np.float32)
        limit[: len(chosen)] = outer[chosen]
        pairs = []
        for j, (y, y_sq) in enumerate(zip(blocks.features, blocks.sq_norms, strict=True)):
            near = np.argwhere(np.asarray(_within(dots(x, y), x_sq, y_sq, limit, share)))
            pairs.append(near + np.array([0, j * blocks.size]))
        q, other = np.concatenate(pairs).T
        order = np.argsort(q, kind="stable")
        order = order[chosen[q[order]] != other[order]]
        yield chosen, q[order], other[order]


def covered_by_others(
    features: Array, blocks: Blocks, nearest: Nearest, k: int, inclusive: bool
) -> np.ndarray:
    """Which rows the balls of the others cover when the row itself is left out, bool `[n]`.

    Without r, the ball of r' that held it reaches to its next neighbour, so it still holds r; a
    ball that did not hold it does not change. Covered are the k nearest of any row, and all that
    are as near as the k-th; not inclusive, those as near as both the k-th and the next are not.

    Args:
        features: The set as given, `[n, d]`.
        blocks: The same set for the float32 kernels.
        nearest: The nearest others, at least k + 1 of each row.
        k: Neighbours that define a radius.
        inclusive: Whether a point on the sphere belongs to the ball.
    """
    d, sq_norms = features.shape[1], all_sq_norms(blocks)
    _, outer = bounds(nearest.sq[:, k - 1], sq_norms, d)
    following, _ = bounds(nearest.sq[:, k], sq_norms, d)
    tied = following <= outer
    covered = np.zeros(len(tied), bool)
    covered[nearest.rows[~tied, :k].ravel()] = True
    rows = np.flatnonzero(tied)
    if not inclusive:
        # Balls of radius 0 hold nothing, however many the duplicates.
        held = nearest.rows[rows, : k + 1]
        sq = exact_sq_distances(features, features, np.repeat(rows, k + 1), held.ravel())
        rows = rows[sq.reshape(held.shape).any(axis=1)]
    for chosen, q, other in _near(blocks, outer, rows, d):
        ends = np.searchsorted(q, np.arange(len(chosen) + 1))
        for row, start, end in zip(chosen, ends, ends[1:], strict=False):
            near = other[start:end]
            if not covered[near].all():
                sq = exact_sq_distances(features, features, np.full(len(near), row), near)
                covered[near[within_next(sq, k, inclusive)]] = True
    return covered


def within_next(sq: np.ndarray, k: int, inclusive: bool) -> np.ndarray:
    """Which of some neighbours lie in a ball that reaches to the next one when they are left out.

    Args:
        sq: Exact squared distances of all that are as near as the k-th, and perhaps more, `[*, p]`.
        k: Neighbours that define the radius.
        inclusive: Whether a point on the sphere belongs to the ball.
    """
    radius = np.partition(sq, k - 1, axis=-1)[..., k - 1 : k]
    within = sq <= radius
    if inclusive:
        return within
    return np.where(within.sum(axis=-1, keepdims=True) == k, within, sq < radius)
