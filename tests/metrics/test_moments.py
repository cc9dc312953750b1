"""Kernel and Fréchet distances against float64 oracles and closed forms."""

import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from draws import draw

from lsh_gan.metrics import frechet_distance, kid


def kid_oracle(r, g):
    r, g = r.astype(np.float64), g.astype(np.float64)

    def kernel(x, y):
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x):
        k = kernel(x, x)
        np.fill_diagonal(k, 0)
        return k.sum() / (len(x) * (len(x) - 1))

    return within(r) + within(g) - 2 * kernel(r, g).mean()


def frechet_oracle(r, g):
    r, g = r.astype(np.float64), g.astype(np.float64)
    c_r, c_g = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (r, g))
    root = scipy.linalg.sqrtm(c_r @ c_g)
    return np.sum((r.mean(0) - g.mean(0)) ** 2) + np.trace(c_r + c_g - 2 * root.real)


@pytest.mark.parametrize(("n", "m", "d"), [(2, 3, 1), (130, 90, 7), (300, 150, 32), (50, 60, 200)])
def test_kid_equals_its_oracle(n, m, d):
    r, g = draw(n, d), 1.2 * draw(m, d, 1) + np.float32(0.3)
    expected = kid_oracle(r, g)
    # Sums of float32 kernel values near 1, over tiles: some 1e-6 of the largest of them.
    assert kid(r, g) == pytest.approx(expected, rel=2e-6, abs=2e-6)
    # The smallest blocks, of 128 rows, so that there are several.
    assert kid(r, g, memory_mb=1) == pytest.approx(expected, rel=2e-6, abs=2e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e-18, 1e-6, 1e-3, 1e3, 1e6, 1e15])
def test_kid_of_any_scale(size, dtype):
    r, g = (size * x.astype(np.float64) for x in (draw(300, 5), 1.2 * draw(200, 5, 1) + 0.3))
    r, g = r.astype(dtype), g.astype(dtype)
    # Without its constant, which cancels, the kernel is t³ + 3t² + 3t.
    x, y = r.astype(np.float64), g.astype(np.float64)

    def kernel(a, b):
        t = a @ b.T / a.shape[1]
        return t**3 + 3 * t**2 + 3 * t

    def within(a):
        k = kernel(a, a)
        return (k.sum() - np.trace(k)) / (len(a) * (len(a) - 1))

    expected = within(x) + within(y) - 2 * kernel(x, y).mean()
    assert kid(r, g) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("factor", [30, 1e3, 1e5])
@pytest.mark.parametrize("d", [8, 600])
def test_kid_with_one_large_row(d, factor, dtype):
    """Its kernel with itself is no part of the estimate, and the largest number by far."""
    r, g = (np.maximum(draw(n, d), 0).astype(dtype) for n in (400, 300))
    g[7] *= dtype(factor)
    x, y = r.astype(np.float64), g.astype(np.float64)

    def kernel(a, b):
        return (a @ b.T / d + 1) ** 3

    def within(a):
        upper = np.triu(kernel(a, a), 1)  # without the diagonal from the start
        return 2 * upper.sum() / (len(a) * (len(a) - 1))

    expected = within(x) + within(y) - 2 * kernel(x, y).mean()
    # Both sides take the difference of three means that are larger than it, in float32 sums.
    assert kid(r, g) == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize("offset", [1e2, 1e4])
def test_kid_far_from_the_origin(offset):
    r, g = draw(300, 8) + np.float32(offset), 1.2 * draw(200, 8, 1) + np.float32(offset + 0.3)
    # Kernel values of 1e24 differ by 1e16: float64 leaves some 1e-16 / 1e-8 of the difference.
    assert kid(r, g) == pytest.approx(kid_oracle(r, g), rel=1e-5)


def test_kid_that_overflows_is_an_error():
    with pytest.raises(ValueError, match=r"overflows float64: .* are as large as 1\.95.*e\+60"):
        kid(1e60 * np.ones((5, 2)), 1e60 * draw(5, 2).astype(np.float64))


@pytest.mark.parametrize("size", [0, 1e-170, 1e-310])
def test_kid_of_features_whose_squares_are_zero(size):
    assert kid(size * draw(30, 4).astype(np.float64), np.zeros((20, 4))) == 0


