"""Computes squared distances by matrix products, tile by tile, with bounds on their errors.

Products are first computed in float32. A squared distance of rows x and y then has an error of at
most e·(‖x‖² + ‖y‖²), so that a comparison is certain if its sides differ by more. The same tiles in
float64 decide the others. Values that are still equal within the error are ties.
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

_BLOCK = 128  # rows per step of `again`


class Tiles(NamedTuple):
    """A set cut into tiles; padding after its end is infinitely far from all rows."""

    rows: jax.Array  # [b, w, d]
    sq_norms: jax.Array  # float64 [b, w], infinite for padding

    @property
    def inside(self) -> jax.Array:
        """Flags the rows that belong to the set, not to the padding, bool `[b · w]`."""
        return jnp.isfinite(self.sq_norms).ravel()

    @property
    def flat(self) -> jax.Array:
        """The rows one after another, `[b · w, d]`."""
        return self.rows.reshape(-1, self.rows.shape[-1])


def tile(features: Array, origin: np.ndarray, memory_mb: float) -> Tiles:
    """Subtracts the origin from a set `[n, d]` and cuts it into tiles, of few different shapes.

    The width is a power of two: 1024 on CPU; elsewhere at most an eighth of the set, but 1024 to
    4096; less for a small set, or if four tiles of float32 distances would not fit in `memory_mb`.
    Several tiles, the same number on each device, are then narrowed to a multiple of 128.
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
    """Returns e: the error of a squared distance from products is at most e·(‖x‖² + ‖y‖²).

    At most 512 terms are added in sequence before partial sums are combined. 12 more roundings
    cover the norms, the origin, the bound and the radius.
    """
    return float(jnp.finfo(dtype).eps) / 2 * (min(d, 512) + 12)


def products(x: jax.Array, y: jax.Array) -> jax.Array:
    """Computes inner products `[n, m]` of rows `[n, d]` and `[m, d]`, in full precision."""
    return lax.dot_general(x, y, (((1,), (1,)), ((), ())), precision=lax.Precision.HIGHEST)


class Pairs(NamedTuple):
    """Inner products of rows `[n, d]` and `[m, d]`, `[n, m]`, and squared norms `[n]` and `[m]`."""

    xy: jax.Array
    x_sq: jax.Array
    y_sq: jax.Array

    @property
    def size(self) -> jax.Array:
        """‖x‖² + ‖y‖²; errors are relative to it."""
        return self.x_sq[:, None] + self.y_sq

    @property
    def squared(self) -> jax.Array:
        """Squared distances."""
        return self.size - 2 * self.xy

    def inside(self, sq_radius: jax.Array, error: float) -> jax.Array:
        """Flags pairs inside balls: those certainly inside for an error e > 0, possibly for −e.

        See `relative_error`. Squared radii are `[n, 1]` or `[m]`, −inf for no ball.
        """
        bound = self.squared + error * self.size
        return bound < sq_radius if error > 0 else bound <= sq_radius


def within(squared: jax.Array, sq_radius: Any, slack: Any, inclusive: bool) -> jax.Array:
    """Flags distances within radii; a distance equal to the radius up to the slack is a tie."""
    return squared <= sq_radius + slack if inclusive else squared < sq_radius - slack


def keep_smallest(
    best: tuple[jax.Array, jax.Array], x: jax.Array, first: jax.Array, axis: int
) -> tuple[jax.Array, jax.Array]:
    """Merges the values of a tile into the k smallest values so far.

    The minima of 128 groups show which few groups hold the smallest values, so that passes go over
    small arrays: 4 times as fast as top_k (k = 8, 2 cores at a width of 1024; k = 9, H200 at 4096).

    `best` holds the k smallest values of each of w rows, ascending, and their numbers, `[k, w]`.
    The values of a row lie along `axis` of the tile x; the first has the number `first`.
    """
    k, length = len(best[0]), x.shape[axis]
    if length % 128 or length < 512:
        values, at = lax.top_k(-(x if axis else x.T), min(k, length))
        # Without this barrier XLA for CPUs sorts whole rows. Directly after top_k, before the
        # transpose, the barrier fails on several devices.
        found, numbers = lax.optimization_barrier((-values.T, at.T + first))
    elif axis:  # group i holds the values i, i + 128, ...
        groups = x.reshape(len(x), -1, 128)
        least, near = smallest(groups.min(axis=1).T, k)
        found = jnp.take_along_axis(groups, near.T[:, None, :], axis=2)
        found = jnp.where(jnp.isinf(least.T[:, None, :]), jnp.inf, found).reshape(len(x), -1).T
        numbers = first + near + 128 * jnp.arange(length // 128)[:, None, None]
    else:  # group i holds consecutive values, whose minima need no transposed copy
        groups = x.reshape(128, length // 128, -1)
        least, near = smallest(groups.min(axis=1), k)
        found = jnp.take_along_axis(groups, near[:, None, :], axis=0)
        found = jnp.where(jnp.isinf(least[:, None, :]), jnp.inf, found).reshape(-1, x.shape[1])
        numbers = first + near[:, None] * groups.shape[1] + jnp.arange(groups.shape[1])[:, None]
    values = jnp.concatenate([best[0], found])
    numbers = numbers.astype(jnp.int32).reshape(found.shape)
    numbers = jnp.concatenate([best[1], numbers])
    values, at = smallest(values, k)
    return values, jnp.take_along_axis(numbers, at, axis=0)


def smallest(x: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Finds the k smallest of each column of `[c, w]`, ascending, and their rows, in k passes.

    The rows of infinite values are arbitrary.
    """
    rows = lax.broadcasted_iota(jnp.int32, x.shape, 0)

    def step(x, _):
        value = x.min(axis=0)
        row = jnp.where(x == value, rows, len(x)).min(axis=0)
        return jnp.where(rows == row, jnp.inf, x), (value, row)

    _, found = lax.scan(step, x, length=k, unroll=min(k, 32))
    return found


def again(flags: jax.Array, run: Callable, values: Any, total: Any) -> Any:
    """Computes the values `[n, ...]` of flagged rows again, 128 rows at a time.

    `run` takes row numbers, int32 `[128]` (n as padding), and the total so far. It returns the
    values of these rows and a new total. `again` returns all values and the last total.
    """
    n = len(flags)
    # Not jnp.nonzero: JAX 0.12 lowers it after `enable_x64` has ended, and warns.
    flagged = lax.sort(jnp.where(flags, jnp.arange(n, dtype=jnp.int32), n))
    flagged = jnp.pad(flagged, (0, _BLOCK), constant_values=n)

    def step(state):
        at, values, total = state
        rows = lax.dynamic_slice_in_dim(flagged, at, _BLOCK)
        new, total = run(rows, total)
        values = jax.tree.map(lambda v, w: v.at[rows].set(w, mode="drop"), values, new)
        return at + _BLOCK, values, total

    return lax.while_loop(lambda state: flagged[state[0]] < n, step, (0, values, total))[1:]
