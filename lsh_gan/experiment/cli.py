"""lsh-gan COMMAND: what compressing a GAN generator costs, quality or diversity.

  run                          a sweep: --config=FILE --workdir=FOLDER, as main.py
  compress FILE --keep=95%     the smallest width that keeps precision and recall
  evaluate REAL GENERATED      scores of two sets of images or features
  report WORKDIR [OUTPUT]      tables and pictures of a work folder
  convert, inspect, verify     other people's checkpoints
  list                         names of what is shipped, of methods and of metrics

lsh-gan COMMAND --help says more.
"""

import argparse
import re
import runpy
import sys
import tempfile
from collections.abc import Callable, Iterable
from importlib import import_module
from inspect import cleandoc
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags.tuple_parser import TupleParser

from lsh_gan.errors import choose, nearest
from lsh_gan.experiment import default_config, shipped_folder

_HELP = ("-h", "--help", "-help", "help")


def main() -> None:
    """Runs the subcommand that `sys.argv` names; bad input ends it with one line."""
    program, command, *rest = sys.argv if len(sys.argv) > 1 else [*sys.argv, "--help"]
    if command in _HELP:
        print(__doc__.strip())  # noqa: T201
        return
    sys.argv = [f"{Path(program).name} {command}", *rest]
    sys.path.insert(0, str(shipped_folder()))  # an installation has no `configs` at its top
    try:
        choose("command", command, COMMANDS)()
    except (ValueError, TypeError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped")


def _parse(names: str, command: Callable, file: str) -> tuple[list[str], Any]:
    """The arguments of a command, as many as `names` has, and its configuration, as `file` begins.

    Its docstring is what --help says before the fields.
    """
    config = config_flags.DEFINE_config_file("config", None, f"Other defaults than {file}.")
    register_lists()
    _, *values = parse_or_exit(
        sys.argv,
        usage=f"{sys.argv[0]} {names}: {cleandoc(command.__doc__ or '')}",
        config=default_config(),
        default=shipped_folder() / file,
    )
    if len(values) != len(names.split()):
        raise ValueError(f"arguments are {' '.join(values) or 'missing'}; expected {names}")
    from lsh_gan.experiment.reference import keep_programs

    keep_programs()
    return values, config.value


def _compress() -> None:
    """The smallest width that keeps precision and recall by LSH, and the file.

    FILE is a checkpoint folder, a packed file or the name of a shipped generator. Its compressed
    images are compared with uncompressed ones, or with --config.reference.images=FOLDER. What
    configs/compress.py sets goes before the defaults below.
    """
    keep = flags.DEFINE_string("keep", "95%", "The share that is kept, 95% or 0.95.")
    output = flags.DEFINE_string("output", None, "The file; NAME_BITSbits.safetensors if none.")
    workdir = flags.DEFINE_string("workdir", None, "Keeps the measurements, to go on with them.")
    (file,), config = _parse("FILE", _compress, "configs/compress.py")
    from lsh_gan.experiment import search

    config.generators, config.search.share = (file,), _share(keep.value)
    reference = config.reference
    others = reference.images or reference.features or reference.sketch
    reference.samples_of = "" if others else file
    with tempfile.TemporaryDirectory() as folder:
        print(search.compress(config, Path(workdir.value or folder), output.value))  # noqa: T201


def _share(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise ValueError(f"--keep={text}; expected a share between 0 and 1, such as 95%")
    return share


def _evaluate() -> None:
    """Scores of generated images or features against real ones.

    Both are a folder or zip of images, an .npz, .npy or idx file, or the name of a shipped data
    set. As many real ones are drawn as are generated, or --config.reference.num_images.
    """
    given = any(argument.startswith("--config.reference.num_images") for argument in sys.argv)
    (real, generated), config = _parse("REAL GENERATED", _evaluate, "configs/default.py")
    from lsh_gan.experiment.evaluate import compare

    print(compare(real, generated, config, config.reference.num_images if given else 0))  # noqa: T201


def _list() -> None:
    from lsh_gan import compression, datasets, features
    from lsh_gan.experiment.evaluators import EVALUATORS
    from lsh_gan.generators import checkpoints

    configs = (shipped_folder() / "configs").glob("[!_]*.py")
    for kind, names in {
        "generators": checkpoints.shipped_names(),
        "data sets": datasets.NAMED,
        "feature networks": [*features.FEATURES, features.GIVEN],
        "clipping methods": compression.METHODS,
        "metrics": EVALUATORS,
        "configurations": sorted(f"configs/{file.name}" for file in configs),
    }.items():
        print(f"{kind}: {', '.join(names)}")  # noqa: T201


# The flags of a configuration.


def field_help(source: str) -> str:
    """The fields that a file such as "configs/default.py" sets, with defaults and comments."""
    lines: list[str] = []
    comment: list[str] = []
    for line in map(str.strip, (shipped_folder() / source).read_text().splitlines()):
        field, equals, value = line.removeprefix("config.").partition(" = ")
        value, _, beside = value.partition("  # ")
        if line.startswith("#"):
            comment.append(line.removeprefix("# "))
        elif not line.startswith("config.") or not equals:
            comment = []
        elif value == "ml_collections.ConfigDict()":
            lines += ["", *comment]
            comment = []
        else:
            lines += [f"  --config.{field}={_on_command_line(value)}"]
            lines += [f"      {text}" for text in (*comment, beside) if text]
            comment = []
    return "\n".join(lines)


def _on_command_line(value: str) -> str:
    """A default as one would type it: `("knn", "lsh")` is knn,lsh."""
    value = value.removeprefix("config_dict.FieldReference(").split(", field_type")[0]
    return value.strip("()").replace('"', "").replace(", ", ",").rstrip(",")


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


def parse_or_exit(arguments: list[str], *, usage: str = "", **options: Any) -> list[str]:
    """As `parse`, but what is wrong ends the program with one line, and --help with the fields."""
    if any(re.fullmatch("-h|--?help(short|full)?", argument) for argument in arguments):
        usage = usage or sys.modules["__main__"].__doc__ or ""
        lines = [
            f"  --{flag.name}: {flag.help}"
            for module, own in flags.FLAGS.flags_by_module_dict().items()
            if module == sys.argv[0] or module.startswith("lsh_gan.")
            for flag in own
        ]
        fields = field_help(options.get("source", "configs/default.py"))
        sys.exit(print("\n".join([usage.strip(), "", *lines, fields])))  # noqa: T201
    try:
        return parse(arguments, **options)
    except ValueError as error:
        sys.exit(f"error: {error}")


def parse(
    arguments: list[str],
    config: ConfigDict,
    source: str = "configs/default.py",
    default: Path | None = None,
) -> list[str]:
    """Parses the flags; returns what is no flag, the program first.

    `config` has every field and is what the file `source` makes; `default` is the configuration
    file that is read where the command line names none.
    """
    arguments, file = _find_config_file(arguments)
    given = (re.match(r"--?(?:no)?config\.([^=]*)", argument) for argument in arguments)
    check_names([found[1] for found in given if found], config)
    if file is None and default is not None:
        # Not the default of the flag: overrides would be applied to it before they are checked.
        file, arguments = default, [arguments[0], f"--config={default}", *arguments[1:]]
    where = f"--config={file}: "
    try:
        rest = flags.FLAGS(arguments)
    except flags.Error as error:
        # Of an error inside of a configuration file, the first and the last line of many.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = " ... ".join(dict.fromkeys((lines[0], lines[-1])))
        raise ValueError(_unread(str(error), _fields(config)) or said) from error
    except Exception as error:  # whatever a file of Python may raise
        said = f"{type(error).__name__}: {(str(error).splitlines() or ['without a message'])[0]}"
        if said.endswith("has no attribute 'get_config'"):
            said = "has no get_config(); expected a function that returns a configuration"
        raise ValueError(where + said) from error
    made = flags.FLAGS["config"].value
    if not isinstance(made, ConfigDict):
        said = f"get_config() returned {made!r}; expected a configuration, such as that of {source}"
        raise ValueError(where + said)
    check_fields(made, config, where, source)
    return rest


def _find_config_file(arguments: list[str]) -> tuple[list[str], Path | None]:
    """Finds the file that --config names, here or as we ship it; its path is put in its place."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", "-config", nargs="?", const="")
    given, others = parser.parse_known_args(arguments[1:])
    if given.config is None:
        return arguments, None
    name, colon, option = given.config.partition(":")
    if not name:
        raise ValueError("--config is empty; expected a file, such as configs/fashion_mnist.py")
    path, shipped = Path(name), shipped_folder() / name
    if not path.exists() and name.startswith("configs/") and shipped.is_file():
        path = shipped
    if not path.is_file():
        wanted = path / path.name if path.is_dir() else path
        inside = [str(file) for file in wanted.parent.glob("*.py") if file.stem != "__init__"]
        hint = f"; did you mean {nearest(str(wanted), inside)!r}?" if inside else ""
        reason = "is a folder; expected a file" if path.is_dir() else "no such file"
        raise ValueError(f"--config={path}: {reason}{hint}")
    return [arguments[0], f"--config={path}{colon}{option}", *others], path


def _unread(error: str, known: dict[str, Any]) -> str:
    """Says what a value on the command line should have been; "" for an error of another kind."""
    found = re.match(r"flag --config\.([^=]*)=(.*?): ", error, re.DOTALL)
    field, value = found.groups() if found else ("", "")
    default = known.get(field)
    if isinstance(default, ConfigDict):
        close = nearest(f"{field}.{value}", [n for n in known if n.startswith(f"{field}.")])
        return f"{field} = {value!r}; expected one of its fields, such as --config.{close}=VALUE"
    if isinstance(default, bool):
        return f"{field} = {value!r}; expected True or False"
    if not isinstance(default, int | float):
        return ""
    kind = "a whole number" if isinstance(default, int) else "a number"
    try:
        close = f"; the nearest is {type(default)(float(value))}"
    except (ValueError, OverflowError):
        close = f", such as {default}"
    return f"{field} = {value!r}; expected {kind}{close}"


def check_fields(made: Any, config: Any, where: str = "", source: str = "") -> None:
    """Refuses a configuration with a field too few or too many, in the words of `parse`.

    Fields are free where `config` has an empty part.
    """
    known = _fields(config)
    empty = [n for n, value in known.items() if isinstance(value, ConfigDict) and not len(value)]
    found = [n for n in _fields(made) if not n.startswith(tuple(f"{name}." for name in empty))]
    missing = [name for name in known if name not in found]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(
            f"{where}lacks the field {missing[0]!r}{more}; expected all fields of {source}: begin "
            "with what its get_config() returns"
        )
    check_names(found, config, where)


def check_names(names: Iterable[str], config: Any, where: str = "") -> None:
    """Refuses names of fields that no configuration has; the message names the nearest."""
    known = _fields(config)
    for name in names:
        if name not in known:
            close = nearest(name, known)
            raise ValueError(f"{where}config has no field {name!r}; did you mean {close!r}?")


def _fields(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every field and part of a configuration by its name, such as "hash.seed"."""
    fields: dict[str, Any] = {}
    for name, value in config.items():
        inside = _fields(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else {}
        fields |= {**inside, prefix + name: value}
    return fields


COMMANDS: dict[str, Callable[[], Any]] = {
    "run": lambda: runpy.run_path(str(shipped_folder() / "main.py"), run_name="__main__"),
    "compress": _compress,
    "evaluate": _evaluate,
    "report": lambda: sys.exit(import_module("lsh_gan.results.report").main(sys.argv[1:])),
    "convert": lambda: import_module("checkpoints_tools.convert").main(),
    "inspect": lambda: import_module("checkpoints_tools.inspect").main(),
    "verify": lambda: import_module("checkpoints_tools.verify").main(),
    "list": _list,
}

if __name__ == "__main__":
    main()
