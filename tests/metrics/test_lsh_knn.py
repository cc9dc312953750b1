"""LSH+KNN scores equal the definition, given the buckets and the candidates."""

import functools

import jax
import numpy as np
import pytest
from draws import draw, draw_pair

from lsh_gan import devices
from lsh_gan.metrics import (
    HashSpec,
    definitions,
    hashing,
    knn_fit,
    knn_precision_recall,
    knn_score,
    lsh_knn_fit,
    lsh_knn_precision_recall,
    lsh_knn_score,
)
from lsh_gan.metrics.inputs import subset
from lsh_gan.metrics.lsh_knn import random_order

KEY = jax.random.key(0)
N, M, D, TABLES = 120, 90, 4, 6  # few shapes, so that few programs are compiled
ONE_BUCKET = HashSpec(num_tables=1, num_bits=0, radius_bins=0)
spec_of = functools.partial(HashSpec, num_tables=TABLES, radius_bins=2)
FEW = {"pstable": 1, "affine": 2, "hyperplane": 2}


def ranks(buckets, order):
    """Place of each row among the rows of its bucket, in the given order, `[t, rows]`."""
    found = np.empty(buckets.shape, int)
    for table, of_table in zip(found, buckets, strict=True):
        seen = {}
        for row in order:
            table[row] = seen[of_table[row]] = seen.get(of_table[row], -1) + 1
    return found


def define(fitted, g):
    """Memberships by definition, those of G left out, and the share of rows beyond the cap."""
    r, h, c = fitted.features, fitted.hasher, fitted.bucket_rows
    of_r, of_g = (np.asarray(hashing.buckets(h, hashing.encode(h, x))) for x in (r, g))
    in_r, in_g = (
        ranks(of, np.asarray(random_order(len(x)))) < c for of, x in ((of_r, r), (of_g, g))
    )
    options = {"k": fitted.k, "votes": fitted.votes, "inclusive": fitted.inclusive}
    on = definitions.lsh_knn(
        r, g, of_r, of_g, reference_candidates=in_r, generated_candidates=in_g, **options
    )
    exchanged = definitions.lsh_knn(
        g, r, of_g, of_r, reference_candidates=in_g, generated_candidates=in_r, **options
    )
    capped = 1 - np.concatenate([in_r, in_g], axis=1).mean()
    return on, exchanged.left_out, capped


def check(fitted, g, ceilings=True):
    scores = lsh_knn_score(fitted, g, membership=True)
    on, _, capped = define(fitted, g)
    np.testing.assert_array_equal(scores.precision_membership, on.generated)
    np.testing.assert_array_equal(scores.recall_membership, on.reference)
    assert scores[:2] == pytest.approx((on.generated.mean(), on.reference.mean()), rel=1e-12)
    assert scores.capped == pytest.approx(capped, abs=1e-6)
    if not ceilings:
        return scores
    assert scores.precision_ceiling == pytest.approx(on.left_out.mean(), rel=1e-12)
    if len(g) < len(fitted.features):
        rows = subset(len(fitted.features), len(g))
        sample, left_out, _ = define(fitted, fitted.features[rows])
        sample.reference[rows] = left_out
        assert scores.recall_ceiling == pytest.approx(sample.reference.mean())
    return scores


# c = 24, the default, is met by few buckets; c = 5 by many. One case has fewer samples than rows:
# the ceilings of the others compile nothing more.
@pytest.mark.parametrize(
    ("family", "k", "inclusive", "c", "m"),
    [
        ("pstable", 3, True, 24, M),
        ("hyperplane", 3, False, 24, N),
        ("affine", 2, False, 5, N),
        ("affine", 1, True, 5, N),
    ],
)
@pytest.mark.parametrize("kind", ["normal", "grid", "copies"])
def test_equals_the_definition(kind, family, k, inclusive, c, m):
    r, g = draw_pair(kind, N, m, D)
    spec = spec_of(family=family, num_bits=FEW[family])
    fitted = lsh_knn_fit(KEY, r, spec=spec, k=k, inclusive=inclusive, bucket_rows=c)
    # With `<` and ties, more rows beyond the cap count when they are left out.
    scores = check(fitted, g, ceilings=inclusive or c == 24 or kind == "normal")
    if c == 5:
        assert scores.capped > 0.1
    assert 0 < scores.precision < 1  # a case that decides nothing would prove nothing


def test_an_outlier_as_first_row_does_not_blur_distances():
    r, g = draw_pair("normal", N, M, D)
    r[0] = 1e4
    check(lsh_knn_fit(KEY, r, spec=spec_of(num_bits=1)), g)


def test_sizes_that_suit_an_accelerator(monkeypatch):
    """Chunks of 32 for buckets of 6, in one block; of k of its own, to be traced anew."""
    monkeypatch.setattr(devices, "at_once", lambda cpu, accelerator: accelerator)
    r, g = draw_pair("normal", N, N, D)
    spec = spec_of(family="affine", num_bits=FEW["affine"])
    scores = check(lsh_knn_fit(KEY, r, spec=spec, k=4, bucket_rows=6), g)
    assert scores.capped > 0.1


