"""KNN precision, recall, density and coverage against a float64 oracle, point for point."""

import jax.numpy as jnp
import numpy as np
import pytest
from draws import draw_pair

from lsh_gan.metrics import knn_precision_recall

MEMORY_MB = 1  # the smallest block, so that small sets already take several


def oracle(reference, generated, *, k=3, inclusive=True, density_k=5):
    """Precision and recall memberships, density, coverage; by definition, in float64."""
    r, g = np.asarray(reference, np.float64), np.asarray(generated, np.float64)

    def sq_distances(x, y):
        return ((x[:, None] - y[None]) ** 2).sum(-1)

    def sq_radius(x, k):
        own = sq_distances(x, x)
        np.fill_diagonal(own, np.inf)
        return np.sort(own, axis=1)[:, k - 1]

    cross = sq_distances(g, r)
    compare = np.less_equal if inclusive else np.less
    in_r = compare(cross, sq_radius(r, k)[None])
    in_g = compare(cross, sq_radius(g, k)[:, None])
    dense = compare(cross, sq_radius(r, density_k)[None])
    return in_r.any(1), in_g.any(0), dense.sum(1).mean() / density_k, dense.any(0).mean()


def check(scores, expected):
    np.testing.assert_array_equal(scores.precision_membership, expected[0])
    np.testing.assert_array_equal(scores.recall_membership, expected[1])
    # Ratios of counts: equal but for the last digit of a division.
    assert scores.precision == pytest.approx(expected[0].mean(), rel=1e-12)
    assert scores.recall == pytest.approx(expected[1].mean(), rel=1e-12)
    assert scores.density == pytest.approx(expected[2], rel=1e-12)
    assert scores.coverage == pytest.approx(expected[3], rel=1e-12)


@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("d", [1, 3, 64])
@pytest.mark.parametrize(
    "kind", ["normal", "grid", "duplicates", "identical", "offset", "constant"]
)
def test_equals_the_oracle(kind, d, inclusive):
    n, m = (70, 60) if kind == "constant" else (130, 257)
    r, g = draw_pair(kind, n, m, d)
    scores = knn_precision_recall(
        r, g, inclusive=inclusive, membership=True, ceiling=False, memory_mb=MEMORY_MB
    )
    check(scores, oracle(r, g, inclusive=inclusive))


@pytest.mark.parametrize("k", [1, 2, 20])
def test_other_k(k):
    r, g = draw_pair("duplicates", 150, 90, 8)
    scores = knn_precision_recall(r, g, k=k, membership=True, ceiling=False, memory_mb=MEMORY_MB)
    check(scores, oracle(r, g, k=k))
    assert scores.k == k


def test_high_dimension():
    r, g = draw_pair("offset", 40, 50, 4096)
    check(
        knn_precision_recall(r, g, membership=True, ceiling=False, memory_mb=MEMORY_MB),
        oracle(r, g),
    )


@pytest.mark.parametrize("seed", [3, 20, 45, 47])
def test_rows_of_one_grey_level(seed):
    """All terms of a product are equal, so that their rounding errors add up."""
    rng = np.random.default_rng(seed)
    n, width = 100, rng.uniform(0.1, 0.6)

    def sample():  # of both signs, so that the set lies around the origin and is not moved
        grey = rng.uniform(1.3, 1.3 + width, (n, 1)) * np.where(np.arange(n) % 2, 1, -1)[:, None]
        return np.repeat(grey.astype(np.float32), 1024, axis=1)

    r, g = sample(), sample()
    check(knn_precision_recall(r, g, membership=True, ceiling=False), oracle(r, g))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, np.float64])
def test_other_types_are_read_exactly(dtype):
    r, g = draw_pair("grid", 130, 100, 6)
    r, g = np.asarray(r * 1.5, dtype), np.asarray(g * 1.5, dtype)
    scores = knn_precision_recall(r, g, membership=True, ceiling=False, memory_mb=MEMORY_MB)
    check(scores, oracle(r, g))


@pytest.mark.parametrize(
    ("factor", "dtype"),
    [(1e-36, np.float32), (1e-40, np.float32), (1e-43, np.float32), (1e-150, np.float64)],
)
def test_tiny_features(factor, dtype):
    """Some or all are subnormal in float32, where kernels take them for 0."""
    r, g = (factor * x.astype(np.float64) for x in draw_pair("normal", 130, 100, 6))
    r, g = r.astype(dtype), g.astype(dtype)
    options = {"membership": True, "ceiling": False, "memory_mb": MEMORY_MB}
    check(knn_precision_recall(r, g, **options), oracle(r, g))


def test_features_whose_squares_are_zero_in_float64():
    """All distances are 0, so that all is covered."""
    r, g = (1e-320 * x.astype(np.float64) for x in draw_pair("normal", 130, 100, 6))
    assert r.any()
    assert knn_precision_recall(r, g, ceiling=False)[:2] == (1, 1)


