"""Command lines of benchmarks; wrong options give one clear line. Imports no JAX."""

import argparse
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from lsh_gan.errors import choose


def parse(doc: str, **defaults: Any) -> argparse.Namespace:
    """Reads the command line: one option per default, of its type; `--help` prints `doc`.

    A tuple lists all allowed values, with the default first; False makes a flag.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in defaults.items():
        if isinstance(default, tuple):
            kind = {"choices": default, "default": default[0]}
        elif default is False:
            kind = {"action": "store_true"}
        else:
            kind = {"type": type(default), "default": default}
        parser.add_argument(f"--{name}", **kind)
    return parser.parse_args()


def need(package: str) -> None:
    """Ends the program if a package is missing that only benchmarks need."""
    if find_spec(package) is None:
        sys.exit(
            f"error: the package {package!r} is not installed; "
            "pip install -r benchmarks/requirements.txt"
        )


def names(option: str, text: str, known: Mapping[str, Any]) -> list[str]:
    """Splits "a,b" into names; ends the program at an unknown name and suggests the nearest."""
    found = text.split(",")
    try:
        for name in found:
            choose(option, name, known)
    except ValueError as error:
        sys.exit(f"error: {error}")
    return found
