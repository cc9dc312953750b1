"""ResNet generator of SNGAN (Miyato et al. 2018, arXiv:1802.05957, table 4).

Spectral normalisation acts on the discriminator, which is needed for training only.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from lsh_gan.generators import layers

_KERNEL_INIT = nn.initializers.glorot_uniform()
_conv_3x3 = partial(layers.conv, padding=1)
_conv_1x1 = partial(layers.conv, padding=0)


class ResidualBlock(nn.Module):
    """Batch norm, ReLU, upsample, 3×3; batch norm, ReLU, 3×3; plus an upsampled 1×1 shortcut.

    Attributes:
        features: Number of output channels.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps `x [n, h, w, i]` to `[n, 2h, 2w, features]`."""
        y = _norm_relu(x, train, "norm_1")
        y = _convolution(self.features, 3, layers.upsample_conv_3x3, "conv_1")(y)
        y = _norm_relu(y, train, "norm_2")
        y = _convolution(self.features, 3, _conv_3x3, "conv_2")(y)
        # Nearest upsampling commutes with a 1×1 convolution: convolve the smaller image.
        shortcut = _convolution(self.features, 1, _conv_1x1, "shortcut")(x)
        return y + shortcut.repeat(2, axis=1).repeat(2, axis=2)


class SNGAN(nn.Module):
    """Latent → dense 4×4 → residual blocks, each doubling the side → 3×3 convolution → tanh.

    The resolution is `4 * 2 ** len(channels)`.

    Attributes:
        latent_size: Size of the latent vector.
        base_channels: Channels of the 4×4 image.
        channels: Output channels of each residual block.
        image_channels: 1 (grey) or 3 (RGB).
    """

    latent_size: int = 128
    base_channels: int = 128
    channels: tuple[int, ...] = (128, 64, 24)
    image_channels: int = 1

    @nn.compact
    def __call__(self, z: jax.Array, train: bool = False) -> jax.Array:
        """Generates images.

        Args:
            z: Latents, float32 `[n, latent_size]`, standard normal.
            train: Normalise by the batch's own statistics and update `batch_stats`.

        Returns:
            Images, float32 `[n, h, w, image_channels]` in [-1, 1].
        """
        shape = (4, 4, self.base_channels)
        x = nn.DenseGeneral(shape, kernel_init=_KERNEL_INIT, name="project")(z)
        for i, features in enumerate(self.channels):
            x = ResidualBlock(features, name=f"block_{i}")(x, train)
        x = _norm_relu(x, train, "norm")
        return jnp.tanh(_convolution(self.image_channels, 3, _conv_3x3, "to_image")(x))


def _convolution(features: int, size: int, function, name: str) -> nn.Module:
    return layers.Convolution(features, size, function, kernel_init=_KERNEL_INIT, name=name)


def _norm_relu(x: jax.Array, train: bool, name: str) -> jax.Array:
    norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name)
    return nn.relu(norm(x))
