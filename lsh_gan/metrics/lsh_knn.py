"""Precision and recall from k-nearest-neighbour balls in hash buckets: O(log n) per sample.

In each table, a bucket gives at most c rows of each set as candidates. A candidate has no ball in a
table where its bucket holds fewer than k other candidates of its set, so that lone outliers have
none. The radius of its ball is the smallest distance, over the tables, to its k-th nearest other
candidate: one bucket rarely holds all near neighbours, and a radius from a few of them would hide
damage. A table has a hit for x if x lies in the ball of a candidate of the other set in its bucket.
x is on the manifold if at least the share `votes` of the tables have hits. If m > n, recall uses n
rows of G, since the buckets are fitted for n rows. A sample costs at most T · 5c products for any
n, and finding its bucket among the sorted ones costs O(log n). `definitions.lsh_knn` defines it.

    1. sort the rows of both sets by bucket, in random order within a bucket, and put the candidates
       into slots; a bucket has the same slots in both sets
    2. cut the slots into chunks of c; a bucket has at most c candidates, so that those of the other
       set lie in the same chunk, the one before or the next: three products give all distances
    3. within a set, the radius of a candidate is the k-th smallest of its distances, the smallest
       over the tables; radii of the reference are computed once
    4. between both sets, distances within the radii of either side are hits
    5. rows beyond the cap are compared with the candidates of their bucket

Distances come from float32 products; those that are equal within their rounding error count as
equal.

Source: arXiv:2103.11912, whose abstract gives the idea. Votes, cap and radii are ours.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Float64, UInt32

from lsh_gan import devices
from lsh_gan.metrics import distances, hashing, inputs, scores
from lsh_gan.metrics.distances import products, within
from lsh_gan.metrics.hashing import Hasher
from lsh_gan.metrics.inputs import Array, HashSpec, as_features, subset
from lsh_gan.metrics.scores import GROUPS, PrecisionRecall, Summary
from lsh_gan.metrics.sketch import fit_and_encode

DEFAULT = HashSpec(num_tables=12)
# Under `num_bits='auto'`, the number of other rows that a bucket should hold, over log2(n).
BUCKET_ROWS_PER_LOG2 = 2 / 3
_ELEMENTS = 2**19, 2**26  # feature values that are multiplied at once, on a CPU and elsewhere


class LshKnnReference(NamedTuple):
    """A fitted reference for `lsh_knn_score`.

    `features` are R as given, `buckets` are its buckets, uint32 `[t, n]`, and `sq_radii` are the
    squared radii of its balls. `left_out` has the votes for each row of R among the others, if the
    ceiling needs them. The options are those of `lsh_knn_precision_recall`.
    """

    hasher: Hasher
    origin: Float64[np.ndarray, " d"]  #: for distances; row 0, as in the hash, may be an outlier
    features: Float[Array, "n d"]
    buckets: UInt32[jax.Array, "t n"]
    sq_radii: Float[jax.Array, " n"]
    left_out: Summary | None
    k: int
    bucket_rows: int
    votes: float
    inclusive: bool
    ceilings: dict[int, Any] | None  #: those already computed, by min(m, n); None if not requested
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

    Arguments and errors are those of `knn_precision_recall`.

    Other Parameters:
        key: `jax.random.key`; draws the hash.
        spec: Kind of hash; `HashSpec(num_tables=12)` if None. Here 'auto' bits give buckets of
            O(log n) rows.
        votes: Share of tables that must have a hit, in (0, 1].
        bucket_rows: c, the largest number of candidates per set and bucket, k + 2 to 1024. The
            result's `capped` is the share of rows beyond it.

    With `inclusive=False`, ceilings still count equal distances as inside for rows beyond the cap.
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
) -> LshKnnReference:
    """Fits the hash and the balls of the reference; arguments as `lsh_knn_precision_recall`."""
    if votes is None:
        raise ValueError("votes = None; LSH+KNN expects a share in (0, 1].")
    inputs.check_options(k=k, votes=votes, bucket_rows=bucket_rows)
    reference, second = inputs.as_references(reference, second_reference, k)
    n = len(reference)
    others = max(k + 1, round(BUCKET_ROWS_PER_LOG2 * np.log2(n)))
    hasher, codes = fit_and_encode(key, reference, spec or DEFAULT, min_count=others, votes=votes)
    fitted = LshKnnReference(
        hasher, inputs.middle_of(reference), reference, hashing.buckets(hasher, codes),
        jnp.zeros(0), None, k, bucket_rows, votes, inclusive, {} if ceiling else None, second,
    )  # fmt: skip
    sq_radii, left_out = _find_balls(fitted, reference, fitted.buckets, ceiling and second is None)
    return fitted._replace(sq_radii=sq_radii, left_out=left_out)


def lsh_knn_score(
    fitted: LshKnnReference, generated: Float[Any, "m d"], *, membership: bool = False
) -> PrecisionRecall:
    """Scores `generated` `[m, d]` against a fitted reference; see `lsh_knn_precision_recall`."""
    inputs.check_type("fitted", fitted, LshKnnReference, hint=", of lsh_knn_fit")
    (n, d), k = fitted.features.shape, fitted.k
    generated = as_features(generated, "generated", dim=d, k=k)
    m, found, limits = len(generated), _compare(fitted, generated), (None, None)
    recalled = found.recalled
    if m > n:  # buckets are fitted for n rows; more rows would cover more of R
        recalled = _compare(fitted, generated[subset(m, n)]).recalled
    if fitted.ceilings is not None:

        def compare(sample):
            found = _compare(fitted, sample, left_out=fitted.second is None)
            return tuple(
                x and x.membership for x in (found.precise, found.recalled, found.left_out)
            )

        sets, left_out = (fitted.features, fitted.second), fitted.left_out and fitted.left_out.total
        limits = scores.ceilings(fitted.ceilings, *sets, m, left_out, compare)
    return scores.result(
        found.precise, recalled, limits, membership=membership, rows=(n, m), k=k,
        extra={"capped": (found.beyond, fitted.hasher.spec.num_tables * (n + m))},
        **fitted.hasher.facts,
    )  # fmt: skip


class Compared(NamedTuple):
    """Memberships of two sets, and the number of rows beyond the cap."""

    precise: Summary  # rows of G on the manifold of R
    recalled: Summary  # rows of R on the manifold of G
    left_out: Summary | None  # rows of G on the manifold of its other rows
    beyond: jax.Array  # number of rows beyond the cap, summed over the tables


def _compare(fitted: LshKnnReference, generated: Array, *, left_out: bool = False) -> Compared:
    hasher, n = fitted.hasher, len(fitted.features)
    buckets = hashing.buckets(hasher, hashing.encode(hasher, generated))
    sq_radii, own = _find_balls(fitted, generated, buckets, left_out)
    both = inputs.join_centred([fitted.features, generated], fitted.origin, n + len(generated))
    hits, beyond = _find_hits(
        both, *_dealt(jnp.concatenate([fitted.buckets, buckets], axis=1), n),
        jnp.concatenate([fitted.sq_radii, sq_radii])[None],
        n=n, k=fitted.k, c=fitted.bucket_rows, inclusive=fitted.inclusive,
    )  # fmt: skip
    return Compared(_join(fitted, hits[:, n:]), _join(fitted, hits[:, :n]), own, beyond)


def _find_balls(
    fitted: LshKnnReference, features: Array, buckets: jax.Array, left_out: bool
) -> tuple[jax.Array, Summary | None]:
    """Computes squared radii of a set and, if `left_out`, the votes for a row among the others."""
    options: dict[str, Any] = {"k": fitted.k, "c": fitted.bucket_rows}
    x, dealt = inputs.centred(features, fitted.origin), _dealt(buckets)
    sq_radii = _find_radii(x, *dealt, **options)
    if not left_out:
        return sq_radii[0], None
    hits, _ = _find_hits(x, *dealt, sq_radii, n=0, inclusive=fitted.inclusive, **options)
    return sq_radii[0], _join(fitted, hits)


def _join(fitted: LshKnnReference, hits: jax.Array) -> Summary:
    digits, tables = fitted.hasher.digits, fitted.hasher.spec.num_tables
    return scores.aggregate_votes(scores.Found(hits), digits, tables=tables, votes=fitted.votes)


def _dealt(buckets: jax.Array, n: int = 0) -> tuple[jax.Array, np.ndarray, jax.Array]:
    """Pads tables to a multiple of the devices; returns buckets, groups of tables, order of rows.

    Padding is in group 8, which does not count. The n rows of R come before those of G, also in the
    order. n = 0 stands for a single set, whose order comes twice.
    """
    tables, behind = len(buckets), -len(buckets) % devices.count()
    number = np.arange(tables + behind)
    group = np.where(number < tables, number % devices.largest_divisor(tables, GROUPS), GROUPS)
    total = buckets.shape[1]
    order = random_order(n or total)
    order = jnp.concatenate([order, n + random_order(total - n) if n else order])
    return jnp.pad(buckets, ((0, behind), (0, 0))), group, order


@functools.partial(jax.jit, static_argnames=("k", "c"))
def _find_radii(*arrays, k: int, c: int) -> jax.Array:
    """Splits the tables over the devices; see `_radii`."""
    run, join = functools.partial(_radii, k=k, c=c), functools.partial(lax.pmin, axis_name="data")
    specs = P(), P("data"), P("data"), P()
    return devices.share(run, *arrays, in_specs=specs, out_specs=P(), join=join)


@functools.partial(jax.jit, static_argnames=("n", "k", "c", "inclusive"))
def _find_hits(*arrays, n: int, k: int, c: int, inclusive: bool):
    """Splits the tables over the devices; see `_count_votes`."""
    run = functools.partial(_count_votes, n=n, k=k, c=c, inclusive=inclusive)
    join = functools.partial(lax.psum, axis_name="data")
    specs = P(), P("data"), P("data"), P(), P()
    return devices.share(run, *arrays, in_specs=specs, out_specs=P(), join=join)


class Table(NamedTuple):
    """The candidates of two sets in one table, in slots, and the rows beyond the cap.

    A bucket has the same slots in both sets: as many as the larger number of candidates, or none if
    one set has no rows in it. Slots are cut into chunks of w; the first and last chunk are empty.
    """

    rows: jax.Array  # row in each slot of each set, [2, chunks, w], n + m for an empty slot
    others: jax.Array  # number of other candidates of the set in the bucket, [2, chunks, w]
    bucket: jax.Array  # number of the bucket, [chunks, w]
    blocks: jax.Array  # number of blocks, of B chunks each, that hold all slots
    waiting: jax.Array  # rows beyond the cap, in windows of w from one bucket, [windows, w]
    of_window: jax.Array  # set of each window, and first slot of its bucket, [2, windows]
    beyond: jax.Array  # number of rows beyond the cap


def _layout(total: int, d: int, c: int) -> tuple[int, int, int]:
    """Returns the width w of a chunk, the B chunks of a block, and the blocks for `total` slots."""
    width = devices.at_once(c, -(-c // 32) * 32)
    chunks = -(-total // width)
    size = min(chunks, max(1, devices.at_once(*_ELEMENTS) // (width * d)))
    return width, size, -(-chunks // size)


def _arrange(bucket, order, *, n: int, c: int, d: int) -> Table:
    """Step 1 for the n rows of R and then those of G; n = 0 for one set with itself."""
    total = len(bucket)
    width, size, blocks = _layout(total, d, c)
    of_r = n or total
    every = jnp.arange(len(order), dtype=jnp.int32)
    with jax.enable_x64(True):  # sorts pairs as one integer: on a CPU in a fifth of the time
        pairs = bucket[order].astype(jnp.uint64) << np.uint64(32) | every.astype(jnp.uint64)
        pairs = lax.sort(pairs)  # R before G within a bucket
        bucket, place = (pairs >> np.uint64(32)).astype(jnp.uint32), pairs.astype(jnp.int32)
    row, of_set = order[place], (place >= of_r).astype(jnp.int32)

    # Scans take long to compile, so there are only two, here and in `sums`.
    number = jnp.cumsum((bucket != jnp.roll(bucket, 1)).at[0].set(False), dtype=jnp.int32)
    first = jnp.full((2, len(every)), len(every)).at[of_set, number].min(every)
    rank = every - first[of_set, number]  # in the bucket, among the rows of the set

    def scatter(values, at, shape, empty):  # drops values with an index past the end
        flat = jnp.full(math.prod(shape), empty, jnp.int32).at[at].set(values, mode="drop")
        return flat.reshape(shape)

    rows = jnp.zeros((2, len(every)), jnp.int32).at[of_set, number].add(1)
    candidates, waiting = jnp.minimum(rows, c), jnp.maximum(rows - c, 0)
    shared = candidates.min(axis=0) > 0
    slots = jnp.where(shared, candidates.max(axis=0), 0)
    # Rows beyond the cap fill windows; for one set with itself, only those of the first copy.
    windows = jnp.where(shared, -(-waiting // width), 0) * jnp.array([[1], [n > 0]], jnp.int32)
    sums = jnp.cumsum(jnp.concatenate([slots[None], windows]), axis=1)
    start = (width + sums[0] - slots)[number]
    in_slots = 2, blocks * size + 2, width
    slot = of_set * math.prod(in_slots[1:]) + start + rank
    slot = jnp.where((rank < c) & shared[number], slot, math.prod(in_slots))
    before = sums[1:] - windows + jnp.array([[0], [1]]) * sums[1, -1]
    most = len(every) // width + len(every) // (c + 1) + size + 1  # B more than can be full
    waits = (rank >= c) & (windows[of_set, number] > 0)
    window = jnp.where(waits, before[of_set, number] + (rank - c) // width, most)
    return Table(
        rows=scatter(row, slot, in_slots, total),
        others=scatter(candidates[of_set, number] - 1, slot, in_slots, 0),
        bucket=scatter(number, slot, in_slots, -1).max(axis=0),
        blocks=-(-sums[0, -1] // (size * width)), beyond=jnp.sum(waiting, dtype=jnp.int32),
        waiting=scatter(row, width * window + (rank - c) % width, (most, width), total),
        of_window=jnp.stack([scatter(x, window, (most,), 0) for x in (of_set, start)]),
    )  # fmt: skip


@functools.partial(jax.jit, static_argnums=0)
def random_order(rows: int) -> jax.Array:
    """Returns the order in which the rows of a set become candidates."""
    return jax.random.permutation(jax.random.key(0, impl="threefry2x32"), rows).astype(jnp.int32)


class Pairs(NamedTuple):
    """Rows of one set, each with rows of the other that may share its bucket, in B parts."""

    rows: jax.Array  # [B, w], n + m for none
    others: jax.Array  # number of other candidates of the same set in the bucket, [B, w]
    near: jax.Array  # rows of the other set, [B, v], n + m for none
    near_others: jax.Array  # as `others`, [B, v]
    squared: jax.Array  # squared distances, [B, v, w]
    size: jax.Array  # the errors of `squared` are relative to it, [B, v, w]
    alike: jax.Array  # whether two different rows share a bucket, [B, v, w]


def _pairs(sq_norms, mine, near, xy) -> Pairs:
    """Makes pairs from rows, others and bucket of both sides, and their inner products."""
    (rows, others, bucket), (near_rows, near_others, near_bucket) = mine, near
    size = sq_norms[near_rows][:, :, None] + sq_norms[rows][:, None]
    alike = near_bucket[:, :, None] == bucket[:, None]
    alike &= (near_rows[:, :, None] != rows[:, None]) & (near_rows < len(sq_norms))[:, :, None]
    return Pairs(rows, others, near_rows, near_others, size - 2 * xy, size, alike)


def _for_blocks(x, sq_norms, table: Table, size: int, itself: bool, step, state):
    """Step 2: applies `step` to a state and the pairs of B chunks with the chunks around them.

    For one set with itself, the product of a chunk with the next one is computed once.
    """

    def multiply(near, mine):
        return jnp.matmul(x[near], x[mine].swapaxes(1, 2), precision="highest")

    def block(i, state):
        def cut(values, axis):
            return lax.dynamic_slice_in_dim(values, i * size, size + 2, axis)

        rows, others, bucket = cut(table.rows, 1), cut(table.others, 1), cut(table.bucket, 0)

        def beside(v, chunks):
            return jnp.concatenate([v[j : len(v) - chunks + j + 1] for j in range(chunks)], axis=1)

        of_mine = rows[0, 1:-1], others[0, 1:-1], bucket[1:-1]
        of_near = beside(rows[1], 3), beside(others[1], 3), beside(bucket, 3)
        if itself:
            xy, w = multiply(beside(rows[0], 2), rows[0, :-1]), rows.shape[2]
            xy = jnp.concatenate([xy[:-1, w:].swapaxes(1, 2), xy[1:]], axis=1)
        else:
            xy = multiply(of_near[0], of_mine[0])
        return step(state, _pairs(sq_norms, of_mine, of_near, xy))

    return lax.fori_loop(0, table.blocks, block, state)


def _for_waiting(x, sq_norms, table: Table, size: int, step, state):
    """Step 5: applies `step` to a state and the pairs of rows beyond the cap with candidates."""
    width = table.rows.shape[2]
    rows, others = (v.reshape(2, -1) for v in (table.rows, table.others))
    bucket = table.bucket.ravel()

    def is_left(at_and_state):
        return table.waiting[at_and_state[0], 0] < len(x)

    def windows(at_and_state):
        at, state = at_and_state
        mine = lax.dynamic_slice_in_dim(table.waiting, at, size)
        of_set, start = lax.dynamic_slice_in_dim(table.of_window, at, size, axis=1)[..., None]
        slots = start + jnp.arange(width)
        near = rows[1 - of_set, slots]
        of_mine = mine, jnp.full_like(mine, -1), bucket[start]
        of_near = near, others[1 - of_set, slots], bucket[slots]
        pairs = _pairs(sq_norms, of_mine, of_near, jax.vmap(products)(x[near], x[mine]))
        return at + size, step(state, pairs)

    return lax.while_loop(is_left, windows, (jnp.int32(0), state))[1]


def _radii(x, buckets, group, order, *, k: int, c: int) -> jax.Array:
    """Step 3: computes the squared radius of each row of a set, and the (k + 1)-th distance.

    Both are the smallest over the tables, float32 `[2, m]`, infinite if all tables have too few.
    """
    sq_norms, size = jnp.sum(x * x, axis=1), _layout(len(x), x.shape[1], c)[1]

    def table(least, bucket_and_group):
        bucket, group = bucket_and_group

        def step(least, pairs):
            squared = jnp.where(pairs.alike, jnp.maximum(pairs.squared, 0), jnp.inf)
            found = jnp.where(group < GROUPS, _kth_smallest(squared, k), jnp.inf)
            return least.at[:, pairs.rows].min(found, mode="drop")

        found = _arrange(bucket, order, n=0, c=c, d=x.shape[1])
        return _for_blocks(x, sq_norms, found, size, True, step, least), None

    return lax.scan(table, jnp.full((2, len(x)), jnp.inf), (buckets, group))[0]


def _kth_smallest(x: jax.Array, k: int) -> jax.Array:
    """Finds the k-th and the next smallest of `[a, b, c]` along b, `[2, a, c]`, or infinity.

    Each of k + 1 passes finds the next larger value: for small k this is cheaper than sorting.
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


