"""LSH precision and recall by shared buckets and normal levels: O(1) per sample, no distances.

Hash, count, vote, and compare with the normal level:

    bucket     = digits and radius bin of x in table t        see `hashing`
    hit_t(x)   = counts_t[address_t(x)] >= c                  c = 1; not counting x itself in R
    company(x) = Σ_t counts_t[address_t(x)]
    level(x)   = log2(1 + company(x))
    normal, std: the mean level of the counted rows in the radius bin and the region of x
                 (`hashing`), and the standard deviation in that region
    x is on the manifold if at least the share `votes` of the tables have a hit,
    and level(x) >= normal + min_level · std                  min_level = −0.5

Votes alone miss blur: dimmed or slightly blurred images move into dense regions, where every bucket
holds some rows. But their buckets hold fewer rows than those of real images at that distance from
the mean, which the level shows.

Precision is the share of G on the manifold of R, and recall is the share of R on the manifold of G,
under the same hash, fitted on R. If m > n, recall uses n rows of G. Recall leaves out what is rare
in G: rows of R with less than a quarter of the company that is normal among R, scaled to equal
numbers of rows. A `Sketch` holds what is kept of a set. `definitions.lsh` defines the metric, with
buckets in place of addresses.

Source: arXiv:2103.11912, whose abstract gives the idea. Hash families, radius bins, votes and
levels are ours.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lsh_gan import devices
from lsh_gan.metrics import hashing, inputs, scores, sketch
from lsh_gan.metrics.hashing import Hasher, Places
from lsh_gan.metrics.inputs import MIN_LEVEL, HashSpec, batches, subset
from lsh_gan.metrics.scores import PrecisionRecall, PrecisionRecallCurve, Summary
from lsh_gan.metrics.sketch import LshReference, Share, Sketch, sketch_of

_RARE = 2.0  # levels below normal, in log2: a quarter of the company
_LOOKED_AT = 2**16  # addresses per table from which the load is computed


def lsh_precision_recall(
    key: jax.Array,
    reference: Float[Any, "n d"],
    generated: Float[Any, "m d"],
    *,
    spec: HashSpec | None = None,
    min_count: int = 1,
    votes: float | None = 0.5,
    min_level: float | None = MIN_LEVEL,
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

    Arguments and errors are those of `knn_precision_recall`. Each set may also be an iterable of
    batches: one batch at a time is held, and the rows that the hash is fitted on, which are the
    first 2048 of an iterable. Tables that are too large for memory are also an error.

    Other Parameters:
        key: `jax.random.key`; draws the hash.
        spec: Kind of hash; `HashSpec()` if None. The result's `num_bits` is what 'auto' found.
        min_count: c, at least 1. Above 1, a lone outlier makes no manifold.
        votes: Share of tables that must have a hit, in (0, 1], or None for the mean over tables.
        min_level: The level that a sample needs, in standard deviations above the normal level of
            its radius bin and region; any number, by default -0.5. None uses votes alone, and
            recall then keeps what is rare.
    """
    inputs.check_ahead(generated, "generated", reference)
    fitted = lsh_fit(
        key, reference, spec=spec, min_count=min_count, votes=votes, min_level=min_level,
        ceiling=ceiling, second_reference=second_reference,
    )  # fmt: skip
    return lsh_score(fitted, generated, membership=membership)


def lsh_fit(
    key: jax.Array,
    reference: Float[Any, "n d"] | Share,
    *,
    spec: HashSpec | None = None,
    min_count: int = 1,
    votes: float | None = 0.5,
    min_level: float | None = MIN_LEVEL,
    ceiling: bool = True,
    second_reference: Float[Any, "n2 d"] | Share | None = None,
    source: str = "",
    sample: Float[Any, "* d"] | None = None,
) -> LshReference:
    """Fits the hash and counts the reference; arguments as `lsh_precision_recall`, `fit_hash`.

    Each set may also be a `Share`. `sample` holds the rows that the hash is fitted on: row 0 of the
    reference, then others. A `Share` needs it; for an iterable it replaces the first rows. Row 0
    and the rows `metrics.inputs.subset(n, 2048)` give the hash of the same n rows as one array.
    """
    options: dict[str, Any] = {"min_count": min_count, "votes": votes}
    inputs.check_options(**options, min_level=min_level)
    hasher, codes = sketch.fit_tables(
        key, reference, spec or HashSpec(), source, sample, least=min_count + 2, **options
    )
    counted, second = sketch_of(hasher, hashing.find_places(hasher, codes)), None
    if ceiling and second_reference is not None:
        others = sketch.encode_all(hasher, second_reference, "second reference")
        second = sketch_of(hasher, hashing.find_places(hasher, others))
        inputs.check_second(counted.rows, second.rows)
    return LshReference(counted, min_count, votes, min_level, ceiling, second)


