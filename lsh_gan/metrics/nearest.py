"""The k nearest others of every row of a set.

Distances are symmetric: only tiles on and above the diagonal are computed, and each serves its rows
and its columns. A pair that is no nearer than the k-th nearest so far of either row cannot matter.
On a CPU one comparison finds the few pairs that can, and the host enters them; an accelerator
selects the k smallest of every tile.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsh_gan.backend import on_cpu
from lsh_gan.metrics.distances import (
    Blocks,
    dots,
    few_places,
    halves,
    in_place,
    pack,
    products,
    sq_distances,
)

_LEAST = 960  # rows of the smallest blocks that are halved from larger ones
_LARGEST = float(np.finfo(np.float32).max)


class Nearest(NamedTuple):
    """The k nearest others of each row.

    Attributes:
        sq: Their squared distances, ascending, float32 `[n, k]`; of a tile `[k, rows]`.
        rows: Which they are, int32 likewise.
    """

    sq: jax.Array | np.ndarray
    rows: jax.Array | np.ndarray


def nearest_others(blocks: Blocks, k: int) -> Nearest:
    """The k nearest others of every row, float32 and int32 `[n, k]`; at least k + 1 rows."""
    find = _by_threshold if on_cpu() else _by_selection
    return Nearest(*(part[: blocks.rows] for part in find(blocks, k)))


def _by_selection(blocks: Blocks, k: int) -> Nearest:
    count, size = len(blocks.features), blocks.size
    none = Nearest(np.full((k, size), np.inf, np.float32), np.zeros((k, size), np.int32))
    best = [none] * count
    for i in range(count):
        for j in range(i, count):
            first = np.int32(i * size), np.int32(j * size)
            dot = dots(blocks.features[i], blocks.features[j])
            norms = blocks.sq_norms[i], blocks.sq_norms[j]
            found = _select(dot, *norms, *first, k=k, diagonal=i == j)
            best[i] = _merge(best[i], found[0])
            if i != j:
                best[j] = _merge(best[j], found[1])
    return Nearest(*(np.concatenate([np.asarray(b[f]) for b in best], axis=1).T for f in (0, 1)))


@functools.partial(jax.jit, static_argnames=("k", "diagonal"))
def _select(dot, x_sq, y_sq, first_x, first_y, *, k: int, diagonal: bool):
    """The k nearest of each row, and off the diagonal of each column, of a tile, `[k, *]`."""
    d2 = sq_distances(dot, x_sq[:, None], y_sq[None, :])
    if diagonal:
        d2 = jnp.where(jnp.eye(d2.shape[0], dtype=bool), jnp.inf, d2)
    found = []
    for axis, first in ((1, first_y),) if diagonal else ((1, first_y), (0, first_x)):
        sq, places = smallest(d2, k, axis)
        found.append(Nearest(sq, places + first))
    return found


@jax.jit
def _merge(a: Nearest, b: Nearest) -> Nearest:
    """The k nearest, `[k, *]`, of k and k."""
    sq, at = k_smallest(jnp.concatenate([a.sq, b.sq]), a.sq.shape[0])
    return Nearest(sq, jnp.take_along_axis(jnp.concatenate([a.rows, b.rows]), at, axis=0))


@functools.partial(jax.jit, donate_argnames="room", keep_unused=True)
def _nearer(x, y, x_sq, y_sq, limit_x, limit_y, room):
    """Dot products of two blocks, and which pairs beat the limit of their row or column, packed.

    `room` is an earlier tile of this size, or None. Its memory is used again: new memory costs a
    CPU a tenth of the time of the products.
    """
    dot = products(x, y)
    d2 = sq_distances(dot, x_sq[:, None], y_sq[None, :])
    return dot, pack(d2 < jnp.maximum(limit_x[:, None], limit_y[None, :]))


class _Table:
    """The k nearest of every row so far, and nearer pairs that wait to be entered."""

    def __init__(self, rows: int, k: int):
        self.best = Nearest(np.full((rows, k), np.inf, np.float32), np.zeros((rows, k), np.int32))
        self._waiting: list[tuple[np.ndarray, ...]] = []
        self._count = 0

    def start(self, first: int, own: Nearest) -> None:
        """Sets rows from `first` on to what `own` `[k, rows]` holds."""
        at = slice(first, first + own.sq.shape[1])
        self.best.sq[at], self.best.rows[at] = np.asarray(own.sq).T, np.asarray(own.rows).T

    def limits(self, first: int, rows: int) -> np.ndarray:
        """Squared distances that nearer ones of some rows must beat."""
        return self.best.sq[first : first + rows, -1]

    def add(self, owner: np.ndarray, other: np.ndarray, sq: np.ndarray) -> None:
        """Keeps pairs; they are entered when they are as many as what is held."""
        self._waiting.append((owner, other, sq))
        self._count += len(owner)
        if self._count >= self.best.sq.size:
            self.enter()

    def enter(self) -> None:
        """Enters what waits."""
        rows, k = self.best.sq.shape
        held = np.repeat(np.arange(rows), k), self.best.rows.ravel(), self.best.sq.ravel()
        owner, other, sq = (np.concatenate(p) for p in zip(held, *self._waiting, strict=True))
        self._waiting, self._count = [], 0
        # Of floats that are not negative, the bits are in the order of the values.
        key = owner << 32 | sq.view(np.int32)
        order = np.argsort(key)
        tied = np.flatnonzero(np.diff(key[order]) == 0)
        if np.isfinite(sq[order[tied]]).any():  # rarely: the faster sort leaves open who is first
            order = np.argsort(key, kind="stable")
        first = np.searchsorted(owner[order], np.arange(rows))
        keep = order[first[:, None] + np.arange(k)]
        self.best = Nearest(sq[keep], other[keep])


def _by_threshold(blocks: Blocks, k: int) -> Nearest:
    blocks = in_place(blocks)
    table = _Table(len(blocks.features) * blocks.size, k)
    finest, pairs = _pairs(blocks)
    for i, (x, x_sq) in enumerate(zip(finest.features, finest.sq_norms, strict=True)):
        first = np.int32(i * finest.size)
        dot = dots(x, x)
        (own,) = _select(dot, x_sq, x_sq, first, first, k=k, diagonal=True)
        table.start(first, own)
    for level, *ij in pairs:
        firsts = [np.int32(i * level.size) for i in ij]
        limits = (table.limits(first, level.size) for first in firsts)
        norms = [level.sq_norms[i] for i in ij]
        room = dot if len(dot) == level.size else None
        dot, near = _nearer(*(level.features[i] for i in ij), *norms, *limits, room)
        _enter_tile(table, firsts, (dot, *norms), near)
    table.enter()
    return table.best


def _pairs(blocks: Blocks) -> tuple[Blocks, list[tuple[Blocks, int, int]]]:
    """Blocks that meet themselves, and pairs of blocks, so that all rows meet.

    Large products are fast, but of a block with itself half is computed in vain: blocks are halved
    for that. Large blocks meet their neighbours first, so that limits soon are near their ends.
    """
    levels = [blocks]
    while levels[-1].size >= 2 * _LEAST and levels[-1].size % 16 == 0:
        levels.append(halves(levels[-1]))
    pairs = [(level, i, i + 1) for level in levels[:0:-1] for i in range(0, len(level.features), 2)]
    count = len(blocks.features)
    pairs += [(blocks, i, i + step) for step in range(1, count) for i in range(count - step)]
    return levels[-1], pairs


def _enter_tile(table: _Table, firsts: tuple, tile: tuple, near: jax.Array) -> None:
    k, size = table.best.sq.shape[1], tile[0].shape[0]
    places = few_places(near)
    if places is None:
        found = _select(*tile, *firsts, k=k, diagonal=False)
        for first, (sq, rows) in zip(firsts, found, strict=True):
            owner = np.broadcast_to(first + np.arange(size), (k, size))
            table.add(owner.ravel(), np.asarray(rows).ravel(), np.asarray(sq).ravel())
        return
    dot, x_sq, y_sq = (np.asarray(part) for part in tile)
    x, y = places
    sq = sq_distances(dot[x, y], x_sq[x], y_sq[y])
    x, y = x + firsts[0], y + firsts[1]
    for owner, other in ((x, y), (y, x)):
        near = sq < table.best.sq[owner, -1]
        table.add(owner[near], other[near].astype(np.int32), sq[near])


def k_smallest(x: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The k smallest values of x `[..., a, b]` along axis -2, ascending, and places `[..., k, b]`.

    k is at most a. Of equal values the first come first.
    """
    if not on_cpu():
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
    while length % (2 * stride) == 0 and length >= max(8 * k * stride, 4 * stride * stride):
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
