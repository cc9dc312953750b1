"""Checks of options, before any heavy work."""

from typing import Any

import numpy as np

_MOST_MB = 2**40  # an exbibyte


def check_whole(which: str = "", /, **values: Any) -> tuple[int, ...]:
    """Returns whole numbers as Python's, in order: NumPy's small ones would overflow in sums.

    Args:
        which: What the message adds, the range.
        **values: The numbers by name.

    Raises:
        TypeError: A value is something else; the message has its name.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"{name} = {value!r}; expected a whole number{which}.")
    return tuple(map(int, values.values()))


def check_flags(**values: Any) -> None:
    """Raises TypeError, with name and value, unless every value is True or False."""
    for name, value in values.items():
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{name} = {value!r}; expected True or False.")


def check_real(which: str = "", /, **values: Any) -> tuple[float, ...]:
    """Returns numbers as floats, in order; those too large for one are infinite.

    Args:
        which: What the message adds, the range.
        **values: The numbers by name.

    Raises:
        TypeError: A value is something else; the message has its name.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise TypeError(f"{name} = {value!r}; expected a number{which}.")
    return tuple(map(_as_float, values.values()))


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return np.inf if value > 0 else -np.inf


def check_memory(memory_mb: Any) -> float:
    """Returns MiB as a float.

    Raises:
        TypeError: `memory_mb` is not a number.
        ValueError: It is below 1, or more than there is.
    """
    (number,) = check_real(" of at least 1", memory_mb=memory_mb)
    if not 1 <= number <= _MOST_MB:
        raise ValueError(f"memory_mb = {memory_mb}; expected at least 1, at most {_MOST_MB}.")
    return number


def check_type(name: str, value: Any, kind: type | tuple[type, ...], hint: str) -> None:
    """Raises TypeError unless `value` is of `kind`; `hint` says what was expected."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} is a {type(value).__name__}; expected {hint}.")
