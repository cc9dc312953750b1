"""LSH scores equal the definition, given the addresses; options, ceilings, standard errors."""

import dataclasses
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import draw, draw_pair

from lsh_gan.metrics import (
    HashSpec,
    definitions,
    hashing,
    lsh_fit,
    lsh_knn_fit,
    lsh_knn_precision_recall,
    lsh_knn_score,
    lsh_precision_recall,
    lsh_precision_recall_curve,
    lsh_score,
)
from lsh_gan.metrics.inputs import subset

KEY = jax.random.key(0)
N, M, D, TABLES = 192, 120, 4, 6  # few shapes, so that few programs are compiled; 3 regions
spec_of = functools.partial(HashSpec, num_tables=TABLES)
# Rows, dimensions and hash of each: LSH+KNN needs more tables for a standard error.
METRICS = {
    lsh_precision_recall: (N, M, D, spec_of()),
    lsh_knn_precision_recall: (150, 150, 16, HashSpec(num_tables=12)),
}
FIT_AND_SCORE = {
    lsh_precision_recall: (lsh_fit, lsh_score),
    lsh_knn_precision_recall: (lsh_knn_fit, lsh_knn_score),
}
FEW = {"pstable": 2, "affine": 5, "hyperplane": 5}  # digits that leave some rows alone


def addresses(hasher, x):
    found = hashing.buckets(hasher, hashing.encode(hasher, x))
    return np.asarray(hashing.addresses(found, hasher.address_bits))


def cells(hasher, x):
    codes = hashing.encode(hasher, x)
    return np.stack([codes.region, codes.radius_bin])


def definition(hasher, r, g, **options):
    options |= {"reference_cells": cells(hasher, r), "generated_cells": cells(hasher, g)}
    return definitions.lsh(addresses(hasher, r), addresses(hasher, g), **options)


@pytest.mark.parametrize("metric", METRICS)
def test_other_byte_orders_change_nothing(metric):
    *shape, spec = METRICS[metric]
    r, g = draw_pair("normal", *shape)
    score = functools.partial(metric, KEY, spec=spec, ceiling=False)
    assert repr(score(r.astype(">f4"), g)) == repr(score(r, g))


@pytest.mark.filterwarnings("ignore:LSH. only")  # few are recognised by 9 of 10 tables
@pytest.mark.parametrize(
    ("kind", "family"),
    [
        *(("normal", family) for family in FEW),
        *((kind, "affine") for kind in ("grid", "copies", "identical", "constant")),
        ("offset", "pstable"),
        ("grid", "hyperplane"),
    ],
)
def test_equals_the_definition(kind, family):
    r, g = draw_pair(kind, N, N if kind == "identical" else M, D)
    spec = spec_of(family=family, num_bits=FEW[family], radius_bins=3)
    names = "votes", "min_count", "min_level"
    for each in ((0.5, 1, -0.5), (0.5, 3, None), (0.9, 2, 0.3), (1e-3, 1, -4)):
        options = dict(zip(names, each, strict=True))
        fitted = lsh_fit(KEY, r, spec=spec, **options)
        scores = lsh_score(fitted, g, membership=True)
        on = definition(fitted.sketch.hasher, r, g, **options)
        np.testing.assert_array_equal(scores.precision_membership, on.generated)
        np.testing.assert_array_equal(scores.recall_membership, on.reference)
        expected = on.generated.mean(), on.reference.mean(), on.left_out.mean()
        assert scores[:2] + scores[4:5] == pytest.approx(expected, rel=1e-12)


def test_equals_the_definition_with_defaults_in_several_regions():
    r, g = draw_pair("normal", N, M, D)
    fitted = lsh_fit(KEY, r, spec=spec_of())
    assert len(fitted.sketch.hasher.regions) == 3
    scores = lsh_score(fitted, g, membership=True)
    on = definition(fitted.sketch.hasher, r, g)
    np.testing.assert_array_equal(scores.precision_membership, on.generated)
    np.testing.assert_array_equal(scores.recall_membership, on.reference)
    assert scores.precision_ceiling == pytest.approx(on.left_out.mean(), rel=1e-12)


