"""Clipping thresholds against closed forms, published constants and slow NumPy references."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

from lsh_gan.compression import METHODS, CompressionSpec
from lsh_gan.compression import clipping as C

GAUSS_RATIO, LAPLACE_RATIO = jax.jit(C.gauss_ratio), jax.jit(C.laplace_ratio)
AXES = {"per_tensor": (0, 1, 2), "per_channel": (1,)}


def _tensor(shape=(2, 300, 5), seed=0):
    rng = np.random.default_rng(seed)
    scales = np.linspace(0.1, 3, shape[2])
    return (rng.standard_t(4, size=shape) * scales + 0.05).astype(np.float32)


@partial(jax.jit, static_argnames="spec")
def _jitted(x, bits, spec):
    return C.threshold(C.Values(x, bits, AXES[spec.granularity]), spec)


def _threshold(x, clipping, bits=4, granularity="per_channel", **options):
    spec = CompressionSpec(bits=None, clipping=clipping, granularity=granularity, **options)
    return np.asarray(_jitted(jnp.asarray(x, jnp.float32), jnp.int32(bits), spec))


@pytest.mark.parametrize("granularity", AXES)
def test_none_is_max_abs(granularity):
    x = _tensor()
    expected = np.abs(x).max(axis=AXES[granularity], keepdims=True)
    np.testing.assert_array_equal(_threshold(x, "none", granularity=granularity), expected)


@pytest.mark.parametrize(
    ("percent", "granularity"),
    [(0.5, "per_channel"), (50.0, "per_tensor"), (99.99, "per_channel"), (100.0, "per_channel")],
)
def test_percentile_is_numpy_quantile(percent, granularity):
    x = np.round(_tensor(), 1)  # with ties
    axes = AXES[granularity]
    expected = np.quantile(np.abs(x).astype(np.float64), percent / 100, axis=axes, keepdims=True)
    found = _threshold(x, "percentile", granularity=granularity, percentile=percent)
    np.testing.assert_allclose(found, expected, rtol=2e-7)  # one float32 rounding


def test_percentile_of_one_value_is_that_value():
    np.testing.assert_array_equal(_threshold(-np.ones((1, 1, 3)), "percentile"), 1)


@pytest.mark.parametrize("granularity", AXES)
def test_std_is_numpy_std(granularity):
    x = _tensor()
    expected = 1.5 * x.astype(np.float64).std(axis=AXES[granularity], keepdims=True)
    found = _threshold(x, "std", granularity=granularity, num_stds=1.5)
    np.testing.assert_allclose(found, expected, rtol=1e-5)  # float32 sums of 3,000 squares


def test_aciq_ratios_are_the_published_ones():
    # Banner et al. 2019, for 1..8 bits; the published values keep two decimals.
    gauss = [1.24, 1.71, 2.15, 2.55, 2.93, 3.28, 3.61, 3.92]
    laplace = [1.86, 2.83, 3.89, 5.03, 6.20, 7.41, 8.64, 9.89]
    for ratio, table in ((C.gauss_ratio, gauss), (C.laplace_ratio, laplace)):
        found = jax.jit(jax.vmap(ratio))(jnp.arange(1, 9))
        np.testing.assert_allclose(found, table, rtol=0, atol=0.01)


@pytest.mark.parametrize("bits", [1, 4, 16])
def test_aciq_ratios_minimise_the_error_model(bits):
    def gauss(a):
        clipped = (1 + a**2) * scipy.special.erfc(a / np.sqrt(2))
        return clipped - np.sqrt(2 / np.pi) * a * np.exp(-(a**2) / 2) + a**2 / (3 * 4.0**bits)

    def laplace(a):
        return 2 * np.exp(-a) + a**2 / (3 * 4.0**bits)

    for model, ratio in ((gauss, GAUSS_RATIO), (laplace, LAPLACE_RATIO)):
        best = scipy.optimize.minimize_scalar(model, bounds=(0.5, 30), options={"xatol": 1e-9})
        # A minimum is known to the root of the model's own precision.
        assert float(ratio(jnp.int32(bits))) == pytest.approx(best.x, rel=1e-4)
    root = scipy.special.lambertw(3 * 4.0**bits).real  # closed form of the Laplace case
    assert float(LAPLACE_RATIO(jnp.int32(bits))) == pytest.approx(root, rel=1e-6)


def test_aciq_thresholds_scale_the_right_moment():
    x = _tensor((1, 4000, 3)).astype(np.float64)
    gauss = 1.7106 * x.std(axis=1, keepdims=True)
    laplace = 2.8307 * np.abs(x - x.mean(axis=1, keepdims=True)).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(_threshold(x, "aciq_gauss", bits=2), gauss, rtol=1e-4)
    np.testing.assert_allclose(_threshold(x, "aciq_laplace", bits=2), laplace, rtol=1e-4)


def test_aciq_takes_the_better_distribution():
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(size=20000), rng.laplace(size=20000)], -1)[None]
    gauss, laplace, best = (
        _threshold(x, name).ravel() for name in ("aciq_gauss", "aciq_laplace", "aciq")
    )
    # Programs of their own, whose sums a GPU rounds in other orders.
    assert best == pytest.approx([gauss[0], laplace[1]], rel=1e-6)
    assert best != pytest.approx([laplace[0], gauss[1]], rel=1e-3)


def _slow_levels(x, alpha, bits, scheme):
    low, high = max(min(x.min(), 0), -alpha), min(max(x.max(), 0), alpha)
    if scheme == "affine" and bits > 1:
        step = (high - low) / (2**bits - 1)
        return step * (np.arange(2**bits) - np.round(-low / (high - low) * (2**bits - 1)))
    outermost = alpha if scheme == "symmetric" else max(-low, high)
    return np.linspace(-outermost, outermost, 2**bits)


def _slow_error(x, alpha, bits, scheme):
    """Squared error of rounding `x [n]` to the nearest level, in float64, level by level."""
    levels = _slow_levels(x, alpha, bits, scheme)
    middles = (levels[1:] + levels[:-1]) / 2
    return ((levels[np.searchsorted(middles, x)] - x) ** 2).sum()


@pytest.mark.parametrize(
    ("bits", "scheme", "granularity"),
    [
        (1, "affine", "per_channel"),
        (2, "symmetric", "per_tensor"),
        (3, "affine", "per_tensor"),
        (4, "symmetric", "per_channel"),
        (8, "affine", "per_channel"),
    ],
)
def test_mse_equals_brute_force_over_its_grid(bits, scheme, granularity):
    x = _tensor((1, 400, 4), seed=bits)
    found = _threshold(x, "mse", bits=bits, granularity=granularity, scheme=scheme).ravel()
    columns = [x.ravel()] if granularity == "per_tensor" else list(x[0].T)
    for column, alpha in zip(columns, found, strict=True):
        column = column.astype(np.float64)
        candidates = np.abs(column).max() * np.array(C.MSE_SHARES)
        errors = [_slow_error(column, a, bits, scheme) for a in candidates]
        chosen = np.abs(candidates - alpha).argmin()
        assert alpha == pytest.approx(candidates[chosen], rel=1e-6)
        assert errors[chosen] <= min(errors) * (1 + 1e-5)  # float32 sums may swap near equals


def test_mse_grid_ends_at_no_clipping_and_is_fine():
    shares = np.array(C.MSE_SHARES)
    assert shares[0] == 1
    assert shares[-1] == pytest.approx(0.01)
    assert (shares[1:] / shares[:-1]).min() > 0.92


def _slow_kl(counts, cut, levels):
    """KL(P‖Q) after `cut` bins, bin by bin in float64."""
    p = counts[:cut].astype(np.float64)
    level = np.arange(cut) * levels // cut
    filled = np.bincount(level, weights=p > 0, minlength=levels)
    merged = np.bincount(level, weights=p, minlength=levels)
    q = np.where(p > 0, (merged / np.maximum(filled, 1))[level], 0)
    p[-1] += counts[cut:].sum()
    if p[-1] > 0 and q[-1] == 0:
        return np.inf
    p, q = p / p.sum(), q / q.sum()
    used = p > 0
    return (p[used] * np.log(p[used] / q[used])).sum()


@pytest.mark.parametrize("bits", [1, 4, 10])
def test_kl_equals_a_slow_reference(bits):
    x = np.random.default_rng(bits).standard_t(3, size=5000).astype(np.float32)
    unit = np.float32(C.KL_BINS) / np.abs(x).max()
    bins = np.minimum((np.abs(x) * unit).astype(int), C.KL_BINS - 1)
    counts = np.bincount(bins, minlength=C.KL_BINS)
    cuts = np.arange(C.KL_FIRST_BIN, C.KL_BINS + 1)
    divergences = np.array([_slow_kl(counts, cut, 2 ** (bits - 1)) for cut in cuts])
    alpha = _threshold(x.reshape(1, -1, 1), "kl", bits=bits, granularity="per_tensor").item()
    chosen = round(alpha / np.abs(x).max() * C.KL_BINS)
    assert alpha == pytest.approx(np.abs(x).max() * chosen / C.KL_BINS, rel=1e-6)
    # Sums of float32 logarithms: the divergence itself is good to about 1e-6.
    assert divergences[chosen - C.KL_FIRST_BIN] <= divergences.min() + 2e-6


def test_kl_of_many_channels_equals_one_at_a_time():
    x = _tensor((3, 400, 50))  # 150 rows, more than two batches
    together = _threshold(x, "kl")
    for group, channel in ((0, 0), (1, 17), (2, 49)):
        alone = _threshold(x[group : group + 1, :, channel : channel + 1], "kl")
        np.testing.assert_array_equal(together[group, 0, channel], alone.item())


def test_kl_clips_nothing_when_levels_are_bins():
    x = _tensor()
    for bits in (12, 16):
        np.testing.assert_array_equal(_threshold(x, "kl", bits=bits), _threshold(x, "none"))


@pytest.mark.parametrize("clipping", METHODS)
def test_thresholds_of_special_tensors(clipping):
    constant = np.full((1, 64, 2), -0.37, np.float32)
    for bits in (1, 4, 16):
        # A constant has no outliers: nothing is clipped, whatever the method.
        np.testing.assert_allclose(_threshold(constant, clipping, bits=bits), 0.37, rtol=1e-6)
        np.testing.assert_array_equal(_threshold(np.zeros((1, 64, 2)), clipping, bits=bits), 0)


@pytest.mark.parametrize("clipping", ["std", "aciq_laplace"])
def test_a_threshold_beyond_the_tensor_is_capped(clipping):
    even = np.linspace(-1, 1, 64).reshape(1, 64, 1)  # 3 standard deviations are 1.75
    np.testing.assert_array_equal(_threshold(even, clipping, bits=8), 1)


@pytest.mark.parametrize("clipping", METHODS)
def test_thresholds_never_exceed_the_tensor_and_follow_its_scale(clipping):
    x = _tensor()
    found = _threshold(x, clipping, bits=8)
    assert (found <= np.abs(x).max(axis=1, keepdims=True)).all()
    assert (found > 0).all()
    # Squares of values near 1e-24 do not exist in float32; the thresholds must not notice.
    tiny = _threshold(x * 2.0**-80, clipping, bits=8)
    np.testing.assert_allclose(tiny * 2.0**80, found, rtol=1e-6)


def test_zeros_of_a_relu_say_nothing_of_its_other_values():
    # Counted, they would bring errors 34 (ACIQ) and 1,200 (KL) times the least; these are 1.2, 11.
    x = np.maximum(np.random.default_rng(0).laplace(size=20000), 0).reshape(1, -1, 1)
    found = {clip: _threshold(x, clip, 8, scheme="affine").item() for clip in ("aciq", "kl")}
    best = _slow_error(x.ravel(), _threshold(x, "mse", 8, scheme="affine").item(), 8, "affine")
    for alpha in found.values():
        assert _slow_error(x.ravel(), alpha, 8, "affine") < 12 * best
    # One-sided levels are those of one bit more of the mirrored variable.
    mirrored = _threshold(np.concatenate([x[x > 0], -x[x > 0]])[None, :, None], "aciq_laplace", 6)
    alpha = _threshold(x, "aciq_laplace", 5, scheme="affine")
    np.testing.assert_allclose(alpha, mirrored, rtol=1e-5)


def test_kl_is_the_same_where_the_session_computes_in_float64():
    x = _tensor()
    with jax.enable_x64(True):
        found = _threshold(x, "kl")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, _threshold(x, "kl"))
