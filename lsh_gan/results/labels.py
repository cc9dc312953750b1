"""What rows are called in tables and plots, and where tables go."""

import io
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from lsh_gan.results.store import Row

WIDTH = 140  # columns of sentences where the output is no terminal
UNLIMITED = 10_000  # columns of tables there: no cell is wrapped
TITLES = {"knn": "KNN", "lsh_knn": "LSH+KNN", "lsh": "LSH", "kid": "KID", "fid": "Fréchet"}
SCORES = ("precision", "recall")
DISTANCES = ("kid", "fid")  # single numbers


def scores_of(metric: str) -> tuple[str, ...]:
    """Names of the scores of a metric."""
    return ("distance",) if metric in DISTANCES else SCORES


def unique(measured: list[Row], field: str) -> list[Any]:
    """The values of a field, in the order of their first row."""
    return list(dict.fromkeys(row[field] for row in measured))


def distinct(names: list[str], paths: list[str]) -> list[str]:
    """Makes names unique: equal ones are replaced by as much of their paths as tells them apart.

    Args:
        names: Of what is judged.
        paths: As the configuration gives them, one a name.

    Raises:
        ValueError: The paths do not tell them apart.
    """
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
    """Names what one curve has in common; "" at full precision, where all curves begin."""
    if row["bits"] is None:
        return ""
    clipping = "no" if row["clipping"] == "none" else row["clipping"]
    parts = [f"{clipping} clipping", f"{row['granularity']} {row['scheme']}", *extras(row)]
    if row.get("activation_bits"):
        parts.append(f"activations {row['activation_bits']} bits")
    return ", ".join(parts)


def grid_label(row: Row) -> str:
    """Granularity, scheme and corrections; "" at full precision."""
    return ", ".join([row["granularity"], row["scheme"], *extras(row)]) if row["bits"] else ""


def extras(row: Row) -> list[str]:
    """Names of the corrections that were made."""
    names = {"correct_biases": "biases corrected", "reestimate_batch_norms": "batch norms anew"}
    return [name for field, name in names.items() if row.get(field)]


def short(setting: str, curves: dict[str, Any]) -> str:
    """Leaves out what all curves have in common, but for the clipping."""
    others = [curve.split(", ") for curve in curves]
    clipping, *parts = setting.split(", ")
    own = [part for part in parts if not all(part in other for other in others)]
    return ", ".join([clipping, *own])


def width_label(row: Row) -> str:
    """The width of weights: "4", "full" at full precision, "packed" as a packed file has them.

    Given samples have none: "–".
    """
    if "samples" in row:
        return "–"
    if row["bits"] is None:
        return "packed" if row.get("packed") else "full"
    return str(row["bits"])


def bits_label(row: Row) -> str:
    """The width: "4", "W4A8" with quantized activations, else as `width_label`."""
    activations = row.get("activation_bits")
    return f"W{row['bits']}A{activations}" if activations else width_label(row)


def standard_error(values: Sequence[float]) -> float:
    """The standard error of the mean of several seeds; 0 of one, which says nothing of it."""
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def print_table(table: Table) -> None:
    """Prints a table as wide as the terminal, but never so narrow that words are broken.

    Where there is no terminal, no cell is wrapped.
    """
    console = Console()
    console.width = max(console.width, _least_width(table)) if sys.stdout.isatty() else UNLIMITED
    console.print(table)


def _least_width(table: Table) -> int:
    """Columns of a table for its longest words, and for the cells that are not wrapped."""
    widths = []
    for column in table.columns:
        cells = [str(cell) for cell in (column.header, *column.cells)]
        parts = cells if column.no_wrap else [word for cell in cells for word in cell.split()]
        widths.append(max(map(cell_len, parts), default=0))
    return sum(widths) + 3 * len(widths) + 1  # a blank on both sides, and the lines between


def print_and_save(path: Path, *tables: Table) -> None:
    """Prints tables and writes them as Markdown: captions as text below, without titles."""
    for table in tables:
        print_table(table)
    path.write_text("\n".join(map(_markdown, tables)))


def _markdown(table: Table) -> str:
    """A table as Markdown, a row a line; what follows a blank line is no row."""
    caption = table.caption
    table.box, table.title, table.caption = box.MARKDOWN, None, None
    console = Console(file=io.StringIO(), width=UNLIMITED)
    console.print(table)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    lines = [line for line in lines if line] + (["", str(caption)] if caption else [])
    return "".join(f"{line}\n" for line in lines)
