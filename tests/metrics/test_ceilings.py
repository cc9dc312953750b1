"""Ceilings by definition, in float64: each row is taken away and judged by the others."""

import jax
import numpy as np
import pytest

from lsh_gan.metrics import (
    HashSpec,
    encoding,
    hashing,
    knn,
    knn_fit,
    knn_precision_recall,
    knn_score,
    lsh_knn,
    lsh_knn_fit,
    lsh_knn_precision_recall,
    lsh_knn_score,
)
from lsh_gan.metrics.inputs import subset

KEY = jax.random.key(0)
ONE_CELL = HashSpec(family="affine", num_tables=1, num_bits=0, radius_bins=0)
K = 3


def sets():
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((60, 3))
    drawn = {
        "normal": normal,
        "twelve times": np.repeat(normal[:5], 12, axis=0),
        "five times": np.repeat(normal[:12], 5, axis=0),
        "twice": np.repeat(normal[:30], 2, axis=0),
        "four times and once": np.concatenate([np.repeat(normal[:8], 4, axis=0), normal[8:36]]),
        "grid": rng.integers(0, 4, (60, 2)),
        "line": rng.permutation(60)[:, None],
        "equal": np.ones((60, 3)),
    }
    return {name: x.astype(np.float32) for name, x in drawn.items()}


def covered(r, s, alike, own, inclusive):
    """Which r lie in balls of s, of candidates alone, with row i of r left out of s.

    Args:
        r: `[n, d]`.
        s: `[m, d]`.
        alike: Whether rows are candidates, bool `[n + m, n + m]`, those of r first.
        own: Place in s of each row of r, or -1, int `[n]`.
        inclusive: Whether a point on the sphere belongs to the ball.
    """
    r, s = r.astype(np.float64), s.astype(np.float64)
    among = np.sum((s[:, None] - s[None]) ** 2, axis=2)
    np.fill_diagonal(among, np.inf)
    among[~alike[len(r) :, len(r) :]] = np.inf
    across = np.sum((r[:, None] - s[None]) ** 2, axis=2)
    across[~alike[: len(r), len(r) :]] = np.inf
    found = np.zeros(len(r), bool)
    for i, place in enumerate(own):
        rest = np.delete(np.arange(len(s)), place) if place >= 0 else np.arange(len(s))
        sq_radii = np.sort(among[np.ix_(rest, rest)], axis=1)[:, K - 1]
        d2, ball = across[i, rest], np.isfinite(sq_radii)
        inside = d2 <= sq_radii if inclusive else d2 < sq_radii
        found[i] = (inside & ball & np.isfinite(d2)).any()
    return found


def everyone(n):
    return np.ones((2 * n, 2 * n), bool)


@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("name", sets())
def test_leave_one_out(name, inclusive):
    r = sets()[name]
    expected = covered(r, r, everyone(len(r)), np.arange(len(r)), inclusive).mean()
    assert knn_fit(r, k=K, inclusive=inclusive).ceiling == (expected, expected, len(r))
    for votes in (0.5, None):
        fitted = lsh_knn_fit(KEY, r, spec=ONE_CELL, k=K, votes=votes, inclusive=inclusive)
        assert fitted.ceiling == (expected, expected, len(r))


@pytest.mark.parametrize("votes", [0.5, None])
@pytest.mark.parametrize("name", ["normal", "grid", "four times and once"])
def test_leave_one_out_in_cells(name, votes):
    r, spec = sets()[name], HashSpec(family="affine", num_tables=4, num_bits=1, radius_bins=0)
    fitted = lsh_knn_fit(KEY, r, spec=spec, k=K, votes=votes)
    cells = np.asarray(hashing.cell_keys(fitted.hasher, encoding.encode(fitted.hasher, r)))
    cells = np.tile(cells, (1, 2))  # as reference and as balls
    together = cells[:, :, None] == cells[:, None, :]
    if votes is None:
        together = together.any(axis=0, keepdims=True)
    own = np.arange(len(r))
    yes = np.stack([covered(r, r, alike, own, inclusive=True) for alike in together])
    expected = yes.any(axis=0) if votes is None else yes.mean(axis=0) >= votes
    assert fitted.ceiling[:2] == (expected.mean(), expected.mean())
    assert 0 < expected.mean() <= 1


@pytest.mark.parametrize("m", [25, 60])
@pytest.mark.parametrize("name", ["normal", "grid"])
def test_recall_ceiling_is_of_as_many_rows_as_were_generated(name, m):
    """So many rows of R have balls, and rows of R are left out of them."""
    r = sets()[name]
    rows = subset(len(r), m)
    own = np.full(len(r), -1)
    own[rows] = np.arange(m)
    together = np.ones((len(r) + m,) * 2, bool)
    expected = covered(r, r[rows], together, own, inclusive=True).mean()
    g = np.random.default_rng(1).standard_normal((m, r.shape[1])).astype(np.float32)
    scores = knn_precision_recall(r, g, k=K), lsh_knn_precision_recall(KEY, r, g, spec=ONE_CELL)
    for score in scores:
        assert score.recall_ceiling == expected
        assert score.precision_ceiling == covered(
            r, r, everyone(len(r)), np.arange(len(r)), inclusive=True
        ).mean()  # fmt: skip


def test_fewer_generated_rows_lower_the_recall_ceiling_as_they_lower_recall():
    rng = np.random.default_rng(2)
    r, few = (rng.standard_normal((n, 8)).astype(np.float32) for n in (1500, 150))
    for score in (knn_score(knn_fit(r), few), lsh_knn_score(lsh_knn_fit(KEY, r), few)):
        # Two samples of one distribution: equal but for their own spread.
        spread = 4 * np.hypot(score.recall_stderr, 0.02)
        assert score.recall == pytest.approx(score.recall_ceiling, abs=spread)


WITH_SECOND = {
    "knn": knn_precision_recall,
    "lsh_knn": lambda r, g, **more: lsh_knn_precision_recall(KEY, r, g, spec=ONE_CELL, **more),
    "lsh_knn in cells": lambda r, g, **more: lsh_knn_precision_recall(
        KEY, r, g, spec=HashSpec(family="affine", num_tables=4, num_bits=1, radius_bins=0), **more
    ),
}


@pytest.mark.parametrize(("rows", "m"), [(80, 80), (80, 50), (200, 80), (200, 50), (200, 120)])
@pytest.mark.parametrize("name", WITH_SECOND)
def test_ceilings_from_a_second_sample(name, rows, m):
    """All of its rows are scored, and m of them, at most n, have the balls of recall."""
    rng, metric = np.random.default_rng(3), WITH_SECOND[name]
    r, second, g = (rng.standard_normal((n, 4)).astype(np.float32) for n in (80, rows, m))
    score = metric(r, g, second_reference=second)
    assert score.precision_ceiling == metric(r, second).precision
    covering = second[subset(rows, min(m, 80))]
    assert score.recall_ceiling == metric(r, covering).recall


@pytest.mark.parametrize("name", WITH_SECOND)
def test_a_second_sample_of_fewer_rows_is_an_error(monkeypatch, name):
    def never(*_, **__):
        raise AssertionError("heavy work has begun")

    monkeypatch.setattr(knn, "nearest_others", never)
    monkeypatch.setattr(lsh_knn, "draw_hash", never)
    rng, metric = np.random.default_rng(4), WITH_SECOND[name]
    r, second = (rng.standard_normal((n, 4)).astype(np.float32) for n in (80, 79))
    message = "second reference has 79 rows; the reference has 80: give at least as many"
    with pytest.raises(ValueError, match=message):
        metric(r, r, second_reference=second)
