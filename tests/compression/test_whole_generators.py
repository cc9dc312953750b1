"""Generators as a whole: channel axes, activations and corrections in one packed file."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_generators import TINY, make

from lsh_gan import compression, generators
from lsh_gan.compression import (
    CompressionSpec,
    GeneratorSpec,
    Rule,
    activations,
    pack_generator,
    save_packed,
    unpack,
)
from lsh_gan.generators import FAMILIES, Generator, build, layers, sampling, stylegan2, stylegan3
from lsh_gan.generators.generator import trace


def _conv(x, kernel):
    return layers.conv(x, kernel, 1)


X, W = jnp.ones((1, 4, 4, 6)), jnp.ones((1, 5))
LAYERS = [
    (nn.Dense(4), (W,)),
    (nn.DenseGeneral((2, 2, 4)), (W,)),
    (layers.Convolution(4, 3, _conv), (X,)),
    (layers.Convolution(4, 4, layers.conv_transpose_4x4), (X,)),
    (layers.Convolution(4, 3, layers.upsample_conv_3x3), (X,)),
    (nn.Conv(4, (3, 3), padding=1, feature_group_count=2), (X,)),
    (stylegan2.StyledConv(4), (X, W)),
    (stylegan2.StyledConv(4, up=True), (X, W)),
    (stylegan2.ToImage(4, scaled=True), (X, W)),
    (stylegan3.FilteredConv(8, 4, 3, (6, 6), (2, 2), False, None), (X, W)),
    (stylegan3.FourierInput(4, 8, 8.0, 2.0), (W,)),
]


def test_every_layer_with_a_kernel_is_of_a_kind_in_the_list():
    found = set()

    def visit(call, args, kwargs, context):
        if "kernel" in context.module.variables.get("params", {}):
            found.add(type(context.module))
        return call(*args, **kwargs)

    for family in FAMILIES:
        module = build(family, TINY[family])
        z = jax.ShapeDtypeStruct((1, module.latent_size), jnp.float32)
        with nn.intercept_methods(visit):
            jax.eval_shape(module.apply, trace(module)[1], z)
    assert found == {type(layer) for layer, _ in LAYERS}


@pytest.mark.parametrize(("layer", "inputs"), LAYERS)
def test_a_slice_along_the_last_axis_feeds_one_output_channel(layer, inputs):
    variables, apply = jax.jit(layer.init)(jax.random.key(0), *inputs), jax.jit(layer.apply)
    kernel = np.array(variables["params"]["kernel"])
    slices = np.moveaxis(kernel, -1, 0)
    # Not a multiple of what it was: demodulation would undo that.
    slices[1] = np.random.default_rng(0).normal(size=slices[1].shape)
    changed = {**variables["params"], "kernel": jnp.asarray(kernel)}
    before, after = (
        np.asarray(apply({**variables, "params": p}, *inputs))
        for p in (variables["params"], changed)
    )
    moved = np.abs(after - before).reshape(-1, 4).max(axis=0)
    np.testing.assert_array_equal(moved > 0, [False, True, False, False])


def everything(bits=4, activation_bits=8):
    inputs = CompressionSpec(
        bits=activation_bits or None, clipping="none", granularity="per_tensor", scheme="affine"
    )
    return GeneratorSpec(
        weights=CompressionSpec(bits=bits),
        activations=inputs if activation_bits else None,
        correct_biases=True,
        reestimate_batch_norms=True,
    )


def packed_of(generator, spec):
    z, labels = generator.draw(jax.random.key(5), jnp.arange(12))
    return pack_generator(
        generator.module,
        generator.params,
        spec,
        latents=z,
        labels=labels,
        metadata={"family": generator.family, "options": TINY[generator.family]},
    )[0]


def images(generator, params):
    return np.concatenate(
        list(sampling.sample(generator, params, jax.random.key(0), 16, batch_size=8))
    )


@pytest.mark.parametrize("family", ["dcgan", "sngan"])
def test_a_packed_file_holds_everything(family, tmp_path):
    generator = make(family)
    packed = packed_of(generator, everything())
    path = tmp_path / "tiny.packed"
    size = save_packed(path, packed)
    assert size == path.stat().st_size
    params, loaded = unpack(packed), generators.load(path)
    assert activations.COLLECTION in loaded.params
    assert jax.tree.structure(loaded.params) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
    ours = images(generator, params)
    np.testing.assert_array_equal(images(loaded, loaded.params), ours)
    # The ranges are at work: without them the images are others.
    plain = {name: tree for name, tree in params.items() if name != activations.COLLECTION}
    assert (images(generator, plain) != ours).any()


def test_ranges_of_an_earlier_compression_are_left_out(tmp_path):
    generator = make("dcgan")
    save_packed(tmp_path / "a.packed", packed_of(generator, everything(bits=8, activation_bits=2)))
    loaded = generators.load(tmp_path / "a.packed")
    for plain in (GeneratorSpec(weights=CompressionSpec(bits=8)), everything(8, 0)):
        again = unpack(packed_of(loaded, plain))
        assert activations.COLLECTION not in again
    # Biases are corrected towards the weights as they are, not as they run with two bits.
    bare = {n: tree for n, tree in loaded.params.items() if n != activations.COLLECTION}
    expected = unpack(packed_of(dataclasses.replace(loaded, params=bare), everything(8, 0)))
    jax.tree.map(np.testing.assert_array_equal, again, expected)


@pytest.mark.parametrize(
    ("pattern", "correction"),
    [("params/.*/bias", "correct_biases"), ("batch_stats/.*/mean", "reestimate_batch_norms")],
)
def test_what_is_corrected_cannot_be_quantized(pattern, correction):
    rule = Rule(pattern=pattern, bits=8, granularity="per_tensor")
    spec = GeneratorSpec(weights=CompressionSpec(bits=4, rules=(rule,)), **{correction: True})
    with pytest.raises(ValueError, match=rf"8 bits, and {correction} would replace it by"):
        packed_of(make("dcgan"), spec)


def test_corrections_change_what_they_name_and_nothing_else():
    generator = make("dcgan")
    spec = GeneratorSpec(weights=CompressionSpec(bits=2), reestimate_batch_norms=True)
    changed = unpack(packed_of(generator, spec))
    plain, _ = compression.compress(generator.params, CompressionSpec(bits=2))
    jax.tree.map(np.testing.assert_array_equal, changed["params"], plain["params"])
    before = jax.tree.leaves(plain["batch_stats"])
    after = jax.tree.leaves(changed["batch_stats"])
    assert all((a != b).any() for a, b in zip(after, before, strict=True))
    spec = GeneratorSpec(weights=CompressionSpec(bits=2), correct_biases=True)
    changed = unpack(packed_of(generator, spec))
    jax.tree.map(np.testing.assert_array_equal, changed["batch_stats"], plain["batch_stats"])
    flat = {
        jax.tree_util.keystr(keys): (leaf != before).any()
        for (keys, leaf), before in zip(
            jax.tree_util.tree_leaves_with_path(changed["params"]),
            jax.tree.leaves(plain["params"]),
            strict=True,
        )
    }
    assert {keys for keys, moved in flat.items() if moved} == {k for k in flat if "bias" in k}


def test_statistics_by_truncation_keep_all_rows_but_that_of_no_truncation():
    generator = make("biggan_deep")
    z, labels = generator.draw(jax.random.key(5), jnp.arange(12))
    changed = compression.reestimate_batch_norms(
        generator.module, generator.params, z, labels=labels
    )
    before, after = (
        jax.tree.leaves(params["batch_stats"]) for params in (generator.params, changed)
    )
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new[:-1], old[:-1])
        assert (new[-1] != old[-1]).any()


def test_labels_decide_what_calibration_sees():
    generator = make("biggan")
    z, _ = generator.draw(jax.random.key(5), jnp.arange(12))
    spec = CompressionSpec(bits=8, granularity="per_tensor", scheme="affine")
    found = [
        activations.calibrate(
            generator.module, generator.params, z, spec, labels=jnp.full(12, label)
        )[activations.COLLECTION]["to_image"]["input_scale"]
        for label in (1, 2)
    ]
    assert found[0] != found[1]
    with pytest.raises(ValueError, match=r"3 labels for 12 latents"):
        activations.calibrate(generator.module, generator.params, z, spec, labels=jnp.zeros(3))


def test_a_sweep_over_widths_compiles_once(compilations):
    options = {"latent_size": 3, "channels": [5, 4]}  # shapes that no other test has
    module = build("dcgan", options)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.ones((1, 3)))
    generator = Generator("tiny", "dcgan", module, variables, 16, 1, {"options": options})
    z, _ = generator.draw(jax.random.key(5), jnp.arange(8))

    def sweep(widths):
        before = len(compilations), sampling._draw._cache_size()
        for bits in widths:
            for activation_bits in (0, bits):
                spec = everything(bits, activation_bits)
                packed, _ = pack_generator(module, variables, spec, latents=z)
                images(generator, unpack(packed))
        return len(compilations) - before[0], sampling._draw._cache_size() - before[1]

    first, generator_programs = sweep([16])
    assert first > 0
    assert generator_programs == 2  # with and without activation ranges
    assert sweep([1, 2, 8]) == (0, 0)
