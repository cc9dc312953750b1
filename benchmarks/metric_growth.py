"""Time to assess one sample against ever more references, and the slopes of its growth."""

from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

from lsh_gan import metrics
from lsh_gan.metrics import (
    HashSpec,
    cell_balls,
    cell_kernels,
    cells,
    distances,
    duplicates,
    encoding,
    hashing,
    knn,
    knn_hits,
    lsh,
    nearest,
)

KEY = jax.random.key(0)
# Codes long enough that cells of the largest reference still hold few rows.
FIXED = {
    "lsh": HashSpec(family="affine", num_bits=16, radius_bins=0),
    "lsh_knn": HashSpec(family="affine", num_bits=16, radius_bins=8),
}
_SOME = 31  # rows that say how large the balls of a reference are
MAX_CELL = 20  # O(log n) needs bounded cells; log2(1e6)
CLAIMS = {"LSH, fixed bits": 1.25, "LSH+KNN, fixed bits": 2.5}  # most, from 1e4 to 1e6 references


def assessors(r: jax.Array, g: jax.Array) -> Iterator[tuple[str, Callable[[], object]]]:
    """Functions that find which of g lie on the manifold of r; fitting r is not part of them."""
    yield "KNN", _knn(r, g)
    for bits in ("fixed", "auto"):
        local = metrics.lsh_knn_fit(
            KEY,
            r,
            spec=FIXED["lsh_knn"] if bits == "fixed" else None,
            ceiling=False,
            max_cell=MAX_CELL,
        )
        yield f"LSH+KNN, {bits} bits", _lsh_knn(local, g)
        del local
        hashed = metrics.lsh_fit(
            KEY, r, spec=FIXED["lsh"] if bits == "fixed" else None, ceiling=False
        )
        yield f"LSH, {bits} bits", _lsh(hashed, g)
        del hashed


def _knn(r, g) -> Callable[[], object]:
    """All tiles of a comparison, with balls of the usual size: all radii would take long at 1e6."""
    frame = distances.fit_frame(r)
    size = distances.block_size(len(r), 256)
    of_g = min(size, distances.block_size(len(g), 256))
    others = distances.to_blocks(r, frame, size, "reference")
    near, none = (
        nearest.Nearest(np.full((len(x), 3), sq, np.float32), np.zeros((len(x), 3), np.int32))
        for x, sq in ((r, _usual_sq_radius(np.asarray(r), 3)), (g, np.inf))
    )
    fitted = knn.KnnReference(np.asarray(r), frame, others, near, 3, 5, True, None)

    def run():
        blocks = distances.to_blocks(g, frame, of_g, "generated")
        return knn_hits.compare(fitted, np.asarray(g), blocks, none).within_r

    return run


def _usual_sq_radius(r: np.ndarray, k: int) -> np.float32:
    """Median over some rows of the squared distance to the k-th nearest other row."""
    sq = [np.partition(np.square(r - row).sum(axis=1), k)[k] for row in r[:_SOME]]
    return np.median(sq)


def _lsh_knn(fitted: metrics.LshKnnReference, g) -> Callable[[], object]:
    hasher, rule = fitted.hasher, fitted.rule
    none = np.full((hasher.spec.num_tables, len(g)), -np.inf, np.float32)

    def run():
        points = cell_kernels.as_points(g, distances.Frame(hasher.shift, hasher.scale))
        keys = hashing.cell_keys(hasher, encoding.encode(hasher, g))
        # As many of equal rows as `cell_balls.find` keeps.
        standing = duplicates.representatives(points.features, keys, rule.k + 2)
        groups = cells.grouped(keys, standing == np.arange(len(g)))
        queries = cell_balls.Balls(points, standing, groups, none, none, None)
        return cell_balls._hits(queries, fitted.balls, rule)[0][:, standing]  # of g alone

    return run


def _lsh(fitted: metrics.LshReference, g) -> Callable[[], object]:
    hasher = fitted.sketch.hasher

    def run():
        found = hashing.cell_index(hasher, encoding.encode(hasher, g), fitted.sketch.directory)
        return lsh.tally(fitted.sketch.counts, found, 1)

    return run


def slope(sizes: list[int], seconds: list[float]) -> float:
    """Exponent of the growth, fitted from 1e4 references on."""
    keep = np.array(sizes) >= 10_000
    if keep.sum() < 2:
        return float("nan")
    return float(np.polyfit(np.log(sizes)[keep], np.log(seconds)[keep], 1)[0])


def table(sizes: list[int], times: dict[str, list[float]]) -> str:
    """Markdown: microseconds a sample, slopes, and growth from 1e4 to the largest reference."""
    lines = ["| µs a sample | " + " | ".join(f"n = {n:,}" for n in sizes) + " | slope | growth |"]
    lines.append("|---" * (len(sizes) + 3) + "|")
    for name, seconds in times.items():
        cells_ = " | ".join(f"{1e6 * s:.2f}" for s in seconds)
        start = sizes.index(10_000) if 10_000 in sizes else 0
        growth = f"{seconds[-1] / seconds[start]:.2f}×"
        growth += f" (at most {CLAIMS[name]}×)" if name in CLAIMS else ""
        lines.append(f"| {name} | {cells_} | {slope(sizes, seconds):.2f} | {growth} |")
    return "\n".join(lines)


def plot(sizes: list[int], times: dict[str, list[float]], path: Path) -> None:
    """A log-log plot of `times`, seconds a sample, with the fitted slopes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 4.2))
    for name, seconds in times.items():
        dashed = {"linestyle": "--", "alpha": 0.6} if "auto" in name else {}
        label = f"{name}: slope {slope(sizes, seconds):.2f}"
        axis.loglog(sizes, 1e6 * np.array(seconds), marker="o", label=label, **dashed)
    axis.set(xlabel="reference samples n", ylabel="time to assess one sample, µs")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=120, bbox_inches="tight")
