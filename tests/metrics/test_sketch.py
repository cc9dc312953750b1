"""Sketches: counts, streams, merging, and scores from counts alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import draw
from sketches import KEY, SOURCE, SPEC, check_equal

from lsh_gan.metrics import HashSpec, LshReference, build, fit_hash, lsh_fit, lsh_score, merge, save
from lsh_gan.metrics.encoding import encode
from lsh_gan.metrics.hashing import cell_keys


@pytest.mark.parametrize("family", ["affine", "hyperplane", "pstable"])
def test_counts_are_those_of_the_cells(family):
    r = draw(200, 6)
    spec = HashSpec(family=family, num_tables=4, num_bits=3, radius_bins=3)
    sketch = build(fit_hash(KEY, r, spec), r)
    assert sketch.rows == 200
    assert sketch.cells.shape == (4, 200)
    for counts, cells in zip(sketch.counts, sketch.cells, strict=True):
        np.testing.assert_array_equal(counts, np.bincount(cells, minlength=len(counts)))


@pytest.mark.parametrize("family", ["affine", "pstable"])
@pytest.mark.parametrize("keep_codes", [True, False])
def test_merged_halves_are_the_whole(family, keep_codes):
    x = draw(301, 6, 1)
    spec = HashSpec(family=family, num_tables=4, num_bits=5, radius_bins=3)
    hasher = fit_hash(KEY, draw(200, 6), spec)
    whole = build(hasher, x, keep_codes=keep_codes)
    a, b = (build(hasher, part, keep_codes=keep_codes) for part in (x[:120], x[120:]))
    check_equal(merge(a, b), whole)
    assert (whole.cells is not None) == keep_codes
    np.testing.assert_array_equal(merge(b, a).counts, whole.counts)


def test_rows_have_the_same_cells_in_a_batch_of_any_size():
    """Products of few rows may be rounded otherwise, and a row near a threshold would move."""
    x = np.random.default_rng(2).standard_normal((2000, 64)).astype(np.float32) + 1
    hasher = fit_hash(KEY, x, HashSpec(num_bits=10))
    whole = cell_keys(hasher, encode(hasher, x))
    for rows in (1, 7, 16, 250):
        starts = range(0, 2000 if rows > 7 else 60 * rows, rows)
        parts = [cell_keys(hasher, encode(hasher, x[i : i + rows])) for i in starts]
        found = np.concatenate(parts, axis=1)
        np.testing.assert_array_equal(found, whole[:, : found.shape[1]])


@pytest.mark.parametrize("size", [1, 7, 64, 100])
@pytest.mark.parametrize("d", [6, 300])
def test_streams_are_arrays(size, d):
    """Rows of the fit lie on thresholds: the smallest difference in rounding would show."""
    x = draw(100, d)
    hasher = fit_hash(KEY, x, HashSpec(family="affine", num_tables=8, num_bits=8))
    whole = build(hasher, x)
    check_equal(build(hasher, (x[i : i + size] for i in range(0, 100, size))), whole)
    check_equal(build(hasher, [jnp.asarray(x[:size]), x[size:]]), whole)


def test_many_parts_merge_at_once(hasher):
    x = draw(100, 6)
    parts = [build(hasher, x[start : start + 30]) for start in range(0, 100, 30)]
    check_equal(merge(*parts), build(hasher, x))
    check_equal(merge(parts[0]), parts[0])


def test_merging_with_counts_alone_leaves_counts(hasher):
    x = draw(100, 6)
    mixed = merge(build(hasher, x[:50]), build(hasher, x[50:], keep_codes=False))
    check_equal(mixed, build(hasher, x, keep_codes=False))


def test_other_hashers_do_not_merge(hasher):
    r = draw(200, 6)
    sketch = build(hasher, r)
    for other, message in (
        (fit_hash(jax.random.key(1), r, SPEC, source=SOURCE), "directions differs"),
        (fit_hash(KEY, r, SPEC, source="other"), "source differs .*preprocessing 1' and 'other'"),
        (fit_hash(KEY, 2 * r + 1, SPEC, source=SOURCE), "shift differs"),
        (
            fit_hash(KEY, r, HashSpec(family="affine", num_tables=3, num_bits=5), source=SOURCE),
            "spec differs",
        ),
    ):
        with pytest.raises(ValueError, match=f"different hashers: {message}"):
            merge(sketch, build(other, r))
    check_equal(
        merge(sketch, build(fit_hash(KEY, r, SPEC, source=SOURCE), r)), merge(sketch, sketch)
    )


def test_unfitted_hasher(hasher):
    with pytest.raises(TypeError, match="hasher is a HashSpec; expected a Hasher, see fit_hash"):
        build(SPEC, draw(50, 6))
    with pytest.raises(ValueError, match="features has d = 5"):
        build(hasher, draw(50, 5))


def test_parts_of_a_reference_belong_together(hasher, tmp_path):
    r, g = draw(120, 6), draw(50, 6, 1)
    sketch, other = build(hasher, r), build(fit_hash(jax.random.key(9), r, SPEC), r)
    counts = build(hasher, r, keep_codes=False)
    cases = [
        (LshReference(sketch, 1, 0.5, True, other), "come from different hashers"),
        (LshReference(sketch, 1, 0.5, True, counts), "second sample's sketch holds counts only"),
        (LshReference(sketch, 0, 0.5, True, None), "min_count = 0; expected at least 1"),
        (LshReference(sketch, 1, 3.0, True, None), "votes = 3.0; expected a share"),
    ]
    for reference, message in cases:
        with pytest.raises(ValueError, match=message):
            lsh_score(reference, g)
        with pytest.raises(ValueError, match=message):
            save(tmp_path / "reference", reference)
    with pytest.raises(TypeError, match="second is a ndarray; expected a Sketch"):
        lsh_score(LshReference(sketch, 1, 0.5, True, r), g)


@pytest.mark.parametrize("min_count", [1, 2])
def test_counts_alone_give_the_share_of_tables(hasher, min_count):
    r, g = draw(200, 6), draw(250, 6, 1)
    scores = [
        lsh_score(LshReference(build(hasher, r, keep_codes=keep), min_count, None, True, None), g)
        for keep in (True, False)
    ]
    # Sums of the same yeses in another order.
    assert scores[0][:2] == pytest.approx(scores[1][:2], rel=1e-12)
    assert scores[0].precision_ceiling == pytest.approx(scores[1].precision_ceiling, rel=1e-12)
    assert scores[0].recall_ceiling == pytest.approx(scores[1].recall_ceiling, rel=1e-12)


@pytest.mark.parametrize("family", ["affine", "pstable"])
@pytest.mark.parametrize("second", [False, True])
def test_counts_alone_give_voted_precision(family, second):
    r, g = draw(200, 6), draw(150, 6, 1)
    spec = HashSpec(family=family, num_tables=4, num_bits=3)
    whole = lsh_fit(KEY, r, spec=spec, second_reference=draw(220, 6, 2) if second else None)
    counts = whole._replace(sketch=whole.sketch._replace(cells=None))
    expected = lsh_score(whole, g, membership=True)
    found = lsh_score(counts, g, membership=True, recall=False)
    assert found.precision == expected.precision
    assert found.precision_stderr == expected.precision_stderr
    np.testing.assert_array_equal(found.precision_membership, expected.precision_membership)
    assert found.precision_ceiling == (expected.precision_ceiling if second else None)
    assert (found.recall, found.recall_stderr, found.recall_ceiling) == (None, None, None)
    assert found.recall_membership is None
    with pytest.raises(ValueError, match=r"holds counts only; voted recall .* or recall=False"):
        lsh_score(counts, g)


@pytest.mark.parametrize(("votes", "membership"), [(0.5, False), (None, True)])
def test_counts_alone_cannot_vote(hasher, votes, membership):
    sketch = build(hasher, draw(50, 6), keep_codes=False)
    with pytest.raises(ValueError, match=r"holds counts only; .* keep_codes=True"):
        lsh_score(LshReference(sketch, 1, votes, True, None), draw(50, 6), membership=membership)


def test_a_second_sample_has_as_many_rows(hasher):
    r, few = draw(100, 6), draw(99, 6, 1)
    message = "second reference has 99 rows; the reference has 100: give at least as many"
    for second in (few, [few[:50], few[50:]]):
        with pytest.raises(ValueError, match=message):
            lsh_fit(KEY, r, spec=SPEC, second_reference=second)
    with pytest.raises(ValueError, match=message):
        lsh_score(LshReference(build(hasher, r), 1, None, True, build(hasher, few)), r)
