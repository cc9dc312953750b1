"""The metrics that `validity.py` compares: ours, and those of `prdc` and `top-pr` if installed."""

import contextlib
import dataclasses
import io
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from lsh_gan import metrics
from lsh_gan.metrics import HashSpec
from lsh_gan.metrics.lsh_knn import DEFAULT

DENSITY = "density/coverage"


class Score(NamedTuple):
    """Memberships `[m]` and `[n]`, or scalar scores if a package has none; and the ceiling."""

    precise: np.ndarray
    recalled: np.ndarray
    ceiling: float = 1.0


# Maps generated features to scores by column: KNN gives density and coverage at no extra cost.
Fitted = Callable[[np.ndarray], dict[str, Score]]


class Metric(NamedTuple):
    """One metric of the study.

    Attributes:
        fit: Function of (reference `[n, d]`, seed).
        every: 2 takes every second step of a sweep and one share of outliers, to save time.
        rows: 2 takes every second row.
    """

    fit: Callable[[np.ndarray, int], Fitted]
    every: int = 1
    rows: int = 1


def _ours(name: str, score: Callable, fitted) -> Fitted:
    def run(generated):
        found = score(fitted, generated, membership=True)
        ceiling = found.precision_ceiling or 1.0
        columns = {name: Score(found.precision_membership, found.recall_membership, ceiling)}
        if found.density is not None:
            columns[DENSITY] = Score(np.array(found.density), np.array(found.coverage))
        return columns

    return run


def _knn(reference: np.ndarray, seed: int) -> Fitted:
    return _ours("KNN", metrics.knn_score, metrics.knn_fit(reference))


def _lsh(name: str, spec: HashSpec | None = None, **options) -> Metric:
    def fit(reference, seed):
        fitted = metrics.lsh_fit(jax.random.key(seed), reference, spec=spec, **options)
        return _ours(name, metrics.lsh_score, fitted)

    return Metric(fit)


def _lsh_knn(name: str, bucket_rows: int = 24, **options) -> Metric:
    def fit(reference, seed):
        key, spec = jax.random.key(seed), dataclasses.replace(DEFAULT, **options)
        fitted = metrics.lsh_knn_fit(key, reference, spec=spec, bucket_rows=bucket_rows)
        return _ours(name, metrics.lsh_knn_score, fitted)

    return Metric(fit)


def _prdc(reference: np.ndarray, seed: int) -> Fitted:
    from prdc import compute_prdc

    def run(generated):
        with contextlib.redirect_stdout(io.StringIO()):
            found = compute_prdc(reference, generated, nearest_k=3)
        return {"prdc": Score(np.array(found["precision"]), np.array(found["recall"]))}

    return run


def _top_pr(reference: np.ndarray, seed: int) -> Fitted:
    from top_pr import compute_top_pr

    def run(generated):
        with np.errstate(invalid="ignore", divide="ignore"):
            found = compute_top_pr(real_features=reference, fake_features=generated, f1_score=False)
        # Without any significant sample, the package computes 0 / 0.
        scores = (np.nan_to_num(np.array(found[k])) for k in ("fidelity", "diversity"))
        return {"TopP&R": Score(*scores)}

    return run


METRICS = {
    "KNN": Metric(_knn),
    "LSH": _lsh("LSH"),
    "LSH votes alone": _lsh("LSH votes alone", min_level=None),
    "LSH affine": _lsh("LSH affine", HashSpec(family="affine")),
    "LSH hyperplane": _lsh("LSH hyperplane", HashSpec(family="hyperplane")),
    "LSH c = 2": _lsh("LSH c = 2", min_count=2),
    "LSH shares": _lsh("LSH shares", votes=None),
    "LSH 64 directions": _lsh("LSH 64 directions", HashSpec(num_directions=64)),
    "LSH+KNN": _lsh_knn("LSH+KNN"),
    "LSH+KNN 8 tables": _lsh_knn("LSH+KNN 8 tables", num_tables=8),
    "LSH+KNN 32 tables": _lsh_knn("LSH+KNN 32 tables", num_tables=32),
    "LSH+KNN c = 16": _lsh_knn("LSH+KNN c = 16", bucket_rows=16),
    "LSH+KNN c = 32": _lsh_knn("LSH+KNN c = 32", bucket_rows=32),
    "prdc": Metric(_prdc, every=2),
    "TopP&R": Metric(_top_pr, every=2, rows=2),
    "LSH+KNN affine": _lsh_knn("LSH+KNN affine", family="affine"),
    "LSH+KNN hyperplane": _lsh_knn("LSH+KNN hyperplane", family="hyperplane"),
}
