"""LSH scores against a plain NumPy re-implementation, and what the metric must see."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import draw

from lsh_gan.metrics import (
    HashSpec,
    distances,
    encoding,
    fit_hash,
    hashing,
    lsh_fit,
    lsh_knn_precision_recall,
    lsh_precision_recall,
    lsh_score,
)
from lsh_gan.metrics.votes import join

KEY = jax.random.key(0)


def reference_codes(hasher, features):
    """The code of each row in each table, as tuples (digits and radius bin), in float64.

    A value within float32 rounding of an edge counts as equal to it, and an equal one is not above
    it, but for the first edge, which lies just below the innermost row.
    """
    x = (features.astype(np.float64) - hasher.shift) * hasher.scale
    edges = hasher.radius_edges + np.where(np.arange(len(hasher.radius_edges)) == 0, -1e-6, 1e-6)
    radius = (np.linalg.norm(x, axis=1)[:, None] > edges).sum(1)
    tables = []
    for members, thresholds, b in zip(
        hasher.members, hasher.thresholds, hasher.digits, strict=True
    ):
        offset = x @ np.asarray(hasher.directions, np.float64)[members[:b]].T - thresholds[:b]
        if hasher.spec.family == "pstable":
            digits = np.clip(np.floor(offset / hasher.width), -4, 3)
        else:
            digits = offset > 1e-6
        codes = np.column_stack([digits, radius]).astype(int)
        tables.append([tuple(row) for row in codes])
    return tables


def oracle(hasher, r, g, min_count, votes):
    """Membership of every g and every r, by definition."""
    r_codes, g_codes = reference_codes(hasher, r), reference_codes(hasher, g)

    def membership(queries, others):
        yes = []
        for own, other in zip(queries, others, strict=True):
            counts = Counter(other)
            yes.append([counts[code] >= min_count for code in own])
        share = np.mean(yes, axis=0)
        return share if votes is None else share >= votes

    return membership(g_codes, r_codes), membership(r_codes, g_codes)


@pytest.mark.parametrize("votes", [None, 0.5])
@pytest.mark.parametrize("min_count", [1, 2])
@pytest.mark.parametrize("radius_bins", [0, 4])
@pytest.mark.parametrize("family", ["affine", "hyperplane", "pstable"])
def test_equals_the_definition(family, radius_bins, min_count, votes):
    num_bits = (3 if family == "pstable" else 7) + (0 if radius_bins else 4)
    spec = HashSpec(
        family=family, num_tables=12, num_bits=num_bits,
        radius_bins=radius_bins, num_directions=24,
    )  # fmt: skip
    r, g = draw(240, 8), 1.2 * draw(170, 8, 1) + np.float32(0.1)
    fitted = lsh_fit(KEY, r, spec=spec, min_count=min_count, votes=votes)
    scores = lsh_score(fitted, g, membership=True)
    precise, recalled = oracle(fitted.sketch.hasher, r, g, min_count, votes)
    # Shares of 12 tables, which differ by rounding at most.
    np.testing.assert_allclose(scores.precision_membership, precise, atol=1e-12)
    np.testing.assert_allclose(scores.recall_membership, recalled, atol=1e-12)
    assert scores.precision == pytest.approx(precise.mean(), abs=1e-12)
    assert scores.recall == pytest.approx(recalled.mean(), abs=1e-12)
    # A case that decides nothing would prove nothing.
    assert 0 < scores.precision < 1
    assert scores.recall < 1
    assert scores.precision_membership.dtype == (np.float64 if votes is None else bool)
    assert (scores.n, scores.m, scores.family) == (240, 170, family)
    assert (scores.num_tables, scores.radius_bins) == (12, radius_bins)
    assert scores.num_bits == spec.num_bits
    again = lsh_precision_recall(
        KEY, r, g, spec=spec, min_count=min_count, votes=votes, membership=False
    )
    assert again.precision_membership is None
    assert again.recall_membership is None
    assert again[:6] == scores[:6]


@pytest.mark.parametrize(("votes", "needed"), [(0.25, 1), (0.3, 2), (0.5, 2), (0.75, 3), (1.0, 4)])
def test_a_share_that_is_exactly_met_counts(votes, needed):
    yes = np.arange(5)
    groups = np.zeros((8, 5), int)
    groups[:4] = yes > np.arange(4)[:, None]
    joined = join(groups, 4, votes)
    np.testing.assert_array_equal(joined.membership, yes >= needed)


@pytest.mark.parametrize("min_count", [1, 2])
@pytest.mark.parametrize("votes", [None, 0.5])
def test_ceiling_is_the_reference_among_itself(votes, min_count):
    r = draw(200, 6)
    spec = HashSpec(family="affine", num_tables=8, num_bits=6, radius_bins=4)
    fitted = lsh_fit(KEY, r, spec=spec, min_count=min_count, votes=votes)
    codes = reference_codes(fitted.sketch.hasher, r)
    yes = [[count[c] - 1 >= min_count for c in t] for t in codes for count in [Counter(t)]]
    share = np.mean(yes, axis=0)
    expected = (share if votes is None else share >= votes).mean()
    scores = lsh_score(fitted, draw(220, 6, 1))
    assert scores.precision_ceiling == pytest.approx(expected, abs=1e-12)
    assert scores.recall_ceiling == pytest.approx(expected, abs=1e-12)
    fewer = lsh_score(fitted, draw(50, 6, 1))
    assert fewer.precision_ceiling == pytest.approx(expected, abs=1e-12)
    assert 0 < fewer.recall_ceiling < expected


def test_no_ceiling_when_not_asked_for():
    scores = lsh_precision_recall(KEY, draw(50, 4), draw(50, 4, 1), ceiling=False)
    assert scores.precision_ceiling is None
    assert scores.recall_ceiling is None


def test_standard_error_of_one_table_is_binomial():
    spec = HashSpec(family="affine", num_tables=1, num_bits=6, radius_bins=4)
    scores = lsh_precision_recall(KEY, draw(200, 8), draw(150, 8, 1), spec=spec, votes=None)
    p, q = scores.precision, scores.recall
    assert 0.2 < p < 0.98
    assert scores.precision_stderr == pytest.approx(np.sqrt(p * (1 - p) / 150), rel=1e-9)
    assert scores.recall_stderr == pytest.approx(np.sqrt(q * (1 - q) / 200), rel=1e-9)


def test_standard_error_covers_the_tables():
    """The spread over hashes, with the samples fixed, is part of the error that is stated."""
    r, g = draw(300, 8), draw(300, 8, 1)
    spec = HashSpec(family="affine", num_tables=8, num_bits=8, num_directions=0)
    scores = [
        lsh_precision_recall(jax.random.key(i), r, g, spec=spec, votes=None, ceiling=False)
        for i in range(8)
    ]
    spread = np.std([s.precision for s in scores], ddof=1)
    stated = np.mean([s.precision_stderr for s in scores])
    # The sample's own part, sqrt(var/m), makes up the rest; 8 seeds know the spread within 60 %.
    assert 0.4 * spread < stated < 4 * spread


def test_closed_forms():
    r = draw(200, 6)
    spec = HashSpec(family="affine", num_tables=8, num_bits=6, radius_bins=4)
    same = lsh_precision_recall(KEY, r, r, spec=spec)
    assert (same.precision, same.recall) == (1, 1)
    far = lsh_precision_recall(KEY, r, r + 100, spec=spec)
    assert (far.precision, far.recall) == (0, 0)
    pairs = lsh_precision_recall(KEY, r, np.repeat(r, 2, axis=0), spec=spec, min_count=2)
    assert pairs.recall == 1


def test_min_count_ignores_a_lone_outlier():
    r = draw(200, 6)
    r[17] = 50
    g = np.repeat(r[17:18], 20, axis=0)
    spec = HashSpec(family="affine", num_tables=16, num_bits=6)
    assert lsh_precision_recall(KEY, r, g, spec=spec).precision > 0.9
    assert lsh_precision_recall(KEY, r, g, spec=spec, min_count=2).precision == 0


def test_radius_bins_let_affine_see_scale_and_hyperplane_alone_is_blind():
    r, g = draw(400, 16), draw(400, 16, 1)
    blind = HashSpec(family="hyperplane", num_tables=16, num_bits=6, radius_bins=0)
    seeing = HashSpec(family="affine", num_tables=16, num_bits=6, radius_bins=8)
    hasher = lsh_fit(KEY, r, spec=blind).sketch.hasher
    halved, doubled = (hasher.shift + s * (g - hasher.shift) for s in (0.5, 2.0))

    def scores(spec, features):
        found = lsh_precision_recall(KEY, r, features, spec=spec, votes=None, ceiling=False)
        return np.array([found.precision, found.recall])

    for changed in (halved, doubled):
        # Cells are cones from the mean: only rounding can move a point to another.
        np.testing.assert_allclose(scores(blind, changed), scores(blind, g), atol=2e-3)
    before = scores(seeing, g)
    assert min(before) > 0.6
    assert scores(seeing, halved)[1] < 0.2 * before[1]
    assert scores(seeing, doubled)[0] < 0.2 * before[0]


def test_a_share_of_tables_and_votes_agree_on_one_table():
    r, g = draw(150, 6), draw(100, 6, 1)
    spec = HashSpec(family="affine", num_tables=1, num_bits=6, radius_bins=4)
    a, b = (lsh_precision_recall(KEY, r, g, spec=spec, votes=v) for v in (None, 1.0))
    assert a[:4] == pytest.approx(b[:4], abs=1e-12)


def test_at_least_one_table_must_say_yes():
    r, g = draw(200, 8), draw(100, 8) + 50
    spec = HashSpec(family="affine", num_bits=4)
    for score in (lsh_precision_recall, lsh_knn_precision_recall):
        assert score(KEY, r, g, spec=spec, votes=1e-12).precision == 0


@pytest.mark.parametrize("size", [1e8, 1e16])
def test_an_extreme_outlier_changes_little(size):
    """The mean and the scale of the rows would be its own, and float32 would lose the others."""
    r, g = draw(600, 16), draw(300, 16, 1)
    spoilt = r.copy()
    spoilt[7] = size
    for score in (lsh_precision_recall, lsh_knn_precision_recall):
        clean, found = score(KEY, r, g), score(KEY, spoilt, g)
        # One row of 600 and another fit: about as much as another sample of 600 would move it.
        assert found.precision == pytest.approx(clean.precision, abs=0.03)
        assert found.recall == pytest.approx(clean.recall, abs=0.03)
    spoilt[7] = 1e20
    with pytest.raises(ValueError, match=r"reference .*overflows float32\) in row 7"):
        lsh_precision_recall(KEY, spoilt, g)


def test_rows_of_zeros_do_not_make_others_extreme():
    rows = draw(100, 4)
    r = np.concatenate([np.zeros((150, 4), np.float32), rows])
    hasher = fit_hash(KEY, r)
    assert 0.25 < hasher.scale * np.abs(r - hasher.shift).max() <= 1


def test_double_precision_in_jax_changes_no_hash():
    r, g = draw(300, 8), draw(200, 8, 1)
    for family in ("affine", "hyperplane", "pstable"):
        spec = HashSpec(family=family)
        single = lsh_precision_recall(KEY, r, g, spec=spec)
        with jax.enable_x64(True):
            assert lsh_precision_recall(jax.random.key(0), r, g, spec=spec) == single


def test_one_key_one_result():
    r, g = draw(200, 8), draw(150, 8, 1)
    spec = HashSpec(family="affine", num_tables=8, num_bits=7)
    first, same, other = (
        lsh_precision_recall(jax.random.key(k), r, g, spec=spec, membership=True) for k in (5, 5, 6)
    )
    assert first[:6] == same[:6]
    np.testing.assert_array_equal(first.precision_membership, same.precision_membership)
    assert not np.array_equal(first.precision_membership, other.precision_membership)


@pytest.mark.parametrize("num_bits", ["auto", 7])
def test_arrays_streams_and_devices_score_the_same(num_bits):
    r, g = draw(300, 8), draw(250, 8, 1)
    spec = HashSpec(family="affine", num_tables=8, num_bits=num_bits)

    def cut(x, size):
        return [x[i : i + size] for i in range(0, len(x), size)]

    whole = lsh_precision_recall(KEY, r, g, spec=spec, membership=True)
    for reference, generated in (
        (cut(r, 64), cut(g, 100)),
        (cut(r, 7), [g[:1], g[1:1], g[1:]]),
        (jnp.asarray(r), jnp.asarray(g)),
    ):
        parts = lsh_precision_recall(KEY, reference, generated, spec=spec, membership=True)
        assert parts[:6] == whole[:6]
        np.testing.assert_array_equal(parts.precision_membership, whole.precision_membership)
        np.testing.assert_array_equal(parts.recall_membership, whole.recall_membership)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_read_as_float32(dtype):
    r, g = (np.asarray(x, dtype) for x in (draw(200, 8), draw(150, 8, 1)))
    half = lsh_precision_recall(KEY, r, g, spec=HashSpec(family="affine", num_bits=6))
    single = lsh_precision_recall(
        KEY, r.astype(np.float32), g.astype(np.float32), spec=HashSpec(family="affine", num_bits=6)
    )
    assert half[:6] == single[:6]


def test_order_of_rows_does_not_matter():
    r, g = draw(200, 8), draw(150, 8, 1)
    fitted = lsh_fit(KEY, r, spec=HashSpec(family="affine", num_bits=7))
    order = np.random.default_rng(0).permutation(150)
    first, second = (lsh_score(fitted, x, membership=True) for x in (g, g[order]))
    assert first[:2] == second[:2]
    np.testing.assert_array_equal(first.precision_membership[order], second.precision_membership)


def test_compiles_once_for_all_bit_widths(compilations):
    r, g = draw(600, 37), draw(110, 37, 1)  # no other test has this d
    programs = distances.dots, encoding._encode, hashing._cells

    def sweep(seed, widths):
        sizes = [f._cache_size() for f in programs]
        before = len(compilations)
        for b in widths:
            spec = HashSpec(family="affine", num_tables=6, num_bits=b, radius_bins=3)
            lsh_precision_recall(jax.random.key(seed), r, g, spec=spec)
        after = [f._cache_size() for f in programs]
        return len(compilations) - before, np.subtract(after, sizes)

    first, hashes = sweep(0, [4])
    assert first > 0  # the counter counts
    # Reference and generated set differ in shape; that is all.
    np.testing.assert_array_equal(hashes, [2, 2, 2])
    assert sweep(0, [4])[0] == 0
    assert sweep(1, [3, 4])[0] == 0  # tables have even sizes, so that 3 bits compile nothing more
    wider, hashes = sweep(0, range(5, 13))
    np.testing.assert_array_equal(hashes, [0, 0, 0])
    # Four sizes of tables (6, 8, 10, 12 bits), each with a few programs of its own.
    assert 0 < wider <= 4 * first
    assert sweep(2, range(3, 13))[0] == 0


def test_votes_and_min_count_compile_nothing(compilations):
    r, g = draw(131, 5), draw(111, 5, 1)
    spec = HashSpec(family="affine", num_tables=6, num_bits=5)
    lsh_precision_recall(KEY, r, g, spec=spec)
    before = len(compilations)
    for votes in (None, 0.25, 0.75):
        for min_count in (1, 2, 5):
            lsh_precision_recall(KEY, r, g, spec=spec, votes=votes, min_count=min_count)
    assert len(compilations) == before
