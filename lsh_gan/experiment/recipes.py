"""Loads the generators of a configuration, or describes those whose files are yet to be fetched.

`config.expected` has the descriptions, by the last part of the path; see `configs/ffhq.py`.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from lsh_gan import generators
from lsh_gan.generators import Generator, sampling
from lsh_gan.results.labels import disambiguate


def load(config: Any, name: str) -> Generator:
    """Loads an entry of `config.generators`; if it is missing, the error says how to get it."""
    generator, instructions = load_or_abstract(config, name)
    if instructions:
        raise FileNotFoundError(f"generator {name!r}: no such checkpoint; {instructions}")
    return generator


def load_or_abstract(config: Any, name: str) -> tuple[Generator, str]:
    """Loads the generator `name`, or builds it as expected, without weights, if there is no file.

    Also returns a line that says how to get the file, or "" if it exists.
    """
    expected = config.expected.get(Path(name).name.replace(".", "_"))
    for field in ("family", "options", "source", "file", "origin") if expected else ():
        if field not in expected:
            raise ValueError(
                f"config.expected of {name!r} lacks the field {field!r}; it has "
                f"{', '.join(expected)}"
            )
    instructions = ""
    try:
        generator = generators.load(name)
    except FileNotFoundError:
        if not expected or Path(name).exists():
            raise
        options = expected.options.to_dict()
        generator = generators.abstract(Path(name).name, expected.family, options)
        instructions = (
            f"get {expected.file} ({expected.origin}), then: python -m checkpoints_tools.convert "
            f"--source={expected.source} --input={expected.file} --output={name}"
        )
    if config.truncation_psi != 1:  # raises if the generator does not take it
        draw = partial(sampling.images_of, generator, truncation_psi=config.truncation_psi)
        jax.eval_shape(draw, generator.params, jax.random.key(0), jnp.arange(1))
    return generator, instructions


def rename(config: Any, found: list[Generator]) -> tuple[list[Generator], list[str]]:
    """Gives the generators and the samples of `config` unique names."""
    paths = map(Path, config.samples)  # a folder may be called "psi_0.5"
    given = [generator.name for generator in found]
    given += [path.name if path.is_dir() else path.stem for path in paths]
    names = disambiguate(given, [*config.generators, *config.samples])
    renamed = [dataclasses.replace(g, name=name) for g, name in zip(found, names, strict=False)]
    return renamed, names[len(found) :]