def test_buckets_rarely_share_an_address():
    r, g = draw_pair("normal", N, M, D)
    fitted = lsh_fit(KEY, r, spec=spec_of(num_bits=2))
    found = [np.asarray(hashing.buckets(h, hashing.encode(h, x)))
             for h in [fitted.sketch.hasher] for x in (r, g)]  # fmt: skip
    scores = lsh_score(fitted, g, membership=True)
    of_each = {
        name: cells(fitted.sketch.hasher, x)
        for name, x in {"reference_cells": r, "generated_cells": g}.items()
    }
    on = definitions.lsh(*found, **of_each)
    np.testing.assert_array_equal(scores.precision_membership, on.generated)
    taken = np.mean([len(np.unique(x)) for x in addresses(fitted.sketch.hasher, r)])
    assert scores.load == pytest.approx(taken / 2**fitted.sketch.hasher.address_bits)


def test_mean_over_tables():
    r, g = draw_pair("normal", N, M, D)
    fitted = lsh_fit(KEY, r, spec=spec_of(num_bits=2), votes=None, min_level=None)
    of_r, of_g = (addresses(fitted.sketch.hasher, x) for x in (r, g))
    expected = (of_g[:, :, None] == of_r[:, None, :]).any(axis=2).mean(axis=0)
    scores = lsh_score(fitted, g, membership=True)
    np.testing.assert_allclose(scores.precision_membership, expected, rtol=1e-6)
    assert scores.precision == pytest.approx(expected.mean())


def test_ceilings_of_a_thinned_and_of_a_second_reference():
    r, g = draw_pair("normal", N, M, D)
    second = draw(N + 7, D, 3)
    for of_second in (None, second):
        fitted = lsh_fit(KEY, r, spec=spec_of(num_bits=2), second_reference=of_second)
        scores = lsh_score(fitted, g)
        on = functools.partial(definition, fitted.sketch.hasher)
        if fitted.second is None:
            rows = subset(N, M)
            expected = on(r, r[rows]).reference
            expected[rows] = on(r[rows], r).left_out
            above = on(r, r).left_out
        else:
            expected = on(r, second[subset(N + 7, M)]).reference
            above = on(r, second).generated
        assert scores.precision_ceiling == pytest.approx(above.mean())
        assert scores.recall_ceiling == pytest.approx(expected.mean())
    none = lsh_precision_recall(KEY, r, g, spec=spec_of(num_bits=2), ceiling=False)
    assert none.precision_ceiling is none.recall_ceiling is None


def test_the_ceiling_of_a_thin_shell_is_what_fresh_samples_score():
    """Where all rows are as far from the mean, those that it is the mean of are a little nearer."""
    kept = []
    for seed in range(3):
        x = np.random.default_rng(seed).normal(size=(2, 1000, 128)).astype(np.float32)
        sets = x / np.linalg.norm(x, axis=2, keepdims=True)
        scores = lsh_precision_recall(jax.random.key(seed), *sets)
        kept.append(scores.recall / scores.recall_ceiling)
    assert np.mean(kept) > 0.92


def test_collapse_keeps_precision_and_loses_recall():
    r, _ = draw_pair("normal", N, M, D)
    fitted = lsh_fit(KEY, r, spec=spec_of())
    scores = lsh_score(fitted, np.repeat(r[7:8], M, axis=0))
    assert scores.precision == 1
    assert scores.recall < 0.3


def test_collapses_that_precision_misses():
    """All keep the precision of KNN or of LSH above its ceiling; a sample loses none."""
    r, base = draw(1500, 16), draw(1500, 16, 1)
    rng = np.random.default_rng(0)
    near = r[np.linalg.norm(r, axis=1).argsort()[:1]]
    sets = {
        "one point": np.repeat(near, 1500, axis=0),
        "the mean": np.zeros_like(base) + 0.01 * base,
        "averages of 8": base[rng.integers(0, 1500, (1500, 8))].mean(axis=1),
        "100 repeated": base[np.arange(1500) % 100],
        "half of the spread": base / 2,
    }
    fitted = lsh_fit(KEY, r)
    same, *collapses = (lsh_score(fitted, g) for g in (base, *sets.values()))
    assert same.crowding < 0.01
    assert not same.collapsed
    for name, scores in zip(sets, collapses, strict=True):
        assert scores.crowding > 0.5, name
        assert scores.collapsed, name
    assert not lsh_score(fitted, 3 * base).collapsed  # bad, and spread out


