"""StyleGAN3 generators, T and R (Karras et al. 2021, arXiv:2106.12423).

Gains of dense layers are folded into the weights when a checkpoint is converted. Filters, which the
original designs for each layer, are buffers taken from the checkpoint.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from lsh_gan.generators import layers
from lsh_gan.generators.layers import one_hot
from lsh_gan.generators.stylegan2 import Mapping, ToImage, activate, demodulation, truncate

_INIT = nn.initializers.normal(1.0)


def up_filter(x: jax.Array, taps: jax.Array, up: int, low: int, high: int) -> jax.Array:
    """Inserts `up - 1` zeros after each pixel, pads, and filters along both axes, gain `up²`.

    Maps `x [n, h, w, c]` by a separable filter, `taps [k]`. `low` and `high` are the numbers of
    zeros before the first and after the last pixel; negative numbers crop.
    """
    taps = taps[::-1] * up  # convolution, not correlation
    for axis in (1, 2):
        x = _filter(layers.pad_axis(x, axis, low, high + up - 1, up - 1), taps, 1, axis)
    return x


def _filter(x: jax.Array, taps: jax.Array, stride: int, axis: int) -> jax.Array:
    """Correlates along an axis with `taps [k]`."""
    size = x.shape[axis] - len(taps) + 1
    shifts = (lax.slice_in_dim(x, i, i + size, stride, axis) for i in range(len(taps)))
    return sum((taps[i] * part for i, part in enumerate(shifts)), jnp.float32(0))


def down_filter(x: jax.Array, taps: jax.Array, down: int) -> jax.Array:
    """Filters `x [n, h, w, c]` by `taps`, `[k]` (separable) or `[k, k]`, at stride `down`."""
    taps = jnp.flip(taps)
    if taps.ndim == 1:
        return _filter(_filter(x, taps, down, 1), taps, down, 2)
    # Not a convolution of planes of one channel, which takes 4 times as long on a CPU.
    size = x.shape[1] - len(taps) + 1
    rows = (lax.slice_in_dim(x, i, i + size, down, axis=1) for i in range(len(taps)))
    return sum((_filter(y, taps[i], down, 2) for i, y in enumerate(rows)), jnp.float32(0))


class FourierInput(nn.Module):
    """Sines of fixed frequencies (buffers) on a grid that w rotates and shifts, mixed 1×1."""

    channels: int  # number of sines, and of output channels
    size: int  # side of the grid
    sampling_rate: float  # pixels per unit of length
    bandwidth: float  # highest frequency of full amplitude

    @nn.compact
    def __call__(self, w: jax.Array) -> jax.Array:
        """Maps `w [n, d]` to `[n, size, size, channels]`."""
        channels = self.channels
        freqs = self.variable("buffers", "freqs", jnp.ones, (channels, 2)).value
        phases = self.variable("buffers", "phases", jnp.zeros, (channels,)).value
        transform = self.variable("buffers", "transform", lambda: jnp.eye(3)).value
        t = nn.Dense(4, name="affine")(w)
        cos, sin, right, down = (t / jnp.linalg.norm(t[:, :2], axis=1, keepdims=True)).T
        # Rotation by (cos, sin) of the grid shifted by (−right, −down), then the user's transform.
        zero, one = jnp.zeros_like(cos), jnp.ones_like(cos)
        learnt = jnp.stack([
            cos, -sin, -cos * right + sin * down,
            sin, cos, -sin * right - cos * down,
            zero, zero, one,
        ], axis=1).reshape(-1, 3, 3)  # fmt: skip
        matrix = jnp.matmul(learnt, transform, precision="highest")
        phases = phases + jnp.einsum("cx,nx->nc", freqs, matrix[:, :2, 2], precision="highest")
        freqs = jnp.einsum("cx,nxy->ncy", freqs, matrix[:, :2, :2], precision="highest")
        excess = jnp.linalg.norm(freqs, axis=2) - self.bandwidth
        amplitudes = jnp.clip(1 - excess / (self.sampling_rate / 2 - self.bandwidth), 0, 1)
        centred = (jnp.arange(self.size) + 0.5) / self.size * 2 - 1
        grid = centred * (0.5 * self.size / self.sampling_rate)
        across = grid[None, None, :, None] * freqs[:, None, None, :, 0]
        along = grid[None, :, None, None] * freqs[:, None, None, :, 1]
        waves = jnp.sin((across + along + phases[:, None, None]) * (2 * math.pi))
        kernel = self.param("kernel", _INIT, (channels, channels))
        return jnp.matmul(waves * amplitudes[:, None, None], kernel)


class FilteredConv(nn.Module):
    """Modulated convolution, then leaky ReLU at a higher sampling rate between two filters."""

    size: int  # side of the output
    features: int  # output channels
    kernel_size: int  # side of the convolution's kernel
    taps: tuple[int, int]  # number of taps of the upsampling and the downsampling filter
    factors: tuple[int, int]  # factors of upsampling and downsampling
    radial: bool  # whether the downsampling filter is two-dimensional
    clamp: float | None  # bound of the activation, None for none
    bias_is_last = False  # a class constant, not a field: the activation comes after the bias

    @nn.compact
    def __call__(self, x: jax.Array, w: jax.Array) -> jax.Array:
        """Maps `x [n, h, w, i]` and `w [n, d]` to `[n, size, size, features]`."""
        in_size, in_channels = x.shape[2:]
        k, (up, down), (up_taps, down_taps) = self.kernel_size, self.factors, self.taps
        kernel = self.param("kernel", _INIT, (k, k, in_channels, self.features))
        styles = nn.Dense(in_channels, name="affine")(w)
        # The scale of styles cancels below; a mean square of 1 keeps values in range.
        styles = styles * lax.rsqrt(jnp.mean(styles**2, axis=1, keepdims=True))
        magnitude = self.variable("buffers", "magnitude", jnp.ones, ()).value
        x = layers.conv(x * styles[:, None, None], kernel, k - 1)
        x = x * (demodulation(styles, kernel) * lax.rsqrt(magnitude))[:, None, None]
        x = x + self.param("bias", nn.initializers.zeros, (self.features,))
        shape = (down_taps, down_taps) if self.radial else (down_taps,)
        filter_up = self.variable("buffers", "up_filter", jnp.ones, (up_taps,)).value
        filter_down = self.variable("buffers", "down_filter", jnp.ones, shape).value
        padding = (self.size - 1) * down + 1 - (in_size + k - 1) * up + up_taps + down_taps - 2
        low = (padding + up) // 2
        x = up_filter(x, filter_up, up, low, padding - low)
        x = activate(x, clamp=self.clamp)
        return down_filter(x, filter_down, down)


class StyleGAN3(nn.Module):
    """Fourier features → layers without aliasing → image; no noise."""

    latent_size: int = 512  # size of z
    w_size: int = 512  # size of w
    mapping_layers: int = 2  # dense layers of the mapping network
    num_classes: int = 0  # 0 for an unconditional generator
    input_channels: int = 512  # channels of the Fourier features
    sampling_rate: float = 16.0  # of the Fourier features
    bandwidth: float = 2.0  # of the Fourier features
    kernel_size: int = 3  # of the convolutions: 3 (T) or 1 (R)
    sizes: tuple[int, ...] = (36, 16, 16)  # side of each layer's output, the image's last
    channels: tuple[int, ...] = (512, 512, 3)  # output channels of each layer, the image's last
    # For each layer except the last: taps of its upsampling and its downsampling filter.
    taps: tuple[tuple[int, int], ...] = ((12, 12), (12, 12))
    # For each layer except the last: factors of upsampling and downsampling.
    factors: tuple[tuple[int, int], ...] = ((2, 2), (2, 2))
    # For each layer except the last: whether its downsampling filter is two-dimensional.
    radial: tuple[bool, ...] = (False, False)
    clamp: float | None = 256.0  # bound of activations, None for none
    output_scale: float = 0.25  # factor of the image
    # Size of the stored class vectors (StyleGAN-XL). If not 0, each class has its own mean of w.
    embedding_size: int = 0

    @nn.compact
    def __call__(
        self, z: jax.Array, labels: jax.Array | None = None, truncation_psi: float = 1.0
    ) -> jax.Array:
        """Makes images `[n, h, w, image_channels]`, about [-1, 1]; see `Generator`."""
        w = Mapping(
            self.w_size, self.mapping_layers, self.num_classes, self.embedding_size, name="mapping"
        )(z, labels)
        shape = (self.num_classes, self.w_size) if self.embedding_size else (self.w_size,)
        mean = self.variable("buffers", "w_mean", jnp.zeros, shape).value
        if self.embedding_size:
            mean = jnp.matmul(one_hot(labels, len(z), self.num_classes), mean, precision="highest")
        w = truncate(w, mean, truncation_psi)
        x = FourierInput(
            self.input_channels, self.sizes[0], self.sampling_rate, self.bandwidth, name="input"
        )(w)
        for i, geometry in enumerate(zip(self.taps, self.factors, self.radial, strict=True)):
            x = FilteredConv(
                self.sizes[i], self.channels[i], self.kernel_size, *geometry, clamp=self.clamp,
                name=f"layer_{i}",
            )(x, w)  # fmt: skip
        to_image = ToImage(self.channels[-1], self.clamp, scaled=True, name="to_image")
        return to_image(x, w) * self.output_scale
