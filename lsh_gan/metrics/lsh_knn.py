"""Precision and recall from k-nearest-neighbour balls among the rows of a hash bucket: O(log n).

In each table a bucket gives at most c rows of each set as candidates. A candidate with fewer than k
others of its set in the bucket has no ball there, so that lone outliers grow none. The radius of
its ball is the least distance to a k-th nearest other candidate in any table: one bucket rarely
holds all near neighbours, and the radius from a few of them would hide damage. A table says yes to
x when x lies in the ball of a candidate of the other set in its bucket; x is on the manifold when
at least the share `votes` of the tables says yes. A sample costs T · 6c products, whatever n is,
and finding its bucket among sorted ones O(log n). By definition: `definitions.lsh_knn`.

    1. sort the rows of a set by bucket, in random order within it, and keep the candidates
    2. cut them into chunks of c; a bucket has at most c candidates, so that they lie in one chunk
       and the next: products of each chunk with itself and the next give all distances
    3. the k-th smallest of a candidate's distances, the least of all tables, is its radius; those
       of the reference are found once
    4. 1 and 2 with both sets and chunks of 2c: distances to the other set within radii are hits
    5. rows beyond the cap are compared with the candidates of their bucket

Distances come from float32 products: pairs that are equal within their error count as equal.

Source: arXiv:2103.11912, whose abstract fixes the idea; votes, the cap and the least radius are
ours.
"""

import functools
import math
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
from lsh_gan.metrics.scores import GROUPS, PrecisionRecall, Summary
from lsh_gan.metrics.sketch import fit_and_encode

DEFAULT = HashSpec(num_tables=12)
# `num_bits='auto'`: other rows in the bucket of a row that is recognised, over log2(n).
BUCKET_ROWS_PER_LOG2 = 2 / 3
_CPU_CHUNKS, _ELEMENTS = 4, 2**26  # that are multiplied at once: chunks on a CPU, else elements


class LshKnnReference(NamedTuple):
    """What the score of a generated set needs of the reference.

    `features` are R as it came, `buckets` those of R, uint32 `[t, n]`, `sq_radii` those of its
    balls; `left_out` says which rows of R are on the manifold of the others, where that gives the
    ceiling. The options are those of `lsh_knn_precision_recall`.
    """

    hasher: Hasher
    features: Float[Array, "n d"]
    buckets: UInt32[jax.Array, "t n"]
    sq_radii: Float[jax.Array, " n"]
    left_out: Summary | None
    k: int
    bucket_rows: int
    votes: float
    inclusive: bool
    ceilings: dict[int, Any] | None  # those known, by rows of G; None if not asked for
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
    bucket_rows: int = 24,
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

    With `inclusive=False` and rows beyond the cap, equal distances count as inside for ceilings.
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
    bucket_rows: int = 24,
    source: str = "",
) -> LshKnnReference:
    """Fits the hash; arguments as `lsh_knn_precision_recall`, and `source` as `fit_hash`."""
    inputs.check_options(k=k, votes=votes, bucket_rows=bucket_rows)
    reference, second = inputs.as_references(reference, second_reference, k)
    n = len(reference)
    others = max(k + 1, round(BUCKET_ROWS_PER_LOG2 * np.log2(n)))
    hasher, codes = fit_and_encode(
        key, reference, spec or DEFAULT, source, min_count=others, votes=votes
    )
    fitted = LshKnnReference(
        hasher, reference, hashing.buckets(hasher, codes), jnp.zeros(0), None, k, bucket_rows,
        votes, inclusive, {} if ceiling else None, second,
    )  # fmt: skip
    x, dealt = inputs.join_centred([reference], hasher.origin, n), _dealt(fitted.buckets)
    sq_radii = _find_radii(x, *dealt, k=k, c=bucket_rows)
    if ceiling and second is None:
        fitted = fitted._replace(left_out=_left_out(fitted, x, dealt, sq_radii))
    return fitted._replace(sq_radii=sq_radii[0])


