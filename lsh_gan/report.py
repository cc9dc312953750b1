"""From rows to a table, plots and sample grids; computes no measurement.

Command: `python -m lsh_gan.report WORKDIR`.
"""

import csv
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table

from lsh_gan import rows

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

TITLES = {"knn": "KNN", "lsh_knn": "LSH+KNN", "lsh": "LSH"}
WIDTH = 140  # columns of a table that goes to a file
Row = dict[str, Any]


def write(workdir: Path) -> None:
    """Writes `table.csv`, `table.md` and the pictures of `workdir`, and prints the table.

    Raises:
        ValueError: There are no rows, or they are damaged.
        FileNotFoundError: `workdir` is not a work folder.
    """
    config = rows.read_config(workdir)
    measured = rows.read(workdir)
    if not measured:
        raise ValueError(f"{workdir / rows.ROWS_FILE}: there are no rows to report")
    measured = ordered(measured)
    metrics = config["metrics"]
    _write_csv(workdir / "table.csv", measured, metrics)
    table = make_table(measured, metrics)
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)
    with (workdir / "table.md").open("w") as file:
        table.box = box.MARKDOWN
        table.title = None
        Console(file=file, width=WIDTH).print(table)
    swept = [row for row in measured if "bytes" in row]
    if swept:
        with plt.rc_context({"font.size": 9, "figure.dpi": 150, "savefig.bbox": "tight"}):
            plot_against_bits(swept, metrics).savefig(workdir / "precision_recall.png")
            plot_tradeoff(swept, metrics).savefig(workdir / "tradeoff.png")
            plot_size(swept, metrics).savefig(workdir / "size_recall.png")
            for name in _unique(swept, "generator"):
                grid = plot_samples(workdir, [row for row in swept if row["generator"] == name])
                grid.savefig(workdir / f"samples_{name}.png")
        plt.close("all")


def ordered(measured: list[Row]) -> list[Row]:
    """Sorts rows by generator, falling bits, setting (both as first measured) and seed."""
    names = _unique(measured, "generator")
    settings = list(dict.fromkeys(map(_setting, measured)))
    return sorted(
        measured,
        key=lambda row: (
            names.index(row["generator"]),
            -(row["bits"] or 99),
            settings.index(_setting(row)),
            row["seed"],
        ),
    )


def _unique(measured: list[Row], field: str) -> list[Any]:
    return list(dict.fromkeys(row[field] for row in measured))


def _setting(row: Row) -> str:
    """Names what one curve has in common; "" at full precision, where all curves begin."""
    if row["bits"] is None:
        return ""
    clipping = "no" if row["clipping"] == "none" else row["clipping"]
    return f"{clipping} clipping, {row['granularity']} {row['scheme']}"


def _short(setting: str, curves: dict[str, Any]) -> str:
    """Leaves out the grid where all curves have the same."""
    clipping, _, grid = setting.partition(", ")
    return clipping if all(other.endswith(grid) for other in curves) else setting


def _relative(row: Row, metric: str, score: str) -> float | None:
    """The score divided by its ceiling, or None."""
    ceiling = row.get(f"{metric}_{score}_ceiling")
    return row[f"{metric}_{score}"] / ceiling if ceiling else None


def _write_csv(path: Path, measured: list[Row], metrics: list[str]) -> None:
    flat = []
    for row in measured:
        plain = {k: v for k, v in row.items() if not isinstance(v, dict | list)}
        for metric in metrics:
            for score in ("precision", "recall"):
                plain[f"{metric}_{score}_relative"] = _relative(row, metric, score)
        plain |= {f"seconds_{k}": v for k, v in row["seconds"].items()}
        flat.append(plain)
    fields = dict.fromkeys(field for row in flat for field in row)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(fields))
        writer.writeheader()
        writer.writerows(flat)


def make_table(measured: list[Row], metrics: list[str]) -> Table:
    """Lays out rows as a table: precision / recall by metric, each generator under its ceiling."""
    first = measured[0]
    title = f"precision / recall, n = {first['n']}, {first['features']['name']}"
    table = Table(title=title, box=box.SIMPLE_HEAVY)
    for column in ("generator", "bits", "clipping", "grid"):
        table.add_column(column, overflow="fold")
    for column in ("bytes", "ratio", *(TITLES[metric] for metric in metrics)):
        table.add_column(column, justify="right", no_wrap=True)
    generator = None
    for row in measured:
        if row["generator"] != generator:
            generator = row["generator"]
            cells = [_pair(row, metric, "_ceiling") for metric in metrics]
            table.add_row("ceiling", "", "", "", "", "", *cells)
        grid = "" if row["bits"] is None else f"{row['granularity']}, {row['scheme']}"
        table.add_row(
            generator,
            str(row["bits"] or "full"),
            row["clipping"] or "",
            grid,
            f"{row['bytes']:,}" if "bytes" in row else "",
            f"{row['ratio']:.1f}" if "ratio" in row else "",
            *(_pair(row, metric, "") for metric in metrics),
        )
    return table


def _pair(row: Row, metric: str, suffix: str) -> str:
    pair = [row.get(f"{metric}_{score}{suffix}") for score in ("precision", "recall")]
    return " / ".join("–" if value is None else f"{value:.3f}" for value in pair)


def _curves(measured: list[Row]) -> dict[str, list[Row]]:
    """Rows of each setting by falling bits, each curve beginning at full precision."""
    full = [row for row in measured if row["bits"] is None]
    settings = list(dict.fromkeys(_setting(row) for row in measured if row["bits"] is not None))
    if not settings:
        return {"full precision": full}
    return {s: full + [row for row in measured if _setting(row) == s] for s in settings}


