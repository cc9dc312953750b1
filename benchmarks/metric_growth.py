"""Measures the time to assess one sample against more and more references, and its growth.

For each metric, the cost of one more sample after the reference is fitted:

    LSH        precision of 16,384 samples against counts that exist already, divided by the number
               of samples: they are hashed and looked up
    LSH+KNN    both scores of n samples against n references, divided by the 2n rows: both sets are
               sorted together, so that there is no smaller step
    KNN        comparison of 1,024 samples with the balls of n references, divided by the number of
               samples; all balls get one typical radius, because finding all radii would take hours
               at 1e6
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measuring import draw
from benchmarks.written import markdown
from lsh_gan import metrics
from lsh_gan.metrics import distances, knn

CLAIMS = {"LSH": 1.5, "LSH+KNN": 2.5}  # largest growth from 1e4 to 1e6 references
_SOME = 31  # rows from which the typical radius of balls is estimated


class Assessor(NamedTuple):
    """A call that assesses rows against a fitted reference, and the number of these rows."""

    run: Callable[[], object]
    rows: int


def assess_lsh(n: int, d: int, m: int = 16_384) -> Assessor:
    """Prepares precision of m samples against n references, by counts."""
    r, g = (jnp.asarray(draw(*shape)) for shape in ((n, d, 1), (m, d, 2)))
    fitted = metrics.lsh_fit(jax.random.key(0), r, ceiling=False)
    return Assessor(lambda: metrics.lsh_score(fitted, g, recall=False), m)


def assess_lsh_knn(n: int, d: int) -> Assessor:
    """Prepares precision and recall of n samples against n references."""
    r, g = (jnp.asarray(draw(n, d, seed)) for seed in (1, 2))
    fitted = metrics.lsh_knn_fit(jax.random.key(0), r, ceiling=False)
    return Assessor(lambda: metrics.lsh_knn_score(fitted, g), 2 * n)


def assess_knn(n: int, d: int, m: int = 1024) -> Assessor:
    """Prepares the test of m samples against balls of n references, all of one typical radius."""
    r, g = draw(n, d, 1), draw(m, d, 2)
    origin = np.asarray(r[0], np.float64)
    of_r, of_g = (distances.tile(jnp.asarray(x), origin, 256) for x in (r, g))
    balls, none = (
        knn.Balls(np.full((tiles.inside.size, 3), sq_radius), None)
        for tiles, sq_radius in ((of_r, usual_sq_radius(r, 3)), (of_g, -np.inf))
    )
    fitted = knn.KnnReference(r, of_r, origin, balls, 3, 5, True, 256, False, None)
    return Assessor(lambda: np.asarray(knn.compare(fitted, of_g, none).precise.any(axis=1))[:m], m)


ASSESSORS = {"LSH": assess_lsh, "LSH+KNN": assess_lsh_knn, "KNN": assess_knn}


def usual_sq_radius(r: np.ndarray, k: int) -> np.float32:
    """Returns the median over some rows of the squared distance to the k-th nearest other row."""
    sq = [np.partition(np.square(r - row).sum(axis=1), k)[k] for row in r[:_SOME]]
    return np.median(sq)


def slope(sizes: list[int], seconds: list[float]) -> float:
    """Fits the exponent of the growth, from 1e4 references on."""
    keep = np.array(sizes) >= 10_000
    if keep.sum() < 2:
        return float("nan")
    steepness = np.polyfit(np.log(sizes)[keep], np.log(seconds)[keep], 1)[0]
    return float(steepness.round(9) + 0)  # no growth from rounding errors, and no −0


def table(sizes: list[int], times: dict[str, list[float]]) -> str:
    """Formats as Markdown: µs per sample, slopes, growth from 1e4 to the largest reference."""
    lines = []
    for name, seconds in times.items():
        start = sizes.index(10_000) if 10_000 in sizes else 0
        growth = f"{seconds[-1] / seconds[start]:.2f}×"
        growth += f" (at most {CLAIMS[name]}×)" if name in CLAIMS else ""
        cells = (f"{1e6 * s:.2f}" for s in seconds)
        lines.append([name, *cells, f"{slope(sizes, seconds):.2f}", growth])
    return markdown(["µs per sample", *(f"n = {n:,}" for n in sizes), "slope", "growth"], lines)


def plot(sizes: list[int], times: dict[str, list[float]], path: Path) -> None:
    """Plots `times`, seconds per sample, on log axes with fitted slopes; old packages dashed."""
    from matplotlib.figure import Figure  # not in the processes that are measured

    figure = Figure(figsize=(6, 4.2))
    axis = figure.subplots()
    for name, seconds in times.items():
        dashed = {} if name in ASSESSORS else {"linestyle": "--", "alpha": 0.6}
        label = f"{name}: slope {slope(sizes, seconds):.2f}"
        axis.loglog(sizes, 1e6 * np.array(seconds), marker="o", label=label, **dashed)
    axis.set(xlabel="reference samples n", ylabel="time to assess one sample, µs")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=120, bbox_inches="tight")
