"""Reads configuration files and the flags that override their fields; errors are one line."""

import argparse
import difflib
import re
import runpy
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags.tuple_parser import TupleParser

from lsh_gan.errors import check_names, few, nearest
from lsh_gan.experiment import shipped_folder


class ListParser(TupleParser):
    """Parses tuples; text that is no Python literal, such as "a/b,/c d", is split at commas."""

    def parse(self, argument: Any) -> tuple[Any, ...]:
        """Returns the tuple for a text or a value."""
        try:
            return super().parse(argument)
        except ValueError:
            return tuple(part.strip() for part in argument.split(","))


config_flags.register_flag_parser_for_type(tuple, ListParser())


def parse_or_exit(*given: Any, **options: Any) -> list[str]:
    """Parses as `parse` does; an error ends the program with one line."""
    try:
        return parse(*given, **options)
    except ValueError as error:
        sys.exit(f"error: {error}")


def parse(
    arguments: list[str],
    config: ConfigDict,
    *,
    source: str = "configs/default.py",
    default: Path | None = None,
    usage: str = "",
) -> list[str]:
    """Parses the flags, --config among them; returns the other arguments, the program first.

    `config` has every field, as the file `source` makes it. `default` is the configuration file to
    read if the command line names none. A mistake is a ValueError. --help prints `usage` (or the
    docstring of the program) with all flags and fields, and ends the program. After "=" or a
    comma, where shells leave it as it is, `~/` is the home folder.
    """
    arguments = [re.sub(r"(?<=[=,])~(?=/)", lambda _: str(Path.home()), x) for x in arguments]
    if any(re.fullmatch("-h|--?help(short|full)?", argument) for argument in arguments):
        text = (shipped_folder() / source).read_text("utf-8")
        text = re.sub(r"config_dict\.FieldReference\((.*), field_type=object\)", r"\1", text)
        own = flags.FLAGS.flags_by_module_dict()
        ours = [module for module in own if module == sys.argv[0] or module.startswith("lsh_gan.")]
        hint = f"; configs/{default.name} if not given" if default else ""
        lines = [
            (usage or sys.modules["__main__"].__doc__ or "").strip() + "\n",
            *(f"  --{flag.name}: {flag.help}" for module in ours for flag in own[module]),
            f"  --config: The file of the configuration{hint}.",
            "  --config.FIELD=VALUE, or VALUE,VALUE for several, for each of:\n",
            *re.findall(r"^ +(?:#|config[.\w]+ =).*", text, re.MULTILINE),
        ]
        sys.exit(print("\n".join(lines)))  # noqa: T201
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", "-config", nargs="?", const="", default=default)
    given, others = parser.parse_known_args(arguments)
    known, named = _fields(config), fields_set(others)
    for field in named:
        if field in flags.FLAGS and field not in known:
            raise ValueError(f"config has no field {field!r}; did you mean --{field}?")
    check_names("config has no field", named, known)
    for field in named:  # ml_collections joins repeated lists; of other fields the last one counts
        if isinstance(known[field], tuple) and named.count(field) > 1:
            raise ValueError(
                f"--config.{field} is given {named.count(field)} times; expected it once, its "
                "entries with commas between them"
            )
    name, *option = str(given.config or "").split(":", 1)
    file = _find_file(name, source)
    try:
        made = _load(file, *option)
        check_fields(made, config, source)
    except ValueError as error:
        raise ValueError(f"--config={file}: {error}") from error
    try:
        config_flags.DEFINE_config_dict("config", made, flag_values=flags.FLAGS, sys_argv=others)
        return flags.FLAGS(others)
    except flags.Error as error:
        raise ValueError(_unread(str(error), known)) from error


def _find_file(name: str, source: str) -> Path:
    """Finds a configuration file in the current folder, or in the shipped one."""
    if not name:
        raise ValueError(f"--config is missing; expected a file, such as {source}")
    path = Path(name)
    for file in (path, shipped_folder() / path):
        if file.is_file():
            return file
    if path.is_dir():
        raise ValueError(f"--config={name}: is a folder; expected a file, such as {source}")
    parts, bases = (Path("configs"), path.parent), (Path(), shipped_folder())
    files = [
        part / x.name for part in parts for base in bases for x in (base / part).glob("[!_]*.py")
    ]
    inside = {file.stem: str(file) for file in files}
    close = inside[nearest(path.stem, inside)]
    raise ValueError(f"--config={name}: no such file; did you mean {close!r}?")


def _load(file: Path, *option: str) -> ConfigDict:
    """Returns the result of `get_config` in a file."""
    try:
        get_config = runpy.run_path(str(file)).get("get_config")
        made = get_config and get_config(*option)
    except Exception as error:  # a Python file may raise anything
        said = (str(error).splitlines() or ["without a message"])[0]
        raise ValueError(f"{type(error).__name__}: {said}") from error
    if not get_config:
        raise ValueError("has no get_config(); expected a function that returns a configuration")
    if not isinstance(made, ConfigDict):
        raise ValueError(f"get_config() returned {made!r}; expected a configuration")
    return made


def _unread(error: str, known: dict[str, Any]) -> str:
    """Makes the message for a bad value on the command line; other errors keep their first line."""
    if unknown := re.match(r"Unknown command line flag '([\w-]+)'$", error):
        # --features means its name; of equal last parts, the first field counts.
        last = {field.rpartition(".")[2]: field for field in reversed(known)}
        last["features"] = "features.name"
        if close := difflib.get_close_matches(unknown[1], last, n=1, cutoff=0.7):
            return f"{error}; did you mean --config.{last[close[0]]}?"
    found = re.match(r"flag --config\.([^=]*)=(.*?): ", error, re.DOTALL)
    default = known[found[1]] if found else None
    expected = {
        bool: "True or False",
        int: f"a whole number, such as {default}",
        float: f"a number, such as {default}",
    }
    if not found or type(default) not in expected:
        return error.splitlines()[0]
    with suppress(ValueError):
        if (number := float(found[2])).is_integer():
            expected[int] = f"a whole number, {int(number)}"
    return f"{found[1]} = {found[2]!r}; expected {expected[type(default)]}"


def check_fields(made: ConfigDict, config: ConfigDict, source: str = "") -> None:
    """Raises ValueError if a configuration lacks a field or has an unknown one.

    `config`, made by the file `source`, has all known fields. Its empty parts may hold any fields.
    """
    known, found = _fields(config), _fields(made)
    free = [name for name, value in known.items() if isinstance(value, ConfigDict)]
    if missing := [repr(name) for name in known if name not in found and name not in free]:
        raise ValueError(
            f"lacks the field {few(missing, 1)}; expected all fields of {source}: begin with what "
            "its get_config() returns"
        )
    inside = tuple(f"{part}." for part in free)
    others = [name for name in found if not name.startswith(inside)]
    check_names("config has no field", others, known)


def _fields(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Returns every field of a configuration by name, such as "hash.seed", and every empty part."""
    fields: dict[str, Any] = {}
    for name, value in config.items():
        part = isinstance(value, ConfigDict) and value
        fields |= _fields(value, f"{prefix}{name}.") if part else {prefix + name: value}
    return fields


def fields_set(arguments: list[str]) -> list[str]:
    """Returns the names of the fields that a command line sets, such as "hash.seed"."""
    return re.findall(r"^--?(?:no)?config\.([^=\n]*)", "\n".join(arguments), re.MULTILINE)
