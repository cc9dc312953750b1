"""Output of benchmarks: tables, and rows that are not measured twice. Imports no JAX."""

import json
from collections.abc import Iterable
from pathlib import Path


def markdown(head: Iterable, body: Iterable[Iterable]) -> str:
    """Formats a Markdown table, with a line feed at its end."""
    head = list(head)
    rows = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in rows)


def read_rows(file: Path) -> list[dict]:
    """Reads the rows of a JSONL file; leaves out a last line that was cut off."""
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in lines]


def add_row(file: Path, row: dict) -> None:
    """Adds a row to a JSONL file."""
    with file.open("a") as stream:
        stream.write(json.dumps(row) + "\n")
