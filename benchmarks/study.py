"""The paper's claims, tried on every generator of `configs/study.py`, with paired intervals.

    python -m benchmarks.study [--data=fashion_mnist,mnist] [--num_images=5000] [--seeds=0,1,2]
        [--runs=runs/study] [--network] [--out=benchmarks/results]

Runs what is missing of each data set (a run that dies goes on where it was), and writes study.md,
study.csv and a picture a claim. --network also runs Fashion-MNIST in the features of
`efficientnet_lite2`. --report_only draws what the work folders hold.

An interval is two standard errors of the paired difference (`lsh_gan.results.answer`).
"""

import argparse
import math
import platform
from pathlib import Path

import jax
import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks import machine
from benchmarks.options import names
from configs import study
from lsh_gan.experiment import sweep
from lsh_gan.results import plots, report, store
from lsh_gan.results.answer import answers, retention
from lsh_gan.results.labels import SCORES, TITLES

METRICS = ("knn", "lsh_knn", "lsh")
LOW = (4, 3, 2)  # bits


def arguments():
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=",".join(study.GENERATORS))
    parser.add_argument("--num_images", type=int, default=5_000, help="n and m")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--runs", type=Path, default=Path("runs/study"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--network", action="store_true", help="claim (e)")
    parser.add_argument("--report_only", action="store_true")
    return parser.parse_args()


def configuration(name, args, network="efficientnet_lite0"):
    """The configuration of a data set."""
    config = study.get_config(name)
    config.num_samples = config.reference.num_images = args.num_images
    config.seeds = tuple(map(int, args.seeds.split(",")))
    config.features.name = network
    return config


def read(workdir):
    """Rows of a work folder, and their hits."""
    rows = store.read_requested(workdir)
    return rows, {row["row_hash"]: store.read_hits(workdir, row["row_hash"]) for row in rows}


def compare(data, rows, hits):
    """One line a generator, clipping, width and metric: what is kept of full precision.

    `gain` is the share kept of the same width without clipping.
    """
    groups = {}
    for row in rows:
        groups.setdefault((row["generator"], row["clipping"], row["bits"]), []).append(row)
    lines = []
    for (generator, clipping, bits), group in groups.items():
        if bits is None:
            continue
        full, plain = groups[generator, None, None], groups[generator, "none", bits]
        for metric in METRICS:
            line = {"data": data, "generator": generator, "clipping": clipping, "bits": bits}
            line |= {"metric": metric}
            for score in SCORES:
                line[score] = np.mean([row[f"{metric}_{score}"] for row in group])
                kept = retention(group, full, metric, score, hits)
                gain = retention(group, plain, metric, score, hits)
                line |= {f"{score}_kept": kept.share, f"{score}_stderr": kept.stderr}
                line |= {f"{score}_gain": gain.share, f"{score}_gain_stderr": gain.stderr}
            lines.append(line)
    return lines


def verdict_a(frame):
    """(a) low-bit compression keeps precision and loses recall."""
    low = frame[frame["bits"].isin(LOW)]
    gap = low["precision_kept"] - low["recall_kept"]
    noise = 2 * np.hypot(low["precision_stderr"], low["recall_stderr"])
    table = low.assign(
        recall=gap > noise, quality=gap < -noise, keeps=low["precision_kept"] > 0.9
    ).groupby(["metric", "bits"])[["recall", "quality", "keeps"]]
    counts = table.sum().assign(of=table.size()).sort_index(ascending=[True, False])
    share, keeps = (gap > noise).mean(), (low["precision_kept"] > 0.9).mean()
    text = (
        f"Recall falls more than precision in {share:.0%} of the settings of 4 to 2 bits (by more "
        f"than two paired standard errors), precision more than recall in "
        f"{(gap < -noise).mean():.0%}; more than 90 % of precision is kept in {keeps:.0%}."
    )
    return text, counts.reset_index()


def verdict_d(frame):
    """(d) clipping helps."""
    clipped = frame[frame["clipping"] != "none"]
    lines = []
    for (clipping, bits), mine in clipped.groupby(["clipping", "bits"]):
        line = {"clipping": clipping, "bits": bits, "of": len(mine)}
        for score in SCORES:
            change = mine[f"{score}_gain"] - 1
            noise = 2 * mine[f"{score}_gain_stderr"]
            line |= {f"{score} better": int((change > noise).sum())}
            line |= {f"{score} worse": int((change < -noise).sum())}
            line |= {f"{score} mean": f"{100 * change.replace(math.inf, np.nan).mean():+.1f} %"}
        lines.append(line)
    table = pd.DataFrame(lines).sort_values(["clipping", "bits"], ascending=[True, False])
    both = table["recall better"] + table["precision better"]
    worse = table["recall worse"] + table["precision worse"]
    helps = table[both > 2 * worse].groupby("clipping")["bits"].max()
    said = ", ".join(f"{name} from {bits} bits down" for name, bits in helps.items()) or "no method"
    text = (
        "Clipping pays (better in more than twice as many scores as worse, by more than two paired "
        f"standard errors): {said}."
    )
    return text, table


