"""Sampling and embedding on the device give what one after the other give."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny_network import NETWORK

from lsh_gan import features, generators
from lsh_gan.experiment.step import GeneratedSamples
from lsh_gan.generators import sampling


@pytest.mark.parametrize("batch_size", [8, 64])
def test_features_are_those_of_the_images(batch_size):
    generator, network = generators.load("dcgan"), dataclasses.replace(NETWORK, on_host=True)
    if batch_size == 64:
        network = features.load("efficientnet_lite0", side=32)
    images, done = [], []
    samples = GeneratedSamples(generator, generator.params, 3, 21, batch_size=batch_size, start=5)
    found = samples.embed(network, keep=21, images=images, progress=done.append)
    assert sum(map(len, images)) == 24  # no whole batch of 64
    drawn = np.concatenate(images)[:21]
    alone = sampling.sample_at(generator, generator.params, jax.random.key(3), np.arange(5, 26))
    np.testing.assert_allclose(drawn.astype(int), alone.astype(int), rtol=0, atol=1)
    expected = np.asarray(features.embed(network, drawn))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * expected.max())
    assert sum(done) == 21


def test_what_is_loaded_again_compiles_nothing(compilations):
    counts = []
    for _ in range(2):
        generator, network = generators.load("dcgan"), features.load("efficientnet_lite0", side=32)
        GeneratedSamples(generator, generator.params, 3, 21, 64).embed(network)
        counts.append(len(compilations))
    assert counts[0] == counts[1]


def test_what_is_not_finite_is_named():
    generator = generators.load("dcgan")
    bad = jax.tree.map(lambda x: x, generator.params)
    bad["batch_stats"]["norm_0"]["mean"] = bad["batch_stats"]["norm_0"]["mean"] * np.nan
    with pytest.raises(ValueError, match="dcgan: image 2 holds NaN or Inf"):
        GeneratedSamples(generator, bad, 0, 3, batch_size=4, start=2).embed(NETWORK)
