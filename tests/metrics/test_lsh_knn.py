"""Balls among hash candidates: exact KNN for one cell, and a slow NumPy reference for many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import draw_pair

from lsh_gan.metrics import (
    HashSpec,
    cell_kernels,
    knn_precision_recall,
    lsh_knn_fit,
    lsh_knn_precision_recall,
    lsh_knn_score,
)
from lsh_gan.metrics.encoding import encode
from lsh_gan.metrics.hashing import cell_keys

KEY = jax.random.key(0)
ONE_CELL = HashSpec(num_tables=1, num_bits=0, radius_bins=0)


def sq_distances(x, y):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return ((x[:, None] - y[None]) ** 2).sum(-1)


def oracle(r_cells, g_cells, r, g, *, k, votes, inclusive=True):
    """Memberships of g and r by definition, in float64; cells are `[t, n]` and `[t, m]`."""
    compare = np.less_equal if inclusive else np.less

    def together(a, b):  # [t, a, b]
        return a[:, :, None] == b[:, None, :]

    def sq_radii(cells, x):  # [t or 1, n], NaN where fewer than k candidates leave no ball
        candidates = together(cells, cells)
        if votes is None:
            candidates = candidates.any(0, keepdims=True)
        own = sq_distances(x, x)
        np.fill_diagonal(own, np.inf)
        if len(x) < k:
            return np.full(candidates.shape[:2], np.nan)
        kth = np.sort(np.where(candidates, own, np.inf), axis=2)[:, :, k - 1]
        return np.where(np.isinf(kth), np.nan, kth)

    common, cross = together(g_cells, r_cells), sq_distances(g, r)
    if votes is None:
        common = common.any(0, keepdims=True)
    in_r = common & compare(cross, sq_radii(r_cells, r)[:, None, :])
    in_g = common & compare(cross, sq_radii(g_cells, g)[:, :, None])
    needed = 1 if votes is None else np.ceil(votes * len(common))
    return in_r.any(2).sum(0) >= needed, in_g.any(1).sum(0) >= needed


@pytest.mark.parametrize("votes", [None, 0.5])
@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("kind", ["normal", "grid", "duplicates", "copies", "offset"])
def test_one_table_of_one_cell_is_exact_knn(kind, inclusive, votes):
    r, g = draw_pair(kind, 150, 120, 6)
    options = {"inclusive": inclusive, "membership": True, "ceiling": False}
    expected = knn_precision_recall(r, g, **options)
    scores = lsh_knn_precision_recall(KEY, r, g, spec=ONE_CELL, votes=votes, **options)
    np.testing.assert_array_equal(scores.precision_membership, expected.precision_membership)
    np.testing.assert_array_equal(scores.recall_membership, expected.recall_membership)
    assert (scores.precision, scores.recall) == (expected.precision, expected.recall)
    assert scores.capped == 0


@pytest.mark.parametrize("k", [1, 5, 20])
@pytest.mark.parametrize("family", ["affine", "hyperplane", "pstable"])
def test_one_cell_of_any_family_and_k(family, k):
    r, g = draw_pair("normal", 300, 140, 4)  # more rows than a block of queries has
    spec = HashSpec(family=family, num_tables=1, num_bits=0, radius_bins=0)
    expected = knn_precision_recall(r, g, k=k, membership=True, ceiling=False)
    scores = lsh_knn_precision_recall(KEY, r, g, spec=spec, k=k, membership=True, ceiling=False)
    np.testing.assert_array_equal(scores.precision_membership, expected.precision_membership)
    np.testing.assert_array_equal(scores.recall_membership, expected.recall_membership)
    assert scores.k == k


@pytest.mark.parametrize("votes", [None, 0.5])
@pytest.mark.parametrize(
    ("kind", "family", "k", "inclusive"),
    [
        ("normal", "affine", 3, True),
        ("grid", "affine", 2, True),
        ("grid", "hyperplane", 3, False),
        ("duplicates", "pstable", 1, True),
        ("copies", "pstable", 3, True),
        ("copies", "affine", 2, False),
        ("offset", "affine", 5, True),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_equals_the_definition(kind, family, k, inclusive, votes, whole, monkeypatch):
    """In both forms of the products: all pairs of a shell at once, and block by block."""
    monkeypatch.setattr(cell_kernels, "whole_pays", lambda *_: whole)
    r, g = draw_pair(kind, 130, 110, 4)
    spec = HashSpec(
        family=family, num_tables=6, num_bits=1 if family == "pstable" else 3, radius_bins=2
    )
    fitted = lsh_knn_fit(KEY, r, spec=spec, k=k, votes=votes, inclusive=inclusive, ceiling=False)
    scores = lsh_knn_score(fitted, g, membership=True)
    r_cells, g_cells = (
        np.asarray(cell_keys(fitted.hasher, encode(fitted.hasher, x))) for x in (r, g)
    )
    precise, recalled = oracle(r_cells, g_cells, r, g, k=k, votes=votes, inclusive=inclusive)
    np.testing.assert_array_equal(scores.precision_membership, precise)
    np.testing.assert_array_equal(scores.recall_membership, recalled)
    # Ratios of counts: equal but for the last digit of a division.
    assert scores.precision == pytest.approx(precise.mean(), rel=1e-12)
    assert scores.recall == pytest.approx(recalled.mean(), rel=1e-12)
    # A case that decides nothing would prove nothing.
    assert min(scores.precision, scores.recall) > 0.05
    assert scores.precision < 1 or scores.recall < 1


def test_lone_reference_points_cover_nothing():
    """A point whose cells hold fewer than k others has no ball, where KNN gives it a huge one."""
    r, _ = draw_pair("normal", 200, 5, 8)
    r[:3] = np.float32([[200], [-250], [300]]) * np.eye(8, dtype=np.float32)[:3]
    g = r[:1] + np.float32(5) * draw_pair("normal", 60, 60, 8)[1]
    assert knn_precision_recall(r, g, ceiling=False).precision == 1
    spec = HashSpec(family="affine", num_tables=8, num_bits=12)
    for votes in (None, 0.5):
        assert lsh_knn_precision_recall(KEY, r, g, spec=spec, votes=votes).precision == 0


def test_closed_forms():
    r, _ = draw_pair("normal", 200, 5, 4)
    spec = HashSpec(family="affine", num_tables=8, num_bits=2, radius_bins=2)
    for votes in (None, 0.5):
        far = lsh_knn_precision_recall(KEY, r, r + 1000, spec=spec, votes=votes)
        assert (far.precision, far.recall) == (0, 0)
    same = lsh_knn_precision_recall(KEY, r, r, spec=spec, votes=None)
    assert (same.precision, same.recall) == (1, 1)  # every point shares cells with 200/12 others


def share_left_out(a, b, cap):
    """By definition, from cells `[t, n]`."""
    left = everything = 0
    for own, other in zip(a, b, strict=True):
        found = (own[:, None] == other[None]).sum(1)
        left, everything = left + np.maximum(found - cap, 0).sum(), everything + found.sum()
    return left / everything


def test_cap_is_counted():
    r, g = draw_pair("normal", 120, 90, 6)
    scores = lsh_knn_precision_recall(KEY, r, g, spec=ONE_CELL, max_cell=30, ceiling=False)
    assert scores.capped == 90 / 120
    full = lsh_knn_precision_recall(KEY, r, g, spec=ONE_CELL, max_cell=120, ceiling=False)
    assert full.capped == 0
    spec = HashSpec(family="affine", num_tables=5, num_bits=2, radius_bins=2)
    fitted = lsh_knn_fit(KEY, r, spec=spec, max_cell=12, ceiling=False)
    cells = [np.asarray(cell_keys(fitted.hasher, encode(fitted.hasher, x))) for x in (r, g)]
    shares = [share_left_out(cells[i], cells[j], 12) for i, j in ((0, 0), (1, 0), (0, 1))]
    assert 0.05 < max(shares) < 0.95
    assert lsh_knn_score(fitted, g).capped == pytest.approx(max(shares))
    assert lsh_knn_precision_recall(KEY, r, g, spec=spec, ceiling=False).capped == 0


def test_cap_leaves_candidates_out_and_not_samples():
    """A capped set has fewer and larger balls; every sample of a large cell is still assessed."""
    r, g = draw_pair("normal", 300, 300, 3)
    scores = lsh_knn_precision_recall(
        KEY, r, g, spec=ONE_CELL, max_cell=100, membership=True, ceiling=False
    )
    whole = knn_precision_recall(r, g, ceiling=False)
    # A third of the points covers the same manifold, with radii that are larger to suit.
    assert scores.precision == pytest.approx(whole.precision, abs=0.15)
    assert scores.recall == pytest.approx(whole.recall, abs=0.15)


@pytest.mark.parametrize("votes", [None, 0.5])
def test_ceiling_with_a_cap(votes):
    """40 rows of the cell are candidates; another of them must have a ball that holds the row."""
    r, g = draw_pair("normal", 150, 60, 3)
    fitted = lsh_knn_fit(KEY, r, spec=ONE_CELL, votes=votes, max_cell=40)
    sq, candidates = sq_distances(r, r), fitted.balls.groups.order[:40]
    covered = []
    for i in range(150):
        others = candidates[candidates != i]
        among = np.sort(sq[np.ix_(others, others)], axis=1)  # each is its own nearest
        covered.append((sq[i, others] <= among[:, 3]).any())
    assert fitted.ceiling == pytest.approx((np.mean(covered), np.mean(covered), 150), rel=1e-12)
    assert 0.3 < np.mean(covered) < 1
    scores = lsh_knn_score(fitted, g)
    assert scores.capped > 0
    assert scores.recall_ceiling < scores.precision_ceiling  # 60 rows cover less than 150


@pytest.mark.parametrize("kind", ["normal", "copies"])
@pytest.mark.parametrize("votes", [None, 0.5])
def test_ceiling_leaves_each_row_out(kind, votes):
    """Row by row: take it away, rebuild the balls of the others, and look whether they hold it."""
    r, _ = draw_pair(kind, 60, 5, 3)
    spec = HashSpec(family="affine", num_tables=4, num_bits=1, radius_bins=0)
    fitted = lsh_knn_fit(KEY, r, spec=spec, votes=votes)
    cells = np.asarray(cell_keys(fitted.hasher, encode(fitted.hasher, r)))
    assert min(np.unique(row, return_counts=True)[1].min() for row in cells) > 4
    alone = []
    for i in range(60):
        rest = np.delete(np.arange(60), i)
        alone.append(
            oracle(cells[:, rest], cells[:, i : i + 1], r[rest], r[i : i + 1], k=3, votes=votes)[0]
        )
    assert fitted.ceiling == pytest.approx((np.mean(alone), np.mean(alone), 60), rel=1e-12)
    assert 0.3 < np.mean(alone) < 1


def test_auto_bits_leave_enough_rows_in_half_the_cells():
    r, g = draw_pair("normal", 400, 100, 8)
    spec = HashSpec(num_tables=16, ceiling_target=0.8)
    fitted = lsh_knn_fit(KEY, r, spec=spec, ceiling=False)
    codes = encode(fitted.hasher, r)
    cells = np.asarray(cell_keys(fitted.hasher, codes))
    others = np.stack([(row[:, None] == row[None]).sum(1) - 1 for row in cells])
    bins = np.asarray(codes.radius_bin)
    central = (bins >= 1) & (bins <= spec.radius_bins)
    # Enough is one more than a ball needs, or log2(n) / 3.
    enough = ((others >= 4).mean(0) >= 0.5)[central].mean()
    # One step of the choice, a digit in one of 16 tables, moves a few percent.
    assert 0.8 <= enough < 0.9
    assert lsh_knn_score(fitted, g).num_bits == fitted.hasher.num_bits > 0


def test_k_larger_than_a_cell():
    """No ball for such a cell, and no error."""
    r, g = draw_pair("normal", 130, 110, 4)
    spec = HashSpec(family="affine", num_tables=4, num_bits=5, radius_bins=2)
    fitted = lsh_knn_fit(KEY, r, spec=spec, k=20, votes=None)
    scores = lsh_knn_score(fitted, g, membership=True)
    cells = [np.asarray(cell_keys(fitted.hasher, encode(fitted.hasher, x))) for x in (r, g)]
    precise, recalled = oracle(*cells, r, g, k=20, votes=None)
    np.testing.assert_array_equal(scores.precision_membership, precise)
    np.testing.assert_array_equal(scores.recall_membership, recalled)


def test_kinds_of_input_agree():
    r, g = draw_pair("normal", 150, 120, 6)
    spec = HashSpec(family="affine", num_tables=6, num_bits=2, radius_bins=2)
    whole = lsh_knn_precision_recall(KEY, r, g, spec=spec, membership=True)
    for x, y in (
        (jnp.asarray(r), jnp.asarray(g)),
        ([r[:50], r[50:]], [g[:7], g[7:]]),
        (iter([r[:50], r[50:]]), iter([g])),
    ):
        other = lsh_knn_precision_recall(KEY, x, y, spec=spec, membership=True)
        assert other[:6] == whole[:6]
        np.testing.assert_array_equal(other.precision_membership, whole.precision_membership)
        np.testing.assert_array_equal(other.recall_membership, whole.recall_membership)


def test_features_of_different_widths():
    """float64 far from the origin beside float32: both are shifted by the same."""
    r, g = draw_pair("offset", 150, 120, 6)
    r = r.astype(np.float64) + 1e-3 * np.random.default_rng(0).standard_normal(r.shape)
    for votes in (None, 0.5):
        scores = lsh_knn_precision_recall(KEY, r, g, spec=ONE_CELL, votes=votes, membership=True)
        one = np.zeros((1, 1), int)
        cells = np.broadcast_to(one, (1, 150)), np.broadcast_to(one, (1, 120))
        precise, recalled = oracle(*cells, r, g, k=3, votes=votes)
        np.testing.assert_array_equal(scores.precision_membership, precise)
        np.testing.assert_array_equal(scores.recall_membership, recalled)


def test_large_cells_and_few_queries():
    """Cells of every size of block, and fewer queries than candidates; some cells are cut."""
    r, _ = draw_pair("normal", 1500, 5, 2)
    _, g = draw_pair("normal", 5, 70, 2)
    spec = HashSpec(family="affine", num_tables=5, num_bits=3, radius_bins=0)
    fitted = lsh_knn_fit(KEY, r, spec=spec, ceiling=False)
    scores = lsh_knn_score(fitted, g, membership=True)
    cells = [np.asarray(cell_keys(fitted.hasher, encode(fitted.hasher, x))) for x in (r, g)]
    sizes = np.concatenate([np.unique(row, return_counts=True)[1] for row in cells[0]])
    assert sizes.min() <= 64
    assert sizes.max() > 256
    precise, recalled = oracle(*cells, r, g, k=3, votes=0.5)
    np.testing.assert_array_equal(scores.precision_membership, precise)
    np.testing.assert_array_equal(scores.recall_membership, recalled)


def test_one_key_one_result():
    r, g = draw_pair("normal", 150, 120, 6)
    spec = HashSpec(family="affine", num_tables=6, num_bits=4)
    first, same, other = (
        lsh_knn_precision_recall(jax.random.key(i), r, g, spec=spec, membership=True)
        for i in (5, 5, 6)
    )
    assert first[:6] == same[:6]
    np.testing.assert_array_equal(first.recall_membership, same.recall_membership)
    assert not np.array_equal(first.recall_membership, other.recall_membership)


def test_a_second_call_compiles_nothing_and_sweeps_little(compilations):
    r, g = draw_pair("normal", 133, 113, 5)  # shapes that no other test has
    for spec in (ONE_CELL, HashSpec(family="affine", num_tables=6, num_bits=3, radius_bins=2)):
        lsh_knn_precision_recall(KEY, r, g, spec=spec)
    assert compilations  # the counter counts
    compilations.clear()
    lsh_knn_precision_recall(KEY, r, g, spec=spec)
    lsh_knn_precision_recall(KEY, r, g, spec=ONE_CELL)
    lsh_knn_precision_recall(KEY, r, g, spec=spec, votes=None, inclusive=False)
    assert not compilations
    for k in (2, 4):  # k is the size of an output: one program for each shape of block
        lsh_knn_precision_recall(KEY, r, g, spec=ONE_CELL, k=k, ceiling=False)
    assert len(compilations) <= 2 * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k = 0, max_cell = 8192; expected 1 <= k < max_cell"),
        ({"max_cell": 3}, "k = 3, max_cell = 3; expected 1 <= k < max_cell"),
        ({"k": 100}, "reference has 60 rows; k = 100 needs at least 102"),
        ({"votes": 0.0}, r"votes = 0.0; expected a share in \(0, 1\], or None"),
        ({"votes": 1.5}, r"votes = 1.5"),
    ],
)
def test_bad_options(options, message):
    r, g = draw_pair("normal", 60, 50, 3)
    with pytest.raises(ValueError, match=message):
        lsh_knn_precision_recall(KEY, r, g, **options)
