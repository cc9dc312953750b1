"""Precision and recall from k-nearest-neighbour balls among the rows of a hash bucket: O(log n).

In each table a bucket gives at most c rows of each set as candidates. A candidate with fewer than k
others of its set in the bucket has no ball there, so that lone outliers grow none. The radius of
its ball is the least distance to a k-th nearest other candidate in any table: one bucket rarely
holds all near neighbours, and the radius from a few of them would hide damage. A table says yes to
x when x lies in the ball of a candidate of the other set in its bucket; x is on the manifold when
at least the share `votes` of the tables says yes. A sample costs 2 T · 4c products, whatever n is,
and finding its bucket among sorted ones O(log n). By definition: `definitions.lsh_knn`.

    1. sort the rows of both sets by bucket, in random order within it, and keep the candidates
    2. cut them into chunks of 2c; a bucket has at most 2c candidates, so that they lie in one chunk
       and the next: products of each chunk with itself and the next give all distances
    3. the k-th smallest of a candidate's distances to its own set, the least of all tables, is its
       radius; then 1 and 2 once more, since the distances of all tables would fill the memory
    4. distances to the other set within radii are hits, those to the own set give the ceiling
    5. rows beyond the cap are compared with the candidates of their bucket

Distances come from float32 products: pairs that are equal within their error count as equal.

Source: arXiv:2103.11912, whose abstract fixes the idea; votes, the cap and the least radius are
ours.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, UInt32

from lsh_gan import devices
from lsh_gan.metrics import distances, hashing, inputs, scores
from lsh_gan.metrics.distances import products, within
from lsh_gan.metrics.hashing import Hasher
from lsh_gan.metrics.inputs import Array, HashSpec, as_features
from lsh_gan.metrics.lsh import fit_and_encode
from lsh_gan.metrics.scores import GROUPS, PrecisionRecall, Summary

DEFAULT = HashSpec(num_tables=12)
# `num_bits='auto'`: other rows in the bucket of a row that is recognised, over log2(n).
BUCKET_ROWS_PER_LOG2 = 2 / 3
_BEYOND = 64  # rows beyond the cap that are compared at once


class LshKnnReference(NamedTuple):
    """What the score of a generated set needs of the reference.

    `features` are R as it came, `buckets` those of R, uint32 `[t, n]`; the options are those of
    `lsh_knn_precision_recall`.
    """

    hasher: Hasher
    features: Float[Array, "n d"]
    buckets: UInt32[jax.Array, "t n"]
    k: int
    bucket_rows: int
    votes: float
    inclusive: bool
    ceiling: bool
    second: Array | None


def lsh_knn_precision_recall(
    key: jax.Array,
    reference: Float[Any, "n d"],
    generated: Float[Any, "m d"],
    *,
    spec: HashSpec | None = None,
    k: int = 3,
    votes: float = 0.5,
    inclusive: bool = True,
    membership: bool = False,
    ceiling: bool = True,
    second_reference: Float[Any, "n2 d"] | None = None,
    bucket_rows: int = 32,
) -> PrecisionRecall:
    """Scores `generated` against `reference` with balls among the rows of hash buckets.

    >>> import jax, numpy as np
    >>> real = np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32)
    >>> scores = lsh_knn_precision_recall(jax.random.key(0), real, real[:500] / 3)
    >>> bool(scores.recall < 0.2)  # diversity is lost
    True

    Arguments and errors as `knn_precision_recall`. Its own:

    Other Parameters:
        key: `jax.random.key`; draws the hash.
        spec: Kind of hash; `DEFAULT`, of 12 tables, if None. Here 'auto' bits give buckets of
            O(log n) rows.
        votes: Share of tables that must say yes, in (0, 1].
        bucket_rows: c, at least k + 2: candidates of each set in a bucket; `capped` says which
            share of the rows is beyond.

    With `inclusive=False`, equal distances in several tables count as inside for the ceilings.
    """
    inputs.check_options(k=k, votes=votes, bucket_rows=bucket_rows)
    reference = as_features(reference, "reference", k=k)
    generated = as_features(generated, "generated", dim=reference.shape[1], k=k)
    fitted = lsh_knn_fit(
        key, reference, spec=spec, k=k, votes=votes, inclusive=inclusive, ceiling=ceiling,
        second_reference=second_reference, bucket_rows=bucket_rows,
    )  # fmt: skip
    return lsh_knn_score(fitted, generated, membership=membership)


def lsh_knn_fit(
    key: jax.Array,
    reference: Float[Any, "n d"],
    *,
    spec: HashSpec | None = None,
    k: int = 3,
    votes: float = 0.5,
    inclusive: bool = True,
    ceiling: bool = True,
    second_reference: Float[Any, "n2 d"] | None = None,
    bucket_rows: int = 32,
    source: str = "",
) -> LshKnnReference:
    """Fits the hash; arguments as `lsh_knn_precision_recall`, and `source` as `fit_hash`."""
    inputs.check_options(k=k, votes=votes, bucket_rows=bucket_rows)
    reference, second = inputs.as_references(reference, second_reference, k)
    others = max(k + 1, round(BUCKET_ROWS_PER_LOG2 * np.log2(len(reference))))
    hasher, codes = fit_and_encode(
        key, reference, spec or DEFAULT, source, min_count=others, votes=votes
    )
    buckets = hashing.buckets(hasher, codes)
    return LshKnnReference(
        hasher, reference, buckets, k, bucket_rows, votes, inclusive, ceiling, second
    )


def lsh_knn_score(
    fitted: LshKnnReference, generated: Float[Any, "m d"], *, membership: bool = False
) -> PrecisionRecall:
    """Scores `generated` `[m, d]` against a fitted reference; see `lsh_knn_precision_recall`."""
    (n, d), k, spec = fitted.features.shape, fitted.k, fitted.hasher.spec
    generated = as_features(generated, "generated", dim=d, k=k)
    m, found, limits = len(generated), _compare(fitted, generated), (None, None)
    if fitted.ceiling:

        def compare(sample):
            found = _compare(fitted, sample)
            return tuple(x.membership for x in (found.precise, found.recalled, found.g_left_out))

        limits = scores.ceilings(fitted.features, fitted.second, m, found.r_left_out.total, compare)
    return scores.result(
        found.precise, found.recalled, limits, membership=membership, rows=(n, m), k=k,
        extra={"capped": (found.beyond, spec.num_tables * (n + m))}, family=spec.family,
        num_bits=fitted.hasher.num_bits, radius_bins=spec.radius_bins, num_tables=spec.num_tables,
    )  # fmt: skip


class Compared(NamedTuple):
    """Memberships of two sets, and the rows beyond the cap."""

    precise: Summary  # G on the manifold of R
    recalled: Summary  # R on the manifold of G
    r_left_out: Summary  # each row of R on the manifold of the others
    g_left_out: Summary  # each row of G on the manifold of the others
    beyond: jax.Array  # rows beyond the cap, summed over the tables


def _compare(fitted: LshKnnReference, generated: Array) -> Compared:
    hasher, n = fitted.hasher, len(fitted.features)
    found = hashing.buckets(hasher, hashing.encode(hasher, generated))
    both = jnp.concatenate([fitted.buckets, found], axis=1)
    sets = fitted.features, generated
    x = inputs.join_centred(sets, hasher.origin, n + len(generated))
    hits, beyond = _count_votes(
        x, _dealt(both), n=n, k=fitted.k, c=fitted.bucket_rows, inclusive=fitted.inclusive
    )
    others, own = hits[:, 0], hits[:, 1]
    votes = others[:, n:], others[:, :n], own[:, :n], own[:, n:]
    options: dict[str, Any] = {"tables": hasher.spec.num_tables, "votes": fitted.votes}
    summaries = [scores.aggregate_votes(hits, **options) for hits in votes]
    return Compared._make([*summaries, beyond])


def _dealt(buckets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Buckets of a multiple of the devices of tables, and the group of each: 8 counts for none."""
    tables, behind = len(buckets), -len(buckets) % devices.count()
    number = jnp.arange(tables + behind)
    group = jnp.where(number < tables, number % scores.group_count(tables), GROUPS)
    return jnp.pad(buckets, ((0, behind), (0, 0))), group


