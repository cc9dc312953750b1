"""The pictures of the study: one function per claim, each returns a figure."""

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.study_outliers import METRICS
from lsh_gan.results import plots
from lsh_gan.results.answer import NOISE
from lsh_gan.results.labels import SCORES, TITLES

STYLE = plots.STYLE | {"axes.grid": True, "grid.alpha": 0.3}


def _with_legend(figure, axis):
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def plot_distances(found):
    """Plots FID against each score by KNN, relative to full precision: one dot per setting."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axis, score in zip(figure.subplots(1, 2, sharey=True), SCORES, strict=True):
        for number, (generator, mine) in enumerate(found.groupby("generator", sort=False)):
            full = mine[mine["bits"].isna()][[score, "FID"]].mean()
            axis.plot(
                100 * mine[score] / full[score], mine["FID"] / full["FID"],
                plots.MARKERS[number], markersize=3, alpha=0.7, label=generator,
            )  # fmt: skip
        axis.set_yscale("log")
        axis.set(xlabel=f"{score} by KNN, % kept", ylabel="FID over that of full precision")
    axis.label_outer()
    return _with_legend(figure, axis)


def plot_kept(frame):
    """Plots kept precision and recall against bits, one panel per generator, with two errors."""
    panels = frame[["data", "generator"]].drop_duplicates().to_numpy().tolist()
    lines = -(-len(panels) // 3)
    figure = Figure(figsize=(9, 0.6 + 2.8 * lines), layout="constrained")
    axes = figure.subplots(lines, 3, sharey=True, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (data, generator) in zip(axes.flat, panels, strict=False):
        mine = frame[(frame["generator"] == generator) & (frame["data"] == data)]
        mine = mine[mine["clipping"] == "mse"]
        for number, (metric, line) in enumerate(mine.groupby("metric", sort=False)):
            line = line.sort_values("bits")
            for score in SCORES:
                axis.errorbar(
                    line["bits"] + 0.08 * (number - 1), 100 * line[f"{score}_kept"],
                    100 * NOISE * line[f"{score}_stderr"], color=f"C{number}",
                    linestyle=plots.LINES[score], marker="o", markersize=3, capsize=2,
                    label=f"{TITLES[metric]} {score}",
                )  # fmt: skip
        axis.axhline(100, color="grey", linewidth=0.6)
        axis.set(title=f"{generator}\n({data})", xlabel="bits", ylim=(0, 125))
        axis.invert_xaxis()
    figure.supylabel("% kept of full precision")
    return _with_legend(figure, axes[0, 0])


def plot_outliers(found):
    """Plots what outliers change, in points: one dot per generator, width and metric."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    labels = {
        "recall": "recall without the generator's own outliers\n(minus without as many others)",
        "precision": "precision with 1 % of broad outliers\nin the reference (minus without)",
    }
    widths_found = ["full", *sorted(found["bits"].dropna().astype(int).unique(), reverse=True)]
    at = found["bits"].map(lambda bits: 0 if pd.isna(bits) else widths_found.index(int(bits)))
    for axis, score in zip(figure.subplots(1, 2), reversed(SCORES), strict=True):
        for number, metric in enumerate(METRICS):
            mine = found["metric"] == metric
            axis.errorbar(
                at[mine] + 0.2 * (number - 1) + 0.03 * (np.arange(mine.sum()) % 5 - 2),
                100 * found.loc[mine, f"{score}_change"],
                100 * NOISE * found.loc[mine, f"{score}_stderr"],
                fmt=plots.MARKERS[number], markersize=4, capsize=2, label=TITLES[metric],
            )  # fmt: skip
        axis.axhline(0, color="grey", linewidth=0.6)
        axis.set(title=labels[score], ylabel="change in points", xlabel="bits")
        axis.set_xticks(range(len(widths_found)), widths_found)
        axis.grid(visible=False, axis="x")
    return _with_legend(figure, axis)


def plot_gain(frame):
    """Plots what clipping changes at each width, in % by KNN: median and range over generators."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    clipped = frame[(frame["clipping"] != "none") & (frame["metric"] == "knn")]
    for axis, score in zip(figure.subplots(1, 2), SCORES, strict=True):
        for number, (clipping, mine) in enumerate(clipped.groupby("clipping", sort=False)):
            gain = 100 * (mine[f"{score}_gain"].replace(math.inf, np.nan) - 1)
            found = gain.groupby(mine["bits"]).agg(["median", "min", "max"])
            ends = [found["median"] - found["min"], found["max"] - found["median"]]
            axis.errorbar(
                found.index + 0.2 * (number - 1), found["median"], ends,
                fmt=plots.MARKERS[number], markersize=4, capsize=2, label=clipping,
            )  # fmt: skip
        axis.axhline(0, color="grey", linewidth=0.6)
        axis.set_yscale("symlog", linthresh=10)
        axis.margins(y=0.1)
        axis.set_yticks([-100, -10, 0, 10, 100, 1000], ["−100", "−10", "0", "10", "100", "1,000"])
        axis.set(title=f"{score}, KNN", xlabel="bits", ylabel="change by clipping, %")
        axis.invert_xaxis()
        axis.grid(visible=False, axis="x")
    return _with_legend(figure, axis)


def plot_networks(both):
    """Plots kept scores in the features of two networks, one dot per setting."""
    figure = Figure(figsize=(7, 3.7), layout="constrained")
    for axis, score in zip(figure.subplots(1, 2), SCORES, strict=True):
        for number, metric in enumerate(METRICS):
            mine = both[both["metric"] == metric]
            axis.plot(
                100 * mine[f"{score}_kept"], 100 * mine[f"{score}_kept_other"],
                plots.MARKERS[number], markersize=3, alpha=0.6, label=TITLES[metric],
            )  # fmt: skip
        axis.axline((0, 0), slope=1, color="grey", linewidth=0.6)
        axis.set(title=f"{score}, % kept", xlabel="EfficientNet-Lite0", ylabel="EfficientNet-Lite2")
    return _with_legend(figure, axis)


def plot_widths(found):
    """Plots the smallest width by each metric, one line per generator."""
    figure = Figure(figsize=(6, 0.9 + 0.4 * len(found)), layout="constrained")
    axis = figure.subplots()
    for number, metric in enumerate(METRICS):
        axis.plot(
            found[metric], np.arange(len(found)) + 0.18 * (number - 1), plots.MARKERS[number],
            label=TITLES[metric],
        )  # fmt: skip
    axis.set_yticks(range(len(found)), found["generator"])
    axis.set_xticks([0, *range(2, 9)], ["none", *range(2, 9)])
    axis.set(xlabel="smallest width that keeps 95 %, bits", ylim=(-0.5, len(found) - 0.5))
    axis.invert_yaxis()
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
