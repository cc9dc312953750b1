"""Spectrally normalised discriminators for 32×32 images (Miyato et al. 2018, arXiv:1802.05957)."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from lsh_gan.generators import layers

_INIT = nn.initializers.glorot_uniform()


def conv_4x4_stride_2(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with kernel 4, stride 2, padding 1, as a 2×2 convolution over 2×2 blocks.

    Maps `x [n, 2h, 2w, i]` to `[n, h, w, o]` by `kernel [4, 4, i, o]`.
    """
    n, height, width, channels = x.shape
    h, w = height // 2 + 1, width // 2 + 1
    blocks = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(n, h, 2, w, 2, channels)
    blocks = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(n, h, w, 4 * channels)
    taps = kernel.reshape(2, 2, 2, 2, channels, -1).transpose(0, 2, 1, 3, 4, 5)
    return layers.conv(blocks, taps.reshape(2, 2, 4 * channels, -1), 0)


def conv_3x3_average_pool(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves 3×3 with padding 1 and average-pools 2×2, as one strided convolution.

    Maps `x [n, 2h, 2w, i]` to `[n, h, w, o]` by `kernel [3, 3, i, o]`.
    """
    corners = [((a, 1 - a), (b, 1 - b), (0, 0), (0, 0)) for a in (0, 1) for b in (0, 1)]
    spread = jnp.stack([jnp.pad(kernel, corner) for corner in corners]).mean(axis=0)
    return conv_4x4_stride_2(x, spread)


def _convolution(
    features: int, size: int, function: Callable, x: jax.Array, update: bool, name: str
) -> jax.Array:
    layer = layers.Convolution(features, size, function, kernel_init=_INIT, name=name)
    return _normalised(layer, x, update)


def _head(x: jax.Array, update: bool, classes: jax.Array | None) -> jax.Array:
    """Scores `x [n, h, w, c]` with one number per image, float32 `[n]`.

    With class weights `[n, k]`, adds the inner product of the class embedding and the sum of `x`
    over pixels (projection discriminator, Miyato & Koyama 2018, arXiv:1802.05637).
    """
    n, h, w, features = x.shape
    y = jnp.concatenate([x, minibatch_deviation(x)], axis=-1)
    score = _dense(1, y.reshape(n, -1), update, "score")[:, 0]
    if classes is not None:
        embedding = _dense(features, classes, update, "classes", use_bias=False)
        # Divided by the root, the norm of the sum is at most that of the features, as in `score`.
        score += (embedding * x.sum(axis=(1, 2))).sum(axis=1) / (h * w) ** 0.5
    return score


def _dense(features: int, x: jax.Array, update: bool, name: str, **options: bool) -> jax.Array:
    layer = nn.Dense(features, kernel_init=_INIT, name=name, **options)
    return _normalised(layer, x, update)


def _normalised(layer: nn.Module, x: jax.Array, update: bool) -> jax.Array:
    norm = nn.SpectralNorm(layer, collection_name="spectral", name=f"{layer.name}_norm")
    return norm(x, update_stats=update)


def minibatch_deviation(x: jax.Array) -> jax.Array:
    """Measures how much images differ in groups of 8 (Karras et al. 2018, section 3).

    With it the discriminator can penalise a generator whose batches are less diverse than real
    ones. Maps `x [n, h, w, c]`, n a multiple of 8, to `[n, h, w, 1]`.
    """
    n, h, w, _ = x.shape
    deviation = jnp.sqrt(x.reshape(8, n // 8, -1).var(axis=0) + 1e-8).mean(axis=-1)
    return jnp.broadcast_to(jnp.tile(deviation, 8)[:, None, None, None], (n, h, w, 1))


class DCGANDiscriminator(nn.Module):
    """4×4 convolutions of stride 2 and leaky ReLU, down to 4×4, then a linear score."""

    channels: tuple[int, ...] = (64, 128, 256)  # after each halving
    gain: float = 1.0  # of the scores

    @nn.compact
    def __call__(self, x: jax.Array, update: bool, classes: jax.Array | None = None) -> jax.Array:
        """Scores images `x [n, 32, 32, c]`: float32 `[n]`; `update` runs a power step."""
        for i, features in enumerate(self.channels):
            x = _convolution(features, 4, conv_4x4_stride_2, x, update, f"down_{i}")
            x = nn.leaky_relu(x, 0.2)
        return self.gain * _head(x, update, classes)


class SNGANDiscriminator(nn.Module):
    """Residual blocks with average pooling, down to 4×4, then a linear score."""

    channels: tuple[int, ...] = (32, 64, 128)  # after each halving
    gain: float = 1.0  # of the scores

    @nn.compact
    def __call__(self, x: jax.Array, update: bool, classes: jax.Array | None = None) -> jax.Array:
        """Scores images `x [n, 32, 32, c]`: float32 `[n]`; `update` runs a power step."""
        for i, features in enumerate(self.channels):
            x = self._down(x, features, update, f"block_{i}", activate_first=i > 0)
        return self.gain * _head(nn.leaky_relu(x, 0.2), update, classes)

    def _down(self, x, features, update, name, *, activate_first):
        y = nn.leaky_relu(x, 0.2) if activate_first else x
        hidden = max(x.shape[-1], features // 2)
        y = _convolution(hidden, 3, layers.conv_3x3, y, update, f"{name}_conv_1")
        y = nn.leaky_relu(y, 0.2)
        y = _convolution(features, 3, conv_3x3_average_pool, y, update, f"{name}_conv_2")
        pooled = nn.avg_pool(x, (2, 2), strides=(2, 2))
        return y + _convolution(features, 1, layers.conv_1x1, pooled, update, f"{name}_shortcut")
