"""Precision and recall from hash cells alone: O(1) for an assessed sample, no distances.

Table t says yes to x when at least c (`min_count`) points of the other set lie in its cell there:

    yes_t(x; S) = #{s in S : code_t(s) = code_t(x)} >= c

`votes=None`: precision is the mean of yes_t(g; R) over tables and generated samples. `votes=v`: g
is on the manifold when at least the share v of its tables say yes, and precision is the share of
such g. Recall is the same with the sets exchanged; the hash stays fitted on R.

Source: the metric is that of arXiv:2103.11912, whose abstract fixes the idea; families, radius
bins, votes and the choice of b are ours (see `hashing` and `bits`).

Ceiling: R scored against itself, each row among the others. That estimates the score of a fresh
sample of the reference distribution without thinning the cells, which halving R would do. With
fewer generated samples than reference ones, the recall ceiling uses as many rows of R.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsh_gan.metrics import hashing, sketch
from lsh_gan.metrics.bits import check_min_count, check_rows, choose_digits
from lsh_gan.metrics.checks import check_flags, check_type
from lsh_gan.metrics.encoding import encode_all
from lsh_gan.metrics.hash_fit import check_spec, draw_hash
from lsh_gan.metrics.hashing import HashSpec
from lsh_gan.metrics.inputs import Array, check_kind, subset
from lsh_gan.metrics.sketch import Sketch
from lsh_gan.metrics.streams import SAMPLE_ROWS, replayable, sample_rows
from lsh_gan.metrics.types import PrecisionRecall, check_second
from lsh_gan.metrics.votes import GROUPS, Joined, check_votes, join


class LshReference(NamedTuple):
    """Everything that the score of a generated set needs of the reference.

    Attributes:
        sketch: The reference's counts and codes.
        min_count: c.
        votes: Share of tables that must say yes, or None for the mean over tables.
        ceiling: Whether scores come with their ceilings.
        second: Sketch of a second reference sample, or None.
    """

    sketch: Sketch
    min_count: int
    votes: float | None
    ceiling: bool
    second: Sketch | None


def lsh_precision_recall(
    key: jax.Array,
    reference: Any,
    generated: Any,
    *,
    spec: HashSpec | None = None,
    min_count: int = 1,
    votes: float | None = 0.5,
    membership: bool = False,
    ceiling: bool = True,
    second_reference: Any = None,
) -> PrecisionRecall:
    """Scores `generated` against `reference` by shared hash cells.

    Args:
        key: `jax.random.key`; draws the hash.
        reference: Features `[n, d]`, NumPy or JAX, floating point, or an iterable of batches; then
            one batch at a time is held, with 4096 rows for the fit and the codes.
        generated: Features `[m, d]`, likewise.
        spec: Kind of hash; `HashSpec()` if None.
        min_count: c, at least 1. Above 1, a lone outlier makes no manifold.
        votes: Share of tables that must say yes, in (0, 1], or None for the mean over tables.
        membership: Whether to return the membership of every sample: bool with votes, else the
            share of tables, float.
        ceiling: Whether to score the reference against itself too.
        second_reference: A second sample of the reference distribution, at least n rows; gives the
            ceiling instead.

    Returns:
        The scores; `num_bits` says what 'auto' found.

    Raises:
        TypeError: Features that are not floating-point arrays, or an option of another type.
        ValueError: NaN, Inf, wrong shape, too few rows, fewer in the second reference than in the
            reference, an option out of its range, or tables too large for memory.
    """
    check_kind(reference, "reference")
    dim = reference.shape[1] if hasattr(reference, "ndim") else None
    check_kind(generated, "generated", dim=dim)
    check_flags(membership=membership)
    fitted = lsh_fit(
        key, reference, spec=spec, min_count=min_count, votes=votes, ceiling=ceiling,
        second_reference=second_reference,
    )  # fmt: skip
    return lsh_score(fitted, generated, membership=membership)


def lsh_fit(
    key: jax.Array,
    reference: Any,
    *,
    spec: HashSpec | None = None,
    min_count: int = 1,
    votes: float | None = 0.5,
    ceiling: bool = True,
    second_reference: Any = None,
    source: str = "",
) -> LshReference:
    """Fits the hash and counts the reference; arguments as `lsh_precision_recall`, `fit_hash`."""
    spec = HashSpec() if spec is None else spec
    check_spec(key, spec, source)
    min_count = check_min_count(min_count)
    check_votes(votes)
    check_flags(ceiling=ceiling)
    check_kind(reference, "reference")
    if second_reference is not None:
        dim = reference.shape[1] if hasattr(reference, "ndim") else None
        check_kind(second_reference, "second reference", dim=dim)
        if hasattr(reference, "ndim") and hasattr(second_reference, "ndim"):
            check_second(len(reference), len(second_reference))
    reference = replayable(reference, "reference")
    sample = sample_rows(reference, "reference")
    if sample.shape[0] < SAMPLE_ROWS:  # then these are all rows
        check_rows("reference", sample.shape[0], min_count)
    hasher = draw_hash(key, sample, spec, source=source)
    if spec.num_bits != "auto":
        hashing.check_table_memory(hasher, sample.shape[0])
    codes = encode_all(hasher, reference, "reference")
    check_rows("reference", codes.digits.shape[1], min_count)
    if spec.num_bits == "auto":
        hasher = choose_digits(hasher, codes, min_count=min_count, votes=votes)
    second = None
    if ceiling and second_reference is not None:
        codes_of_second = encode_all(hasher, second_reference, "second reference")
        second = sketch.from_codes(hasher, codes_of_second)
        check_second(codes.digits.shape[1], second.rows)
    return LshReference(sketch.from_codes(hasher, codes), min_count, votes, ceiling, second)


def lsh_score(
    fitted: LshReference, generated: Any, *, membership: bool = False, recall: bool = True
) -> PrecisionRecall:
    """Scores `generated` `[m, d]` against a fitted reference; see `lsh_precision_recall`.

    Args:
        fitted: From `lsh_fit`, or of a sketch.
        generated: Features `[m, d]`, or an iterable of batches.
        membership: Whether to return the membership of every sample.
        recall: Whether to score recall. With votes, a sketch of counts alone gives precision only.

    Raises:
        ValueError: Also when the reference's sketch holds counts only and recall needs its codes.
    """
    check_reference(fitted)
    check_flags(membership=membership, recall=recall)
    reference, votes = fitted.sketch, fitted.votes
    hasher = reference.hasher
    if recall and reference.cells is None and (votes is not None or membership):
        raise ValueError(
            "This sketch holds counts only; voted recall and recall membership need the codes of "
            "the reference: build it with keep_codes=True, or ask for votes=None or recall=False."
        )
    codes = encode_all(hasher, generated, "generated")
    cells = hashing.cell_index(hasher, codes, reference.directory)
    rows, tables = cells.shape[1], hasher.spec.num_tables
    precision = join(tally(reference.counts, cells, fitted.min_count), tables, votes)
    recalled = _recall(fitted, _counted(reference, cells)) if recall else _NOT_ASKED
    above, below = _ceilings(fitted, rows)
    return PrecisionRecall(
        precision=precision.score,
        recall=recalled.score,
        precision_stderr=precision.stderr,
        recall_stderr=recalled.stderr,
        precision_ceiling=above,
        recall_ceiling=below if recall else None,
        precision_membership=precision.membership if membership else None,
        recall_membership=recalled.membership if membership else None,
        n=reference.rows,
        m=rows,
        family=hasher.spec.family,
        num_bits=hasher.num_bits,
        radius_bins=hasher.spec.radius_bins,
        num_tables=hasher.spec.num_tables,
    )


def check_reference(fitted: LshReference) -> None:
    """Raises TypeError or ValueError unless a reference's parts belong together."""
    check_type("fitted", fitted, LshReference, "an LshReference, see lsh_fit")
    check_type("sketch", fitted.sketch, Sketch, "a Sketch, see build")
    check_min_count(fitted.min_count)
    check_votes(fitted.votes)
    check_rows("reference", fitted.sketch.rows, fitted.min_count)
    check_flags(ceiling=fitted.ceiling)
    if fitted.second is not None:
        check_type("second", fitted.second, Sketch, "a Sketch, see build")
        sketch.check_same_hasher(fitted.sketch.hasher, fitted.second.hasher)
        check_second(fitted.sketch.rows, fitted.second.rows)
        if fitted.second.cells is None:
            raise ValueError(
                "The second sample's sketch holds counts only; build it with keep_codes=True."
            )