@functools.partial(jax.jit, static_argnames=("n", "k", "c", "inclusive"))
def _count_votes(x, dealt, *, n: int, k: int, c: int, inclusive: bool):
    total = functools.partial(lax.psum, axis_name="data")
    least = functools.partial(lax.pmin, axis_name="data")
    share = functools.partial(devices.share, out_specs=P())
    run = functools.partial(_radii, n=n, k=k, c=c)
    radius = share(run, x, dealt, in_specs=(P(), P("data")), join=least)
    run = functools.partial(_votes, n=n, k=k, c=c, inclusive=inclusive)
    return share(run, x, dealt, radius, in_specs=(P(), P("data"), P()), join=total)


class Table(NamedTuple):
    """Candidates of one table in chunks, and their distances; -1 for no row.

    What a candidate has beside it are the candidates of its chunk, the next and the one before.
    """

    rows: jax.Array  # by place: all rows of both sets in the order of their buckets, [n + m]
    keep: jax.Array  # whether that is a candidate
    segment: jax.Array  # number of its bucket
    start: jax.Array  # place where that begins
    place: jax.Array  # candidates up to this one, less 1
    kept: jax.Array  # candidates: their rows [chunks, w], the last chunk empty
    bucket: jax.Array  # and the numbers of their buckets
    squared: jax.Array  # [chunk, neighbour, row]: distances, infinite between buckets
    own: jax.Array  # whether the neighbour is of the same set
    slack: jax.Array  # errors of the distances


