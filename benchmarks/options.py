"""Command lines of benchmarks: one clear line where they ask for the impossible. Imports no JAX."""

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from lsh_gan.errors import choose


def need(package: str) -> None:
    """Ends the program where a package that is only needed by benchmarks is missing."""
    if find_spec(package) is None:
        sys.exit(
            f"error: the package {package!r} is not installed; "
            "pip install -r benchmarks/requirements.txt"
        )


def names(option: str, text: str, known: Mapping[str, Any]) -> list[str]:
    """Splits "a,b" into names; ends the program at the first that is unknown, with the nearest."""
    found = text.split(",")
    try:
        for name in found:
            choose(option, name, known)
    except ValueError as error:
        sys.exit(f"error: {error}")
    return found
