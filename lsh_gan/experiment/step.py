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
    **options: Any,
) -> jax.Array:
    """Returns features of the images `start .. start + count - 1` of the sequence of `key`.

    They are float32 `[m, d]`, on every process. Equal to embedding what `sampling.sample` yields,
    up to the rounding of float32 sums: another batch size, number of devices or of processes moves
    a pixel by at most 1 of 255. Options and errors are those of `stream_samples`.
    """
    options["batch_size"] = batch_size
    batches = list(stream_samples(generator, params, network, key, count, **options))
    features = jnp.concatenate(batches or [jnp.zeros((0, network.dim))])
    return devices.gather_rows(features, len(share_of(count, batch_size)))[:count]


def stream_samples(
    generator: Generator,
    params: Any,
    network: FeatureNetwork,
    key: jax.Array,
    count: int,
    *,
    batch_size: int,
    truncation_psi: float = 1.0,
    start: int = 0,
    progress: Callable[[int], Any] = lambda count: None,
    keep: int = 0,
    images: list[np.ndarray] | None = None,
) -> Iterator[jax.Array]:
    """Yields the features of `embed_samples` in batches, those of this process's share.

    Arguments are as of `sampling.sample`; `progress` is called with the number of images done since
    its last call. `images` receives batches, uint8 `[b, h, w, c]`, until they hold `keep` images.

    Raises:
        ValueError: An image or a feature holds NaN or Inf (its number).
        MemoryError: A device has no memory for one image.
    """
    params, variables = (
        devices.replicate(tree, local=True) for tree in (params, network.variables)
    )
    here, share, size = jax.local_device_count(), share_of(count, batch_size), batch_size
    at, end = share.start, min(share.stop, count)
    waiting: deque[tuple[int, Future]] = deque()

    def run(first: int, size: int) -> tuple[jax.Array, ...]:
        numbers = np.arange(start + first, start + first + size).astype(np.uint32)
        index = devices.split(numbers, local=True)
        part = sampling.part_size(generator, size // here)
        drawn, finite = _draw(generator, part, truncation_psi, params, key, index)
        features, embedded = _embed(network, variables, drawn)
        return jax.block_until_ready((features, drawn, finite, embedded))

    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        while at < end or waiting:
            if at < end and len(waiting) < _IN_FLIGHT:
                waiting.append((at, pool.submit(run, at, size)))
                at += size
                continue
            first, future = waiting.popleft()
            try:
                features, drawn, *finite = future.result()
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
                continue
            rest = count - first
            for what, flags in zip(("image", "features of image"), finite, strict=True):
                if (bad := np.flatnonzero(~np.asarray(flags)[:rest])).size:
                    number = start + first + bad[0]
                    raise ValueError(f"{generator.name}: {what} {number} holds NaN or Inf")
            if images is not None and sum(map(len, images)) < keep:
                images.append(np.asarray(drawn))
            progress(min(len(features), rest))
            yield features[:rest]


def share_of(count: int, batch_size: int) -> range:
    """The images of this process: whole steps, as many as each process has; may pass the end."""
    steps = devices.process_share(-(-count // batch_size))
    return range(steps.start * batch_size, steps.stop * batch_size)


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
