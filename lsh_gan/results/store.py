"""The work folder: the last configuration, one JSON line per measurement, and its hits.

Rows are identified by what their numbers depend on, so runs of several configurations can share a
folder, which then grows. Tables show the rows that the last run requested; the others stay.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from lsh_gan.errors import parse_object

CONFIG_FILE = "config.json"  # of the last run
ROWS_FILE = "rows.jsonl"
REQUESTED_FILE = "requested.json"  # the rows that the last run requested
LOCK_FILE = "lock"
HITS_FOLDER = "hits"
# A measurement as JSON; see `measurement.measure`.
Row = dict[str, Any]


def hash_of(value: Any) -> str:
    """Returns the sha256 (first 16 hex digits) of a JSON value, for any order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Makes a work folder and locks it until this run ends or dies; ValueError if it is locked."""
    workdir.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(workdir / LOCK_FILE).acquire(blocking=False):
            yield
    except filelock.Timeout:
        raise ValueError(
            f"workdir {workdir}: another run is measuring there; wait for its end, or give "
            "another --workdir"
        ) from None


def check_workdir(workdir: Path) -> None:
    """Refuses a work folder that a run could not use, before anything is read; changes nothing."""
    check_writable("workdir", workdir)
    if (workdir / LOCK_FILE).exists():
        with locked(workdir):
            pass
    if (workdir / CONFIG_FILE).exists() and "metrics" not in read_config(workdir):
        raise ValueError(
            f"workdir {workdir}: its {CONFIG_FILE} is not of a run, which would replace it; give "
            "another --workdir"
        )


def check_writable(name: str, folder: Path) -> None:
    """Refuses a folder that cannot be written or made; `name` is its name in messages."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"{name} {folder}: {there} is a file; expected a folder")
    try:
        tempfile.TemporaryFile(dir=there).close()  # tries it: permissions do not tell all
    except OSError as error:
        raise ValueError(
            f"{name} {folder}: {there} cannot be written ({error.strerror})"
        ) from error


def write_config(workdir: Path, config: dict[str, Any]) -> None:
    """Writes the configuration of the run, which replaces that of the last one."""
    _write_whole(workdir / CONFIG_FILE, json.dumps(config, indent=1) + "\n")


def read_config(workdir: Path) -> dict[str, Any]:
    """Reads the configuration of the last run."""
    file = workdir / CONFIG_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; {workdir} is not a work folder")
    return parse_object(file, file.read_bytes(), "a configuration")


def _write_whole(file: Path, text: str) -> None:
    part = file.with_suffix(".part")
    part.write_text(text)
    part.replace(file)


def read(workdir: Path) -> list[Row]:
    """Reads the finished rows, in the order in which they were measured.

    A last line without a line break comes from a killed run and is ignored. Of rows with the same
    hash the first counts. A line that is no row is a ValueError with its number.
    """
    file = workdir / ROWS_FILE
    if not file.exists():
        return []
    lines = file.read_bytes().split(b"\n")[:-1]
    rows: dict[str, Row] = {}
    for number, line in enumerate(lines, 1):
        row = parse_object(f"{file}:{number}", line, "a row")
        if "row_hash" not in row:
            raise ValueError(f"{file}:{number}: not a row of a run (no row_hash)")
        rows.setdefault(row["row_hash"], row)
    return list(rows.values())


def set_requested(workdir: Path, rows: Mapping[str, dict[str, Any]]) -> None:
    """Writes which rows the run requests: by hash, the fields that depend on the run.

    These are the name of the generator, and its roles in a search. They replace those in the row.
    """
    _write_whole(workdir / REQUESTED_FILE, json.dumps(rows) + "\n")


def read_requested(workdir: Path) -> list[Row]:
    """Reads the finished rows that the last run requested; all rows if there is no such file."""
    measured, requested = read(workdir), _requested(workdir)
    if requested is None:
        return measured
    return [row | requested[row["row_hash"]] for row in measured if row["row_hash"] in requested]


def _requested(workdir: Path) -> dict[str, dict[str, Any]] | None:
    file = workdir / REQUESTED_FILE
    return parse_object(file, file.read_bytes(), "rows by hash") if file.exists() else None


def read_progress(workdir: Path) -> tuple[int, int] | None:
    """Returns how many rows of the last run are finished and requested; None without requests."""
    requested = _requested(workdir)
    return None if requested is None else (len(read_requested(workdir)), len(requested))


def append(workdir: Path, row: Row) -> None:
    """Adds one row and forces it to disk; NaN or Inf in it is a ValueError."""
    line = (json.dumps(row, allow_nan=False) + "\n").encode()
    with (workdir / ROWS_FILE).open("ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)  # drops the last line of a killed run
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def write_hits(workdir: Path, row_hash: str, hits: Mapping[str, np.ndarray]) -> None:
    """Writes the hits of a row; see `with_hits`."""
    folder = workdir / HITS_FOLDER
    folder.mkdir(exist_ok=True)
    np.savez_compressed(folder / f"{row_hash}.npz", allow_pickle=False, **hits)


def read_hits(workdir: Path, row_hash: str) -> dict[str, np.ndarray]:
    """Reads the hits of a row; none if there is no file, as in folders of older versions."""
    file = workdir / HITS_FOLDER / f"{row_hash}.npz"
    if not file.is_file():
        return {}
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def with_hits(workdir: Path, rows: Iterable[Row]) -> list[Row]:
    """Adds the field "hits" to rows, from the work folder.

    It holds "METRIC_SCORE_hits", `[m]` or `[n]`, and "METRIC_SCORE_deviations", `[g]`.
    """
    return [row | {"hits": read_hits(workdir, row["row_hash"])} for row in rows]
