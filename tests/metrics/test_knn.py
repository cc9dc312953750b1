"""KNN scores equal the definition, point for point; what must and must not change them."""

import jax.numpy as jnp
import numpy as np
import pytest
from draws import draw, draw_pair

from benchmarks.suite_metrics import clipped
from lsh_gan.metrics import definitions, distances, knn_fit, knn_precision_recall, knn_score
from lsh_gan.metrics.inputs import subset

N, M = 120, 100  # in one tile of 128: all such sets share their programs


def check(r, g, *, k=3, inclusive=True, scores=None, **options):
    """All fields equal the definition; returns the scores."""
    options |= {"k": k, "inclusive": inclusive}
    if scores is None:
        scores = knn_precision_recall(r, g, membership=True, **options)
    on = definitions.knn(r, g, k=k, inclusive=inclusive)
    np.testing.assert_array_equal(scores.precision_membership, on.generated)
    np.testing.assert_array_equal(scores.recall_membership, on.reference)
    expected = definitions.density_coverage(r, g, inclusive=inclusive)
    # Ratios of counts: equal but for the last digit of a division.
    assert (scores.density, scores.coverage) == pytest.approx(expected, rel=1e-12)
    found = scores[:2] + scores[4:5]
    expected = on.generated.mean(), on.reference.mean(), on.left_out.mean()
    assert found == pytest.approx(expected, rel=1e-12)
    if len(g) < len(r):
        assert scores.recall_ceiling == pytest.approx(thinned(r, len(g), k, inclusive), rel=1e-12)
    return scores


def thinned(r, m, k, inclusive):
    """Recall of m rows of R: those are judged by each other, and the rest by them."""
    rows = subset(len(r), m)
    sample = np.asarray(r)[rows]
    recalled = definitions.knn(r, sample, k=k, inclusive=inclusive).reference
    recalled[rows] = definitions.knn(sample, sample, k=k, inclusive=inclusive).left_out
    return recalled.mean()


KINDS = ["normal", "grid", "duplicates", "copies", "identical", "offset", "constant"]


@pytest.mark.parametrize(("d", "inclusive"), [(1, False), (4, True), (64, False)])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_definition(kind, d, inclusive):
    check(*draw_pair(kind, N, N if kind == "identical" else M, d), inclusive=inclusive)


@pytest.mark.parametrize("k", [1, 20])
def test_other_k(k):
    for kind in ("grid", "copies"):
        check(*draw_pair(kind, N, M, 4), k=k)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, np.float64])
def test_other_types_are_read_exactly(dtype):
    r, g = (np.asarray(1.5 * x, dtype) for x in draw_pair("grid", N, M, 4))
    scores = knn_precision_recall(r, g, membership=True)
    check(*(np.asarray(x, np.float64) for x in (r, g)), scores=scores)


def test_float64_far_from_the_origin():
    r, g = draw_pair("normal", N, M, 4)
    check(r + 1e6, g + 1e6)


@pytest.mark.parametrize("seed", [3, 47])
@pytest.mark.parametrize("inclusive", [True, False])
def test_rows_of_one_grey_level(seed, inclusive):
    """All terms of a product are equal, so that their rounding errors add up."""
    rng = np.random.default_rng(seed)
    width = rng.uniform(0.1, 0.6)
    r, g = (
        np.repeat(rng.uniform(1.3, 1.3 + width, (n, 1)).astype(np.float32), 1024, axis=1)
        for n in (N, M)
    )
    check(r, g, inclusive=inclusive)


# Tiles of 512 rows, whose neighbours are found in groups, and of 256.
@pytest.mark.parametrize(
    ("kind", "n", "memory_mb", "extended"), [("normal", 1541, 4, True), ("grid", 515, 1, False)]
)
def test_several_tiles(kind, n, memory_mb, extended):
    """The last tiles have few rows: that of R fewer than neighbours are looked for."""
    r, g = draw_pair(kind, n, n + 3, 3)
    options = {"extended": extended, "ceiling": False, "membership": True}
    scores = knn_precision_recall(r, g, memory_mb=memory_mb, **options)
    # Without the ceilings of the definition, which take long.
    own, cross = definitions._distances(r, r), definitions._distances(g, r)
    inside = cross <= definitions._radii(own, 3)
    np.testing.assert_array_equal(scores.precision_membership, inside.any(axis=1))
    inside = cross <= definitions._radii(definitions._distances(g, g), 3)[:, None]
    np.testing.assert_array_equal(scores.recall_membership, inside.any(axis=0))
    inside = cross <= definitions._radii(own, 5)
    assert scores.density == pytest.approx(inside.sum() / len(g) / 5, rel=1e-12)
    assert scores.coverage == pytest.approx(inside.any(axis=0).mean(), rel=1e-12)
    if extended:
        assert scores.auth == pytest.approx(authenticity(own, cross), rel=1e-12)
        expected = clipped(None, *(x.astype(np.float64) for x in (r, g)))[:2]
        found = scores.clipped_density, scores.clipped_coverage
        assert found == pytest.approx(expected, rel=1e-9)


