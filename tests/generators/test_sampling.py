"""An image is a function of (key, index): not of the batch, nor of the number of devices."""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from children import CONTEXT
from tiny_generators import TINY, make
from tiny_network import NETWORK

from lsh_gan import devices, features, generators
from lsh_gan.generators import sampling


@pytest.fixture(scope="module")
def generator():
    return generators.load("dcgan")


def sample(generator, count, batch_size):
    batches = sampling.sample(
        generator, generator.params, jax.random.key(0), count, batch_size=batch_size
    )
    return np.concatenate(list(batches)).astype(int)


@pytest.mark.parametrize("batch_size", [1, 7, 20, 21, 64])
def test_batch_size_does_not_matter(generator, batch_size):
    images = sample(generator, 21, batch_size)
    assert images.shape == (21, 32, 32, 1)
    # Rounding to 255 steps may fall either way where float32 sums differ in their last bit.
    np.testing.assert_allclose(images, sample(generator, 21, 16), rtol=0, atol=1)


def test_a_cpu_computes_large_images_in_small_parts(generator, monkeypatch):
    monkeypatch.setattr(devices, "on_cpu", lambda: True)
    sizes = {32: 32, 64: 8, 256: 4, 512: 1, 1024: 1}  # a layer of 512 pixels can take a gigabyte
    for side, size in sizes.items():
        assert sampling.part_size(dataclasses.replace(generator, resolution=side), 64) == size


def test_latents_are_standard_normal_and_do_not_depend_on_the_start():
    plain = generators.abstract("plain", "dcgan", {"latent_size": 64})
    key = jax.random.key(3)
    z, classes = plain.draw(key, jnp.arange(2_000))
    assert classes is None
    np.testing.assert_array_equal(z[100:110], plain.draw(key, jnp.arange(100, 110))[0])
    # Four standard errors of the mean and of the variance of 128,000 normal draws.
    assert abs(float(z.mean())) < 4 / 128_000**0.5
    assert abs(float(z.var()) - 1) < 4 * (2 / 128_000) ** 0.5


def test_latents_of_biggan_deep_are_truncated_and_scaled():
    """With statistics by truncation, as its authors draw them: psi times a normal cut at 2."""
    options = {"latent_size": 64, "blocks": [[8, True]], "base_channels": 8, "num_classes": 3}
    deep = generators.abstract("deep", "biggan_deep", {**options, "statistics_rows": 51})
    key = jax.random.key(5)
    z, classes = deep.draw(key, jnp.arange(1_000), truncation_psi=0.5)
    assert float(jnp.abs(z).max()) <= 1
    # The variance of a normal cut at ±2 is 0.7737; its fourth moment 1.416 makes the standard error
    # of 64,000 draws 0.0036 (0.0009 after scaling by 0.5 squared); four of them.
    assert abs(float(z.var()) - 0.25 * 0.7737) < 0.0036
    np.testing.assert_array_equal(
        z[10:14], deep.draw(key, jnp.arange(10, 14), truncation_psi=0.5)[0]
    )
    np.testing.assert_array_equal(2 * z, deep.draw(key, jnp.arange(1_000))[0])
    assert set(np.unique(classes)) == {0, 1, 2}
    plain = generators.abstract("plain", "biggan_deep", options)
    assert float(jnp.abs(plain.draw(key, jnp.arange(1_000))[0]).max()) > 2


def test_later_numbers_give_the_later_images(generator):
    key, params = jax.random.key(0), generator.params
    later = sampling.sample_at(generator, params, key, np.arange(8, 12))
    # Rounding to 255 steps may fall either way where float32 sums differ in their last bit.
    np.testing.assert_allclose(later.astype(int), sample(generator, 12, 12)[8:], rtol=0, atol=1)


def test_truncation_reaches_the_generator(generator):
    style, key = make("stylegan2"), jax.random.key(0)

    def images(psi):
        batches = sampling.sample(style, style.params, key, 2, batch_size=2, truncation_psi=psi)
        return next(batches).astype(int)

    # At 0 every image is that of the mean w.
    assert np.abs(images(0.0)[0] - images(0.0)[1]).max() == 0
    assert np.abs(images(1.0)[0] - images(1.0)[1]).max() > 0
    with pytest.raises(ValueError, match="'dcgan' takes no truncation_psi"):
        next(sampling.sample(generator, generator.params, key, 2, batch_size=2, truncation_psi=0.5))


