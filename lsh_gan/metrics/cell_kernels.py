"""What is computed on blocks of cells: nearest candidates, and who lies in whose ball.

The dot products of a shell come in one of two forms. Where cells are many and overlap, all pairs of
the shell are one matrix product, and the blocks of every table look their pairs up in it. Else each
block fetches its rows and multiplies them. `whole_pays` chooses, by an estimate of the cost.
"""

import functools
import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsh_gan.backend import on_cpu
from lsh_gan.metrics.cells import CellBlocks, Grouped, batched
from lsh_gan.metrics.distances import Frame, sq_distance_bounds, sq_distances
from lsh_gan.metrics.inputs import Array, is_wide, narrow
from lsh_gan.metrics.nearest import k_smallest

# In dot products of one large product: fetching a row, and a dot product of a small block.
_FETCH, _SMALL = 128, 4
_LOOKED_UP, _MULTIPLIED = 2**18, 2**21  # pairs, and values of rows, in a batch on a CPU
_DEVICE = 64  # the same on an accelerator, over those


class Points(NamedTuple):
    """A set as given, `[n, d]`, and the frame in which its rows are compared."""

    features: Array
    frame: Frame


class DotProducts(NamedTuple):
    """Dot products of blocks `[blocks, q, s]`; squared norms of rows, inf where there is none."""

    dot: Any
    query_sq: Any
    candidate_sq: Any


class Bounds(NamedTuple):
    """Bounds of squared radii, `[blocks, q]` and `[blocks, s]`; -inf where there is no ball."""

    query_inner: np.ndarray
    query_outer: np.ndarray
    candidate_inner: np.ndarray
    candidate_outer: np.ndarray


def as_points(features: Array, frame: Frame) -> Points:
    """The set where its rows are fetched from: on the host on a CPU, else on the device.

    On a CPU, XLA gathers at a quarter of NumPy's speed.
    """
    on_host = on_cpu() or is_wide(features, *frame)
    return Points(np.asarray(features) if on_host else jnp.asarray(features), frame)


def take(points: Points, rows: np.ndarray) -> Any:
    """Shifted, scaled rows, float32 `[*rows, d]`; row 0 where the number is -1."""
    (shift, scale), x, rows = points.frame, points.features, np.maximum(rows, 0)
    if not isinstance(x, np.ndarray):
        return _take(x, rows, shift.astype(np.float32), np.float32(scale))
    x = x.take(rows, axis=0)  # three times as fast as x[rows]
    if is_wide(x, shift, scale):
        return narrow(x, shift, scale)
    x = x.astype(np.float32, copy=False)
    x -= shift.astype(np.float32)
    x *= np.float32(scale)
    return x


@jax.jit
def _take(x, rows, shift, scale):
    return (x[rows].astype(jnp.float32) - shift) * scale


def whole_pays(a: Grouped, b: Grouped, blocks: list[CellBlocks], memory_mb: int) -> bool:
    """Whether all pairs of a shell cost less than its blocks one by one, and fit in memory."""
    pairs = a.rows * b.rows
    whole = pairs + _FETCH * (a.rows + b.rows)
    apart = sum(
        _SMALL * part.queries.size * part.candidates.shape[1]
        + _FETCH * (part.queries.size + part.candidates.size)
        for part in blocks
    )
    return whole <= apart and 8 * pairs <= memory_mb * 2**20


class ShellProducts:
    """The dot products of blocks of one shell."""

    def __init__(
        self, x: Points, y: Points, a: Grouped, b: Grouped, blocks: list[CellBlocks], memory_mb: int
    ):
        self._sides = x, y
        dense = whole_pays(a, b, blocks, memory_mb)
        self._dense = _Dense(x, y, a.members, b.members) if dense else None

    def each(
        self, function: Callable[[CellBlocks, DotProducts], Any], blocks: CellBlocks
    ) -> Iterator[tuple]:
        """Yields (part, function(part, found)) for all blocks; on a CPU one part to a core."""
        q, s = blocks.queries.shape[1], blocks.candidates.shape[1]
        d = self._sides[0].features.shape[1]
        limit = _LOOKED_UP // (q * s) if self._dense else _MULTIPLIED // ((q + s) * d)
        limit = limit if on_cpu() else limit * _DEVICE
        parts = batched(blocks, 1 << (max(1, limit).bit_length() - 1))
        find = self._dense.look_up if self._dense else functools.partial(_multiply, *self._sides)

        def run(part):
            return function(part, find(part))

        if not on_cpu():
            yield from ((part, run(part)) for part in parts)
            return
        while some := list(itertools.islice(parts, 64)):
            yield from zip(some, _pool().map(run, some), strict=True)


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count())


def _multiply(x: Points, y: Points, blocks: CellBlocks) -> DotProducts:
    a = take(x, blocks.queries)
    same = x.features is y.features and np.array_equal(blocks.queries, blocks.candidates)
    b = a if same else take(y, blocks.candidates)
    missing = blocks.queries < 0, blocks.candidates < 0
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        norms = (np.einsum("bnd,bnd->bn", rows, rows) for rows in (a, b))
        return DotProducts(
            np.matmul(a, b.swapaxes(1, 2)),
            *(np.where(m, np.float32(np.inf), n) for m, n in zip(missing, norms, strict=True)),
        )
    return _multiply_on_device(a, b, *missing)


