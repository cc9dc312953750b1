"""Findings: which clipping method wins at which width, and does quality hold while diversity falls?

    python -m benchmarks.compression [--num=2000] [--bits=8,7,6,5,4,3,2] [--side=64]
                                     [--generators=dcgan,sngan] [--workdir=runs/compression]
                                     [--out=benchmarks/results]

All clipping methods × widths × per tensor and per channel, symmetric, and full precision: 226 rows
of the ordinary sweep for two generators. A run that was stopped continues; a finished one only
draws. Writes `compression.md` (tables and findings), `compression.csv` and
`compression_GENERATOR.png`.
"""

import argparse
import csv
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import ml_collections
import numpy as np
from matplotlib import pyplot as plt

from benchmarks.machine import processor
from configs import default
from lsh_gan import compression
from lsh_gan.experiment import sweep
from lsh_gan.generators import checkpoints
from lsh_gan.results.labels import TITLES, unique
from lsh_gan.results.store import Row

METRICS = ("knn", "lsh_knn", "lsh")
SCORES = ("precision", "recall")
GRANULARITIES = ("per_tensor", "per_channel")
CLOSE = 0.01  # kept shares this close to the best count as equal: about one standard error


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=2_000)
    parser.add_argument("--bits", default="8,7,6,5,4,3,2")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--generators", default="dcgan,sngan")
    parser.add_argument("--workdir", type=Path, default=Path("runs/compression"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    return parser.parse_args()


def get_config(args: argparse.Namespace) -> ml_collections.ConfigDict:
    """The sweep as a configuration."""
    config = default.get_config()
    config.generators = tuple(args.generators.split(","))
    config.num_samples = config.reference.num_images = args.num
    config.features.side = args.side
    config.compression.bits = tuple(map(int, args.bits.split(",")))
    config.compression.clipping = tuple(compression.METHODS)
    config.compression.granularity = GRANULARITIES
    config.metrics = METRICS
    return config


class Results:
    """The rows of one generator, and what they keep of full precision."""

    def __init__(self, rows: list[Row]):
        self.name = rows[0]["generator"]
        self.full = next(row for row in rows if row["bits"] is None)
        self.swept = [row for row in rows if row["bits"] is not None]
        self.bits = sorted(unique(self.swept, "bits"), reverse=True)
        self.methods = unique(self.swept, "clipping")

    def select(self, **fields) -> list[Row]:
        """Compressed rows with these values of fields."""
        return [row for row in self.swept if all(row[k] == v for k, v in fields.items())]

    def kept(self, row: Row, metric: str, score: str) -> float:
        """Share of the score at full precision, at most 1: more is not better."""
        full = self.full[f"{metric}_{score}"]
        return min(1.0, row[f"{metric}_{score}"] / full) if full else 1.0

    def least(self, row: Row, metric: str) -> float:
        """The smaller of the kept shares of precision and recall."""
        return min(self.kept(row, metric, score) for score in SCORES)


def markdown(header: list[str], lines: list[list[str]]) -> str:
    """A Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def score_tables(results: Results) -> Iterator[str]:
    """Precision / recall of every setting, one table a metric."""
    for metric in METRICS:
        pair = [f"{results.full[f'{metric}_{score}']:.2f}" for score in SCORES]
        ceiling = [results.full.get(f"{metric}_{score}_ceiling") for score in SCORES]
        shown = " / ".join("–" if value is None else f"{value:.2f}" for value in ceiling)
        yield (
            f"**{results.name}, {TITLES[metric]}**, precision / recall; full precision "
            f"{' / '.join(pair)}, ceiling {shown}\n"
        )
        lines = []
        for granularity in GRANULARITIES:
            for method in results.methods:
                line = [granularity.removeprefix("per_"), method]
                for bits in results.bits:
                    (row,) = results.select(bits=bits, clipping=method, granularity=granularity)
                    line.append(" / ".join(f"{row[f'{metric}_{s}']:.2f}" for s in SCORES))
                lines.append(line)
        yield markdown(["per", "clipping", *(f"{bits} bits" for bits in results.bits)], lines)


def winners(results: Results) -> list[list[str]]:
    """For each grid and width the method that keeps most of the worse score, by each metric."""
    lines = []
    for granularity in GRANULARITIES:
        for bits in results.bits:
            group = results.select(bits=bits, granularity=granularity)
            line = [results.name, granularity.removeprefix("per_"), str(bits)]
            for metric in METRICS:
                kept = {row["clipping"]: results.least(row, metric) for row in group}
                best = max(kept.values())
                close = [method for method, value in kept.items() if value >= best - CLOSE]
                names = "all" if len(close) == len(kept) else ", ".join(close)
                line.append(f"{names}: {best:.0%} (none: {kept['none']:.0%})")
            lines.append(line)
    return lines


def holding(results: Results) -> list[list[str]]:
    """Does precision hold while recall falls: means over all settings of a width, and a count."""
    lines = []
    for bits in results.bits:
        group = results.select(bits=bits)
        line = [results.name, str(bits)]
        for metric in METRICS:
            kept = np.array([[results.kept(row, metric, s) for s in SCORES] for row in group])
            lost = kept.min(axis=1) < 0.95
            more = (kept[:, 1] < kept[:, 0])[lost].sum()
            means = " / ".join(f"{mean:.0%}" for mean in kept.mean(axis=0))
            line.append(f"{means} ({more} of {lost.sum()})")
        lines.append(line)
    return lines


def summary(results: Results) -> Iterator[str]:
    """One sentence a metric, over all settings that lose something but are not destroyed."""
    for metric in METRICS:
        kept = np.array([[results.kept(row, metric, s) for s in SCORES] for row in results.swept])
        lost = (kept.min(axis=1) < 0.95) & (kept.max(axis=1) > 0.5)
        if not lost.any():
            yield f"- {results.name}, {TITLES[metric]}: no setting loses 5 % of anything.\n"
            continue
        precision, recall = kept[lost].mean(axis=0)
        more = (kept[lost][:, 1] < kept[lost][:, 0]).mean()
        yield (
            f"- {results.name}, {TITLES[metric]}: of {lost.sum()} settings that lose 5 % or more "
            f"of a score and keep half of one, {more:.0%} lose more recall than precision; on "
            f"average they keep {precision:.0%} of precision and {recall:.0%} of recall.\n"
        )


def plot(results: Results) -> plt.Figure:
    """Precision and recall against bits: a colour a method, dashed per tensor; dotted ceilings."""
    figure, axes = plt.subplots(
        2, len(METRICS), sharex=True, sharey=True, layout="constrained", figsize=(11, 6.5)
    )
    labels = [str(bits) for bits in results.bits]
    for axis_row, score in zip(axes, SCORES, strict=True):
        for axis, metric in zip(axis_row, METRICS, strict=True):
            field = f"{metric}_{score}"
            for number, method in enumerate(results.methods):
                for granularity, style in zip(GRANULARITIES, ("--", "-"), strict=True):
                    curve = results.select(clipping=method, granularity=granularity)
                    values = {row["bits"]: row[field] for row in curve}
                    axis.plot(
                        labels,
                        [values[bits] for bits in results.bits],
                        style,
                        color=f"C{number}",
                        label=f"{method}, {granularity.removeprefix('per_')}",
                    )
            axis.axhline(results.full[field], color="black", linewidth=0.8)
            if (ceiling := results.full.get(f"{field}_ceiling")) is not None:
                axis.axhline(ceiling, color="black", linestyle=":", linewidth=0.8)
            axis.set_title(f"{TITLES[metric]} {score}")
            axis.grid(alpha=0.3)
            axis.set_ylim(0, 1.02)
    for axis in axes[-1]:
        axis.set_xlabel("bits (black: full precision, dotted: ceiling)")
    figure.suptitle(results.name)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=8, fontsize=7)
    return figure


def write_csv(path: Path, rows: list[Row]) -> None:
    """Writes the numbers of all rows."""
    scores = [f"{m}_{s}{end}" for m in METRICS for s in SCORES for end in ("", "_ceiling")]
    fields = ["generator", "bits", "clipping", "granularity", "bytes", *scores]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fields, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def machine() -> str:
    """What the numbers were computed on."""
    return (
        f"{os.cpu_count()} × {processor()}, {jax.devices()[0].device_kind}, Python "
        f"{platform.python_version()}, JAX {jax.__version__}"
    )


def main() -> None:
    """Runs the sweep and writes the findings."""
    args = parse()
    checkpoints.quiet_libraries()
    try:
        rows = sweep.measure_all(get_config(args), args.workdir)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    everything = [
        Results([row for row in rows if row["generator"] == name])
        for name in unique(rows, "generator")
    ]
    titles = [TITLES[metric] for metric in METRICS]
    first = rows[0]
    parts = [
        "# Clipping methods, widths and grids\n",
        f"n = m = {args.num}, {first['features']['name']} at {args.side} pixels, k = {first['k']}, "
        f"seed 0; {machine()}. {sum(sum(row['seconds'].values()) for row in rows):.0f} s.\n",
        "".join(line for results in everything for line in summary(results)),
        "Best method by the worse kept share of precision and recall; methods within "
        f"{CLOSE:.0%} of it are named too, and what no clipping keeps:\n",
        markdown(
            ["generator", "per", "bits", *titles],
            [line for results in everything for line in winners(results)],
        ),
        "Mean kept share of precision / recall over all methods and grids, and in how many of the "
        "settings that lose 5 % or more recall falls more than precision:\n",
        markdown(
            ["generator", "bits", *titles],
            [line for results in everything for line in holding(results)],
        ),
        *(table for results in everything for table in score_tables(results)),
    ]
    args.out.mkdir(parents=True, exist_ok=True)
    text = "\n".join(parts)
    (args.out / "compression.md").write_text(text)
    write_csv(args.out / "compression.csv", rows)
    for results in everything:
        figure = plot(results)
        figure.savefig(args.out / f"compression_{results.name}.png", dpi=120, bbox_inches="tight")
    print(text)


if __name__ == "__main__":
    main()
