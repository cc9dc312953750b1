"""The definitions against closed forms by hand and PyPI `prdc`."""

import numpy as np
import pytest
from draws import draw_pair

from lsh_gan.metrics import definitions


@pytest.mark.parametrize("kind", ["normal", "grid", "copies"])
def test_agrees_with_prdc(kind):
    prdc = pytest.importorskip("prdc")
    r, g = (x.astype(np.float64) for x in draw_pair(kind, 120, 100, 6))
    if kind != "normal":  # small integers, of which prdc's products are exact
        r, g = np.round(4 * r), np.round(4 * g)
    expected = prdc.compute_prdc(r, g, nearest_k=5)
    on = definitions.knn(r, g, k=5, inclusive=False)
    density, coverage = definitions.density_coverage(r, g, k=5, inclusive=False)
    found = {"precision": on.generated.mean(), "recall": on.reference.mean()}
    assert found | {"density": density, "coverage": coverage} == pytest.approx(expected)


def test_balls_by_hand():
    """Radii of R for k = 2 are 3, 2, 2, 3 and of G 8, 4.5, 8."""
    r, g = np.array([[0.0], [1], [3], [4]]), np.array([[-3.0], [1.5], [5]])
    on = definitions.knn(r, g, k=2)
    assert on.generated.tolist() == [True, True, True]
    assert on.reference.tolist() == [True, True, True, True]
    strict = definitions.knn(r, g, k=2, inclusive=False)
    assert strict.generated.tolist() == [False, True, True]
    # Without 0 the radii of 1, 3, 4 are 3, 2, 3; without 1, those of 0, 3, 4 are 4, 3, 4.
    assert on.left_out.all()
    assert definitions.density_coverage(r, g, k=2) == ((1 + 4 + 2) / 3 / 2, 1)


def test_a_lone_row_is_left_out():
    on = definitions.knn(np.array([[0.0], [1], [2], [50]]), np.zeros((3, 1)), k=1)
    assert on.left_out.tolist() == [True, True, True, False]
    assert on.reference.tolist() == [True, False, False, False]  # three equal rows: radius 0


def test_votes_by_hand():
    r = np.array([[0, 0, 1], [5, 6, 7], [3, 3, 3], [1, 2, 2]])  # 4 tables of 3 rows
    g = np.array([[0, 9], [7, 8], [9, 9], [2, 9]])
    half, most = (definitions.lsh(r, g, votes=votes, min_level=None) for votes in (0.5, 0.75))
    assert half.generated.tolist() == most.generated.tolist() == [True, False]
    assert half.reference.tolist() == [False, True, True]
    assert most.reference.tolist() == [False, False, False]
    assert half.left_out.tolist() == [True, True, True]
    assert most.left_out.tolist() == [False, True, False]
    twice = definitions.lsh(r, g, min_count=2, votes=0.5, min_level=None)
    assert twice.generated.tolist() == [True, False]  # two rows in table 0 and in table 3
    # Company 3, 4, 3: levels 2, 2.32, 2 of a mean of 2.11 and a standard deviation of .15.
    assert definitions.lsh(r, g).left_out.tolist() == [False, True, False]
    assert definitions.lsh(r, g, min_level=-0.8).left_out.all()


def test_fewer_candidates_than_neighbours_make_no_ball():
    r, g = np.array([[0.0], [1], [2], [9]]), np.array([[0.5], [9], [9], [9]])
    buckets = np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 1]])
    on = definitions.lsh_knn(r, g, *buckets, k=1)
    assert on.generated.tolist() == [True, True, True, True]
    assert on.reference.tolist() == [False, False, False, True]  # G has one row in bucket 0
    assert not definitions.lsh_knn(r, g, *buckets, k=2).generated.any()
    # Left out, a row leaves one other in its bucket, which has no neighbour.
    assert not on.left_out.any()


def test_votes_and_union_of_candidates():
    """In table 0 rows 0 and 1 share a bucket, in table 1 rows 1 and 2; g shares one in both."""
    r, g = np.array([[0.0], [1], [3]]), np.array([[0.5], [0.5]])
    buckets = np.array([[0, 0, 1], [0, 1, 1]]), np.array([[0, 0], [0, 0]])
    assert definitions.lsh_knn(r, g, *buckets, k=1, votes=0.5).generated.all()
    assert not definitions.lsh_knn(r, g, *buckets, k=1, votes=1.0).generated.any()
    assert definitions.lsh_knn(r, g, *buckets, k=1, votes=None).generated.all()


def test_rows_that_are_no_candidates_are_judged_and_make_no_ball():
    r, g = np.array([[0.0], [1], [2], [1.5]]), np.array([[1.5], [2.5]])
    one = np.zeros((1, 4), int), np.zeros((1, 2), int)
    first = np.array([[True, True, False, False]])
    on = definitions.lsh_knn(r, g, *one, k=1, reference_candidates=first)
    assert on.generated.tolist() == [True, False]
    # Left out, a candidate leaves one, which has no ball; row 2 and 3 see the balls of both.
    assert on.left_out.tolist() == [False, False, True, True]
