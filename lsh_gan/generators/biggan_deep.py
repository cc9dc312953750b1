"""BigGAN-deep generator (Brock et al. 2019, arXiv:1809.11096, appendix B), with bottlenecks.

Spectral normalisation of weights is folded into them when a checkpoint is converted.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lsh_gan.errors import choose
from lsh_gan.generators import layers
from lsh_gan.generators.biggan import FinalNorm
from lsh_gan.generators.conditioning import ClassEmbedding, ConditionalNorm, SelfAttention, one_hot


class Bottleneck(nn.Module):
    """Four convolutions (1×1, 3×3, 3×3, 1×1) on a quarter of the channels, plus a skip.

    The skip drops channels instead of convolving.
    """

    features: int  # output channels, at most the input's
    up: bool  # whether the side is doubled
    epsilon: float  # of the norms
    rows: int  # of statistics, see `BatchStatistics`
    slope: float = 0.0  # of the activations below 0; 0 is ReLU

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array, truncation: float) -> jax.Array:
        """Maps `x [n, h, w, i]`, `condition [n, k]` to `[n, h', w', features]`."""
        inner = x.shape[-1] // 4
        upsampling = layers.upsample_conv_3x3 if self.up else layers.conv_3x3
        functions = (layers.conv_1x1, upsampling, layers.conv_3x3, layers.conv_1x1)
        y = x
        for i, function in enumerate(functions):
            norm = ConditionalNorm(self.epsilon, self.rows, name=f"norm_{i + 1}")
            y = layers.leaky_relu(norm(y, condition, truncation), self.slope)
            size = 1 if function is layers.conv_1x1 else 3
            features = self.features if i == 3 else inner
            y = layers.Convolution(features, size, function, name=f"conv_{i + 1}")(y)
        x = x[..., : self.features]
        return y + (x.repeat(2, axis=1).repeat(2, axis=2) if self.up else x)


class BigGANDeep(nn.Module):
    """Latent and class → dense → bottlenecks → 3×3 convolution → tanh."""

    latent_size: int = 128  # size of the latent vector
    embedding_size: int = 128  # size of the class embedding
    base_channels: int = 2048  # channels of the first image
    # For each block its output channels and whether it doubles the side.
    blocks: tuple[tuple[int, bool], ...] = ((2048, True), (1024, True), (512, True))
    # Numbers of blocks that self-attention follows (1 is the first).
    attention: tuple[int, ...] = ()
    num_classes: int = 1000  # number of classes
    hierarchical: bool = True  # the latent too conditions the norms, and the class the first image
    image_channels: int = 3  # 1 (grey) or 3 (RGB)
    bottom_width: int = 4  # side of the first image
    epsilon: float = 1e-4  # of the blocks' norms
    final_epsilon: float = 1e-4  # of the last norm
    statistics_rows: int = 0  # 0, or the number of truncations that statistics are stored for
    slope: float = 0.0  # of the activations below 0; 0 is ReLU
    output: str = "tanh"  # "tanh", "sigmoid" or "none"

    @nn.compact
    def __call__(
        self, z: jax.Array, labels: jax.Array | None = None, truncation_psi: float = 1.0
    ) -> jax.Array:
        """Makes images `[n, h, w, image_channels]` in [-1, 1]; arguments as of `Generator`.

        `truncation_psi`, static, selects the statistics.

        Raises:
            ValueError: A truncation for a generator with one set of statistics.
        """
        if truncation_psi != 1 and not self.statistics_rows:
            raise ValueError(f"truncation_psi is {truncation_psi}: only 1 has statistics here")
        classes = one_hot(labels, len(z), self.num_classes)
        embedded = ClassEmbedding(self.embedding_size, name="embedding")(classes)
        both = jnp.concatenate([z, embedded], axis=1)
        condition = both if self.hierarchical else embedded
        shape = (self.bottom_width, self.bottom_width, self.base_channels)
        x = nn.DenseGeneral(shape, name="project")(both if self.hierarchical else z)
        for i, (features, up) in enumerate(self.blocks):
            block = Bottleneck(
                features, up, self.epsilon, self.statistics_rows, self.slope, name=f"block_{i}"
            )
            x = block(x, condition, truncation_psi)
            if i + 1 in self.attention:
                x = SelfAttention(name=f"attention_{i}")(x)
        norm = FinalNorm(self.final_epsilon, self.statistics_rows, name="norm")
        x = layers.leaky_relu(norm(x, truncation_psi), self.slope)
        x = layers.Convolution(self.image_channels, 3, layers.conv_3x3, name="to_image")(x)
        return choose("output", self.output, layers.OUTPUTS)(x)