def lsh_knn_score(
    fitted: LshKnnReference, generated: Float[Any, "m d"], *, membership: bool = False
) -> PrecisionRecall:
    """Scores `generated` `[m, d]` against a fitted reference; see `lsh_knn_precision_recall`."""
    (n, d), k, spec = fitted.features.shape, fitted.k, fitted.hasher.spec
    generated = as_features(generated, "generated", dim=d, k=k)
    m, found, limits = len(generated), _compare(fitted, generated), (None, None)
    if fitted.ceilings is not None:

        def compare(sample):
            found = _compare(fitted, sample, left_out=fitted.second is None)
            return tuple(
                x and x.membership for x in (found.precise, found.recalled, found.left_out)
            )

        sets, left_out = (fitted.features, fitted.second), fitted.left_out and fitted.left_out.total
        limits = scores.ceilings(fitted.ceilings, *sets, m, left_out, compare)
    return scores.result(
        found.precise, found.recalled, limits, membership=membership, rows=(n, m), k=k,
        extra={"capped": (found.beyond, spec.num_tables * (n + m))}, family=spec.family,
        num_bits=fitted.hasher.num_bits, radius_bins=spec.radius_bins, num_tables=spec.num_tables,
    )  # fmt: skip


class Compared(NamedTuple):
    """Memberships of two sets, and the rows beyond the cap."""

    precise: Summary  # G on the manifold of R
    recalled: Summary  # R on the manifold of G
    left_out: Summary | None  # each row of G on the manifold of the others
    beyond: jax.Array  # rows beyond the cap, summed over the tables


def _compare(fitted: LshKnnReference, generated: Array, *, left_out: bool = False) -> Compared:
    hasher, n = fitted.hasher, len(fitted.features)
    buckets = hashing.buckets(hasher, hashing.encode(hasher, generated))
    options: dict[str, Any] = {"k": fitted.k, "c": fitted.bucket_rows}
    x, dealt = inputs.join_centred([generated], hasher.origin, len(generated)), _dealt(buckets)
    of_g = _find_radii(x, *dealt, **options)
    own = _left_out(fitted, x, dealt, of_g) if left_out else None
    del x  # before both sets are there once more
    both = inputs.join_centred([fitted.features, generated], hasher.origin, n + len(generated))
    hits, beyond = _compare_sets(
        both, *_dealt(jnp.concatenate([fitted.buckets, buckets], axis=1)),
        jnp.concatenate([fitted.sq_radii, of_g[0]]), n=n, inclusive=fitted.inclusive, **options,
    )  # fmt: skip
    return Compared(_join(fitted, hits[:, n:]), _join(fitted, hits[:, :n]), own, beyond)


def _left_out(fitted: LshKnnReference, x, dealt, sq_radii) -> Summary:
    """Each row of a set, left out, on the manifold of the others."""
    options: dict[str, Any] = {"k": fitted.k, "c": fitted.bucket_rows}
    return _join(
        fitted, _count_left_out(x, *dealt, sq_radii, inclusive=fitted.inclusive, **options)
    )


def _join(fitted: LshKnnReference, hits: jax.Array) -> Summary:
    tables = fitted.hasher.spec.num_tables
    return scores.aggregate_votes(hits, tables=tables, votes=fitted.votes)