def lsh_score(
    fitted: LshReference | Sketch,
    generated: Float[Any, "m d"] | Share,
    *,
    membership: bool = False,
    recall: bool = True,
) -> PrecisionRecall:
    """Scores `generated` against a fitted reference, or against a sketch with default options.

    Arguments as `lsh_precision_recall`. Recall from a sketch of counts alone is a ValueError.
    """
    inputs.check_type("fitted", fitted, LshReference, Sketch, hint=", of lsh_fit")
    fitted = LshReference(fitted) if isinstance(fitted, Sketch) else fitted
    reference, own = fitted.sketch, fitted.sketch.places
    inputs.check_options(**{name: getattr(fitted, name) for name in LshReference._fields[1:4]})
    if own is None and (recall or fitted.min_level is not None):
        raise ValueError(
            f"This sketch holds counts alone, and {'recall' if recall else 'min_level'} needs "
            "the addresses of the reference's rows: build it with keep_addresses=True, or score "
            "LshReference(sketch, min_level=None) with recall=False."
        )
    hasher, tables = reference.hasher, reference.hasher.spec.num_tables
    found = hashing.find_places(hasher, sketch.encode_all(hasher, generated, "generated"))
    m = len(found.cells)
    precise, recalled, crowded = _join(fitted, reference, found), None, None
    if recall and own is not None:  # tables of G take time that grows with n
        more = m > reference.rows
        of_g = sketch_of(hasher, _take(found, subset(m, reference.rows)) if more else found)
        recalled = _join(fitted, of_g, own)
        counts = hashing.count(found.addresses, hasher.address_bits) if more else of_g.counts
        crowded = _count_crowded(reference.counts, counts, found.addresses, reference.rows, m)
        crowded = crowded, m * tables
    result = scores.result(
        precise, recalled, _ceilings(fitted, m), membership=membership, rows=(reference.rows, m),
        extra={"load": _load(reference), "crowding": crowded}, **hasher.facts,
    )  # fmt: skip
    return result if recall else result._replace(recall_ceiling=None)