def _counted(reference: Sketch, cells: jax.Array) -> Array:
    """Counts of rows whose cells, int32 `[t, m]`, are those of a reference's tables."""
    return sketch.add_counts(sketch.empty_counts(*reference.counts.shape), cells)


_NOT_ASKED = Joined(None, None, None)


def tally(counts: jax.Array, cells: jax.Array, min_count: int, own: Any = 0) -> np.ndarray:
    """Yeses of each row in each of 8 groups of tables, int32 `[8, n]`.

    Args:
        counts: int32 `[t, cells]`.
        cells: int32 `[t, n]`.
        min_count: c.
        own: Rows of the set that are to be left out of their own cell, 0 or 1, scalar or `[n]`.
    """
    return np.asarray(_tally(counts, cells, np.int32(min_count), jnp.asarray(own, jnp.int32)))


@jax.jit
def _tally(counts, cells, min_count, own):
    found = jnp.take_along_axis(counts, cells, axis=1) - own
    yes = (found >= min_count).astype(jnp.int32)
    return jnp.stack([yes[i::GROUPS].sum(axis=0) for i in range(GROUPS)])


def _recall(fitted: LshReference, counts: jax.Array) -> Joined:
    reference = fitted.sketch
    if reference.cells is not None:
        groups = tally(counts, reference.cells, fitted.min_count)
        return join(groups, reference.hasher.spec.num_tables, fitted.votes)
    shares = np.asarray(_share_of_counts(reference.counts, counts, fitted.min_count))
    shares = shares / reference.rows
    score = float(shares.mean())
    variance = score * (1 - score) / reference.rows + shares.var() / max(1, len(shares) - 1)
    return Joined(score, float(np.sqrt(variance)), None)


