"""Precision and recall from k-nearest-neighbour balls among hash candidates: O(log n) a sample.

Only points that share a cell are compared, so that a radius and the test against it cost as many
distances as cells hold points: O(log n), with b chosen for it. A point whose cell holds fewer than
k others has no ball there and covers nothing, which keeps lone outliers from growing huge balls.

`votes=None` (the definition of arXiv:2103.11912 as we read its abstract): candidates are the points
that share a cell in at least one table; the radius is that of the k-th nearest candidate.
`votes=v` (ours): each table has balls of its own, from the points of the cell alone, and says yes
when x lies in one of them; x is on the manifold when at least the share v of tables say yes.

One table of one cell is exact KNN, either way. Memberships are exact in the sense of `knn`:
comparisons that float32 cannot decide are decided in float64.

Cells are uneven; `max_cell` caps the candidates of a cell, and `capped` says what was cut off.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from lsh_gan.metrics import cell_balls, hashing
from lsh_gan.metrics.bits import choose_digits
from lsh_gan.metrics.cell_balls import Balls, Rule
from lsh_gan.metrics.cell_kernels import as_points
from lsh_gan.metrics.cells import capped_share
from lsh_gan.metrics.checks import check_flags, check_memory, check_type, check_whole
from lsh_gan.metrics.distances import Frame
from lsh_gan.metrics.encoding import encode_all
from lsh_gan.metrics.hash_fit import check_spec, draw_hash
from lsh_gan.metrics.hashing import Codes, Hasher, HashSpec
from lsh_gan.metrics.inputs import Array, as_features, as_references, subset
from lsh_gan.metrics.streams import sample_rows
from lsh_gan.metrics.types import Ceiling, PrecisionRecall, check_second
from lsh_gan.metrics.votes import GROUPS, check_votes, join, least_yeses

# `num_bits='auto'`: other rows that the cells of a recognised row hold, over log2(n).
CELL_ROWS_PER_LOG2 = 1 / 3
_MOST_ROWS = 2**31 - 1  # they are numbered in int32


class LshKnnReference(NamedTuple):
    """Everything that the score of a generated set needs of the reference.

    Attributes:
        hasher: The hash.
        balls: The reference with its cells and balls.
        rule: k, `inclusive`, `max_cell`, and whether tables have radii of their own.
        votes: Share of tables that must say yes, or None for candidates of any table.
        ceiling: Scores of the reference distribution, or None.
        second: A second sample of the reference distribution, at least n rows, or None.
    """

    hasher: Hasher
    balls: Balls
    rule: Rule
    votes: float | None
    ceiling: Ceiling | None
    second: Array | None = None


def lsh_knn_precision_recall(
    key: jax.Array,
    reference: Any,
    generated: Any,
    *,
    spec: HashSpec | None = None,
    k: int = 3,
    votes: float | None = 0.5,
    inclusive: bool = True,
    membership: bool = False,
    ceiling: bool = True,
    second_reference: Any = None,
    max_cell: int = 8192,
    memory_mb: int = 256,
) -> PrecisionRecall:
    """Scores `generated` against `reference` with balls among hash candidates.

    Args:
        key: `jax.random.key`; draws the hash.
        reference: Features `[n, d]`, NumPy or JAX, floating point, or an iterable of batches, which
            is concatenated: distances need the features.
        generated: Features `[m, d]`, likewise.
        spec: Kind of hash; `HashSpec()` if None. Here 'auto' bits give cells of O(log n) rows.
        k: Neighbours that define a radius.
        votes: Share of tables that must say yes, in (0, 1]; None for candidates of any table.
        inclusive: Ball membership by `<=`; False for `<`.
        membership: Whether to return the membership of every sample, bool.
        ceiling: Whether to score the reference against itself too.
        second_reference: A second sample of the reference distribution, at least n rows; gives the
            ceiling instead.
        max_cell: Cap on the candidates of a cell.
        memory_mb: Bound of the working memory beside the features, in MiB.

    Returns:
        The scores; see `PrecisionRecall`.

    Raises:
        TypeError: Features that are not floating-point arrays, or an option of another type.
        ValueError: NaN, Inf, wrong shape, fewer than k + 2 rows, fewer in the second reference than
            in the reference, or an option out of its range.
    """
    spec = HashSpec() if spec is None else spec
    check_spec(key, spec, "")
    rule = _rule(k, votes, inclusive, max_cell, memory_mb)
    check_flags(membership=membership, ceiling=ceiling)
    # All sets are checked before heavy work on any of them.
    references = as_references(reference, second_reference, k=rule.k)
    d = references[0].shape[1]
    generated = as_features(generated, "generated", k=rule.k, dim=d)
    fitted = _fit(key, *references, spec, rule, votes, ceiling, "")
    return _score(fitted, generated, membership)


def lsh_knn_fit(
    key: jax.Array,
    reference: Any,
    *,
    spec: HashSpec | None = None,
    k: int = 3,
    votes: float | None = 0.5,
    inclusive: bool = True,
    ceiling: bool = True,
    second_reference: Any = None,
    max_cell: int = 8192,
    memory_mb: int = 256,
    source: str = "",
) -> LshKnnReference:
    """Computes what depends on the reference alone; arguments as `lsh_knn_precision_recall`."""
    spec = HashSpec() if spec is None else spec
    check_spec(key, spec, source)
    rule = _rule(k, votes, inclusive, max_cell, memory_mb)
    check_flags(ceiling=ceiling)
    references = as_references(reference, second_reference, k=rule.k)
    return _fit(key, *references, spec, rule, votes, ceiling, source)


def _rule(k: int, votes: float | None, inclusive: bool, max_cell: int, memory_mb: int) -> Rule:
    check_votes(votes)
    k, max_cell = check_whole("; 1 <= k < max_cell", k=k, max_cell=max_cell)
    memory_mb = check_memory(memory_mb)
    check_flags(inclusive=inclusive)
    if k < 1 or max_cell <= k:
        raise ValueError(f"k = {k}, max_cell = {max_cell}; expected 1 <= k < max_cell, k <= n - 2.")
    return Rule(k, inclusive, votes is None, min(max_cell, _MOST_ROWS), memory_mb)


def _fit(
    key: jax.Array,
    reference: Array,
    second_reference: Array | None,
    spec: HashSpec,
    rule: Rule,
    votes: float | None,
    ceiling: bool,
    source: str,
) -> LshKnnReference:
    if second_reference is not None:
        check_second(len(reference), len(second_reference))
    sample = sample_rows(reference, "reference")
    hasher = draw_hash(key, sample, spec, source=source)
    codes = encode_all(hasher, reference, "reference")
    if spec.num_bits == "auto":
        others = max(rule.k + 1, round(CELL_ROWS_PER_LOG2 * np.log2(reference.shape[0])))
        hasher = choose_digits(hasher, codes, min_count=others, votes=votes or 0.5)
    leave_one_out = ceiling and second_reference is None
    balls = _balls(hasher, rule, reference, codes, leave_one_out=leave_one_out)
    fitted = LshKnnReference(hasher, balls, rule, votes, None)
    if not ceiling:
        return fitted
    if second_reference is not None:
        fitted, n = fitted._replace(second=second_reference), len(reference)
        scores = _score(fitted, second_reference)
        recall = scores.recall if scores.m == n else _recall_ceiling(fitted, n)
        return fitted._replace(ceiling=Ceiling(scores.precision, recall, n))
    share = float(_join(balls.covered, votes).mean())
    return fitted._replace(ceiling=Ceiling(share, share, len(reference)))


def _balls(
    hasher: Hasher, rule: Rule, features: Array, codes: Codes, *, leave_one_out: bool = False
) -> Balls:
    points = as_points(features, Frame(hasher.shift, hasher.scale))
    return cell_balls.find(
        points, hashing.cell_keys(hasher, codes), rule, leave_one_out=leave_one_out
    )


def _join(yes: np.ndarray, votes: float | None) -> np.ndarray:
    """Joins bool `[t, n]` over tables."""
    if votes is None:
        return yes.any(axis=0)
    return yes.sum(axis=0) >= least_yeses(votes, len(yes))


def lsh_knn_score(
    fitted: LshKnnReference, generated: Any, *, membership: bool = False
) -> PrecisionRecall:
    """Scores `generated` `[m, d]` against a fitted reference; see `lsh_knn_precision_recall`."""
    check_type("fitted", fitted, LshKnnReference, "an LshKnnReference, see lsh_knn_fit")
    check_flags(membership=membership)
    d = fitted.balls.points.features.shape[1]
    generated = as_features(generated, "generated", k=fitted.rule.k, dim=d)
    return _score(fitted, generated, membership)


def _score(fitted: LshKnnReference, generated: Array, membership: bool = False) -> PrecisionRecall:
    reference, hasher, rule = fitted.balls, fitted.hasher, fitted.rule
    codes = encode_all(hasher, generated, "generated")
    balls = _balls(hasher, rule, generated, codes)
    in_r, in_g = cell_balls.hits(balls, reference, rule)
    precise, recalled = _join(in_r, fitted.votes), _join(in_g, fitted.votes)
    above, below, rows = fitted.ceiling or (None, None, 0)
    if len(precise) < min(rows, len(recalled)):
        below = _recall_ceiling(fitted, len(precise))
    cut = [
        capped_share(a.groups, b.groups, rule.max_cell)
        for a, b in ((reference, reference), (balls, reference), (reference, balls))
    ]
    return PrecisionRecall(
        precision=float(precise.mean()),
        recall=float(recalled.mean()),
        precision_stderr=_stderr(in_r, precise, fitted.votes),
        recall_stderr=_stderr(in_g, recalled, fitted.votes),
        precision_ceiling=above,
        recall_ceiling=below,
        precision_membership=precise if membership else None,
        recall_membership=recalled if membership else None,
        k=rule.k,
        n=len(recalled),
        m=len(precise),
        family=hasher.spec.family,
        num_bits=hasher.num_bits,
        radius_bins=hasher.spec.radius_bins,
        num_tables=hasher.spec.num_tables,
        capped=max(cut),
    )


def _recall_ceiling(fitted: LshKnnReference, m: int) -> float:
    """Share of the reference that the balls of m rows of a sample of its distribution cover.

    Rows of the second sample if there is one, else of the reference, each left out for itself.
    """
    reference, hasher, leave_one_out = fitted.balls, fitted.hasher, fitted.second is None
    sample = reference.points.features if leave_one_out else fitted.second
    rows = subset(len(sample), m)
    some = sample[rows]
    codes = encode_all(hasher, some, "reference")
    balls = _balls(hasher, fitted.rule, some, codes, leave_one_out=leave_one_out)
    _, covered = cell_balls.hits(balls, reference, fitted.rule)
    if leave_one_out:
        covered[:, rows] = balls.covered
    return float(_join(covered, fitted.votes).mean())


def _stderr(yes: np.ndarray, joined: np.ndarray, votes: float | None) -> float:
    if votes is None:
        return float(joined.std() / np.sqrt(len(joined)))
    groups = np.stack([yes[i::GROUPS].sum(axis=0) for i in range(GROUPS)])
    return join(groups, len(yes), votes).stderr
