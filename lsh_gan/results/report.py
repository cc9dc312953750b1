"""Turns rows into tables, an answer, plots and sample grids; measures nothing.

Command: `python -m lsh_gan.results.report WORKDIR [OUTPUT]`; if the work folder cannot be written,
give a folder OUTPUT for tables and pictures.
"""

import argparse
import errno
import itertools
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.table import Table

from lsh_gan.errors import choose
from lsh_gan.results import answer, labels, layer_report, page, plots, search_report, store, strips
from lsh_gan.results.answer import mean_and_error, retention
from lsh_gan.results.labels import SCORES, TITLES, setting_of, unique
from lsh_gan.results.store import Row

# Files that only some reports write.
OWN = (
    *(f"{name}.p[nd][gf]" for name in plots.VIEWS), "layers_*.p[nd][gf]", "samples_*.png",
    "outside.png", "uncovered.png", "tensors.csv", "table.md", "layers.md", "search.md",
    "widths.md",
)  # fmt: skip


def write(workdir: Path, output: Path | None = None, notes: Iterable[str] = ()) -> pd.DataFrame:
    """Writes the tables and pictures of `workdir`, and prints tables, the answer and `notes`.

    All runs get `table.csv` and `tensors.csv` (the report on each compressed tensor). A sweep over
    widths also gets `table.md` and pictures, a sweep over layers the files of `layer_report`, and a
    search those of `search_report`. They go to `output`, which is made if missing, or to the work
    folder. Returns the content of `table.csv`: one line per row that the last run requested.

    Raises:
        ValueError: There are no rows, or they are damaged.
        FileNotFoundError: `workdir` is not a work folder.
        OSError: `output` cannot be written.
    """
    config, measured = store.read_config(workdir), store.read_requested(workdir)
    share, keep = config.get("search", {}).get("share"), config.get("keep", 0.95)
    if not measured:
        why = " until its search has ended: repeat its command" if share else ""
        raise ValueError(f"{workdir / store.ROWS_FILE}: there are no rows to report{why}")
    if share and not all("roles" in row for row in measured):
        raise ValueError(f"{workdir}: is the inside of a search; report {workdir.parent} instead")
    metrics, measured = config["metrics"], store.with_hits(workdir, ordered(measured))
    for metric in metrics:  # some may be known to the configuration file alone
        choose("metric", metric, TITLES)
    pairs = [metric for metric in metrics if metric not in labels.DISTANCES]
    output = output or workdir
    output.mkdir(parents=True, exist_ok=True)
    if output == workdir:  # deletes files of another kind of report
        for file in itertools.chain(*map(workdir.glob, OWN)):
            file.unlink()
    frame = to_frame(measured, pairs)
    frame.to_csv(output / "table.csv", index=False)
    layer_report.write_csv(output / "tensors.csv", measured)
    whole = [row for row in measured if "layer" not in row]
    lines = summarise(whole, metrics)
    caption = _caption(workdir, measured, config)
    table = make_table(lines, metrics, caption)
    figures: dict[str, Figure] = {}
    found: list[str] = []
    with mpl.rc_context(plots.STYLE):
        if share:
            found = search_report.write(output, lines, pairs, share, caption)
        elif len(whole) < len(measured):
            figures, found = layer_report.write(output, measured, pairs, table)
        else:
            found = answer.answers(lines, pairs, keep)
            labels.print_and_save(output / "table.md", table, notes=found)
            figures = plots.write(output, measured, pairs)
            strips.write(workdir, output, measured)
        named = frame.assign(setting=list(map(setting_of, measured))).to_dict("records")
        marks = {
            (line["row_hash"], metric, score): answer.mark(line, metric, score)
            for line in named for metric in pairs for score in SCORES
        }  # fmt: skip
        page.write(
            workdir, output, measured, metrics, figures=figures, config=config, answers=found,
            marks=marks,
        )  # fmt: skip
    endings = (".md", ".csv", ".png", ".pdf", ".html")
    files = sorted(file.name for file in output.iterdir() if file.suffix in endings)
    for line in (*notes, f"files: {output}: {', '.join(files)}"):
        labels.say(line)
    return frame


