"""LSH precision and recall; of real images it misses mild blur and dimming, which LSH+KNN sees.

Hash, count, vote: O(1) for an assessed sample, no distances. A bucket is finer where the reference
is dense (`hashing`), but not as fine as a ball: images that are dimmed or slightly blurred keep
about the precision of undamaged ones (benchmarks/results/image_damage.md).

    bucket   = digits and radius bin of x in table t          `hashing`
    yes_t(x) = counts_t[address_t(x)] >= c                    c = 1; one more for a row of R itself
    x is on the manifold when at least the share `votes` of tables says yes

Precision is the share of G on the manifold of R, recall the share of R on the manifold of G, under
the same hash, fitted on R; of a larger G, n of its rows count for recall. The counts are all that
is kept of a set (a `Sketch`): of fixed size, built in a stream, added across batches, devices and
files. Recall also needs the addresses of R's rows. By definition, with buckets in place of
addresses: `definitions.lsh`.

Source: arXiv:2103.11912, whose abstract fixes the idea; hash families, radius bins and votes are
ours.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Float

from lsh_gan import devices
from lsh_gan.metrics import hashing, inputs
from lsh_gan.metrics.hashing import Hasher
from lsh_gan.metrics.inputs import HashSpec, as_features, batches, subset
from lsh_gan.metrics.scores import (
    GROUPS,
    PrecisionRecall,
    PrecisionRecallCurve,
    aggregate_votes,
    group_count,
    result,
    sum_votes,
    summarise_votes,
)
from lsh_gan.metrics.sketch import (
    LshReference,
    Share,
    addresses_of,
    build,
    encode_all,
    fit_and_encode,
    size_tables,
    sketch_of,
)

_LOOKED_AT = 2**16  # addresses of each table that say its load


def lsh_precision_recall(
    key: jax.Array,
    reference: Float[Any, "n d"],
    generated: Float[Any, "m d"],
    *,
    spec: HashSpec | None = None,
    min_count: int = 1,
    votes: float | None = 0.5,
    membership: bool = False,
    ceiling: bool = True,
    second_reference: Float[Any, "n2 d"] | None = None,
) -> PrecisionRecall:
    """Scores `generated` against `reference` by shared hash buckets.

    >>> import jax, numpy as np
    >>> real = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32)
    >>> same, narrow = real[:1000] + 0.01, real[:1000] / 2
    >>> key = jax.random.key(0)
    >>> bool(lsh_precision_recall(key, real, same).recall > 0.7)
    True
    >>> bool(lsh_precision_recall(key, real, narrow).recall < 0.3)  # diversity is lost
    True

    Arguments and errors as `knn_precision_recall`, where every set may also be an iterable of
    batches: one at a time is held, beside the rows that the hash is fitted on, the first 2048 of an
    iterable. It is also an error that tables are too large for memory. Its own:

    Other Parameters:
        key: `jax.random.key`; draws the hash.
        spec: Kind of hash; `HashSpec()` if None. `num_bits` of the result says what 'auto' found.
        min_count: c, at least 1. Above 1, a lone outlier makes no manifold.
        votes: Share of tables that must say yes, in (0, 1], or None for the mean over tables.
    """
    if hasattr(generated, "shape") and hasattr(reference, "shape") and len(reference.shape) == 2:
        generated = as_features(generated, "generated", dim=reference.shape[1])
    fitted = lsh_fit(
        key, reference, spec=spec, min_count=min_count, votes=votes, ceiling=ceiling,
        second_reference=second_reference,
    )  # fmt: skip
    return lsh_score(fitted, generated, membership=membership)


def lsh_fit(
    key: jax.Array,
    reference: Float[Any, "n d"] | Share,
    *,
    spec: HashSpec | None = None,
    min_count: int = 1,
    votes: float | None = 0.5,
    ceiling: bool = True,
    second_reference: Float[Any, "n2 d"] | Share | None = None,
    source: str = "",
    sample: Float[Any, "* d"] | None = None,
) -> LshReference:
    """Fits the hash and counts the reference; arguments as `lsh_precision_recall`, `fit_hash`.

    Each set may also be a `Share`. Then, or of an iterable, `sample` is what the hash is fitted on
    in place of the first rows, behind row 0 of the reference; the rows that `subset` names give the
    hash of the same reference as an array.
    """
    options = {"min_count": min_count, "votes": votes}
    inputs.check_options(**options)
    hasher, codes = fit_and_encode(
        key, reference, spec or HashSpec(), source, sample, least=min_count + 2, **options
    )
    hasher, second = size_tables(hasher, codes.digits.shape[1]), None
    sketch = sketch_of(hasher, addresses_of(hasher, codes))
    if ceiling and second_reference is not None:
        others = encode_all(hasher, second_reference, "second reference")
        second = sketch_of(hasher, addresses_of(hasher, others))
        inputs.check_second(sketch.rows, second.rows)
    return LshReference(sketch, min_count, votes, ceiling, second)


def lsh_score(
    fitted: LshReference,
    generated: Float[Any, "m d"] | Share,
    *,
    membership: bool = False,
    recall: bool = True,
) -> PrecisionRecall:
    """Scores `generated` against a fitted reference; arguments as `lsh_precision_recall`.

    Raises:
        ValueError: Also when recall is asked for of a sketch of counts alone.
    """
    reference, votes, least = fitted.sketch, fitted.votes, fitted.min_count
    if recall and reference.addresses is None:
        raise ValueError(
            "This sketch holds counts alone, and recall needs the addresses of the reference's "
            "rows: build it with keep_addresses=True, or say recall=False."
        )
    tables = reference.hasher.spec.num_tables
    join = functools.partial(aggregate_votes, tables=tables, votes=votes)
    found = addresses_of(reference.hasher, encode_all(reference.hasher, generated, "generated"))
    m = found.shape[1]
    precise, recalled, crowded = join(count_votes(reference.counts, found, least)), None, None
    if recall and reference.addresses is not None:  # tables of G take time that grows with n
        counts = of_some = hashing.count(found, reference.hasher.address_bits)
        crowded = _count_crowded(reference.counts, counts, found, reference.rows), m * tables
        if m > reference.rows:
            of_some = hashing.count(
                found[:, subset(m, reference.rows)], reference.hasher.address_bits
            )
        recalled = join(count_votes(of_some, reference.addresses, least))
    some = reference.counts[:, :_LOOKED_AT]  # say what all do, and cost the same at any n
    scores = result(
        precise, recalled, _ceilings(fitted, m, join), membership=membership,
        rows=(reference.rows, m),
        extra={"load": (jnp.sum(some > 0), some.size), "crowding": crowded},
        num_bits=reference.hasher.num_bits, num_tables=tables,
        family=reference.hasher.spec.family, radius_bins=reference.hasher.spec.radius_bins,
    )  # fmt: skip
    return scores if recall else scores._replace(recall_ceiling=None)


def lsh_score_streams(
    hasher: Hasher,
    reference: Callable[[], Iterable[Any]],
    generated: Callable[[], Iterable[Any]],
    *,
    min_count: int = 1,
    votes: float | None = 0.5,
) -> PrecisionRecall:
    """Scores sets that are larger than memory, going through each of them twice.

    The first time counts, the second votes: what is held is the counts and one batch, whatever the
    number of rows. Ceilings are leave-one-out. Equal to `lsh_precision_recall` under the same hash,
    but that the first n rows of a larger G count for recall; of a smaller one, the ceiling of
    recall is that of m rows that lie evenly in R, which is gone through once more to count them.

    Args:
        hasher: From `fit_hash` on a sample of the reference, with `rows` its whole size and
            `table_bytes` what counts may take.
        reference: Makes an iterable of batches of features `[*, d]`, whenever it is called.
        generated: Likewise.
        min_count: As `lsh_precision_recall`.
        votes: Likewise.

    Raises:
        TypeError, ValueError: As `build`.

    Examples:
        >>> from lsh_gan.metrics import fit_hash
        >>> rng = np.random.default_rng(0)
        >>> r, g = rng.normal(size=(2, 500, 8)).astype(np.float32)
        >>> hasher = fit_hash(jax.random.key(0), r)
        >>> scores = lsh_score_streams(hasher, lambda: np.split(r, 5), lambda: np.split(g, 5))
        >>> scores.n, scores.m
        (500, 500)
    """
    inputs.check_options(min_count=min_count, votes=votes)
    tables = hasher.spec.num_tables

    def first(stream: Iterable[Any], left: int) -> Iterable[Any]:
        for batch in stream:
            yield batch[:left]
            left -= min(len(batch), left)
            if not left:
                return

    def evenly(at: int, size: int) -> np.ndarray:
        """Which of `size` rows of R, from row `at` on, are of the m; 0 or 1."""
        return np.diff(np.arange(at, at + size + 1) * m // n)

    def few(stream: Iterable[Any], at: int = 0) -> Iterable[Any]:
        for batch in stream:
            yield batch[np.flatnonzero(evenly(at, len(batch)))]
            at += len(batch)

    def join(stream: Callable, *sets: tuple[jax.Array, Callable]) -> list[Any]:
        sums, rows = [np.zeros(())] * len(sets), 0
        for batch in batches(stream(), "features", dim=len(hasher.origin)):
            found = addresses_of(hasher, hashing.encode(hasher, batch))
            for i, (counts, own) in enumerate(sets):
                hits = count_votes(counts, found, min_count, own(rows, len(batch)))
                sums[i] = sums[i] + np.asarray(sum_votes(hits, tables=tables, votes=votes)[1])
            rows += len(batch)
        with jax.enable_x64(True):
            return [rows, *(summarise_votes(jnp.asarray(x), rows) for x in sums)]

    of_r = build(hasher, reference(), keep_addresses=False)
    n = of_r.rows
    of_g = build(hasher, first(generated(), n), keep_addresses=False)
    m, precise = join(generated, (of_r.counts, lambda at, size: 0))
    sets: list[tuple[jax.Array, Callable]] = [
        (of_g.counts, lambda at, size: 0), (of_r.counts, lambda at, size: 1)
    ]  # fmt: skip
    if m < n:
        sets.append((build(hasher, few(reference()), keep_addresses=False).counts, evenly))
    _, recalled, left_out, *of_few = join(reference, *sets)
    limits = (left_out.total, n), ((of_few or [left_out])[0].total, n)
    some = of_r.counts[:, :_LOOKED_AT]
    return result(
        precise, recalled, limits, membership=False, rows=(n, m),
        extra={"load": (jnp.sum(some > 0), some.size)}, num_bits=hasher.num_bits,
        num_tables=tables, family=hasher.spec.family, radius_bins=hasher.spec.radius_bins,
    )  # fmt: skip


def count_votes(counts: jax.Array, addresses: jax.Array, least: Any, own: Any = 0) -> jax.Array:
    """Tables that say yes to each row, by group of tables, int32 `[8, n]`; rows on all devices.

    Takes the counts of the other set, the addresses of the rows, c, and how often each row is
    counted itself, scalar or `[n]`.
    """
    n = addresses.shape[1]
    own = jnp.broadcast_to(jnp.asarray(own, jnp.int32), n)
    rows = devices.pad_rows(addresses, axis=1), devices.pad_rows(own)
    return _count_votes(devices.replicate(counts), *rows, jnp.int32(least))[:, :n]


@jax.jit
def _count_votes(counts, addresses, own, least):
    def run(counts, addresses, own, least):
        hits = jnp.take_along_axis(counts, addresses, axis=1) - own >= least
        group = jnp.arange(len(counts)) % group_count(len(counts))
        in_group = jax.nn.one_hot(group, GROUPS, axis=0)
        return jnp.matmul(in_group, hits.astype(jnp.float32)).astype(jnp.int32)

    return devices.share(
        run, counts, addresses, own, least, in_specs=(P(), P(None, "data"), P("data"), P()),
        out_specs=P(), join=lambda hits: lax.all_gather(hits, "data", axis=1, tiled=True),
    )  # fmt: skip


@jax.jit
def _count_crowded(r_counts, g_counts, addresses, n):
    """Rows of G at addresses where G is crowded, summed over tables; see `PrecisionRecall`."""
    m = addresses.shape[1]
    with jax.enable_x64(True):
        of_r, of_g = (
            jnp.take_along_axis(counts, addresses, axis=1).astype(jnp.int64)
            for counts in (r_counts, g_counts)
        )
        return jnp.sum(n * of_g > 2 * m * of_r + 6 * jnp.maximum(n, m))


def _ceilings(fitted: LshReference, m: int, join: Any) -> tuple[Any, Any]:
    """What a sample of the reference distribution scores; recall of as many rows as G has."""
    reference, least, own = fitted.sketch, fitted.min_count, int(fitted.second is None)
    sample, n = fitted.second or reference, reference.rows
    if not fitted.ceiling or sample.addresses is None:
        return None, None
    hits = count_votes(reference.counts, sample.addresses, least, own)
    precision = join(hits).total, sample.rows
    if reference.addresses is None:
        return precision, None
    if own and m >= n:
        return precision, precision
    rows = subset(sample.rows, min(m, n))
    counts = hashing.count(sample.addresses[:, rows], reference.hasher.address_bits)
    among = jnp.zeros(n, jnp.int32).at[rows].set(1) if own else 0
    return precision, (join(count_votes(counts, reference.addresses, least, among)).total, n)


CURVE = HashSpec(num_bits=2)  # coarse, so that buckets hold many rows of both sets


def lsh_precision_recall_curve(
    key: jax.Array, reference: Any, generated: Any, *, spec: HashSpec | None = None,
    num_points: int = 1000,
) -> PrecisionRecallCurve:  # fmt: skip
    """The whole trade of precision against recall, by how densely each set fills each bucket.

    With p and q the shares of R and G in a bucket, and a ratio λ from 0 to infinity, precision is
    Σ min(λ·p, q) and recall Σ min(p, q / λ), means over tables (Sajjadi et al. 2018,
    arXiv:1806.00035, where k-means makes the buckets). At λ = 1 both are 1 less the total variation
    between the sets; at its ends the curve is the support that `lsh_precision_recall` sees. A
    generator that crowds onto a part of the reference loses both. By definition:
    `definitions.lsh_curve`.

    >>> import jax, numpy as np
    >>> real = np.random.default_rng(0).normal(size=(4000, 8)).astype(np.float32)
    >>> real[::2] += 5  # two modes, of which the generator knows one
    >>> curve = lsh_precision_recall_curve(jax.random.key(0), real[:2000], real[2000::2])
    >>> bool(curve.f_8 < 0.7), bool(curve.f_1_8 > 0.9)
    (True, True)

    Arguments and errors as `lsh_precision_recall`, and:

        spec: Kind of hash; `CURVE`, of few and large buckets, if None.
        num_points: Ratios, at equal angles.
    """
    sketch = lsh_fit(key, reference, spec=spec or CURVE, ceiling=False).sketch
    hasher, n = sketch.hasher, sketch.rows
    found = addresses_of(hasher, encode_all(hasher, generated, "generated"))
    m, tables = found.shape[1], hasher.spec.num_tables
    ratios = np.tan((np.arange(num_points) + 0.5) / num_points * np.pi / 2)
    counts = sketch.counts, hashing.count(found, hasher.address_bits)
    with jax.enable_x64(True):
        sets = (devices.pad_rows(x, axis=1, fill=-1) for x in (sketch.addresses, found))
        below = jax.device_get([_count_ratios(*counts, x, n / m, ratios) for x in sets])
    of_r, of_g = (x[:-1].cumsum() / (tables * rows) for x, rows in zip(below, (n, m), strict=True))
    precision = ratios * (1 - of_r) + of_g
    recall = precision / ratios

    def best(weight):
        return float(np.max((1 + weight) * precision * recall / (weight * precision + recall)))

    return PrecisionRecallCurve(
        precision, recall, ratios, best(64), best(1 / 64), n, m, hasher.num_bits, tables
    )


@jax.jit
def _count_ratios(r_counts, g_counts, addresses, scale, ratios):
    """Rows of a set by q / p of their bucket: how many ratios are smaller, int `[p + 1]`."""
    at = jnp.maximum(addresses, 0)
    of_r, of_g = (jnp.take_along_axis(x, at, axis=1) for x in (r_counts, g_counts))
    smaller = jnp.searchsorted(ratios, of_g * scale / of_r)
    return jnp.zeros(len(ratios) + 1, int).at[smaller].add(addresses >= 0)
