"""Nearest others and hits against float64, in the form for CPUs and the one for accelerators."""

import numpy as np
import pytest

from lsh_gan.metrics import (
    distances,
    duplicates,
    knn,
    knn_hits,
    knn_precision_recall,
    nearest,
    refine,
)

FORMS = {"threshold": nearest._by_threshold, "selection": nearest._by_selection}


def blocks_of(x, size):
    return distances.to_blocks(x, distances.fit_frame(x), size, "x")


def oracle(x, k):
    """Squared distances to the k nearest others, ascending, float64 `[n, k]`."""
    x = x.astype(np.float64)
    d2 = np.sum((x[:, None] - x[None]) ** 2, axis=2)
    np.fill_diagonal(d2, np.inf)
    return np.sort(d2, axis=1)[:, :k]


def sets():
    rng = np.random.default_rng(3)
    normal = rng.standard_normal((413, 24)).astype(np.float32)
    far = normal[np.argsort(normal[:, 0])] * np.linspace(1, 30, 413, dtype=np.float32)[:, None]
    # Each block is spread widely and the next one holds the same points again, slightly moved: all
    # that is near lies off the diagonal, where no limit is known yet.
    twins = np.repeat(10 * normal[None, :128], 4, axis=0).reshape(-1, 24)[:413]
    twins = twins + 0.01 * rng.standard_normal(twins.shape).astype(np.float32)
    few = np.repeat(normal[:20], 12, axis=0)
    return {"normal": normal, "far": far, "twins": twins, "repeated": few, "short": normal[:130]}


@pytest.mark.parametrize("k", [1, 3, 20])
@pytest.mark.parametrize("name", sets())
@pytest.mark.parametrize("form", FORMS)
def test_equals_the_oracle(form, name, k):
    x = sets()[name]
    blocks = blocks_of(x, 128)
    found = nearest.Nearest(*(np.asarray(part)[: len(x)] for part in FORMS[form](blocks, k)))
    scale = distances.fit_frame(x).scale
    # Rounding of float32 products, as a share of the squared norms.
    norms = np.sum((x * scale) ** 2, axis=1, dtype=np.float64).max()
    np.testing.assert_allclose(found.sq, oracle(x, k) * scale**2, rtol=0, atol=4e-6 * norms)
    assert (found.rows != np.arange(len(x))[:, None]).all()
    assert all(len(set(rows)) == k for rows in found.rows.tolist())
    own = np.sum((x[:, None] - x[found.rows]).astype(np.float64) ** 2, axis=2) * scale**2
    np.testing.assert_allclose(own, found.sq, rtol=0, atol=4e-6 * norms)


def test_both_forms_of_a_tile_find_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    r, g = (rng.standard_normal((n, 6)).astype(np.float32).round(1) for n in (300, 280))
    some = knn_precision_recall(r, g, membership=True, ceiling=False)
    whole = []
    monkeypatch.setattr(knn_hits, "few_places", lambda mask: whole.append(mask))
    monkeypatch.setattr(nearest, "few_places", lambda mask: whole.append(mask))
    other = knn_precision_recall(r, g, membership=True, ceiling=False)
    assert whole
    assert 0 < some.precision < 1
    for field in ("precision", "recall", "density", "coverage"):
        assert getattr(some, field) == getattr(other, field)
    np.testing.assert_array_equal(some.precision_membership, other.precision_membership)
    np.testing.assert_array_equal(some.recall_membership, other.recall_membership)


@pytest.mark.parametrize("inclusive", [True, False])
def test_equal_rows_are_looked_at_once(monkeypatch, inclusive):
    """A collapsed generator repeats one image: what is open of equal rows is decided for all."""
    rng = np.random.default_rng(0)
    r = rng.integers(0, 5, (200, 2)).astype(np.float32)
    g = np.concatenate([np.repeat(r[:1], 80, axis=0), rng.integers(0, 9, (90, 2))])
    options = {"membership": True, "inclusive": inclusive, "ceiling": False}
    apart = knn_precision_recall(r, g.astype(np.float32), **options)
    compared = []
    exact = refine.exact_sq_distances
    monkeypatch.setattr(
        refine,
        "exact_sq_distances",
        lambda x, y, i, j: compared.append(len(i)) or exact(x, y, i, j),
    )
    knn_precision_recall(r, g.astype(np.float32), **options)
    one_by_one, compared[:] = sum(compared), []
    monkeypatch.setattr(duplicates, "_MANY", 1)
    together = knn_precision_recall(r, g.astype(np.float32), **options)
    assert sum(compared) < one_by_one
    assert 0 < together.precision + together.recall < 2
    for field in ("precision", "recall", "density", "coverage"):
        assert getattr(together, field) == getattr(apart, field)
    np.testing.assert_array_equal(together.precision_membership, apart.precision_membership)
    np.testing.assert_array_equal(together.recall_membership, apart.recall_membership)


def test_few_places():
    mask = np.random.default_rng(0).random((48, 40)) < 0.02
    mask[3, 5] = mask[3, 6] = mask[47, 39] = mask[0, 0] = True
    found = zip(*distances.few_places(distances.pack(mask)), strict=True)
    assert sorted(found) == sorted(zip(*np.nonzero(mask), strict=True))
    rows, columns = distances.few_places(distances.pack(np.zeros((48, 40), bool)))
    assert len(rows) == len(columns) == 0
    mask[:, ::32] = True  # two columns of forty
    assert distances.few_places(distances.pack(mask)) is None


