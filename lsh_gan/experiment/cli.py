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
import itertools
import re
import runpy
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import import_module
from inspect import cleandoc
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags.tuple_parser import TupleParser

from lsh_gan.errors import choose, few, nearest
from lsh_gan.experiment import default_config, shipped_folder


def main() -> None:
    """Runs the subcommand that `sys.argv` names; bad input ends it with one line."""
    program, command, *rest = sys.argv if len(sys.argv) > 1 else [*sys.argv, "--help"]
    if command in ("-h", "--help", "-help", "help"):
        print((__doc__ or "").strip())  # noqa: T201
        return
    sys.argv = [f"{Path(program).name} {command}", *rest]
    sys.path.insert(0, str(shipped_folder()))  # an installation has no `configs` at its top
    try:
        choose("command", command, COMMANDS)()
    except (ValueError, TypeError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped")


# Patterns of fields that a command sets itself, or does not use, and what to say in their place.
_OF_COMPRESS = {
    "generators|reference.samples_of": "FILE says it",
    "search.share|keep": "say --keep",
    "num_samples|reference.num_images": "say --config.search.num_samples",
    "seeds": "say --config.search.seed",
    "metrics": "LSH measures",
}
_OF_EVALUATE = {
    "generators|samples|reference.(images|features|sketch|samples_of)": "REAL and GENERATED say it",
    "compression|search|seeds|keep": "nothing is compressed",
    "num_samples": "all of GENERATED is scored",
}


def _parse(
    names: str, command: Callable, file: str, others: dict[str, str]
) -> tuple[list[str], Any]:
    """The arguments of a command, as many as `names` has, and its configuration, as `file` begins.

    Its docstring is what --help says before the fields. Of `others` are fields that it refuses.
    """
    for field, (pattern, why) in itertools.product(_fields_set(sys.argv), others.items()):
        if re.match(rf"({pattern})\b", field):
            sys.exit(f"error: --config.{field} has no effect on {sys.argv[0]}: {why}")
    config = config_flags.DEFINE_config_file("config", None, f"Other defaults than {file}.")
    usage = f"{sys.argv[0]} {names}: {cleandoc(command.__doc__ or '')}"
    options = {"config": default_config(), "default": shipped_folder() / file}
    _, *values = parse_or_exit(sys.argv, usage=usage, **options)
    if len(values) != len(names.split()):
        raise ValueError(f"arguments are {' '.join(values) or 'missing'}; expected {names}")
    from lsh_gan.experiment import reference

    reference.fix_numbers()
    reference.keep_programs()
    reference.find_devices()
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
    (file,), config = _parse("FILE", _compress, "configs/compress.py", _OF_COMPRESS)
    from lsh_gan.experiment import search

    share = re.fullmatch(r"(\d*\.?\d+)(%?)", keep.value)
    config.search.share = float(share[1]) / (100 if share[2] else 1) if share else 0.0
    if not 0 < config.search.share < 1:
        raise ValueError(f"--keep={keep.value}; expected a share between 0 and 1, such as 95%")
    config.generators = (file,)
    reference = config.reference
    others = reference.images or reference.features or reference.sketch
    reference.samples_of = "" if others else file
    with tempfile.TemporaryDirectory() as folder:
        print(search.compress(config, Path(workdir.value or folder), output.value))  # noqa: T201


def _evaluate() -> None:
    """Scores of generated images or features against real ones.

    Both are a folder or zip of images, an .npz, .npy or idx file, or the name of a shipped data
    set. As many real ones are drawn as are generated, or --config.reference.num_images.
    """
    names, file = "REAL GENERATED", "configs/default.py"
    (real, generated), config = _parse(names, _evaluate, file, _OF_EVALUATE)
    from lsh_gan.experiment.evaluate import compare

    given = "reference.num_images" in _fields_set(sys.argv)
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


class ListParser(TupleParser):
    """Reads tuples; what is no Python, such as "a/b,/c d", is split at its commas."""

    def parse(self, argument: Any) -> tuple[Any, ...]:
        """Returns the tuple that a text or a value stands for."""
        try:
            return super().parse(argument)
        except ValueError:
            return tuple(part.strip() for part in argument.split(","))


config_flags.register_flag_parser_for_type(tuple, ListParser())


def parse_or_exit(
    arguments: list[str], *, usage: str = "", source: str = "configs/default.py", **options: Any
) -> list[str]:
    """As `parse`, but what is wrong ends the program with one line, and --help with the fields."""
    if any(re.fullmatch("-h|--?help(short|full)?", argument) for argument in arguments):
        usage = usage or sys.modules["__main__"].__doc__ or ""
        own = flags.FLAGS.flags_by_module_dict()
        shown = [flag for module in (sys.argv[0], __name__) for flag in own.get(module, ())]
        lines = [f"  --{flag.name}: {flag.help}" for flag in shown]
        lines.append("  --config.FIELD=VALUE, such as --config.metrics=knn,lsh, for each of:")
        text = (shipped_folder() / source).read_text("utf-8")
        fields = re.findall(r"^ +(?:#|config\.).*", text, re.MULTILINE)
        sys.exit(print("\n".join([usage.strip(), "", *lines, "", *fields])))  # noqa: T201
    try:
        return parse(arguments, source=source, **options)
    except ValueError as error:
        sys.exit(f"error: {error}")


def parse(
    arguments: list[str], config: ConfigDict, *, source: str = "", default: Path | None = None
) -> list[str]:
    """Parses the flags; returns what is no flag, the program first.

    `config` has every field and is what the file `source` makes; `default` is the configuration
    file that is read where the command line names none.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", "-config", nargs="?", const="", default=default)
    given, others = parser.parse_known_args(arguments[1:])
    known, named = _fields(config), _fields_set(others)
    _check_names(named, [x for x, value in known.items() if not isinstance(value, ConfigDict)])
    for field in named:  # of lists ml_collections takes all, where of others the last one counts
        if isinstance(known[field], tuple) and named.count(field) > 1:
            raise ValueError(
                f"--config.{field} is given {named.count(field)} times; expected it once, its "
                "entries with commas between them"
            )
    if given.config is not None:
        name, *option = str(given.config).split(":", 1)
        file = _find_file(name)
        try:
            check_fields(_load(file, *option), config, source)
        except ValueError as error:
            raise ValueError(f"--config={file}: {error}") from error
        others.insert(0, f"--config={':'.join([str(file), *option])}")
    try:
        return flags.FLAGS([arguments[0], *others])
    except flags.Error as error:
        raise ValueError(_unread(str(error), known)) from error


def _find_file(name: str) -> Path:
    """A configuration file, here or as we ship it."""
    if not name:
        raise ValueError("--config is empty; expected a file, such as configs/fashion_mnist.py")
    path = Path(name)
    for file in (path, shipped_folder() / path):
        if file.is_file():
            return file
    inside = [str(file) for file in (path if path.is_dir() else path.parent).glob("[!_]*.py")]
    hint = f"; did you mean {nearest(name, inside)!r}?" if inside else ""
    reason = "is a folder; expected a file" if path.is_dir() else "no such file"
    raise ValueError(f"--config={name}: {reason}{hint}")


def _load(file: Path, *option: str) -> ConfigDict:
    """What `get_config` of a file returns."""
    try:
        get_config = runpy.run_path(str(file)).get("get_config")
        made = get_config and get_config(*option)
    except Exception as error:  # whatever a file of Python may raise
        said = (str(error).splitlines() or ["without a message"])[0]
        raise ValueError(f"{type(error).__name__}: {said}") from error
    if not get_config:
        raise ValueError("has no get_config(); expected a function that returns a configuration")
    if not isinstance(made, ConfigDict):
        raise ValueError(f"get_config() returned {made!r}; expected a configuration")
    return made


def _unread(error: str, known: dict[str, Any]) -> str:
    """Says what a value on the command line should have been; of other errors the first line."""
    found = re.match(r"flag --config\.([^=]*)=(.*?): ", error, re.DOTALL)
    default = known[found[1]] if found else None
    expected = {
        bool: "True or False",
        int: f"a whole number, such as {default}",
        float: f"a number, such as {default}",
    }
    if not found or type(default) not in expected:
        return error.splitlines()[0]
    with suppress(ValueError, OverflowError):
        expected[int] = f"a whole number; the nearest is {int(float(found[2]))}"
    return f"{found[1]} = {found[2]!r}; expected {expected[type(default)]}"


def check_fields(made: ConfigDict, config: ConfigDict, source: str = "") -> None:
    """Refuses a configuration with a field too few or too many, in the words of `parse`.

    Fields are free where `config`, which is what `source` makes, has an empty part.
    """
    known, found = _fields(config), _fields(made)
    if missing := [repr(name) for name in known if name not in found]:
        raise ValueError(
            f"lacks the field {few(missing, 1)}; expected all fields of {source}: begin with what "
            "its get_config() returns"
        )
    free = tuple(
        f"{n}." for n, value in known.items() if isinstance(value, ConfigDict) and not value
    )
    _check_names([name for name in found if not name.startswith(free)], known)


def _check_names(names: Iterable[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(
                f"config has no field {name!r}; did you mean {nearest(name, known)!r}?"
            )


def _fields(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Every field and part of a configuration by its name, such as "hash.seed"."""
    fields: dict[str, Any] = {}
    for name, value in config.items():
        inside = _fields(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else {}
        fields |= {**inside, prefix + name: value}
    return fields


def _fields_set(arguments: list[str]) -> list[str]:
    """Names of the fields that a command line sets, such as "hash.seed"."""
    return re.findall(r"^--?(?:no)?config\.([^=\n]*)", "\n".join(arguments), re.MULTILINE)


COMMANDS: dict[str, Callable[[], Any]] = {
    "run": lambda: runpy.run_path(str(shipped_folder() / "main.py"), run_name="__main__"),
    "compress": _compress,
    "evaluate": _evaluate,
    "report": lambda: import_module("lsh_gan.results.report").main(),
    "convert": lambda: import_module("checkpoints_tools.convert").main(),
    "inspect": lambda: import_module("checkpoints_tools.inspect").main(),
    "verify": lambda: import_module("checkpoints_tools.verify").main(),
    "list": _list,
}

if __name__ == "__main__":
    main()
