"""BigGAN generator (Brock et al. 2019, arXiv:1809.11096).

Spectral normalisation of weights is folded into them when a checkpoint is converted.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from lsh_gan.errors import choose
from lsh_gan.generators import layers
from lsh_gan.generators.conditioning import (
    BatchStatistics,
    ClassEmbedding,
    ConditionalNorm,
    ResidualBlock,
    SelfAttention,
    one_hot,
)


class FinalNorm(nn.Module):
    """Stored statistics, then a learnt scale and bias."""

    epsilon: float = 1e-5  # added to the variance
    rows: int = 0  # of statistics, see `BatchStatistics`

    @nn.compact
    def __call__(self, x: jax.Array, truncation: float = 1.0) -> jax.Array:
        """Maps `x [n, h, w, c]` to the same shape."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        statistics = BatchStatistics(self.epsilon, self.rows, name="statistics")
        return statistics(x, truncation) * scale + bias


class BigGAN(nn.Module):
    """Latent → dense → residual blocks, each doubling the side → 3×3 convolution → tanh."""

    latent_size: int = 120  # size of the latent vector
    base_channels: int = 1536  # channels of the first image
    channels: tuple[int, ...] = (1536, 768, 384, 192, 96)  # output channels of each block
    num_classes: int = 1000  # number of classes
    # Size of the class embedding that all norms share; 0: each norm has tables.
    shared_size: int = 128
    # The latent is cut in one part for the dense layer and one for each block.
    hierarchical: bool = True
    # Numbers of blocks that self-attention follows (1 is the first).
    attention: tuple[int, ...] = (4,)
    image_channels: int = 3  # 1 (grey) or 3 (RGB)
    bottom_width: int = 4  # side of the first image
    epsilon: float = 1e-5  # of the blocks' norms
    final_epsilon: float = 1e-5  # of the last norm
    slope: float = 0.0  # of the activations below 0; 0 is ReLU
    output: str = "tanh"  # "tanh", "sigmoid" or "none"

    @nn.compact
    def __call__(self, z: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        """Makes images `[n, h, w, image_channels]` in [-1, 1]; arguments as of `Generator`."""
        condition = one_hot(labels, len(z), self.num_classes)
        if self.shared_size:
            condition = ClassEmbedding(self.shared_size, name="shared")(condition)
        conditions = [condition] * len(self.channels)
        if self.hierarchical:
            z, *chunks = jnp.split(z, len(self.channels) + 1, axis=1)
            conditions = [jnp.concatenate([condition, chunk], axis=1) for chunk in chunks]
        shape = (self.bottom_width, self.bottom_width, self.base_channels)
        x = nn.DenseGeneral(shape, name="project")(z)
        norm = partial(ConditionalNorm, self.epsilon, embedded=not self.shared_size)
        for i, features in enumerate(self.channels):
            block = ResidualBlock(features, norm, slope=self.slope, name=f"block_{i}")
            x = block(x, conditions[i])
            if i + 1 in self.attention:
                x = SelfAttention(name=f"attention_{i}")(x)
        x = layers.leaky_relu(FinalNorm(self.final_epsilon, name="norm")(x), self.slope)
        x = layers.Convolution(self.image_channels, 3, layers.conv_3x3, name="to_image")(x)
        return choose("output", self.output, layers.OUTPUTS)(x)
