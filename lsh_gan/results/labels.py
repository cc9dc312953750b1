"""Names of rows in tables and plots; prints and saves tables."""

import contextlib
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from lsh_gan.results.store import Row

UNLIMITED = 10_000  # width of tables without a terminal, so that no cell is wrapped
DISTANCES = {"kid": "KID", "fid": "Fréchet"}  # metrics with a single number
TITLES = {"knn": "KNN", "lsh_knn": "LSH+KNN", "lsh": "LSH", **DISTANCES}
SCORES = ("precision", "recall")


def scores_of(metric: str) -> tuple[str, ...]:
    """Returns the names of the scores of a metric."""
    return ("distance",) if metric in DISTANCES else SCORES


def deciding(metrics: Iterable[str]) -> str:
    """Returns the metric for answers and searches: KNN, or the first that is not a distance."""
    pairs = [metric for metric in metrics if metric not in DISTANCES]
    return "knn" if "knn" in pairs else pairs[0]


def unique(measured: list[Row], field: str) -> list[Any]:
    """Returns the values of a field, in the order of their first row."""
    return list(dict.fromkeys(row[field] for row in measured))


def disambiguate(names: list[str], paths: list[str]) -> list[str]:
    """Makes names unique: the shortest ends of their paths that differ replace equal names."""
    clashing = [names.count(name) > 1 for name in names]
    parts = [[part for part in Path(path).parts if part != "/"] for path in paths]
    for depth in range(max(map(len, parts), default=0) + 1):
        found = [
            "_".join(part[-depth:]) if clashes and depth else name
            for name, part, clashes in zip(names, parts, clashing, strict=True)
        ]
        if len(set(found)) == len(found):
            return found
    raise ValueError(f"the names of {', '.join(paths)} clash; expected paths that differ")


def setting_of(row: Row) -> str:
    """Names the setting that the rows of a curve share; "" at full precision, where all begin."""
    if row["bits"] is None:
        return ""
    clipping = "no" if row["clipping"] == "none" else row["clipping"]
    parts = [f"{clipping} clipping", f"{row['granularity']} {row['scheme']}", *extras(row)]
    if row.get("activation_bits"):
        parts.append(f"activations {row['activation_bits']} bits")
    return ", ".join(parts)


def grid_label(row: Row) -> str:
    """Names granularity, scheme and corrections; "" at full precision."""
    return ", ".join([row["granularity"], row["scheme"], *extras(row)]) if row["bits"] else ""


def extras(row: Row) -> list[str]:
    """Returns the names of the corrections that were made."""
    names = {"correct_biases": "biases corrected", "reestimate_batch_norms": "batch norms anew"}
    return [name for field, name in names.items() if row.get(field)]


def shorten(setting: str, curves: Iterable[str]) -> str:
    """Leaves out the parts that all curves share, except the clipping."""
    others = [curve.split(", ") for curve in curves]
    clipping, *parts = setting.split(", ")
    own = [part for part in parts if not all(part in other for other in others)]
    return ", ".join([clipping, *own])


def width_label(row: Row) -> str:
    """Names the width of weights: "4", "full", "packed" for a packed file, "–" for samples."""
    if "samples" in row:
        return "–"
    if row["bits"] is None:
        return "packed" if row.get("packed") else "full"
    return str(row["bits"])


def bits_label(row: Row) -> str:
    """Names the width: "W4A8" with quantized activations, else as `width_label`."""
    activations = row.get("activation_bits")
    return f"W{row['bits']}A{activations}" if activations else width_label(row)


def widths_of(row: Row) -> str:
    """Lists the widths of all tensors of a row, or of a line of `report.summarise`: "6, 4, 3"."""
    widths = sorted({tensor["bits"] for tensor in row["tensors"]}, reverse=True)
    return ", ".join(map(str, widths)) or width_label(row)


def in_words(bits: str) -> str:
    """Writes a width of `bits_label` for a sentence: "4 bits", "W4A8", "full"."""
    return f"{bits} bit{'s' * (bits != '1')}" if bits.isdigit() else bits


def percent(share: float | None, stderr: float | None = None) -> str:
    """Formats a share in per cent with its standard error, to the digits that the error allows.

    >>> percent(0.7441, 0.0062), percent(0.7441, 0.012), percent(0.744, 0.03), percent(None)
    ('74.4±.6', '74.4±1', '74±3', '–')
    """
    if share is None or math.isnan(share):
        return "–"
    if stderr is None or math.isnan(stderr):
        return f"{100 * share:.1f}"
    error = round(100 * stderr, 1)  # to a tenth, since differences of rows have smaller errors
    return f"{100 * share:.{int(error < 2)}f}±{error:.{int(error < 1)}f}".replace("±0.", "±.")


