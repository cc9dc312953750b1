"""The devices: the only module that knows how many there are."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def mesh() -> Mesh:
    """All local devices along one axis, 'data'."""
    return Mesh(np.array(jax.local_devices()), ("data",), axis_types=(AxisType.Auto,))


def replicate(tree: Any) -> Any:
    """Puts a copy of every array of `tree` on each device, as computations with `split` need it."""
    return jax.device_put(tree, NamedSharding(mesh(), PartitionSpec()))


def split(batch: jax.Array) -> jax.Array:
    """Lays the rows of `batch [n, ...]` over the devices; jitted functions of it run on all.

    Raises:
        ValueError: `n` is not a multiple of the number of devices.
    """
    devices = jax.local_device_count()
    if len(batch) % devices:
        raise ValueError(f"batch of {len(batch)} rows on {devices} devices; expected a multiple")
    return jax.device_put(batch, NamedSharding(mesh(), PartitionSpec("data")))
