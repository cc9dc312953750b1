"""Which clipping method is best at which width? Does quality hold while diversity falls?

    python -m benchmarks.compression [--num=2000] [--bits=8,7,6,5,4,3,2] [--side=64]
                                     [--generators=dcgan,sngan] [--workdir=runs/compression]
                                     [--out=benchmarks/results]

Runs the ordinary sweep over all clipping methods × widths × per tensor and per channel, symmetric,
and full precision: 226 rows for two generators. A stopped run continues; a finished one only writes
the results: `compression.md` (tables and findings), `compression.csv` and
`compression_GENERATOR.png`.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from benchmarks import machine, options
from benchmarks.written import markdown
from configs import default
from lsh_gan import compression
from lsh_gan.experiment import sweep
from lsh_gan.generators import checkpoints
from lsh_gan.results import store
from lsh_gan.results.labels import SCORES, TITLES

METRICS = ("knn", "lsh_knn", "lsh")
GRANULARITIES = ("per_tensor", "per_channel")
CLOSE = 0.01  # kept shares this close to the best are called equal: about one standard error


class Results:
    """Rows of one generator: `full` precision, and `swept` settings with their kept shares."""

    def __init__(self, name: str, rows: pd.DataFrame):
        self.name, self.full = name, rows[rows["bits"].isna()].iloc[0]
        swept = rows[rows["bits"].notna()].copy()
        swept["per"] = swept["granularity"].str.removeprefix("per_")
        for metric in METRICS:
            fields = [f"{metric}_{score}" for score in SCORES]
            # At most 1, because a score above full precision is not better.
            kept = (swept[fields] / self.full[fields]).astype(float).clip(upper=1).fillna(1)
            swept[[f"{field}_kept" for field in fields]] = kept
            swept[f"{metric}_kept"] = kept.min(axis=1)
        self.swept = swept.sort_values(["granularity", "bits"], ascending=False, kind="stable")

    def groups(self, *fields: str):
        """Groups settings by the values of some fields; per tensor first, largest width first."""
        return self.swept.groupby(list(fields), sort=False)


def score_tables(results: Results) -> Iterator[str]:
    """Yields precision / recall of every setting, one table per metric."""
    for metric in METRICS:
        fields = [f"{metric}_{score}" for score in SCORES]
        ceiling = [results.full.get(f"{field}_ceiling") for field in fields]
        shown = " / ".join("–" if pd.isna(value) else f"{value:.2f}" for value in ceiling)
        yield (
            f"**{results.name}, {TITLES[metric]}**, precision / recall; full precision "
            f"{_pair(results.full[fields], '.2f')}, ceiling {shown}\n"
        )
        lines = [
            [*names, *(_pair(pair, ".2f") for pair in group[fields].to_numpy())]
            for names, group in results.groups("per", "clipping")
        ]
        widths = (f"{bits} bits" for bits in results.swept["bits"].unique())
        yield markdown(["per", "clipping", *widths], lines)


def _pair(values, form: str) -> str:
    return " / ".join(f"{value:{form}}" for value in values)


def winners(results: Results) -> Iterator[list]:
    """Yields, per grid and width, the methods that keep most of the worse score, by each metric."""
    for (per, bits), group in results.groups("per", "bits"):
        line = [results.name, per, bits]
        for metric in METRICS:
            kept = group.set_index("clipping")[f"{metric}_kept"]
            close = kept.index[kept >= kept.max() - CLOSE]
            names = "all" if len(close) == len(kept) else ", ".join(close)
            line.append(f"{names}: {kept.max():.0%} (none: {kept['none']:.0%})")
        yield line


def holding(results: Results) -> Iterator[list]:
    """Yields kept precision and recall, means over the settings of a width, and a count."""
    for (bits,), group in results.groups("bits"):
        line = [results.name, bits]
        for metric in METRICS:
            kept = group[[f"{metric}_{score}_kept" for score in SCORES]].to_numpy()
            lost = kept[kept.min(axis=1) < 0.95]
            more = (lost[:, 1] < lost[:, 0]).sum()
            line.append(f"{_pair(kept.mean(axis=0), '.0%')} ({more} of {len(lost)})")
        yield line


def summary(results: Results) -> Iterator[str]:
    """Yields one sentence per metric, over settings that lose something but are not destroyed."""
    for metric in METRICS:
        kept = results.swept[[f"{metric}_{score}_kept" for score in SCORES]].to_numpy()
        lost = kept[(kept.min(axis=1) < 0.95) & (kept.max(axis=1) > 0.5)]
        if not len(lost):
            yield f"- {results.name}, {TITLES[metric]}: no setting loses 5 % of anything.\n"
            continue
        precision, recall = lost.mean(axis=0)
        more = (lost[:, 1] < lost[:, 0]).mean()
        yield (
            f"- {results.name}, {TITLES[metric]}: of {len(lost)} settings that lose 5 % or more "
            f"of a score and keep half of one, {more:.0%} lose more recall than precision; on "
            f"average they keep {precision:.0%} of precision and {recall:.0%} of recall.\n"
        )


def plot(results: Results) -> Figure:
    """Plots precision and recall against bits: one colour per method, dashed per tensor."""
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    axes = figure.subplots(2, len(METRICS), sharex=True, sharey=True)
    for axis_row, score in zip(axes, SCORES, strict=True):
        for axis, metric in zip(axis_row, METRICS, strict=True):
            field = f"{metric}_{score}"
            for number, ((method,), curves) in enumerate(results.groups("clipping")):
                for per, curve in curves.groupby("per", sort=False):
                    style, label = "--" if per == "tensor" else "-", f"{method}, {per}"
                    bits = curve["bits"].astype(str)
                    axis.plot(bits, curve[field], style, color=f"C{number}", label=label)
            axis.axhline(results.full[field], color="black", linewidth=0.8)
            if pd.notna(ceiling := results.full.get(f"{field}_ceiling")):
                axis.axhline(ceiling, color="black", linestyle=":", linewidth=0.8)
            axis.set(title=f"{TITLES[metric]} {score}", ylim=(0, 1.02))
            axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("bits (black: full precision, dotted: ceiling)")
    figure.suptitle(results.name)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=8, fontsize=7)
    return figure


def main() -> None:
    """Runs the sweep and writes the findings."""
    args = options.parse(
        __doc__, num=2_000, bits="8,7,6,5,4,3,2", side=64, generators="dcgan,sngan",
        workdir=Path("runs/compression"), out=Path("benchmarks/results"),
    )  # fmt: skip
    checkpoints.quiet_libraries()
    config = default.get_config()
    config.generators = tuple(args.generators.split(","))
    config.num_samples = config.reference.num_images = args.num
    config.features.side = args.side
    config.compression.bits = tuple(map(int, args.bits.split(",")))
    config.compression.clipping = tuple(compression.METHODS)
    config.compression.granularity = GRANULARITIES
    config.metrics = METRICS
    try:
        sweep.run(config, args.workdir)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    write(store.read_requested(args.workdir), args.out)


def write(rows: list[dict], out: Path) -> None:
    """Writes findings, numbers and plots of all rows."""
    frame = pd.DataFrame(rows)
    frame["bits"] = frame["bits"].astype("Int64")
    everything = [Results(name, mine) for name, mine in frame.groupby("generator", sort=False)]
    titles = [TITLES[metric] for metric in METRICS]
    first = rows[0]
    parts = [
        "# Clipping methods, widths and grids\n",
        f"n = m = {first['n']}, {first['features']['name']} at {first['features']['side']} pixels, "
        f"k = {first['k']}, seed 0; {machine.describe()}. "
        f"{sum(sum(row['seconds'].values()) for row in rows):.0f} s.\n",
        "".join(line for results in everything for line in summary(results)),
        "Best method by the worse kept share of precision and recall; methods within "
        f"{CLOSE:.0%} of it are named too. In parentheses: the share without clipping:\n",
        markdown(
            ["generator", "per", "bits", *titles],
            [line for results in everything for line in winners(results)],
        ),
        "Mean kept share of precision / recall over all methods and grids. In parentheses: in how "
        "many of the settings that lose 5 % or more recall falls more than precision:\n",
        markdown(
            ["generator", "bits", *titles],
            [line for results in everything for line in holding(results)],
        ),
        *(table for results in everything for table in score_tables(results)),
    ]
    out.mkdir(parents=True, exist_ok=True)
    text = "\n".join(parts)
    (out / "compression.md").write_text(text)
    scores = [f"{m}_{s}{end}" for m in METRICS for s in SCORES for end in ("", "_ceiling")]
    fields = ["generator", "bits", "clipping", "granularity", "bytes", *scores]
    frame.reindex(columns=fields).to_csv(out / "compression.csv", index=False)
    for results in everything:
        path = out / f"compression_{results.name}.png"
        plot(results).savefig(path, dpi=120, bbox_inches="tight")
    print(text)


if __name__ == "__main__":
    main()
