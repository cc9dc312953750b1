"""StyleGAN2-ADA generator (Karras et al. 2020, arXiv:1912.04958 and arXiv:2006.06676).

The learning-rate gains of its dense layers ("equalized learning rate") are folded into the weights
when a checkpoint is converted; constant noise and the mean of w are buffers.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lsh_gan.errors import choose
from lsh_gan.generators import layers
from lsh_gan.generators.layers import ClassEmbedding, one_hot

# Whether every block makes an image.
_ARCHITECTURES = {"orig": False, "resnet": False, "skip": True}
_ROOT_2 = 2**0.5
_INIT = nn.initializers.normal(1.0)


def activate(x: jax.Array, *, gain: float = 1.0, clamp: float | None = None) -> jax.Array:
    """Applies a leaky ReLU of slope 0.2, times √2 · gain, clamped to ± clamp · gain."""
    x = nn.leaky_relu(x, 0.2) * (_ROOT_2 * gain)
    return x if clamp is None else jnp.clip(x, -clamp * gain, clamp * gain)


def upsample_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Inserts zeros, convolves with the flipped 3×3 kernel, filters by [1, 3, 3, 1]; doubles sides.

    Without the products with zeros, the even and odd rows and columns of the convolution are four
    separate convolutions, with 4, 2, 2 and 1 of the taps. The filter works on these four.
    """
    even, odd = slice(None, None, -2), slice(1, 2)
    (ee, eo), (oe, oo) = (
        [_taps_conv(x, kernel[rows, columns]) for columns in (even, odd)] for rows in (even, odd)
    )
    columns = zip(_filter_1331(ee, eo, 2), _filter_1331(oe, oo, 2), strict=True)
    phases = (_filter_1331(*rows, 1) for rows in columns)
    return layers.interleave(zip(*phases, strict=True))


def _taps_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with all overlaps: one tap keeps the size of an axis, two taps add one."""
    if kernel.shape[:2] == (1, 1):
        return layers.conv_1x1(x, kernel)
    pad = [(size - 1, size - 1) for size in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), pad, dimension_numbers=layers.DIMENSIONS)


def _filter_1331(even: jax.Array, odd: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Filters with [1, 3, 3, 1] / 4 along an axis; returns the even and the odd elements, h each.

    `even` holds elements 0, 2, ..., 2h along the axis and `odd` 1, 3, ..., 2h - 1; there are zeros
    beyond both ends.
    """
    first, second = layers.bilinear(odd, axis, "constant")
    left, right = (jax.lax.slice_in_dim(even, i, i + odd.shape[axis], axis=axis) for i in (0, 1))
    return first + 0.75 * left + 0.25 * right, second + 0.25 * left + 0.75 * right