def _caption(workdir: Path, measured: list[Row], config: dict[str, Any]) -> str:
    """Describes the conditions of all rows, and how many are finished if a run was interrupted."""
    rules = "; ".join(config.get("compression", {}).get("rules", ()))
    first, done = measured[0], store.read_progress(workdir) or (0, 0)
    seeds = ", ".join(map(str, unique(measured, "seed")))
    parts = [
        plots.conditions(measured).replace("\u00a0", " "),
        f"means ± standard errors of seeds {seeds}" if "," in seeds else f"seed {seeds}",
        f"lsh_gan {first['version']}" if "version" in first else "",
        f"rules {rules}" if rules else "",
        f"{done[0]} of {done[1]} measurements" if done[0] < done[1] else "",
    ]
    return "; ".join(filter(None, parts))


def to_frame(measured: list[Row], metrics: list[str]) -> pd.DataFrame:
    """Makes a frame with a line per row, without tensors and hits.

    Names of nested fields are joined by "_". Each score also has its share of the ceiling
    (`_relative`), and the kept share of full precision with a paired standard error (`_kept`).
    """
    inner = ("tensors", "hits")
    plain = [{x: value for x, value in row.items() if x not in inner} for row in measured]
    frame = pd.json_normalize(plain, sep="_")
    for metric in metrics:
        for score in SCORES:
            field = f"{metric}_{score}"
            if f"{field}_ceiling" in frame:
                ceiling = frame[f"{field}_ceiling"].astype(float)
                frame[f"{field}_relative"] = frame[field] / ceiling.where(ceiling > 0)
            kept = [retention([r], _full(measured, r), metric, score) for r in measured]
            frame[[f"{field}_kept", f"{field}_kept_stderr"]] = kept
    whole = [c for c in ("bits", "activation_bits", "bytes") if c in frame]
    # A copy is in few blocks, so that pandas does not warn where columns are added.
    return frame.astype(dict.fromkeys(whole, "Int64")).copy()


def _full(measured: list[Row], row: Row) -> list[Row]:
    """Returns the rows at full precision of the row's generator."""
    name = row["generator"]
    return [other for other in measured if other["generator"] == name and other["bits"] is None]


def summarise(measured: list[Row], metrics: list[str]) -> pd.DataFrame:
    """Averages rows over seeds: a line per generator and setting, for the table and the answer.

    Scores have the standard error of `answer.mean_and_error`.
    """
    groups: dict[tuple, list[Row]] = {}
    for row in measured:
        names = (row["generator"], labels.bits_label(row), setting_of(row))
        groups.setdefault((*names, *row.get("roles", ())), []).append(row)
    lines = []
    for (_, bits, setting, *_), group in groups.items():
        line = {**group[0], "bits": bits, "setting": setting}
        line["grid"] = labels.grid_label(group[0])
        line["file"] = f"packed/{group[0]['row_hash']}.packed"
        for metric, score in ((m, s) for m in metrics for s in labels.scores_of(m)):
            field = f"{metric}_{score}"
            mean, error = mean_and_error(group, field)
            line |= {field: mean, f"{field}_stderr": error or None}
            if metric in labels.DISTANCES:
                continue
            line.setdefault(f"{field}_ceiling", None)
            kept = retention(group, _full(measured, group[0]), metric, score)
            line |= {f"{field}_kept": kept.share, f"{field}_kept_stderr": kept.stderr}
        for field in (name for name in line if name.endswith("_crowding")):
            line[field] = np.mean([row[field] for row in group])
        line["clipping"] = line["clipping"] or ""
        lines.append(line)
    return pd.DataFrame(lines)


