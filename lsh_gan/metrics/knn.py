"""Precision, recall, density and coverage from k-nearest-neighbour balls, exact and blockwise.

With R the reference `[n, d]`, G the generated set `[m, d]`, and radius_k(r) the Euclidean distance
from r to its k-th nearest other point of R:

    precision = share of g with ‖g − r‖ <= radius_k(r) for at least one r
    recall    = share of r with ‖r − g‖ <= radius_k(g) for at least one g
    density   = mean over g of #{r : ‖g − r‖ <= radius_k'(r)} / k',      k' = 5
    coverage  = share of r with ‖r − g‖ <= radius_k'(r) for at least one g

Precision and recall: Kynkäänniemi et al. 2019, arXiv:1904.06991, section 3. Density and coverage:
Naeem et al. 2020, arXiv:2002.09797, section 3. `inclusive=False` uses `<`, as PyPI `prdc` does.
A point is never its own neighbour, by index, so that duplicates count.

Exactness. Distances come from float32 matrix products of features shifted by the mean of R, unless
that lies near the origin beside the spread of R. A comparison whose sides differ by less than the
error bound of those products is decided again in float64, from differences of the features as they
were given: Σ(g − r)² against Σ(r − r_k)². Memberships are those of float64, as far as that bound
holds (see `distances.slack`). float16 and bfloat16 are read as float32, exactly.

Ceiling. R scored against itself, each row among the others: the score that a fresh sample of the
reference distribution would get; or that of a second sample. The recall ceiling uses the balls of n
rows of it, or of m where fewer were generated.

Memory. Nothing n × m is held: tiles of distances come and go, sized by `memory_mb`. Sets that are
not float32, or whose mean is not near the origin, have a float32 copy each while they are compared.
On a CPU one set at a time is copied too if it is an array of NumPy's that does not begin at a
multiple of 64 bytes, as most do not.
"""

from typing import Any

import numpy as np

from lsh_gan.metrics import distances, refine
from lsh_gan.metrics.checks import check_flags, check_memory, check_type, check_whole
from lsh_gan.metrics.distances import Blocks, in_place
from lsh_gan.metrics.inputs import Array, as_features, as_references, subset
from lsh_gan.metrics.knn_hits import compare
from lsh_gan.metrics.knn_reference import KnnReference
from lsh_gan.metrics.nearest import Nearest, nearest_others
from lsh_gan.metrics.types import Ceiling, PrecisionRecall, check_second

_SPARE = 1  # neighbours held beyond those that radii need, for when float32 cannot tell them apart


def knn_precision_recall(
    reference: Any,
    generated: Any,
    *,
    k: int = 3,
    inclusive: bool = True,
    membership: bool = False,
    ceiling: bool = True,
    second_reference: Any = None,
    density_k: int = 5,
    memory_mb: int = 256,
) -> PrecisionRecall:
    """Scores `generated` against `reference` with k-nearest-neighbour balls.

    Args:
        reference: Features `[n, d]`, NumPy or JAX, floating point, or an iterable of batches.
        generated: Features `[m, d]`, likewise.
        k: Neighbours of precision and recall, 1 to n - 2.
        inclusive: Ball membership by `<=` (as the paper's code); False for `<` (as prdc).
        membership: Whether to return the membership of every sample.
        ceiling: Whether to score the reference against itself too.
        second_reference: A second sample of the reference distribution, at least n rows; gives the
            ceiling instead.
        density_k: Neighbours of density and coverage.
        memory_mb: Bound of the tiles of distances, in MiB; see Memory for what else there is.

    Returns:
        The scores; see `PrecisionRecall`.

    Raises:
        TypeError: Features that are not floating-point arrays, or an option of another type.
        ValueError: NaN, Inf, wrong shape, fewer than k + 2 rows, fewer in the second reference than
            in the reference, or an option out of its range.
    """
    k, density_k = _check_options(k, density_k, memory_mb)
    check_flags(inclusive=inclusive, membership=membership, ceiling=ceiling)
    # All sets are checked before heavy work on any of them.
    references = as_references(reference, second_reference, k=k)
    generated = as_features(generated, "generated", k=k, dim=references[0].shape[1])
    fitted = _fit(*references, k, density_k, inclusive, ceiling, memory_mb)
    return _score(fitted, generated, membership)


