"""Defines the three metrics in NumPy float64, slow and short; all kernels must equal them.

R is the reference `[n, d]`, G the generated set `[m, d]`. Each metric returns which rows lie on a
manifold. Precision is the mean of `generated`, and recall is the mean of `reference`. The mean of
`left_out` is the ceiling: the score of a fresh sample of the reference distribution.

>>> r = np.array([[0.0], [1.0], [2.0], [4.0]])
>>> g = np.array([[1.5], [9.0], [1.4], [0.3]])
>>> on = knn(r, g, k=1)
>>> on.generated.tolist(), on.reference.tolist()
([True, False, True, True], [True, True, True, True])
>>> lsh(np.array([[0, 0, 1, 2]]), np.array([[0, 3, 1, 1]])).generated.tolist()
[True, False, True, True]
>>> lsh_knn(r, g, np.array([[0, 0, 0, 0]]), np.array([[0, 0, 0, 0]]), k=1) == on  # one bucket
True
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from lsh_gan.metrics.inputs import MIN_LEVEL, subset


class OnManifold(NamedTuple):
    """Flags of the rows that lie on a manifold."""

    generated: Bool[np.ndarray, " m"]  #: rows of G on the manifold of R
    reference: Bool[np.ndarray, " n"]  #: rows of R on the manifold of G
    left_out: Bool[np.ndarray, " n"]  #: rows of R on the manifold of the other rows of R

    def __eq__(self, other):
        return all(map(np.array_equal, self, other))


def knn(reference, generated, *, k: int = 3, inclusive: bool = True) -> OnManifold:
    """Finds the points that lie in the ball of at least one point of the other set, S.

    The radius of a ball is the distance from its centre to the k-th nearest other point of S
    (Kynkäänniemi et al. 2019, arXiv:1904.06991, equation 1). `inclusive=False` compares by `<` in
    place of `<=`, as PyPI `prdc` does.
    """
    one_bucket = np.zeros((1, len(reference))), np.zeros((1, len(generated)))
    return lsh_knn(reference, generated, *one_bucket, k=k, inclusive=inclusive)


def density_coverage(reference, generated, *, k: int = 5, inclusive: bool = True):
    """Returns density and coverage (Naeem et al. 2020, arXiv:2002.09797, equations 4 and 5)."""
    radii = _radii(_distances(reference, reference), k)
    inside = _less(inclusive)(_distances(generated, reference), radii)
    return inside.sum(axis=1).mean() / k, inside.any(axis=0).mean()


def lsh(
    reference_buckets, generated_buckets, *, min_count: int = 1, votes: float = 0.5,
    min_level: float | None = MIN_LEVEL, reference_cells=None, generated_cells=None,
) -> OnManifold:  # fmt: skip
    """Finds the points with enough hits, and with enough company, among the points of a set S.

    A table has a hit for a point if at least `min_count` points of S share its bucket. At least the
    fraction `votes` of the tables, in (0, 1], must have hits. The company of a point is the number
    of points of S in its buckets, summed over the tables; its level is log2(1 + company), rounded
    to 1/1024. The level must be at least `min_level` standard deviations above normal for the
    point's cell. A point also needs a quarter of the company that is normal among the points of R
    (or the level of `min_level` there, if this is lower), scaled to the number of points of S.

    Buckets are integers, `[t, n]` of R and `[t, m]` of G. Cells are `[2, n]` and `[2, m]`: a row of
    regions and a row of radius bins; None means a single cell. If m > n, only n rows of G span its
    manifold, since more rows would cover more of R.
    """
    r, g = np.asarray(reference_buckets), np.asarray(generated_buckets)
    few = subset(g.shape[1], min(g.shape[1], r.shape[1]))
    of_r = np.zeros((2, r.shape[1]), int) if reference_cells is None else reference_cells
    of_g = np.zeros((2, g.shape[1]), int) if generated_cells is None else generated_cells

    def shared(points, others, own=0):
        return (points[:, :, None] == others[:, None, :]).sum(axis=2) - own

    def normal_and_least(points, of_points, cells):
        normal, std = _normal_levels(_level(shared(points, points, own=1)), of_points)(*cells)
        return normal, normal + min_level * std

    def member(points, others, cells, of_others, own=0):
        found = shared(points, others, own)
        yes = _vote(found >= min_count, votes)
        if min_level is None:
            return yes
        _, least = normal_and_least(others, of_others, cells)
        in_r, least_in_r = normal_and_least(r, of_r, cells)
        rare = np.minimum(in_r - 2, least_in_r) + np.log2(others.shape[1] / r.shape[1])
        return yes & (_level(found) >= np.maximum(least, rare))

    return OnManifold(
        member(g, r, of_g, of_r),
        member(r, g[:, few], of_r, of_g[:, few]),
        member(r, r, of_r, of_r, own=1),
    )


def _level(company) -> np.ndarray:
    return np.round(1024 * np.log2(1 + company.sum(axis=0))) / 1024


def _normal_levels(levels, cells):
    """Returns a function from region and radius bin to the normal level and the standard deviation.

    The normal level is a term of the region plus a term of the radius bin, by backfitting: each
    term in turn is the mean of what the other leaves. The standard deviation is that of the region.
    Each mean counts one more row, with the overall value.
    """
    (region, radius_bin), of_bin = cells, np.full(1024, levels.mean())

    def means(x, at, usual):
        return (np.bincount(at, x, 1024) + usual) / (np.bincount(at, minlength=1024) + 1)

    for _ in range(8):
        of_region = means(levels - of_bin[radius_bin], region, 0)
        of_bin = means(levels - of_region[region], radius_bin, levels.mean())
    apart = (levels - of_region[region] - of_bin[radius_bin]) ** 2
    std = np.sqrt(means(apart, region, apart.mean()))
    return lambda region, radius_bin: (of_region[region] + of_bin[radius_bin], std[region])


def lsh_curve(reference_buckets, generated_buckets, ratios):
    """Returns precision Σ min(λ·p, q) over buckets, and recall, the same over λ, for each ratio λ.

    p and q are the shares of R and of G in a bucket (Sajjadi et al. 2018, arXiv:1806.00035,
    equation 10). Both results are means over tables, `[ratios]`.
    """
    ratios, precision = np.asarray(ratios), []
    for r, g in zip(np.asarray(reference_buckets), np.asarray(generated_buckets), strict=True):
        p, q = ((x[:, None] == np.union1d(r, g)).mean(axis=0) for x in (r, g))
        precision.append(np.minimum(ratios[:, None] * p, q).sum(axis=1))
    return np.mean(precision, axis=0), np.mean(precision, axis=0) / ratios


def lsh_knn(
    reference, generated, reference_buckets, generated_buckets, *, k: int = 3,
    votes: float | None = 0.5, inclusive: bool = True, reference_candidates=None,
    generated_candidates=None,
) -> OnManifold:  # fmt: skip
    """Finds the points that lie in the ball of a candidate of their bucket, in enough tables.

    A candidate has no ball in a table where its bucket holds fewer than k other candidates. Its
    radius is the smallest distance, over the tables, to the k-th nearest of them. For `left_out`,
    a row takes no part in the radii of the others. With `votes=None` the candidates of a point are
    the rows that share a bucket with it in any table. If m > n, pass only n rows of G for recall,
    as `lsh` takes.

    The arguments `..._candidates`, bool `[t, n]` and `[t, m]`, flag candidates: all rows if None.
    """
    r, g = np.asarray(reference_buckets), np.asarray(generated_buckets)
    in_r = np.ones(r.shape, bool) if reference_candidates is None else reference_candidates
    in_g = np.ones(g.shape, bool) if generated_candidates is None else generated_candidates
    of_r, of_g = (_distances(x, x) for x in (reference, generated))
    between = _distances(generated, reference)

    def together(points, others, candidates, of_points=True):
        found = (points[:, :, None] == others[:, None, :]) & candidates[:, None, :]
        found &= np.broadcast_to(of_points, points.shape)[:, :, None]
        return found if votes is not None else found.any(axis=0, keepdims=True)

    def hits(squared, own, shared, among):
        radii = np.stack([_radii(own, k, alike) for alike in among])
        balls = np.where(np.isnan(radii), np.nan, np.fmin.reduce(radii))
        return (_less(inclusive)(squared, balls[:, None]) & shared).any(axis=2)

    def left_out(i):
        rest = np.arange(len(of_r)) != i
        shared = together(r[:, [i]], r[:, rest], in_r[:, rest])
        among = together(r[:, rest], r[:, rest], in_r[:, rest], in_r[:, rest])
        return hits(of_r[[i]][:, rest], of_r[rest][:, rest], shared, among)

    votes_of = (
        hits(between, of_r, together(g, r, in_r), together(r, r, in_r, in_r)),
        hits(between.T, of_g, together(r, g, in_g), together(g, g, in_g, in_g)),
        np.concatenate([left_out(i) for i in range(len(of_r))], axis=1),
    )
    return OnManifold(*(_vote(x, votes or 1e-9) for x in votes_of))


def _distances(x, y) -> np.ndarray:
    """Squared Euclidean distances `[n, m]`."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return np.stack([np.sum((row - y) ** 2, axis=1) for row in x])


def _radii(squared, k: int, candidates=True) -> np.ndarray:
    """Squared distance of each row to its k-th nearest other candidate, NaN if there is none."""
    others = np.where(candidates & ~np.eye(len(squared), dtype=bool), squared, np.inf)
    kth = np.sort(others, axis=1)[:, k - 1] if k <= len(others) else np.full(len(others), np.inf)
    return np.where(np.isfinite(kth), kth, np.nan)


def _less(inclusive: bool):
    return np.less_equal if inclusive else np.less


def _vote(hits: np.ndarray, votes: float) -> np.ndarray:
    return hits.sum(axis=0) >= max(1, math.ceil(votes * len(hits) - 1e-9))
