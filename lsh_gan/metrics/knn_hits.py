"""Who lies in whose ball: all pairs of a generated set and the reference, tile by tile."""

import collections
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsh_gan.backend import on_cpu
from lsh_gan.metrics.distances import (
    Blocks,
    dots,
    few_places,
    pack,
    products,
    slack,
    sq_distance_bounds,
)
from lsh_gan.metrics.inputs import Array, readable
from lsh_gan.metrics.judge import Judge, Kind, Memberships, enter
from lsh_gan.metrics.knn_reference import KnnReference
from lsh_gan.metrics.nearest import Nearest
from lsh_gan.metrics.refine import BallBounds, balls_of

_WAITING = 2**16  # open comparisons that are kept before they are decided


class _Side(NamedTuple):
    """A block of one set. Bounds of squared radii `[kinds, size]`, -inf where there is no ball."""

    sq_norms: Any
    inner: Any
    outer: Any


def compare(
    fitted: KnnReference, generated: Array, blocks: Blocks, nearest: Nearest
) -> Memberships:
    """Compares a generated set with a reference.

    Args:
        fitted: The reference.
        generated: Features as given, `[m, d]`.
        blocks: The same for the float32 kernels, in the frame of the reference.
        nearest: The nearest others in G, at least k of each row.

    Returns:
        Memberships and counts, those of float64.
    """
    others, share = fitted.blocks, np.float32(slack(generated.shape[1]))
    r_balls, g_balls, r_dense = balls = _balls(fitted, blocks, nearest)
    r_sides, g_sides = _sides(others, r_balls, r_dense), _sides(blocks, g_balls)
    # Rows of fillings are counted too, and cut off at the end.
    m, n = len(g_sides) * blocks.size, len(r_sides) * others.size
    found = Memberships(
        np.zeros(m, bool), np.zeros(n, bool), np.zeros(m, np.int64), np.zeros(n, bool)
    )
    judge = Judge(fitted, generated, blocks, nearest, balls)

    def start(i: int, j: int, of_r: Array, room: jax.Array | None) -> tuple[jax.Array, Any]:
        of_g, sides = blocks.features[i], (g_sides[i], r_sides[j], share)
        if on_cpu():
            return _near(of_g, of_r, *sides, room)
        # An accelerator deals with all of a tile sooner than the host with a part of it.
        dot = dots(of_g, of_r)
        return dot, _compare_tile(dot, *sides)

    def finish(i: int, j: int, dot: jax.Array, known: Any) -> None:
        first, sides = (i * blocks.size, j * others.size), (g_sides[i], r_sides[j], share)
        if on_cpu():
            places = few_places(known)
            if places is not None:
                _enter_few(found, judge, dot, *sides, first, places)
                return
            known = _compare_tile(dot, *sides)
        _enter_whole(found, judge, known, first)

    for tile in _each_tile(start, len(g_sides), others):
        finish(*tile)
        if judge.waiting > _WAITING:
            judge.settle(found)
    judge.settle(found)
    return Memberships(
        found.within_r[: blocks.rows], found.within_g[: others.rows],
        found.density_count[: blocks.rows], found.covered[: others.rows],
    )  # fmt: skip


def _balls(fitted: KnnReference, blocks: Blocks, nearest: Nearest) -> tuple[BallBounds, ...]:
    """Balls of R, balls of G, and density balls of R, as `Kind` has them."""
    d, k = fitted.features.shape[1], fitted.k
    no_ball = np.full(fitted.blocks.rows, np.inf, np.float32)
    dense = fitted.nearest.sq[:, fitted.density_k - 1] if fitted.dense else no_ball
    return (
        balls_of(fitted.blocks, fitted.nearest.sq[:, k - 1], d),
        balls_of(blocks, nearest.sq[:, k - 1], d),
        balls_of(fitted.blocks, dense, d),
    )


def _each_tile(start: Callable[..., tuple], count: int, others: Blocks) -> Iterator[tuple]:
    """Starts every tile, and yields its place and what `start` returned, dot products first.

    Finished when the next is asked for: the dot products' memory is given to a later tile. On an
    accelerator the next tile is under way while one is read.
    """
    ahead, room = 0 if on_cpu() else 1, None
    under_way: collections.deque = collections.deque()
    for j, of_r in enumerate(others.features):
        of_r = readable(of_r)
        for i in range(count):
            under_way.append((i, j, *start(i, j, of_r, room)))
            if len(under_way) > ahead:
                tile = under_way.popleft()
                yield tile
                room = tile[2]
    yield from under_way


