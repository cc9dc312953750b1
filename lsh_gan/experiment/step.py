"""Turns generated images into features without leaving the device, batch by batch.

    index → latents → images → uint8 → features

Steps are dispatched ahead. Of several processes each takes its share of the steps, and all get all
features. After a device was out of memory, steps have half as many images.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
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
from lsh_gan.metrics import Share

GROUP = 4096  # rows of features that are hashed at a time if they are not held


def share_of(count: int, batch_size: int) -> range:
    """Returns the images of this process: the same number of whole steps each; may pass the end."""
    steps = devices.process_share(-(-count // batch_size))
    return range(steps.start * batch_size, steps.stop * batch_size)


class Embedded:
    """Images of which each process embeds a share; `batches` yields the features of its share."""

    batch_size: int
    batches: Callable[..., Iterator[jax.Array]]
    __len__: Callable[..., int]

    def embed(self, network: FeatureNetwork, **options: Any) -> jax.Array:
        """Returns features, float32 `[n, d]`, on every process; options as in `batches`."""
        batches = list(self.batches(network, **options)) or [jnp.zeros((0, network.dim))]
        each = len(share_of(len(self), self.batch_size))
        return devices.gather_rows(jnp.concatenate(batches), each)[: len(self)]

    def stream(self, network: FeatureNetwork, **options: Any) -> Share:
        """Returns this process's features, `GROUP` rows or more at a time; options as `batches`."""

        def grouped() -> Iterator[jax.Array]:
            waiting: list[jax.Array] = []
            for batch in self.batches(network, **options):
                waiting.append(batch)
                if sum(map(len, waiting)) >= GROUP:
                    yield jnp.concatenate(waiting)
                    waiting = []
            if waiting:
                yield jnp.concatenate(waiting)

        return Share(grouped(), len(share_of(len(self), self.batch_size)), len(self))


@dataclasses.dataclass(frozen=True, eq=False)
class GeneratedSamples(Embedded):
    """Images `start .. start + count - 1` of a generator and seed, drawn when they are needed.

    They equal those of `sampling.sample` up to the rounding of float32 sums: another batch size,
    number of devices or of processes changes a pixel by at most 1 of 255. The class has the methods
    of `Samples` and can replace it.
    """

    generator: Generator
    params: Any
    seed: int
    count: int
    batch_size: int
    truncation_psi: float = 1.0
    start: int = 0
    features: None = None  # as in `Samples` of images

    @property
    def content_hash(self) -> str:
        """Sha256 (hex) over all that the samples of an uncompressed generator depend on."""
        drawn = [self.seed, self.start, self.count, self.truncation_psi]
        return hashlib.sha256(json.dumps([self.generator.identity, *drawn]).encode()).hexdigest()

    def __len__(self) -> int:
        return self.count

    def at(self, rows: np.ndarray) -> np.ndarray:
        """Returns the images of some rows, uint8 `[b, h, w, c]`."""
        given = (self.generator, self.params, jax.random.key(self.seed), self.start + rows)
        return sampling.sample_at(*given, truncation_psi=self.truncation_psi)

    def batches(
        self,
        network: FeatureNetwork,
        *,
        progress: Callable[[int], Any] = lambda count: None,
        keep: int = 0,
        images: list[np.ndarray] | None = None,
        **unused: Any,
    ) -> Iterator[jax.Array]:
        """Yields the features of this process's images, float32 `[b, d]`.

        `progress` is called with the number of images done since its last call. `images` receives
        batches, uint8 `[b, h, w, c]`, until they hold `keep` images.

        Raises:
            ValueError: An image or a feature holds NaN or Inf (its number).
            MemoryError: A device has no memory for one image.
        """
        params = devices.replicate(self.params, local=True)
        variables = devices.replicate(network.variables, local=True)
        here, key = jax.local_device_count(), jax.random.key(self.seed)
        share = share_of(self.count, self.batch_size)
        at, end = share.start, min(share.stop, self.count)
        eights = -(-(end - at) // (8 * here))  # a multiple of 8 splits into equal parts
        size = min(self.batch_size, eights * 8 * here)

        def run(first: int) -> tuple[jax.Array, ...]:
            numbers = np.arange(self.start + first, self.start + first + size)
            given = (self.generator, self.truncation_psi, params, key, numbers)
            drawn, largest = sampling.draw(*given)
            features, embedded = _embed(network, variables, drawn)
            return jax.block_until_ready((features, drawn, jnp.isfinite(largest), embedded))

        while at < end:
            try:
                for features, drawn, *finite in devices.ahead(run, range(at, end, size)):
                    rest = end - at
                    for what, flags in zip(("image", "features of image"), finite, strict=True):
                        if (bad := np.flatnonzero(~np.asarray(flags)[:rest])).size:
                            number = self.start + at + bad[0]
                            message = f"{self.generator.name}: {what} {number} holds NaN or Inf"
                            raise ValueError(message)
                    if images is not None and sum(map(len, images)) < keep:
                        images.append(np.asarray(drawn))
                    progress(min(len(features), rest))
                    at += size
                    yield features[:rest]
            except jax.errors.JaxRuntimeError as error:
                if not devices.is_out_of_memory(error):
                    raise
                if size == here:
                    message = f"{self.generator.name}: no memory for one image per device"
                    raise MemoryError(message) from error
                size = max(size // 2 // here, 1) * here
                logging.warning(
                    "%s: out of memory on the device; continuing with %d images per step",
                    self.generator.name, size,
                )  # fmt: skip


# A function of its own, so that all generators share one program.
@partial(jax.jit, static_argnums=0, compiler_options=devices.COMPILE_LONGER)
def _embed_in_program(network, variables, images):
    """Computes features [b, d] of images, and whether they are finite [b]."""

    def run(variables, images):
        features = network.apply(variables, images)
        return features, jnp.isfinite(features).all(axis=1)

    specs = {"in_specs": (P(), P("data")), "out_specs": P("data")}
    return devices.share(run, variables, images, **specs, local=True)


def _embed(network, variables, images):
    if not network.on_host:
        return _embed_in_program(network, variables, images)
    features = network.apply(variables, images)
    return features, jnp.isfinite(features).all(axis=1)
