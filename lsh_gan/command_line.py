"""The command line: mistakes in it are one line, and lists may hold paths."""

import re
import sys
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags
from ml_collections.config_flags.tuple_parser import TupleParser

from lsh_gan.errors import nearest

_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]*)")


class ListParser(TupleParser):
    """Reads tuples; what is no Python, such as "a/b,/c d", is split at its commas."""

    def parse(self, argument: Any) -> tuple[Any, ...]:
        """Returns the tuple that a text or a value stands for."""
        try:
            return super().parse(argument)
        except ValueError:
            return tuple(part.strip() for part in argument.split(","))


def register_lists() -> None:
    """Makes overrides of tuples in configurations go through `ListParser`."""
    config_flags.register_flag_parser_for_type(tuple, ListParser())


def parse(arguments: list[str], config: ml_collections.ConfigDict) -> list[str]:
    """Parses the flags.

    Args:
        arguments: The command line, the program first.
        config: A configuration with every field.

    Returns:
        What is no flag, the program first.

    Raises:
        ValueError: A configuration file that is not there, an unknown field (the message names the
            nearest), or a flag that cannot be read.
    """
    _check_config_file(arguments)
    check_field_names(arguments, config)
    try:
        return flags.FLAGS(arguments)
    except flags.Error as error:
        # Of an error inside of a configuration file, the first and the last line of many.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(" ... ".join(dict.fromkeys((lines[0], lines[-1])))) from error


def parse_or_exit(arguments: list[str], config: ml_collections.ConfigDict) -> list[str]:
    """As `parse`, but what is wrong ends the program with one line."""
    try:
        return parse(arguments, config)
    except ValueError as error:
        sys.exit(f"error: {error}")


def _check_config_file(arguments: list[str]) -> None:
    for argument, after in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        if name not in ("--config", "-config"):
            continue
        path = Path((value if equals else after).partition(":")[0])
        if not path.is_file():
            known = [str(file) for file in path.parent.glob("*.py")]
            hint = f"; did you mean {nearest(str(path), known)!r}?" if known else ""
            raise ValueError(f"--config={path}: no such file{hint}")


def check_field_names(arguments: list[str], config: ml_collections.ConfigDict) -> None:
    """Refuses command line overrides of fields that no configuration has.

    Args:
        arguments: The command line; what begins with `--config.` is looked at.
        config: A configuration with every field.

    Raises:
        ValueError: An unknown field; the message names the nearest.
    """
    known = _field_names(config)
    for argument in arguments:
        override = _OVERRIDE.match(argument)
        field = override[1] if override else known[0]
        if field not in known:
            raise ValueError(
                f"config has no field {field!r}; did you mean {nearest(field, known)!r}?"
            )


def _field_names(config: Any, prefix: str = "") -> list[str]:
    names = []
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            names += _field_names(value, f"{prefix}{name}.")
        names.append(prefix + name)
    return names