def verdict_f(folders):
    """(f) the metrics agree on the smallest width that keeps 95 %."""
    lines, equal, close = [], 0, 0
    for data, (rows, hits) in folders.items():
        found = report.summarise(rows, list(METRICS), hits)
        for generator, mine in found.groupby("generator", sort=False):
            line = {"data": data, "generator": generator}
            widths = []
            for metric in METRICS:
                kept = mine[mine["setting"] != ""]
                shares = kept[[f"{metric}_{s}_kept" for s in SCORES]].to_numpy()
                errors = kept[[f"{metric}_{s}_kept_stderr" for s in SCORES]].fillna(0).to_numpy()
                good = kept[(shares + errors >= 0.95).all(axis=1)]
                width = int(good["bits"].astype(int).min()) if len(good) else 0
                widths.append(width)
                line[TITLES[metric]] = f"{width} bits" if width else "none"
            equal += len(set(widths)) == 1
            close += max(widths) - min(widths) <= 1 and min(widths) > 0
            lines.append(line)
    text = (
        f"KNN, LSH+KNN and LSH name the same smallest width for {equal} of {len(lines)} "
        f"generators, and widths at most one bit apart for {close}."
    )
    return text, pd.DataFrame(lines)


def plot_kept(frame):
    """Kept precision and recall against bits, a panel a generator, with two standard errors."""
    generators = frame[["data", "generator"]].drop_duplicates().to_numpy().tolist()
    figure = Figure(figsize=(3.2 * len(generators), 5.4), layout="constrained")
    axes = figure.subplots(2, len(generators), sharex=True, sharey="row", squeeze=False)
    for column, (data, generator) in enumerate(generators):
        mine = frame[(frame["generator"] == generator) & (frame["data"] == data)]
        mine = mine[mine["clipping"] == "mse"]
        for row, score in enumerate(SCORES):
            axis = axes[row, column]
            for metric, line in mine.groupby("metric", sort=False):
                line = line.sort_values("bits")
                axis.errorbar(
                    line["bits"], line[f"{score}_kept"], 2 * line[f"{score}_stderr"],
                    marker="o", markersize=3, capsize=2, label=TITLES[metric],
                )  # fmt: skip
            axis.axhline(1, color="grey", linewidth=0.6)
            axis.grid(alpha=0.3)
            axis.set_ylim(bottom=0)
            if row == 0:
                axis.set_title(f"{generator}\n({data})", fontsize=9)
            else:
                axis.set_xlabel("bits")
                axis.invert_xaxis() if column == 0 else None
        axes[0, 0].set_ylabel("kept precision")
        axes[1, 0].set_ylabel("kept recall")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def plot_gain(frame):
    """What clipping changes at each width: paired, in per cent, mean over generators."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axis, score in zip(figure.subplots(1, 2, sharey=True), SCORES, strict=True):
        clipped = frame[(frame["clipping"] != "none") & (frame["metric"] == "knn")]
        for number, (clipping, mine) in enumerate(clipped.groupby("clipping", sort=False)):
            found = mine.groupby("bits")[f"{score}_gain"].median()
            axis.bar(found.index + 0.25 * (number - 1), 100 * (found - 1), 0.25, label=clipping)
        axis.set_title(f"{score}, KNN: change by clipping, % (median over generators)", fontsize=9)
        axis.set_xlabel("bits")
        axis.invert_xaxis()
        axis.grid(axis="y", alpha=0.3)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def markdown(table):
    """A table of Markdown."""
    cells = [list(map(str, table.columns)), ["---"] * table.shape[1]]
    cells += [[f"{x:.3g}" if isinstance(x, float) else str(x) for x in row] for row in table.values]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def main():
    """Runs what is missing and writes the verdicts."""
    args = arguments()
    chosen = names("data", args.data, study.GENERATORS)
    wanted = {name: ("efficientnet_lite0", name) for name in chosen}
    if args.network:
        wanted["fashion_mnist, efficientnet_lite2"] = ("efficientnet_lite2", "fashion_mnist")
    folders = {}
    for title, (network, name) in wanted.items():
        workdir = args.runs / title.replace(", ", "_")
        if not args.report_only:
            sweep.run(configuration(name, args, network), workdir)
        folders[title] = read(workdir)
    lines = [line for title, found in folders.items() for line in compare(title, *found)]
    frame = pd.DataFrame(lines)
    args.out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(args.out / "study.csv", index=False, float_format="%.4g")
    others = frame["data"].str.contains(", ")
    parts = [("a", *verdict_a(frame[~others])), ("d", *verdict_d(frame[~others]))]
    if others.any():
        text_a, table_a = verdict_a(frame[others])
        text_d, _ = verdict_d(frame[others])
        parts.append(("e", f"In the features of EfficientNet-Lite2: {text_a} {text_d}", table_a))
    plain = {title: found for title, found in folders.items() if ", " not in title}
    parts.append(("f", *verdict_f(plain)))
    rows = [row for found, _ in folders.values() for row in found]
    head = (
        f"n = m = {args.num_images:,}, seeds {args.seeds}, {len(rows)} rows. "
        f"{machine.processor()}, {platform.python_version()}, JAX {jax.__version__}."
    )
    text = ["## Study", head]
    for claim, verdict, table in parts:
        text += [f"### ({claim}) {verdict}", markdown(table)]
    text.append("### Answers")
    for found, hits in plain.values():
        summary = report.summarise(found, list(METRICS), hits)
        text += [f"- {line}" for line in answers(summary, list(METRICS), 0.95)]
    (args.out / "study.md").write_text("\n\n".join(text) + "\n")
    with mpl.rc_context(plots.STYLE):
        plots.save(plot_kept(frame[~others]), args.out / "study_kept")
        plots.save(plot_gain(frame[~others]), args.out / "study_clipping")
    print("\n\n".join(text))


if __name__ == "__main__":
    main()
