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
from lsh_gan.experiment import config_checks

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


def parse(
    arguments: list[str],
    config: ml_collections.ConfigDict,
    source: str = "configs/default.py",
    default: Path | None = None,
) -> list[str]:
    """Parses the flags.

    Args:
        arguments: The command line, the program first.
        config: A configuration with every field.
        source: The file that makes it, for messages.
        default: The configuration file that is read where the command line names none.

    Returns:
        What is no flag, the program first.

    Raises:
        ValueError: A configuration file that is not there or fails, an unknown or missing field
            (the message names the nearest), or a flag that cannot be read.
    """
    file = _config_file(arguments)
    check_field_names(arguments, config)
    if file is None and default is not None:
        # Not the default of the flag: overrides would be applied to it before they are checked.
        file, arguments = default, [arguments[0], f"--config={default}", *arguments[1:]]
    try:
        rest = flags.FLAGS(arguments)
    except flags.Error as error:
        unread = _unread(str(error), config)
        if unread:
            raise ValueError(unread) from error
        # Of an error inside of a configuration file, the first and the last line of many.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(" ... ".join(dict.fromkeys((lines[0], lines[-1])))) from error
    except Exception as error:  # whatever a file of Python may raise
        if file is None:
            raise
        said = f"{type(error).__name__}: {(str(error).splitlines() or ['without a message'])[0]}"
        if said.endswith("has no attribute 'get_config'"):
            said = "has no get_config(); expected a function that returns a configuration"
        raise ValueError(f"--config={file}: {said}") from error
    made = flags.FLAGS["config"].value
    if not isinstance(made, ml_collections.ConfigDict):
        raise ValueError(
            f"--config={file}: get_config() returned {made!r}; expected a configuration, such as "
            f"that of {source}"
        )
    check_fields(made, config, f"--config={file}: " if file else "", source)
    return rest


def parse_or_exit(arguments: list[str], **options: Any) -> list[str]:
    """As `parse`, but what is wrong ends the program with one line."""
    try:
        return parse(arguments, **options)
    except ValueError as error:
        sys.exit(f"error: {error}")


def _unread(error: str, config: Any) -> str:
    """Says what a value on the command line should have been; "" for an error of another kind."""
    found = re.match(r"flag --config\.([^=]*)=(.*?): ", error, re.DOTALL)
    if not found or found[1] not in _field_names(config):
        return ""
    field, value = found.groups()
    default = config_checks.get(config, field)
    if isinstance(default, ml_collections.ConfigDict):
        inside = [name for name in _field_names(config) if name.startswith(f"{field}.")]
        close = nearest(f"{field}.{value}", inside)
        return f"{field} = {value!r}; expected one of its fields, such as --config.{close}=VALUE"
    if isinstance(default, bool):
        return f"{field} = {value!r}; expected True or False"
    if not isinstance(default, int | float):
        return ""
    kind, example = ("a whole number", int) if isinstance(default, int) else ("a number", float)
    try:
        close = f"; the nearest is {example(float(value))}"
    except (ValueError, OverflowError):
        close = f", such as {default}"
    return f"{field} = {value!r}; expected {kind}{close}"


def _config_file(arguments: list[str]) -> Path | None:
    """The configuration file that a command line names, which must be there; None if none."""
    path = None
    for argument, after in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        if name not in ("--config", "-config"):
            continue
        value = value if equals else after
        if not value:
            raise ValueError("--config is empty; expected a file, such as configs/fashion_mnist.py")
        path = Path(value.partition(":")[0])
        if path.is_file():
            continue
        folder = path.is_dir()
        wanted = path / path.name if folder else path
        inside = [str(file) for file in wanted.parent.glob("*.py") if file.stem != "__init__"]
        hint = f"; did you mean {nearest(str(wanted), inside)!r}?" if inside else ""
        reason = "is a folder; expected a file" if folder else "no such file"
        raise ValueError(f"--config={path}: {reason}{hint}")
    return path


def check_fields(made: Any, config: Any, where: str = "", source: str = "") -> None:
    """Compares the fields of a configuration with all that there are.

    Args:
        made: What is checked; may have any fields where `config` has an empty part.
        config: A configuration with every field.
        where: Begins a message.
        source: The file that makes `config`, for messages.

    Raises:
        ValueError: A field is missing or unknown (the message names the nearest).
    """
    known = _field_names(config)
    free = [f"{name}." for name in known if _is_empty(config_checks.get(config, name))]
    found = [name for name in _field_names(made) if not name.startswith(tuple(free))]
    missing = [name for name in known if name not in found]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(
            f"{where}lacks the field {missing[0]!r}{more}; expected all fields of {source}: begin "
            "with what its get_config() returns"
        )
    for name in found:
        _check_known(name, known, where)


def _is_empty(value: Any) -> bool:
    return isinstance(value, ml_collections.ConfigDict) and not len(value)


def _check_known(field: str, known: list[str], where: str = "") -> None:
    if field not in known:
        raise ValueError(
            f"{where}config has no field {field!r}; did you mean {nearest(field, known)!r}?"
        )


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
        if override:
            _check_known(override[1], known)


def _field_names(config: Any, prefix: str = "") -> list[str]:
    names = []
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            names += _field_names(value, f"{prefix}{name}.")
        names.append(prefix + name)
    return names
