"""Residual generators, most of them conditional on classes: SNGAN, SAGAN, BigGAN, BigGAN-deep.

Spectral normalisation is folded into the weights when a checkpoint is converted.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from lsh_gan.errors import choose
from lsh_gan.generators import layers
from lsh_gan.generators.layers import ClassEmbedding, one_hot

_KERNEL_INIT = nn.initializers.glorot_uniform()


class BatchStatistics(nn.Module):
    """Normalises by stored statistics: one set, or one row of statistics per truncation."""

    epsilon: float = 1e-5  # added to the variance
    rows: int = 0  # rows of statistics, for truncations 0 to 1 in equal steps; 0: one set

    @nn.compact
    def __call__(self, x: jax.Array, truncation: float = 1.0) -> jax.Array:
        """Maps `x [n, h, w, c]` to the same shape; `truncation` in [0, 1] selects the row.

        Between two rows, the original BigGAN-deep interpolates with the two weights exchanged.
        At a multiple of the step, the rounding of the division decides whether it interpolates.
        Both are kept, because the published images depend on them.
        """
        channels = x.shape[-1]
        shape = (self.rows, channels) if self.rows else (channels,)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape).value
        var = self.variable("batch_stats", "var", jnp.ones, shape).value
        if self.rows:
            position = truncation / (1.0 / (self.rows - 1))
            row = int(position)
            share = position - row
            if share:
                mean, var = (s[row] * share + s[row + 1] * (1 - share) for s in (mean, var))
            else:
                mean, var = mean[row], var[row]
        return (x - mean) * jax.lax.rsqrt(var + self.epsilon)


class StoredNorm(nn.Module):
    """Applies stored statistics, a scale `offset + f(condition)` and a bias `g(condition)`.

    Without a condition, scale and bias are parameters.
    """

    epsilon: float = 1e-5  # added to the variance
    rows: int = 0  # rows of statistics, see `BatchStatistics`
    embedded: bool = False  # whether f and g are class embeddings; else they are dense layers
    offset: float = 1.0

    @nn.compact
    def __call__(
        self, x: jax.Array, condition: jax.Array | None, truncation: float = 1.0
    ) -> jax.Array:
        """Maps `x [n, h, w, c]`, `condition [n, k]` to `[n, h, w, c]`."""
        channels = x.shape[-1]
        if condition is None:
            scale = self.param("scale", nn.initializers.ones, (channels,))
            bias = self.param("bias", nn.initializers.zeros, (channels,))
        else:
            layer = ClassEmbedding if self.embedded else partial(nn.Dense, use_bias=False)
            scale = self.offset + layer(channels, name="scale")(condition)[:, None, None]
            bias = layer(channels, name="bias")(condition)[:, None, None]
        statistics = BatchStatistics(self.epsilon, self.rows, name="statistics")
        return statistics(x, truncation) * scale + bias


class ResidualBlock(nn.Module):
    """Norm, ReLU, upsample, 3×3; norm, ReLU, 3×3; plus an upsampled 1×1 shortcut."""

    features: int  # output channels
    norm: Callable[..., nn.Module]  # makes a norm with a given name
    upsample: str = "nearest"  # "nearest" or "bilinear"
    slope: float = 0.0  # negative slope of the activations; 0 is ReLU
    kernel_init: nn.initializers.Initializer = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, x: jax.Array, *inputs: jax.Array) -> jax.Array:
        """Maps `x [n, h, w, i]`, and further inputs of the norms, to `[n, 2h, 2w, features]`."""
        upsample_conv, upsample = choose("upsampling", self.upsample, layers.UPSAMPLINGS)
        conv = partial(layers.Convolution, self.features, kernel_init=self.kernel_init)
        y = nn.leaky_relu(self.norm(name="norm_1")(x, *inputs), self.slope)
        y = conv(3, upsample_conv, name="conv_1")(y)
        y = nn.leaky_relu(self.norm(name="norm_2")(y, *inputs), self.slope)
        y = conv(3, layers.conv_3x3, name="conv_2")(y)
        # Upsampling commutes with a 1×1 convolution: convolve the smaller image.
        return y + upsample(conv(1, layers.conv_1x1, name="shortcut")(x))


class SelfAttention(nn.Module):
    """Self-attention over pixels (Zhang et al. 2019, arXiv:1805.08318); pools keys and values by 2.

    Returns `gamma * attended + x`, with 1/8 of the channels for queries and keys, 1/2 for values.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `x [n, h, w, c]` to the same shape."""
        n, h, w, channels = x.shape
        project = partial(layers.Convolution1x1, use_bias=False)

        def pooled(y: jax.Array) -> jax.Array:
            return nn.max_pool(y, (2, 2), strides=(2, 2)).reshape(n, -1, y.shape[-1])

        query = project(channels // 8, name="query")(x).reshape(n, h * w, -1)
        key = pooled(project(channels // 8, name="key")(x))
        value = pooled(project(channels // 2, name="value")(x))
        weights = nn.softmax(jnp.einsum("nqc,nkc->nqk", query, key))
        attended = jnp.einsum("nqk,nkc->nqc", weights, value).reshape(n, h, w, -1)
        gamma = self.param("gamma", nn.initializers.zeros, ())
        return gamma * project(channels, name="output")(attended) + x


class SNGAN(nn.Module):
    """ResNet of SNGAN (Miyato et al. 2018, arXiv:1802.05957, table 4) and its descendants.

    Latent → dense → residual blocks, each doubling the side → 3×3 convolution → tanh. With classes
    it is the generator of the projection cGAN (Miyato & Koyama 2018, arXiv:1802.05637); with
    classes and self-attention, that of SAGAN. The resolution is
    `bottom_width * 2 ** len(channels)`.
    """

    latent_size: int = 128  # size of the latent vector
    base_channels: int = 128  # channels of the first image
    channels: tuple[int, ...] = (128, 64, 24)  # output channels of each residual block
    image_channels: int = 1  # 1 (grey) or 3 (RGB)
    upsample: str = "nearest"  # "nearest" or "bilinear"
    bottom_width: int = 4  # side of the first image
    # Number of classes, 0 for an unconditional generator. With classes the blocks normalise by
    # stored statistics only: such a generator can be converted, but not trained here.
    num_classes: int = 0
    attention: int = 0  # number of blocks before self-attention, 0 for none
    epsilon: float = 1e-5  # of the norms, added to the variance
    slope: float = 0.0  # negative slope of the activations; 0 is ReLU
    output: str = "tanh"  # "tanh", "sigmoid" or "none"

    @nn.compact
    def __call__(
        self, z: jax.Array, train: bool = False, labels: jax.Array | None = None
    ) -> jax.Array:
        """Makes images `[n, h, w, image_channels]` in [-1, 1]; see `Generator` for arguments.

        If `train`, the norms use the statistics of the batch and update `batch_stats`.
        """
        shape = (self.bottom_width, self.bottom_width, self.base_channels)
        x = nn.DenseGeneral(shape, kernel_init=_KERNEL_INIT, name="project")(z)
        plain = partial(
            nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=self.epsilon
        )
        norm: Callable[..., nn.Module] = plain
        inputs: tuple[jax.Array, ...] = ()
        if self.num_classes:
            norm = partial(StoredNorm, self.epsilon, embedded=True, offset=0.0)
            inputs = (one_hot(labels, len(z), self.num_classes),)
        for i, features in enumerate(self.channels):
            block = ResidualBlock(
                features, norm, self.upsample, self.slope, _KERNEL_INIT, name=f"block_{i}"
            )
            x = block(x, *inputs)
            if i + 1 == self.attention:
                x = SelfAttention(name="attention")(x)
        x = nn.leaky_relu(plain(name="norm")(x), self.slope)
        return layers.to_image(x, self.image_channels, self.output, kernel_init=_KERNEL_INIT)


class BigGAN(nn.Module):
    """BigGAN (Brock et al. 2019, arXiv:1809.11096).

    Latent → dense → residual blocks, each doubling the side → 3×3 convolution → tanh.
    """

    latent_size: int = 120  # size of the latent vector
    base_channels: int = 1536  # channels of the first image
    channels: tuple[int, ...] = (1536, 768, 384, 192, 96)  # output channels of each block
    num_classes: int = 1000  # number of classes
    shared_size: int = 128  # size of the class embedding that norms share; 0: each has its own
    hierarchical: bool = True  # whether the dense layer and each block get a part of the latent
    attention: tuple[int, ...] = (4,)  # blocks followed by self-attention, counted from 1
    image_channels: int = 3  # 1 (grey) or 3 (RGB)
    bottom_width: int = 4  # side of the first image
    epsilon: float = 1e-5  # of the blocks' norms
    final_epsilon: float = 1e-5  # of the last norm
    slope: float = 0.0  # negative slope of the activations; 0 is ReLU
    output: str = "tanh"  # "tanh", "sigmoid" or "none"

    @nn.compact
    def __call__(self, z: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        """Makes images `[n, h, w, image_channels]` in [-1, 1]; see `Generator` for arguments."""
        condition = one_hot(labels, len(z), self.num_classes)
        if self.shared_size:
            condition = ClassEmbedding(self.shared_size, name="shared")(condition)
        conditions = [condition] * len(self.channels)
        if self.hierarchical:
            z, *chunks = jnp.split(z, len(self.channels) + 1, axis=1)
            conditions = [jnp.concatenate([condition, chunk], axis=1) for chunk in chunks]
        shape = (self.bottom_width, self.bottom_width, self.base_channels)
        x = nn.DenseGeneral(shape, name="project")(z)
        norm = partial(StoredNorm, self.epsilon, embedded=not self.shared_size)
        for i, features in enumerate(self.channels):
            block = ResidualBlock(features, norm, slope=self.slope, name=f"block_{i}")
            x = block(x, conditions[i])
            if i + 1 in self.attention:
                x = SelfAttention(name=f"attention_{i}")(x)
        x = nn.leaky_relu(StoredNorm(self.final_epsilon, name="norm")(x, None), self.slope)
        return layers.to_image(x, self.image_channels, self.output)


class Bottleneck(nn.Module):
    """1×1, 3×3, 3×3, 1×1 with a quarter of the channels; the skip drops surplus channels."""

    features: int  # output channels, at most as many as input channels
    up: bool  # whether the side is doubled
    epsilon: float  # of the norms
    rows: int  # rows of statistics, see `BatchStatistics`
    slope: float = 0.0  # negative slope of the activations; 0 is ReLU

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array, truncation: float) -> jax.Array:
        """Maps `x [n, h, w, i]`, `condition [n, k]` to `[n, h', w', features]`."""
        inner = x.shape[-1] // 4
        upsampling = layers.upsample_conv_3x3 if self.up else layers.conv_3x3
        functions = (layers.conv_1x1, upsampling, layers.conv_3x3, layers.conv_1x1)
        y = x
        for i, function in enumerate(functions):
            norm = StoredNorm(self.epsilon, self.rows, name=f"norm_{i + 1}")
            y = nn.leaky_relu(norm(y, condition, truncation), self.slope)
            size = 1 if function is layers.conv_1x1 else 3
            features = self.features if i == 3 else inner
            y = layers.Convolution(features, size, function, name=f"conv_{i + 1}")(y)
        x = x[..., : self.features]
        return y + (x.repeat(2, axis=1).repeat(2, axis=2) if self.up else x)


class BigGANDeep(nn.Module):
    """BigGAN-deep (Brock et al. 2019, appendix B).

    Latent and class → dense → bottlenecks → 3×3 convolution → tanh.
    """

    latent_size: int = 128  # size of the latent vector
    embedding_size: int = 128  # size of the class embedding
    base_channels: int = 2048  # channels of the first image
    # For each block: its output channels, and whether it doubles the side.
    blocks: tuple[tuple[int, bool], ...] = ((2048, True), (1024, True), (512, True))
    attention: tuple[int, ...] = ()  # blocks followed by self-attention, counted from 1
    num_classes: int = 1000  # number of classes
    hierarchical: bool = True  # whether norms also get the latent, and the first image the class
    image_channels: int = 3  # 1 (grey) or 3 (RGB)
    bottom_width: int = 4  # side of the first image
    epsilon: float = 1e-4  # of the blocks' norms
    final_epsilon: float = 1e-4  # of the last norm
    statistics_rows: int = 0  # number of truncations with stored statistics; 0: one set
    slope: float = 0.0  # negative slope of the activations; 0 is ReLU
    output: str = "tanh"  # "tanh", "sigmoid" or "none"

    @nn.compact
    def __call__(
        self, z: jax.Array, labels: jax.Array | None = None, truncation_psi: float = 1.0
    ) -> jax.Array:
        """Makes images `[n, h, w, image_channels]` in [-1, 1]; see `Generator` for arguments.

        `truncation_psi`, static, selects the statistics.

        Raises:
            ValueError: `truncation_psi` is not 1, but there is one set of statistics.
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
        norm = StoredNorm(self.final_epsilon, self.statistics_rows, name="norm")
        x = nn.leaky_relu(norm(x, None, truncation_psi), self.slope)
        return layers.to_image(x, self.image_channels, self.output)