@functools.partial(jax.jit, static_argnames="own")
def _share_of_counts(counts, others, min_count, *, own: int = 0):
    """Rows counted in `counts` whose cell holds enough of `others`, int32 `[t]`."""
    return jnp.sum(jnp.where(others - own >= min_count, counts, 0), axis=1)


def _ceilings(fitted: LshReference, m: int) -> tuple[float | None, float | None]:
    if not fitted.ceiling:
        return None, None
    reference, votes, c = fitted.sketch, fitted.votes, fitted.min_count
    cells, counts, n, t = reference.cells, reference.counts, reference.rows, len(reference.counts)
    if fitted.second is not None:
        second = sketch.cells_in(reference.directory, fitted.second)
        above = join(tally(counts, second, c), t, votes).score
        thinned = _counted(reference, second[:, subset(fitted.second.rows, min(m, n))])
        if cells is None and votes is not None:
            return above, None
        if cells is None:
            return above, float(np.mean(np.asarray(_share_of_counts(counts, thinned, c)) / n))
        return above, join(tally(thinned, cells, c), t, votes).score
    if cells is None and votes is not None:
        return None, None
    if cells is None:
        share = float(np.mean(np.asarray(_share_of_counts(counts, counts, c, own=1)) / n))
        return share, share if m >= n else None
    above = join(tally(counts, cells, c, own=1), t, votes).score
    if m >= n:
        return above, above
    rows = subset(n, m)
    thinned = _counted(reference, cells[:, rows])
    own = np.zeros(n, np.int32)
    own[rows] = 1
    return above, join(tally(thinned, cells, c, own=own), t, votes).score
