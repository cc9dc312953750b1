"""Class labels, conditional normalisation and self-attention, as several families use them."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from lsh_gan.errors import choose
from lsh_gan.generators import layers


def one_hot(labels: jax.Array | None, n: int, num_classes: int) -> jax.Array:
    """Class weights, float32 `[n, num_classes]`.

    Labels are classes `[n]` (integer), or weights of the classes `[n, num_classes]` (float, a
    mixture of classes); None is class 0, for finding shapes.
    """
    if labels is None:
        labels = jnp.zeros(n, jnp.int32)
    if labels.ndim == 2:
        return labels.astype(jnp.float32)
    return jax.nn.one_hot(labels, num_classes)


class ClassEmbedding(nn.Module):
    """A learnt vector for each class."""

    features: int  # size of the vector

    @nn.compact
    def __call__(self, classes: jax.Array) -> jax.Array:
        """Maps class weights `[n, k]` to `[n, features]`."""
        shape = (classes.shape[-1], self.features)
        table = self.param("embedding", nn.initializers.normal(1.0), shape)
        return jnp.matmul(classes, table, precision="highest")  # a look-up: no rounding


class BatchStatistics(nn.Module):
    """Normalises by stored statistics; with several rows of them, by one for each truncation."""

    epsilon: float = 1e-5  # added to the variance
    # 0 for one mean and variance a channel; else the number of rows, which belong to truncations 0
    # to 1 in equal steps.
    rows: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, truncation: float = 1.0) -> jax.Array:
        """Maps `x [n, h, w, c]` to the same shape; `truncation` in [0, 1] selects the row.

        Between two rows the original of BigGAN-deep takes the weights in reverse, and at a
        multiple of the step the rounding of the division decides; both are kept, because the
        published images depend on them.
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


class ConditionalNorm(nn.Module):
    """Stored statistics, then a scale `offset + f(condition)` and a bias `g(condition)`."""

    epsilon: float = 1e-5  # added to the variance
    rows: int = 0  # of statistics, see `BatchStatistics`
    # The condition is class weights and f and g are tables; else they are dense.
    embedded: bool = False
    offset: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array, truncation: float = 1.0) -> jax.Array:
        """Maps `x [n, h, w, c]`, `condition [n, k]` to `[n, h, w, c]`."""
        layer = ClassEmbedding if self.embedded else partial(nn.Dense, use_bias=False)
        scale = self.offset + layer(x.shape[-1], name="scale")(condition)[:, None, None]
        bias = layer(x.shape[-1], name="bias")(condition)[:, None, None]
        statistics = BatchStatistics(self.epsilon, self.rows, name="statistics")
        return statistics(x, truncation) * scale + bias


class ResidualBlock(nn.Module):
    """Norm, ReLU, upsample, 3×3; norm, ReLU, 3×3; plus an upsampled 1×1 shortcut."""

    features: int  # output channels
    norm: Callable[..., nn.Module]  # makes a norm of a name
    upsample: str = "nearest"  # "nearest" or "bilinear"
    slope: float = 0.0  # of the activations below 0; 0 is ReLU
    kernel_init: nn.initializers.Initializer = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, x: jax.Array, *inputs: jax.Array) -> jax.Array:
        """Maps `x [n, h, w, i]`, and what the norms take, to `[n, 2h, 2w, features]`."""
        upsample_conv, upsample = choose("upsampling", self.upsample, layers.UPSAMPLINGS)
        conv = partial(layers.Convolution, self.features, kernel_init=self.kernel_init)
        y = layers.leaky_relu(self.norm(name="norm_1")(x, *inputs), self.slope)
        y = conv(3, upsample_conv, name="conv_1")(y)
        y = layers.leaky_relu(self.norm(name="norm_2")(y, *inputs), self.slope)
        y = conv(3, layers.conv_3x3, name="conv_2")(y)
        # Upsampling commutes with a 1×1 convolution: convolve the smaller image.
        return y + upsample(conv(1, layers.conv_1x1, name="shortcut")(x))


class SelfAttention(nn.Module):
    """Self-attention over pixels (Zhang et al. 2019, arXiv:1805.08318), keys pooled by 2.

    `gamma * attended + x`, with 1/8 of the channels for queries and keys and 1/2 for values.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `x [n, h, w, c]` to the same shape."""
        n, h, w, channels = x.shape

        def project(name: str, features: int, source: jax.Array) -> jax.Array:
            return layers.Convolution(features, 1, layers.conv_1x1, use_bias=False, name=name)(
                source
            )

        def pooled(y: jax.Array) -> jax.Array:
            return nn.max_pool(y, (2, 2), strides=(2, 2)).reshape(n, -1, y.shape[-1])

        query = project("query", channels // 8, x).reshape(n, h * w, -1)
        key = pooled(project("key", channels // 8, x))
        value = pooled(project("value", channels // 2, x))
        weights = nn.softmax(jnp.einsum("nqc,nkc->nqk", query, key))
        attended = jnp.einsum("nqk,nkc->nqc", weights, value).reshape(n, h, w, -1)
        gamma = self.param("gamma", nn.initializers.zeros, ())
        return gamma * project("output", channels, attended) + x