def _sides(blocks: Blocks, *kinds: BallBounds) -> list[_Side]:
    inner = [np.stack(parts) for parts in zip(*(kind.inner for kind in kinds), strict=True)]
    outer = [np.stack(parts) for parts in zip(*(kind.outer for kind in kinds), strict=True)]
    sides = [_Side(np.asarray(s), *b) for s, *b in zip(blocks.sq_norms, inner, outer, strict=True)]
    # The host reads them too where it enters pairs one by one, and then kernels read its memory.
    return sides if on_cpu() else jax.device_put(sides)


@functools.partial(jax.jit, donate_argnames="room", keep_unused=True)
def _near(x, y, g: _Side, r: _Side, share, room):
    """Dot products of two blocks, and which pairs may lie in a ball of any kind, packed.

    `room` as in `nearest`.
    """
    dot = products(x, y)
    lower, _ = sq_distance_bounds(dot, g.sq_norms[:, None], r.sq_norms[None, :], share)
    return dot, pack(lower <= jnp.maximum(g.outer.max(0)[:, None], r.outer.max(0)[None, :]))


def _enter_few(found, judge, dot, g: _Side, r: _Side, share, first, places: tuple) -> None:
    """Enters a tile of which only the pairs at `places` matter."""
    x, y = places
    lower, upper = sq_distance_bounds(np.asarray(dot)[x, y], g.sq_norms[x], r.sq_norms[y], share)
    g_rows, r_rows = x + first[0], y + first[1]
    bits = np.zeros(len(x), np.uint8)
    for kind, side, ball, at in (
        (Kind.IN_R, r, 0, y), (Kind.IN_G, g, 0, x), (Kind.IN_DENSITY_BALL, r, 1, y),
    ):  # fmt: skip
        inner, outer = side.inner[ball][at], side.outer[ball][at]
        sure = upper <= inner
        enter(found, kind, g_rows[sure], r_rows[sure])
        bits |= ((lower <= outer) & ~sure).astype(np.uint8) << np.uint8(kind)
    some = np.flatnonzero(bits)
    judge.add(g_rows[some], r_rows[some], bits[some])


def _enter_whole(found: Memberships, judge: Judge, known: tuple, first: tuple[int, int]) -> None:
    """Enters what `_compare_tile` says of a tile."""
    hits, unsettled, any_open = known
    rows, columns = (slice(at, at + size) for at, size in zip(first, unsettled.shape, strict=True))
    found.within_r[rows] |= np.asarray(hits[0])
    found.within_g[columns] |= np.asarray(hits[1])
    found.density_count[rows] += np.asarray(hits[2])
    found.covered[columns] |= np.asarray(hits[3])
    if any_open:
        unsettled = np.asarray(unsettled)
        x, y = np.nonzero(unsettled)
        judge.add(x + first[0], y + first[1], unsettled[x, y])


@jax.jit
def _compare_tile(dot, g: _Side, r: _Side, share):
    """Certain hits of a tile [G, R]; open comparisons, uint8 [G, R], bit i for kind i; if any."""
    lower, upper = sq_distance_bounds(dot, g.sq_norms[:, None], r.sq_norms[None, :], share)

    def inside(side, kind, axis):
        inner, outer = (jnp.expand_dims(b[kind], axis) for b in (side.inner, side.outer))
        sure = upper <= inner
        return sure, (lower <= outer) & ~sure

    in_r, open_r = inside(r, 0, 0)
    in_g, open_g = inside(g, 0, 1)
    in_dense, open_dense = inside(r, 1, 0)
    hits = in_r.any(1), in_g.any(0), in_dense.sum(1), in_dense.any(0)
    bits = [mask.astype(jnp.uint8) << i for i, mask in enumerate((open_r, open_g, open_dense))]
    unsettled = bits[0] | bits[1] | bits[2]
    return hits, unsettled, jnp.any(unsettled != 0)