def _label(row: Row) -> str:
    return "full" if row["bits"] is None else str(row["bits"])


def _by_bits(curve: list[Row], field: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Labels of the widths, and mean and standard deviation of `field` over the seeds."""
    groups: dict[str, list[float]] = {}
    for row in curve:
        groups.setdefault(_label(row), []).append(row[field])
    values = [np.asarray(group) for group in groups.values()]
    return list(groups), np.array([v.mean() for v in values]), np.array([v.std() for v in values])


def _axes(measured: list[Row], metrics: list[str]) -> tuple[plt.Figure, np.ndarray, list[str]]:
    names = _unique(measured, "generator")
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
    """Precision and recall against the bit width, with the ceilings of the metric."""
    figure, axes, names = _axes(measured, metrics)
    colors = {"precision": "tab:blue", "recall": "tab:orange"}
    styles = ["-", "--", ":", "-."]
    for row, name in zip(axes, names, strict=True):
        mine = [r for r in measured if r["generator"] == name]
        for axis, metric in zip(row, metrics, strict=True):
            curves = _curves(mine)
            for style, (setting, curve) in zip(styles * 9, curves.items(), strict=False):
                for score, color in colors.items():
                    labels, mean, deviation = _by_bits(curve, f"{metric}_{score}")
                    line = {"color": color, "linestyle": style, "marker": "o", "markersize": 3}
                    label = f"{score}, {_short(setting, curves)}"
                    axis.errorbar(labels, mean, deviation, label=label, **line)
            for score, color in colors.items():
                ceiling = mine[0].get(f"{metric}_{score}_ceiling")
                if ceiling is not None:
                    axis.axhline(ceiling, color=color, alpha=0.5, linewidth=1)
            axis.set_ylim(0, 1.02)
    for axis in axes[-1]:
        axis.set_xlabel("bits (thin lines: ceilings)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def plot_tradeoff(measured: list[Row], metrics: list[str]) -> plt.Figure:
    """The path of (recall, precision) through the bit widths."""
    figure, axes = _plot_paths(measured, metrics, x="{}_recall", y="{}_precision", xlim=(0, 1.02))
    for axis in axes[:, 0]:
        axis.set_ylabel("precision (quality)")
    for axis in axes[-1]:
        axis.set_xlabel("recall (diversity)")
    return figure


def plot_size(measured: list[Row], metrics: list[str]) -> plt.Figure:
    """Recall against the size of the packed file."""
    figure, axes = _plot_paths(measured, metrics, x="bytes", y="{}_recall", scale="log")
    for axis in axes.flat:
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(EngFormatter("B"))
    for axis in axes[:, 0]:
        axis.set_ylabel("recall (diversity)")
    for axis in axes[-1]:
        axis.set_xlabel("size on disk")
    return figure


def _plot_paths(
    measured: list[Row],
    metrics: list[str],
    *,
    x: str,
    y: str,
    xlim: tuple[float | None, float | None] = (None, None),
    scale: str = "linear",
) -> tuple[plt.Figure, np.ndarray]:
    """Draws field `y` against field `x` ("{}" stands for the metric), a path through the widths."""
    figure, axes, names = _axes(measured, metrics)
    for row, name in zip(axes, names, strict=True):
        curves = _curves([r for r in measured if r["generator"] == name])
        for axis, metric in zip(row, metrics, strict=True):
            points: list[tuple[str, float, float]] = []
            for setting, curve in curves.items():
                labels, xs, _ = _by_bits(curve, x.format(metric))
                _, ys, _ = _by_bits(curve, y.format(metric))
                axis.plot(xs, ys, "o-", markersize=3, label=_short(setting, curves))
                points += zip(labels, xs, ys, strict=True)
            axis.set_ylim(0, 1.02)
            axis.set_xscale(scale)
            axis.margins(x=0.1)
            axis.set_xlim(*xlim)
            _annotate(axis, points)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure, axes


def _annotate(axis: plt.Axes, points: list[tuple[str, float, float]]) -> None:
    """Labels the points of curves, but for those that lie on one that has a label."""
    taken: list[np.ndarray] = []
    for label, *point in points:
        place = axis.transData.transform(point)
        if all(np.abs(place - other).max() > 12 for other in taken):
            taken.append(place)
            axis.annotate(label, point, fontsize=7, xytext=(3, 3), textcoords="offset points")


def plot_samples(workdir: Path, measured: list[Row]) -> plt.Figure:
    """The same latents at every width: one column of strips a setting, one strip a width."""
    curves = _curves([row for row in measured if row["seed"] == measured[0]["seed"]])
    strips = {
        (setting, _label(row)): Image.open(workdir / "samples" / f"{row['row_hash']}.png")
        for setting, curve in curves.items()
        for row in curve
    }
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
        axes[0, column].set_title(_short(setting, curves))
        for line, label in enumerate(labels):
            if (setting, label) in strips:
                axes[line, column].imshow(
                    strips[setting, label], cmap="gray", vmin=0, vmax=255, interpolation="nearest"
                )
            axes[line, 0].set_ylabel(label, rotation=0, ha="right", va="center")
    return figure


def main(arguments: list[str]) -> int:
    """Runs the command line; returns the exit code."""
    if len(arguments) != 1:
        print("usage: python -m lsh_gan.report WORKDIR", file=sys.stderr)  # noqa: T201
        return 2
    try:
        write(Path(arguments[0]))
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
