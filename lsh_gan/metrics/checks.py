"""Checks of options, before any heavy work."""

from typing import Any

import numpy as np


def check_whole(**values: Any) -> None:
    """Raises TypeError, with name and value, unless every value is a whole number."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"{name} = {value!r}; expected a whole number.")


def check_real(**values: Any) -> None:
    """Raises TypeError, with name and value, unless every value is a number."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise TypeError(f"{name} = {value!r}; expected a number.")


def check_memory(memory_mb: Any) -> None:
    """Raises TypeError or ValueError unless `memory_mb` is a positive number."""
    check_real(memory_mb=memory_mb)
    if not 1 <= memory_mb < np.inf:
        raise ValueError(f"memory_mb = {memory_mb}; expected at least 1.")


def check_type(name: str, value: Any, kind: type | tuple[type, ...], hint: str) -> None:
    """Raises TypeError unless `value` is of `kind`; `hint` says what was expected."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} is a {type(value).__name__}; expected {hint}.")
