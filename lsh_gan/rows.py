"""The work folder: the configuration and one JSON line a measurement."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

CONFIG_FILE = "config.json"
ROWS_FILE = "rows.jsonl"


def hash_of(value: Any) -> str:
    """Sha256 (first 16 hex digits) of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def open_workdir(workdir: Path, config: dict[str, Any]) -> None:
    """Makes the work folder and writes the configuration, or checks that it is the same.

    Raises:
        ValueError: The folder belongs to another configuration (the first field that differs), or
            `workdir` is a file.
    """
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"workdir {workdir} is a file; expected a folder")
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
        ValueError: It is not JSON.
    """
    file = workdir / CONFIG_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; {workdir} is not a work folder")
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error})") from error


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


def read(workdir: Path) -> list[dict[str, Any]]:
    """Reads the finished rows, in the order in which they were measured.

    A last line without its end is what a killed run left; it is ignored.

    Raises:
        ValueError: A line is not JSON (its number).
    """
    file = workdir / ROWS_FILE
    if not file.exists():
        return []
    lines = file.read_text().split("\n")[:-1]
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{file}:{number}: not JSON ({error})") from error
    return rows


def append(workdir: Path, row: dict[str, Any]) -> None:
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
