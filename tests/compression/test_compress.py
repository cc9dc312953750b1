"""Whole trees: reported numbers, special tensors, and one compilation for all widths."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsh_gan.compression import METHODS, CompressionSpec, Rule, compress, format_report
from lsh_gan.compression.rules import flatten, isolate, plan_tensors

SHAPES = {"project": (10, 48), "conv": (3, 3, 8, 12)}


def _params(seed=0):
    rng = np.random.default_rng(seed)
    layers = {
        name: {"kernel": jnp.asarray(rng.standard_t(5, shape), jnp.float32)}
        for name, shape in SHAPES.items()
    }
    layers["project"]["bias"] = jnp.asarray(rng.normal(size=48), jnp.float32)
    return {"params": layers}


def test_full_precision_is_the_identity():
    params = _params()
    compressed, report = compress(params, CompressionSpec(bits=None))
    jax.tree.map(np.testing.assert_array_equal, compressed, params)
    assert report.ratio < 1  # the header
    assert {t.bits for t in report.tensors} == {None}


@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
def test_report_equals_a_float64_recount(granularity):
    params = _params()
    spec = CompressionSpec(bits=3, clipping="mse", granularity=granularity)
    compressed, report = compress(params, spec)
    tensor = next(t for t in report.tensors if t.path == "params/conv/kernel")
    before, after = (
        np.asarray(tree["params"]["conv"]["kernel"], np.float64) for tree in (params, compressed)
    )
    sqnr = 10 * np.log10((before**2).sum() / ((before - after) ** 2).sum())
    assert tensor.sqnr_db == pytest.approx(sqnr, abs=1e-3)
    clipped = (np.abs(before) > tensor.alpha.astype(np.float64)).mean()
    assert 0 < clipped == pytest.approx(tensor.share_clipped, abs=1e-6)
    assert tensor.shape == (3, 3, 8, 12)
    assert tensor.bytes == 864 * 3 // 8 + 4 * tensor.alpha.size
    assert report.num_parameters == sum(np.prod(s) for s in SHAPES.values()) + 48
    assert report.float32_bytes == 4 * report.num_parameters
    assert report.ratio == report.float32_bytes / report.bytes
    assert report.bits_per_parameter == 8 * report.bytes / report.num_parameters


def test_the_table_names_every_tensor_and_the_totals():
    _, report = compress(_params(), CompressionSpec(bits=3))
    lines = format_report(report).splitlines()
    assert len(lines) == 1 + 3 + 1
    assert all(t.path in line for t, line in zip(report.tensors, lines[1:-1], strict=True))
    assert f"{report.bytes:,} bytes" in lines[-1]
    assert len({len(line) for line in lines[:-1]}) == 1


@pytest.mark.parametrize(
    ("bits", "clipping", "scheme"),
    [(1, "mse", "affine"), (2, "mse", "symmetric"), (8, "none", "affine")],
)
def test_compressing_twice_changes_nothing(bits, clipping, scheme):
    spec = CompressionSpec(bits=bits, clipping=clipping, scheme=scheme)
    once, _ = compress(_params(), spec)
    twice, _ = compress(once, spec)
    # The second threshold is read from the outermost level: one rounding away, and the integer
    # zero point of "affine" leaves up to half a step of the range unused.
    exact = scheme == "symmetric" or bits == 1
    for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(twice), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-7 if exact else 1e-6)


@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
def test_quality_grows_with_the_width_up_to_the_identity(scheme):
    quality = [
        [t.sqnr_db for t in compress(_params(), spec)[1].tensors if t.bits]
        for spec in (
            CompressionSpec(bits=bits, clipping="mse", scheme=scheme) for bits in range(1, 17)
        )
    ]
    assert (np.diff(quality, axis=0) > 3).all()  # about 6 dB a bit
    assert np.min(quality[-1]) > 85  # 16 bits: errors of 1e-5 of the largest weight


@pytest.mark.parametrize(
    ("clipping", "scheme"), [("mse", "affine"), ("mse", "symmetric"), ("kl", "symmetric")]
)
def test_constant_and_zero_channels(clipping, scheme):
    kernel = np.zeros((32, 3), np.float32)
    kernel[:, 1] = -0.3
    kernel[:, 2] = 0.3
    spec = CompressionSpec(bits=4, clipping=clipping, scheme=scheme)
    compressed, report = compress({"a": {"kernel": kernel}, "b": {"kernel": 0 * kernel}}, spec)
    np.testing.assert_allclose(compressed["a"]["kernel"], kernel, rtol=1e-6)
    np.testing.assert_array_equal(compressed["b"]["kernel"], 0)
    assert (report.tensors[0].share_clipped, report.tensors[1].sqnr_db) == (0, np.inf)


def test_a_threshold_of_zero_is_refused():
    kernel = np.zeros((100, 3), np.float32)
    kernel[0, 1] = 1
    spec = CompressionSpec(bits=4, clipping="percentile", percentile=50)
    with pytest.raises(ValueError, match=r"^a/kernel: clipping 'percentile' .*0 in 1 of 3"):
        compress({"a": {"kernel": kernel}}, spec)


def _pruned(share, shape=(3, 3, 16, 24)):
    kernel = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    kernel[np.abs(kernel) < np.quantile(np.abs(kernel), share)] = 0
    return kernel


def _sqnr(before, after):
    before, after = (np.asarray(x, np.float64) for x in (before, after))
    return 10 * np.log10((before**2).sum() / ((before - after) ** 2).sum())


@pytest.mark.parametrize(
    ("share", "bits", "clipping", "granularity"),
    [(0.3, 2, "mse", "per_tensor"), (0.95, 4, "mse", "per_channel")],
)
def test_pruned_weights_keep_their_zeros(share, bits, clipping, granularity):
    kernel = _pruned(share)
    spec = CompressionSpec(bits=bits, clipping=clipping, granularity=granularity)
    compressed, report = compress({"kernel": kernel}, spec)
    values = np.asarray(compressed["kernel"])
    assert (values[kernel == 0] == 0).all()
    tensor = report.tensors[0]
    assert (tensor.scheme, tensor.pruned) == ("affine", pytest.approx(share, abs=0.01))
    assert tensor.sqnr_db == pytest.approx(_sqnr(kernel, values), abs=1e-3)
    assert f"kernel is pruned ({tensor.pruned:.0%} zeros): its grid" in format_report(report)
    # The grid that was asked for is still to be had, by a rule that names it.
    rule = Rule(pattern="kernel", scheme="symmetric")
    spec = dataclasses.replace(spec, rules=(rule,))
    asked, _ = compress({"kernel": kernel}, spec)
    (alone,) = isolate(plan_tensors(flatten({"kernel": kernel})[0], spec, None)).values()
    assert compress({"kernel": kernel}, alone)[1].tensors[0].scheme == "symmetric"
    assert (np.asarray(asked["kernel"])[kernel == 0] != 0).all()
    assert tensor.sqnr_db > _sqnr(kernel, asked["kernel"]) + 0.5


def test_a_few_zeros_change_no_grid_and_one_bit_has_no_zero():
    tree = {"a": {"kernel": _pruned(0.8)}, "b": {"kernel": _pruned(0.05)}}
    _, report = compress(tree, CompressionSpec(bits=4))
    assert [tensor.scheme for tensor in report.tensors] == ["affine", "symmetric"]
    assert format_report(report).count("is pruned") == 1
    kernel = _pruned(0.8)
    compressed, report = compress({"kernel": kernel}, CompressionSpec(bits=1))
    assert np.asarray(compressed["kernel"]).all()
    assert "1 bit has no level at 0" in format_report(report)


# Those whose programs depend on the width; "aciq" holds both of its kind.
@pytest.mark.parametrize("clipping", ["mse", "aciq", "kl"])
def test_all_widths_share_one_compilation(clipping, compilations):
    # Shapes of this method alone, so that no other test has compiled them.
    rows = 5 + sorted(METHODS).index(clipping)
    params = {
        "a": {"kernel": jax.random.normal(jax.random.key(0), (rows, 4))},
        "b": {"kernel": _pruned(0.8, (rows, 40))},
    }
    compilations.clear()
    compress(params, CompressionSpec(bits=1, clipping=clipping))
    assert compilations  # the counter counts
    compilations.clear()
    for bits in (2, 3, 8, 16):
        compress(params, CompressionSpec(bits=bits, clipping=clipping))
    mixed = [Rule(pattern=".*", bits=5)]
    compress(params, CompressionSpec(bits=3, clipping=clipping, rules=mixed))
    assert not compilations