@jax.jit
def _multiply_on_device(a, b, no_a, no_b):
    dot = jnp.einsum("bqd,bsd->bqs", a, b, precision=jax.lax.Precision.HIGHEST)
    norms = (jnp.where(m, jnp.inf, jnp.sum(x * x, axis=2)) for x, m in ((a, no_a), (b, no_b)))
    return DotProducts(dot, *norms)


class _Dense:
    """Dot products of all pairs of rows of two sets, and where a row stands among them."""

    def __init__(self, x: Points, y: Points, a: np.ndarray, b: np.ndarray):
        same = x.features is y.features
        self._query_at = _places(x, a)
        self._candidate_at = self._query_at if same else _places(y, b)
        p = take(x, _padded(a))
        q = p if same else take(y, _padded(b))
        if isinstance(p, np.ndarray) and isinstance(q, np.ndarray):
            self._norms = np.einsum("nd,nd->n", p, p), np.einsum("nd,nd->n", q, q)
            self._dot = p @ q.T
        else:
            self._dot, *self._norms = _all_pairs(p, q)

    def look_up(self, blocks: CellBlocks) -> DotProducts:
        sides = (blocks.queries, self._query_at), (blocks.candidates, self._candidate_at)
        # -1 for a missing row stays -1.
        at = [np.where(rows < 0, -1, place[np.maximum(rows, 0)]) for rows, place in sides]
        if not isinstance(self._dot, np.ndarray):
            return _look_up(self._dot, *self._norms, *at)
        first = np.maximum(at[0], 0)[:, :, None] * self._dot.shape[1]
        dot = self._dot.ravel().take(first + np.maximum(at[1], 0)[:, None, :])
        norms = (
            np.where(i < 0, np.float32(np.inf), n[i]) for i, n in zip(at, self._norms, strict=True)
        )
        return DotProducts(dot, *norms)


def _places(points: Points, rows: np.ndarray) -> np.ndarray:
    at = np.empty(points.features.shape[0], np.int64)  # read at `rows` alone
    at[rows] = np.arange(len(rows))
    return at


def _padded(rows: np.ndarray) -> np.ndarray:
    """On a device few shapes, so that few programs are compiled."""
    return rows if on_cpu() else np.pad(rows, (0, (1 << (len(rows) - 1).bit_length()) - len(rows)))


@jax.jit
def _all_pairs(p, q):
    dot = jnp.matmul(p, q.T, precision=jax.lax.Precision.HIGHEST)
    return dot, jnp.sum(p * p, axis=1), jnp.sum(q * q, axis=1)


@jax.jit
def _look_up(dot, x_sq, y_sq, i, j):
    norms = (jnp.where(at < 0, jnp.inf, n[at]) for at, n in ((i, x_sq), (j, y_sq)))
    return DotProducts(dot[i[:, :, None], j[:, None, :]], *norms)


def nearest(blocks: CellBlocks, found: DotProducts, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances and rows of the k nearest other candidates, each `[blocks, q, k]`.

    Missing ones have distance inf and row -1.
    """
    return tuple(np.asarray(x) for x in _nearest(found, *blocks[:4], k=k))


def _sq_distances(found: DotProducts, q_cells, s_cells):
    """Squared distances within cells, inf elsewhere."""
    together = q_cells[:, :, None] == s_cells[:, None, :]
    sq = sq_distances(found.dot, found.query_sq[:, :, None], found.candidate_sq[:, None, :])
    return jnp.where(together, sq, jnp.inf)


@functools.partial(jax.jit, static_argnames="k")
def _nearest(found: DotProducts, queries, q_cells, candidates, s_cells, *, k: int):
    d2 = _sq_distances(found, q_cells, s_cells)
    d2 = jnp.where(queries[:, :, None] == candidates[:, None, :], jnp.inf, d2)
    values, at = (x.swapaxes(1, 2) for x in k_smallest(d2.swapaxes(1, 2), k))
    rows = jnp.take_along_axis(candidates[:, None, :], at, axis=2)
    return values, jnp.where(jnp.isinf(values), -1, rows)


def compare(
    blocks: CellBlocks, found: DotProducts, bounds: Bounds, share: np.float32
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Certain hits of queries in balls of candidates and the reverse, and open comparisons.

    Returns:
        Queries in some candidate's ball, bool `[blocks, q]`; candidates in some query's ball, bool
        `[blocks, s]`; open comparisons of either kind, bool `[2, blocks, q, s]`, or None.
    """
    cells = blocks.query_cells, blocks.candidate_cells
    hit_q, hit_s, unsure, any_unsure = _compare(found, *cells, bounds, share)
    masks = np.asarray(unsure) if any_unsure else None
    return np.asarray(hit_q), np.asarray(hit_s), masks


@jax.jit
def _compare(found: DotProducts, q_cells, s_cells, bounds: Bounds, share):
    sq_norms = found.query_sq[:, :, None], found.candidate_sq[:, None, :]
    together = q_cells[:, :, None] == s_cells[:, None, :]
    lower, upper = (
        jnp.where(together, bound, jnp.inf)
        for bound in sq_distance_bounds(found.dot, *sq_norms, share)
    )
    in_candidate = upper <= bounds.candidate_inner[:, None, :]
    in_query = upper <= bounds.query_inner[:, :, None]
    unsure = jnp.stack(
        [
            (lower <= bounds.candidate_outer[:, None, :]) & ~in_candidate,
            (lower <= bounds.query_outer[:, :, None]) & ~in_query,
        ]
    )
    return in_candidate.any(2), in_query.any(1), unsure, unsure.any()