def _count_votes(x, buckets, group, order, sq_radii, *, n: int, k: int, c: int, inclusive: bool):
    """Counts tables with a hit, per group, int32 `[8, n + m]`, and rows beyond the cap, int32.

    Between two sets, rows are compared with the balls of the other set, of squared radii
    `[1, n + m]`. Within one set, n = 0, each row is left out and compared with the balls of the
    others, of squared radii and (k + 1)-th squared distances `[2, m]`.
    """
    total, d = x.shape
    sq_norms, error = jnp.sum(x * x, axis=1), distances.relative_error(x.dtype, d)
    size = _layout(total, d, c)[1]

    def inside(squared, size, radii):
        if n:
            return within(squared, radii[0], error * size, inclusive)
        # A row that sets a radius lies on that sphere; without it the radius is the next distance.
        hits = within(squared, radii[0], error * size, True)
        return hits if inclusive else hits & within(squared, radii[1], error * size, False)

    def step(hits, pairs, left_out=0):
        """Step 4: finds hits in balls; a row has a ball if k others, not left out, are here."""
        _, _, near, near_others, squared, size, alike = pairs
        radii = jnp.where(near_others >= k + left_out, sq_radii[:, near], -jnp.inf)
        found = (alike & inside(squared, size, radii[..., None])).any(axis=1)
        hits = hits.at[pairs.rows].max(found, mode="drop")
        if not n:
            return hits
        radii = jnp.where(pairs.others >= k, sq_radii[:, pairs.rows], -jnp.inf)
        found = (alike & inside(squared, size, radii[:, :, None])).any(axis=2)
        return hits.at[near].max(found, mode="drop")

    def table(so_far, bucket_and_group):
        bucket, group = bucket_and_group
        found, hits = _arrange(bucket, order, n=n, c=c, d=d), jnp.zeros(total, bool)
        in_turn = functools.partial(step, left_out=int(n == 0))
        hits = _for_blocks(x, sq_norms, found, size, n == 0, in_turn, hits)
        hits = _for_waiting(x, sq_norms, found, size, step, hits)
        votes, beyond = so_far
        votes = votes.at[group].add(hits.astype(jnp.int32), mode="drop")
        return (votes, beyond + jnp.where(group < GROUPS, found.beyond, 0)), None

    start = jnp.zeros((GROUPS, total), jnp.int32), jnp.int32(0)
    return lax.scan(table, start, (buckets, group))[0]
