"""Errors that name the nearest valid choice."""

import difflib
import json
import math
import operator
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def nearest(name: str, choices: Iterable[str]) -> str:
    """Returns the choice spelled most like `name`.

    Almost equal names are preferred, then dotted names whose last part is `name`.

    >>> nearest("msee", ["kl", "mse", "std"])
    'mse'
    >>> nearest("bits", ["hash.num_bits", "compression.bits"])
    'compression.bits'
    >>> nearest("seed", ["seeds", "hash.seed"])
    'seeds'
    """
    choices = list(choices)
    ends = [choice for choice in choices if choice.endswith(f".{name}")]
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.85)
    return (close or difflib.get_close_matches(name, ends or choices, n=1, cutoff=0.0))[0]


def check_names(lacks: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raises ValueError for the first unknown name; `lacks` is, say, "config has no field"."""
    for name in names:
        if name not in known:
            raise ValueError(f"{lacks} {name!r}; did you mean {nearest(name, known)!r}?")


def few(names: Iterable[str], most: int = 5) -> str:
    """Lists names, at most `most` of them.

    >>> few(["a", "b", "c", "d"], 3)
    'a, b, c and 1 more'
    """
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def choose(kind: str, name: str, table: Mapping[str, T]) -> T:
    """Looks `name` up in a `table` of things of this `kind` ("clipping method").

    Raises ValueError for an unknown name: it lists the keys, and suggests one with a similar
    spelling. The digits must be equal: "vgg19" is not a misspelling of "vgg16".
    """
    if name in table:
        return table[name]
    digits = set(filter(str.isdigit, str(name)))
    lower = {choice.lower(): choice for choice in table}
    close = difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=0.7)
    right = close and digits <= set(close[0])
    hint = f"; did you mean {lower[close[0]]!r}?" if right else "."
    raise ValueError(f"{kind} {name!r} is unknown{hint} Valid: {', '.join(sorted(table))}.")


def check_int(field: str, value: Any, low: int, high: float = math.inf) -> int:
    """Returns `value` as an int; a ValueError has the field and the nearest valid value."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is not None and not isinstance(value, bool) and low <= number <= high:
        return number
    upper = f"to {high}" if high < math.inf else "up"
    is_number = isinstance(value, int | float) and math.isfinite(value)
    close = f"; the nearest valid value is {round(min(max(value, low), high))}" if is_number else ""
    raise ValueError(f"{field} = {value!r} is not a whole number from {low} {upper}{close}.")


def parse_object(where: Path | str, content: bytes, expected: str) -> dict[str, Any]:
    """Parses a JSON object; a ValueError names `where` and what was expected."""
    try:
        value = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{where}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{where}: holds a {type(value).__name__}; expected {expected}")
    return value
