"""Kernel and Fréchet distances against float64 oracles and closed forms."""

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
        return (k.sum() - np.trace(k)) / (len(x) * (len(x) - 1))

    return within(r) + within(g) - 2 * kernel(r, g).mean()


def frechet_oracle(r, g):
    r, g = r.astype(np.float64), g.astype(np.float64)
    c_r, c_g = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (r, g))
    root = scipy.linalg.sqrtm(c_r @ c_g)
    return np.sum((r.mean(0) - g.mean(0)) ** 2) + np.trace(c_r + c_g - 2 * root.real)


@pytest.mark.parametrize(("n", "m", "d"), [(2, 3, 1), (120, 90, 7), (700, 300, 32)])
def test_kid_equals_its_oracle(n, m, d):
    r, g = draw(n, d), 1.2 * draw(m, d, 1) + np.float32(0.3)
    # Float32 products of values near 1; the smallest tiles, so that there are several.
    assert kid(r, g, memory_mb=1)[0] == pytest.approx(kid_oracle(r, g), rel=2e-6, abs=2e-6)


# Between equal distributions the error is √2 too large.
@pytest.mark.parametrize(("shift", "too_large"), [(0, 2**0.5), (0.8, 1)])
def test_kid_is_unbiased_and_says_its_error(shift, too_large):
    found = np.array([
        kid(draw(120, 7, 2 * i), draw(90, 7, 2 * i + 1) + np.float32(shift))
        for i in range(80)
    ]).T  # fmt: skip
    values, errors = found
    if not shift:
        assert values.min() < 0 < values.max()
        assert abs(values.mean()) < 4 * values.std() / 80**0.5
    assert errors.mean() == pytest.approx(too_large * values.std(), rel=0.25)


@pytest.mark.parametrize(("n", "m", "d"), [(2, 3, 1), (120, 90, 7), (50, 60, 200)])
def test_frechet_equals_its_oracle(n, m, d):
    r, g = draw(n, d), 1.2 * draw(m, d, 1) + np.float32(0.3)
    # The root of a singular matrix, of which the oracle has half of the digits.
    assert frechet_distance(r, g) == pytest.approx(frechet_oracle(r, g), rel=1e-5)


def test_frechet_of_the_same_and_of_moved_and_scaled_sets():
    r = draw(120, 7).astype(np.float64)
    assert frechet_distance(r, r) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(r, r + 1e6) == pytest.approx(7e12, rel=1e-9)
    trace = np.trace(np.cov(r, rowvar=False))
    mean = np.sum(r.mean(axis=0) ** 2)
    assert frechet_distance(r, 3 * r) == pytest.approx(4 * trace + 4 * mean, rel=1e-9)


def test_frechet_of_one_dimension():
    r, g = draw(120, 1).astype(np.float64), 2 * draw(90, 1, 1).astype(np.float64) + 1
    expected = (r.mean() - g.mean()) ** 2 + (r.std(ddof=1) - g.std(ddof=1)) ** 2
    assert frechet_distance(r, g) == pytest.approx(expected, rel=1e-9)
