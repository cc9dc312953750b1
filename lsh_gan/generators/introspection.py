"""What a generator's layers say of themselves: their order, and axes of output channels."""

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from lsh_gan.generators import layers, stylegan2, stylegan3

# Kernels of modulated convolutions too are shared by all images and have their outputs last: styles
# scale inputs, and demodulation works on outputs. Dense layers onto a grid, [d, h, w, c], count as
# what they are in the original networks, transposed convolutions of one pixel: c channels.
CHANNEL_AXES: dict[type[nn.Module], int] = {
    nn.Dense: -1,
    nn.DenseGeneral: -1,
    layers.Convolution: -1,
    stylegan2.StyledConv: -1,
    stylegan2.ToImage: -1,
    stylegan3.FilteredConv: -1,
    stylegan3.FourierInput: -1,
}


def channel_axes(module: nn.Module, variables: Any) -> dict[str, int]:
    """Returns the declared output axis of every kernel of a generator.

    Keys are patterns of the kernel's path ("params/up_0/kernel", escaped).

    Raises:
        ValueError: A layer has a kernel and no entry in `CHANNEL_AXES`.
    """
    axes: dict[str, int] = {}

    def visit(call, args, kwargs, context):
        layer = context.module
        if "kernel" in layer.variables.get("params", {}):
            path = "/".join(("params", *layer.path, "kernel"))
            if type(layer) not in CHANNEL_AXES:
                raise ValueError(
                    f"{path}: {type(layer).__name__} does not declare which axis of its kernel"
                    " holds the output channels"
                )
            axes[re.escape(path)] = CHANNEL_AXES[type(layer)]
        return call(*args, **kwargs)

    z = jax.ShapeDtypeStruct((1, module.latent_size), jnp.float32)
    with nn.intercept_methods(visit):
        jax.eval_shape(module.apply, variables, z)
    return axes


def network_order(module: nn.Module) -> list[str]:
    """Lists paths ("params/up_0/kernel") from the latents to the image, by abstract evaluation.

    Trees of parameters are sorted by name.
    """
    if hasattr(module, "unroll"):  # a scan sorts what is in it
        module = module.clone(unroll=True)
    paths: list[str] = []

    def init(key, z):
        variables = module.init(key, z)
        # Here a dict is still in the order in which it was made.
        paths.extend(traverse_util.flatten_dict(variables, sep="/"))
        return variables

    z = jax.ShapeDtypeStruct((1, module.latent_size), jnp.float32)
    jax.eval_shape(init, jax.random.key(0), z)
    return paths