def _dealt(buckets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Buckets of a multiple of the devices of tables, and the group of each: 8 counts for none."""
    tables, behind = len(buckets), -len(buckets) % devices.count()
    number = jnp.arange(tables + behind)
    group = jnp.where(number < tables, number % scores.group_count(tables), GROUPS)
    return jnp.pad(buckets, ((0, behind), (0, 0))), group


@functools.partial(jax.jit, static_argnames=("k", "c"))
def _find_radii(x, buckets, group, *, k: int, c: int) -> jax.Array:
    """See `_radii`; tables are dealt to the devices."""
    run, join = functools.partial(_radii, k=k, c=c), functools.partial(lax.pmin, axis_name="data")
    specs = P(), P("data"), P("data")
    return devices.share(run, x, buckets, group, in_specs=specs, out_specs=P(), join=join)


@functools.partial(jax.jit, static_argnames=("k", "c", "inclusive"))
def _count_left_out(x, buckets, group, sq_radii, *, k: int, c: int, inclusive: bool):
    """Hits of the rows of a set, `[8, n]`, among the balls of the others."""
    return _share_votes(x, buckets, group, sq_radii, n=0, k=k, c=c, inclusive=inclusive)[0]


@functools.partial(jax.jit, static_argnames=("n", "k", "c", "inclusive"))
def _compare_sets(x, buckets, group, sq_radii, *, n: int, k: int, c: int, inclusive: bool):
    """Hits of the rows of R and G, `[8, n + m]`, among balls of the other; rows beyond the cap."""
    return _share_votes(x, buckets, group, sq_radii[None], n=n, k=k, c=c, inclusive=inclusive)


def _share_votes(*arrays, **options):
    """See `_count_votes`; tables are dealt to the devices."""
    run = functools.partial(_count_votes, **options)
    join = functools.partial(lax.psum, axis_name="data")
    specs = P(), P("data"), P("data"), P()
    return devices.share(run, *arrays, in_specs=specs, out_specs=P(), join=join)


class Chunks(NamedTuple):
    """Candidates in the order of their buckets, w in a chunk; the last chunk is empty."""

    rows: jax.Array  # [chunks, w], n + m for none
    bucket: jax.Array  # -1 for none
    others: jax.Array  # other candidates of the same set in the bucket
    sq_norms: jax.Array


class Table(NamedTuple):
    """The rows of one table in the order of their buckets, `[n + m]`, and the candidates."""

    rows: jax.Array
    bucket: jax.Array
    first: jax.Array  # the first candidate of its bucket, among the candidates of all
    chunks: Chunks
    beyond: jax.Array  # places of the rows beyond the cap, w of a bucket each, [.., w]; n + m: none
    num_beyond: jax.Array


def _blocks(chunks: int, width: int, d: int) -> tuple[int, int]:
    """How many blocks of how many chunks hold so many chunks."""
    most = devices.at_once(_CPU_CHUNKS, max(1, _ELEMENTS // (width * d)))
    count = -(-chunks // most)
    return count, -(-chunks // count)


def _arrange(sq_norms, bucket, *, n: int, c: int, d: int) -> Table:
    """Step 1 for the n rows of R and those of G behind them, of one table; n = 0 for one set."""
    total = len(bucket)
    width = 2 * c if n else c
    num_chunks = math.prod(_blocks(-(-total // width), width, d)) + 1
    sets = [(0, n), (n, total - n)] if n else [(0, total)]
    in_random_order = jnp.concatenate([first + random_order(rows) for first, rows in sets])
    bucket, rows = lax.sort((bucket[in_random_order], in_random_order), num_keys=1)

    def begins(*values):  # the place where each row's run of equal values begins, and its number
        changes = jnp.any(jnp.stack([v[1:] != v[:-1] for v in values]), axis=0)
        changes = jnp.concatenate([jnp.ones(1, bool), changes])
        return lax.cummax(jnp.where(changes, jnp.arange(total), 0)), jnp.cumsum(changes) - 1

    start, number = begins(bucket)
    start_of_set, set_number = begins(bucket, rows >= n)
    keep = jnp.arange(total) - start_of_set < c
    size = jnp.zeros(total, jnp.int32).at[set_number].add(keep)[set_number]
    place = jnp.cumsum(keep) - 1
    into = jnp.where(keep, place, num_chunks * width)

    def in_chunks(values, empty):
        found = jnp.full(num_chunks * width, empty, values.dtype)
        return found.at[into].set(values, mode="drop").reshape(num_chunks, width)

    chunks = Chunks(
        in_chunks(rows, total), in_chunks(number, -1), in_chunks(size - 1, 0),
        in_chunks(sq_norms[rows], 0),
    )  # fmt: skip
    # Rows beyond the cap: those of a bucket w at a time, which takes at most so many windows.
    passed = jnp.cumsum(~keep)
    rank = passed - 1 - (passed - ~keep)[start]
    window = jnp.cumsum(~keep & (rank % width == 0)) - 1
    most = total // width + total // (c + 1) + num_chunks
    windows = jnp.full((most, width), total, jnp.int32)
    at = jnp.where(keep, most, window), rank % width
    windows = windows.at[at].set(jnp.arange(total, dtype=jnp.int32), mode="drop")
    return Table(rows, number, place[start], chunks, windows, jnp.sum(~keep))


def random_order(rows: int) -> jax.Array:
    """The order in which the rows of a set become candidates."""
    return jax.random.permutation(jax.random.key(0), rows).astype(jnp.int32)


def _scan_chunks(x, chunks: Chunks, step, state):
    """Step 2: distances of the rows of chunks to those of the same and of the next, B at once.

    `step` takes a state, squared distances `[B, 2 w, w]`, the size that their errors are relative
    to, whether pairs are of one bucket and not of one row, and the parts of `chunks` for the 2 w
    neighbours, of which a chunk's own rows are the first; it returns a state and a result.
    """
    count, width = chunks.rows.shape
    size = _blocks(count - 1, width, x.shape[1])[1]
    blocks = jnp.arange(0, count - 1, size)[:, None] + jnp.arange(size + 1)
    itself = jnp.eye(2 * width, width, dtype=bool)

    def run(state, block):
        def and_next(v):
            return jnp.concatenate([v[:-1], v[1:]], axis=1)

        mine, following, near = x[block.rows[:-1]], x[block.rows[1:]], jax.tree.map(and_next, block)
        transposed = mine.swapaxes(1, 2)
        parts = [jnp.matmul(y, transposed, precision="highest") for y in (mine, following)]
        xy = jnp.concatenate(parts, axis=1)
        size = near.sq_norms[:, :, None] + block.sq_norms[:-1, None]
        beside = (near.bucket[:, :, None] == block.bucket[:-1, None]) & ~itself
        return step(state, size - 2 * xy, size, beside, near)

    return lax.scan(run, state, jax.tree.map(lambda v: v[blocks], chunks))[1]


def _radii(x, buckets, group, *, k: int, c: int) -> jax.Array:
    """Step 3: the squared radius of every row, and the distance that follows, least of all tables.

    Of one set; float32 `[2, m]`, infinite where no table has so many others.
    """
    sq_norms = jnp.sum(x * x, axis=1)

    def step(to_previous, squared, size, beside, near):
        squared = jnp.where(beside, jnp.maximum(squared, 0), jnp.inf)
        back = squared[:, c:].swapaxes(1, 2)
        before = jnp.concatenate([to_previous[None], back[:-1]])
        return back[-1], _kth_smallest(jnp.concatenate([squared, before], axis=1), k)

    def table(least, bucket_and_group):
        bucket, group = bucket_and_group
        chunks = _arrange(sq_norms, bucket, n=0, c=c, d=x.shape[1]).chunks
        found = _scan_chunks(x, chunks, step, jnp.full((c, c), jnp.inf))
        found = jnp.where(group < GROUPS, found, jnp.inf).swapaxes(0, 1).reshape(2, -1)
        return least.at[:, chunks.rows[:-1].ravel()].min(found, mode="drop"), None

    return lax.scan(table, jnp.full((2, len(x)), jnp.inf), (buckets, group))[0]


def _kth_smallest(x: jax.Array, k: int) -> jax.Array:
    """The k-th and the next smallest of `[a, b, c]` along b, `[2, a, c]`; infinite for too few.

    By passes over larger and larger values, since k is small and sorting is not.
    """

    def step(_, state):
        value, kth, following = state
        value = jnp.min(jnp.where(x > value[:, None], x, jnp.inf), axis=1)
        count = jnp.sum(x <= value[:, None], axis=1)
        kth = jnp.where((count >= k) & jnp.isinf(kth), value, kth)
        following = jnp.where((count >= k + 1) & jnp.isinf(following), value, following)
        return value, kth, following

    none = jnp.full((x.shape[0], x.shape[2]), jnp.inf)
    return jnp.stack(lax.fori_loop(0, k + 1, step, (-jnp.ones_like(none), none, none))[1:])


def _count_votes(x, buckets, group, sq_radii, *, n: int, k: int, c: int, inclusive: bool):
    """Tables that say yes, by group, int32 `[8, n + m]`, and rows beyond the cap, int32.

    Of two sets, to rows among the balls of the other, with squared radii `[1, n + m]`; of one,
    n = 0, to rows that are left out, among the balls of the others, with squared radii and the
    squared distances that follow these, `[2, m]`.
    """
    total, d = x.shape
    sq_norms, error = jnp.sum(x * x, axis=1), distances.relative_error(x.dtype, d)

    def inside(squared, size, radii):
        if n:
            return within(squared, radii[0], error * size, inclusive)
        # Left out, a row lies on the sphere that it set, and is nearer than the next.
        hits = within(squared, radii[0], error * size, True)
        return hits if inclusive else hits & within(squared, radii[1], error * size, False)

    # 4. Hits among balls of rows with k others here, or k + 1 where one of these is left out.
    def step(of_previous, squared, size, beside, near):
        radii = jnp.where(near.others >= (k if n else k + 1), sq_radii[:, near.rows], -jnp.inf)
        width, mine = squared.shape[2], slice(squared.shape[2])
        if n:
            beside &= (near.rows[:, :, None] >= n) != (near.rows[:, None, mine] >= n)
        hits = (beside & inside(squared, size, radii[..., None])).any(axis=1)
        back = inside(squared[:, width:], size[:, width:], radii[:, :, None, mine])
        back = (beside[:, width:] & back).any(axis=2)
        return back[-1], hits | jnp.concatenate([of_previous[None], back[:-1]])

    def table(so_far, bucket_and_group):
        bucket, group = bucket_and_group
        found = _arrange(sq_norms, bucket, n=n, c=c, d=d)
        rows, width = found.chunks.rows, found.chunks.rows.shape[1]
        hits = _scan_chunks(x, found.chunks, step, jnp.zeros(width, bool))
        hits = jnp.zeros(total, bool).at[rows[:-1].ravel()].set(hits.ravel(), mode="drop")

        # 5. Rows beyond the cap, B windows at once, with the candidates of their buckets.
        candidates = jax.tree.map(jnp.ravel, found.chunks)
        size = _blocks(len(rows) - 1, width, d)[1]

        def beyond(state):
            done, hits = state
            at = lax.dynamic_slice_in_dim(found.beyond, done, size)
            window = found.first[at[:, :1]] + jnp.arange(width)
            mine, near = found.rows[at][:, None], jax.tree.map(lambda v: v[window], candidates)
            sizes = near.sq_norms[:, :, None] + sq_norms[mine]
            squared = sizes - 2 * jax.vmap(products)(x[near.rows], x[mine[:, 0]])
            radii = jnp.where(near.others >= k, sq_radii[:, near.rows], -jnp.inf)
            beside = near.bucket[:, :, None] == found.bucket[at][:, None]
            if n:
                beside &= (near.rows[:, :, None] >= n) != (mine >= n)
            found_here = (beside & inside(squared, sizes, radii[..., None])).any(axis=1)
            hits = hits.at[jnp.where(at < total, mine[:, 0], total)].set(found_here, mode="drop")
            return done + size, hits

        def is_left(state):
            return found.beyond[state[0], 0] < total

        _, hits = lax.while_loop(is_left, beyond, (jnp.int32(0), hits))
        votes, capped = so_far
        votes = votes.at[group].add(hits.astype(jnp.int32), mode="drop")
        return (votes, capped + jnp.where(group < GROUPS, found.num_beyond, 0)), None

    start = jnp.zeros((GROUPS, total), jnp.int32), jnp.int32(0)
    return lax.scan(table, start, (buckets, group))[0]
