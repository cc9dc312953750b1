"""Metrics as functions of (key, reference, generated), for `suites.py` and `image_damage.py`.

To try another hash, add an entry to a copy of `METRICS` and pass it to `suites.main` or
`image_damage.main`:

    def wide(key, reference, generated):
        return metrics.lsh_precision_recall(key, reference, generated, spec=HashSpec(width=3.0))

    suites.main({"KNN": METRICS["KNN"], "LSH wide": wide})

The result has `precision` and `recall`; `precision_ceiling` and `density`, if not None, give more
columns. TopP&R is not included: its package takes minutes for sets of two dimensions (a grid of a
million points) and fails on sets of one.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import betabinom

from lsh_gan import metrics

RELATIVE = " over ceiling"
DENSITY = "density/coverage"

Metric = Callable[[jax.Array, np.ndarray, np.ndarray], Any]


class Scores(NamedTuple):
    """Result of another metric: fidelity and diversity, under the names of our metrics."""

    precision: float
    recall: float
    precision_ceiling: float | None = None
    recall_ceiling: float | None = None
    density: float | None = None
    coverage: float | None = None


def columns(name: str, found: Any) -> dict[str, tuple[float, float]]:
    """Returns (fidelity, diversity) by column: scores, over their ceilings, density/coverage."""
    out = {name: (found.precision, found.recall)}
    if found.precision_ceiling is not None:
        ceilings = found.precision_ceiling, found.recall_ceiling
        pairs = zip(out[name], ceilings, strict=True)
        out[name + RELATIVE] = tuple(
            score / ceiling if ceiling else 0.0 for score, ceiling in pairs
        )
    if found.density is not None:
        out[DENSITY] = found.density, found.coverage
    return {column: tuple(map(float, pair)) for column, pair in out.items()}


def symmetric(_: jax.Array, reference: np.ndarray, generated: np.ndarray, k: int = 5) -> Scores:
    """Computes symmetric precision and recall (Khayatkhoei, AbdAlmageed 2023, arXiv:2306.09618).

    Precision is the smaller of two shares of generated samples: those in a ball of the reference,
    and those whose own ball holds a reference row. Recall is the same with the sets exchanged.
    """
    across = cdist(reference, generated)
    within_r = across < _radii(cdist(reference, reference), k)[:, None]
    within_g = across < _radii(cdist(generated, generated), k)
    precision = within_r.any(axis=0).mean(), within_g.any(axis=0).mean()
    recall = within_g.any(axis=1).mean(), within_r.any(axis=1).mean()
    return Scores(min(precision), min(recall))


def probabilistic(
    _: jax.Array, reference: np.ndarray, generated: np.ndarray, k: int = 4, scale: float = 1.2
) -> Scores:
    """Computes P-precision and P-recall (Park and Kim 2023, arXiv:2309.01590).

    A row covers a sample at distance t with probability max(0, 1 - t / (scale * mean radius)). The
    score is the mean probability that at least one row does, if rows are independent.
    """
    across = cdist(reference, generated)

    def covered(own: np.ndarray, axis: int) -> float:
        reach = scale * _radii(cdist(own, own), k).mean()
        # With a reach of 0, only rows at distance 0 are covered.
        share = across / reach if reach else np.where(across > 0, 1.0, 0.0)
        return float(1 - np.minimum(share, 1).prod(axis=axis).mean())

    return Scores(covered(reference, 0), covered(generated, 1))


def clipped(_: jax.Array, reference: np.ndarray, generated: np.ndarray, k: int = 5) -> Scores:
    """Computes clipped density and coverage (Salvy et al. 2025, arXiv:2507.01761).

    Density is the mean number of balls of the reference that hold a sample, with radii of at most
    their median and at most k balls, divided by the same mean for the reference itself. Coverage is
    the mean number of samples in a ball, at most k, converted to the share of good samples for
    which this mean is expected.
    """
    n, m = len(reference), len(generated)
    own, across = cdist(reference, reference), cdist(reference, generated)
    radii = _radii(own, k)[:, None]
    small = np.minimum(radii, np.median(radii))
    balls_of_r = (own <= small).sum(axis=0) - 1  # each row lies in its own ball
    ideal = np.minimum(balls_of_r, k).mean()
    density = np.minimum((across <= small).sum(axis=0), k).mean() / ideal if ideal else 0.0
    coverage = np.minimum((across < radii).sum(axis=1), k).mean() / k
    # A ball's mass is Beta(k, n - k), so it holds a beta-binomial number of `good` samples.
    good = np.arange(m + 1)[:, None]
    fewer = betabinom.pmf(np.arange(k), good, k, n - k).cumsum(axis=1)
    expected = 1 - fewer.mean(axis=1)
    return Scores(min(density, 1.0), float(np.interp(coverage, expected, good[:, 0])) / m)


def _radii(distances: np.ndarray, k: int) -> np.ndarray:
    """Returns the distance of each row to its k-th nearest other, from all pairs of a set."""
    return np.partition(distances, k, axis=1)[:, k]


def _fitted_once(fit: Callable, score: Callable) -> Metric:
    """Makes a metric that fits again only if the reference changes, which is rare along lines."""
    last: dict[str, Any] = {}

    def metric(key, reference, generated):
        made_of = *jax.random.key_data(key).tolist(), reference.shape, reference.tobytes()
        if last.get("made of") != made_of:
            last.update({"made of": made_of, "fitted": fit(key, reference)})
        return score(last["fitted"], generated)

    return metric


METRICS: Mapping[str, Metric] = {
    "KNN": _fitted_once(lambda _, reference: metrics.knn_fit(reference), metrics.knn_score),
    "LSH": _fitted_once(metrics.lsh_fit, metrics.lsh_score),
    "LSH votes alone": _fitted_once(partial(metrics.lsh_fit, min_level=None), metrics.lsh_score),
    "LSH+KNN": _fitted_once(metrics.lsh_knn_fit, metrics.lsh_knn_score),
    "symmetric": symmetric,
    "P-precision/P-recall": probabilistic,
    "clipped": clipped,
}
OURS = ("KNN", "LSH", "LSH+KNN")


def usual(known: Mapping[str, Metric]) -> str:
    """Lists the metrics measured by default, as "a,b": ours, and those outside `METRICS`."""
    return ",".join(name for name in known if name in OURS or name not in METRICS)
