"""Inputs of generators as endless sequences: element i is a function of (key, i) alone."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

TRUNCATION_BOUND = 2.0  # of BigGAN-deep's latents, in standard deviations


def latents(
    key: jax.Array, start: int, count: int, latent_size: int, *, bound: float | None = None
) -> jax.Array:
    """Draws the latents `start .. start + count - 1` of an endless sequence.

    Latent i comes from `fold_in(key, i)`, so it does not depend on the batch that it is drawn in.

    Args:
        key: From `jax.random.key`.
        start: Number of the first latent.
        count: Number of latents.
        latent_size: Size of a latent.
        bound: Cuts the distribution to [-bound, bound]; None does not.

    Returns:
        Float32 `[count, latent_size]`, standard normal, or truncated normal.
    """
    if bound is None:
        draw = partial(jax.random.normal, shape=(latent_size,))
    else:
        draw = partial(jax.random.truncated_normal, lower=-bound, upper=bound, shape=(latent_size,))
    return draw_each(key, start, count, lambda k: draw(k))


def draw_each(
    key: jax.Array, start: int, count: int, draw: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """Draws elements `start .. start + count - 1` by a function of one key: `[count, ...]`."""
    return jax.vmap(draw)(_keys(key, start, count))


def labels(key: jax.Array, start: int, count: int, num_classes: int) -> jax.Array:
    """Draws the classes that go with the latents of `key`, uniformly: int32 `[count]`."""
    # One more fold: the key of index i itself has drawn the latent.
    return jax.vmap(lambda k: jax.random.randint(jax.random.fold_in(k, 0), (), 0, num_classes))(
        _keys(key, start, count)
    )


def _keys(key: jax.Array, start: int, count: int) -> jax.Array:
    return jax.vmap(partial(jax.random.fold_in, key))(start + jnp.arange(count))
