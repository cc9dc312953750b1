"""What the three metrics have in common: names, options, kinds of input, fields of the result."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import draw

from lsh_gan import metrics
from lsh_gan.metrics import (
    HashSpec,
    frechet_distance,
    kid,
    knn_precision_recall,
    lsh_knn_precision_recall,
    lsh_precision_recall,
)

KEY = jax.random.key(0)


R, G = draw(80, 5), draw(60, 5, 1)
METRICS = {
    "knn": knn_precision_recall,
    "lsh": lambda r, g, **options: lsh_precision_recall(KEY, r, g, **options),
    "lsh_knn": lambda r, g, **options: lsh_knn_precision_recall(KEY, r, g, **options),
}
every_metric = pytest.mark.parametrize("name", METRICS)


def test_everything_public_is_there():
    assert sorted(metrics.__all__) == metrics.__all__
    wanted = (
        "knn_precision_recall lsh_knn_precision_recall lsh_precision_recall HashSpec fit_hash "
        "build merge save load kid frechet_distance PrecisionRecall Hasher Sketch"
    )
    assert set(wanted.split()) <= set(metrics.__all__)
    for name in metrics.__all__:
        assert inspect.getdoc(getattr(metrics, name))


def test_defaults():
    def defaults(function):
        parameters = inspect.signature(function).parameters.values()
        positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        rest = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        assert len(positional) + len(rest) == len(parameters)
        return positional, rest

    positional, options = defaults(knn_precision_recall)
    assert positional == ["reference", "generated"]
    assert (options["k"], options["density_k"], options["inclusive"]) == (3, 5, True)
    for function in (lsh_precision_recall, lsh_knn_precision_recall):
        positional, options = defaults(function)
        assert positional == ["key", "reference", "generated"]
        assert options["votes"] == 0.5
        assert (options["membership"], options["ceiling"]) == (False, True)
    spec = HashSpec()
    assert (spec.family, spec.num_tables, spec.num_bits, spec.radius_bins) == (
        "pstable", 32, "auto", 8
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["jax", "float64", "list", "iterator", "mixed"])
@every_metric
def test_kinds_of_input_score_alike(name, kind):
    forms = {
        "jax": jnp.asarray,
        "float64": lambda x: x.astype(np.float64),
        "list": lambda x: [x[:7], x[7:]],
        "iterator": lambda x: (x[i : i + 9] for i in range(0, len(x), 9)),
        "mixed": lambda x: [jnp.asarray(x[:30]), x[30:]],
    }
    expected = METRICS[name](R, G, membership=True)
    found = METRICS[name](forms[kind](R), forms[kind](G), membership=True)
    for field, a, b in zip(expected._fields, expected, found, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=field)


@every_metric
def test_fields(name):
    scores = METRICS[name](R, G)
    fields = ["precision", "recall", "precision_stderr", "recall_stderr", "precision_ceiling"]
    fields += ["recall_ceiling"] + (["density", "coverage"] if name == "knn" else [])
    for field in fields:
        assert type(getattr(scores, field)) is float, field
    assert (scores.n, scores.m) == (80, 60)
    assert scores.k == (None if name == "lsh" else 3)
    assert scores.capped == 0
    assert scores.precision_membership is None
    assert scores.recall_membership is None
    if name != "knn":
        assert (scores.family, scores.radius_bins, scores.num_tables) == ("pstable", 8, 32)
        assert scores.num_bits > 0 or name == "lsh_knn"


@every_metric
def test_membership_is_of_each_sample(name):
    scores = METRICS[name](R, G, membership=True)
    assert scores.precision_membership.shape == (60,)
    assert scores.recall_membership.shape == (80,)
    assert scores.precision_membership.dtype == bool
    assert scores.precision == pytest.approx(scores.precision_membership.mean())
    assert scores.recall == pytest.approx(scores.recall_membership.mean())


@every_metric
def test_the_ceiling_can_be_left_out(name):
    whole, without = METRICS[name](R, G), METRICS[name](R, G, ceiling=False)
    assert (without.precision_ceiling, without.recall_ceiling) == (None, None)
    assert without._replace(
        precision_ceiling=whole.precision_ceiling, recall_ceiling=whole.recall_ceiling
    ) == whole  # fmt: skip


@every_metric
def test_ceiling_of_a_second_reference_is_its_score(name):
    second = draw(80, 5, 2)
    scores = METRICS[name](R, draw(80, 5, 1), second_reference=second)
    its = METRICS[name](R, second)
    assert scores.precision_ceiling == its.precision
    assert scores.recall_ceiling == its.recall


def test_distances_take_the_same_inputs():
    for function in (kid, frechet_distance):
        expected = function(R, G)
        assert type(expected) is float
        assert function(jnp.asarray(R), [G[:7], G[7:]]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("family", ["affine", "hyperplane"])
def test_tables_too_large_for_memory(family):
    spec = HashSpec(family=family, num_bits=24, num_tables=64)
    with pytest.raises(
        ValueError, match=r"num_bits = 24: 64 tables of \d+ cells take \d+ bytes, mo"
    ):
        lsh_precision_recall(KEY, R, G, spec=spec)


@every_metric
@pytest.mark.parametrize("offset", [0, 100])
def test_the_forms_for_accelerators_score_the_same(monkeypatch, name, offset):
    """They are chosen by the name of the backend alone, so that a CPU can run them too."""
    r, g = (jnp.asarray(x + np.float32(offset)) for x in (draw(500, 24), 1.1 * draw(410, 24, 1)))
    here = METRICS[name](r, g, membership=True)
    asked = []
    monkeypatch.setattr(jax, "default_backend", lambda: asked.append(name) or "gpu")
    there = METRICS[name](r, g, membership=True)
    assert asked
    assert 0 < here.precision < 1
    assert here[:6] == there[:6]
    np.testing.assert_array_equal(here.precision_membership, there.precision_membership)
    np.testing.assert_array_equal(here.recall_membership, there.recall_membership)
