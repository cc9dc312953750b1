"""Equal rows are found, and few of them stand for the others."""

import numpy as np
import pytest

from lsh_gan.metrics import duplicates


def test_first_of_equal():
    x = np.array([[1, 2], [3, 4], [1, 2], [1, 4], [3, 4]])
    for dtype in (np.float16, np.float32, np.float64):
        assert duplicates.first_of_equal(x.astype(dtype)).tolist() == [0, 1, 0, 3, 1]


@pytest.mark.parametrize("most", [1, 3])
def test_few_rows_stand_for_equal_ones(most):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 3)).astype(np.float32)[rng.integers(0, 12, 200)]
    codes = rng.integers(0, 2, 200)  # equal rows in two cells, as rounding may have it
    cells = np.stack([codes, np.zeros_like(codes)])
    standing = duplicates.representatives(x, cells, most)
    np.testing.assert_array_equal(x[standing], x)
    np.testing.assert_array_equal(codes[standing], codes)
    themselves = np.flatnonzero(standing == np.arange(200))
    assert np.isin(standing, themselves).all()
    rows = np.column_stack([x, codes])
    every, occurring = np.unique(rows, axis=0, return_counts=True)
    kept, count = np.unique(rows[themselves], axis=0, return_counts=True)
    np.testing.assert_array_equal(kept, every)
    np.testing.assert_array_equal(count, np.minimum(occurring, most))
