"""The devices: the only module that knows how many there are, and of what kind."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def on_cpu() -> bool:
    """Whether the default backend is a CPU; asked when a program is traced or called."""
    return jax.default_backend() == "cpu"


def mesh(*, local: bool = False) -> Mesh:
    """All devices of all hosts, or of this one, along one axis, 'data'."""
    found = jax.local_devices() if local else jax.devices()
    return Mesh(np.array(found), ("data",), axis_types=(AxisType.Auto,))


def count() -> int:
    """Devices of all hosts."""
    return jax.device_count()


def shard_map(run: Callable, *, in_specs: Any, out_specs: Any) -> Callable:
    """`jax.shard_map` over all devices."""
    return jax.shard_map(run, mesh=mesh(), in_specs=in_specs, out_specs=out_specs, check_vma=False)


def replicate(tree: Any, *, local: bool = False) -> Any:
    """Puts a copy of every array of `tree` on each device, as computations with `split` need it."""
    return jax.device_put(tree, NamedSharding(mesh(local=local), PartitionSpec()))


def split(batch: Any, *, local: bool = False) -> jax.Array:
    """Lays the rows of `batch [n, ...]` over the devices; jitted functions of it run on all.

    Raises:
        ValueError: `n` is not a multiple of the number of devices.
    """
    over = mesh(local=local)
    if len(batch) % over.size:
        raise ValueError(f"batch of {len(batch)} rows on {over.size} devices; expected a multiple")
    return jax.device_put(batch, NamedSharding(over, PartitionSpec("data")))


def pad_rows(array: Any, multiple: int) -> jax.Array:
    """Rows `[n, ...]` and zeros behind, a multiple of `multiple` on each device, laid over them."""
    xp = np if isinstance(array, np.ndarray) else jnp
    missing = -len(array) % (multiple * count())
    return split(xp.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1)))
