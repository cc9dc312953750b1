"""Corrections against the moments that they promise."""

from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsh_gan.compression import (
    CompressionSpec,
    activations,
    compress,
    correct_biases,
    reestimate_batch_norms,
)
from lsh_gan.generators.dcgan import DCGAN
from lsh_gan.generators.residual import SNGAN

SNGAN_SMALL = SNGAN(latent_size=8, base_channels=8, channels=(4,))
DCGAN_SMALL = DCGAN(latent_size=8, channels=(8, 4))
RUN = jax.jit(
    partial(activations.apply, capture_intermediates=True, mutable=["intermediates"]),
    static_argnums=0,
)


@cache
def _generator(module):
    """A generator in full precision, the same at 3 bits, and latents."""
    z = jax.random.normal(jax.random.key(1), (48, 8))
    # Random weights, with batch norms that know their inputs, as a trained generator's do.
    variables = reestimate_batch_norms(module, jax.jit(module.init)(jax.random.key(0), z), z)
    compressed, _ = compress(variables, CompressionSpec(bits=3))
    return variables, compressed, z


def _outputs(module, variables, z):
    """The output of each layer by path, as Flax itself captures it."""
    _, state = RUN(module, variables, z)
    leaves = jax.tree_util.tree_leaves_with_path(state["intermediates"])
    paths = ["/".join(str(k.key) for k in keys if hasattr(k, "key")) for keys, _ in leaves]
    return {
        path.removesuffix("/__call__"): np.asarray(leaf)
        for path, (_, leaf) in zip(paths, leaves, strict=True)
    }


def _image_error(module, variables, other, seed=7):
    z = jax.random.normal(jax.random.key(seed), (48, 8))  # not the latents of the correction
    return float(jnp.mean((RUN(module, variables, z)[0] - RUN(module, other, z)[0]) ** 2))


def test_corrected_layers_have_the_mean_of_full_precision(monkeypatch):
    monkeypatch.setattr(activations, "BATCH", 20)
    variables, compressed, z = _generator(SNGAN_SMALL)
    corrected = correct_biases(SNGAN_SMALL, variables, compressed, z)
    target, before, after = (
        _outputs(SNGAN_SMALL, tree, z) for tree in (variables, compressed, corrected)
    )
    shifts = []
    for path in ("block_0/conv_1", "block_0/shortcut", "block_0/conv_2", "norm", "to_image"):
        wanted, shifted, found = (x[path].mean(axis=(0, 1, 2)) for x in (target, before, after))
        scale = target[path].std()
        np.testing.assert_allclose(found, wanted, atol=1e-5 * scale)  # float32 sums
        shifts.append(np.abs(shifted - wanted).max() / scale)
    assert max(shifts) > 0.01  # there was something to do
    np.testing.assert_array_equal(
        corrected["params"]["to_image"]["kernel"], compressed["params"]["to_image"]["kernel"]
    )


@pytest.mark.parametrize("module", [SNGAN_SMALL, DCGAN_SMALL], ids=["sngan", "dcgan"])
def test_corrections_bring_new_images_nearer(module):
    variables, compressed, z = _generator(module)
    raw = _image_error(module, variables, compressed)
    corrected = correct_biases(module, variables, compressed, z)
    reestimated = reestimate_batch_norms(module, compressed, z)
    assert _image_error(module, variables, corrected) < raw
    assert _image_error(module, variables, reestimated) < 0.95 * raw


@pytest.mark.parametrize("batch_size", [48, 20])
def test_batch_norms_hold_the_statistics_of_their_inputs(batch_size, monkeypatch):
    monkeypatch.setattr(activations, "BATCH", batch_size)
    _, compressed, z = _generator(DCGAN_SMALL)
    after = reestimate_batch_norms(DCGAN_SMALL, compressed, z)
    outputs = _outputs(DCGAN_SMALL, after, z)
    for layer, norm in (("project", "norm_0"), ("up_0", "norm_1")):
        inputs = outputs[layer].reshape(-1, outputs[layer].shape[-1]).astype(np.float64)
        found = after["batch_stats"][norm]
        np.testing.assert_allclose(found["mean"], inputs.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(found["var"], inputs.var(axis=0), rtol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, after["params"], compressed["params"])


def test_quantized_activations_are_part_of_what_is_corrected():
    variables, compressed, z = _generator(SNGAN_SMALL)
    spec = CompressionSpec(bits=3, granularity="per_tensor", scheme="affine")
    ranged = activations.calibrate(SNGAN_SMALL, compressed, z, spec)
    corrected = correct_biases(SNGAN_SMALL, variables, ranged, z)
    wanted, raw, found = (
        _outputs(SNGAN_SMALL, tree, z)["norm"].mean(axis=(0, 1, 2))
        for tree in (variables, ranged, corrected)
    )
    assert np.abs(raw - wanted).max() > 0.01
    np.testing.assert_allclose(found, wanted, atol=1e-5)


class Bare(nn.Module):
    """Nothing to correct."""

    @nn.compact
    def __call__(self, z):
        return nn.Dense(3, use_bias=False)(z)


def test_nothing_to_correct_is_said(caplog):
    z = jnp.ones((4, 5))
    variables = Bare().init(jax.random.key(0), z)
    for corrected in (
        correct_biases(Bare(), variables, variables, z),
        reestimate_batch_norms(Bare(), variables, z),
    ):
        jax.tree.map(np.testing.assert_array_equal, corrected, variables)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "Bare has no layer with a bias to correct.",
        "Bare has no batch norm to correct.",
    ]


def test_broken_layers_are_named():
    variables, compressed, z = _generator(DCGAN_SMALL)
    broken = jax.tree.map(lambda x: x * jnp.inf, compressed)
    with pytest.raises(ValueError, match="norm_0: NaN or Inf"):
        reestimate_batch_norms(DCGAN_SMALL, broken, z)
    with pytest.raises(ValueError, match="NaN or Inf in the layer"):
        correct_biases(DCGAN_SMALL, variables, compressed, z * jnp.nan)
