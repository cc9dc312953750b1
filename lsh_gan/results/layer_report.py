"""Layer by layer: what compression did to each tensor, and what it cost to compress it alone."""

import csv
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from lsh_gan.results import plots
from lsh_gan.results.labels import (
    SCORES,
    TITLES,
    bits_label,
    grid_label,
    print_and_save,
    setting_of,
    short,
    unique,
)
from lsh_gan.results.store import Row


class Damage(NamedTuple):
    """One layer that was compressed alone, means over the seeds.

    Attributes:
        generator: Name of the generator.
        layer: Path of the tensor.
        setting: Width and clipping ("4 bits, mse clipping"), and the grid where it varies.
        bits: Width label.
        grid: Granularity and scheme.
        tensor: Entry of the row's `tensors`.
        drops: "METRIC_SCORE" -> score at full precision minus score, absolute.
    """

    generator: str
    layer: str
    setting: str
    bits: str
    grid: str
    tensor: dict[str, Any]
    drops: dict[str, float]


def write(
    workdir: Path, measured: list[Row], metrics: list[str], whole: Table
) -> dict[str, Figure]:
    """Writes `layers.md` and `layers_GENERATOR.png`, prints the tables, returns the plots by name.

    Args:
        workdir: The work folder.
        measured: Rows of single layers, and of full precision with the same seeds.
        metrics: Names of the metrics; the plot shows LSH, or the first if there is no LSH.
        whole: Table of what is no single layer: ceilings, full precision and given samples.
    """
    damages = find_damages(measured, metrics)
    print_and_save(workdir / "layers.md", whole, make_table(damages, metrics))
    shown = "lsh" if "lsh" in metrics else metrics[0]
    figures = {
        f"layers_{name}": plot([d for d in damages if d.generator == name], shown)
        for name in dict.fromkeys(damage.generator for damage in damages)
    }
    for name, figure in figures.items():
        figure.legends[0].set_title(plots.conditions(measured))
        plots.save(figure, workdir / name)
    return figures


def write_csv(path: Path, measured: list[Row]) -> None:
    """Writes what happened to each compressed tensor, a line a tensor and row."""
    lines = [
        {"row_hash": row["row_hash"], "generator": row["generator"], **tensor}
        for row in measured
        for tensor in row.get("tensors", ())
    ]
    if lines:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)


def find_damages(measured: list[Row], metrics: list[str]) -> list[Damage]:
    """Compares every row of a single layer with full precision at the same seed.

    Returns:
        By generator and layer, in the order of the network.
    """
    full = {(row["generator"], row["seed"]): row for row in measured if row["bits"] is None}
    groups: dict[tuple, list[Row]] = {}
    alone = [row for row in measured if "layer" in row]
    settings = dict.fromkeys(map(setting_of, alone))
    for row in alone:
        bits = bits_label(row)
        label = f"{bits} bits, {short(setting_of(row), settings)}"
        key = (row["generator"], row["layer"], label, bits, grid_label(row))
        groups.setdefault(key, []).append(row)
    damages = []
    for key, group in groups.items():
        drops = {
            f"{metric}_{score}": float(
                np.mean(
                    [
                        full[row["generator"], row["seed"]][f"{metric}_{score}"]
                        - row[f"{metric}_{score}"]
                        for row in group
                    ]
                )
            )
            for metric in metrics
            for score in SCORES
        }
        damages.append(Damage(*key, group[0]["tensors"][0], drops))
    order = {name: _layers(alone, name) for name in unique(measured, "generator")}
    names = list(order)
    return sorted(
        damages, key=lambda d: (names.index(d.generator), order[d.generator].index(d.layer))
    )


def _layers(alone: list[Row], name: str) -> list[str]:
    """The layers of a generator from latents to images; as measured where that is unknown."""
    mine = [row for row in alone if row["generator"] == name]
    measured = unique(mine, "layer")
    if not mine or "family" not in mine[0]:
        return measured
    from lsh_gan.generators.order import network_order  # JAX, which other reports do not need

    known = network_order(mine[0]["family"], mine[0]["options"])
    return sorted(measured, key=known.index)


def make_table(damages: list[Damage], metrics: list[str]) -> Table:
    """One line a layer and setting: its tensor, and the drops of precision / recall.

    Grids are named where there are several.
    """
    table = Table(title="one layer compressed, the others at full precision", box=box.SIMPLE_HEAVY)
    grids = len({damage.grid for damage in damages}) > 1
    for column in ("generator", "layer", "shape", *(["grid"] if grids else [])):
        table.add_column(column, overflow="fold")
    drops = [f"{TITLES[metric]} drop" for metric in metrics]
    for column in ("bits", "clipping", "α", "clipped", "SQNR dB", "bytes", *drops):
        table.add_column(column, justify="right", no_wrap=True)
    for damage in damages:
        tensor = damage.tensor
        sqnr = tensor["sqnr_db"]
        cells = [
            " / ".join(f"{damage.drops[f'{metric}_{score}']:+.3f}" for score in SCORES)
            for metric in metrics
        ]
        table.add_row(
            damage.generator,
            damage.layer,
            "×".join(map(str, tensor["shape"])),
            *([damage.grid] if grids else []),
            damage.bits,
            tensor["clipping"],
            f"{tensor['alpha']:.4g}",
            f"{tensor['share_clipped']:.3%}",
            "–" if sqnr is None else f"{sqnr:.1f}",
            f"{tensor['bytes']:,}",
            *cells,
        )
    return table


def plot(damages: list[Damage], metric: str) -> Figure:
    """SQNR of each layer, and the drops of precision and recall, as bars, a colour a setting.

    Both drops are drawn to one scale.
    """
    layers = list(dict.fromkeys(damage.layer for damage in damages))
    settings = list(dict.fromkeys(damage.setting for damage in damages))
    figure = Figure(figsize=(11, 1.2 + 0.3 * len(layers)), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    axes[2].sharex(axes[1])
    height = 0.8 / len(settings)
    for number, setting in enumerate(settings):
        mine = [damage for damage in damages if damage.setting == setting]
        places = [layers.index(damage.layer) + (number + 0.5) * height - 0.4 for damage in mine]
        values = [
            [damage.tensor["sqnr_db"] or 0.0 for damage in mine],
            *([damage.drops[f"{metric}_{score}"] for damage in mine] for score in SCORES),
        ]
        for axis, widths in zip(axes, values, strict=True):
            axis.barh(places, widths, height=height, label=setting)
    names = [layer.removeprefix("params/").removesuffix("/kernel") for layer in layers]
    axes[0].set_yticks(range(len(layers)), names)
    axes[0].invert_yaxis()
    titles = ["SQNR, dB", *(f"drop of {TITLES[metric]} {score}" for score in SCORES)]
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title)
        axis.locator_params(axis="x", nbins=5)
        axis.grid(axis="x", alpha=0.3)
    figure.suptitle(f"{damages[0].generator}: one layer compressed, the others at full precision")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure
