"""Tables, verdict and plot of the validity study."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from benchmarks.written import markdown

SHOWN = ("KNN", "density/coverage", "TopP&R", "LSH", "LSH+KNN")  # in the plot


def write(out: Path, rows: list[dict]) -> None:
    """Writes OUT.md, OUT.csv and OUT.png, and prints OUT.md.

    Args:
        out: Path without suffix.
        rows: Lines of `validity.py`; means over seeds are shown.
    """
    runs: dict = {}
    for row in rows:
        for column, numbers in row["columns"].items():
            runs.setdefault(row["data"], {}).setdefault(column, []).append(numbers)
    results = {d: {c: summarise(parts) for c, parts in by.items()} for d, by in runs.items()}
    counts = Counter(row["metric"] for row in rows if row["data"] == rows[0]["data"])
    seeds: dict[int, list[str]] = {}
    for metric, count in counts.items():
        seeds.setdefault(count, []).append(metric)
    said = "; ".join(f"{count} of {', '.join(names)}" for count, names in seeds.items())
    head = (
        f"# Validity of the metrics\n\n`python -m benchmarks.validity`: n = m = {rows[0]['n']}, "
        f"seeds: {said}.\nDefaults: `{rows[0]['defaults']}`.\n"
        "TopP&R uses every second row; TopP&R and prdc use every second step.\n"
    )
    text = head + verdict(results) + "".join(_tables(results))
    print(text)
    out.with_suffix(".md").write_text(text)
    numbers = [
        (data, metric, quantity, value)
        for data, by_metric in results.items()
        for metric, lines in by_metric.items()
        for quantity, value in lines.items()
    ]
    frame = pd.DataFrame(numbers, columns=["data", "metric", "quantity", "value"])
    frame.to_csv(out.with_suffix(".csv"), index=False, float_format="%.4f")
    plot(runs, out.with_suffix(".png"))


def summarise(runs: list[dict]) -> dict[str, float]:
    """Averages over seeds, by quantity: "rho ...", "moves ...", "garbage ...", "outliers ..."."""
    lines: dict = {}
    for name, first in runs[0]["sweeps"].items():
        parts = [run["sweeps"][name] for run in runs]
        for score, truth in (("precision", "quality"), ("recall", "diversity")):
            falls = first[truth]
            if falls is not None:
                values = [(_spearman if falls else np.ptp)(part[score]) for part in parts]
                lines[f"{'rho' if falls else 'moves'} {name}: {score}"] = float(np.mean(values))
    for part in ("garbage", "flat"):
        for name in runs[0][part]:
            lines[f"{part} {name}"] = float(np.mean([run[part][name] for run in runs]))
    for place in ("R", "G", "RG"):
        # The sign is kept until seeds are averaged, so that the noise of refits averages out.
        kinds = [k for k in runs[0]["outliers"] if k.split()[0] == place]
        slopes = [np.mean([run["outliers"][k] for run in runs], axis=0) for k in kinds]
        lines[f"outliers in {place}"] = float(np.mean(np.abs(slopes)))
    return lines


def _spearman(scores: list[float]) -> float:
    if np.ptp(scores) == 0:
        return 0.0
    return float(spearmanr(-np.arange(len(scores)), scores)[0])


def _of(lines: dict[str, float], kind: str) -> dict[str, float]:
    return {k.removeprefix(f"{kind} "): v for k, v in lines.items() if k.startswith(f"{kind} ")}


def verdict(results: dict) -> str:
    """Formats the three aims for every metric and data set; the worst case decides."""
    text = (
        "\n## Against the aims\n\nAims: ρ >= 0.95 on every sweep; outlier response at most a "
        "quarter of KNN's (mean of R, G and both); garbage precision under 0.2 of the ceiling. "
        "Worst value of each, **bold** where the aim is met.\n\n"
    )
    head = (
        "data", "metric", "least ρ (sweep)", "false response", "outliers, of KNN's", "garbage",
        "flat images",
    )  # fmt: skip
    body = []
    for data, by_metric in results.items():
        knn = np.mean(list(_of(by_metric["KNN"], "outliers").values())) if "KNN" in by_metric else 1
        for metric, lines in by_metric.items():
            rho, garbage = _of(lines, "rho"), max(_of(lines, "garbage").values())
            worst = min(rho, key=rho.get)
            moves = max(_of(lines, "moves").values())
            ratio = np.mean(list(_of(lines, "outliers").values())) / knn
            cells = [
                _met(f"{rho[worst]:.3f}", rho[worst] >= 0.95) + f" ({worst})",
                f"{moves:.2f}", _met(f"{ratio:.2f}", ratio <= 0.25),
                _met(f"{garbage:.2f}", garbage < 0.2),
                f"{max(flat):.2f}" if (flat := _of(lines, "flat").values()) else "",
            ]  # fmt: skip
            body.append([data, metric, *cells])
    return text + markdown(head, body)


def _met(value: str, met: bool) -> str:
    return f"**{value}**" if met else value


def _tables(results: dict) -> Iterator[str]:
    """Yields Markdown: a block per data set, a line per quantity, a column per metric."""
    yield (
        "\n## All numbers\n\nrho: Spearman correlation with the truth. moves: range of a score "
        "that should\nstay. garbage, flat: precision over ceiling. outliers: points per 1 %.\n"
    )
    for data, by_metric in results.items():
        body = [
            [line, *(f"{lines.get(line, np.nan):.2f}" for lines in by_metric.values())]
            for line in next(iter(by_metric.values()))
        ]
        yield f"\n### {data}\n\n" + markdown(["", *by_metric], body)


def plot(runs: dict, path: Path) -> None:
    """Plots precision and recall along every sweep, five per line, one data set after another."""
    names = max((next(iter(by.values()))[0]["sweeps"] for by in runs.values()), key=len)
    panels = [(data, score) for data in runs for score in ("precision", "recall")]
    lines = -(-len(names) // 5)
    figure = Figure(figsize=(10, 1.6 * lines * len(panels)), layout="constrained")
    axes = figure.subplots(lines * len(panels), 5, sharey=True, squeeze=False)
    for axis in axes.flat:
        axis.set_visible(False)
    for row, (data, score) in zip(axes.reshape(len(panels), -1), panels, strict=True):
        row[0].set_ylabel(data)
        for axis, name in zip(row, names, strict=False):
            axis.set_title(f"{name}: {score}", fontsize=9)
            axis.set_ylim(-0.03, 1.05)
            for metric in SHOWN:
                _curve(axis, runs[data].get(metric, []), name, score, metric)
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, ncols=len(SHOWN), loc="outside upper center")
    figure.savefig(path, dpi=110)


def _curve(axis, runs: list[dict], sweep: str, score: str, label: str) -> None:
    if not runs or sweep not in runs[0]["sweeps"]:
        return
    lines = [run["sweeps"][sweep] for run in runs]
    levels = list(map(str, lines[0]["levels"]))
    axis.set_visible(True)
    axis.plot(levels, np.mean([line[score] for line in lines], axis=0), label=label, marker=".")
    axis.tick_params(axis="x", rotation=90, labelsize=8)
