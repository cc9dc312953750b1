"""`report.html`: a run in one file, which opens from disk and loads nothing else."""

import base64
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image

from lsh_gan.results import labels, plots, store, strips
from lsh_gan.results.answer import LEGEND, mean_and_error
from lsh_gan.results.labels import TITLES, grid_label, scores_of, unique
from lsh_gan.results.store import Row

FILE = "report.html"
TEMPLATE = "report.html.jinja"
# Names of widths that are no number; see `labels.width_label`.
WIDTHS = {"full": "full precision", "packed": "as packed", "–": "as given"}
VARYING = ("grid", "layer", "role", "seed", "m")  # columns that are shown if their values differ
PIXELS = 1280  # largest width of a strip; wider ones are scaled down


def write(
    workdir: Path,
    output: Path,
    measured: list[Row],
    metrics: list[str],
    *,
    figures: dict[str, Figure],
    config: dict[str, Any],
    answers: Sequence[str],
    marks: Mapping[tuple[str, str, str], str],
) -> None:
    """Writes the page of a run to `output`, with the strips of images of its work folder.

    Rows are in the order of the table. The page begins with `answers` and ends with `config`.
    `marks` are those of `answer.mark`, by row hash, metric and score.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined,
        autoescape=True, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    done, asked = store.read_progress(workdir) or (0, 0)
    columns, lines = _table(measured, metrics, marks)
    pairs = set(metrics) - set(labels.DISTANCES)
    alts = {name: f"Layers of {name.removeprefix('layers_')}, one by one" for name in figures}
    alts |= {name: view.title for name, view in plots.VIEWS.items()}
    text = environment.get_template(TEMPLATE).render(
        title=f"{'Precision and recall' if pairs else 'Distance'} of "
        + ", ".join(unique(measured, "generator")),
        heads=labels.SCORES if pairs else ("distance",),
        answers=answers,
        conditions=plots.conditions(measured),
        progress=f"{done} of {asked} measurements are done" if done < asked else "",
        samples=list(_explorers(workdir, measured, metrics, strips.SAMPLES)),
        lost=list(_explorers(workdir, measured, [], strips.OUTSIDE, strips.UNCOVERED)),
        captions=strips.CAPTIONS,
        columns=columns,
        lines=lines,
        ceilings=_ceilings(measured, metrics),
        legend=[text for mark, text in LEGEND.items() if mark in marks.values()],
        figures=[(alts[name], to_svg(figure, name)) for name, figure in figures.items()],
        details=_details(measured),
        config=json.dumps(config, indent=1),
    )
    (output / FILE).write_text(text, encoding="utf-8")


def _explorers(
    workdir: Path, measured: list[Row], metrics: list[str], *folders: str
) -> Iterator[dict[str, Any]]:
    """Yields the slider of each generator, with a state per setting and width.

    States without images are left out. Full precision belongs to every setting: its setting is "".
    """
    whole = [row for row in measured if "layer" not in row]
    for name in unique(whole, "generator"):
        mine = [row for row in whole if row["generator"] == name]
        states: dict[str, dict[str, Any]] = {}
        roles = {", ".join(row["roles"]): [row] for row in mine if "roles" in row}
        curves = {"": roles} if roles else plots.curves_of(mine)
        for setting, widths in curves.items():
            for label, group in widths.items():
                row = next((x for x in group if x["seed"] == mine[0]["seed"]), group[0])
                images = {x: read_strip(workdir / x / f"{row['row_hash']}.png") for x in folders}
                if row["row_hash"] in states or not any(images.values()):
                    continue
                scores = [
                    (TITLES[m], [_score(group, m, s)[1] for s in scores_of(m)]) for m in metrics
                ]
                states[row["row_hash"]] = {
                    "setting": setting if row["bits"] else "",
                    "width": label if roles else WIDTHS.get(label, f"{label} bits"),
                    "size": f"{row['bytes']:,} bytes" if "bytes" in row else "",
                    "ratio": f"{row['ratio']:.1f}× smaller" if row.get("ratio", 0) > 1.05 else "",
                    "images": images,
                    "scores": scores,
                }
        if states:
            found = list(states.values())
            settings = dict.fromkeys(state["setting"] for state in found if state["setting"])
            pixels = [i["pixels"] for state in found for i in state["images"].values() if i]
            yield {
                "name": name,
                "settings": [(setting, labels.shorten(setting, curves)) for setting in settings],
                "states": found,
                "pixels": max(pixels),
            }


def read_strip(file: Path) -> dict[str, Any] | None:
    """Reads a strip as a data URI, with its width in pixels and its description."""
    if not file.is_file():
        return None
    content = file.read_bytes()
    with Image.open(file) as image:
        pixels, said = image.width, image.info.get("Description", "")
        if pixels > PIXELS:
            small = image.resize((PIXELS, round(image.height * PIXELS / pixels)))
            small.save(buffer := io.BytesIO(), "PNG")
            content = buffer.getvalue()
    uri = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return {"uri": uri, "pixels": pixels, "said": said}


def _score(group: list[Row], metric: str, score: str) -> tuple[float, str]:
    """Returns the value of a score, and its text with the standard error if there is one."""
    mean, error = mean_and_error(group, f"{metric}_{score}")
    of_mean, of_error = (".4g", ".2g") if score == "distance" else (".3f", ".3f")
    return mean, f"{mean:{of_mean}}" + (f" ± {error:{of_error}}" if error else "")


def _table(
    measured: list[Row], metrics: list[str], marks: Mapping[tuple[str, str, str], str]
) -> tuple[list[str], list[dict[str, Any]]]:
    """Returns names of columns, and a line per row: its hash, and values to sort by with texts."""
    lines = []
    for row in measured:
        bits = 99 if row["bits"] is None else row["bits"]
        cells = {
            "generator": (None, row["generator"]),
            "bits": (bits, labels.widths_of(row) if "roles" in row else labels.bits_label(row)),
            "clipping": (None, row["clipping"] or ""),
            "grid": (None, grid_label(row)),
            "layer": (None, row.get("layer", "")),
            "role": (None, ", ".join(row.get("roles", ()))),
            "seed": (row["seed"], str(row["seed"])),
            "m": (row["m"], f"{row['m']:,}"),
            "bytes": (row.get("bytes"), f"{row['bytes']:,}" if "bytes" in row else ""),
            "ratio": (row.get("ratio"), f"{row['ratio']:.1f}" if "ratio" in row else ""),
        }
        for metric in metrics:
            for score in scores_of(metric):
                value, text = _score([row], metric, score)
                mark = marks.get((row["row_hash"], metric, score), "")
                cells[f"{TITLES[metric]} {score}"] = (value, text + mark)
        lines.append({"row_hash": row["row_hash"], "cells": cells})
    columns = [
        name
        for name in lines[0]["cells"]
        if name not in VARYING or len({line["cells"][name] for line in lines} - {(None, "")}) > 1
    ]
    return columns, lines


def _ceilings(measured: list[Row], metrics: list[str]) -> list[str]:
    """Formats the ceilings of the metrics, for each m."""
    fields = {m: [f"{m}_{score}_ceiling" for score in scores_of(m)] for m in metrics}
    rows = {row["m"]: row for row in reversed(measured)}
    return [
        (f"m = {m:,}: " if len(rows) > 1 else "")
        + f"{TITLES[metric]} {' / '.join(f'{rows[m][name]:.3f}' for name in names)}"
        for m in unique(measured, "m")
        for metric, names in fields.items()
        if all(rows[m].get(name) is not None for name in names)
    ]


def to_svg(figure: Figure, name: str) -> str:
    """Converts a figure to inline SVG: black becomes the text colour, unused ids are dropped."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace("#000000", "currentColor")
    used = set(re.findall(r'(?:href="|url\()#(\w+)', text))
    return re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", text)


def _details(measured: list[Row]) -> list[tuple[str, str]]:
    """Returns the conditions under which rows were measured, as terms and texts."""
    first = measured[0]
    seconds = sum(sum(row["seconds"].values()) for row in measured)
    found = {
        "reference, taken as": first.get("reference_taken"),
        "features": ", ".join(f"{name} {value}" for name, value in first["features"].items()),
        "grid": "; ".join(dict.fromkeys(filter(None, map(grid_label, measured)))),
        "hash": ", ".join(f"{name} {value}" for name, value in first.get("hash", {}).items()),
        "seeds": ", ".join(map(str, unique(measured, "seed"))),
        "versions": ", ".join(f"{k} {v}" for k, v in first.get("versions", {}).items()),
        "device": first.get("device"),
        "time": f"{seconds:,.0f} s for {len(measured)} rows, beside the reference",
    }
    return [(term, str(text)) for term, text in found.items() if text not in (None, "")]
