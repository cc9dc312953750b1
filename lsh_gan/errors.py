"""Errors that name the nearest valid choice."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


def nearest(name: str, choices: Iterable[str]) -> str:
    """Returns the choice spelled most like `name`, or the first one when nothing is close."""
    choices = sorted(choices)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.0)
    return close[0] if close else choices[0]


def choose(kind: str, name: str, table: Mapping[str, T]) -> T:
    """Looks `name` up in `table`.

    Args:
        kind: What the table holds, in the words of the error message ("clipping method").
        name: The requested key.
        table: The valid choices.

    Returns:
        `table[name]`.

    Raises:
        ValueError: `name` is not a key; the message lists the keys and the nearest one.
    """
    if name in table:
        return table[name]
    raise ValueError(
        f"{kind} {name!r} is unknown; did you mean {nearest(str(name), table)!r}? "
        f"Valid: {', '.join(sorted(table))}."
    )
