"""Benchmarks find what the metrics find, at sizes that take no time."""

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import gpu, measuring, metric_growth, metric_peers
from lsh_gan import metrics
from lsh_gan.metrics.votes import least_yeses


def clustered(rng, centres, count):
    """Rows near centres, float32 `[count, d]`."""
    near = centres[rng.integers(len(centres), size=count)]
    return near + 0.05 * rng.standard_normal(near.shape, np.float32)


@pytest.fixture(scope="module")
def sets():
    """300 references, and 20 samples of which eight are one row and four lie far away."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((12, 16), np.float32)
    r, g = clustered(rng, centres, 300), clustered(rng, centres, 20)
    g[:8], g[8:12] = r[0], r[:4] + 10
    return r, g


def lsh(r, g, *, fixed):
    """Scores with memberships, by the hash that growth is measured with."""
    spec = metric_growth.FIXED["lsh"] if fixed else None
    fitted = metrics.lsh_fit(metric_growth.KEY, r, spec=spec, ceiling=False)
    return metrics.lsh_score(fitted, g, membership=True, recall=False)


def lsh_knn(r, g, *, fixed):
    """The same for balls among hash candidates."""
    return metrics.lsh_knn_precision_recall(
        metric_growth.KEY, r, g, spec=metric_growth.FIXED["lsh_knn"] if fixed else None,
        membership=True, ceiling=False, max_cell=metric_growth.MAX_CELL,
    )  # fmt: skip


def test_growth_assesses_as_the_metrics_do(sets):
    r, g = sets
    found = {name: run() for name, run in metric_growth.assessors(*map(jnp.asarray, sets))}
    sq = np.square(r[:, None] - np.concatenate([r, g])).sum(axis=-1)
    radius = np.median(np.sort(sq[:31, :300])[:, 3])  # of all balls that KNN is measured with
    assert found.pop("KNN").tolist() == (sq[:, 300:] <= radius).any(axis=0).tolist()
    for name, yes in found.items():
        score = lsh_knn if name.startswith("LSH+KNN") else lsh
        scores = score(r, g, fixed="fixed" in name)
        expected = scores.precision_membership
        member = yes.sum(axis=0) >= least_yeses(0.5, scores.num_tables)
        assert member.tolist() == expected.tolist(), name
        assert 0 < expected.sum() < 20


@pytest.fixture
def hasty(monkeypatch):
    """As many calls as rounds, however short they are."""
    monkeypatch.setattr(measuring, "LEAST_SECONDS", 0)


def test_best_counts_rounds_after_the_first_call(hasty):
    calls = []
    assert min(measuring.best(lambda: calls.append(0), 3)) >= 0
    assert len(calls) == 4


def test_best_goes_on_until_the_time_is_spent(monkeypatch):
    monkeypatch.setattr(measuring, "LEAST_SECONDS", 0.01)
    calls = []
    measuring.best(lambda: calls.append(0), 1)
    assert len(calls) > 2


def test_calls_alternate():
    calls = []
    ticks = iter([0, 5, 10, 13, 20, 24, 30, 39])
    runs = {name: lambda name=name: calls.append(name) for name in "ab"}
    assert measuring.best_in_turn(runs, 2, lambda: next(ticks)) == {"a": 4, "b": 3}
    assert calls == ["a", "b", "a", "b"]


def test_more_features_begin_with_fewer():
    x = measuring.draw(1500, 70, 1)
    assert x.shape == (1500, 70)
    assert x.dtype == np.float32
    assert x.min() == 0
    np.testing.assert_array_equal(x[:1024], measuring.draw(1024, 70, 1))
    wide = measuring.draw(1500, 70, 1, np.float64)
    assert wide.dtype == np.float64
    np.testing.assert_array_equal(x, wide)
    assert (x != measuring.draw(1500, 70, 2)).any()


def test_a_gpu_is_measured(hasty):
    r, g = gpu.draw(300, 16, 1), gpu.draw(300, 16, 2)
    assert r.shape == (300, 16)
    assert r.dtype == np.float32
    assert r.min() == 0
    roofs = gpu.measure_roofs(64, 1)
    assert min(roofs) > 0
    kernels = gpu.measure_kernels(r, g, 1)
    kinds = ("hash", "look up", "products", "neighbours", "comparisons")
    for kernel, kind in zip(kernels, kinds, strict=True):
        assert kernel.name.startswith(kind)
    exact, hashed = gpu.measure_metrics(r, g, 1)
    assert (exact.name, hashed.name) == ("KNN", "LSH")
    assert exact.flops == 2 * 16 * (2 * 300**2)
    measured = [*kernels, exact, hashed]
    assert all(kernel.bytes > 0 and kernel.flops >= 0 and kernel.seconds > 0 for kernel in measured)
    assert gpu.table(measured, roofs).count("\n") == 1 + len(measured)
    assert gpu.moved(r, g) == 0


def test_torch_finds_what_knn_finds(sets):
    pytest.importorskip("torch")
    r, g = sets
    name, run = metric_peers.cdist(r, g, rows=100)
    scores = metrics.knn_precision_recall(r, g, ceiling=False)
    assert name.startswith("cdist + kthvalue, torch ")
    assert run() == pytest.approx((scores.precision, scores.recall), rel=1e-6)
