"""Generators whose files have to be fetched first: what to expect of them, and how to get them.

`config.expected` describes them by the last part of their path, see `configs/ffhq.py`.
"""

from pathlib import Path
from typing import Any

from lsh_gan import generators
from lsh_gan.generators import Generator, checkpoints

_FIELDS = ("family", "options", "source", "file", "origin")


def load(config: Any, name: str) -> Generator:
    """Loads the generator `name`, an entry of `config.generators`.

    Raises:
        FileNotFoundError: No such checkpoint; where the configuration knows how to get it, the
            message says so.
        ValueError: As `generators.load`; or the description lacks a field.
    """
    described = recipe(config, name)
    if described is None or _exists(name):
        return generators.load(name)
    raise FileNotFoundError(f"generator {name!r}: no such checkpoint; {how(described, name)}")


def describe(config: Any, name: str) -> tuple[Generator, bool]:
    """The generator `name`, from its file if that is there, else as expected, without weights.

    Returns:
        The generator, and whether its file was there.

    Raises:
        FileNotFoundError: There is no file, and nothing is expected.
        ValueError: As `generators.load` and `generators.abstract`.
    """
    described = recipe(config, name)
    if described is None or _exists(name):
        return generators.load(name), True
    options = described.options.to_dict()
    return generators.abstract(Path(name).name, described.family, options), False


def recipe(config: Any, name: str) -> Any:
    """What `config.expected` says of the generator `name`, or None.

    Raises:
        ValueError: It lacks a field.
    """
    described = config.expected.get(Path(name).name.replace(".", "_"))
    for field in _FIELDS if described is not None else ():
        if field not in described:
            raise ValueError(
                f"config.expected of {name!r} lacks the field {field!r}; it has "
                f"{', '.join(described)}"
            )
    return described


def how(described: Any, name: str) -> str:
    """How to get a generator, in one line."""
    return (
        f"get {described.file} ({described.origin}), then: python -m checkpoints_tools.convert "
        f"--source={described.source} --input={described.file} --output={name}"
    )


def _exists(name: str) -> bool:
    try:
        checkpoints.locate(name)
    except FileNotFoundError:
        return False
    return True