@pytest.mark.filterwarnings("ignore:LSH.KNN. only 0.0%")  # of constant sets, strictly
@pytest.mark.parametrize("kind", ["identical", "offset", "constant", "duplicates"])
def test_hard_sets(kind):
    r, g = draw_pair(kind, N, N, D)
    fitted = lsh_knn_fit(KEY, r, spec=spec_of(num_bits=1), k=2, bucket_rows=5, inclusive=False)
    check(fitted, g, ceilings=kind != "duplicates")


@pytest.mark.parametrize("votes", [0.01, 1.0])
def test_votes(votes):
    r, g = draw_pair("normal", N, M, D)
    check(lsh_knn_fit(KEY, r, spec=spec_of(num_bits=1), votes=votes), g)


@pytest.mark.parametrize("kind", ["normal", "grid", "copies", "offset"])
def test_one_bucket_is_knn(kind):
    r, g = draw_pair(kind, N, N, D)
    expected = knn_precision_recall(r, g, membership=True)
    scores = lsh_knn_precision_recall(KEY, r, g, spec=ONE_BUCKET, bucket_rows=N, membership=True)
    np.testing.assert_array_equal(scores.precision_membership, expected.precision_membership)
    np.testing.assert_array_equal(scores.recall_membership, expected.recall_membership)
    ceilings = expected.precision_ceiling, expected.recall_ceiling
    assert (scores.precision_ceiling, scores.recall_ceiling) == pytest.approx(ceilings)
    assert scores.capped == 0


def test_recall_by_a_larger_set_is_that_by_n_of_its_rows():
    r, g = draw_pair("normal", M, N, D)
    fitted = lsh_knn_fit(KEY, r, spec=spec_of(num_bits=1))
    scores = lsh_knn_score(fitted, g, membership=True)
    np.testing.assert_array_equal(scores.precision_membership, define(fitted, g)[0].generated)
    few = define(fitted, g[subset(N, M)])[0]
    np.testing.assert_array_equal(scores.recall_membership, few.reference)


def test_second_reference_gives_the_ceilings():
    r, g = draw_pair("normal", N, M, D)
    second = draw(N, D, 3)
    fitted = lsh_knn_fit(KEY, r, spec=spec_of(num_bits=1), second_reference=second)
    scores = lsh_knn_score(fitted, g)
    assert scores.precision_ceiling == pytest.approx(define(fitted, second)[0].generated.mean())
    sample = second[subset(N, M)]
    assert scores.recall_ceiling == pytest.approx(define(fitted, sample)[0].reference.mean())
    none = lsh_knn_fit(KEY, r, spec=spec_of(num_bits=1), ceiling=False)
    assert lsh_knn_score(none, g).precision_ceiling is None


@pytest.mark.parametrize("second", [None, draw(N, D, 3)])
def test_ceilings_that_are_known_are_those_of_the_number_of_samples(second):
    r, g = draw_pair("normal", N, N, D)
    for score, fit in (
        (lsh_knn_score, functools.partial(lsh_knn_fit, KEY, r, spec=spec_of(num_bits=1))),
        (knn_score, functools.partial(knn_fit, r)),
    ):
        fitted = fit(second_reference=second)
        for rows in (N, M, N, M):
            known, fresh = score(fitted, g[:rows]), score(fit(second_reference=second), g[:rows])
            assert known == fresh


def test_collapse_onto_one_good_image_keeps_precision():
    """All of G is in one bucket, most of it beyond the cap, and takes no place from R."""
    r, _ = draw_pair("normal", N, M, D)
    fitted = lsh_knn_fit(KEY, r, spec=spec_of(num_bits=1))
    good = int(np.argmin(np.linalg.norm(r - r.mean(axis=0), axis=1)))
    scores = lsh_knn_score(fitted, np.repeat(r[good : good + 1], M, axis=0))
    assert scores.precision == 1
    assert scores.recall < 0.1
    assert scores.capped > 0.2


def test_lone_outliers_have_no_ball():
    r, g = draw_pair("normal", N, M, D)
    r[:3] = np.float32([[200], [-250], [300]]) * np.eye(D, dtype=np.float32)[:3]
    g = r[:1] + 5 * g
    assert knn_precision_recall(r, g).precision == 1
    assert lsh_knn_precision_recall(KEY, r, g, spec=spec_of(num_bits=2)).precision == 0


def test_translation_changes_nothing():
    r, g = draw_pair("grid", N, M, D)
    one, other = (
        lsh_knn_precision_recall(KEY, r + x, g + x, spec=spec_of(num_bits=1))
        for x in (0, np.float32(4096))
    )
    assert one == other


def test_auto_leaves_enough_rows_in_buckets():
    r, _ = draw_pair("normal", 1500, M, 8)
    fitted = lsh_knn_fit(KEY, r, spec=HashSpec(num_tables=12, ceiling_target=0.8), ceiling=False)
    h = fitted.hasher
    codes = hashing.encode(h, r)
    of_r, bins = np.asarray(hashing.buckets(h, codes)), np.asarray(codes.radius_bin)
    others = np.stack([(row[:, None] == row).sum(axis=1) - 1 for row in of_r])
    enough = ((others >= 7).sum(axis=0) >= 6)[(bins >= 1) & (bins <= 8)].mean()
    assert 0.65 <= enough < 0.9


def test_candidates_do_not_hang_on_the_random_numbers_of_a_session():
    expected = random_order(N)
    with jax.default_prng_impl("rbg"):
        np.testing.assert_array_equal(random_order(N), expected)
