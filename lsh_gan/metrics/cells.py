"""Dense blocks of the rows that share a hash cell: the work lists and kernels of LSH+KNN.

The members of a cell stand together once rows are sorted by cell, so that all pairs of a cell are
one small matrix product. Cells of all tables are cut into blocks of a few sizes, which run in
batches of equal shape.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsh_gan.metrics.distances import _TINY

_QUERIES = (16, 64, 256)  # query rows of a block
_BATCH_BYTES = 2**26


class Grouped(NamedTuple):
    """Rows of a set by table and cell.

    Attributes:
        order: Row numbers, table after table, each sorted by cell, int32 `[t * n]`.
        key: Table and cell of each group, `table << 40 | cell`, ascending, int64 `[groups]`.
        start: Where the group starts in `order`, int64 `[groups]`.
        count: Rows in the group, int64 `[groups]`.
        rows: n.
    """

    order: np.ndarray
    key: np.ndarray
    start: np.ndarray
    count: np.ndarray
    rows: int


class Blocks(NamedTuple):
    """Blocks of one shape: rows are numbers in their sets, -1 where a block has no row.

    Attributes:
        table: int64 `[blocks]`.
        queries: int32 `[blocks, q]`.
        candidates: int32 `[blocks, s]`.
    """

    table: np.ndarray
    queries: np.ndarray
    candidates: np.ndarray


def grouped(cells: np.ndarray) -> Grouped:
    """Groups the rows of every table by cell; `cells` is int64 `[t, n]`, below 2^40.

    Within a cell rows stand in a fixed pseudo-random order, so that a cap takes a fair sample.
    """
    n = cells.shape[1]
    shuffled = np.random.default_rng(0).permutation(n)
    orders, keys = [], []
    for table, row in enumerate(cells):
        order = shuffled[np.argsort(row[shuffled], kind="stable")]
        orders.append(order)
        keys.append(row[order] | table << 40)
    key = np.concatenate(keys)
    start = np.flatnonzero(np.append(True, key[1:] != key[:-1]))
    count = np.diff(np.append(start, len(key)))
    return Grouped(np.concatenate(orders).astype(np.int32), key[start], start, count, n)


def pair_blocks(a: Grouped, b: Grouped, cap: int, least: int = 1) -> Iterator[Blocks]:
    """Blocks that together hold every pair of rows (of a, of b) in a common cell.

    Args:
        a: Groups of the queries.
        b: Groups of the candidates.
        cap: Candidates taken of a cell, at most.
        least: Cells of `b` with fewer rows are left out.
    """
    _, i, j = np.intersect1d(a.key, b.key, assume_unique=True, return_indices=True)
    keep = b.count[j] >= least
    i, j = i[keep], j[keep]
    # Cells with many queries are cut; each piece is a block.
    pieces = -(-a.count[i] // _QUERIES[-1])
    piece = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    i, j = np.repeat(i, pieces), np.repeat(j, pieces)
    start = a.start[i] + piece * _QUERIES[-1]
    count = np.minimum(a.count[i] - piece * _QUERIES[-1], _QUERIES[-1])
    candidates = np.minimum(b.count[j], cap)
    q = np.array(_QUERIES)[np.searchsorted(_QUERIES, count)]
    s = np.maximum(16, 2 ** np.ceil(np.log2(np.maximum(candidates, 1))).astype(np.int64))
    table = a.key[i] >> 40
    for shape in np.unique(np.stack([q, s]), axis=1).T:
        at = (q == shape[0]) & (s == shape[1])
        yield Blocks(
            table[at],
            _members(a.order, start[at], count[at], shape[0]),
            _members(b.order, b.start[j][at], candidates[at], shape[1]),
        )


def _members(order: np.ndarray, start: np.ndarray, count: np.ndarray, width: int) -> np.ndarray:
    place = np.arange(width)
    inside = place < count[:, None]
    at = np.minimum(start[:, None] + place, len(order) - 1)
    return np.where(inside, order[at], np.int32(-1))


def capped_share(a: Grouped, b: Grouped, cap: int) -> float:
    """Share of the candidates of all queries that the cap leaves out."""
    _, i, j = np.intersect1d(a.key, b.key, assume_unique=True, return_indices=True)
    everything = np.sum(a.count[i] * b.count[j])
    kept = np.sum(a.count[i] * np.minimum(b.count[j], cap))
    return float(1 - kept / everything) if everything else 0.0


def batched(blocks: Blocks, d: int) -> Iterator[Blocks]:
    """Cuts blocks into batches of one shape, the last filled with empty blocks."""
    q, s = blocks.queries.shape[1], blocks.candidates.shape[1]
    size = max(1, _BATCH_BYTES // (4 * ((q + s) * d + 4 * q * s)))
    size = 2 ** int(np.log2(size))
    for first in range(0, len(blocks.table), size):
        part = Blocks(*(x[first : first + size] for x in blocks))
        fill = size - len(part.table)
        yield Blocks(
            np.pad(part.table, (0, fill)),
            np.pad(part.queries, ((0, fill), (0, 0)), constant_values=-1),
            np.pad(part.candidates, ((0, fill), (0, 0)), constant_values=-1),
        )


def _sq_distances(x, x_sq, queries, y, y_sq, candidates):
    """Squared distances `[blocks, q, s]` and the norms they came from; inf where no row is."""
    a, b = x[queries], y[candidates]
    a_sq = jnp.where(queries < 0, jnp.inf, x_sq[queries])[:, :, None]
    b_sq = jnp.where(candidates < 0, jnp.inf, y_sq[candidates])[:, None, :]
    dot = jnp.einsum("bqd,bsd->bqs", a, b, precision=jax.lax.Precision.HIGHEST)
    return jnp.maximum(a_sq + b_sq - 2 * dot, 0), a_sq, b_sq


@functools.partial(jax.jit, static_argnames="k")
def nearest_in_blocks(x, x_sq, queries, candidates, *, k: int):
    """Squared distances and rows of the k nearest other candidates, each `[blocks, q, k]`."""
    fill = max(0, k - candidates.shape[1])
    candidates = jnp.pad(candidates, ((0, 0), (0, fill)), constant_values=-1)
    d2, _, _ = _sq_distances(x, x_sq, queries, x, x_sq, candidates)
    d2 = jnp.where(queries[:, :, None] == candidates[:, None, :], jnp.inf, d2)
    # Without the barrier XLA's CPU compiler turns top_k into a full sort.
    values, at = jax.lax.optimization_barrier(jax.lax.top_k(-d2, k))
    rows = jnp.take_along_axis(candidates[:, None, :], at, axis=2)
    return -values, jnp.where(jnp.isinf(values), -1, rows)


class Bounds(NamedTuple):
    """Bounds of squared radii, `[blocks, q]` and `[blocks, s]`; -inf where there is no ball."""

    query_inner: jax.Array
    query_outer: jax.Array
    candidate_inner: jax.Array
    candidate_outer: jax.Array


@functools.partial(jax.jit, static_argnames="masks")
def compare_blocks(x, x_sq, queries, y, y_sq, candidates, bounds: Bounds, share, *, masks: bool):
    """Certain hits of queries in balls of candidates and the reverse, and open comparisons.

    Returns:
        Queries in some candidate's ball, bool `[blocks, q]`; candidates in some query's ball, bool
        `[blocks, s]`; open comparisons: how many, or with `masks` which, bool `[2, blocks, q, s]`.
    """
    d2, a_sq, b_sq = _sq_distances(x, x_sq, queries, y, y_sq, candidates)
    error = share * (a_sq + b_sq) + _TINY
    lower, upper = d2 - error, d2 + error
    in_candidate = upper <= bounds.candidate_inner[:, None, :]
    in_query = upper <= bounds.query_inner[:, :, None]
    unsure = jnp.stack(
        [
            (lower <= bounds.candidate_outer[:, None, :]) & ~in_candidate,
            (lower <= bounds.query_outer[:, :, None]) & ~in_query,
        ]
    )
    return in_candidate.any(2), in_query.any(1), unsure if masks else unsure.sum()
