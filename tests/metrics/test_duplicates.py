"""Equal rows are found, and few of them stand for the others."""

import numpy as np
import pytest
from draws import draw

from lsh_gan.metrics import duplicates, knn_precision_recall, refine


def test_first_of_equal():
    x = np.array([[1, 2], [3, 4], [1, 2], [1, 4], [3, 4]])
    for dtype in (np.float16, np.float32, np.float64):
        assert duplicates.first_of_equal(x.astype(dtype)).tolist() == [0, 1, 0, 3, 1]
    some = np.array([1, 2, 4])
    assert duplicates.first_of_equal(x, some).tolist() == [0, 1, 0]


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


def test_a_row_that_is_drawn_again_and_again(monkeypatch):
    """All are in the ball of one reference point: no radius of an equal row is looked for."""
    compared = []
    exact = refine.exact_sq_distances

    def counted(x, y, i, j):
        compared.append(len(i))
        return exact(x, y, i, j)

    monkeypatch.setattr(refine, "exact_sq_distances", counted)
    r = draw(500, 8)
    scores = knn_precision_recall(r, np.tile(r[:1], (500, 1)), ceiling=False)
    assert (scores.precision, scores.recall) == (1, 1 / 500)
    assert 0 < sum(compared) < 20 * 500
