"""Benchmarks find what the metrics find, at sizes that take no time."""

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import metric_growth
from lsh_gan import metrics
from lsh_gan.metrics import lsh


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


def test_growth_assesses_as_the_metrics_do(sets):
    r, g = sets
    found = {name: run() for name, run in metric_growth.assessors(*map(jnp.asarray, sets))}
    sq = np.square(r[:, None] - np.concatenate([r, g])).sum(axis=-1)
    radius = np.median(np.sort(sq[:31, :300])[:, 3])  # of all balls that KNN is measured with
    assert found.pop("KNN").tolist() == (sq[:, 300:] <= radius).any(axis=0).tolist()
    for name, yes in found.items():
        kind = "lsh_knn" if "KNN" in name else "lsh"
        options = {"spec": metric_growth.FIXED[kind] if "fixed" in name else None, "ceiling": False}
        if kind == "lsh_knn":
            options["max_cell"] = metric_growth.MAX_CELL
        fitted = getattr(metrics, f"{kind}_fit")(metric_growth.KEY, r, **options)
        scores = getattr(metrics, f"{kind}_score")(fitted, g, membership=True)
        expected = scores.precision_membership
        tables = scores.num_tables
        assert yes.shape == ((tables, 20) if kind == "lsh_knn" else (lsh.GROUPS, 20))
        member = yes.sum(axis=0) >= lsh.least_yeses(fitted.votes, tables)
        assert member.tolist() == expected.tolist(), name
        assert 0 < expected.sum() < 20
