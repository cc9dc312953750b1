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
from lsh_gan.generators.conditioning import ConditionalNorm, ResidualBlock, SelfAttention, one_hot

_KERNEL_INIT = nn.initializers.glorot_uniform()


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
        shape = (self.bottom_width, self.bottom_width, self.base_channels)
        x = nn.DenseGeneral(shape, kernel_init=_KERNEL_INIT, name="project")(z)
        plain = partial(
            nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=self.epsilon
        )
        norm: Callable[..., nn.Module] = plain
        inputs: tuple[jax.Array, ...] = ()
        if self.num_classes:
            norm = partial(ConditionalNorm, self.epsilon, embedded=True, offset=0.0)
            inputs = (one_hot(labels, len(z), self.num_classes),)
        for i, features in enumerate(self.channels):
            block = ResidualBlock(
                features, norm, self.upsample, self.slope, _KERNEL_INIT, name=f"block_{i}"
            )
            x = block(x, *inputs)
            if i + 1 == self.attention:
                x = SelfAttention(name="attention")(x)
        x = layers.leaky_relu(plain(name="norm")(x), self.slope)
        to_image = layers.Convolution(
            self.image_channels, 3, layers.conv_3x3, kernel_init=_KERNEL_INIT, name="to_image"
        )
        return choose("output", self.output, layers.OUTPUTS)(to_image(x))