def percent_error(stderr: float) -> str:
    """Formats a standard error in whole per cent, or to its first digit if that were 0.

    >>> percent_error(0.012), percent_error(0.004), percent_error(0.0002)
    ('1', '0.4', '0.02')
    """
    return f"{100 * stderr:{'.1g' if 100 * stderr <= 0.5 else '.0f'}}"


def scores_line(row: Row, metrics: Iterable[str]) -> str:
    """Makes a line about a finished row: its name and its scores."""
    parts = [in_words(bits_label(row)), setting_of(row), row.get("layer"), f"seed {row['seed']}"]
    scores = ", ".join(f"{TITLES[metric]} {scores_label(row, metric)}" for metric in metrics)
    parts = [] if "samples" in row else parts  # given samples have no setting and no seed
    name = ", ".join(filter(None, (row["generator"], *parts)))
    speed = f", {row['images_per_second']:.0f} images/s" if "images_per_second" in row else ""
    return f"{name}: {scores} in {duration(sum(row['seconds'].values()))}{speed}"


def scores_label(line: Mapping[str, Any], metric: str, marks: Iterable[str] = ("", "")) -> str:
    """Formats scores in %, "74.4±.6/46.0±.7", with their marks; a distance "0.01234±0.0004"."""
    fields = [f"{metric}_{score}" for score in scores_of(metric)]
    scores = [(line.get(field), line.get(f"{field}_stderr")) for field in fields]
    if metric not in DISTANCES:
        return "/".join(percent(*score) + m for score, m in zip(scores, marks, strict=True))
    distance, error = scores[0]
    return f"{distance:.4g}" + (f"±{error:.2g}" if error and not math.isnan(error) else "")


def duration(seconds: float) -> str:
    """Formats a time: "12 s", "3 min 5 s", "2 h 10 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def make_rich(cells: pd.DataFrame, *, text: int, title: str = "", caption: str = "") -> Table:
    """Lays out a frame of strings; the first `text` columns are words, the others numbers."""
    table = Table(
        title=title or None, caption=caption or None, box=box.SIMPLE_HEAVY, show_edge=False,
        padding=0,
    )  # fmt: skip
    for number, column in enumerate(cells):
        if number < text:
            table.add_column(column, overflow="fold")
        else:
            width = max(map(cell_len, (column, *cells[column])))
            table.add_column(column, justify="right", no_wrap=True, min_width=width)
    for line in cells.itertuples(index=False):
        table.add_row(*line)
    return table


@contextlib.contextmanager
def _printing() -> Iterator[None]:
    """Drops output that standard output cannot take, after `| head` or of "±" in ASCII."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    try:
        yield
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # rich raises the latter for a closed pipe
        # Without this, Python would flush it again at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(line: str) -> None:
    """Prints a sentence, wrapped at the width of the terminal if there is one."""
    with _printing():
        if sys.stdout.isatty():
            Console().print(line, highlight=False, markup=False, emoji=False)
        else:
            sys.stdout.write(f"{line}\n")


def print_table(table: Table) -> None:
    """Prints a table as wide as the terminal or its longest words; unwrapped without a terminal."""
    console = Console(markup=False, emoji=False)  # "[ema]" is part of a name
    wide = console.options.update(max_width=UNLIMITED)
    least = Measurement.get(console, wide, table).minimum
    console.width = max(console.width, least) if sys.stdout.isatty() else UNLIMITED
    with _printing():
        console.print(table)


def print_and_save(path: Path, *tables: Table, notes: Sequence[str] = ()) -> None:
    """Prints tables and notes and writes them as Markdown, with titles and captions as text."""
    for table in tables:
        caption, table.caption = table.caption, None
        print_table(table)
        if caption:
            say(str(caption))
        table.caption = caption
    for note in notes:
        say(note)
    text = "\n".join([*map(_markdown, tables), *(f"{note}\n" for note in notes)])
    path.write_text(text, encoding="utf-8")


def _markdown(table: Table) -> str:
    """Formats a table as Markdown, between title and caption, with blank lines in between."""
    columns = []
    for column in table.columns:
        cells = [str(column.header), *map(str, column.cells)]
        width, right = max(map(len, cells)), column.justify == "right"
        head, *rest = (cell.rjust(width) if right else cell.ljust(width) for cell in cells)
        columns.append([head, "-" * (width - 1) + (":" if right else "-"), *rest])
    text = "".join(f"| {' | '.join(line)} |\n" for line in zip(*columns, strict=True))
    title = f"{table.title}\n\n" if table.title else ""
    return title + text + (f"\n{table.caption}\n" if table.caption else "")
