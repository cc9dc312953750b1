"""What a generator takes besides latents: labels and truncation; and what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_generators import TINY, make

from lsh_gan.generators import FAMILIES


def shape(family, n=2, **inputs):
    generator = make(family)
    z = jnp.ones((n, generator.latent_size))
    call = functools.partial(generator, **inputs)
    return jax.eval_shape(call, generator.params, z).shape


def test_every_family_is_covered():
    assert TINY.keys() == FAMILIES.keys()


@pytest.mark.parametrize("family", TINY)
def test_images_are_n_h_w_c(family):
    generator = make(family)
    labels = {"labels": jnp.array([0, 2, 1])} if generator.num_classes else {}
    n, height, width, channels = shape(family, 3, **labels)
    assert (n, channels) == (3, getattr(generator.module, "image_channels", 3))
    assert height == width
    # Without labels a module still gives shapes, which loading a checkpoint relies on.
    z = jax.ShapeDtypeStruct((1, generator.latent_size), jnp.float32)
    image = jax.eval_shape(generator.module.apply, generator.params, z)
    assert image.shape == (1, height, width, channels)


def test_labels():
    with pytest.raises(ValueError, match=r"conditional on 3 classes; pass labels"):
        shape("biggan")
    with pytest.raises(ValueError, match=r"label 1 is 3; expected an integer from 0 to 2"):
        shape("biggan", labels=[0, 3])
    with pytest.raises(ValueError, match=r"label 0 is -1"):
        shape("biggan", labels=jnp.array([-1, 0]))
    with pytest.raises(ValueError, match=r"label 0 is 0.5"):
        shape("biggan", labels=jnp.array([0.5, 0.5]))
    with pytest.raises(ValueError, match=r"labels of shape \(3,\); expected \(2,\) or \(2, 3\)"):
        shape("biggan", labels=jnp.array([0, 1, 2]))
    with pytest.raises(ValueError, match="unconditional; it takes no labels"):
        shape("dcgan", labels=jnp.array([0, 1]))


def test_truncation():
    for psi in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"truncation_psi is .*; expected 0 to 1"):
            shape("stylegan2", truncation_psi=psi)
    with pytest.raises(ValueError, match=r"'dcgan' takes no truncation_psi"):
        shape("dcgan", truncation_psi=0.5)


def test_latents_of_another_size():
    generator = make("dcgan")
    with pytest.raises(ValueError, match=r"latents of shape \(2, 5\); expected \[n, 4\]"):
        generator(generator.params, jnp.ones((2, 5)))


def test_class_weights_mix_classes_and_one_hot_is_the_class():
    generator = make("r3gan")
    z = jnp.ones((2, 4))
    images = jax.jit(lambda labels: generator(generator.params, z, labels=labels))
    classes = jnp.array([2, 1])
    np.testing.assert_array_equal(images(classes), images(jax.nn.one_hot(classes, 3)))
