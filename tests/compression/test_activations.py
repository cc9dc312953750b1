"""Activation quantization against the same network written out in NumPy."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsh_gan.compression import CompressionSpec, Rule, activations, pack, unpack
from lsh_gan.generators.dcgan import DCGAN
from lsh_gan.generators.residual import SNGAN


class Net(nn.Module):
    """Dense, ReLU, dense: small enough to write out by hand."""

    @nn.compact
    def __call__(self, z):
        return nn.Dense(3, name="second")(nn.relu(nn.Dense(6, name="first")(z)))


def _spec(bits=4, clipping="none", scheme="affine", **options):
    return CompressionSpec(
        bits=bits, clipping=clipping, scheme=scheme, granularity="per_tensor", **options
    )


@pytest.fixture(scope="module")
def net():
    z = jax.random.normal(jax.random.key(1), (40, 5))
    return Net(), jax.jit(Net().init)(jax.random.key(0), z), z


def _round_by_hand(x, bits):
    """Affine rounding in float64 on the range of x and 0."""
    low, high = min(x.min(), 0), max(x.max(), 0)
    step = (high - low) / (2**bits - 1)
    zero_point = np.round(-low / step)
    return step * (np.clip(np.round(x / step) + zero_point, 0, 2**bits - 1) - zero_point)


def test_apply_rounds_what_enters_each_layer(net):
    module, variables, z = net
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    x = np.asarray(z, np.float64)
    # Ranges are those of full precision, so they are taken before anything is rounded.
    hidden = np.maximum(x @ params["first"]["kernel"] + params["first"]["bias"], 0)
    ranges = activations.calibrate(module, variables, z, _spec())[activations.COLLECTION]
    step = hidden.max() / 15
    assert float(ranges["second"]["input_scale"]) == pytest.approx(step, rel=1e-5)
    assert float(ranges["second"]["input_zero_point"]) == 0
    rounded = _round_by_hand(x, 4) @ params["first"]["kernel"] + params["first"]["bias"]
    steps = np.maximum(rounded, 0) / step
    expected = step * np.clip(np.round(steps), 0, 15) @ params["second"]["kernel"]
    found = activations.apply(module, {**variables, activations.COLLECTION: ranges}, z)
    # A hidden value within float32 rounding of a tie may fall on either side.
    decided = (np.abs(steps % 1 - 0.5) > 1e-4).all(axis=1)
    assert decided.mean() > 0.9
    np.testing.assert_allclose(
        np.asarray(found)[decided], (expected + params["second"]["bias"])[decided], atol=1e-5
    )


def test_variables_without_ranges_run_as_they_are(net):
    module, variables, z = net
    np.testing.assert_array_equal(
        activations.apply(module, variables, z), module.apply(variables, z)
    )
    unchanged = activations.calibrate(module, variables, z, _spec(bits=None))
    assert activations.COLLECTION not in unchanged


@pytest.mark.parametrize("scheme", ["affine", "symmetric"])
def test_error_falls_with_the_width(net, scheme):
    module, variables, z = net
    exact = module.apply(variables, z)
    errors = []
    for bits in (2, 4, 8, 16):
        ranged = activations.calibrate(module, variables, z, _spec(bits, scheme=scheme))
        errors.append(float(jnp.abs(activations.apply(module, ranged, z) - exact).max()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3  # 65,536 levels over a range of about 5, two layers


def test_extremes_count_whatever_the_batch_size(net, monkeypatch):
    module, variables, z = net
    ranges = []
    for size in (40, 16, 1):
        monkeypatch.setattr(activations, "BATCH", size)
        ranges.append(activations.calibrate(module, variables, z, _spec())["activation_ranges"])
    for other in ranges[1:]:
        # A matrix product may round differently in another batch.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ranges[0], other)


def test_every_latent_has_the_same_share_in_thresholds(net, monkeypatch):
    module, variables, _ = net
    monkeypatch.setattr(activations, "SAMPLE_SIZE", 2**10)
    z = jax.random.normal(jax.random.key(2), (960, 5))
    z = jnp.concatenate([z[:640], 10 * z[640:]])  # the last third, which is a smaller batch
    scales = []
    for size in (960, 640):
        monkeypatch.setattr(activations, "BATCH", size)
        ranges = activations.calibrate(module, variables, z, _spec(8, "std"))["activation_ranges"]
        scales.append(float(ranges["first"]["input_scale"]))
    # Deviations of 1,024 random values are 5 % apart; a third that counted as a half gives 22 %.
    assert scales[1] == pytest.approx(scales[0], rel=0.1)


def test_rules_match_module_paths(net):
    module, variables, z = net
    rules = [Rule(pattern="first", skip=True), Rule(pattern="sec.*", bits=6)]
    ranges = activations.calibrate(module, variables, z, _spec(rules=rules))["activation_ranges"]
    assert set(ranges) == {"second"}
    assert float(ranges["second"]["input_bits"]) == 6
    with pytest.raises(ValueError, match="nearest path is 'second'"):
        activations.calibrate(module, variables, z, _spec(rules=[Rule(pattern="secnd", bits=2)]))


@pytest.mark.parametrize(
    ("module", "layers"),
    [
        (DCGAN(latent_size=8, channels=(4, 4)), {"project", "up_0", "to_image"}),
        (
            SNGAN(latent_size=8, base_channels=8, channels=(4,)),
            {"project", "block_0/conv_1", "block_0/conv_2", "block_0/shortcut", "to_image"},
        ),
    ],
)
def test_every_layer_of_a_generator_gets_a_range(module, layers):
    z = jax.random.normal(jax.random.key(0), (16, 8))
    variables = jax.jit(module.init)(jax.random.key(1), z)
    rules = [Rule(pattern=pattern, bits=8) for pattern in layers]  # each must match
    ranged = activations.calibrate(module, variables, z, _spec(8, rules=rules))
    run = jax.jit(partial(activations.apply, module))
    images = run(ranged, z)
    assert 0 < float(jnp.abs(images - run(variables, z)).max()) < 0.05
    # Ranges travel in a packed tree.
    travelled = unpack(pack(ranged, CompressionSpec(bits=None)))
    np.testing.assert_array_equal(run(travelled, z), images)


def test_a_module_that_is_one_layer_works():
    z = jnp.linspace(-1, 1, 12).reshape(4, 3)
    layer = nn.Dense(2)
    variables = layer.init(jax.random.key(0), z)
    ranged = activations.calibrate(layer, variables, z, _spec(1))
    expected = layer.apply(variables, jnp.where(z >= 0, 1.0, -1.0))
    np.testing.assert_allclose(activations.apply(layer, ranged, z), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (jnp.ones(5), r"shape \(5,\)"),
        (jnp.ones((0, 5)), r"shape \(0, 5\)"),
        (jnp.full((2, 5), jnp.nan), "NaN or Inf"),
    ],
)
def test_bad_latents_are_refused(net, latents, message):
    module, variables, _ = net
    with pytest.raises(ValueError, match=message):
        activations.calibrate(module, variables, latents, _spec())


def test_what_cannot_be_calibrated_is_refused(net):
    module, variables, z = net
    with pytest.raises(ValueError, match="'per_channel': activations are quantized 'per_tensor'"):
        activations.calibrate(module, variables, z, CompressionSpec(bits=4))
    with pytest.raises(ValueError, match="no layer with a kernel"):
        activations.calibrate(
            nn.BatchNorm(use_running_average=True),
            {
                "params": {"scale": jnp.ones(5), "bias": jnp.zeros(5)},
                "batch_stats": {"mean": jnp.zeros(5), "var": jnp.ones(5)},
            },
            z,
            _spec(),
        )
    broken = jax.tree.map(lambda x: x * jnp.inf, variables)
    with pytest.raises(ValueError, match="second: its inputs hold NaN or Inf"):
        activations.calibrate(module, broken, z, _spec())
    sparse = _spec(clipping="percentile", percentile=1e-3)
    with pytest.raises(ValueError, match="second: clipping 'percentile' gives threshold 0"):
        activations.calibrate(module, variables, z, sparse)