def test_blocks_are_halved_for_their_own_pairs(monkeypatch):
    x = sets()["far"]
    blocks = blocks_of(x, 128)
    whole = nearest.nearest_others(blocks, 5)
    monkeypatch.setattr(nearest, "_LEAST", 16)
    finest, pairs = nearest._pairs(distances.in_place(blocks))
    assert finest.size == 16
    met = np.kron(np.eye(len(finest.features), dtype=int), np.ones((16, 16), int))
    for level, i, j in pairs:
        met[i * level.size : (i + 1) * level.size, j * level.size : (j + 1) * level.size] += 1
    np.testing.assert_array_equal(np.triu(met), np.triu(np.ones_like(met)))  # all pairs, once
    cut = nearest.nearest_others(blocks, 5)
    np.testing.assert_array_equal(whole.rows, cut.rows)
    # Products of other shapes round otherwise.
    np.testing.assert_allclose(whole.sq, cut.sq, rtol=0, atol=4e-6 * np.sum(x**2, axis=1).max())


@pytest.mark.parametrize("name", sets())
def test_exact_radii_of_held_neighbours_and_of_a_search_are_equal(name):
    x, k = sets()[name], 3
    blocks = blocks_of(x, 128)
    held = nearest.nearest_others(blocks, k + 1)
    outer = np.concatenate(refine.balls_of(blocks, held.sq[:, k - 1], x.shape[1]).outer)
    rows = np.arange(0, len(x), 2)
    exact = refine.exact_sq_radii(x, blocks, held, outer, rows, k)
    searched = refine._searched(x, blocks, outer, rows, k)
    np.testing.assert_array_equal(exact, searched)
    np.testing.assert_allclose(exact, oracle(x, k)[rows, k - 1], rtol=1e-12)


def test_features_around_the_origin_are_not_moved():
    x = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
    plain, moved, tiny = (distances.fit_frame(v) for v in (x, x + 50, x * np.float32(2.0**-40)))
    assert plain.scale == 1
    assert not plain.shift.any()
    np.testing.assert_allclose(moved.shift, 50, atol=0.5)
    # Near 1, whatever the size of the features: the largest offset is bounded, not computed.
    assert 0.25 < np.abs(tiny.scale * (x * 2.0**-40 - tiny.shift)).max() <= 1
    same = knn.knn_precision_recall(x[:150], x[150:], membership=True)
    scaled = knn.knn_precision_recall(
        *(v * np.float32(2.0**-40) for v in (x[:150], x[150:])), membership=True
    )
    np.testing.assert_array_equal(same.precision_membership, scaled.precision_membership)


@pytest.mark.parametrize("rows", [130, 1000, 5000, 10_000])
def test_blocks_are_of_equal_size_and_fit_in_memory(rows):
    for memory_mb in (1, 16, 256):
        size = distances.block_size(rows, memory_mb)
        assert size % 16 == 0
        assert size == 128 or 24 * size * size <= 1.1 * memory_mb * 2**20
        # Fewer than 16 rows a block are filled up.
        assert -(-rows // size) * size - rows < max(128, 16 * -(-rows // size))


def rows_that_round_badly(n, d):
    """Sets of which the errors of a product are large, or the terms of one kind."""
    rng = np.random.default_rng([n, d])
    grey, normal = rng.uniform(0.5, 2, (n, 1)), rng.standard_normal((n, d))
    # Each small term is lost beside the first, or takes a whole unit of it.
    lost = np.full((n, d), np.sqrt(1.02 * 2.0**-24))
    lost[:, 0] = 1 + 1e-6 * np.arange(n)
    drawn = {
        "grey": grey * np.ones((1, d)),
        "grey of both signs": grey * np.where(np.arange(n) % 2, 1, -1)[:, None] * np.ones((1, d)),
        "nearly grey": grey * (1 + 1e-4 * normal),
        "positive": rng.uniform(0, 1, (n, d)),
        "rectified": np.maximum(normal, 0),
        "normal": normal,
        "small integers": rng.integers(0, 256, (n, d)),
        "lost": lost,
    }
    return {name: x.astype(np.float32) for name, x in drawn.items()}


@pytest.mark.parametrize("n", [128, 600])
@pytest.mark.parametrize("d", [1, 16, 100, 512, 1024, 3000])
def test_errors_of_squared_distances_are_within_their_bound(d, n):
    for name, x in rows_that_round_badly(n, d).items():
        blocks = distances.to_blocks(x, distances.Frame(np.zeros(d), 1.0), n, "x")
        (of_x,), (norms,) = blocks.features, (np.asarray(s) for s in blocks.sq_norms)
        dot, of_pair = np.asarray(distances.dots(of_x, of_x))[:8], norms[:8, None] + norms[None, :]
        d2 = distances.sq_distances(dot, norms[:8, None], norms[None, :])
        exact = np.stack([((row.astype(np.float64) - x) ** 2).sum(axis=1) for row in x[:8]])
        share = np.abs(d2 - exact) / (of_pair + distances.TINY)
        assert share.max() <= distances.slack(d), name
