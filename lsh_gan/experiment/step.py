"""Generated images to features without leaving the device, batch by batch.

    index → latents → images → uint8 → features

Steps are dispatched ahead. On several hosts each process takes its share of the steps, and all of
them get all features. A device that is out of memory gets half as many images a step from there on.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import PartitionSpec as P

from lsh_gan import devices
from lsh_gan.features import FeatureNetwork
from lsh_gan.generators import Generator, sampling

# Of what runs long: programs that compile longer, see `reference.keep_programs`, are 4 % faster.
# None for a later JAX, which would refuse an option that it does not know.
OPTIONS = {"xla_cpu_use_fusion_emitters": True} if jax.__version_info__ < (0, 11) else None
_IN_FLIGHT = 3  # steps, each dispatched by a thread of its own: a CPU runs those side by side


def embed_samples(
    generator: Generator,
    params: Any,
    network: FeatureNetwork,
    key: jax.Array,
    count: int,
    *,
    batch_size: int,
    truncation_psi: float = 1.0,
    start: int = 0,
    keep: int = 0,
    progress: Callable[[int], Any] = lambda count: None,
) -> tuple[jax.Array, np.ndarray]:
    """Returns features of the images `start .. start + count - 1` of the sequence of `key`.

    Equal to embedding what `sampling.sample` yields, up to the rounding of float32 sums: another
    batch size, number of devices or of processes moves a pixel by at most 1 of 255. Arguments are
    as there; `progress` is called with the number of images done since its last call.

    Returns:
        Float32 `[m, d]`, on every process; and the first `keep` images, uint8 `[keep, h, w, c]`, on
        process 0.

    Raises:
        ValueError: An image or a feature holds NaN or Inf (its number).
        MemoryError: A device has no memory for one image.
    """
    share = share_of(count, batch_size)
    found, images, held = [], [], 0
    options = (truncation_psi, start, batch_size)
    for at, (*made, drawn) in _steps(generator, params, network, key, share, *options):
        found.append(made)
        if held < keep:
            images.append(np.asarray(drawn))
            held += len(drawn)
        progress(min(len(drawn), max(count - at, 0)))
    features, *finite = (
        devices.gather_rows(jnp.concatenate(parts)[: len(share)], len(share))[:count]
        for parts in zip(*found, strict=True)
    )
    _check(generator, start, finite)
    return features, np.concatenate(images)[:keep] if keep else np.empty(0, np.uint8)


def stream_samples(
    generator: Generator,
    params: Any,
    network: FeatureNetwork,
    key: jax.Array,
    count: int,
    *,
    batch_size: int,
    truncation_psi: float = 1.0,
    progress: Callable[[int], Any] = lambda count: None,
) -> Iterator[jax.Array]:
    """Yields the features of `embed_samples` in batches, those of this process's share.

    Arguments likewise; the share is of so many rows as `share_of` says.
    """
    share, options = share_of(count, batch_size), (truncation_psi, 0, batch_size)
    for at, (features, *finite, _) in _steps(generator, params, network, key, share, *options):
        if at < count:
            _check(generator, at, [flags[: count - at] for flags in finite])
            progress(min(len(features), count - at))
            yield features[: count - at]


def share_of(count: int, batch_size: int) -> range:
    """The images of this process: whole steps, as many as each process has; may pass the end."""
    steps = devices.process_share(-(-count // batch_size))
    return range(steps.start * batch_size, steps.stop * batch_size)


def _check(generator: Generator, first: int, finite: list[jax.Array]) -> None:
    """Raises where an image or its features are not finite."""
    for what, flags in zip(("image", "features of image"), map(np.asarray, finite), strict=True):
        if not flags.all():
            index = first + int(np.argmin(flags))
            raise ValueError(f"{generator.name}: {what} {index} holds NaN or Inf")


def _steps(
    generator: Generator,
    params: Any,
    network: FeatureNetwork,
    key: jax.Array,
    share: range,
    truncation_psi: float,
    start: int,
    size: int,
) -> Iterator[tuple[int, tuple[jax.Array, ...]]]:
    """Yields the number of each step's first image, and what is made of it once it is there.

    That is features `[b, d]`, whether images and features are finite `[b]`, and the images.
    """
    params, variables = (
        devices.replicate(tree, local=True) for tree in (params, network.variables)
    )
    here, at = jax.local_device_count(), share.start
    waiting: deque[tuple[int, Future]] = deque()

    def run(first: int, size: int) -> tuple[jax.Array, ...]:
        numbers = np.arange(start + first, start + first + size).astype(np.uint32)
        index = devices.split(numbers, local=True)
        part = sampling.part_size(generator, size // here)
        images, drawn = _draw(generator, part, truncation_psi, params, key, index)
        features, embedded = _embed(network, variables, images)
        return jax.block_until_ready((features, drawn, embedded, images))

    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        while at < share.stop or waiting:
            if at < share.stop and len(waiting) < _IN_FLIGHT:
                waiting.append((at, pool.submit(run, at, size)))
                at += size
                continue
            first, future = waiting.popleft()
            try:
                made = future.result()
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                if size == here:
                    message = f"{generator.name}: no memory for one image a device"
                    raise MemoryError(message) from error
                waiting.clear()  # all that is not known to be there is made again
                at, size = first, max(size // 2 // here, 1) * here
                logging.warning(
                    "%s: out of memory on the device; on with %d images a step",
                    generator.name, size,
                )  # fmt: skip
            else:
                yield first, made


@partial(jax.jit, static_argnums=(0, 1, 2), compiler_options=OPTIONS)
def _draw(generator, part, truncation_psi, params, key, index):
    """Images [b, h, w, c] of an index [b], and whether they are finite [b]."""

    def run(params, key, index):
        def images_of(index):
            return sampling.images_of(generator, params, key, index, truncation_psi)

        return devices.in_parts(images_of, index, part)

    specs = {"in_specs": (P(), P(), P("data")), "out_specs": P("data")}
    return devices.share(run, params, key, index, **specs, local=True)


@partial(jax.jit, static_argnums=0, compiler_options=OPTIONS)  # one program for all generators
def _embed(network, variables, images):
    """Features [b, d] of images, and whether they are finite [b]."""

    def run(variables, images):
        features = network.apply(variables, images)
        return features, jnp.isfinite(features).all(axis=1)

    specs = {"in_specs": (P(), P("data")), "out_specs": P("data")}
    return devices.share(run, variables, images, **specs, local=True)