def knn_fit(
    reference: Any,
    *,
    k: int = 3,
    inclusive: bool = True,
    ceiling: bool = True,
    second_reference: Any = None,
    density_k: int = 5,
    memory_mb: int = 256,
) -> KnnReference:
    """Computes what depends on the reference alone; arguments as `knn_precision_recall`."""
    k, density_k = _check_options(k, density_k, memory_mb)
    check_flags(inclusive=inclusive, ceiling=ceiling)
    references = as_references(reference, second_reference, k=k)
    return _fit(*references, k, density_k, inclusive, ceiling, memory_mb)


def _check_options(k: int, density_k: int, memory_mb: int) -> tuple[int, ...]:
    k, density_k = check_whole(" of at least 1 (k: up to n - 2)", k=k, density_k=density_k)
    check_memory(memory_mb)
    if k < 1 or density_k < 1:
        raise ValueError(
            f"k = {k}, density_k = {density_k}; expected 1 <= k <= n - 2 and density_k >= 1."
        )
    return k, density_k


def _fit(
    reference: Array,
    second_reference: Array | None,
    k: int,
    density_k: int,
    inclusive: bool,
    ceiling: bool,
    memory_mb: int,
) -> KnnReference:
    if second_reference is not None:
        check_second(len(reference), len(second_reference))
    frame = distances.fit_frame(reference)
    size = distances.block_size(len(reference), memory_mb)
    blocks = distances.to_blocks(reference, frame, size, "reference")
    held = min(max(k, density_k) + _SPARE, reference.shape[0] - 1)
    nearest = nearest_others(blocks, held)
    fitted = KnnReference(reference, frame, blocks, nearest, k, density_k, inclusive, None)
    if not ceiling:
        return fitted
    if second_reference is not None:
        fitted, n = fitted._replace(second=second_reference), len(reference)
        scores = _score(fitted, second_reference)
        recall = scores.recall if scores.m == n else _recall_ceiling(fitted, n)
        return fitted._replace(ceiling=Ceiling(scores.precision, recall, n))
    share = float(refine.covered_by_others(reference, blocks, nearest, k, inclusive).mean())
    return fitted._replace(ceiling=Ceiling(share, share, len(reference)))


def _recall_ceiling(fitted: KnnReference, m: int) -> float:
    """Share of the reference that the balls of m rows of a sample of its distribution cover.

    Rows of the second sample if there is one, else of the reference, each left out for itself.
    """
    sample = fitted.features if fitted.second is None else fitted.second
    rows = subset(len(sample), m)
    some, k = sample[rows], fitted.k
    blocks, nearest = _prepared(fitted, some)
    covered = compare(fitted, some, blocks, nearest).within_g
    if fitted.second is None:
        covered[rows] = refine.covered_by_others(some, blocks, nearest, k, fitted.inclusive)
    return float(covered.mean())


def knn_score(fitted: KnnReference, generated: Any, *, membership: bool = False) -> PrecisionRecall:
    """Scores `generated` `[m, d]` against a fitted reference; see `knn_precision_recall`."""
    check_type("fitted", fitted, KnnReference, "a KnnReference, see knn_fit")
    check_flags(membership=membership)
    d = fitted.features.shape[1]
    generated = as_features(generated, "generated", k=fitted.k, dim=d)
    return _score(fitted, generated, membership)


def _score(fitted: KnnReference, generated: Array, membership: bool = False) -> PrecisionRecall:
    found = compare(fitted, generated, *_prepared(fitted, generated))
    precise, recalled = found.within_r, found.within_g
    density = coverage = None
    if fitted.dense:
        density = float(found.density_count.mean() / fitted.density_k)
        coverage = float(found.covered.mean())
    above, below, rows = fitted.ceiling or (None, None, 0)
    if len(precise) < min(rows, len(recalled)):
        below = _recall_ceiling(fitted, len(precise))
    return PrecisionRecall(
        precision=float(precise.mean()),
        recall=float(recalled.mean()),
        precision_stderr=_stderr(precise),
        recall_stderr=_stderr(recalled),
        precision_ceiling=above,
        recall_ceiling=below,
        density=density,
        coverage=coverage,
        precision_membership=precise if membership else None,
        recall_membership=recalled if membership else None,
        k=fitted.k,
        n=len(recalled),
        m=len(precise),
    )


def _prepared(fitted: KnnReference, generated: Array) -> tuple[Blocks, Nearest]:
    """A generated set for the kernels, and its nearest others."""
    size = fitted.blocks.size
    blocks = in_place(distances.to_blocks(generated, fitted.frame, size, "generated"))
    return blocks, nearest_others(blocks, min(fitted.k + _SPARE, blocks.rows - 1))


def _stderr(membership: np.ndarray) -> float:
    return float(membership.std() / np.sqrt(len(membership)))
