"""Generators of a configuration: from their files, or from descriptions of files not yet fetched.

`config.expected` describes such files by the last part of their path, see `configs/ffhq.py`.
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
    """Loads an entry of `config.generators`; where it is missing, the error says how to get it."""
    generator, instructions = load_or_abstract(config, name)
    if instructions:
        raise FileNotFoundError(f"generator {name!r}: no such checkpoint; {instructions}")
    return generator


def load_or_abstract(config: Any, name: str) -> tuple[Generator, str]:
    """The generator `name`, from its file if that is there, else as expected, without weights.

    With it comes in one line how to get its file; "" where it is there.
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
    draw = partial(sampling.images_of, generator, truncation_psi=config.truncation_psi)
    jax.eval_shape(draw, generator.params, jax.random.key(0), jnp.arange(1))  # or it takes none
    return generator, instructions


def rename(config: Any, found: list[Generator]) -> tuple[list[Generator], list[str]]:
    """Gives the generators of `config`, and its samples, names that tell them apart."""
    paths = map(Path, config.samples)  # a folder may be called "psi_0.5"
    given = [generator.name for generator in found]
    given += [path.name if path.is_dir() else path.stem for path in paths]
    names = disambiguate(given, [*config.generators, *config.samples])
    renamed = [dataclasses.replace(g, name=name) for g, name in zip(found, names, strict=False)]
    return renamed, names[len(found) :]