class Mapping(nn.Module):
    """Mapping network: latent and class → w (Karras et al. 2019, arXiv:1812.04948)."""

    w_size: int  # size of w
    num_layers: int  # dense layers
    num_classes: int = 0  # 0 for an unconditional generator
    # Size of the stored class vectors, which a dense layer maps to the size of z (StyleGAN-XL). 0:
    # a dense layer maps classes to the size of w.
    embedding_size: int = 0

    @nn.compact
    def __call__(self, z: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        """Maps `z [n, d]` to `w [n, w_size]`."""
        x = layers.pixel_norm(z)
        if self.num_classes:
            embedded = one_hot(labels, len(z), self.num_classes)
            if self.embedding_size:
                embedded = ClassEmbedding(self.embedding_size, name="classes")(embedded)
                embedded = activate(nn.Dense(z.shape[1], name="embed")(embedded))
            else:
                embedded = nn.Dense(self.w_size, name="embed")(embedded)
            x = jnp.concatenate([x, layers.pixel_norm(embedded)], axis=1)
        for i in range(self.num_layers):
            x = activate(nn.Dense(self.w_size, name=f"fc_{i}")(x))
        return x


def truncate(w: jax.Array, mean: jax.Array, psi: float) -> jax.Array:
    """Moves w towards its mean; psi = 1 leaves it unchanged."""
    return mean + psi * (w - mean) if psi != 1 else w


def demodulation(styles: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns factors `[n, o]` that keep the variance of a modulated convolution (equation 3).

    `styles [n, i]` modulate the inputs of `kernel [k, k, i, o]`.
    """
    # Tap by tap: on a CPU, XLA's sum over leading axes is 25 times slower.
    squares = sum(tap**2 for tap in jax.lax.collapse(kernel, 0, 2))
    return jax.lax.rsqrt(jnp.matmul(styles**2, squares) + 1e-8)


class StyledConv(nn.Module):
    """Modulated and demodulated 3×3 convolution, then noise, bias and leaky ReLU."""

    features: int  # output channels
    up: bool = False  # whether the side is doubled
    gain: float = 1.0  # of the activation
    clamp: float | None = None  # bound of the activation, None for none
    # Whether upsampling is bilinear, and noise has a strength per channel (lucidrains).
    bilinear: bool = False
    bias_is_last = False  # a class constant, not a field: the activation comes after the bias

    @nn.compact
    def __call__(self, x: jax.Array, w: jax.Array) -> jax.Array:
        """Maps `x [n, h, w, i]` and `w [n, d]` to `[n, h', w', features]`."""
        kernel = self.param("kernel", _INIT, (3, 3, x.shape[-1], self.features))
        styles = nn.Dense(x.shape[-1], name="affine")(w)
        x = x * styles[:, None, None]
        up = layers.upsample_bilinear_conv_3x3 if self.bilinear else upsample_conv
        x = up(x, kernel) if self.up else layers.conv(x, kernel, 1)
        x = x * demodulation(styles, kernel)[:, None, None]
        side = x.shape[1]
        stored = self.variable("buffers", "noise", jnp.zeros, (side, side)).value
        shape = (self.features,) if self.bilinear else ()
        strength = self.param("noise_strength", nn.initializers.zeros, shape)
        x = x + strength * stored[..., None]
        x = x + self.param("bias", nn.initializers.zeros, (self.features,))
        return activate(x, gain=self.gain, clamp=self.clamp)


class ToImage(nn.Module):
    """Modulated 1×1 convolution to image channels, without demodulation."""

    features: int  # image channels
    clamp: float | None = None  # bound of the output, None for none
    scaled: bool = False  # whether to divide by the input's root mean square (StyleGAN3)

    @nn.compact
    def __call__(self, x: jax.Array, w: jax.Array) -> jax.Array:
        """Maps `x [n, h, w, i]` and `w [n, d]` to `[n, h, w, features]`."""
        kernel = self.param("kernel", _INIT, (1, 1, x.shape[-1], self.features))
        styles = nn.Dense(x.shape[-1], name="affine")(w)
        y = jnp.einsum("nhwi,nio->nhwo", x, styles[..., None] * kernel[0, 0])
        if self.scaled:
            y = y * jax.lax.rsqrt(self.variable("buffers", "magnitude", jnp.ones, ()).value)
        y = y + self.param("bias", nn.initializers.zeros, (self.features,))
        return y if self.clamp is None else jnp.clip(y, -self.clamp, self.clamp)


class StyleGAN2(nn.Module):
    """Mapping network, then blocks that each double the side.

    The resolution is `4 * 2 ** (len(channels) - 1)`.
    """

    latent_size: int = 512  # size of z
    w_size: int = 512  # size of w
    channels: tuple[int, ...] = (512, 512, 512, 512, 256, 128, 64)  # channels at 4×4, 8×8, ...
    mapping_layers: int = 8  # dense layers of the mapping network
    num_classes: int = 0  # 0 for an unconditional generator
    image_channels: int = 3  # 1 (grey) or 3 (RGB)
    # "skip" (images of all resolutions are added), "resnet" (shortcuts around blocks, one image) or
    # "orig" (neither).
    architecture: str = "skip"
    clamp: float | None = 256.0  # bound of activations, None for none

    @nn.compact
    def __call__(
        self, z: jax.Array, labels: jax.Array | None = None, truncation_psi: float = 1.0
    ) -> jax.Array:
        """Makes images `[n, h, w, image_channels]`, about [-1, 1]; see `Generator`."""
        every_block = choose("architecture", self.architecture, _ARCHITECTURES)
        w = Mapping(self.w_size, self.mapping_layers, self.num_classes, name="mapping")(z, labels)
        mean = self.variable("buffers", "w_mean", jnp.zeros, (self.w_size,)).value
        w = truncate(w, mean, truncation_psi)
        const = self.param("const", _INIT, (4, 4, self.channels[0]))
        x = jnp.broadcast_to(const, (len(z), *const.shape))
        image: Any = None
        upsample = partial(layers.upsample_bilinear, mode="constant")
        for i, features in enumerate(self.channels):
            resnet = self.architecture == "resnet" and i > 0
            gain = 0.5**0.5 if resnet else 1.0
            styled, before = partial(StyledConv, features, clamp=self.clamp), x
            x = styled(up=True, name=f"up_{i}")(x, w) if i > 0 else x
            x = styled(gain=gain, name=f"conv_{i}")(x, w)
            if resnet:
                skip = layers.Convolution1x1(features, use_bias=False, name=f"skip_{i}")
                # Upsampling commutes with a 1×1 convolution: convolve the smaller image.
                x = x + gain * upsample(skip(before))
            self.sow("intermediates", f"block_{i}", x)
            if every_block or i == len(self.channels) - 1:
                rgb = ToImage(self.image_channels, self.clamp, name=f"to_image_{i}")(x, w)
                image = rgb if image is None else upsample(image) + rgb
        return image
