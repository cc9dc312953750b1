"""Samples images from a key: every image is a function of (key, index) alone."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from lsh_gan import devices
from lsh_gan.generators import Generator

_CPU_PIXELS = 2**15  # pixels per part of a batch: 2 MiB in a layer of 16 channels fit the caches
_CPU_IMAGES = 4  # images per part at least, so that weights are not read again for every image
_CPU_MOST = 2**18  # pixels per part at most, but for one image: layers of 512 pixels take gigabytes


def to_uint8(images: jax.Array) -> jax.Array:
    """Maps float images in [-1, 1] to uint8 [0, 255]: rounds to nearest, clips values outside."""
    return jnp.round(jnp.clip(images * 127.5 + 127.5, 0, 255)).astype(jnp.uint8)


def images_of(
    generator: Generator, params: Any, key: jax.Array, index: jax.Array, truncation_psi: float
) -> tuple[jax.Array, jax.Array]:
    """Returns images of indices `[n]`: uint8 `[n, h, w, c]`, and the largest |value| of each.

    The largest value is that of the network's output, and NaN or infinite if any value is.
    """
    z, classes = generator.draw(key, index, truncation_psi=truncation_psi)
    images = generator(params, z, labels=classes, truncation_psi=truncation_psi)
    pixels = to_uint8(2 * images - 1 if generator.black == 0 else images)
    return pixels, jnp.abs(images).max(axis=(1, 2, 3))


_images_at = jax.jit(images_of, static_argnums=(0, 4))


def images_at(generator: Generator, *given: Any) -> tuple[jax.Array, jax.Array]:
    """Computes `images_of` by one program, unless the generator runs on the host."""
    return (images_of if generator.on_host else _images_at)(generator, *given)


@partial(jax.jit, static_argnums=(0, 1), compiler_options=devices.COMPILE_LONGER)
def _draw(generator, truncation_psi, params, key, index):
    def run(params, key, index):
        return images_of(generator, params, key, index, truncation_psi)

    specs = {"in_specs": (P(), P(), P("data")), "out_specs": P("data")}
    return devices.share(run, params, key, index, **specs, local=True)


def draw(
    generator: Generator, truncation_psi: float, params: Any, key: jax.Array, numbers: np.ndarray
) -> tuple[jax.Array, jax.Array]:
    """Computes images on all devices of this host, each of which has the parameters.

    `numbers`, int `[n]`, are the indices of the images; n is a multiple of the number of devices.
    Returns uint8 images `[n, h, w, c]` and largest values, float32 `[n]`, as `images_of`.

    On a CPU there is a call for each part of the batch that fits its caches. A loop within the
    program would be slow for functions with channels first: XLA lays out the axes of a convolution
    anew, but not in loops.
    """
    here = jax.local_device_count()
    size = here * part_size(generator, len(numbers) // here)
    parts = numbers.astype(np.uint32).reshape(-1, size)
    if generator.on_host:
        given = generator, params, key
        drawn = [images_of(*given, jnp.asarray(part), truncation_psi) for part in parts]
    else:
        split = partial(devices.split, local=True)
        drawn = [_draw(generator, truncation_psi, params, key, split(part)) for part in parts]
    return drawn[0] if len(drawn) == 1 else jax.tree.map(lambda *x: jnp.concatenate(x), *drawn)


def part_size(generator: Generator, each: int) -> int:
    """Returns how many images of `each` a device computes at once.

    On a CPU that is what fits its caches, or more if another library computes them (`on_host`).
    """
    pixels, of_part = generator.resolution**2, _CPU_MOST if generator.on_host else _CPU_PIXELS
    fit = max(of_part // pixels, min(_CPU_IMAGES, _CPU_MOST // pixels), 1)
    return devices.largest_divisor(each, devices.at_once(fit, each))


def sample(
    generator: Generator,
    params: Any,
    key: jax.Array,
    count: int,
    *,
    batch_size: int,
    truncation_psi: float = 1.0,
) -> Iterator[np.ndarray]:
    """Generates the first `count` images of the sequence of `key`, batch by batch.

    A conditional generator gets uniformly drawn classes. `params` are its own, or compressed ones.
    `batch_size` is a multiple of the number of devices. Another batch size or other devices change
    a pixel by at most 1 of 255, because float32 sums round differently.

    Yields uint8 `[<= batch_size, h, w, c]`. Raises ValueError for an image with NaN or Inf.
    """
    params = devices.replicate(params, local=True)
    for first in range(0, count, batch_size):
        numbers = np.arange(first, first + batch_size)
        drawn = draw(generator, truncation_psi, params, key, numbers)
        images, largest = (np.asarray(x)[: count - first] for x in drawn)
        if not np.isfinite(largest).all():
            bad = first + int(np.argmin(np.isfinite(largest)))
            raise ValueError(f"{generator.name}: image {bad} holds NaN or Inf")
        yield images


def sample_at(
    generator: Generator,
    params: Any,
    key: jax.Array,
    indices: np.ndarray,
    *,
    truncation_psi: float = 1.0,
) -> np.ndarray:
    """Generates images of `sample` by `indices [b]`, uint8 `[b, h, w, c]`; equal up to 1 of 255."""
    index = np.asarray(indices, np.uint32)
    parts = index.reshape(-1, part_size(generator, len(index)))
    return np.concatenate(
        [images_at(generator, params, key, part, truncation_psi)[0] for part in parts]
    )