def _arrange(x, sq_norms, bucket, *, n: int, c: int) -> Table:
    total, d = x.shape
    width = 2 * c
    chunks = -(-total // width) + 1
    places = jnp.arange(total)
    in_random_order = jax.random.permutation(jax.random.key(0), total).astype(jnp.int32)

    # 1. Candidates, in the order of their buckets.
    keys, rows = lax.sort((bucket[in_random_order], in_random_order), num_keys=1)
    first = jnp.concatenate([jnp.ones(1, bool), keys[1:] != keys[:-1]])
    start = lax.cummax(jnp.where(first, places, 0))
    of_g = (rows >= n).astype(jnp.int32)
    before = jnp.cumsum(of_g) - of_g  # rows of G before each
    rank_g = before - before[start]
    rank = jnp.where(of_g == 1, rank_g, places - start - rank_g)
    keep = rank < c
    place = jnp.cumsum(keep) - 1
    into = jnp.where(keep, place, chunks * width)
    kept = jnp.full(chunks * width, -1, jnp.int32).at[into].set(rows, mode="drop")
    segment = jnp.cumsum(first)
    bucket_of = jnp.full(chunks * width, -1).at[into].set(segment, mode="drop")
    kept, bucket_of = kept.reshape(chunks, width), bucket_of.reshape(chunks, width)

    # 2. Squared distances [chunk, neighbour, row] to a chunk and the next.
    def multiply(mine, rows):
        following = x[rows]
        both = jnp.concatenate([mine, following])
        return following, products(both, mine)

    _, xy = lax.scan(multiply, x[kept[0]], kept[1:])
    norms = sq_norms[kept]
    and_next = functools.partial(jnp.concatenate, axis=1)
    size = and_next([norms[:-1], norms[1:]])[:, :, None] + norms[:-1, None]
    near_bucket = and_next([bucket_of[:-1], bucket_of[1:]])[:, :, None]
    same = (near_bucket == bucket_of[:-1, None]) & (near_bucket >= 0)
    same &= jnp.arange(2 * width)[:, None] != jnp.arange(width)  # not itself
    squared = jnp.where(same, jnp.maximum(size - 2 * xy, 0), jnp.inf)
    # And to the one before: what its rows have to their next chunk.
    back = jnp.swapaxes(squared[:, width:], 1, 2)
    back = jnp.concatenate([jnp.full((1, width, width), jnp.inf), back[:-1]])
    squared = jnp.concatenate([squared, back], axis=1)
    own = _beside(kept >= n) == (kept >= n)[:-1, None]
    slack = distances.relative_error(x.dtype, d) * (_beside(norms) + norms[:-1, None])
    return Table(rows, keep, segment, start, place, kept, bucket_of, squared, own, slack)


def _beside(values):
    """Of the rows of a chunk [chunk, w], what its neighbours have, [chunk, 3 w, 1]."""
    previous = jnp.concatenate([values[:1], values[:-2]])
    return jnp.concatenate([values[:-1], values[1:], previous], axis=1)[:, :, None]


def _radii(x, dealt, *, n: int, k: int, c: int) -> jax.Array:
    """Squared radius of every row, the least of its radii in all tables; infinite for none."""
    sq_norms = jnp.sum(x * x, axis=1)

    def table(least, bucket_and_group):
        bucket, group = bucket_and_group
        found = _arrange(x, sq_norms, bucket, n=n, c=c)
        kth, _ = _kth_smallest(jnp.where(found.own, found.squared, jnp.inf), k)
        kth = jnp.where(group < GROUPS, kth, jnp.inf)
        at = jnp.where(found.kept[:-1] >= 0, found.kept[:-1], len(x))
        return least.at[at].min(kth, mode="drop"), None

    return lax.scan(table, jnp.full(len(x), jnp.inf), dealt)[0]


def _votes(x, dealt, sq_radius, *, n: int, k: int, c: int, inclusive: bool):
    """Tables that say yes, by group, int32 `[8, 2, n + m]`: to rows among the balls of the other
    set, and among those of their own set when they are left out; and rows beyond the cap, int32.
    """  # noqa: D205
    total, d = x.shape
    sq_norms = jnp.sum(x * x, axis=1)
    error, width = distances.relative_error(x.dtype, d), 2 * c

    def table(so_far, bucket_and_group):
        bucket, group = bucket_and_group
        found = _arrange(x, sq_norms, bucket, n=n, c=c)
        kept, squared, slack = found.kept, found.squared, found.slack

        # 3. Balls: of a row with k others here, and for a row of its set left out, with k + 1.
        kth, following = _kth_smallest(jnp.where(found.own, squared, jnp.inf), k)
        none = jnp.full((1, width), -jnp.inf)
        radius = jnp.where(jnp.isfinite(kth), sq_radius[kept[:-1]], -jnp.inf)
        left_out = jnp.where(jnp.isfinite(following), radius, -jnp.inf)
        radius, left_out, following = (
            jnp.concatenate([values, none]) for values in (radius, left_out, following)
        )

        # 4. Hits. Left out, a row lies on the sphere that it set, and is nearer than the next.
        among = within(squared, _beside(radius), slack, inclusive) & ~found.own
        among_own = within(squared, _beside(left_out), slack, True) & found.own
        if not inclusive:
            among_own &= within(squared, _beside(following), slack, False)
        at = jnp.where(kept[:-1] >= 0, kept[:-1], total).ravel()
        hits = jnp.stack([x.any(axis=1).ravel() for x in (among, among_own)])
        hits = jnp.zeros((2, total), bool).at[:, at].set(hits, mode="drop")

        # 5. Rows beyond the cap, with the candidates of their bucket.
        flat_kept, flat_radius = kept.ravel(), radius.ravel()
        waiting = jnp.nonzero(~found.keep, size=total + _BEYOND, fill_value=total)[0]
        count = jnp.sum(~found.keep)

        def beyond(state):
            done, hits = state
            at = lax.dynamic_slice_in_dim(waiting, done, _BEYOND)
            window = found.place[found.start[at]][:, None] + jnp.arange(width)
            others = flat_kept[window]
            mask = found.bucket.ravel()[window] == found.segment[at][:, None]
            mine = found.rows[at]
            xy = jnp.einsum("ad,abd->ab", x[mine], x[others], precision="highest")
            size = sq_norms[mine][:, None] + sq_norms[others]
            ball = size - 2 * xy, flat_radius[window], error * size
            own = (others >= n) == (mine >= n)[:, None]
            inside = jnp.where(own, within(*ball, True), within(*ball, inclusive)) & mask
            both = jnp.stack([(inside & ~own).any(axis=1), (inside & own).any(axis=1)])
            hits = hits.at[:, jnp.where(at < total, mine, total)].set(both, mode="drop")
            return done + _BEYOND, hits

        _, hits = lax.while_loop(lambda state: state[0] < count, beyond, (jnp.int32(0), hits))
        votes, capped = so_far
        votes = votes.at[group].add(hits.astype(jnp.int32), mode="drop")
        return (votes, capped + jnp.where(group < GROUPS, count, 0)), None

    start = jnp.zeros((GROUPS, 2, total), jnp.int32), jnp.int32(0)
    return lax.scan(table, start, dealt)[0]


def _kth_smallest(x: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The k-th and the next smallest of `[a, b, c]` along b, infinite where there are fewer.

    By passes over larger and larger values, since k is small and sorting is not.
    """

    def step(_, state):
        value, kth, following = state
        value = jnp.min(jnp.where(x > value[:, None], x, jnp.inf), axis=1)
        count = jnp.sum(x <= value[:, None], axis=1)
        kth = jnp.where((count >= k) & jnp.isinf(kth), value, kth)
        following = jnp.where((count >= k + 1) & jnp.isinf(following), value, following)
        return value, kth, following

    nothing = jnp.full((x.shape[0], x.shape[2]), jnp.inf)
    return lax.fori_loop(0, k + 1, step, (jnp.full_like(nothing, -1), nothing, nothing))[1:]