def authenticity(own, cross):
    """A memorised sample has a nearest row of R that is as far from all others, or farther."""
    copied = cross <= definitions._radii(own, 1)
    return 1 - (copied & (cross == cross.min(axis=1, keepdims=True))).any(axis=1).mean()


@pytest.mark.parametrize("n", [1_030, 50_000])
def test_tiles_hold_little_beyond_the_set(n):
    tiles = distances.tile(np.zeros((n, 1), np.float32), np.zeros(1), 256)
    assert 0 <= len(tiles.flat) - n < 128 * len(tiles.rows)


def test_neighbours_that_are_nearly_equally_far():
    """More rows within the error of a product than are found in spare: float64 must decide."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, 64))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x[1::2] += 300  # far from the middle, by which sets are moved
    r, g = x.astype(np.float32), np.roll(x, 1, axis=1)[:M].astype(np.float32)
    check(r, g, inclusive=False)


@pytest.mark.parametrize("flagged", [0, 1, 128, 300])
def test_flagged_rows_are_computed_again_once_each(flagged):
    flags = np.random.default_rng(0).permutation(400) < flagged  # 128 at a time

    def run(rows, total):
        return 2.0 * rows, total.at[rows].add(1, mode="drop")

    values, total = distances.again(flags, run, -jnp.ones(400), jnp.zeros(400, jnp.int32))
    np.testing.assert_array_equal(values, np.where(flags, 2 * np.arange(400), -1))
    np.testing.assert_array_equal(total, flags)


def test_far_outliers_move_no_other_membership():
    r, g = draw_pair("normal", N, M, 4)
    r[5], g[7], g[8] = 1e4, -1e4, 1e4
    r[0] = 1e8  # float32 could not hold the others beside it
    scores = check(r, g)
    assert scores.precision_membership[8]  # in the ball of the reference's outlier
    assert not scores.precision_membership[7]


def test_second_reference_gives_the_ceilings():
    r, g = draw_pair("normal", N, M, 4)
    second = draw(127, 4, 5)
    scores = knn_precision_recall(r, g, second_reference=second)
    rows = subset(127, M)
    assert scores.precision_ceiling == pytest.approx(definitions.knn(r, second).generated.mean())
    expected = definitions.knn(r, second[rows]).reference.mean()
    assert scores.recall_ceiling == pytest.approx(expected)


def test_ceilings_that_are_not_asked_for():
    r, g = draw_pair("normal", N, M, 4)
    scores = knn_precision_recall(r, g, ceiling=False)
    assert scores.precision_ceiling is scores.recall_ceiling is scores.precision_membership is None


def test_one_fit_scores_many_sets():
    r, g = draw_pair("normal", N, M, 4)
    fitted = knn_fit(r)
    for x in (g, g + 1):
        check(r, x, scores=knn_score(fitted, x, membership=True))


def test_translation_changes_nothing():
    r, g = draw_pair("grid", N, M, 4)
    one, other = (knn_precision_recall(r + x, g + x) for x in (0, np.float32(4096)))
    assert one == other


def test_recall_is_precision_with_the_sets_exchanged():
    r, g = draw_pair("normal", N, M, 4)
    one, other = knn_precision_recall(r, g), knn_precision_recall(g, r)
    assert (one.precision, one.recall) == (other.recall, other.precision)


def test_few_rows_have_no_density():
    r, g = draw_pair("normal", 5, 6, 4)
    scores = knn_precision_recall(r, g, membership=True)
    assert scores.density is scores.coverage is None
    np.testing.assert_array_equal(scores.precision_membership, definitions.knn(r, g).generated)


@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("kind", ["normal", "grid", "duplicates", "copies", "constant"])
def test_authenticity_equals_its_definition(kind, inclusive):
    r, g = draw_pair(kind, N, M, 4)
    scores = knn_precision_recall(r, g, extended=True, inclusive=inclusive, membership=True)
    check(r, g, inclusive=inclusive, scores=scores)  # and all else is as it was
    expected = authenticity(definitions._distances(r, r), definitions._distances(g, r))
    assert scores.auth == pytest.approx(expected, rel=1e-12)


def test_clipped_scores_equal_their_definition():
    for inclusive in (True, False):
        r, g = draw_pair("normal", N, M, 4)
        scores = knn_precision_recall(r, g, extended=True, inclusive=inclusive)
        expected = clipped(None, *(x.astype(np.float64) for x in (r, g)))
        found = scores.clipped_density, scores.clipped_coverage
        assert found == pytest.approx(expected[:2], rel=1e-9)
    fewer, more = draw_pair("constant", N, M, 4)
    assert knn_precision_recall(fewer, more, extended=True).clipped_density == 1


def test_scores_by_class():
    r, g = draw_pair("normal", N, M, 4)
    labels = np.where(np.arange(N) % 3, "shoe", "bag"), np.where(np.arange(M) < 9, "hat", "bag")
    scores = knn_precision_recall(r, g, labels=labels)
    of, on = scores.by_class, definitions.knn(r, g)
    assert of.classes.tolist() == ["bag", "hat", "shoe"]
    precision = [on.generated[labels[1] == x].mean() for x in ("bag", "hat")]
    assert of.precision.tolist() == pytest.approx([*precision, np.nan], nan_ok=True)
    recall = [on.reference[labels[0] == x].mean() for x in ("bag", "shoe")]
    assert of.recall[[0, 2]].tolist() == pytest.approx(recall)
    share = np.mean(labels[0] == "bag"), np.mean(labels[1] == "hat")
    assert of.coverage[0] * share[0] + of.coverage[2] * (1 - share[0]) == pytest.approx(
        scores.coverage
    )
    assert of.density[1] * share[1] + of.density[0] * (1 - share[1]) == pytest.approx(
        scores.density
    )
    assert scores.precision_membership is None
    few = knn_precision_recall(r[:5], g[:6], labels=(labels[0][:5], labels[1][:6])).by_class
    assert np.isnan([few.density, few.coverage]).all()
    assert np.isfinite(few.recall).tolist() == [True, False, True]
    with pytest.raises(ValueError, match=r"labels have shapes .* expected"):
        knn_precision_recall(r, g[:M], labels=labels[::-1])


@pytest.mark.parametrize("kind", ["normal", "grid"])
def test_deviations_are_a_jackknife_over_eighths_of_the_other_set(kind):
    r, g = draw_pair(kind, N, M, 4)
    scores = knn_precision_recall(r, g)
    for name, x, y in (("precision", g, r), ("recall", r, g)):
        x, y = x.astype(float), y.astype(float)
        radii = np.sort(np.linalg.norm(y[:, None] - y, axis=2), axis=1)[:, 3]
        inside = np.linalg.norm(x[:, None] - y, axis=2) <= radii * (1 + 1e-12)
        group = (np.arange(len(y)) + np.arange(len(y)) // 16) % 8  # classes that take turns mix
        left_out = np.array([inside[:, group != j].any(axis=1).mean() for j in range(8)])
        expected = (left_out - left_out.mean()) * (7 / 8) ** 0.5
        assert getattr(scores, f"{name}_deviations") == pytest.approx(expected)
        p = inside.any(axis=1).mean()
        error = (p * (1 - p) / len(x) + expected @ expected) ** 0.5
        assert getattr(scores, f"{name}_stderr") == pytest.approx(error)


def test_standard_errors_are_the_spread_of_fresh_draws_of_both_sets():
    """Of scores, and of the losses of a damaged set; that of the assessed set alone is smaller."""
    found = []
    for i in range(40):
        r, g = draw(N, 16, 2 * i), draw(60, 16, 2 * i + 1)
        options = {"ceiling": False, "membership": True}
        full, damaged = (knn_precision_recall(r, x, **options) for x in (g, 0.8 * g))
        for name in ("precision", "recall"):
            loss, hits, deviations = (
                np.subtract(*(getattr(x, f"{name}{field}") for x in (full, damaged)), dtype=float)
                for field in ("", "_membership", "_deviations")
            )
            score, stderr = getattr(full, name), getattr(full, f"{name}_stderr")
            assert score * (1 - score) / len(hits) < stderr**2
            found.append((score, stderr**2, loss, hits.var() / len(hits) + deviations @ deviations))
    scores, of_scores, losses, of_losses = np.reshape(found, (40, 2, 4)).transpose(2, 0, 1)
    for values, variances in ((scores, of_scores), (losses, of_losses)):
        ratio = np.sqrt(variances.mean(axis=0)) / values.std(axis=0)
        assert np.all((ratio > 0.8) & (ratio < 1.8)), ratio
