"""Generated images to features without leaving the device: one compiled step a batch.

    index → latents → images → uint8 → features

Steps are dispatched ahead; what is not finite is looked at once, after the last one. On several
hosts each process takes its share of the steps, and all of them get all features.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P

from lsh_gan import devices
from lsh_gan.features import FeatureNetwork
from lsh_gan.features.network import part_size as network_part
from lsh_gan.generators import Generator, sampling

_AHEAD = 2  # steps that are dispatched before the first of them is waited for


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
    batch size, number of devices or of processes moves a pixel by at most 1 of 255.

    Args:
        generator: The generator; a conditional one gets uniformly drawn classes.
        params: Its parameters, or compressed ones of the same shapes.
        network: Embeds the images.
        key: From `jax.random.key`.
        count: Number of images, m.
        batch_size: Images a step, a multiple of the number of devices of this process.
        truncation_psi: In [0, 1], see `Generator`; 1 is none.
        start: Number of the first image.
        keep: Number of images to return.
        progress: Called with the number of images done since its last call.

    Returns:
        Float32 `[m, d]`, on every process; and the first `keep` images, uint8 `[keep, h, w, c]`, on
        process 0.

    Raises:
        ValueError: An image or a feature holds NaN or Inf (its number).
    """
    params, variables = (
        devices.replicate(tree, local=True) for tree in (params, network.variables)
    )
    part = sampling.part_size(generator, batch_size // jax.local_device_count())
    steps = devices.process_share(-(-count // batch_size))
    found, images = [], []
    for step in steps:
        index = np.arange(start + step * batch_size, start + (step + 1) * batch_size)
        index = devices.split(index.astype(np.uint32), local=True)
        *made, drawn = _step(
            generator, network, part, truncation_psi, params, variables, key, index
        )
        found.append(made)
        if len(images) * batch_size < keep:
            images.append(np.asarray(drawn))
        if len(found) > _AHEAD:
            jax.block_until_ready(found[-_AHEAD - 1][0])
        progress(min(batch_size, max(count - step * batch_size, 0)))
    features, *finite = (
        devices.gather_rows(jnp.concatenate(parts))[:count] for parts in zip(*found, strict=True)
    )
    for what, flags in zip(("image", "features of image"), map(np.asarray, finite), strict=True):
        if not flags.all():
            index = start + int(np.argmin(flags))
            raise ValueError(f"{generator.name}: {what} {index} holds NaN or Inf")
    return features, np.concatenate(images)[:keep] if keep else np.empty(0, np.uint8)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _step(generator, network, part, truncation_psi, params, variables, key, index):
    """Features [b, d] of an index [b], whether images and features are finite [b], the images."""

    def run(params, variables, key, index):
        def images_of(index):
            return sampling.images_of(generator, params, key, index, truncation_psi)

        images, finite = _in_parts(images_of, part, index)
        features = _in_parts(partial(network.apply, variables), network_part(), images)
        return features, finite, jnp.isfinite(features).all(axis=1), images

    specs = {"in_specs": (P(), P(), P(), P("data")), "out_specs": P("data")}
    return devices.share(run, params, variables, key, index, **specs, local=True)


def _in_parts(run: Callable, part: int, rows: jax.Array) -> Any:
    """Applies a function of rows to so many at a time, if they are a multiple of that."""
    if len(rows) <= part or len(rows) % part:
        return run(rows)
    found = lax.map(run, rows.reshape(-1, part, *rows.shape[1:]))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)
