"""The work folder: the configuration and one JSON line a measurement."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CONFIG_FILE = "config.json"
ROWS_FILE = "rows.jsonl"
ASKED_FILE = "asked.json"  # the rows that the last run asked for
LOCK_FILE = "lock"
# A measurement as JSON; `measurement.measure` says what is in it.
Row = dict[str, Any]
# What every row has.
FIELDS = (
    "row_hash", "generator", "bits", "clipping", "granularity", "scheme", "seed", "seconds", "n",
    "m", "features",
)  # fmt: skip


def hash_of(value: Any) -> str:
    """Sha256 (first 16 hex digits) of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Makes the work folder and keeps other runs out of it; the system frees it if this one dies.

    Raises:
        ValueError: Another run is in the folder, or it cannot be made or written.
    """
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"workdir {workdir} is a file; expected a folder")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / LOCK_FILE).open("w")
    except OSError as error:
        raise ValueError(f"workdir {workdir}: cannot be written ({error.strerror})") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"workdir {workdir}: another run is measuring there; wait for its end, or give "
                "another --workdir"
            ) from None
        yield


def check_workdir(workdir: Path, config: dict[str, Any]) -> None:
    """Refuses a work folder that a run of a configuration could not use; makes and changes nothing.

    What is cheap to know, before anything is read; the lock is taken later, for good.

    Raises:
        ValueError: As `locked` and `open_workdir`.
    """
    if (workdir / LOCK_FILE).exists():
        with locked(workdir):
            pass
    if (workdir / CONFIG_FILE).exists():
        open_workdir(workdir, config)
    there = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"workdir {workdir}: {there} is a file; expected a folder")
    if not os.access(there, os.W_OK):
        raise ValueError(f"workdir {workdir}: cannot be written (no permission in {there})")


def open_workdir(workdir: Path, config: dict[str, Any]) -> None:
    """Makes the work folder and writes the configuration, or checks that it is the same.

    Raises:
        ValueError: The folder belongs to another configuration (the first field that differs).
    """
    workdir.mkdir(parents=True, exist_ok=True)
    file = workdir / CONFIG_FILE
    config = json.loads(json.dumps(config))
    if file.exists():
        stored = read_config(workdir)
        _check_same(file, _flatten(stored), _flatten(config))
    else:
        _write_whole(file, json.dumps(config, indent=1) + "\n")


def read_config(workdir: Path) -> dict[str, Any]:
    """Reads the configuration of a work folder.

    Raises:
        FileNotFoundError: It has none.
        ValueError: It is not a JSON object.
    """
    file = workdir / CONFIG_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; {workdir} is not a work folder")
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file}: holds a {type(config).__name__}; expected a configuration")
    return config


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in config.items():
        nested = isinstance(value, dict)
        flat |= _flatten(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return flat


def _check_same(file: Path, stored: dict[str, Any], asked: dict[str, Any]) -> None:
    for field in sorted(stored.keys() | asked.keys()):
        if stored.get(field) != asked.get(field):
            raise ValueError(
                f"{file}: {field} is {stored.get(field)!r} there and {asked.get(field)!r} here; "
                "rows of another configuration need another --workdir"
            )


def _write_whole(file: Path, text: str) -> None:
    part = file.with_suffix(".part")
    part.write_text(text)
    part.replace(file)


def read(workdir: Path) -> list[Row]:
    """Reads the finished rows, in the order in which they were measured.

    A last line without its end is what a killed run left; it is ignored. Of rows with the same hash
    the first counts.

    Raises:
        ValueError: A line is no row (its number).
    """
    file = workdir / ROWS_FILE
    if not file.exists():
        return []
    lines = file.read_bytes().split(b"\n")[:-1]
    rows: dict[str, Row] = {}
    for number, line in enumerate(lines, 1):
        row = _row(f"{file}:{number}", line)
        rows.setdefault(row["row_hash"], row)
    return list(rows.values())


def ask(workdir: Path, row_hashes: list[str]) -> None:
    """Notes which rows belong together: others were measured before a file had changed."""
    _write_whole(workdir / ASKED_FILE, json.dumps(row_hashes) + "\n")


def read_asked(workdir: Path) -> list[Row]:
    """Reads the finished rows that the last run asked for; all, if no run has noted which.

    Raises:
        ValueError: As `read`; or the note is damaged.
    """
    measured, asked = read(workdir), _asked(workdir)
    return measured if asked is None else [row for row in measured if row["row_hash"] in asked]


def _asked(workdir: Path) -> set[str] | None:
    file = workdir / ASKED_FILE
    if not file.exists():
        return None
    try:
        return set(json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: not a JSON list of rows ({error})") from error


def read_progress(workdir: Path) -> tuple[int, int] | None:
    """How many of the rows that the last run asked for are done; None where no run has asked.

    Raises:
        ValueError: As `read_asked`.
    """
    asked = _asked(workdir)
    return None if asked is None else (len(read_asked(workdir)), len(asked))


def _row(where: str, line: bytes) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: not JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: holds a {type(row).__name__}; expected a row")
    missing = [field for field in FIELDS if field not in row]
    if missing:
        raise ValueError(f"{where}: no row, it lacks the field {missing[0]!r}")
    return row


def append(workdir: Path, row: Row) -> None:
    """Adds one row and forces it to disk; NaN or Inf in it is an error.

    Raises:
        ValueError: A value is NaN or Inf.
    """
    line = (json.dumps(row, allow_nan=False) + "\n").encode()
    with (workdir / ROWS_FILE).open("ab+") as file:
        whole = file.tell()
        if whole:
            file.seek(0)
            whole = file.read().rfind(b"\n") + 1
            file.truncate(whole)  # what a killed run left of its last line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
