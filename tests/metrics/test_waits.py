"""Between features and scores the host waits at most twice, and a second set compiles nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import draw, draw_pair

from lsh_gan.metrics import (
    HashSpec,
    knn,
    knn_fit,
    knn_score,
    lsh_fit,
    lsh_knn_fit,
    lsh_knn_score,
    lsh_score,
)

N, M, D = 120, 90, 4
SPEC = HashSpec(num_tables=6)
METRICS = {
    "knn": (lambda key, r: knn_fit(r), knn_score),
    "lsh": (lambda key, r: lsh_fit(key, r, spec=SPEC), lsh_score),
    "lsh_knn": (lambda key, r: lsh_knn_fit(key, r, spec=SPEC), lsh_knn_score),
}
every_metric = pytest.mark.parametrize("name", METRICS)


@pytest.fixture
def waits(monkeypatch):
    """A list of the arrays whose values the host asks for; one for all of a device_get."""
    found, kind = [], type(jnp.zeros(1))

    def count(owner, name):
        original = getattr(owner, name)

        def counting(x, *args, **options):
            if isinstance(x, kind) or owner is jax:
                found.append(x)
            with monkeypatch.context() as inside:
                if owner is jax:  # its own look at each array is part of one wait
                    inside.setattr(np, "asarray", as_array)
                    for method in methods:
                        inside.setattr(kind, method, of_arrays[method])
                return original(x, *args, **options)

        monkeypatch.setattr(owner, name, counting)

    methods = ("__array__", "__float__", "__int__", "__bool__", "__index__", "item", "tolist")
    as_array, of_arrays = np.asarray, {method: getattr(kind, method) for method in methods}
    for method in methods:
        count(kind, method)
    for name in ("asarray", "array"):
        count(np, name)
    count(jax, "device_get")
    return found


@every_metric
def test_two_waits(name, waits):
    r, g = (jnp.asarray(x) for x in draw_pair("grid", N, M, D))
    fit, score = METRICS[name]
    fitted = jax.block_until_ready(fit(jax.random.key(0), r))
    there = {id(x) for x in jax.tree.leaves(fitted)}
    waits.clear()
    score(fitted, g, membership=True)
    found = [x for x in waits if id(x) not in there]
    assert len(found) <= 2, found  # whether the features are finite; the scores


@every_metric
def test_a_second_set_of_the_same_shape_compiles_nothing(name, compilations):
    fit, score = METRICS[name]
    score(fit(jax.random.key(0), draw(N, D)), draw(M, D, 1))
    before = len(compilations)
    for kind in ("normal", "grid", "copies", "constant"):
        r, g = draw_pair(kind, N, M, D)
        score(fit(jax.random.key(1), r), g)
    assert len(compilations) == before


def test_sets_of_as_many_tiles_share_their_kernels():
    kernels = knn.nearest_others, knn._find_balls, knn._compare
    found = []
    for n, m in ((N, M), (125, 98)):
        knn_score(knn_fit(draw(n, D)), draw(m, D, 1))
        found.append([kernel._cache_size() for kernel in kernels])
    assert found[0] == found[1]
