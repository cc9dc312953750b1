"""Grids against the nearest level by brute force in float64, and their properties."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis.extra import numpy as hnp

from lsh_gan.compression.quantization import (
    clipped_grid,
    dequantize,
    fan_in,
    from_groups,
    quantize,
    to_groups,
)

WIDTHS = range(1, 17)
SCHEMES = ("symmetric", "affine")
# Float32 rounding of a value near the end of the grid, in steps of 2^16 levels: 2^-24 * 2^16 / 2.
HALF_STEP = 0.5 + 2**-8


_jitted_grid = jax.jit(clipped_grid, static_argnames="scheme")
_jitted_quantize = jax.jit(quantize, static_argnames="scheme")


def _grid(low, high, alpha, bits, scheme):
    low, high, alpha = (np.float32(v).reshape(1, 1, 1) for v in (low, high, alpha))
    return _jitted_grid(low, high, alpha, np.int32(bits), scheme=scheme)


def _levels(grid, bits):
    # Decoding is one exact subtraction and one product, so NumPy must give the same bits.
    scale, zero_point = (np.asarray(value).item() for value in grid)
    return np.float32(scale) * (np.arange(2**bits, dtype=np.float32) - np.float32(zero_point))


def _round_trip(x, grid, bits, scheme):
    x = np.asarray(x, np.float32).reshape(1, -1, 1)
    codes = _jitted_quantize(x, grid, np.int32(bits), scheme=scheme)
    return np.asarray(codes).ravel(), np.asarray(dequantize(codes, grid)).ravel()


def test_symmetric_levels_run_from_minus_alpha_to_alpha():
    for bits in WIDTHS:
        levels = _levels(_grid(-1, 1, 0.7, bits, "symmetric"), bits)
        expected = np.linspace(-0.7, 0.7, 2**bits)
        np.testing.assert_allclose(levels, expected, rtol=0, atol=0.7 * 2**-22)
        np.testing.assert_array_equal(levels, -levels[::-1])


@pytest.mark.parametrize("bits", [1, 2, 5, 16])
def test_affine_levels_hold_zero_and_cover_the_clipped_range(bits):
    grid = _grid(-0.3, 5.0, 2.0, bits, "affine")
    levels = _levels(grid, bits)
    step = float(grid.scale.squeeze())
    if bits == 1:  # the symmetric grid, because an integer zero point would leave 0 and 2
        np.testing.assert_array_equal(levels, [-2.0, 2.0])
        return
    assert 0.0 in levels
    assert step == pytest.approx(2.3 / (2**bits - 1), rel=1e-6)
    # The integer zero point shifts the ends by half a step at most.
    assert abs(levels[0] + 0.3) <= HALF_STEP * step
    assert abs(levels[-1] - 2.0) <= HALF_STEP * step


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bits", [1, 2, 5])
def test_every_value_goes_to_the_nearest_level(bits, scheme):
    x = np.random.default_rng(bits).normal(size=4000).astype(np.float32)
    grid = _grid(x.min(), x.max(), 1.5, bits, scheme)
    levels = _levels(grid, bits).astype(np.float64)
    nearest = levels[np.abs(x[:, None].astype(np.float64) - levels).argmin(1)]
    np.testing.assert_array_equal(_round_trip(x, grid, bits, scheme)[1], nearest)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bits", [1, 2, 7, 16])
def test_levels_keep_their_codes(bits, scheme):
    grid = _grid(-0.9, 1.7, 1.3, bits, scheme)
    levels = np.resize(_levels(grid, bits), 2**16)  # one shape, one compilation
    codes, values = _round_trip(levels, grid, bits, scheme)
    np.testing.assert_array_equal(codes, np.resize(np.arange(2**bits), 2**16))
    np.testing.assert_array_equal(values, levels)


def test_ties_go_to_the_even_code():
    # Scale 1, levels ±.5, ±1.5, ...: 1 lies between .5 (step 0) and 1.5 (step 1).
    symmetric = _grid(-7.5, 7.5, 7.5, 4, "symmetric")
    values = _round_trip([1, 2, 3, 4, -1, -2, -3, -4], symmetric, 4, "symmetric")[1]
    np.testing.assert_array_equal(values, [0.5, 2.5, 2.5, 4.5, -0.5, -2.5, -2.5, -4.5])
    affine = _grid(-7, 8, 8, 4, "affine")
    values = _round_trip([0.5, 1.5, 2.5, -0.5, -1.5, -2.5], affine, 4, "affine")[1]
    np.testing.assert_array_equal(values, [0, 2, 2, 0, -2, -2])


finite = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
tensors = hnp.arrays(np.float32, 24, elements=finite)


@hypothesis.settings(deadline=None, max_examples=150, derandomize=True)
@hypothesis.given(tensors, st.floats(0.01, 1), st.sampled_from(WIDTHS), st.sampled_from(SCHEMES))
def test_properties_hold_for_any_tensor(x, share, bits, scheme):
    max_abs = np.abs(x).max()
    # Squares and steps of smaller numbers are flushed to zero.
    hypothesis.assume(max_abs > 1e-20)
    alpha = np.float32(share) * max_abs
    grid = _grid(x.min(), x.max(), alpha, bits, scheme)
    step = float(grid.scale.squeeze())
    codes, values = _round_trip(x, grid, bits, scheme)
    inside = np.abs(x) <= alpha
    assert (np.abs(values - x)[inside] <= HALF_STEP * step).all()  # half a step inside
    assert np.abs(values).max() <= alpha + HALF_STEP * step  # clipped outside
    order = np.argsort(x, kind="stable")
    assert (np.diff(codes[order]) >= 0).all()  # monotone
    np.testing.assert_array_equal(_round_trip(values, grid, bits, scheme)[1], values)  # idempotent
    if scheme == "symmetric":
        mirrored = _round_trip(-x, grid, bits, scheme)[1]
        np.testing.assert_array_equal(mirrored[x != 0], -values[x != 0])
    elif bits > 1:
        np.testing.assert_array_equal(values[x == 0], 0)


@pytest.mark.parametrize("shape", [(6,), (3, 2, 4, 6)])
def test_grouping_is_undone(shape):
    x = jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)
    for axis in range(len(shape)):
        for groups in (1, 2):
            grouped = to_groups(x, channel_axis=axis, num_groups=groups)
            channels = shape[axis] if len(shape) > 1 else 1
            assert grouped.shape == (groups, x.size // channels // groups, channels)
            np.testing.assert_array_equal(from_groups(grouped, shape=shape, channel_axis=axis), x)


def test_groups_are_consecutive_inputs_of_one_output_channel():
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 4, 5))
    grouped = to_groups(kernel, channel_axis=-1, num_groups=9)
    np.testing.assert_array_equal(grouped[4, :, 2], kernel[1, 1, :, 2])
    assert fan_in(kernel.shape, -1) == 36
