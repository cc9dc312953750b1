"""The fast convolutions that no golden has, against XLA's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from checkpoints_tools import discriminators
from lsh_gan.generators import layers

TOLERANCE = 1e-5  # float32 sums of up to 48 products of size 1, in another order


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    image = rng.standard_normal((2, 6, 8, 3), np.float32)
    return image, {k: rng.standard_normal((k, k, 3, 5), np.float32) for k in (1, 3, 4)}


def plain_conv(x, kernel, *, stride=1, padding):
    """XLA's own convolution."""
    pad = ((padding, padding), (padding, padding))
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), pad, dimension_numbers=layers.DIMENSIONS
    )


def test_strided_conv(data):
    x, kernels = data
    expected = plain_conv(x, kernels[4], stride=2, padding=1)
    np.testing.assert_allclose(
        discriminators.conv_4x4_stride_2(x, kernels[4]), expected, rtol=0, atol=TOLERANCE
    )


def test_average_pool_of_conv(data):
    x, kernels = data
    full = plain_conv(x, kernels[3], padding=1)
    expected = full.reshape(2, 3, 2, 4, 2, 5).mean(axis=(2, 4))
    np.testing.assert_allclose(
        discriminators.conv_3x3_average_pool(x, kernels[3]), expected, rtol=0, atol=TOLERANCE
    )


@pytest.mark.parametrize(("size", "padding"), [(1, 0), (3, 1), (4, 1)])
def test_gradients_are_those_of_the_plain_convolution(data, size, padding):
    x, kernels = data
    plain = functools.partial(plain_conv, padding=padding)
    weights = jnp.cos(jnp.arange(plain(x, kernels[size]).size, dtype=jnp.float32))

    def loss(conv):
        return lambda x, kernel: jnp.vdot(conv(x, kernel).reshape(-1), weights)

    fast = jax.grad(loss(lambda x, k: layers.conv(x, k, padding)), argnums=(0, 1))
    slow = jax.grad(loss(plain), argnums=(0, 1))
    for ours, theirs in zip(fast(x, kernels[size]), slow(x, kernels[size]), strict=True):
        # Sums of up to 96 products in another order.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-5)


@pytest.mark.parametrize("channels", [3, 256])
@pytest.mark.parametrize("upsampling", ["nearest", "bilinear"])
def test_upsampling_convolutions_have_one_result_in_both_forms(upsampling, channels):
    """From 256 channels on, a CPU mixes channels before it upsamples."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 5, 3, channels), np.float32)
    kernel = rng.standard_normal((3, 3, channels, 4), np.float32) / np.float32(channels**0.5)
    if upsampling == "nearest":
        ours, large = layers.upsample_conv_3x3, x.repeat(2, axis=1).repeat(2, axis=2)
    else:
        ours = layers.upsample_bilinear_conv_3x3
        large = np.asarray(layers.upsample_bilinear(x, mode="edge"))
    expected = plain_conv(large, kernel, padding=1)
    np.testing.assert_allclose(ours(x, kernel), expected, rtol=0, atol=TOLERANCE)
