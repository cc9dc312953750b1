"""R3GAN generator (Huang et al. 2024, arXiv:2501.05441): a ResNet without normalisation."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from lsh_gan.generators import layers
from lsh_gan.generators.conditioning import ClassEmbedding, one_hot

_conv_1x1 = partial(layers.conv, padding=0)
_INIT = nn.initializers.lecun_normal()


class GroupedBlock(nn.Module):
    """1×1, leaky ReLU, grouped 3×3, leaky ReLU, 1×1; plus the input.

    Attributes:
        width: Channels between the convolutions.
        groups: Of the 3×3 convolution.
    """

    width: int
    groups: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `x [n, h, w, c]` to the same shape."""
        y = layers.Convolution(self.width, 1, _conv_1x1, name="conv_1")(x)
        y = nn.leaky_relu(y, 0.2)
        # A grouped kernel holds the inputs of one group only, which Convolution cannot express.
        y = GroupedConvolution(self.width, self.groups, name="conv_2")(y)
        y = nn.leaky_relu(y, 0.2)
        return x + layers.Convolution(x.shape[-1], 1, _conv_1x1, use_bias=False, name="conv_3")(y)


class GroupedConvolution(nn.Module):
    """A 3×3 convolution whose channels only meet inside of their group, with bias.

    Attributes:
        features: Output channels.
        groups: Number of groups.
    """

    features: int
    groups: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `x [n, h, w, i]` to `[n, h, w, features]`."""
        kernel = self.param("kernel", _INIT, (3, 3, x.shape[-1] // self.groups, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            ((1, 1), (1, 1)),
            dimension_numbers=layers.DIMENSIONS,
            feature_group_count=self.groups,
        )
        return y + bias


class R3GAN(nn.Module):
    """Learnt 4×4 basis scaled by the latent → stages of residual blocks → image.

    The resolution is `4 * 2 ** (len(channels) - 1)`.

    Attributes:
        latent_size: Size of the latent vector.
        channels: Channels of each stage.
        widths: Channels inside of the blocks of each stage.
        groups: Groups of the 3×3 convolutions of each stage.
        blocks: Number of blocks of each stage.
        num_classes: 0 for an unconditional generator.
        embedding_size: Size of the class embedding.
        image_channels: 1 (grey) or 3 (RGB).
    """

    latent_size: int = 64
    channels: tuple[int, ...] = (768, 768, 768, 768)
    widths: tuple[int, ...] = (1536, 1536, 1536, 1536)
    groups: tuple[int, ...] = (96, 96, 96, 96)
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    num_classes: int = 0
    embedding_size: int = 0
    image_channels: int = 3

    @nn.compact
    def __call__(self, z: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        """Generates images.

        Args:
            z: Latents, float32 `[n, latent_size]`, standard normal.
            labels: Classes `[n]`, or their weights `[n, num_classes]`; None is class 0.

        Returns:
            Images, float32 `[n, h, w, image_channels]`, about [-1, 1], not clipped.
        """
        if self.num_classes:
            classes = one_hot(labels, len(z), self.num_classes)
            embedded = ClassEmbedding(self.embedding_size, name="embedding")(classes)
            z = jnp.concatenate([z, embedded], axis=1)
        basis = self.param("basis", nn.initializers.normal(1.0), (4, 4, self.channels[0]))
        scale = nn.Dense(self.channels[0], use_bias=False, name="project")(z)
        x = basis * scale[:, None, None]
        for i, features in enumerate(self.channels):
            x = self._upsample(x, i, features) if i else x
            for j in range(self.blocks[i]):
                block = GroupedBlock(self.widths[i], self.groups[i], name=f"block_{i}_{j}")
                x = block(x)
            self.sow("intermediates", f"stage_{i}", x)
        to_image = layers.Convolution(
            self.image_channels, 1, _conv_1x1, use_bias=False, name="to_image"
        )
        return to_image(x)

    def _upsample(self, x: jax.Array, stage: int, features: int) -> jax.Array:
        if features != x.shape[-1]:
            conv = layers.Convolution(features, 1, _conv_1x1, use_bias=False, name=f"up_{stage}")
            x = conv(x)
        return layers.upsample_bilinear(x, mode="constant")
