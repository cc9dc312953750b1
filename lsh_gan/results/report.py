"""From rows to a table, plots and sample grids; computes no measurement.

Command: `python -m lsh_gan.results.report WORKDIR [OUTPUT]`; a work folder that cannot be written
needs the folder OUTPUT for tables and pictures.
"""

import csv
import errno
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from rich import box
from rich.table import Table

from lsh_gan.errors import choose
from lsh_gan.results import layer_report, page, plots, search_report, store, strips
from lsh_gan.results.labels import (
    DISTANCES,
    SCORES,
    TITLES,
    bits_label,
    grid_label,
    print_and_save,
    scores_of,
    setting_of,
    standard_error,
    unique,
)
from lsh_gan.results.store import Row


def write(workdir: Path, output: Path | None = None) -> None:
    """Writes the tables and pictures of `workdir` to `output`, and prints the table.

    Every work folder gets `table.csv` and `tensors.csv` (what happened to each compressed tensor);
    a sweep over widths `table.md` and its pictures, a sweep over layers those of `layer_report`, a
    search those of `search_report`.

    Args:
        workdir: The work folder.
        output: Where tables and pictures go, made if missing; None for the work folder itself.

    Raises:
        ValueError: There are no rows, or they are damaged.
        FileNotFoundError: `workdir` is not a work folder.
        OSError: `output` cannot be written.
    """
    config = store.read_config(workdir)
    measured = store.read_asked(workdir)
    if not measured:
        raise ValueError(f"{workdir / store.ROWS_FILE}: there are no rows to report")
    share = config.get("search", {}).get("share")
    if share and not all("roles" in row for row in measured):
        raise ValueError(f"{workdir}: is the inside of a search; report {workdir.parent} instead")
    metrics = _metrics(workdir, config, measured)
    caption = _caption(workdir, measured)
    measured = ordered(measured)
    pairs = [metric for metric in metrics if metric not in DISTANCES]
    output = output or workdir
    output.mkdir(parents=True, exist_ok=True)
    _write_csv(output / "table.csv", measured, metrics)
    layer_report.write_csv(output / "tensors.csv", measured)
    with mpl.rc_context(plots.STYLE):
        figures = {}
        if share:
            search_report.write(output, measured, pairs, share)
        elif any("layer" in row for row in measured):
            whole = [row for row in measured if "layer" not in row]
            table = make_table(whole, metrics, caption=caption)
            figures = layer_report.write(output, measured, pairs, table)
        else:
            print_and_save(output / "table.md", make_table(measured, metrics, caption=caption))
            figures = plots.write(output, measured, pairs)
            strips.write(workdir, output, measured)
        page.write(workdir, output, measured, metrics, figures=figures, config=config)


def _metrics(workdir: Path, config: dict[str, Any], measured: list[Row]) -> list[str]:
    """The metrics of a work folder, after checking that every row has their scores."""
    file = workdir / store.CONFIG_FILE
    if "metrics" not in config:
        raise ValueError(f"{file}: lacks the field 'metrics'")
    for metric in config["metrics"]:
        choose(f"{file}: metric", metric, TITLES)
    for row in measured:
        for field in (f"{m}_{score}" for m in config["metrics"] for score in scores_of(m)):
            if field not in row:
                raise ValueError(
                    f"{workdir / store.ROWS_FILE}: row {row['row_hash']} lacks {field!r}"
                )
    return config["metrics"]


def _caption(workdir: Path, measured: list[Row]) -> str:
    """What the rows were compared with, and how many are there if a run was interrupted."""
    done, asked = store.read_progress(workdir) or (0, 0)
    count = f"{done} of {asked} measurements" if done < asked else ""
    # Says so where the reference is not real images; rows of older versions do not know.
    name = measured[0].get("reference_name")
    return "; ".join(filter(None, (name and f"reference: {name}", count)))


def ordered(measured: list[Row]) -> list[Row]:
    """Sorts rows by generator, falling bits, setting (both as first measured) and seed."""
    names = unique(measured, "generator")
    settings = list(dict.fromkeys(map(setting_of, measured)))
    return sorted(
        measured,
        key=lambda row: (
            names.index(row["generator"]),
            -(row["bits"] or 99),
            settings.index(setting_of(row)),
            row["seed"],
        ),
    )


