"""The order in which a generator uses its parameters; trees of parameters are sorted by name."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from lsh_gan.generators.generator import build


def network_order(family: str, options: dict[str, Any]) -> list[str]:
    """Lists paths ("params/up_0/kernel") from the latents to the image, by abstract evaluation.

    Raises:
        ValueError: As `build`.
    """
    module = build(family, options)
    if hasattr(module, "unroll"):  # a scan sorts what is in it
        module = module.clone(unroll=True)
    paths: list[str] = []

    def init(key, z):
        variables = module.init(key, z)
        paths.extend(_paths(variables))  # here a dict is still in the order in which it was made
        return variables

    z = jax.ShapeDtypeStruct((1, module.latent_size), jnp.float32)
    jax.eval_shape(init, jax.random.key(0), z)
    return paths


def _paths(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{name}/")
        else:
            yield prefix + name
