"""Generators without residual branches: DCGAN, its many variants, and Progressive GAN.

The gains of Progressive GAN's layers ("equalized learning rate") are folded into the weights when a
checkpoint is converted.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lsh_gan.errors import choose
from lsh_gan.generators import layers
from lsh_gan.generators.layers import one_hot


class DCGAN(nn.Module):
    """DCGAN (Radford et al. 2016, arXiv:1511.06434).

    Latent → 4×4 → transposed convolutions, each doubling the side → tanh. The resolution is
    `4 * 2 ** len(channels)`.
    """

    latent_size: int = 128  # size of the latent vector
    # Channels at 4×4 and after each doubling except the last.
    channels: tuple[int, ...] = (256, 128, 64)
    image_channels: int = 1  # 1 (grey) or 3 (RGB)
    num_classes: int = 0  # classes, whose weights are appended to the latent; 0: unconditional

    @nn.compact
    def __call__(
        self, z: jax.Array, train: bool = False, labels: jax.Array | None = None
    ) -> jax.Array:
        """Makes images `[n, h, w, image_channels]` in [-1, 1]; see `Generator` for arguments.

        If `train`, the norms use the statistics of the batch and update `batch_stats`.
        """
        if self.num_classes:
            z = jnp.concatenate([z, one_hot(labels, len(z), self.num_classes)], axis=-1)
        first, *rest = self.channels
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5)
        up = partial(
            layers.Convolution, kernel_size=4, function=layers.conv_transpose_4x4, use_bias=False
        )
        # A transposed convolution of a 1×1 image is a dense layer onto the 4×4 grid.
        init = nn.initializers.normal(0.02)
        x = nn.DenseGeneral((4, 4, first), use_bias=False, kernel_init=init, name="project")(z)
        x = nn.relu(norm(name="norm_0")(x))
        for i, features in enumerate(rest):
            x = up(features, name=f"up_{i}")(x)
            x = nn.relu(norm(name=f"norm_{i + 1}")(x))
        return jnp.tanh(up(self.image_channels, name="to_image")(x))


_ACTIVATIONS: dict[str, Callable[..., jax.Array]] = {
    "none": lambda x: x,
    "leaky_relu": lambda x, slope: nn.leaky_relu(x, slope),
    "gelu": partial(nn.gelu, approximate=False),
    "relu": nn.relu, "elu": nn.elu, "selu": nn.selu, "silu": nn.silu,
    "softplus": nn.softplus, "tanh": nn.tanh, "sigmoid": nn.sigmoid,
}  # fmt: skip


class Sequential(nn.Module):
    """A chain of layers, each with its own settings, for the many variants of DCGAN.

    Kinds of layers and their settings (pairs are height and width):

    * `conv_transpose`: features, kernel, stride, padding, output_padding, dilation (pairs), groups,
      bias. A latent is an image of one pixel.
    * `conv`: features, kernel, stride, dilation (pairs), padding (two pairs: before and after),
      padding_mode ("constant", "reflect", "edge", "wrap"), groups, bias.
    * `dense`: features, bias.  `reshape`: shape (channels, height, width), as in PyTorch's `view`.
    * `batch_norm` (stored statistics): epsilon, affine.  `group_norm`: groups (0: one per channel,
      which is an instance norm), epsilon, affine.
    * `upsample`: factor (pair), mode ("nearest", "bilinear" without aligned corners).
    * `pad`: padding (two pairs), mode.
    * activations: none, relu, leaky_relu (slope), elu (alpha), selu, gelu, silu, softplus, tanh,
      sigmoid.
    """

    latent_size: int = 100  # size of the latent vector
    layers: tuple[Mapping[str, Any], ...] = ()  # each: `kind`, and the settings of that kind
    num_classes: int = 0  # 0: unconditional
    embedding_size: int = 0  # size of the learnt vector of a class; 0: its one-hot vector
    class_vector: str = "after"  # its place: "before" or "after" the latent, or "multiply" by it

    @nn.compact
    def __call__(self, z: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        """Makes images `[n, h, w, c]`, in the range of the last activation; see `Generator`."""
        x = z
        if self.num_classes:
            vector = one_hot(labels, len(z), self.num_classes)
            if self.embedding_size:
                vector = layers.ClassEmbedding(self.embedding_size, name="embedding")(vector)
            x = choose("class_vector", self.class_vector, _JOINED)(z, vector)
        for i, options in enumerate(self.layers):
            kind = options["kind"]
            settings = {name: value for name, value in options.items() if name != "kind"}
            layer = choose("layer", kind, {**_ACTIVATIONS, **_LAYERS})
            x = layer(x, f"{kind}_{i}", **settings) if kind in _LAYERS else layer(x, **settings)
        return x


_JOINED: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "before": lambda z, vector: jnp.concatenate([vector, z], axis=1),
    "after": lambda z, vector: jnp.concatenate([z, vector], axis=1),
    "multiply": lambda z, vector: z * vector,
}


def _conv_transpose(x, name, *, features, kernel, bias, groups, **geometry):
    x = x if x.ndim == 4 else x[:, None, None]
    function = partial(layers.conv_transpose, groups=groups, **geometry)
    return layers.Convolution(features, kernel, function, bias, groups=groups, name=name)(x)


def _conv(
    x, name, *, features, kernel, bias, groups, stride, padding, dilation, padding_mode="constant"
):
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)), padding_mode)
    return nn.Conv(
        features, kernel, stride, "VALID", kernel_dilation=dilation, feature_group_count=groups,
        use_bias=bias, conv_general_dilated=layers.conv_by_groups, name=name,
    )(x)  # fmt: skip


def _norm(x, name, *, epsilon, affine, groups=None):
    options = {"epsilon": epsilon, "use_bias": affine, "use_scale": affine, "name": name}
    if groups is None:
        return nn.BatchNorm(use_running_average=True, **options)(x)
    return nn.GroupNorm(groups or x.shape[-1], use_fast_variance=False, **options)(x)


def _upsample(x, name, *, factor, mode):
    n, h, w, c = x.shape
    return jax.image.resize(x, (n, h * factor[0], w * factor[1], c), mode)


_LAYERS: dict[str, Callable[..., jax.Array]] = {
    "conv_transpose": _conv_transpose,
    "conv": _conv,
    "dense": lambda x, name, *, features, bias: nn.Dense(features, use_bias=bias, name=name)(x),
    "reshape": lambda x, name, *, shape: x.reshape(-1, *shape).transpose(0, 2, 3, 1),
    "batch_norm": _norm,
    "group_norm": _norm,
    "upsample": _upsample,
    "pad": lambda x, name, *, padding, mode: jnp.pad(x, ((0, 0), *padding, (0, 0)), mode),
}


class ProGAN(nn.Module):
    """Progressive GAN (Karras et al. 2018, arXiv:1710.10196).

    Latent → dense layer onto 4×4 → 3×3 convolution → per scale, nearest upsampling and two 3×3
    convolutions → image. The resolution is `4 * 2 ** len(channels)`.
    """

    latent_size: int = 512  # size of the latent vector
    base_channels: int = 512  # channels at 4×4
    channels: tuple[int, ...] = (512, 512, 512, 256, 128)  # channels at 8×8, 16×16, ...
    image_channels: int = 3  # 1 (grey) or 3 (RGB)
    slope: float = 0.2  # negative slope of the leaky ReLU
    # Weight of the image of half the resolution, while training fades in the last scale; 0 after
    # training.
    alpha: float = 0.0
    tanh: bool = False  # whether the image goes through tanh, which depends on the training loss

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """Makes images `[n, h, w, image_channels]`, about [-1, 1]; see `Generator`."""
        dense = nn.DenseGeneral((4, 4, self.base_channels), name="project")
        x = self._activate(dense(layers.pixel_norm(z)))
        x = self._conv(x, self.base_channels, layers.conv_3x3, "conv")
        before = x
        for i, features in enumerate(self.channels):
            before = x
            x = self._conv(x, features, layers.upsample_conv_3x3, f"up_{i}")
            x = self._conv(x, features, layers.conv_3x3, f"conv_{i}")
        to_image = partial(layers.Convolution1x1, self.image_channels)
        image = to_image(name="to_image")(x)
        if self.alpha:
            old = to_image(name="to_image_before")(before).repeat(2, axis=1).repeat(2, axis=2)
            image = (1 - self.alpha) * image + self.alpha * old
        return jnp.tanh(image) if self.tanh else image

    def _activate(self, x: jax.Array) -> jax.Array:
        return layers.pixel_norm(nn.leaky_relu(x, self.slope))

    def _conv(self, x: jax.Array, features: int, function, name: str) -> jax.Array:
        return self._activate(layers.Convolution(features, 3, function, name=name)(x))