def test_crowding_by_hand():
    r, g = draw_pair("grid", N, M, D)
    g[: M // 2] = g[0]
    fitted = lsh_fit(KEY, r, spec=spec_of(num_bits=1))
    of_r, of_g = (addresses(fitted.sketch.hasher, x) for x in (r, g))
    rows_of = [(of_g[:, :, None] == x[:, None, :]).sum(axis=2) for x in (of_r, of_g)]
    crowded = rows_of[1] > 2 * rows_of[0] * M / N + 6
    assert 0 < crowded.mean() < 1
    assert lsh_score(fitted, g).crowding == pytest.approx(crowded.mean(), rel=1e-12)


@pytest.mark.parametrize("kind", ["normal", "copies", "identical"])
def test_curve_equals_the_definition(kind):
    r, g = draw_pair(kind, N, N if kind == "identical" else M, D)
    spec = spec_of(num_bits=1, radius_bins=3)
    curve = lsh_precision_recall_curve(KEY, r, g, spec=spec, num_points=101)
    hasher = lsh_fit(KEY, r, spec=spec).sketch.hasher
    on = definitions.lsh_curve(addresses(hasher, r), addresses(hasher, g), curve.ratios)
    np.testing.assert_allclose([curve.precision, curve.recall], on, rtol=1e-12)
    precision, recall = on
    of_8 = (65 * precision * recall / (64 * precision + recall)).max()
    assert curve.f_8 == pytest.approx(of_8)
    if kind == "identical":
        assert (curve.f_8, curve.f_1_8) == pytest.approx((1, 1))


def test_curve_of_sets_that_share_no_bucket():
    r = draw(N, D)
    curve = lsh_precision_recall_curve(KEY, r, r + 1000, spec=spec_of(num_bits=1, radius_bins=3))
    assert (curve.f_8, curve.f_1_8, curve.recall.max()) == (0, 0, 0)


def test_lone_outliers_make_no_manifold():
    r, g = draw_pair("normal", N, M, D)
    r[3] = 50
    g[:] = r[3]
    assert lsh_precision_recall(KEY, r, g, spec=spec_of()).precision == 1
    assert lsh_precision_recall(KEY, r, g, spec=spec_of(), min_count=2).precision == 0


def test_translation_changes_nothing():
    r, g = draw_pair("grid", N, M, D)
    one, other = (
        lsh_precision_recall(KEY, r + x, g + x, spec=spec_of()) for x in (0, np.float32(4096))
    )
    assert one == other


@pytest.mark.parametrize("target", [0.85, 0.5])
def test_auto_brings_the_central_rows_to_the_target(target):
    r = draw(1500, 16)
    fitted = lsh_fit(KEY, r, spec=HashSpec(ceiling_target=target))
    hasher = fitted.sketch.hasher
    # Regions with the fewest digits have what all rows bear.
    digits = np.asarray(hasher.digits)
    uniform = hasher._replace(
        digits=np.broadcast_to(digits[digits.sum(axis=1).argmin()], digits.shape)
    )
    at, bins = addresses(uniform, r), np.asarray(hashing.encode(hasher, r).radius_bin)
    central = (bins >= 1) & (bins <= hasher.spec.radius_bins)
    on = definitions.lsh(at, at, min_level=None).left_out[central]
    assert target <= on.mean() <= target + 0.05
    assert np.ptp(digits, axis=1).max() <= 1
    assert fitted.sketch.hasher.digits.shape == (23, 32)


def test_recall_leaves_out_modes_that_are_rare():
    """Nine modes of ten, with a twentieth of the samples together, or with less than is due."""
    rng, others = np.random.default_rng(0), (1,) * 9

    def draws(count, first):
        mode = rng.choice(10, count, p=np.array((first, *others)) / (first + 9))
        return (mode + rng.normal(size=count) / 6).astype(np.float32)[:, None]

    fitted = lsh_fit(KEY, draws(1000, 1))
    full, fewer, rare = (lsh_score(fitted, draws(500, first)).recall for first in (1, 3, 180))
    assert fewer > 0.85 * full
    assert rare < 0.15 * full


def test_a_hash_that_recognises_nothing_warns():
    for metric, (*shape, spec) in METRICS.items():
        narrow = dataclasses.replace(spec, num_bits=10, width=0.3)
        with pytest.warns(UserWarning, match=r"LSH.*only .*% of the ref.*num_bits") as warned:
            metric(KEY, *draw_pair("normal", *shape), spec=narrow)
        assert warned[0].filename == __file__
    r, g = draw_pair("normal", N, M, D)
    with pytest.warns(UserWarning, match=r"LSH.*is recalled by m = 8 rows.*generate more"):
        lsh_precision_recall(KEY, r, g[:8], spec=spec_of(num_bits=3))
    with warnings.catch_warnings():  # and is silent otherwise
        warnings.simplefilter("error")
        lsh_precision_recall(KEY, r, g, spec=spec_of())


@pytest.mark.parametrize("metric", METRICS)
def test_standard_errors_are_the_spread_of_repeated_draws(metric):
    """Of scores, and of the losses of a damaged set; of samples alone it is .6 to .9 of that.

    Also of 'auto' bits, where groups of tables differ by their number of digits.
    """
    (n, m, d, spec), (fit, score), found = METRICS[metric], FIT_AND_SCORE[metric], []
    for i in range(30):
        r, g = draw(n, d, 2 * i), draw(m, d, 2 * i + 1)
        fitted = fit(jax.random.key(i), r, spec=spec, ceiling=False)
        full, damaged = (score(fitted, x, membership=True) for x in (g, 0.8 * g))
        for name in ("precision", "recall"):
            loss, hits, deviations = (
                np.subtract(*(getattr(x, f"{name}{field}") for x in (full, damaged)), dtype=float)
                for field in ("", "_membership", "_deviations")
            )
            stderr, of_loss = getattr(full, f"{name}_stderr"), hits.var() / len(hits)
            found.append((getattr(full, name), stderr**2, loss, of_loss + deviations @ deviations))
    scores, of_scores, losses, of_losses = np.reshape(found, (30, 2, 4)).transpose(2, 0, 1)
    for values, variances in ((scores, of_scores), (losses, of_losses)):
        ratio = np.sqrt(variances.mean(axis=0)) / values.std(axis=0)
        assert np.all((ratio > 0.75) & (ratio < 1.7)), ratio


def test_deviations_are_the_part_of_the_hash_in_the_standard_error():
    r, g = draw_pair("normal", N, M, D)
    scores = lsh_precision_recall(KEY, r, g, spec=spec_of(num_bits=2), membership=True)
    for name in ("precision", "recall"):
        deviations = np.array(getattr(scores, f"{name}_deviations"))
        hits = getattr(scores, f"{name}_membership")
        assert len(deviations) > 1
        expected = (deviations @ deviations + hits.var() / min(N, M)) ** 0.5
        assert getattr(scores, f"{name}_stderr") == pytest.approx(expected)


def test_batches_and_other_arrays_score_as_one_array():
    r, g = draw_pair("normal", N, M, D)
    score = functools.partial(lsh_precision_recall, KEY, spec=spec_of(num_bits=2), membership=True)
    whole = score(r, g)
    forms = (
        (iter([r[:50], r[50:]]), [g[:1], g[1:1], g[1:]]),
        ((r[i : i + 7] for i in range(0, N, 7)), g),
        (jnp.asarray(r), g.astype(np.float64)),
    )
    for reference, generated in forms:
        jax.tree.map(np.testing.assert_array_equal, score(reference, generated), whole)


def test_the_hash_of_an_iterable_does_not_depend_on_the_size_of_its_batches(monkeypatch):
    monkeypatch.setattr("lsh_gan.metrics.sketch.SAMPLE_ROWS", N)
    r = draw(300, D)
    whole, *others = (
        lsh_fit(KEY, (r[i : i + size] for i in range(0, 300, size)), spec=spec_of()).sketch
        for size in (N, 100, 300)
    )
    for other in others:
        np.testing.assert_array_equal(other.hasher.origin, whole.hasher.origin)
        jax.tree.map(np.testing.assert_array_equal, other.counts, whole.counts)


def test_recall_of_a_larger_set_is_that_of_n_rows():
    r, g = draw(M, D), draw(N, D, 1)
    fitted = lsh_fit(KEY, r, spec=spec_of(num_bits=2))
    on = definition(fitted.sketch.hasher, r, g)
    scores = lsh_score(fitted, g, membership=True)
    np.testing.assert_array_equal(scores.precision_membership, on.generated)
    np.testing.assert_array_equal(scores.recall_membership, on.reference)
    on, other = (
        definition(fitted.sketch.hasher, *sets, min_level=None) for sets in ((r, g), (g, r))
    )
    assert on.reference.sum() < other.generated.sum()  # of all rows
