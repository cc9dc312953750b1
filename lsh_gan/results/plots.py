"""Plots of a sweep over bit widths, and sample grids."""

import itertools
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from PIL import Image

from lsh_gan.results.labels import TITLES, setting_of, short, standard_error, unique, width_label
from lsh_gan.results.store import Row

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

STYLES = {"precision": "-", "recall": "--"}
MARKERS = "osD^vP*"


def _curves(measured: list[Row]) -> dict[str, list[Row]]:
    """Rows of each setting by falling bits, each curve beginning at full precision."""
    full = [row for row in measured if row["bits"] is None]
    settings = list(dict.fromkeys(setting_of(row) for row in measured if row["bits"] is not None))
    if not settings:
        return {"packed" if all(row.get("packed") for row in full) else "full precision": full}
    return {s: full + [row for row in measured if setting_of(row) == s] for s in settings}


def _by_bits(curve: list[Row], field: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Labels of the widths, and mean and standard error of `field` over the seeds."""
    groups: dict[str, list[float]] = {}
    for row in curve:
        groups.setdefault(width_label(row), []).append(row[field])
    means = [statistics.fmean(values) for values in groups.values()]
    errors = [standard_error(values) for values in groups.values()]
    return list(groups), np.array(means), np.array(errors)


def _looks(measured: list[Row]) -> dict[str, dict[str, Any]]:
    """Colour and marker of every setting: no two are alike up to 70, and those of all plots."""
    names = unique(measured, "generator")
    curves = [_curves([row for row in measured if row["generator"] == name]) for name in names]
    settings = dict.fromkeys(setting for found in curves for setting in found)
    return {
        setting: {"color": f"C{i % 10}", "marker": MARKERS[i % len(MARKERS)], "markersize": 4}
        for i, setting in enumerate(settings)
    }


def _named(looks: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same by what the legend says."""
    return {short(setting, looks): look for setting, look in looks.items()}


def _means(measured: list[Row]) -> str:
    """Says over how many seeds points are means; "" of one."""
    seeds = len(unique(measured, "seed"))
    return f"means of {seeds} seeds" if seeds > 1 else ""


def _legend(figure: plt.Figure, looks: dict[str, dict[str, Any]], title: str) -> None:
    """Adds a legend below the axes, which keep their size: the figure grows by its lines."""
    width, height = figure.get_size_inches()
    columns = max(1, int(width / (0.6 + 0.07 * max(map(len, looks)))))
    lines = -(-len(looks) // columns) + bool(title)
    figure.set_size_inches(width, height + 0.22 * lines)
    handles = [Line2D([], [], label=label, **look) for label, look in looks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, title=title)


def _axes(measured: list[Row], metrics: list[str]) -> tuple[plt.Figure, np.ndarray, list[str]]:
    names = unique(measured, "generator")
    figure, axes = plt.subplots(
        len(names), len(metrics), squeeze=False, sharex="row", sharey=True, layout="constrained",
        figsize=(3.4 * len(metrics), 2.9 * len(names)),
    )  # fmt: skip
    for row, name in zip(axes, names, strict=True):
        for axis, metric in zip(row, metrics, strict=True):
            axis.set_title(f"{name}: {TITLES[metric]}")
            axis.grid(alpha=0.3)
    return figure, axes, names


def plot_against_bits(measured: list[Row], metrics: list[str]) -> plt.Figure:
    """Precision and recall against the bit width, with the ceilings of the metric.

    A colour and marker a setting, as in the other plots; recall is dashed.
    """
    figure, axes, names = _axes(measured, metrics)
    looks = _looks(measured)
    for row, name in zip(axes, names, strict=True):
        mine = [r for r in measured if r["generator"] == name]
        for axis, metric in zip(row, metrics, strict=True):
            for setting, curve in _curves(mine).items():
                for score, style in STYLES.items():
                    labels, mean, error = _by_bits(curve, f"{metric}_{score}")
                    bars = error if error.any() else None
                    axis.errorbar(labels, mean, bars, linestyle=style, **looks[setting])
            for score, style in STYLES.items():
                ceiling = mine[0].get(f"{metric}_{score}_ceiling")
                if ceiling is not None:
                    axis.axhline(ceiling, color="gray", linestyle=style, linewidth=0.8)
            axis.set_ylim(0, 1.02)
    for axis in axes[:, 0]:
        axis.set_ylabel("precision, recall")
    for axis in axes[-1]:
        axis.set_xlabel("bits (thin lines: ceilings)")
    scores = {score: {"color": "black", "linestyle": style} for score, style in STYLES.items()}
    means = _means(measured)
    _legend(figure, scores | _named(looks), means and f"{means}, bars: their standard error")
    return figure


class _Path(NamedTuple):
    """One curve: the widths of its points, the points `[p, 2]`, and its colour."""

    labels: list[str]
    points: np.ndarray
    color: str


_Panels = list[tuple[plt.Axes, list[_Path]]]


def plot_tradeoff(measured: list[Row], metrics: list[str]) -> plt.Figure:
    """The path of (recall, precision) through the bit widths."""
    figure, axes, panels = _plot_paths(
        measured, metrics, x="{}_recall", y="{}_precision", xlim=(0, 1.02)
    )
    for axis in axes[:, 0]:
        axis.set_ylabel("precision (quality)")
    for axis in axes[-1]:
        axis.set_xlabel("recall (diversity)")
    _label_widths(figure, panels)
    return figure


def plot_size(measured: list[Row], metrics: list[str]) -> plt.Figure:
    """Recall against the size of the packed file."""
    figure, axes, panels = _plot_paths(measured, metrics, x="bytes", y="{}_recall", scale="log")
    for axis in axes.flat:
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(EngFormatter("B"))
    for axis in axes[:, 0]:
        axis.set_ylabel("recall (diversity)")
    for axis in axes[-1]:
        axis.set_xlabel("size on disk")
    _label_widths(figure, panels)
    return figure


def _plot_paths(
    measured: list[Row],
    metrics: list[str],
    *,
    x: str,
    y: str,
    xlim: tuple[float | None, float | None] = (None, None),
    scale: str = "linear",
) -> tuple[plt.Figure, np.ndarray, _Panels]:
    """Draws field `y` against field `x` ("{}" stands for the metric), a path through the widths."""
    figure, axes, names = _axes(measured, metrics)
    looks = _looks(measured)
    panels: _Panels = []
    for row, name in zip(axes, names, strict=True):
        mine = [r for r in measured if r["generator"] == name]
        for axis, metric in zip(row, metrics, strict=True):
            paths = []
            for setting, curve in _curves(mine).items():
                labels, xs, _ = _by_bits(curve, x.format(metric))
                _, ys, _ = _by_bits(curve, y.format(metric))
                axis.plot(xs, ys, clip_on=False, zorder=3, **looks[setting])  # 0 is on the frame
                paths.append(_Path(labels, np.column_stack([xs, ys]), looks[setting]["color"]))
            axis.set_ylim(0, 1.02)
            axis.set_xscale(scale)
            axis.margins(x=0.1)
            axis.set_xlim(*xlim)
            panels.append((axis, paths))
    _legend(figure, _named(looks), _means(measured))
    return figure, axes, panels


def _label_widths(figure: plt.Figure, panels: _Panels) -> None:
    """Labels the points of paths where there is room for it, their ends first."""
    figure.draw_without_rendering()  # settles where points lie
    for axis, paths in panels:
        places = [axis.transData.transform(path.points) * 72 / figure.dpi for path in paths]
        frame = np.array(axis.get_window_extent().get_points()) * 72 / figure.dpi
        room = _Room(frame, places)
        waiting = [
            (0 < i < len(path.points) - 1, -i, path, place[i])
            for path, place in zip(paths, places, strict=True)
            for i in range(len(path.points))
        ]
        for _, negative, path, place in sorted(waiting, key=lambda entry: entry[:2]):
            label, point = path.labels[-negative], path.points[-negative]
            offset = room.take(place, label)
            if offset is not None:
                axis.annotate(
                    label, point, xytext=offset, textcoords="offset points", fontsize=7,
                    ha="center", va="center", color=path.color,
                )  # fmt: skip


def _along(places: np.ndarray) -> np.ndarray:
    """Points `[q, 2]` at most 2 pt apart along a path through `places` `[p, 2]`."""
    parts = [places]
    for start, end in itertools.pairwise(places):
        steps = 1 + int(np.abs(end - start).max() / 2)
        parts.append(start + (end - start) * np.linspace(0, 1, steps + 1)[:, None])
    return np.concatenate(parts)


class _Room:
    """Where labels of 7 pt can stand in a frame `[2, 2]`, away from paths; all in pt.

    Args:
        frame: Its lower left and upper right corner.
        paths: Their points, each `[p, 2]`.
    """

    DIRECTIONS = ((1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1.3), (0, -1.3), (1.2, 0), (-1.2, 0))

    def __init__(self, frame: np.ndarray, paths: list[np.ndarray]):
        self._frame, self._points = frame, np.concatenate(paths)
        self._ink = np.concatenate([_along(path) for path in paths])
        self._labelled: list[np.ndarray] = []
        self._boxes: list[tuple[np.ndarray, np.ndarray]] = []

    def take(self, place: np.ndarray, label: str) -> np.ndarray | None:
        """Takes room for the label of a point; returns its centre, from the point, or None."""
        if any(np.abs(place - other).max() < 6 for other in self._labelled):
            return None
        half = np.array([2.3 * len(label), 3.0])
        offsets = [direction * (half + 2.5) for direction in self.DIRECTIONS]
        free = [offset for offset in offsets if self._is_free(place + offset, half)]
        if not free:
            return None
        offset = max(free, key=lambda offset: self._distance(place, place + offset))
        self._labelled.append(place)
        self._boxes.append((place + offset, half))
        return offset

    def _distance(self, place: np.ndarray, centre: np.ndarray) -> float:
        """From a label to the nearest other point, which it must not seem to belong to."""
        others = self._points[np.abs(self._points - place).max(axis=1) > 6]
        distances = np.linalg.norm(others - centre, axis=1)
        return min([*distances, 15.0])  # beyond it the order of the directions decides

    def _is_free(self, centre: np.ndarray, half: np.ndarray) -> bool:
        low, high = self._frame
        inside = (centre - half > low).all() and (centre + half < high).all()
        crossed = (np.abs(self._ink - centre) < half + 1).all(axis=1).any()
        taken = any((np.abs(centre - c) < half + h).all() for c, h in self._boxes)
        return bool(inside and not crossed and not taken)


def plot_samples(workdir: Path, measured: list[Row]) -> plt.Figure | None:
    """The same latents at every width: one column of strips a setting, one strip a width.

    Strips that are not in the work folder are left out; None where there is none.
    """
    curves = _curves([row for row in measured if row["seed"] == measured[0]["seed"]])
    files = {
        (setting, width_label(row)): workdir / "samples" / f"{row['row_hash']}.png"
        for setting, curve in curves.items()
        for row in curve
    }
    strips = {place: Image.open(file) for place, file in files.items() if file.is_file()}
    if not strips:
        return None
    labels = list(dict.fromkeys(label for _, label in strips))
    width, height = next(iter(strips.values())).size
    inches = 5.0
    figure, axes = plt.subplots(
        len(labels), len(curves), squeeze=False, layout="constrained",
        figsize=(inches * len(curves), 1.06 * inches * height / width * len(labels) + 0.4),
    )  # fmt: skip
    figure.get_layout_engine().set(h_pad=0.01, w_pad=0.04, hspace=0, wspace=0)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], frame_on=False)
    for column, setting in enumerate(curves):
        axes[0, column].set_title(short(setting, curves))
        for line, label in enumerate(labels):
            if (setting, label) in strips:
                axes[line, column].imshow(
                    strips[setting, label], cmap="gray", vmin=0, vmax=255, interpolation="nearest"
                )
            axes[line, 0].set_ylabel(label, rotation=0, ha="right", va="center")
    return figure
