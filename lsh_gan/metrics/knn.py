"""Precision, recall, density and coverage from k-nearest-neighbour balls, exact and tile by tile.

With the reference R `[n, d]`, the generated set G `[m, d]`, and radius_k(r), the Euclidean distance
from r to its k-th nearest other point of R:

    precision = share of g with ‖g − r‖ <= radius_k(r) for at least one r
    recall    = share of r with ‖r − g‖ <= radius_k(g) for at least one g
    density   = mean over g of #{r : ‖g − r‖ <= radius_k'(r)} / k',      k' = 5
    coverage  = share of r with ‖r − g‖ <= radius_k'(r) for at least one g

and on request

    auth      = share of g whose nearest r has ‖g − r‖ > radius_1(r)
    clipped density: as density, with radii cut at their median and at most k' balls per g; divided
                     by the same number for R itself
    clipped coverage: rows of G in each ball, at most k', converted to the share of good samples at
                      which this number is expected

Precision and recall: Kynkäänniemi et al. 2019, arXiv:1904.06991, section 3. Density and coverage:
Naeem et al. 2020, arXiv:2002.09797, section 3. The others: see `PrecisionRecall`. `definitions.knn`
defines the metric in ten lines.

Float32 products find candidates, and float64 decides:

    1. matrix products R·R and G·G, for half of the pairs of tiles, find the nearest others of rows
    2. their distances, computed again from float64 differences and sorted, give the radii
    3. matrix products R·G find the rows that are certainly, or possibly, in a ball of the other
       set, and in a ball of each eighth of it, for the standard error
    4. rows that float32 leaves uncertain in step 2 or 3 are computed again in float64

Memberships are therefore those of the definition. No n × m array is held.
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
from lsh_gan.metrics import distances, inputs
from lsh_gan.metrics.distances import Pairs, Tiles, again, keep_smallest, products, within
from lsh_gan.metrics.inputs import Array, as_features, as_references, check_labels, check_options
from lsh_gan.metrics.scores import GROUPS, PrecisionRecall, by_class, ceilings, result, summarise

_SPARE = 3  # neighbours that are found beyond those that the radii need
# Group of the jackknife of row i, by i mod 128, as one of eight columns: (i + i // 16) mod 8. The
# rows of classes that take turns are spread over all groups. Tiles have multiples of 128 rows.
_IN_GROUP = np.eye(GROUPS, dtype=np.float32)[(np.arange(128) + np.arange(128) // 16) % GROUPS]


class Balls(NamedTuple):
    """The balls around the rows of a set, padding included."""

    sq_radii: Float64[jax.Array, "n 3"]  # for k, k' of density, and 1 neighbour
    covered: Bool[jax.Array, " n"]  # rows in a ball of the other rows (leave-one-out)


class KnnReference(NamedTuple):
    """A fitted reference for `knn_score`.

    `features` are R as given. `tiles` and `balls` are those of R minus the `origin`, float64 `[d]`.
    The options are those of `knn_precision_recall`.
    """

    features: Float[Array, "n d"]
    tiles: Tiles
    origin: Float64[np.ndarray, " d"]
    balls: Balls
    k: int
    density_k: int
    inclusive: bool
    memory_mb: float
    ceilings: dict[int, Any] | None  #: those already computed, by min(m, n); None if not requested
    second: Array | None
    #: Sum over R of the balls of clipped density around a row, at most k'; None if not requested.
    own_density: jax.Array | None = None


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
    extended: bool = False,
    labels: tuple[Any, Any] | None = None,
) -> PrecisionRecall:
    """Scores `generated` against `reference` with k-nearest-neighbour balls.

    >>> import numpy as np
    >>> real = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    >>> scores = knn_precision_recall(real, real[:250] / 2)  # diversity is lost, quality is kept
    >>> bool(scores.precision > 0.9), bool(scores.recall < 0.5)
    (True, True)
    >>> knn_precision_recall(real, real[:250], extended=True).auth  # all are copies
    0.0

    Args:
        reference: Features `[n, d]`, floating point: NumPy, JAX, torch, DLPack.
        generated: Features `[m, d]`, the same.
        k: Number of neighbours for precision and recall, 1 to 1024; each set needs k + 2 rows.
        inclusive: Whether a ball holds the points on its surface, by `<=` (as the paper's code);
            False for `<` (as prdc).
        membership: Whether to return the membership of every sample.
        ceiling: Whether to compute the ceilings, by default from the reference against itself.
        second_reference: A second sample of the reference distribution, at least n rows, from which
            the ceilings are computed instead.
        density_k: Number of neighbours for density and coverage, 1 to 1024.
        memory_mb: Memory for tiles of distances, in MiB, at least 1.
        extended: Whether to return `auth`, `clipped_density` and `clipped_coverage` too.
        labels: Classes of the rows of both sets, integers or strings `[n]` and `[m]`. The result's
            `by_class` then has the scores of each class against all samples.

    Raises:
        TypeError: Features are not floating-point arrays.
        ValueError: Features have NaN, Inf, a wrong shape or too few rows (k + 2; n in the second
            reference), or an option is out of range.
    """
    check_options(k=k, density_k=density_k, memory_mb=memory_mb)
    reference = as_features(reference, "reference", k=k)
    generated = as_features(generated, "generated", dim=reference.shape[1], k=k)
    fitted = knn_fit(
        reference, k=k, inclusive=inclusive, ceiling=ceiling, second_reference=second_reference,
        density_k=density_k, memory_mb=memory_mb, extended=extended,
    )  # fmt: skip
    return knn_score(fitted, generated, membership=membership, labels=labels)


def knn_fit(
    reference: Float[Any, "n d"],
    *,
    k: int = 3,
    inclusive: bool = True,
    ceiling: bool = True,
    second_reference: Float[Any, "n2 d"] | None = None,
    density_k: int = 5,
    memory_mb: float = 256,
    extended: bool = False,
) -> KnnReference:
    """Computes all that depends only on the reference; arguments as `knn_precision_recall`."""
    check_options(k=k, density_k=density_k, memory_mb=memory_mb)
    reference, second = as_references(reference, second_reference, k)
    if extended and len(reference) <= density_k:
        raise ValueError(
            f"extended = True: density_k = {density_k} needs more rows of the reference than "
            f"{len(reference)}."
        )
    origin = inputs.middle_of(reference)
    tiles = distances.tile(reference, origin, memory_mb)
    balls = find_balls(tiles, k, density_k, inclusive)
    fitted = KnnReference(
        reference, tiles, origin, balls, k, density_k, inclusive, memory_mb,
        {} if ceiling else None, second,
    )  # fmt: skip
    if not extended:
        return fitted
    held: Any = compare(fitted, tiles, balls, extended=True).clipped
    with jax.enable_x64(True):
        held -= inclusive | (balls.sq_radii[:, 1] > 0)  # without the row's own ball
        own_density = jnp.sum(jnp.minimum(held, density_k), where=tiles.inside)
    return fitted._replace(own_density=own_density)


def knn_score(
    fitted: KnnReference, generated: Float[Any, "m d"], *, membership: bool = False,
    labels: tuple[Any, Any] | None = None,
) -> PrecisionRecall:  # fmt: skip
    """Scores `generated` `[m, d]` against a fitted reference; see `knn_precision_recall`."""
    inputs.check_type("fitted", fitted, KnnReference, hint=", of knn_fit")
    (n, d), k = fitted.features.shape, fitted.k
    generated = as_features(generated, "generated", dim=d, k=k)
    check_labels(labels, n, m := len(generated))
    g = distances.tile(generated, fitted.origin, fitted.memory_mb)
    extended, limits, extra = fitted.own_density is not None, (None, None), {}
    found = compare(fitted, g, extended=extended)
    if (known := fitted.ceilings) is not None:

        def compare_sample(sample):
            tiles = distances.tile(sample, fitted.origin, fitted.memory_mb)
            balls = find_balls(tiles, k, fitted.density_k, fitted.inclusive)
            found, rows = compare(fitted, tiles, balls), len(sample)
            precise, recalled = (x.any(axis=1) for x in (found.precise, found.recalled))
            return precise[:rows], recalled[:n], balls.covered[:rows]

        left_out = jnp.sum(fitted.balls.covered, where=fitted.tiles.inside)
        limits = ceilings(known, fitted.features, fitted.second, m, left_out, compare_sample)
    if n > fitted.density_k:
        density = jnp.sum(found.density, where=g.inside)
        coverage = jnp.sum(found.covered, where=fitted.tiles.inside)
        extra = {"density": (density, m * fitted.density_k), "coverage": (coverage, n)}
    if extended:
        extra |= _extended(found, g.inside, fitted.own_density, n=n, m=m, k=fitted.density_k)
    scores = result(
        summarise(found.precise, g.inside), summarise(found.recalled, fitted.tiles.inside),
        limits, membership=membership or labels is not None, rows=(n, m), extra=extra, k=k,
    )  # fmt: skip
    if labels is None:
        return scores
    one = 1 if n > fitted.density_k else np.nan  # too few rows for balls of density
    of_g = scores.precision_membership, np.asarray(found.density[:m]) / fitted.density_k * one
    of_r = scores.recall_membership, np.asarray(found.covered[:n]) * one
    if not membership:
        scores = scores._replace(precision_membership=None, recall_membership=None)
    return scores._replace(by_class=by_class(labels, of_r, of_g))


@functools.partial(jax.jit, static_argnames=("n", "m", "k"))
def _extended(found, inside, own_density, *, n: int, m: int, k: int):
    """Computes authenticity, clipped density and clipped coverage, each a sum and its divisor."""
    with jax.enable_x64(True):
        clipped = jnp.sum(jnp.minimum(found.clipped, k), where=inside) / m
        clipped = jnp.where(own_density > 0, jnp.minimum(clipped * n / own_density, 1), 0)
        # The number of `good` samples in a ball is beta-binomial: its mass is Beta(k, n - k).
        good = jnp.arange(m + 1.0)[:, None]
        chances = jax.scipy.stats.betabinom.pmf(jnp.arange(k), good, k, n - k)
        expected = 1 - jnp.cumsum(chances, axis=1).mean(axis=1)
        coverage = jnp.sum(jnp.minimum(found.held, k)[:n]) / (n * k)
        return {
            "auth": (jnp.sum(~found.copied, where=inside), m),
            "clipped_density": (clipped, 1),
            "clipped_coverage": (jnp.interp(coverage, expected, good[:, 0]), m),
        }


def find_balls(tiles: Tiles, k: int, density_k: int, inclusive: bool) -> Balls:
    """Computes the balls of a set, and which rows lie in the balls of other rows."""
    with jax.enable_x64(True):
        tiles = devices.replicate(tiles)
    near = nearest_others(tiles, max(k + 1, density_k) + _SPARE)
    return _find_balls(tiles, *near, k=k, density_k=density_k, inclusive=inclusive)


@functools.partial(jax.jit, static_argnums=1)
def nearest_others(tiles: Tiles, k: int) -> tuple[jax.Array, jax.Array]:
    """Step 1: finds the k others of each row with the smallest lower bounds of their distance.

    Each pair of tiles is multiplied once, for the rows of both; pairs are split over the devices.

    Returns the bounds of squared distances, ascending, float32 `[b · w, k]`, infinite for too few
    others, and the rows, int32. All further rows are at least as far as the last bound.
    """
    count, width, d = tiles.rows.shape
    low = tiles.sq_norms.astype(jnp.float32) * (1 - distances.relative_error(jnp.float32, d))
    pairs = np.stack(np.triu_indices(count), axis=1).astype(np.int32)
    missing = -len(pairs) % devices.count()
    pairs = np.pad(pairs, ((0, missing), (0, 0)), constant_values=count)
    dealt = jnp.asarray(pairs.reshape(-1, devices.count(), 2).swapaxes(0, 1))

    def step(best, pair):
        i, j = pair  # padding has i = j = count: its updates are dropped
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
    """Step 2: computes exact radii; rows with uncertain neighbours are compared with all others."""
    x, needed = tiles.flat, max(k + 1, density_k)
    n, d = x.shape
    with jax.enable_x64(True):
        tolerance = distances.relative_error(jnp.float64, d)

        def exact(rows):
            apart = x[near[rows]].astype(jnp.float64) - x[rows][:, None].astype(jnp.float64)
            return jnp.sum(apart * apart, axis=2)

        every, some = jnp.arange(n, dtype=jnp.int32), devices.at_once(16, 512)
        squared = devices.in_parts(exact, every, some)
        squared = jnp.where(jnp.isinf(bounds), jnp.inf, squared)
        sq_norms = tiles.sq_norms.ravel()
        slack = jnp.where(tiles.inside, tolerance * 2 * sq_norms, 0)
        order = jnp.argsort(squared, axis=1)
        ordered = jnp.take_along_axis(squared, order, axis=1)

        def radii(ordered):
            """Returns squared radii `[n, 3]`, and those with a row left out; −inf for too few."""
            ordered = jnp.where(jnp.isfinite(ordered), ordered, -jnp.inf)
            left_out = ordered[:, k - 1] if inclusive else ordered[:, k]
            return ordered[:, [k - 1, density_k - 1, 0]], left_out

        sq_radii, left_out = radii(ordered)
        hits = within(ordered, left_out[:, None], slack[:, None], inclusive)
        # Uncertain: a row not found may be nearer than the last one needed, or lie in the ball.
        is_open = (bounds[:, -1] < ordered[:, needed - 1]) | hits[:, -1]
        hits, row = hits & ~is_open[:, None], jnp.take_along_axis(near, order, axis=1)
        covered = jnp.zeros(n, bool).at[row].max(hits)

        def with_all(rows, covered):
            mine, size = x[rows].astype(jnp.float64), sq_norms[rows][:, None] + sq_norms
            xy = lax.map(lambda other: products(mine, other.astype(jnp.float64)), tiles.rows)
            squared = size - 2 * xy.swapaxes(0, 1).reshape(len(rows), -1)
            slack = tolerance * jnp.where(tiles.inside, size, 0)
            squared = jnp.where(squared <= slack, 0, squared)  # duplicates
            squared = jnp.where(jnp.arange(n) == rows[:, None], jnp.inf, squared)
            # On a CPU, top_k sorts rows of float64, which takes 12 times as long for k = 3.
            ordered = distances.smallest(squared.T, needed)[0].T
            sq_radii, left_out = radii(ordered)
            hits = within(squared, left_out[:, None], slack, inclusive) & (rows < n)[:, None]
            return sq_radii, covered | hits.any(axis=0)

        return Balls(*again(is_open, with_all, sq_radii, covered))


class Compared(NamedTuple):
    """The comparison of two sets, padding included."""

    # Per group of the other set (`_IN_GROUP`):
    precise: jax.Array  # rows of G in a ball of R, bool [m, 8]
    recalled: jax.Array  # rows of R in a ball of G, bool [n, 8]
    # Over the whole set:
    density: jax.Array  # number of balls of R (for density) around each row of G, int32 [m]
    covered: jax.Array  # balls of R (for density) that hold a row of G, bool [n]
    # For extended scores:
    clipped: jax.Array | None = None  # as `density`, with radii cut at their median, int32 [m]
    held: jax.Array | None = None  # number of rows of G in each ball (for density), int32 [n]
    copied: jax.Array | None = None  # rows of G that are not authentic, bool [m]


def compare(
    fitted: KnnReference, g: Tiles, balls: Balls | None = None, *, extended: bool = False
) -> Compared:
    """Compares R with G; `balls` are those of G, if already computed."""
    balls = balls or find_balls(g, fitted.k, fitted.density_k, fitted.inclusive)
    with jax.enable_x64(True):
        sets = devices.replicate((fitted.tiles, g, fitted.balls.sq_radii, balls.sq_radii[:, :1]))
    return _compare(*sets, inclusive=fitted.inclusive, extended=extended)


@functools.partial(jax.jit, static_argnames=("inclusive", "extended"))
def _compare(
    r: Tiles, g: Tiles, r_sq_radii, g_sq_radii, *, inclusive: bool, extended: bool
) -> Compared:
    """Steps 3 and 4; the balls of R get a fourth radius, for clipped density."""
    with jax.enable_x64(True):
        of_density = jnp.sqrt(jnp.where(r.inside, r_sq_radii[:, 1], jnp.nan))
        clipped = jnp.minimum(r_sq_radii[:, 1], jnp.nanmedian(of_density) ** 2)
        r_sq_radii = jnp.column_stack([r_sq_radii, clipped])
        of_r = *r, r_sq_radii.reshape(*r.sq_norms.shape, 4)
        of_g = *g, g_sq_radii.reshape(*g.sq_norms.shape, 1)
        find = functools.partial(_find, extended=extended)

        def join(found):
            of_g, of_r = jax.tree.map(lambda x: lax.all_gather(x, "data"), found)
            return jax.tree.map(_flat, of_g), jax.tree.map(_join, of_r)

        found_g, found_r = devices.share(
            lambda of_g: find(of_r, of_g, jnp.float32), of_g,
            in_specs=P("data"), out_specs=P(), join=join,
        )  # fmt: skip

        def decide(found, find_again):
            whole = jax.tree.map(lambda x: x.any(axis=1) if x.ndim > 1 else x, found)
            is_open = jax.tree.reduce(jnp.logical_or, jax.tree.map(jnp.not_equal, *whole))

            def run(rows, _):  # still uncertain in float64: a tie, or for `copied` a copy
                sure, possible = find_again(rows)
                ties = possible if inclusive else sure
                return {x: possible[x] if x == "copied" else ties[x] for x in ties}, None

            # In certain rows, a single group may still be uncertain: it counts as a tie.
            return again(is_open, run, found[int(inclusive)], None)[0]

        def cut(tiles, rows):  # makes one tile of some rows
            return [_flat(v)[rows][None] for v in tiles]

        found_g = decide(found_g, lambda rows: find(of_r, cut(of_g, rows), jnp.float64)[0])
        found_r = decide(found_r, lambda rows: find(cut(of_r, rows), of_g, jnp.float64)[1])
    return Compared(**found_g, **found_r)


def _find(of_r, of_g, dtype, extended: bool):
    """Compares tiles of R and G: rows, squared norms and squared radii `[b, w, 4]`, `[b, w, 1]`.

    Returns the fields of `Compared` for rows of G, then those for rows of R. Each is a pair of
    dicts: what is certain, and what is possible within the error of the dtype.
    """
    error = distances.relative_error(dtype, of_r[0].shape[2])
    of_r, of_g = (
        (rows, sq_norms.astype(dtype), jnp.moveaxis(sq_radii, 2, 1).astype(dtype))
        for rows, sq_norms, sq_radii in (of_r, of_g)
    )

    def by_group(inside, axis):  # any along an axis in each group, `[w, 8]`
        if axis:
            found = inside.reshape(len(inside), -1, 128).any(axis=1)
        else:
            found = inside.reshape(-1, 128, inside.shape[1]).any(axis=0).T
        return found.astype(jnp.float32) @ _IN_GROUP > 0

    def compare_tiles(g, r):
        (x, x_sq, x_radii), (y, y_sq, y_radii) = g, r
        pairs = Pairs(products(x.astype(dtype), y.astype(dtype)), x_sq, y_sq)

        def find(error):  # pairs that are certainly or possibly inside; see `Pairs.inside`
            balls, dense, near, clipped = (pairs.inside(radii, error) for radii in y_radii)
            count = functools.partial(jnp.sum, dtype=jnp.int16)  # a tile has at most 4096 rows
            found_g = {"precise": by_group(balls, 1), "density": count(dense, axis=1)}
            found_r = {"recalled": by_group(pairs.inside(x_radii.T, error), 0)}
            found_r["covered"] = dense.any(axis=0)
            if extended:
                found_g["clipped"], found_r["held"] = count(clipped, axis=1), count(dense, axis=0)
                # The nearest row of R whose ball of 1 neighbour holds g, and the nearest other row.
                slack, rows = error * jnp.minimum(pairs.size, 1e30), {"axis": 1, "initial": jnp.inf}
                found_g["inner"] = jnp.min(pairs.squared + slack, where=near, **rows)
                found_g["outer"] = jnp.min(pairs.squared - slack, where=~near, **rows)
            return found_g, found_r

        return find(error), find(-error)

    def with_tile_of_g(so_far, g):
        found = lax.map(functools.partial(compare_tiles, g), tuple(of_r))
        found_g, found_r = zip(*found, strict=True)
        so_far = jax.tree.map(lambda *x: _join(jnp.stack(x)), so_far, found_r)
        return so_far, jax.tree.map(_join, found_g)

    shape = of_r[1].shape
    start = {"recalled": jnp.zeros((*shape, GROUPS), bool), "covered": jnp.zeros(shape, bool)}
    if extended:
        start["held"] = jnp.zeros(shape, jnp.int32)
    found_r, found_g = lax.scan(with_tile_of_g, (start, start), tuple(of_g))
    if extended:
        for found in found_g:
            found["copied"] = found.pop("inner") <= found.pop("outer")
    return jax.tree.map(_flat, found_g), jax.tree.map(_flat, found_r)


def _flat(x: jax.Array) -> jax.Array:
    """Joins tiles `[b, w, ...]`, row after row."""
    return x.reshape(-1, *x.shape[2:])


def _join(x: jax.Array) -> jax.Array:
    """Reduces over tiles `[b, ...]`: the minimum of floats, the sum of counts, any of flags."""
    if x.dtype == bool:
        return x.any(axis=0)
    if jnp.issubdtype(x.dtype, jnp.floating):
        return x.min(axis=0)
    return x.sum(axis=0, dtype=jnp.int32)
