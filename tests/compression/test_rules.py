"""Rules, channel axes and bad input: resolved or refused before any number is touched."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import freeze
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lsh_gan.compression import CompressionSpec, Rule, compress, pack, unpack


def _params():
    keys = iter(jax.random.split(jax.random.key(0), 8))
    return {
        "params": {
            "project": {"kernel": jax.random.normal(next(keys), (6, 16)), "bias": jnp.ones(16)},
            "conv_1": {"kernel": jax.random.normal(next(keys), (3, 3, 4, 8))},
            "conv_10": {"kernel": jax.random.normal(next(keys), (3, 3, 8, 2))},
            "norm": {"scale": jnp.ones(8), "bias": jnp.zeros(8)},
        },
        "batch_stats": {"norm": {"mean": jnp.zeros(8), "var": jnp.ones(8)}},
    }


def _by_path(spec, **options):
    return {t.path: t for t in compress(_params(), spec, **options)[1].tensors}


def test_kernels_are_quantized_and_all_else_stays():
    tensors = _by_path(CompressionSpec(bits=4))
    assert {path for path, tensor in tensors.items() if tensor.bits is not None} == {
        "params/project/kernel",
        "params/conv_1/kernel",
        "params/conv_10/kernel",
    }
    before, (after, _) = _params(), compress(_params(), CompressionSpec(bits=2))
    np.testing.assert_array_equal(
        after["params"]["norm"]["scale"], before["params"]["norm"]["scale"]
    )
    assert jax.tree.structure(after) == jax.tree.structure(before)


def test_the_first_matching_rule_wins():
    rules = (
        Rule(pattern=".*project/kernel", skip=True),
        Rule(pattern="params/conv_1/.*", bits=8, clipping="std"),
        Rule(pattern=".*/kernel", bits=3, granularity="per_tensor", scheme="affine"),
        Rule(pattern=".*mean", skip=True),
    )
    groups = {"granularity": "per_group", "group_size": 9}
    tensors = _by_path(CompressionSpec(bits=4, rules=rules, **groups))
    first, second = tensors["params/conv_1/kernel"], tensors["params/conv_10/kernel"]
    assert (first.bits, first.clipping, first.granularity) == (8, "std", "per_group")
    assert (second.bits, second.clipping, second.scheme) == (3, "none", "affine")
    assert second.alpha.shape == (1, 1)
    assert first.rule == "params/conv_1/.*"
    assert tensors["params/project/kernel"].bits is None
    assert tensors["params/project/bias"].rule == "default"


def test_a_rule_may_compress_one_layer_of_a_full_precision_tree():
    rule = Rule(pattern="params/conv_1/kernel", bits=2)
    tensors = _by_path(CompressionSpec(bits=None, rules=[rule]))
    assert tensors.pop("params/conv_1/kernel").bits == 2
    assert {tensor.bits for tensor in tensors.values()} == {None}


def test_channel_axes_come_from_the_declaration():
    axes = {"params/conv_1/kernel": 2}
    tensors = _by_path(CompressionSpec(bits=4), channel_axes=axes)
    assert tensors["params/conv_1/kernel"].channel_axis == 2
    assert tensors["params/conv_10/kernel"].channel_axis == 3
    kernel = np.abs(_params()["params"]["conv_1"]["kernel"])
    np.testing.assert_array_equal(
        tensors["params/conv_1/kernel"].alpha, kernel.max(axis=(0, 1, 3))[None]
    )
    (dense,) = compress({"0.weight": np.eye(4)[:3]}, CompressionSpec(bits=4))[1].tensors
    assert dense.channel_axis == 0  # as torch has it
    with pytest.raises(ValueError, match=r"project/kernel.*axis 2 .*2 axes"):
        compress(_params(), CompressionSpec(bits=4), channel_axes={".*project/kernel": 2})
    with pytest.raises(ValueError, match=r"^channel_axes: 'conv_1/kernel' matches no path; the n"):
        compress(_params(), CompressionSpec(bits=4), channel_axes={"conv_1/kernel": 2})


@pytest.mark.parametrize("join", [lambda *keys: ".".join(keys), lambda *keys: "/".join(keys)])
@pytest.mark.parametrize("name", ["kernel", "weight", "weight_orig", "w"])
def test_names_within_a_state_dict_say_what_is_a_kernel(name, join):
    state = {join("conv", name): np.eye(4), join("conv", "noise_const"): np.eye(4)}
    _, report = compress(state, CompressionSpec(bits=4))
    assert [t.path for t in report.tensors if t.bits] == [join("conv", name)]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule(pattern="params/conv1/kernel", bits=2), "nearest path is 'params/conv_1/kernel'"),
        (Rule(pattern="conv_1", bits=2), "match the whole path"),
        (Rule(pattern="params/norm/scale", bits=2), "params/norm/scale.*'per_tensor'"),
        (Rule(pattern=".*conv_1/kernel", granularity="per_group"), "conv_1/kernel.*group_size"),
        (Rule(pattern=".*conv_1/kernel", group_size=9), "'per_channel' and group_size is 9"),
        (
            Rule(pattern=".*conv_1/kernel", granularity="per_group", group_size=10),
            "10 does not divide its 36 inputs.* 9",
        ),
    ],
)
def test_rules_that_do_not_fit_are_refused(rule, message):
    with pytest.raises(ValueError, match=message):
        compress(_params(), CompressionSpec(bits=4, rules=[rule]))


def test_a_rule_behind_another_is_refused():
    rules = [Rule(pattern=".*kernel", bits=3), Rule(pattern=".*conv_1/kernel", bits=8)]
    with pytest.raises(ValueError, match="never used"):
        compress(_params(), CompressionSpec(bits=4, rules=rules))


def test_impossible_specifications_are_refused():
    cases = [
        ({"bits": 0}, "bits = 0 .*nearest valid value is 1"),
        ({"bits": 17}, "bits = 17 .*nearest valid value is 16"),
        ({"bits": float("nan")}, "bits = nan"),
        ({"bits": True}, "bits = True"),
        ({"clipping": "msee"}, "clipping method 'msee'.*'mse'"),
        ({"granularity": "per_chanel"}, "'per_channel'"),
        ({"scheme": "asymmetric"}, "'symmetric'"),
        ({"group_size": 0}, "group_size = 0"),
        ({"percentile": 100.5}, "percentile = 100.5"),
        ({"num_stds": 0}, "num_stds = 0"),
    ]
    for fields, message in cases:
        with pytest.raises(ValueError, match=message):
            CompressionSpec(**{"bits": 4, **fields})
    spec = CompressionSpec(bits=np.int64(4), group_size=np.int64(8))
    assert (type(spec.bits), type(spec.group_size)) == (int, int)
    with pytest.raises(TypeError, match="Rule"):
        CompressionSpec(bits=4, rules=[{"pattern": "a"}])
    with pytest.raises(ValueError, match=r"rule '\['"):
        Rule(pattern="[")
    with pytest.raises(ValueError, match=r"rule 'a': clipping method 'kll'.*'kl'"):
        Rule(pattern="a", clipping="kll")


def _with(leaf):
    return {"params": {"a": {"kernel": leaf}, "b": {"kernel": jnp.ones((2, 2))}}}


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        (_with(np.array([[1.0, np.nan]])), ValueError, r"params/a/kernel.*\(0, 1\)"),
        (_with(np.array([[np.inf, -np.inf]])), ValueError, "params/a/kernel.*2 in all"),
        (_with(jnp.ones((2, 2), jnp.int32)), TypeError, "params/a/kernel.*int32"),
        (_with(jnp.ones((0, 2))), ValueError, "params/a/kernel.*empty"),
        (_with([jnp.ones(2), 1]), TypeError, "params/a/kernel/1: .*int"),
        (jnp.ones((2, 2)), TypeError, "one array or object; expected a tree"),
        ({}, ValueError, "no floating arrays"),
        ({"params": {}}, ValueError, "no floating arrays"),
        ({"weight": jnp.ones(2)}, ValueError, "bits = 4 but no tensor.*'weight'"),
    ],
)
def test_trees_that_cannot_be_compressed_are_refused(params, error, message):
    with pytest.raises(error, match=message):
        compress(params, CompressionSpec(bits=4))


def test_frozen_dicts_half_precision_and_sharded_arrays_are_accepted():
    params = freeze({"params": {"a": {"kernel": jnp.ones((4, 4), jnp.bfloat16)}}})
    compressed, _ = compress(params, CompressionSpec(bits=4))
    assert jax.tree.structure(compressed) == jax.tree.structure(params)
    assert compressed["params"]["a"]["kernel"].dtype == jnp.float32

    spec = CompressionSpec(bits=4, clipping="mse")
    params = {"kernel": np.random.default_rng(0).normal(size=(16, 8)), "bias": np.ones((1, 8))}
    expected, _ = compress(params, spec)
    axes = NamedSharding(jax.make_mesh((1,), ("x",), (AxisType.Explicit,)), P(None, "x"))
    with jax.transfer_guard("disallow"):
        found, _ = compress(jax.device_put(params, axes), spec)
        unpacked = unpack(pack(params, spec))
    for tree in (found, unpacked):
        jax.tree.map(np.testing.assert_array_equal, tree, expected)
    assert {x.sharding.spec for x in found.values()} == {P(None, "x")}
