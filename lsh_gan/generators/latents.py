"""Inputs of generators as endless sequences: element i is a function of (key, i) alone."""

from collections.abc import Callable
from functools import partial

import jax

TRUNCATION_BOUND = 2.0  # of BigGAN-deep's latents, in standard deviations


def latents(
    key: jax.Array, index: jax.Array, latent_size: int, *, bound: float | None = None
) -> jax.Array:
    """Draws latents, float32 `[n, latent_size]`, for `index [n]`, uint32, of an endless sequence.

    Latent i comes from `fold_in(key, i)`, so it does not depend on the batch that it is drawn in.
    It is standard normal; with `bound` it is truncated to [-bound, bound].
    """
    if bound is None:
        draw = partial(jax.random.normal, shape=(latent_size,))
    else:
        draw = partial(jax.random.truncated_normal, lower=-bound, upper=bound, shape=(latent_size,))
    return draw_each(key, index, lambda k: draw(k))


def draw_each(
    key: jax.Array, index: jax.Array, draw: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """Draws the elements of an index by a function of one key: `[n, ...]`."""
    return jax.vmap(lambda i: draw(jax.random.fold_in(key, i)))(index)


def labels(key: jax.Array, index: jax.Array, num_classes: int) -> jax.Array:
    """Draws the classes that go with the latents of `key`, uniformly: int32 `[n]`."""

    def draw(i: jax.Array) -> jax.Array:
        # One more fold: the key of index i itself has drawn the latent.
        own = jax.random.fold_in(jax.random.fold_in(key, i), 0)
        return jax.random.randint(own, (), 0, num_classes)

    return jax.vmap(draw)(index)