def test_kid_far_from_the_origin_holds_no_set_twice():
    r, g = (draw(4000, 64, seed) + np.float32(100) for seed in (0, 1))
    tracemalloc.start()
    kid(r, g, memory_mb=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Some float64 tiles and blocks of 128 rows; the sets take 4 MB in float64.
    assert peak < 2 * 2**20


def test_kid_is_unbiased():
    """Over samples of one distribution the mean is 0; a biased estimate would be off by more."""
    values = [kid(draw(40, 8, 2 * i), draw(40, 8, 2 * i + 1)) for i in range(30)]
    stderr = np.std(values, ddof=1) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3.5 * stderr
    assert min(values) < 0 < max(values)
    # What the diagonal terms alone would add: E(|x|²/d + 1)³ − 1 over n, twice.
    assert 3.5 * stderr < 2 * 7 / 40


def test_kid_of_two_points_each():
    r = np.array([[1.0], [2.0]], np.float32)
    g = np.array([[0.0], [3.0]], np.float32)
    # k(1,2) = 27, k(0,3) = 1; across: 1, 64, 1, 343.
    assert kid(r, g) == pytest.approx(27 + 1 - 2 * (1 + 64 + 1 + 343) / 4, rel=1e-6)


@pytest.mark.parametrize(("n", "m", "d"), [(60, 50, 1), (200, 120, 6), (300, 300, 32)])
def test_frechet_equals_its_oracle(n, m, d):
    r = draw(n, d) @ draw(d, d, 5)
    g = draw(m, d, 1) @ draw(d, d, 6) + np.float32(0.5)
    # Both are float64; scipy's root of a product that is not symmetric loses some digits.
    assert frechet_distance(r, g) == pytest.approx(frechet_oracle(r, g), rel=1e-7)


def test_frechet_closed_forms():
    r = draw(300, 10).astype(np.float64)
    variance = np.trace(np.cov(r, rowvar=False))
    # Roots of rounding errors of eigenvalues, near 1e-16 · trace, are near 1e-8.
    close = {"rel": 1e-6, "abs": 1e-6}
    assert 0 <= frechet_distance(r, r) == pytest.approx(0, **close)
    few = draw(20, 64)
    assert 0 <= frechet_distance(few, few) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(r, r + 2) == pytest.approx(40, **close)
    centred = r - r.mean(0)
    assert frechet_distance(centred, 3 * centred) == pytest.approx(4 * variance, **close)
    point = np.zeros((5, 10))
    assert frechet_distance(centred, point) == pytest.approx(variance, **close)


def test_frechet_with_fewer_rows_than_dimensions():
    r, g = draw(20, 64), draw(15, 64, 1)
    backward, forward = frechet_distance(g, r), frechet_distance(r, g)
    assert forward == pytest.approx(backward, rel=1e-6)
    # tr sqrt(C_r C_g) is the sum of singular values of X_r X_gᵀ, centred.
    x, y = (z.astype(np.float64) - z.mean(0, dtype=np.float64) for z in (r, g))
    nuclear = np.linalg.svd(x @ y.T, compute_uv=False).sum() / np.sqrt(19 * 14)
    mean = np.sum((r.mean(0, dtype=np.float64) - g.mean(0, dtype=np.float64)) ** 2)
    expected = mean + (x**2).sum() / 19 + (y**2).sum() / 14 - 2 * nuclear
    assert forward == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(200, 200), (200, 120), (200, 400)])
def test_frechet_of_nearly_equal_sets_of_few_rows(n, m):
    d, noise = 256, 1e-4
    r = draw(n, d).astype(np.float64)
    g = np.concatenate([r, draw(n, d, 2)])[:m] + noise * draw(m, d, 1)
    x, y = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (r, g))
    nuclear = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    expected = np.sum((r.mean(0) - g.mean(0)) ** 2) + (x**2).sum() + (y**2).sum() - 2 * nuclear
    # Traces near 256, whose difference float64 leaves some 1e-12 of.
    assert frechet_distance(r, g) == pytest.approx(expected, abs=1e-11)
    assert expected > noise**2 * d / 2


@pytest.mark.parametrize("rows", [5, 50])
def test_frechet_of_large_features(rows):
    r, g = (x.astype(np.float64) for x in (draw(rows, 8), 2 * draw(rows, 8, 1)))
    large = frechet_distance(1e148 * r, 1e148 * g)
    assert large / 1e296 == pytest.approx(frechet_distance(r, g), rel=1e-9)
    with pytest.raises(ValueError, match=r"overflows float64: features are as large as .*e\+1"):
        frechet_distance(1e160 * r, 1e160 * g)


def test_frechet_with_a_large_offset():
    """The covariance is taken after the mean, in float64."""
    r, g = draw(200, 8).astype(np.float64), 1.5 * draw(150, 8, 1).astype(np.float64)
    moved = frechet_distance(r + 1e6, g + 1e6)
    assert moved == pytest.approx(frechet_distance(r, g), rel=1e-6)  # 1e6 leaves 1e-10 of a value


@pytest.mark.parametrize("metric", [kid, frechet_distance])
def test_kinds_of_input_agree(metric):
    r, g = draw(100, 8), draw(90, 8, 1) + np.float32(0.5)
    expected = metric(r, g)
    # The same float32 values; only the order of a sum may differ.
    assert metric(jnp.asarray(r), jnp.asarray(g)) == pytest.approx(expected, rel=1e-5)
    assert metric([r[:30], r[30:]], iter([g[:1], g[1:]])) == pytest.approx(expected, rel=1e-5)
    assert metric(g, r) == pytest.approx(expected, rel=1e-5)
    half_r, half_g = r.astype(np.float16), g.astype(np.float16)
    widened = metric(half_r.astype(np.float32), half_g.astype(np.float32))
    assert metric(half_r, half_g) == pytest.approx(widened, rel=1e-5)
