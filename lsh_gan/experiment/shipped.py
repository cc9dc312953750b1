"""Where main.py and configs/ are: in a checkout beside this package, in a wheel inside of it."""

import importlib.util
import sys
from pathlib import Path

import ml_collections

import lsh_gan


def folder() -> Path:
    """The folder that holds main.py and configs/."""
    package = Path(lsh_gan.__file__).parent
    return package / "shipped" if (package / "shipped").is_dir() else package.parent


def make_importable() -> None:
    """Lets this process import `configs`, which an installation does not have at its top."""
    sys.path.insert(0, str(folder()))


def default_config() -> ml_collections.ConfigDict:
    """What `configs/default.py` returns, wherever it is."""
    file = folder() / "configs" / "default.py"
    spec = importlib.util.spec_from_file_location("lsh_gan_default_config", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def field_help(source: str) -> str:
    """The fields that a file such as "configs/default.py" sets, with defaults and comments."""
    lines: list[str] = []
    comment: list[str] = []
    for line in map(str.strip, (folder() / source).read_text().splitlines()):
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
