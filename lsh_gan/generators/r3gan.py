"""R3GAN generator (Huang et al. 2024, arXiv:2501.05441): a ResNet without normalisation."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lsh_gan.generators import layers
from lsh_gan.generators.layers import ClassEmbedding, one_hot


class GroupedBlock(nn.Module):
    """Residual block: 1×1, leaky ReLU, grouped 3×3, leaky ReLU, 1×1."""

    width: int  # channels between the convolutions
    groups: int  # groups of the 3×3 convolution

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `x [n, h, w, c]` to the same shape."""
        y = layers.Convolution1x1(self.width, name="conv_1")(x)
        grouped = nn.Conv(
            self.width, (3, 3), padding=1, feature_group_count=self.groups,
            conv_general_dilated=layers.conv_by_groups, name="conv_2",
        )  # fmt: skip
        y = nn.leaky_relu(grouped(nn.leaky_relu(y, 0.2)), 0.2)
        return x + layers.Convolution1x1(x.shape[-1], use_bias=False, name="conv_3")(y)


class R3GAN(nn.Module):
    """Learnt 4×4 basis, scaled per channel by the latent → stages of residual blocks → image.

    The resolution is `4 * 2 ** (len(channels) - 1)`.
    """

    latent_size: int = 64  # size of the latent vector
    channels: tuple[int, ...] = (768, 768, 768, 768)  # channels of each stage
    # Channels inside the blocks of each stage.
    widths: tuple[int, ...] = (1536, 1536, 1536, 1536)
    groups: tuple[int, ...] = (96, 96, 96, 96)  # groups of the 3×3 convolutions of each stage
    blocks: tuple[int, ...] = (2, 2, 2, 2)  # number of blocks of each stage
    num_classes: int = 0  # 0 for an unconditional generator
    embedding_size: int = 0  # size of the class embedding
    image_channels: int = 3  # 1 (grey) or 3 (RGB)

    @nn.compact
    def __call__(self, z: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        """Makes images `[n, h, w, image_channels]`, about [-1, 1]; see `Generator`."""
        if self.num_classes:
            classes = one_hot(labels, len(z), self.num_classes)
            embedded = ClassEmbedding(self.embedding_size, name="embedding")(classes)
            z = jnp.concatenate([z, embedded], axis=1)
        basis = self.param("basis", nn.initializers.normal(1.0), (4, 4, self.channels[0]))
        scale = nn.Dense(self.channels[0], use_bias=False, name="project")(z)
        x = basis * scale[:, None, None]
        for i, features in enumerate(self.channels):
            if i > 0:
                if features != x.shape[-1]:
                    x = layers.Convolution1x1(features, use_bias=False, name=f"up_{i}")(x)
                x = layers.upsample_bilinear(x, mode="constant")
            for j in range(self.blocks[i]):
                x = GroupedBlock(self.widths[i], self.groups[i], name=f"block_{i}_{j}")(x)
            self.sow("intermediates", f"stage_{i}", x)
        return layers.Convolution1x1(self.image_channels, use_bias=False, name="to_image")(x)