def test_features_of_different_widths():
    """float64 far from the origin beside float32: both are shifted by the same."""
    r, g = draw_pair("offset", 130, 100, 6)
    r = r.astype(np.float64) + 1e-3 * np.random.default_rng(0).standard_normal(r.shape)
    scores = knn_precision_recall(r, g, membership=True, ceiling=False, memory_mb=MEMORY_MB)
    check(scores, oracle(r, g))


def test_few_programs_are_compiled(compilations):
    """Another n in as many blocks is the same programs; another k, those of the neighbours."""

    def score(n, m, k):
        compilations.clear()
        r, g = draw_pair("normal", n, m, 7)  # a d that no other test has
        knn_precision_recall(r, g, k=k, density_k=k, memory_mb=MEMORY_MB)
        return len(compilations)

    assert score(300, 290, 3) > 0  # the counter counts
    # What is left open differs in number: one program for each power of two of 64 and more.
    assert score(310, 270, 3) <= 2
    assert score(1000, 900, 3) <= 4  # more blocks, and none of another size
    assert score(300, 290, 4) <= 4


def test_ties_compile_little(compilations):
    """However many of the rows that are looked at again lie in a block."""
    r, g = draw_pair("grid", 900, 800, 9)  # a d that no other test has
    assert knn_precision_recall(r, g, memory_mb=MEMORY_MB).precision > 0
    once = len(compilations)
    assert 0 < once <= 20
    r, g = draw_pair("grid", 1000, 700, 9)
    knn_precision_recall(r, g, memory_mb=MEMORY_MB)
    assert len(compilations) - once <= 2


def test_numpy_and_jax_arrays_score_the_same():
    r, g = draw_pair("normal", 100, 80, 16)
    host = knn_precision_recall(r, g)
    device = knn_precision_recall(jnp.asarray(r), jnp.asarray(g))
    assert host[:6] == device[:6]


def test_prdc_counts_the_same():
    """Golden values of PyPI `prdc` 0.2 (`compute_prdc`, nearest_k=5, which uses `<`)."""
    r, g = draw_pair("normal", 120, 100, 16)
    scores = knn_precision_recall(r, g + np.float32(0.3), k=5, inclusive=False, ceiling=False)
    found = (scores.precision, scores.recall, scores.density, scores.coverage)
    assert found == pytest.approx(
        (0.99, 0.36666666666666664, 1.8600000000000003, 0.9166666666666666), rel=1e-12
    )


def test_closed_forms():
    r, _ = draw_pair("normal", 100, 100, 4)
    same = knn_precision_recall(r, r, ceiling=False)
    assert (same.precision, same.recall) == (1, 1)
    far = knn_precision_recall(r, r + 100, ceiling=False)
    assert (far.precision, far.recall, far.density, far.coverage) == (0, 0, 0, 0)
    point = knn_precision_recall(r, np.repeat(r[:1], 50, axis=0), ceiling=False)
    assert point.precision == 1
    assert point.recall == 1 / 100


def test_recall_is_precision_with_the_sets_exchanged():
    r, g = draw_pair("normal", 130, 110, 5)
    one, other = knn_precision_recall(r, g), knn_precision_recall(g, r)
    assert (one.precision, one.recall) == (other.recall, other.precision)


def test_invariance_to_order_shift_and_scale():
    r, g = draw_pair("normal", 130, 110, 5)
    scores = knn_precision_recall(r, g, ceiling=False)
    order = np.random.default_rng(0).permutation(130)
    # Powers of two and a shift by 8: exact in float64, so that no comparison changes.
    r64, g64 = r.astype(np.float64), g.astype(np.float64)
    moved = knn_precision_recall(4 * r64[order] + 8, 4 * g64 + 8, ceiling=False)
    assert scores[:2] == moved[:2]


def test_block_size_does_not_matter():
    r, g = draw_pair("normal", 700, 500, 12)
    small = knn_precision_recall(r, g, ceiling=False, membership=True, memory_mb=1)
    large = knn_precision_recall(r, g, ceiling=False, membership=True, memory_mb=256)
    np.testing.assert_array_equal(small.precision_membership, large.precision_membership)
    np.testing.assert_array_equal(small.recall_membership, large.recall_membership)
    assert small.density == large.density


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda g: g.at[7, 1].set(jnp.nan), ValueError, r"generated has NaN or Inf in row 7"),
        (lambda g: g[:, :3], ValueError, r"generated has d = 3; the other set has d = 4"),
        (lambda g: g[0], ValueError, r"generated has shape \(4,\); expected \[rows, d\]"),
        (lambda g: g[:4], ValueError, r"generated has 4 rows; k = 3 needs at least 5"),
        (lambda g: g.astype(int), TypeError, r"generated has dtype int32; expected floating"),
        (lambda g: g.astype(complex), TypeError, r"generated has dtype complex64"),
    ],
)
def test_bad_input(change, error, message):
    r, g = (jnp.asarray(x) for x in draw_pair("normal", 20, 20, 4))
    with pytest.raises(error, match=message):
        knn_precision_recall(r, change(g))