def test_conditional_generators_get_uniform_classes():
    key, conditional = jax.random.key(0), make("sngan")  # of 3 classes
    drawn = np.asarray(conditional.draw(key, jnp.arange(4_000))[1])
    np.testing.assert_array_equal(drawn[50:60], conditional.draw(key, jnp.arange(50, 60))[1])
    # Pearson's statistic of 3 equal classes: below 18.4 but for one draw in 10,000.
    assert ((np.bincount(drawn, minlength=3) - 4_000 / 3) ** 2 / (4_000 / 3)).sum() < 18.4
    batches = sampling.sample(conditional, conditional.params, key, 6, batch_size=4)
    assert np.concatenate(list(batches)).shape == (6, 8, 8, 1)


def test_rounding_to_uint8():
    values = jnp.array([-2.0, -1.0, -0.999, 0.0, 0.999, 1.0, 2.0])
    assert sampling.to_uint8(values).tolist() == [0, 0, 0, 128, 255, 255, 255]


def test_images_of_a_sigmoid_are_black_at_zero():
    """As those of networks that were trained on images in [0, 1]."""
    options = TINY["sequential"]
    module, images = {}, {}
    for last in ("none", "sigmoid"):
        layers = [*options["layers"][:-1], {"kind": last}]
        plain = generators.abstract(last, "sequential", {**options, "layers": layers})
        z = jnp.zeros((1, plain.latent_size))
        made = dataclasses.replace(plain, params=jax.jit(plain.module.init)(jax.random.key(0), z))
        module[last], images[last] = made, sample(made, 5, 5)
    z, _ = module["none"].draw(jax.random.key(0), jnp.arange(5))
    values = jax.jit(module["none"])(module["none"].params, z)
    expected = np.round(255 / (1 + np.exp(-np.asarray(values, float))))
    np.testing.assert_allclose(images["sigmoid"], expected, rtol=0, atol=1)
    assert images["sigmoid"].min() < 120


def test_nan_names_the_image(generator):
    bad = jax.tree.map(lambda x: x, generator.params)
    bad["batch_stats"]["norm_0"]["mean"] = jnp.full_like(
        bad["batch_stats"]["norm_0"]["mean"], jnp.nan
    )
    with pytest.raises(ValueError, match="dcgan: image 0 holds NaN or Inf"):
        list(sampling.sample(generator, bad, jax.random.key(0), 4, batch_size=4))


def sample_and_embed(file, devices=0):
    """Saves samples and their features, and features at the batch size that the backend chooses.

    In a process without a backend, `devices` is the number of devices of its CPU.
    """
    if devices:
        os.environ["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={devices}"
        jax.config.update("jax_platforms", "cpu")
    images = sample(generators.load("dcgan"), 21, 6).astype(np.uint8)
    embedded = [features.embed(NETWORK, images, batch_size=size) for size in (6, None)]
    np.savez(file, count=jax.device_count(), images=images, fixed=embedded[0], chosen=embedded[1])


def test_three_devices_give_what_one_gives(tmp_path):
    """Their number divides neither the images nor the batch size that suits one."""
    child = CONTEXT.Process(target=sample_and_embed, args=(tmp_path / "three.npz", 3))
    child.start()
    sample_and_embed(tmp_path / "one.npz")
    child.join()
    one, three = (np.load(tmp_path / f"{name}.npz") for name in ("one", "three"))
    assert (one["count"], three["count"]) == (1, 3)
    np.testing.assert_allclose(three["images"].astype(int), one["images"], rtol=0, atol=1)
    # Equal images embed within 1e-5 of the largest feature; see `features.embed`.
    same = (one["images"] == three["images"]).all(axis=(1, 2, 3))
    assert same.mean() > 0.5
    for name in ("fixed", "chosen"):
        atol = 1e-5 * one[name].max()
        np.testing.assert_allclose(three[name][same], one["fixed"][same], rtol=0, atol=atol)
