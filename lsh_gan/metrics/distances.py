"""Squared distances by matrix products, tile by tile, with bounds of their errors.

Float32 products find the candidates, float64 products decide. A product of rows x and y has an
error of at most e·(‖x‖² + ‖y‖²), so a comparison is sure if its sides differ by more. Comparisons
that are not sure are repeated by the same tiles in float64. Sides still equal within the error tie.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from lsh_gan import devices
from lsh_gan.metrics.inputs import Array, join_centred

_BLOCK = 128  # rows that are computed again at once


class Tiles(NamedTuple):
    """A set cut into tiles; rows behind its end are infinitely far from all others."""

    rows: jax.Array  # [b, w, d]
    sq_norms: jax.Array  # float64 [b, w], infinite behind the end

    @property
    def inside(self) -> jax.Array:
        """Which rows are rows of the set, bool `[b · w]`."""
        return jnp.isfinite(self.sq_norms).ravel()

    @property
    def flat(self) -> jax.Array:
        """The rows one after another, `[b · w, d]`."""
        return self.rows.reshape(-1, self.rows.shape[-1])


def tile(features: Array, origin: np.ndarray, memory_mb: float) -> Tiles:
    """Moves a set `[n, d]` by the origin and cuts it into tiles, of few different shapes.

    Tiles are as wide as four of float32 distances fit in `memory_mb`, and a power of two: 1024 on
    CPU, elsewhere from an eighth to a quarter of a large set. Several, as many on each device, are
    then made narrower, to a multiple of 128, as far as they still hold the set.
    """
    n, budget = len(features), (memory_mb * 2**20 / 16) ** 0.5
    width = min(max(1024, n // 8), devices.at_once(1024, 4096), budget)
    width = 2 ** int(min(np.log2(width), np.ceil(np.log2(max(n, 128)))))
    tiles = -(-n // (width * devices.count())) * devices.count()
    width = width if tiles == 1 else -(-n // (tiles * 128)) * 128
    return _tile(join_centred([features], origin, tiles * width), n, width)


@functools.partial(jax.jit, donate_argnums=0, static_argnums=2)
def _tile(x, n, width):
    rows = x.reshape(-1, width, x.shape[1])
    with jax.enable_x64(True):

        def squared(tile):
            return jnp.sum(jnp.square(tile.astype(jnp.float64)), axis=1)

        inside = jnp.arange(len(x)).reshape(-1, width) < n
        return Tiles(rows, jnp.where(inside, lax.map(squared, rows), jnp.inf))


def relative_error(dtype: DTypeLike, d: int) -> float:
    """e: a squared distance by products is wrong by at most e·(‖x‖² + ‖y‖²).

    512 terms are added in order before they join sums of others; 12 more roundings are those of the
    norms, the origin, the bound and the radius.
    """
    return float(jnp.finfo(dtype).eps) / 2 * (min(d, 512) + 12)


def products(x: jax.Array, y: jax.Array) -> jax.Array:
    """Multiplies rows `[n, d]` and `[m, d]` to inner products `[n, m]`, in full precision."""
    return lax.dot_general(x, y, (((1,), (1,)), ((), ())), precision=lax.Precision.HIGHEST)


class Pairs(NamedTuple):
    """Inner products of rows `[n, d]` and `[m, d]`, `[n, m]`, and squared norms `[n]` and `[m]`."""

    xy: jax.Array
    x_sq: jax.Array
    y_sq: jax.Array

    @property
    def size(self) -> jax.Array:
        """‖x‖² + ‖y‖², to which errors are relative."""
        return self.x_sq[:, None] + self.y_sq

    @property
    def squared(self) -> jax.Array:
        """Squared distances."""
        return self.size - 2 * self.xy

    def inside(self, sq_radius: jax.Array, error: float) -> jax.Array:
        """Which pairs lie in balls: surely, for an error e > 0; or perhaps, for −e.

        See `relative_error`. Squared radii are `[n, 1]` or `[m]`, −inf where is no ball.
        """
        bound = self.squared + error * self.size
        return bound < sq_radius if error > 0 else bound <= sq_radius


def within(squared: jax.Array, sq_radius: Any, slack: Any, inclusive: bool) -> jax.Array:
    """Whether distances lie within radii; those equal up to the slack are on the sphere."""
    return squared <= sq_radius + slack if inclusive else squared < sq_radius - slack


def keep_smallest(
    best: tuple[jax.Array, jax.Array], x: jax.Array, first: jax.Array, axis: int
) -> tuple[jax.Array, jax.Array]:
    """The smallest values so far, joined by those of a tile.

    The minima of 128 groups find the few groups that hold the smallest values, by passes over small
    arrays: 4 times as fast as top_k (k = 8, 2 cores at a width of 1024; k = 9, H200 at 4096).

    `best` holds the k smallest values of each of w rows, ascending, and their numbers, `[k, w]`.
    The values of a row lie along `axis` of the tile x; the number of the first is `first`.
    """
    k, length = len(best[0]), x.shape[axis]
    if length % 128 or length < 512:
        values, at = lax.top_k(-(x if axis else x.T), min(k, length))
        # Else XLA for CPUs sorts whole rows; right behind top_k it fails on several devices.
        found, numbers = lax.optimization_barrier((-values.T, at.T + first))
    elif axis:  # group i holds the values i, i + 128, ...
        groups = x.reshape(len(x), -1, 128)
        least, near = _smallest(groups.min(axis=1).T, k)
        found = jnp.take_along_axis(groups, near.T[:, None, :], axis=2)
        found = jnp.where(jnp.isinf(least.T[:, None, :]), jnp.inf, found).reshape(len(x), -1).T
        numbers = first + near + 128 * jnp.arange(length // 128)[:, None, None]
    else:  # group i holds values one after another, whose minima need no transposed copy
        groups = x.reshape(128, length // 128, -1)
        least, near = _smallest(groups.min(axis=1), k)
        found = jnp.take_along_axis(groups, near[:, None, :], axis=0)
        found = jnp.where(jnp.isinf(least[:, None, :]), jnp.inf, found).reshape(-1, x.shape[1])
        numbers = first + near[:, None] * groups.shape[1] + jnp.arange(groups.shape[1])[:, None]
    values = jnp.concatenate([best[0], found])
    numbers = numbers.astype(jnp.int32).reshape(found.shape)
    numbers = jnp.concatenate([best[1], numbers])
    values, at = _smallest(values, k)
    return values, jnp.take_along_axis(numbers, at, axis=0)


def _smallest(x: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The k smallest of each column of `[c, w]`, ascending, and their rows: k passes.

    Rows of infinite values are any.
    """
    rows = lax.broadcasted_iota(jnp.int32, x.shape, 0)

    def step(x, _):
        value = x.min(axis=0)
        row = jnp.where(x == value, rows, len(x)).min(axis=0)
        return jnp.where(rows == row, jnp.inf, x), (value, row)

    _, found = lax.scan(step, x, length=k, unroll=min(k, 32))
    return found


def again(flags: jax.Array, run: Callable, values: Any, total: Any) -> Any:
    """Replaces the values `[n, ...]` of flagged rows, 128 rows at a time, until none is left.

    `run` takes row numbers, int32 `[128]` (n where there are fewer), and whatever is carried on,
    the total; it returns the values of these rows and a new total. Returns all values and the last
    one.
    """
    every = jnp.arange(len(flags), dtype=jnp.int32)

    def step(state):
        flags, values, total = state
        place = jnp.where(flags, jnp.cumsum(flags, dtype=jnp.int32) - 1, _BLOCK)
        rows = jnp.full(_BLOCK, len(flags), jnp.int32).at[place].set(every, mode="drop")
        new, total = run(rows, total)
        values = jax.tree.map(lambda v, w: v.at[rows].set(w, mode="drop"), values, new)
        return flags.at[rows].set(False, mode="drop"), values, total

    return lax.while_loop(lambda state: state[0].any(), step, (flags, values, total))[1:]
