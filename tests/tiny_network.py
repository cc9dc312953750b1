"""Feature networks that compile in no time: one product of at most 1024 pixels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from lsh_gan.features import FeatureNetwork


@jax.jit
def project(variables, images):
    pixels = images.reshape(len(images), -1).astype(jnp.float32) / 255
    return jnp.matmul(pixels, variables[: pixels.shape[1]])


def projection(dim):
    """A network of `dim` features."""
    variables = np.random.default_rng(0).normal(size=(1024, dim)).astype(np.float32)
    return FeatureNetwork("projection", dim, 32, "0", project, variables)


def projected(network):
    """A network that is called as another one, with as many features."""
    ours = projection(network.dim)
    return dataclasses.replace(network, apply=ours.apply, variables=ours.variables)


NETWORK = projection(8)
