"""Plots of a sweep over bit widths: returns figures, without the state of pyplot."""

import logging
import textwrap
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

from lsh_gan.results.answer import mean_and_error
from lsh_gan.results.labels import TITLES, setting_of, shorten, unique, width_label
from lsh_gan.results.store import Row

COLORS, MARKERS = mpl.color_sequences["petroff10"], "osD^vP*"
# Figures are drawn and saved inside `mpl.rc_context(STYLE)`.
STYLE: Any = {
    "font.size": 9,
    "figure.dpi": 150,
    "pdf.fonttype": 42,
    "legend.frameon": False,
    "legend.title_fontsize": "small",
    "axes.prop_cycle": cycler(color=COLORS),
}
# Otherwise each font of a PDF logs a page, and each axis of widths a line.
for _library in ("fontTools", "matplotlib.category"):
    logging.getLogger(_library).setLevel(logging.WARNING)
LINES = {"precision": "-", "recall": "--"}
FILLS = {"precision": "full", "recall": "none"}  # of markers; a single width has no lines


class View(NamedTuple):
    """What a figure shows."""

    title: str
    x: str  # a field of rows, with "{}" for the metric; "" means the width
    scores: tuple[str, ...]
    x_label: str
    y_label: str


VIEWS = {
    "precision_recall": View(
        "Precision and recall against bits, with their ceilings",
        "", ("precision", "recall"), "bits (thin lines: ceilings)", "precision, recall",
    ),
    "tradeoff": View(
        "The path of recall and precision through the bit widths",
        "{}_recall", ("precision",), "recall (diversity)", "precision (quality)",
    ),
    "size_recall": View(
        "Recall against the size on disk",
        "bytes", ("recall",), "size on disk", "recall (diversity)",
    ),
}  # fmt: skip


def write(output: Path, measured: list[Row], metrics: list[str]) -> dict[str, Figure]:
    """Writes the plots of a sweep to `output`, as PNG and PDF; returns them by name.

    Rows are those of whole generators; given samples have no curves and are left out. All metrics
    have precision and recall.
    """
    swept = [row for row in measured if "bytes" in row]
    names = list(VIEWS) if swept and metrics else []
    if not any(row["bits"] for row in swept):  # each curve is one point
        names = names[:2]
    figures = {name: plot(name, swept, metrics) for name in names}
    for name, figure in figures.items():
        save(figure, output / name)
    return figures


def save(figure: Figure, path: Path) -> None:
    """Saves a figure as PNG and as PDF; `path` is without the ending."""
    figure.savefig(path.with_name(f"{path.name}.png"))
    figure.set_layout_engine("none")  # keeps the layout of the PNG
    figure.savefig(path.with_name(f"{path.name}.pdf"), metadata={"CreationDate": None})


def curves_of(measured: list[Row]) -> dict[str, dict[str, list[Row]]]:
    """Groups the rows of one generator by setting, then by width, full precision first."""
    full = [row for row in measured if row["bits"] is None]
    settings = list(dict.fromkeys(setting_of(row) for row in measured if row["bits"] is not None))
    curves = {s: full + [row for row in measured if setting_of(row) == s] for s in settings}
    if not settings:
        kind = "as given" if "samples" in full[0] else "full precision"
        curves["packed" if all(row.get("packed") for row in full) else kind] = full
    return {
        setting: {
            label: [row for row in curve if width_label(row) == label]
            for label in dict.fromkeys(map(width_label, curve))
        }
        for setting, curve in curves.items()
    }


def conditions(measured: list[Row]) -> str:
    """Describes the conditions of rows: n, m, k, reference and features."""
    first = measured[0]
    name, features = first.get("reference_name"), first["features"]
    side = f" at {features['side']} px" if features.get("side") else ""
    sizes = " and ".join(f"{m:,}" for m in unique(measured, "m"))
    said = f"n = {first['n']:,}, m = {sizes}, " + (f"k = {first['k']}, " if "k" in first else "")
    said += (f"reference: {name}, " if name else "") + f"features: {features['name']}{side}"
    if any(row.get("packed") for row in measured) and any(row["bits"] for row in measured):
        said += "; full precision is the packed file as it is"
    return said.replace(" = ", "\u00a0=\u00a0")  # no line break there


