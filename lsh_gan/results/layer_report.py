"""Report on layers: what compression did to each tensor, and the cost of compressing it alone."""

import itertools
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from rich.table import Table

from lsh_gan.results import labels, plots
from lsh_gan.results.answer import NOISE, paired_error
from lsh_gan.results.labels import SCORES, TITLES, bits_label, deciding, setting_of, unique
from lsh_gan.results.store import Row

TITLE = "one layer compressed, the others at full precision (drops ± paired standard errors)"


def write(
    workdir: Path, measured: list[Row], metrics: list[str], whole: Table
) -> tuple[dict[str, Figure], list[str]]:
    """Writes `layers.md` and `layers_GENERATOR.png`, and prints the tables.

    Returns the plots by name, and a sentence per generator on the layer that loses most. Rows are
    those of single layers, and of full precision with the same seeds. `whole` is the table of rows
    that are not of single layers. The plot shows the deciding metric.
    """
    found = layer_sensitivity(measured, metrics)
    by_generator = dict(list(found.groupby("generator", sort=False)))
    notes = [worst_layer(*item, deciding(metrics)) for item in by_generator.items()]
    labels.print_and_save(workdir / "layers.md", whole, make_table(found, metrics), notes=notes)
    figures = {
        f"layers_{name}": plot(mine, deciding(metrics)) for name, mine in by_generator.items()
    }
    for name, figure in figures.items():
        figure.legends[0].set_title(plots.conditions(measured))
        plots.save(figure, workdir / name)
    return figures, notes


def write_csv(path: Path, measured: list[Row]) -> None:
    """Writes the report on each compressed tensor, a line per tensor and row."""
    lines = [
        {"row_hash": row["row_hash"], "generator": row["generator"], **tensor}
        for row in measured
        for tensor in row.get("tensors", ())
    ]
    if lines:
        pd.DataFrame(lines).to_csv(path, index=False)


def layer_sensitivity(measured: list[Row], metrics: list[str]) -> pd.DataFrame:
    """Compares every row of a single layer with full precision at the same seed.

    Returns a line per generator, layer and setting, in the order of the network. It has the report
    on the tensor and, in "METRIC_SCORE", the drop of the score as a mean over the seeds.
    "METRIC_SCORE_stderr" is its paired standard error, or NaN if rows lack their hits.
    """
    full = {(row["generator"], row["seed"]): row for row in measured if row["bits"] is None}
    isolated = [row for row in measured if "layer" in row]
    settings = dict.fromkeys(map(setting_of, isolated))
    groups: dict[tuple[str, ...], list[Row]] = {}
    for name in unique(isolated, "generator"):
        for row in _in_order(isolated, name):
            setting = f"{bits_label(row)} bits, {labels.shorten(setting_of(row), settings)}"
            groups.setdefault((name, row["layer"], setting), []).append(row)
    lines = []
    for (name, layer, setting), rows in groups.items():
        line = {"generator": name, "layer": layer, "setting": setting, **rows[0]["tensors"][0]}
        line |= {"grid": labels.grid_label(rows[0]), "bits": bits_label(rows[0])}
        whole = [full[name, row["seed"]] for row in rows]
        pairs = list(zip(rows, whole, strict=True))
        for metric, score in itertools.product(metrics, SCORES):
            field = f"{metric}_{score}"
            before, after = (statistics.fmean(row[field] for row in x) for x in (whole, rows))
            error = paired_error(pairs, metric, score)
            line |= {field: before - after, f"{field}_stderr": error}
        lines.append(line)
    return pd.DataFrame(lines)


def _in_order(isolated: list[Row], name: str) -> list[Row]:
    """Sorts the rows of a generator from latents to images; rows of a function keep their order."""
    # Imports JAX, which other reports do not need.
    from lsh_gan.generators.generator import FAMILIES, build, network_order

    mine = [row for row in isolated if row["generator"] == name]
    family, order = mine[0].get("family"), unique(mine, "layer")
    if family in FAMILIES:
        order = network_order(build(family, mine[0]["options"]))
    return sorted(mine, key=lambda row: order.index(row["layer"]))


