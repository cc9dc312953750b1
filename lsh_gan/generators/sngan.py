"""ResNet generator of SNGAN (Miyato et al. 2018, arXiv:1802.05957, table 4) and its descendants.

With classes it is the generator of the projection cGAN (Miyato & Koyama 2018, arXiv:1802.05637),
with self-attention too that of SAGAN (Zhang et al. 2019, arXiv:1805.08318). Spectral normalisation
of weights is folded into them when a checkpoint is converted.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax

from lsh_gan.errors import choose
from lsh_gan.generators import layers
from lsh_gan.generators.conditioning import ConditionalNorm, SelfAttention, one_hot

_KERNEL_INIT = nn.initializers.glorot_uniform()


def _nearest(x: jax.Array) -> jax.Array:
    return x.repeat(2, axis=1).repeat(2, axis=2)


_bilinear = partial(layers.upsample_bilinear, mode="edge")
_UPSAMPLINGS: dict[str, tuple[Callable, Callable]] = {
    "nearest": (layers.upsample_conv_3x3, _nearest),
    "bilinear": (layers.upsample_bilinear_conv_3x3, _bilinear),
}


class ResidualBlock(nn.Module):
    """Batch norm, ReLU, upsample, 3×3; batch norm, ReLU, 3×3; plus an upsampled 1×1 shortcut."""

    features: int  # number of output channels
    upsample: str = "nearest"  # "nearest" or "bilinear"
    epsilon: float = 1e-5  # of the norms, added to the variance
    slope: float = 0.0  # of the activations below 0; 0 is ReLU

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, classes: jax.Array | None = None) -> jax.Array:
        """Maps `x [n, h, w, i]` to `[n, 2h, 2w, features]`; `classes [n, k]` are weights."""
        upsample_conv, upsample = choose("upsampling", self.upsample, _UPSAMPLINGS)
        norm_relu = partial(_norm_relu, epsilon=self.epsilon, slope=self.slope)
        y = norm_relu(x, train, "norm_1", classes)
        y = _convolution(self.features, 3, upsample_conv, "conv_1")(y)
        y = norm_relu(y, train, "norm_2", classes)
        y = _convolution(self.features, 3, layers.conv_3x3, "conv_2")(y)
        # Upsampling commutes with a 1×1 convolution: convolve the smaller image.
        shortcut = _convolution(self.features, 1, layers.conv_1x1, "shortcut")(x)
        return y + upsample(shortcut)


class SNGAN(nn.Module):
    """Latent → dense → residual blocks, each doubling the side → 3×3 convolution → tanh.

    The resolution is `bottom_width * 2 ** len(channels)`.
    """

    latent_size: int = 128  # size of the latent vector
    base_channels: int = 128  # channels of the first image
    channels: tuple[int, ...] = (128, 64, 24)  # output channels of each residual block
    image_channels: int = 1  # 1 (grey) or 3 (RGB)
    upsample: str = "nearest"  # "nearest" or "bilinear"
    bottom_width: int = 4  # side of the first image
    # Number of classes, 0 for an unconditional generator. With classes the blocks normalise by
    # stored statistics only: such a generator is converted, not trained here.
    num_classes: int = 0
    attention: int = 0  # number of blocks before self-attention, 0 for none
    epsilon: float = 1e-5  # of the norms, added to the variance
    slope: float = 0.0  # of the activations below 0; 0 is ReLU
    output: str = "tanh"  # "tanh", "sigmoid" or "none"

    @nn.compact
    def __call__(
        self, z: jax.Array, train: bool = False, labels: jax.Array | None = None
    ) -> jax.Array:
        """Makes images `[n, h, w, image_channels]` in [-1, 1]; arguments as of `Generator`.

        With `train` the norms use the batch's own statistics and update `batch_stats`.
        """
        classes = one_hot(labels, len(z), self.num_classes) if self.num_classes else None
        shape = (self.bottom_width, self.bottom_width, self.base_channels)
        x = nn.DenseGeneral(shape, kernel_init=_KERNEL_INIT, name="project")(z)
        for i, features in enumerate(self.channels):
            block = ResidualBlock(
                features, self.upsample, self.epsilon, self.slope, name=f"block_{i}"
            )
            x = block(x, train, classes)
            if i + 1 == self.attention:
                x = SelfAttention(name="attention")(x)
        x = _norm_relu(x, train, "norm", epsilon=self.epsilon, slope=self.slope)
        x = _convolution(self.image_channels, 3, layers.conv_3x3, "to_image")(x)
        return choose("output", self.output, layers.OUTPUTS)(x)


def _convolution(features: int, size: int, function, name: str) -> nn.Module:
    return layers.Convolution(features, size, function, kernel_init=_KERNEL_INIT, name=name)


def _norm_relu(
    x: jax.Array,
    train: bool,
    name: str,
    classes: jax.Array | None = None,
    *,
    epsilon: float,
    slope: float,
) -> jax.Array:
    if classes is not None:
        y = ConditionalNorm(epsilon, embedded=True, offset=0.0, name=name)(x, classes)
    else:
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        y = norm(epsilon=epsilon, name=name)(x)
    return layers.leaky_relu(y, slope)