def _relative(row: Row, metric: str, score: str) -> float | None:
    """The score divided by its ceiling, or None."""
    ceiling = row.get(f"{metric}_{score}_ceiling")
    return row[f"{metric}_{score}"] / ceiling if ceiling else None


def _write_csv(path: Path, measured: list[Row], metrics: list[str]) -> None:
    flat = []
    for row in measured:
        plain = {k: v for k, v in row.items() if not isinstance(v, dict | list)}
        for metric in metrics:
            for score in SCORES if metric not in DISTANCES else ():
                plain[f"{metric}_{score}_relative"] = _relative(row, metric, score)
        plain |= {f"seconds_{k}": v for k, v in row["seconds"].items()}
        flat.append(plain)
    fields = dict.fromkeys(field for row in flat for field in row)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(fields))
        writer.writeheader()
        writer.writerows(flat)


def make_table(measured: list[Row], metrics: list[str], *, caption: str = "") -> Table:
    """Lays out rows as a table: precision / recall by metric, each generator under its ceiling.

    A line a generator and setting; of several seeds, means and their standard errors. m stands in
    the title, or in a column where it differs; the caption stands below.
    """
    first = measured[0]
    sizes = unique(measured, "m")
    m = f"m = {sizes[0]}, " if len(sizes) == 1 else ""
    title = f"precision / recall, n = {first['n']}, {m}{first['features']['name']}"
    groups: dict[tuple, list[Row]] = {}
    for row in measured:
        key = (row["generator"], bits_label(row), setting_of(row))
        groups.setdefault(key, []).append(row)
    seeds = max(map(len, groups.values()))
    if seeds > 1:
        title += f", mean ± standard error of {seeds} seeds"
    table = Table(title=title, caption=caption or None, box=box.SIMPLE_HEAVY)
    for column in ("generator", "bits", "clipping", "grid"):
        short = column in ("bits", "clipping")
        table.add_column(column, overflow="fold", no_wrap=short)
    columns = ["bytes", "ratio", *([] if m else ["m"])]
    for column in (*columns, *(TITLES[metric] for metric in metrics)):
        table.add_column(column, justify="right", no_wrap=True)
    generator = None
    for group in groups.values():
        row = group[0]
        if row["generator"] != generator:
            generator = row["generator"]
            cells = [_pair([row], metric, "_ceiling") for metric in metrics]
            table.add_row("ceiling", *[""] * (3 + len(columns)), *cells)
        table.add_row(
            generator,
            bits_label(row),
            row["clipping"] or "",
            grid_label(row),
            f"{row['bytes']:,}" if "bytes" in row else "",
            f"{row['ratio']:.1f}" if "ratio" in row else "",
            *([] if m else [f"{row['m']:,}"]),
            *(_pair(group, metric, "") for metric in metrics),
        )
    return table


def _pair(group: list[Row], metric: str, suffix: str) -> str:
    values = ([row.get(f"{metric}_{x}{suffix}") for row in group] for x in scores_of(metric))
    return " / ".join(_mean(each) for each in values)


def _mean(values: list[float | None]) -> str:
    if None in values:
        return "–"
    text = f"{statistics.fmean(values):.3f}"
    if len(values) == 1:
        return text
    return f"{text}±{standard_error(values):.3f}"


def main(arguments: list[str]) -> int:
    """Runs the command line; returns the exit code."""
    if len(arguments) not in (1, 2):
        print("usage: python -m lsh_gan.results.report WORKDIR [OUTPUT]", file=sys.stderr)  # noqa: T201
        return 2
    try:
        write(*map(Path, arguments))
    except (ValueError, OSError) as error:
        unwritable = getattr(error, "errno", None) in (errno.EACCES, errno.EPERM, errno.EROFS)
        hint = "; name another folder as OUTPUT" if unwritable else ""
        print(f"error: {error}{hint}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
