"""Sampling and embedding on the device give what one after the other give."""

import jax
import numpy as np
import pytest

from lsh_gan import features, generators
from lsh_gan.experiment.step import GeneratedSamples
from lsh_gan.generators import sampling


@pytest.fixture(scope="module")
def parts():
    return generators.load("dcgan"), features.load("efficientnet_lite0", side=32)


@pytest.mark.parametrize("batch_size", [8, 21])
def test_features_are_those_of_the_images(parts, batch_size):
    generator, network = parts
    images, done = [], []
    samples = GeneratedSamples(generator, generator.params, 3, 21, batch_size=batch_size, start=5)
    found = samples.embed(network, keep=21, images=images, progress=done.append)
    drawn = np.concatenate(images)[:21]
    alone = sampling.sample_at(generator, generator.params, jax.random.key(3), np.arange(5, 26))
    np.testing.assert_allclose(drawn.astype(int), alone.astype(int), rtol=0, atol=1)
    expected = np.asarray(features.embed(network, drawn))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * expected.max())
    assert sum(done) == 21


def test_what_is_not_finite_is_named(parts):
    generator, network = parts
    bad = jax.tree.map(lambda x: x, generator.params)
    bad["batch_stats"]["norm_0"]["mean"] = bad["batch_stats"]["norm_0"]["mean"] * np.nan
    with pytest.raises(ValueError, match="dcgan: image 2 holds NaN or Inf"):
        GeneratedSamples(generator, bad, 0, 3, batch_size=4, start=2).embed(network)
