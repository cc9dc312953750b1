"""Claim: LSH metrics follow the truth where KNN fails, and outliers move them less.

    python benchmarks/validity.py [--n=2000] [--seeds=3] [--data=gauss,curved,fashion]
                                  [--metrics=knn,lsh,...] [--out=benchmarks/results/validity]

For every sweep of `validity_cases.py`: Spearman correlation of the score with the damage (1 is
perfect; the score must fall) where it should fall, and the range over which it moves where it
should stay (false response). Garbage: precision over its ceiling when every sample is the mean, the
average of eight real ones, or comes from a generator quantized to 2 bits. Outliers: change of the
score of the clean samples for each 1 % of outliers in R, in G, and in both, mean over four kinds of
generated sets. `prdc` and `top-pr` are measured where they are installed. Means over seeds.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import validity_cases as cases
from scipy.stats import spearmanr

from lsh_gan import metrics
from lsh_gan.metrics import HashSpec

OUTLIER_SHARES = (0.0, 0.02, 0.04, 0.06, 0.08, 0.1)
GARBAGE_SAMPLES = 2500


class Score(NamedTuple):
    """Memberships of both sets, means of which are the scores, and the precision ceiling."""

    precise: np.ndarray
    recalled: np.ndarray
    ceiling: float


Fitted = Callable[[np.ndarray], Score]


def _ours(score: Callable, fitted) -> Fitted:
    def run(generated):
        found = score(fitted, generated, membership=True)
        return Score(
            found.precision_membership, found.recall_membership, found.precision_ceiling or 1.0
        )

    return run


def knn(reference: np.ndarray, seed: int) -> Fitted:
    """Our exact KNN."""
    return _ours(metrics.knn_score, metrics.knn_fit(reference))


def density_coverage(reference: np.ndarray, seed: int) -> Fitted:
    """Density as precision, coverage as recall; the ceiling is 1 by construction."""
    fitted = metrics.knn_fit(reference, ceiling=False)

    def run(generated):
        found = metrics.knn_score(fitted, generated)
        return Score(np.array([found.density]), np.array([found.coverage]), 1.0)

    return run


def lsh(reference: np.ndarray, seed: int, votes=0.5, min_count=1, **options) -> Fitted:
    """Ours: hash cells."""
    fitted = metrics.lsh_fit(
        jax.random.key(seed), reference, spec=HashSpec(**options), votes=votes, min_count=min_count
    )
    return _ours(metrics.lsh_score, fitted)


def lsh_knn(reference: np.ndarray, seed: int, votes=0.5, **options) -> Fitted:
    """Ours: balls among hash candidates."""
    fitted = metrics.lsh_knn_fit(
        jax.random.key(seed), reference, spec=HashSpec(**options), votes=votes
    )
    return _ours(metrics.lsh_knn_score, fitted)


def prdc(reference: np.ndarray, seed: int) -> Fitted:
    """PyPI prdc, with `<`."""
    import contextlib
    import io

    from prdc import compute_prdc

    def run(generated):
        with contextlib.redirect_stdout(io.StringIO()):
            found = compute_prdc(reference, generated, nearest_k=3)
        return Score(np.array([found["precision"]]), np.array([found["recall"]]), 1.0)

    return run


def top_pr(reference: np.ndarray, seed: int) -> Fitted:
    """PyPI top-pr: topological precision and recall."""
    from top_pr import compute_top_pr

    def run(generated):
        found = compute_top_pr(
            real_features=reference, fake_features=generated, alpha=0.1, kernel="cosine",
            random_proj=True, f1_score=True,
        )  # fmt: skip
        return Score(np.array([found["fidelity"]]), np.array([found["diversity"]]), 1.0)

    return run


METRICS: dict[str, Callable[[np.ndarray, int], Fitted]] = {
    "knn": knn,
    "density/coverage": density_coverage,
    "prdc": prdc,
    "top-pr": top_pr,
    "lsh": lsh,
    "lsh shares": lambda r, s: lsh(r, s, votes=None),
    "lsh hyperplane": lambda r, s: lsh(r, s, family="hyperplane"),
    "lsh pstable": lambda r, s: lsh(r, s, family="pstable"),
    "lsh+knn": lsh_knn,
    "lsh+knn union": lambda r, s: lsh_knn(r, s, votes=None),
}


def measure(make: Callable, data: cases.Data, seed: int) -> dict:
    """All numbers of one metric on one data set."""
    fitted = make(data.reference, seed)
    found = {}
    for sweep in cases.sweeps(data, np.random.default_rng(seed)):
        scores = [fitted(generated) for generated in sweep]
        found[sweep.name] = {
            "levels": sweep.levels,
            "precision": [float(s.precise.mean()) for s in scores],
            "recall": [float(s.recalled.mean()) for s in scores],
            "ceiling": scores[0].ceiling,
            "quality": sweep.quality,
            "diversity": sweep.diversity,
        }
    garbage = {"8 averages": found["blur"], "at mean": found["at mean"]}
    result = {
        "sweeps": found,
        "garbage": {k: v["precision"][-1] / v["ceiling"] for k, v in garbage.items()},
        "outliers": outlier_response(make, fitted, data, seed),
    }
    if data.name == "fashion":
        result["garbage"]["2 bits"] = destroyed(make, seed)
    return result


def destroyed(make: Callable, seed: int) -> float:
    """Precision over ceiling of a generator at 2 bits, against the real images."""
    order = np.random.default_rng(seed).permutation(10_000)[:GARBAGE_SAMPLES]
    score = make(cases.embed_packaged()[order], seed)(cases.destroyed(2, GARBAGE_SAMPLES))
    return float(score.precise.mean() / score.ceiling)


def outlier_response(make: Callable, fitted: Fitted, data: cases.Data, seed: int) -> dict:
    """Change of (precision, recall) of the clean samples for each 1 % of outliers, in points."""
    sweeps = {s.name: list(s) for s in cases.sweeps(data, np.random.default_rng(seed))}
    n = len(data.reference)
    kinds = {
        "same": data.base, "shifted": sweeps["shift"][4], "repeated": sweeps["repeat"][5],
        "blurred": sweeps["blur"][1],
    }  # fmt: skip
    response = {}
    for where in ("R", "G", "RG"):
        for kind, generated in kinds.items():
            rng = np.random.default_rng(seed)
            extra = [cases.outliers(rng, data.reference, generated, n // 10) for _ in range(2)]
            scores = []
            for share in OUTLIER_SHARES:
                count = int(share * n)
                r, g = data.reference.copy(), generated.copy()
                in_r, in_g = (count if c in where else 0 for c in "RG")
                r[n - in_r :], g[n - in_g :] = extra[0][:in_r], extra[1][:in_g]
                score = (make(r, seed) if in_r else fitted)(g)
                scores.append(_clean(score, n - in_g, n - in_r))
            slopes = np.polyfit(OUTLIER_SHARES, np.array(scores), 1)[0]
            response[f"{where} {kind}"] = slopes.tolist()
    return response


def _clean(score: Score, m: int, n: int) -> tuple[float, float]:
    return float(score.precise[:m].mean()), float(score.recalled[:n].mean())


def summarise(runs: list[dict]) -> dict:
    """Means over seeds: Spearman and false responses by sweep, garbage, outlier response."""
    lines: dict = {}
    for name in runs[0]["sweeps"]:
        parts = [run["sweeps"][name] for run in runs]
        for score, should_fall in (("precision", "quality"), ("recall", "diversity")):
            falls = parts[0][should_fall]
            if falls is None:
                continue
            values = [(_spearman if falls else _moves)(part[score]) for part in parts]
            lines[f"{name}: {score} {'rho' if falls else 'moves'}"] = float(np.mean(values))
    for name in runs[0]["garbage"]:
        lines[f"garbage: {name}"] = float(np.mean([run["garbage"][name] for run in runs]))
    for where in ("R", "G", "RG"):
        # The sign is kept until seeds are averaged: the noise of a refit is not a response.
        kinds = [k for k in runs[0]["outliers"] if k.split()[0] == where]
        slopes = [np.mean([run["outliers"][k] for run in runs], axis=0) for k in kinds]
        lines[f"outliers in {where}"] = float(np.mean(np.abs(slopes)))
    return lines


def _spearman(scores: list[float]) -> float:
    if np.ptp(scores) == 0:
        return 0.0
    return float(spearmanr(-np.arange(len(scores)), scores)[0])


def _moves(scores: list[float]) -> float:
    return float(np.ptp(scores))


def table(results: dict) -> str:
    """Markdown: a block a data set, a line a number, a column a metric."""
    text = []
    for data, by_metric in results.items():
        names = list(by_metric)
        text += [
            f"\n### {data}\n",
            "| | " + " | ".join(names) + " |",
            "|---" * (len(names) + 1) + "|",
        ]
        for line in by_metric[names[0]]:
            cells = [f"{by_metric[name][line]:.2f}" for name in names]
            text.append(f"| {line} | " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def plot(runs: dict, path: Path) -> None:
    """Precision and recall of every metric along every sweep of every data set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    for data, by_metric in runs.items():
        sweeps = next(iter(by_metric.values()))[0]["sweeps"]
        figure, axes = pyplot.subplots(2, len(sweeps), figsize=(2.6 * len(sweeps), 5), sharey=True)
        for column, name in enumerate(sweeps):
            for row, score in enumerate(("precision", "recall")):
                axis = axes[row, column]
                for metric, repeats in by_metric.items():
                    axis.plot(np.mean([r["sweeps"][name][score] for r in repeats], 0), label=metric)
                labels = sweeps[name]["levels"]
                axis.set_xticks(range(len(labels)), labels, rotation=90, fontsize=6)
                axis.set_ylim(-0.02, 1.05)
                axis.set_title(f"{name}: {score}", fontsize=8)
        axes[0, 0].legend(fontsize=6)
        figure.tight_layout()
        figure.savefig(path.with_name(f"{path.name}_{data}.png"), dpi=100)
        pyplot.close(figure)


def main() -> None:
    """Measures, prints and writes the tables and plots."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", default=",".join(cases.DATA))
    parser.add_argument("--metrics", default=",".join(METRICS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/validity"))
    options = parser.parse_args()
    runs: dict = {}
    for name in options.data.split(","):
        for metric in options.metrics.split(","):
            start = time.perf_counter()
            repeats = []
            for seed in range(options.seeds):
                data = cases.DATA[name](np.random.default_rng(seed), options.n)
                repeats.append(measure(METRICS[metric], data, seed))
            runs.setdefault(name, {})[metric] = repeats
            print(f"{name}, {metric}: {time.perf_counter() - start:.0f} s", flush=True)
    results = {d: {m: summarise(r) for m, r in by.items()} for d, by in runs.items()}
    text = f"n = m = {options.n}, {options.seeds} seeds, {platform.processor()}\n" + table(results)
    print(text)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".md").write_text(text)
    options.out.with_suffix(".json").write_text(json.dumps(runs))
    plot(runs, options.out)


if __name__ == "__main__":
    main()
