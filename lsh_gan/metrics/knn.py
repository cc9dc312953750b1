"""Precision, recall, density and coverage from k-nearest-neighbour balls, exact and tile by tile.

With R the reference `[n, d]`, G the generated set `[m, d]`, and radius_k(r) the Euclidean distance
from r to its k-th nearest other point of R:

    precision = share of g with ‖g − r‖ <= radius_k(r) for at least one r
    recall    = share of r with ‖r − g‖ <= radius_k(g) for at least one g
    density   = mean over g of #{r : ‖g − r‖ <= radius_k'(r)} / k',      k' = 5
    coverage  = share of r with ‖r − g‖ <= radius_k'(r) for at least one g

Precision and recall: Kynkäänniemi et al. 2019, arXiv:1904.06991, section 3. Density and coverage:
Naeem et al. 2020, arXiv:2002.09797, section 3. By definition, in ten lines: `definitions.knn`.

Products find, float64 decides:

    1. matrix products of each half of R·R and of G·G give the nearest others of every row
    2. their distances, again in float64 from differences, sorted, give the radii
    3. matrix products R·G give the least margin of each row to a ball
    4. rows whose margin, or whose neighbours, float32 leaves open are computed again in float64

so that memberships are those of the definition. Nothing n × m is held.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Bool, Float, Float64

from lsh_gan import devices
from lsh_gan.metrics import distances
from lsh_gan.metrics.distances import Tiles, again, keep_smallest, margins, products, within
from lsh_gan.metrics.inputs import Array, as_features, as_references, check_options
from lsh_gan.metrics.scores import PrecisionRecall, ceilings, result, summarise

_SPARE = 3  # neighbours that are found beyond those that radii need
_CHUNK = 16  # rows whose neighbours' features are fetched at once


class Balls(NamedTuple):
    """The balls of a set; of its tiles, rows behind the end included."""

    sq_radii: Float64[jax.Array, "n 2"]  # of precision or recall, and of density
    covered: Bool[jax.Array, " n"]  # which rows lie in the ball of another, each left out in turn


class KnnReference(NamedTuple):
    """What the score of a generated set needs of the reference.

    `features` are R as it came, `tiles` and `balls` those of R less the `origin`, float64 `[d]`;
    the options are those of `knn_precision_recall`.
    """

    features: Float[Array, "n d"]
    tiles: Tiles
    origin: Float64[np.ndarray, " d"]
    balls: Balls
    k: int
    density_k: int
    inclusive: bool
    memory_mb: float
    ceiling: bool
    second: Array | None


def knn_precision_recall(
    reference: Float[Any, "n d"],
    generated: Float[Any, "m d"],
    *,
    k: int = 3,
    inclusive: bool = True,
    membership: bool = False,
    ceiling: bool = True,
    second_reference: Float[Any, "n2 d"] | None = None,
    density_k: int = 5,
    memory_mb: float = 256,
) -> PrecisionRecall:
    """Scores `generated` against `reference` with k-nearest-neighbour balls.

    >>> import numpy as np
    >>> real = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    >>> scores = knn_precision_recall(real, real[:250] / 2)  # diversity is lost, quality is kept
    >>> bool(scores.precision > 0.9), bool(scores.recall < 0.5)
    (True, True)

    Args:
        reference: Features `[n, d]`, floating point: NumPy, JAX, torch, DLPack.
        generated: Features `[m, d]`, likewise.
        k: Neighbours of precision and recall, 1 to n - 2.
        inclusive: Ball membership by `<=` (as the paper's code); False for `<` (as prdc).
        membership: Whether to return the membership of every sample.
        ceiling: Whether to score the reference against itself too.
        second_reference: A second sample of the reference distribution, at least n rows; gives the
            ceiling instead.
        density_k: Neighbours of density and coverage.
        memory_mb: Bound of the tiles of distances, in MiB.

    Raises:
        TypeError: Features that are not floating-point arrays.
        ValueError: NaN, Inf, wrong shape, too few rows (k + 2; n in the second reference), or an
            option out of its range.
    """
    check_options(k=k, density_k=density_k, memory_mb=memory_mb)
    reference = as_features(reference, "reference", k=k)
    generated = as_features(generated, "generated", dim=reference.shape[1], k=k)
    fitted = knn_fit(
        reference, k=k, inclusive=inclusive, ceiling=ceiling, second_reference=second_reference,
        density_k=density_k, memory_mb=memory_mb,
    )  # fmt: skip
    return knn_score(fitted, generated, membership=membership)


def knn_fit(
    reference: Float[Any, "n d"],
    *,
    k: int = 3,
    inclusive: bool = True,
    ceiling: bool = True,
    second_reference: Float[Any, "n2 d"] | None = None,
    density_k: int = 5,
    memory_mb: float = 256,
) -> KnnReference:
    """Computes what depends on the reference alone; arguments as `knn_precision_recall`."""
    check_options(k=k, density_k=density_k, memory_mb=memory_mb)
    reference, second = as_references(reference, second_reference, k)
    origin = np.asarray(reference[0], np.float64)
    tiles = distances.tile(reference, origin, memory_mb)
    balls = find_balls(tiles, k, density_k, inclusive)
    return KnnReference(
        reference, tiles, origin, balls, k, density_k, inclusive, memory_mb, ceiling, second
    )


def knn_score(
    fitted: KnnReference, generated: Float[Any, "m d"], *, membership: bool = False
) -> PrecisionRecall:
    """Scores `generated` `[m, d]` against a fitted reference; see `knn_precision_recall`."""
    (n, d), k = fitted.features.shape, fitted.k
    generated = as_features(generated, "generated", dim=d, k=k)
    m, g = len(generated), distances.tile(generated, fitted.origin, fitted.memory_mb)
    found, limits, extra = compare(fitted, g), (None, None), {}
    if fitted.ceiling:
        left_out = jnp.sum(fitted.balls.covered, where=fitted.tiles.inside)
        compare_sample = functools.partial(_compare_sample, fitted)
        limits = ceilings(fitted.features, fitted.second, m, left_out, compare_sample)
    if n > fitted.density_k:
        density = jnp.sum(found.density, where=g.inside)
        coverage = jnp.sum(found.covered, where=fitted.tiles.inside)
        extra = {"density": (density, m * fitted.density_k), "coverage": (coverage, n)}
    return result(
        summarise(found.precise, g.inside), summarise(found.recalled, fitted.tiles.inside),
        limits, membership=membership, rows=(n, m), extra=extra, k=k,
    )  # fmt: skip


def _compare_sample(fitted: KnnReference, sample: Array) -> tuple[jax.Array, ...]:
    """What `ceilings` needs of a sample of the reference distribution."""
    tiles = distances.tile(sample, fitted.origin, fitted.memory_mb)
    balls = find_balls(tiles, fitted.k, 1, fitted.inclusive)
    found, rows = compare(fitted, tiles, balls), len(sample)
    return found.precise[:rows], found.recalled[: len(fitted.features)], balls.covered[:rows]


def find_balls(tiles: Tiles, k: int, density_k: int, inclusive: bool) -> Balls:
    """The balls of a set, and which rows lie in those of others."""
    tiles, needed = devices.replicate(tiles), max(k + 1, density_k)
    near = nearest_others(tiles, needed + _SPARE)
    return _find_balls(tiles, *near, k=k, density_k=density_k, inclusive=inclusive)


@functools.partial(jax.jit, static_argnums=1)
def nearest_others(tiles: Tiles, k: int) -> tuple[jax.Array, jax.Array]:
    """Step 1: the k others of each row that may be nearest.

    Each pair of tiles is multiplied once, for the rows of both; pairs are dealt to the devices.

    Returns lower bounds of their squared distances, ascending, float32 `[b · w, k]`, infinite where
    there are fewer, and their rows, int32: all others are at least as far as the last bound.
    """
    count, width, d = tiles.rows.shape
    low = tiles.sq_norms * (1 - distances.relative_error(jnp.float32, d))
    pairs = np.stack(np.triu_indices(count), axis=1).astype(np.int32)
    missing = -len(pairs) % devices.count()
    pairs = np.pad(pairs, ((0, missing), (0, 0)), constant_values=count)
    dealt = jnp.asarray(pairs.reshape(-1, devices.count(), 2).swapaxes(0, 1))

    def step(best, pair):
        i, j = pair  # beyond the last tile where a device has a pair less: updates are dropped
        bounds = low[i][:, None] + low[j] - 2 * products(tiles.rows[i], tiles.rows[j])
        bounds = jnp.where((i == j) & jnp.eye(width, dtype=bool), jnp.inf, bounds)

        def update(best, tile, others, axis):
            mine = jax.tree.map(lambda v: v[tile], best)
            mine = keep_smallest(mine, bounds, others * width, axis)
            return jax.tree.map(lambda v, new: v.at[tile].set(new), best, mine)

        best = update(best, i, j, 1)
        return lax.cond(i == j, lambda best: best, lambda best: update(best, j, i, 0), best), None

    def run(pairs):
        shape = (count, k, width)
        best = jnp.full(shape, jnp.inf), jnp.zeros(shape, jnp.int32)
        return lax.scan(step, best, pairs[0])[0]

    def join(best):  # of all devices, each [count, k, width]
        values, rows = (lax.all_gather(v, "data", axis=1, tiled=True) for v in best)
        order = jnp.argsort(values, axis=1)[:, :k]
        return tuple(jnp.take_along_axis(v, order, axis=1) for v in (values, rows))

    best = devices.share(run, dealt, in_specs=P("data"), out_specs=P(), join=join)
    return jax.tree.map(lambda v: v.swapaxes(1, 2).reshape(-1, k), best)


@functools.partial(jax.jit, static_argnames=("k", "density_k", "inclusive"))
def _find_balls(tiles: Tiles, bounds, near, *, k, density_k, inclusive) -> Balls:
    """Step 2: exact radii; rows whose neighbours are open are compared with all others."""
    x, needed = tiles.flat, max(k + 1, density_k)
    n, d = x.shape
    with jax.enable_x64(True):
        tolerance = distances.relative_error(jnp.float64, d)

        def exact(rows):
            apart = x[near[rows]].astype(jnp.float64) - x[rows][:, None].astype(jnp.float64)
            return jnp.sum(apart * apart, axis=2)

        every = jnp.arange(n, dtype=jnp.int32).reshape(-1, _CHUNK)
        squared = lax.map(exact, every).reshape(near.shape)
        squared = jnp.where(jnp.isinf(bounds), jnp.inf, squared)
        sq_norms = tiles.sq_norms.ravel().astype(jnp.float64)
        slack = jnp.where(tiles.inside, tolerance * 2 * sq_norms, 0)
        order = jnp.argsort(squared, axis=1)
        ordered = jnp.take_along_axis(squared, order, axis=1)

        def radii(ordered):
            """Squared radii `[n, 2]`, and those when a row is left out; −inf for too few others."""
            ordered = jnp.where(jnp.isfinite(ordered), ordered, -jnp.inf)
            left_out = ordered[:, k - 1] if inclusive else ordered[:, k]
            return ordered[:, [k - 1, density_k - 1]], left_out

        sq_radii, left_out = radii(ordered)
        hits = within(ordered, left_out[:, None], slack[:, None], inclusive)
        covered = jnp.zeros(n, bool).at[jnp.take_along_axis(near, order, axis=1)].max(hits)
        # Open: another row may be nearer than the last one needed, or lie in the ball as well.
        is_open = (bounds[:, -1] < ordered[:, needed - 1]) | hits[:, -1]

        def with_all(rows, covered):
            mine, my_sq = x[rows].astype(jnp.float64), sq_norms[rows]

            def tile(other):
                other = other.astype(jnp.float64)
                size = jnp.sum(mine * mine, axis=1)[:, None] + jnp.sum(other * other, axis=1)
                return size - 2 * products(mine, other)

            squared = lax.map(tile, tiles.rows).swapaxes(0, 1).reshape(len(rows), -1)
            squared = jnp.where(tiles.inside, squared, jnp.inf)
            squared = jnp.where(jnp.arange(n) == rows[:, None], jnp.inf, jnp.maximum(squared, 0))
            ordered = jnp.sort(squared, axis=1)[:, :needed]
            sq_radii, left_out = radii(ordered)
            slack = tolerance * jnp.where(tiles.inside, my_sq[:, None] + sq_norms, 0)
            hits = within(squared, left_out[:, None], slack, inclusive) & (rows < n)[:, None]
            return sq_radii, covered | hits.any(axis=0)

        return Balls(*again(is_open, with_all, sq_radii, covered))


class Compared(NamedTuple):
    """How two sets lie to each other; of their tiles, rows behind the ends included."""

    precise: jax.Array  # which rows of G lie in a ball of R, bool [m]
    density: jax.Array  # how many balls of R, those of density, hold each row of G, int32 [m]
    recalled: jax.Array  # which rows of R lie in a ball of G, bool [n]
    covered: jax.Array  # which balls of R, those of density, hold a row of G, bool [n]


def compare(fitted: KnnReference, g: Tiles, balls: Balls | None = None) -> Compared:
    """Compares R with G; `balls` are those of G if they are known."""
    balls = find_balls(g, fitted.k, 1, fitted.inclusive) if balls is None else balls
    sets = devices.replicate((fitted.tiles, g, fitted.balls.sq_radii, balls.sq_radii[:, :1]))
    return _compare(*sets, inclusive=fitted.inclusive)


@functools.partial(jax.jit, static_argnames="inclusive")
def _compare(r: Tiles, g: Tiles, r_sq_radii, g_sq_radii, *, inclusive: bool) -> Compared:
    """Steps 3 and 4."""
    d = r.rows.shape[2]
    error = distances.relative_error(jnp.float32, d)
    r_radii = r_sq_radii.reshape(*r.sq_norms.shape, 2)
    g_radii = g_sq_radii.reshape(*g.sq_norms.shape, 1)
    of_g, of_r = _least_margins(r, g, r_radii, g_radii, error)
    precise, surely, perhaps, recalled, covered = (v.ravel() for v in (*of_g, *of_r))
    with jax.enable_x64(True):
        tolerance = distances.relative_error(jnp.float64, d)

        def holds(margin):
            return within(margin, 0, tolerance, inclusive)

        def compare_with(x, tiles, y_radii, reduce):
            """Reduces the margins of rows x to all tiles, each with all of its radii."""
            x = x.astype(jnp.float64)
            x_sq = jnp.sum(x * x, axis=1)

            def tile(other):
                y, y_sq, radii = other
                y, inside = y.astype(jnp.float64), jnp.isfinite(y_sq)
                y_sq = jnp.where(inside, jnp.sum(y * y, axis=1), jnp.inf)
                return reduce(functools.partial(margins, products(x, y), x_sq, y_sq), radii)

            return lax.map(tile, (*tiles, y_radii))

        def decide_g(rows, _):
            def reduce(margins_to, radii):
                density = holds(margins_to(radii[:, 1])).sum(axis=1, dtype=jnp.int32)
                return holds(margins_to(radii[:, 0])).any(axis=1), density

            precise, density = compare_with(g.flat[rows], r, r_radii, reduce)
            return (precise.any(axis=0), density.sum(axis=0, dtype=jnp.int32)), None

        def decide_r(rows, _):
            def reduce(margins_to, radii):
                radii = radii[:, 0], r_sq_radii[rows, 1][:, None]
                return tuple(holds(margins_to(x)).any(axis=1) for x in radii)

            found = compare_with(r.flat[rows], g, g_radii, reduce)
            return jax.tree.map(lambda v: v.any(axis=0), found), None

        is_open = (jnp.abs(precise) <= error) | (surely != perhaps)
        (precise, density), _ = again(is_open, decide_g, (precise < 0, surely), None)
        is_open = (jnp.abs(recalled) <= error) | (jnp.abs(covered) <= error)
        (recalled, covered), _ = again(is_open, decide_r, (recalled < 0, covered < 0), None)
    return Compared(precise, density, recalled, covered)


def _least_margins(r: Tiles, g: Tiles, r_sq_radii, g_sq_radii, error: float):
    """Step 3: least margins in float32; the tiles of G are dealt to the devices.

    Returns of each row of G, `[b, w]`, its least margin to a ball of R, and how many balls of
    density hold it surely, and perhaps. Returns of each row of R its least margin to a ball of G,
    and that of its ball of density to a row of G.
    """
    r_radii, g_radii = (radii.astype(jnp.float32) for radii in (r_sq_radii, g_sq_radii))

    def with_tile_of_g(of_r, mine):
        x, x_sq, x_radii = mine

        def with_tile_of_r(of_g, other):
            y, y_sq, y_radii, recalled, covered = other
            margins_to = functools.partial(margins, products(x, y), x_sq, y_sq)
            dense, back = margins_to(y_radii[:, 1]), margins_to(x_radii)
            precise, surely, perhaps = of_g
            of_g = (
                jnp.minimum(precise, margins_to(y_radii[:, 0]).min(axis=1)),
                surely + (dense < -error).sum(axis=1, dtype=jnp.int32),
                perhaps + (dense <= error).sum(axis=1, dtype=jnp.int32),
            )
            recalled = jnp.minimum(recalled, back.min(axis=0))
            return of_g, (recalled, jnp.minimum(covered, dense.min(axis=0)))

        none = jnp.zeros(len(x), jnp.int32)
        start = (jnp.full(len(x), jnp.inf), none, none)
        of_g, of_r = lax.scan(with_tile_of_r, start, (*r, r_radii, *of_r))
        return of_r, of_g

    def run(g, g_radii):
        start = (jnp.full(r.sq_norms.shape, jnp.inf),) * 2
        of_r, of_g = lax.scan(with_tile_of_g, start, (*g, g_radii))
        return of_g, of_r

    def join(found):
        return lax.all_gather(found[0], "data", tiled=True), lax.pmin(found[1], "data")

    return devices.share(run, g, g_radii, in_specs=P("data"), out_specs=P(), join=join)
