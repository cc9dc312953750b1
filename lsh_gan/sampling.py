"""From a key to images: every image is a function of (key, index) alone."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lsh_gan import sharding
from lsh_gan.generators import Generator


def latents(key: jax.Array, start: int, count: int, latent_size: int) -> jax.Array:
    """Draws the latents `start .. start + count - 1` of an endless sequence.

    Latent i comes from `fold_in(key, i)`, so it does not depend on the batch that it is drawn in.

    Returns:
        Float32 `[count, latent_size]`, standard normal.
    """
    keys = jax.vmap(partial(jax.random.fold_in, key))(start + jnp.arange(count))
    return jax.vmap(lambda k: jax.random.normal(k, (latent_size,)))(keys)


def labels(key: jax.Array, start: int, count: int, num_classes: int) -> jax.Array:
    """Draws the classes that go with the latents of `key`, uniformly: int32 `[count]`."""
    keys = jax.vmap(partial(jax.random.fold_in, key))(start + jnp.arange(count))
    # One more fold: the key of index i itself has drawn the latent.
    return jax.vmap(lambda k: jax.random.randint(jax.random.fold_in(k, 0), (), 0, num_classes))(
        keys
    )


def to_uint8(images: jax.Array) -> jax.Array:
    """Maps float images in [-1, 1] to uint8 [0, 255], rounding to nearest; outside is clipped."""
    return jnp.round(jnp.clip(images * 127.5 + 127.5, 0, 255)).astype(jnp.uint8)


@partial(jax.jit, static_argnums=0)
def _images(
    generator: Generator, params: Any, z: jax.Array, classes: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    images = generator(params, z, labels=classes)
    return to_uint8(images), jnp.isfinite(images).all(axis=(1, 2, 3))


def sample(
    generator: Generator, params: Any, key: jax.Array, count: int, *, batch_size: int
) -> Iterator[np.ndarray]:
    """Generates images `0 .. count - 1` of the sequence of `key`, batch by batch.

    Another batch size or number of devices changes a pixel by at most 1 of 255, where the rounding
    of a float32 sum decides.

    Args:
        generator: The generator; a conditional one gets uniformly drawn classes.
        params: Its parameters, or compressed ones of the same shapes.
        key: From `jax.random.key`.
        count: Number of images.
        batch_size: Images at a time, a multiple of the number of devices.

    Yields:
        Uint8 `[<= batch_size, h, w, c]`.

    Raises:
        ValueError: An image holds NaN or Inf; the message gives its index.
    """
    params = sharding.replicate(params)
    for start in range(0, count, batch_size):
        z = sharding.split(latents(key, start, batch_size, generator.latent_size))
        classes = None
        if generator.num_classes:
            classes = sharding.split(labels(key, start, batch_size, generator.num_classes))
        images, finite = _images(generator, params, z, classes)
        finite = np.asarray(finite)[: count - start]
        if not finite.all():
            index = start + int(np.argmin(finite))
            raise ValueError(f"{generator.name}: image {index} holds NaN or Inf")
        yield np.asarray(images[: count - start])