def make_table(lines: pd.DataFrame, metrics: list[str], caption: str) -> Table:
    """Lays out lines of `summarise`: scores by metric, each generator under its ceiling.

    Clipping, grid and m are columns if they differ. A clipping or grid that all rows share is in
    the caption.
    """
    cells = pd.DataFrame({"name": lines["generator"], "bits": lines["bits"]})
    notes = [caption]
    for field in ("clipping", "grid"):
        values = [value for value in lines[field].unique() if value]
        if len(values) > 1:
            cells[field] = lines[field]
        notes += [f"{field} {values[0]}"] if len(values) == 1 else []
    text = cells.shape[1]
    if "bytes" in lines:
        unit, size = ("MB", 1e6) if lines["bytes"].max() >= 1e7 else ("kB", 1e3)
        sizes = lines["bytes"] / size
        cells[unit] = sizes.map(lambda x: f"{x:,.{0 if x >= 100 else 1}f}", na_action="ignore")
        cells["×"] = lines["ratio"].map("{:.1f}".format, na_action="ignore")
    if lines["m"].nunique() > 1:
        cells["m"] = lines["m"].map("{:,}".format)
    ceilings = pd.DataFrame({"name": "ceiling"}, index=lines.index, columns=cells.columns)
    for metric in metrics:
        title, records = TITLES[metric], lines.to_dict("records")
        if metric in labels.DISTANCES:
            cells[title] = [labels.scores_label(line, metric) for line in records]
            continue
        found = [[answer.mark(line, metric, score) for score in SCORES] for line in records]
        notes += [answer.LEGEND[mark] for mark in dict.fromkeys(itertools.chain(*found)) if mark]
        width = max(len(mark) for _, mark in found)  # scores are aligned, with a mark or not
        cells[title] = [
            labels.scores_label(line, metric, (first, second.ljust(width)))
            for line, (first, second) in zip(records, found, strict=True)
        ]
        fields = [f"{metric}_{score}_ceiling" for score in SCORES]
        limits = ["/".join(map(labels.percent, pair)) for pair in lines[fields].to_numpy()]
        ceilings[title] = [limit + " " * width for limit in limits]
    of = {name: mine.index for name, mine in lines.groupby("generator", sort=False)}
    pairs = set(metrics) - set(labels.DISTANCES)
    above = 1 if pairs else 0
    parts = [x for at in of.values() for x in (ceilings.loc[at[:above]], cells.loc[at])]
    table = pd.concat(parts).fillna("").rename(columns={"clipping": "clip"})
    title = "precision/recall, % ± standard error" if pairs else ""
    return labels.make_rich(table, text=text, title=title, caption="; ".join(dict.fromkeys(notes)))


def ordered(measured: list[Row]) -> list[Row]:
    """Sorts rows by generator, descending bits, setting and seed; names in their first order."""
    names = unique(measured, "generator")
    settings = list(dict.fromkeys(map(setting_of, measured)))

    def place(row: Row) -> tuple[int, ...]:
        bits, setting = row["bits"] or 99, settings.index(setting_of(row))
        return names.index(row["generator"]), -bits, setting, row["seed"]

    return sorted(measured, key=place)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; bad input ends it with one line."""
    parser = argparse.ArgumentParser(description="Writes the tables and pictures of a work folder.")
    parser.add_argument("workdir", type=Path, help="The --workdir of a run.")
    text = "Where they go; the work folder if not given."
    parser.add_argument("output", type=Path, nargs="?", help=text)
    given = parser.parse_args(arguments)
    try:
        write(given.workdir, given.output)
    except (ValueError, OSError) as error:
        unwritable = getattr(error, "errno", None) in (errno.EACCES, errno.EPERM, errno.EROFS)
        sys.exit(f"error: {error}{'; name another folder as OUTPUT' if unwritable else ''}")


if __name__ == "__main__":
    main()