def drop(line: Mapping[str, Any], field: str) -> str:
    """Formats the drop of a score, with its standard error if known: "+0.095±.011"."""
    error = line[f"{field}_stderr"]
    known = "" if pd.isna(error) else f"±{error:.3f}".replace("±0", "±")
    return f"{line[field]:+.3f}{known}"


def make_table(found: pd.DataFrame, metrics: list[str]) -> Table:
    """Makes a table with a line per layer and setting: the tensor, drops of precision / recall."""
    cells = found[["generator", "layer"]].copy()
    cells["shape"] = ["×".join(map(str, shape)) for shape in found["shape"]]
    if found["grid"].nunique() > 1:
        cells["grid"] = found["grid"]
    text = cells.shape[1]
    cells["bits"], cells["clipping"] = found["bits"], found["clipping"]
    formats = {"α": ("alpha", "{:.4g}"), "clipped": ("share_clipped", "{:.3%}"),
               "SQNR dB": ("sqnr_db", "{:.1f}"), "bytes": ("bytes", "{:,}")}  # fmt: skip
    for column, (field, form) in formats.items():
        cells[column] = [form.format(x) if pd.notna(x) else "–" for x in found[field]]

    for metric in metrics:
        cells[f"{TITLES[metric]} drop"] = [
            " / ".join(drop(line, f"{metric}_{score}") for score in SCORES)
            for line in found.to_dict("records")
        ]
    return labels.make_rich(cells, text=text, title=TITLE)


def worst_layer(name: str, found: pd.DataFrame, metric: str) -> str:
    """Says which layer loses most at the narrowest width, and whether this is within noise."""
    narrow = found[found["setting"] == found.loc[found["bits"].astype(int).idxmin(), "setting"]]
    fields = {score: f"{metric}_{score}" for score in SCORES}
    worst = narrow.loc[narrow[list(fields.values())].max(axis=1).idxmax()]
    lost = " and ".join(f"{drop(worst, field)} of {score}" for score, field in fields.items())
    noise = all(worst[field] <= NOISE * worst[f"{field}_stderr"] for field in fields.values())
    return (
        f"{name}: {worst['layer']} suffers most: {worst['setting']} of it alone "
        f"({worst['bytes']:,} bytes) cost {lost} by {TITLES[metric]}"
        f"{', within noise' if noise else ''}."
    )


def plot(found: pd.DataFrame, metric: str) -> Figure:
    """Plots SQNR per layer, and drops of both scores on one scale, with a colour per setting."""
    layers = list(found["layer"].unique())
    figure = Figure(figsize=(11, 1.2 + 0.3 * len(layers)), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    axes[2].sharex(axes[1])
    titles = {"sqnr_db": "SQNR, dB"}
    titles |= {f"{metric}_{score}": f"drop of {TITLES[metric]} {score}" for score in SCORES}
    settings = found.groupby("setting", sort=False)
    height = 0.8 / len(settings)
    for number, (setting, mine) in enumerate(settings):
        places = [layers.index(layer) + (number + 0.5) * height - 0.4 for layer in mine["layer"]]
        for axis, field in zip(axes, titles, strict=True):
            errors = mine.get(f"{field}_stderr")
            errors = None if errors is None or errors.isna().all() else errors.to_numpy()
            lengths = mine[field].astype(float).fillna(0)
            axis.barh(places, lengths, xerr=errors, ecolor="grey", height=height, label=setting)
    names = [layer.removeprefix("params/").removesuffix("/kernel") for layer in layers]
    axes[0].set_yticks(range(len(layers)), names)
    axes[0].set_ylim(len(layers) - 0.5, -0.5)  # from top to bottom, without margins
    for axis, title in zip(axes, titles.values(), strict=True):
        axis.set_title(title)
        axis.locator_params(axis="x", nbins=5)
        axis.grid(axis="x", alpha=0.3)
    name = found["generator"].iloc[0]
    figure.suptitle(f"{name}: {TITLE}")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure
