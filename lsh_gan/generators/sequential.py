"""Layers one after the other, each with settings of its own: the many variants of DCGAN."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lsh_gan.errors import choose
from lsh_gan.generators import layers

_ACTIVATIONS: dict[str, Callable[..., jax.Array]] = {
    "none": lambda x: x,
    "relu": nn.relu,
    "leaky_relu": lambda x, slope: nn.leaky_relu(x, slope),
    "elu": lambda x, alpha=1.0: nn.elu(x, alpha),
    "selu": nn.selu,
    "gelu": partial(nn.gelu, approximate=False),
    "silu": nn.silu,
    "softplus": nn.softplus,
    "tanh": jnp.tanh,
    "sigmoid": nn.sigmoid,
}


class Sequential(nn.Module):
    """Latent → `layers` in their order → images.

    Kinds of layers, with their settings (pairs are height and width):

    * `conv_transpose`: features, kernel, stride, padding, output_padding, dilation (pairs), groups,
      bias. A latent is an image of one pixel.
    * `conv`: features, kernel, stride, dilation (pairs), padding (two pairs: before and after),
      padding_mode ("constant", "reflect", "edge", "wrap"), groups, bias.
    * `dense`: features, bias.  `reshape`: shape (channels, height, width), as PyTorch's view.
    * `batch_norm` (stored statistics): epsilon, affine.  `group_norm`: groups (0: one a channel,
      which is an instance norm), epsilon, affine.
    * `upsample`: factor (pair), mode ("nearest", "bilinear" without aligned corners).
    * `pad`: padding (two pairs), mode.
    * activations: none, relu, leaky_relu (slope), elu (alpha), selu, gelu, silu, softplus, tanh,
      sigmoid.

    Attributes:
        latent_size: Size of the latent vector.
        layers: Mappings with `kind` and the settings of that kind.
    """

    latent_size: int = 100
    layers: tuple[Mapping[str, Any], ...] = ()

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """Makes images `[n, h, w, c]`, in the range of the last activation."""
        x = z
        for i, layer in enumerate(self.layers):
            kind = layer["kind"]
            settings = {name: value for name, value in layer.items() if name != "kind"}
            if kind in _LAYERS:
                x = _LAYERS[kind](x, f"{kind}_{i}", **settings)
            else:
                x = choose("layer", kind, {**_ACTIVATIONS, **_LAYERS})(x, **settings)
        return x


def _conv_transpose(x, name, *, features, kernel, bias, groups, **geometry):
    x = x if x.ndim == 4 else x[:, None, None]
    function = partial(layers.conv_transpose, groups=groups, **geometry)
    return layers.Convolution(features, kernel, function, bias, groups=groups, name=name)(x)


def _conv(x, name, *, features, kernel, bias, groups, **geometry):
    function = partial(layers.conv_general, groups=groups, **geometry)
    return layers.Convolution(features, kernel, function, bias, groups=groups, name=name)(x)


def _reshape(x, name, *, shape):
    return x.reshape(-1, *shape).transpose(0, 2, 3, 1)


def _batch_norm(x, name, *, epsilon, affine):
    return nn.BatchNorm(
        use_running_average=True, epsilon=epsilon, use_bias=affine, use_scale=affine, name=name
    )(x)


def _group_norm(x, name, *, groups, epsilon, affine):
    return nn.GroupNorm(
        groups or x.shape[-1], epsilon=epsilon, use_bias=affine, use_scale=affine,
        use_fast_variance=False, name=name,
    )(x)  # fmt: skip


def _upsample(x, name, *, factor, mode):
    if mode == "nearest":
        return x.repeat(factor[0], axis=1).repeat(factor[1], axis=2)
    n, h, w, c = x.shape
    return jax.image.resize(x, (n, h * factor[0], w * factor[1], c), mode)


_LAYERS: dict[str, Callable[..., jax.Array]] = {
    "conv_transpose": _conv_transpose,
    "conv": _conv,
    "dense": lambda x, name, *, features, bias: nn.Dense(features, use_bias=bias, name=name)(x),
    "reshape": _reshape,
    "batch_norm": _batch_norm,
    "group_norm": _group_norm,
    "upsample": _upsample,
    "pad": lambda x, name, *, padding, mode: jnp.pad(x, ((0, 0), *padding, (0, 0)), mode),
}