def lsh_score_streams(
    hasher: Hasher,
    reference: Callable[[], Iterable[Any]],
    generated: Callable[[], Iterable[Any]],
    *,
    min_count: int = 1,
    votes: float | None = 0.5,
    min_level: float | None = MIN_LEVEL,
) -> PrecisionRecall:
    """Scores sets that are larger than memory, in three passes over each set.

    The passes count, find normal levels, and vote. Only the counts and one batch are held, whatever
    the number of rows. Ceilings are leave-one-out. The result equals that of `lsh_precision_recall`
    under the same hash, with two exceptions. If m > n, recall and crowding use the first n rows of
    G. If m < n, the ceiling of recall is that of m evenly spaced rows of R, which takes two more
    passes over R.

    >>> from lsh_gan.metrics import fit_hash
    >>> r, g = np.random.default_rng(0).normal(size=(2, 2000, 8)).astype(np.float32)
    >>> hasher = fit_hash(jax.random.key(0), r)
    >>> lsh_score_streams(hasher, lambda: np.split(r, 5), lambda: np.split(g, 5)).m
    2000

    Options and errors are those of `lsh_precision_recall`.

    Other Parameters:
        hasher: From `fit_hash` on a sample of the reference, with `rows` the size of the whole
            reference and `table_bytes` the memory for the counts of a set.
        reference: Function that returns a new iterable of batches of features `[*, d]` per call.
        generated: The same for the generated set.
    """
    inputs.check_options(min_count=min_count, votes=votes, min_level=min_level)
    inputs.check_type("hasher", hasher, Hasher, hint=", of fit_hash")
    tables, shape = hasher.spec.num_tables, hashing.num_cells(hasher)

    def stream_of(make: Callable, source: str) -> Callable:
        if not callable(make):
            raise TypeError(
                f"{source} is a {type(make).__name__}; expected a function that makes an iterable "
                "of batches, such as lambda: batches"
            )
        return lambda: batches(make(), source, dim=len(hasher.origin))

    def first_of_g() -> Iterable[Any]:  # n rows at most
        left = n
        for batch in all_of_g():
            yield batch[:left]
            if (left := left - len(batch)) <= 0:
                return

    def is_in_few(at: int, size: int) -> np.ndarray:
        """Marks by 1 those of rows `at` to `at + size` of R that are among m evenly spaced rows."""
        return np.diff(np.arange(at, at + size + 1) * m // n)

    def few_of_r() -> Iterable[Any]:
        at = 0
        for batch in all_of_r():
            if len(rows := np.flatnonzero(is_in_few(at, len(batch)))):
                yield batch[rows]
            at += len(batch)

    def count(stream: Callable) -> Sketch:
        found, sums = sketch.build(hasher, stream(), keep_addresses=False), np.zeros(())
        if min_level is None:
            return found
        for batch in stream():
            places = hashing.find_places(hasher, hashing.encode(hasher, batch))
            sums = sums + np.asarray(sketch.sum_levels(found.counts, places, shape=shape))
        with jax.enable_x64(True):
            return found._replace(normal=sketch.normal_levels(jnp.asarray(sums)))

    def vote(stream: Callable, *sets: tuple[Sketch, Callable], both: tuple = ()) -> list[Any]:
        """Returns the numbers of rows and of crowded rows, and the votes among each set.

        Each set comes with a function that says how often the set counts a row itself. `both` are R
        and G, which crowding needs.
        """
        sums, rows, crowded = [np.zeros(())] * len(sets), 0, 0
        for batch in stream():
            places = hashing.find_places(hasher, hashing.encode(hasher, batch))
            for i, (of, own) in enumerate(sets):
                voted = _join(fitted, of, places, own(rows, len(batch)))
                sums[i] = sums[i] + np.asarray(voted.sums)
            if both:
                counts, sizes = [x.counts for x in both], [x.rows for x in both]
                crowded += int(_count_crowded(*counts, places.addresses, *sizes))
            rows += len(batch)
        return [rows, crowded, *(Summary(x, digits=hasher.digits) for x in sums)]

    all_of_r, all_of_g = stream_of(reference, "reference"), stream_of(generated, "generated")
    of_r = count(all_of_r)
    fitted, n = LshReference(of_r, min_count, votes, min_level), of_r.rows
    of_g = count(first_of_g)
    m, crowded, precise = vote(all_of_g, (of_r, lambda *_: 0), both=(of_r, of_g))
    sets: list[tuple[Sketch, Callable]] = [(of_g, lambda *_: 0), (of_r, lambda *_: 1)]
    if m < n:
        sets.append((count(few_of_r), is_in_few))
    _, _, recalled, left_out, *of_few = vote(all_of_r, *sets)
    limits = (left_out.total, n), ((of_few or [left_out])[0].total, n)
    return scores.result(
        precise, recalled, limits, membership=False, rows=(n, m),
        extra={"load": _load(of_r), "crowding": (crowded, m * tables)}, **hasher.facts,
    )  # fmt: skip


def _load(of: Sketch) -> tuple[jax.Array, int]:
    some = of.counts[:, :_LOOKED_AT]  # representative, and as fast at any n
    return jnp.sum(some > 0), some.size


@jax.jit
def _count_crowded(r_counts, g_counts, addresses, n, m):
    """Counts rows of G at crowded addresses, summed over tables; see `PrecisionRecall`.

    The counts are those of n rows of R and m rows of G.
    """
    with jax.enable_x64(True):
        of_r, of_g = (
            jnp.take_along_axis(counts, addresses, axis=1).astype(jnp.int64)
            for counts in (r_counts, g_counts)
        )
        return jnp.sum(n * of_g > 2 * m * of_r + 6 * jnp.maximum(n, m))


def _join(fitted: LshReference, of: Sketch, places: Places, own: Any = 0) -> Summary:
    """Computes which rows at these places are on the manifold of a set; `own` as in `look_up`."""
    reference, own = fitted.sketch, jnp.asarray(own, jnp.int32)
    sets = of.counts, of.normal, reference.normal, places, own, reference.hasher.digits
    options = of.rows / reference.rows, fitted.min_count, fitted.min_level
    return _join_votes(*devices.replicate(sets), *options, votes=fitted.votes)


@functools.partial(jax.jit, static_argnames="votes")
def _join_votes(counts, normal, of_r, places, own, digits, share, min_count, min_level, *, votes):
    """Votes in a set of n · share rows; `of_r` are the normal levels of R, perhaps this set."""
    found = sketch.look_up(counts, places.addresses, min_count, own)
    if min_level is not None and normal is not None:

        def normal_and_least(levels):
            normal, std = jnp.moveaxis(levels[..., places.cells], 1, 0)
            return normal, normal + min_level * std

        normal_of_r, least_of_r = normal_and_least(of_r)
        rare = jnp.minimum(normal_of_r - _RARE, least_of_r) + jnp.log2(share)
        found = found._replace(least=jnp.maximum(normal_and_least(normal)[1], rare))
    return scores.aggregate_votes(found, digits, tables=len(counts), votes=votes)


def _take(places: Places, rows: np.ndarray) -> Places:
    return Places(places.addresses[:, rows], places.cells[rows])


def _ceilings(fitted: LshReference, m: int) -> tuple[Any, Any]:
    """Returns both ceilings, each as a sum and its number of rows; recall is by min(m, n) rows."""
    reference, own = fitted.sketch, int(fitted.second is None)
    sample, n = fitted.second or reference, reference.rows
    places = sample.places
    if not fitted.ceiling or places is None:
        return None, None
    precision = _join(fitted, reference, places, own).total, sample.rows
    if reference.places is None:
        return precision, None
    if own and m >= n:
        return precision, precision
    rows = subset(sample.rows, min(m, n))
    some = sketch_of(reference.hasher, _take(places, rows))
    among = jnp.zeros(n, jnp.int32).at[rows].set(1) if own else 0
    return precision, (_join(fitted, some, reference.places, among).total, n)


CURVE = HashSpec(num_bits=2)  # coarse, so that buckets hold many rows of both sets


def lsh_precision_recall_curve(
    key: jax.Array, reference: Any, generated: Any, *, spec: HashSpec | None = None,
    num_points: int = 1000,
) -> PrecisionRecallCurve:  # fmt: skip
    """Computes the curve of precision against recall, from the share of each set in each bucket.

    With p and q the shares of R and G in a bucket, and a ratio λ from 0 to infinity, precision is
    Σ min(λ·p, q) and recall is Σ min(p, q / λ), as means over tables (Sajjadi et al. 2018,
    arXiv:1806.00035, where k-means makes the buckets). At λ = 1 both are 1 minus the total
    variation distance of the sets. The ends of the curve compare the supports, as the votes of
    `lsh_precision_recall` do. A generator that concentrates on a part of the reference loses both.
    `definitions.lsh_curve` is the definition.

    >>> import jax, numpy as np
    >>> real = np.random.default_rng(0).normal(size=(4000, 8)).astype(np.float32)
    >>> real[::2] += 5  # two modes, of which the generator knows one
    >>> curve = lsh_precision_recall_curve(jax.random.key(0), real[:2000], real[2000::2])
    >>> bool(curve.f_8 < 0.7), bool(curve.f_1_8 > 0.9)
    (True, True)

    Arguments and errors are those of `lsh_precision_recall`.

    Other Parameters:
        spec: Kind of hash; `HashSpec(num_bits=2)` if None, whose buckets are few and large.
        num_points: Number of ratios, at equal angles; 1 to 2²⁰.
    """
    inputs.check_options(num_points=num_points)
    inputs.check_ahead(generated, "generated", reference)
    counted: Any = lsh_fit(key, reference, spec=spec or CURVE, ceiling=False).sketch
    hasher, n, own = counted.hasher, counted.rows, counted.places.addresses
    found = hashing.find_places(hasher, sketch.encode_all(hasher, generated, "generated")).addresses
    m, tables = found.shape[1], hasher.spec.num_tables
    ratios = np.tan((np.arange(num_points) + 0.5) / num_points * np.pi / 2)
    counts = counted.counts, hashing.count(found, hasher.address_bits)
    with jax.enable_x64(True):
        sets = (devices.pad_rows(x, axis=1, fill=-1) for x in (own, found))
        below = jax.device_get([_count_ratios(*counts, x, n / m, ratios) for x in sets])
    of_r, of_g = (x[:-1].cumsum() / (tables * rows) for x, rows in zip(below, (n, m), strict=True))
    precision = ratios * (1 - of_r) + of_g
    recall = precision / ratios

    def best(weight):
        both = np.maximum(weight * precision + recall, 1e-300)  # 0 where no bucket is shared
        return float(np.max((1 + weight) * precision * recall / both))

    return PrecisionRecallCurve(
        precision, recall, ratios, best(64), best(1 / 64), n, m, hasher.num_bits, tables
    )


@jax.jit
def _count_ratios(r_counts, g_counts, addresses, scale, ratios):
    """Counts the rows of a set by how many ratios are below q / p of their bucket, `[p + 1]`."""
    at = jnp.maximum(addresses, 0)
    of_r, of_g = (jnp.take_along_axis(x, at, axis=1) for x in (r_counts, g_counts))
    smaller = jnp.searchsorted(ratios, of_g * scale / of_r)
    return jnp.zeros(len(ratios) + 1, int).at[smaller].add(addresses >= 0)