def plot(name: str, measured: list[Row], metrics: list[str]) -> Figure:
    """Draws a view: a line of panels per generator, a column per metric, a colour per setting."""
    _, x, scores, x_label, y_label = VIEWS[name]
    names = unique(measured, "generator")
    figure = Figure(figsize=(3.4 * len(metrics), 2.9 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), len(metrics), squeeze=False)
    curves = {name: curves_of([r for r in measured if r["generator"] == name]) for name in names}
    settings = dict.fromkeys(setting for found in curves.values() for setting in found)
    looks: dict[str, dict[str, Any]] = {  # up to 70 different ones
        setting: {"color": color, "marker": marker, "markersize": 4}
        for setting, color, marker in zip(settings, cycle(COLORS), cycle(MARKERS), strict=False)
    }
    styles = {score: {"linestyle": LINES[score], "fillstyle": FILLS[score]} for score in LINES}
    for line, name in zip(axes, names, strict=True):
        for axis, metric in zip(line, metrics, strict=True):
            title = f"{name.replace('_', '_ ')}: {TITLES[metric]}"  # allows a line break there
            axis.set_title(textwrap.fill(title, 34).replace("_ ", "_"))
            axis.grid(alpha=0.3)
            for setting, widths in curves[name].items():
                xs, x_errors = np.array(list(widths)), None
                if x:
                    xs, x_errors = _along(widths, x.format(metric))
                for score in scores:
                    ys, y_errors = _along(widths, f"{metric}_{score}")
                    style = {} if x else styles[score]
                    axis.errorbar(
                        xs, ys, y_errors, x_errors, elinewidth=0.8, **looks[setting] | style
                    )
            for score in () if x else scores:
                ceiling = next(iter(widths.values()))[0].get(f"{metric}_{score}_ceiling")
                if ceiling is not None:
                    axis.axhline(ceiling, color="gray", linestyle=LINES[score], linewidth=0.8)
            if x == "bytes":
                axis.set_xscale("log")
                axis.xaxis.set_minor_locator(NullLocator())
                axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.xaxis.set_major_formatter(EngFormatter("B"))
            axis.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
            axis.margins(0.13, 0.1)  # the first one is room for labels of widths
            axis.set_ylim(_of_shares(*axis.get_ylim()))
            if x.endswith("recall"):
                axis.set_xlim(_of_shares(*axis.get_xlim()))
                axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    for axis in axes[-1]:
        axis.set_xlabel(x_label)
    for axis in axes[:, 0]:
        axis.set_ylabel(y_label)
    named = {shorten(setting, looks): look for setting, look in looks.items()}
    gray = {"color": "gray", "marker": "o", "markersize": 4}
    scored = {} if x else {score: gray | styles[score] for score in scores}
    bars = "; bars: standard error" if any(f.endswith("_stderr") for f in measured[0]) else ""
    if (seeds := len(unique(measured, "seed"))) > 1:
        bars = f"; means of {seeds} seeds, bars: their standard error"
    _legend(figure, scored | named, conditions(measured) + bars)
    if x:
        figure.draw_without_rendering()  # fixes the positions of points
        for line, name in zip(axes, names, strict=True):
            for axis in line:
                _label_widths(axis, [list(widths) for widths in curves[name].values()])
    return figure


def _of_shares(low: float, high: float) -> tuple[float, float]:
    """Limits an axis of shares to 0 to 1, with room for bars, and to a range of at least 0.01."""
    middle, half = (low + high) / 2, max((high - low) / 2, 0.005)
    return max(middle - half, -0.1), min(middle + half, 1.1)


def _along(widths: dict[str, list[Row]], field: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns means and standard errors of a field along a curve; None if all errors are 0."""
    means, errors = np.array([mean_and_error(group, field) for group in widths.values()]).T
    return means, errors if errors.any() else None


def _legend(figure: Figure, looks: dict[str, dict[str, Any]], title: str) -> None:
    """Adds a legend below the axes, and makes the figure higher so that they keep their size."""
    width, height = figure.get_size_inches()
    columns = max(1, int(width / (0.6 + 0.07 * max(map(len, looks)))))
    title = textwrap.fill(title, int(16 * width))
    lines = -(-len(looks) // columns) + title.count("\n") + 1
    figure.set_size_inches(width, height + 0.22 * lines)
    handles = [Line2D([], [], label=label, **look) for label, look in looks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, title=title)


def _label_widths(axis: Axes, labels: list[list[str]]) -> None:
    """Labels points beside their path, the ends first, where no path, bar or label is near."""
    compass = np.array([(x, y) for x in (1, 0, -1) for y in (1, 0, -1) if x or y])
    containers: list[Any] = axis.containers
    dpi, transform = axis.figure.dpi, axis.transData.transform
    curves = [container.lines[0] for container in containers]
    places = [transform(curve.get_xydata()) * 72 / dpi for curve in curves]
    lines: list[Any] = [pair for path in places for pair in pairwise(path)]
    for bars in (bars for container in containers for bars in container.lines[2]):
        lines += [transform(segment) * 72 / dpi for segment in bars.get_segments()]
    ink = np.concatenate([np.linspace(start, end, 50) for start, end in lines] or places)
    ink = np.column_stack([ink, np.full_like(ink, 1.0)])  # centres and half sizes, 1/72 inch
    labelled = np.empty((0, 2))
    for names, curve, path in zip(labels, curves, places, strict=True):
        points, last = curve.get_xydata(), len(names) - 1
        for i in sorted(range(last + 1), key=lambda i: (0 < i < last, -i)):
            if (points[i] == labelled).all(axis=1).any():
                continue  # full precision, where all curves begin
            along = path[min(i + 1, last)] - path[max(i - 1, 0)]
            half = np.array([2.2 * len(names[i]), 3.2])
            for side in sorted(compass, key=lambda side: abs(side @ along) / (side @ side)):
                offset = side * (half + 3)
                gaps = np.abs(ink[:, :2] - path[i] - offset) - ink[:, 2:] - half
                if (gaps > 0).any(axis=1).all():
                    ink = np.vstack([ink, [*path[i] + offset, *half]])
                    labelled = np.vstack([labelled, points[i]])
                    axis.annotate(
                        names[i], points[i], xytext=offset, textcoords="offset points",
                        fontsize=7, ha="center", va="center", color=curve.get_color(),
                    )  # fmt: skip
                    break
