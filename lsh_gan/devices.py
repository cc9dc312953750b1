"""The devices: the only module that knows their number and kind."""

import contextlib
import functools
import json
import os
import re
import socket
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lsh_gan.errors import few

F = TypeVar("F", bound=Callable)
START_SECONDS = 120  # time for all processes to start
_IN_FLIGHT = 3  # steps that are dispatched at once
_LOST_SECONDS = 20  # time without a heartbeat after which a process counts as lost
_REPORT_SECONDS = 24 * 3600  # time for process 0 to write the report, while the others wait
# XLA flags for CPUs: the older compiler of loops takes 3/5 of the time, and gives equal numbers.
_COMPILE_FAST = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=2"
# XLA option for programs that run long: it undoes a flag of `_COMPILE_FAST`. They compile longer,
# and run 4 % faster. None for later versions of JAX, which may refuse the option as unknown.
COMPILE_LONGER = {"xla_cpu_use_fusion_emitters": True} if jax.__version_info__ < (0, 11) else None


def fix_numbers() -> None:
    """Sets the JAX options that results depend on, whatever the environment says."""
    jax.config.update("jax_enable_x64", False)
    jax.config.update("jax_default_prng_impl", "threefry2x32")
    jax.config.update("jax_threefry_partitionable", True)


def usual(function: F) -> F:
    """Makes a function use JAX's default type promotion, NaN checks, transfers and random bits."""

    @functools.wraps(function)
    def run(*given, **options):
        with (
            jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"),
            jax.debug_infs(False), jax.debug_nans(False), jax.threefry_partitionable(True),
            jax.transfer_guard("allow"),
        ):  # fmt: skip
            return function(*given, **options)

    return run  # type: ignore[return-value]


def alone(function: F) -> F:
    """Makes a function ignore a mesh that the session has set, so that it can shard arrays."""

    @functools.wraps(function)
    def run(*given, **options):
        if jax.sharding.get_abstract_mesh().empty:
            return function(*given, **options)
        with jax.set_mesh(Mesh(np.empty((), object), ())):
            return function(*given, **options)

    return usual(run)  # type: ignore[return-value]


def find_devices() -> list[jax.Device]:
    """Returns all devices; raises ValueError if the environment asks for missing ones."""
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:
        said = str(error).partition(chr(10))[0] or "no such device"
        raise ValueError(f"JAX_PLATFORMS = {os.environ.get('JAX_PLATFORMS')!r}: {said}") from error


def is_out_of_memory(error: jax.errors.JaxRuntimeError) -> bool:
    """Whether an error is about too little device memory; on CPUs it is an internal error."""
    return any(x in str(error) for x in ("RESOURCE_EXHAUSTED", "Out of memory"))


def keep_programs(folder: Path) -> None:
    """Caches compiled programs in a folder for later runs, unless JAX has a cache folder."""
    if COMPILE_LONGER:
        os.environ["XLA_FLAGS"] = f"{_COMPILE_FAST} {os.environ.get('XLA_FLAGS', '')}"
    _drop_damaged(folder)
    with contextlib.suppress(OSError):  # without a folder, JAX would warn for every program
        folder.mkdir(parents=True, exist_ok=True)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _drop_damaged(folder: Path) -> None:
    """Deletes cached programs that JAX cannot read: it would neither use nor replace them."""
    show = warnings.showwarning

    def drop(message: Any, *rest: Any, **options: Any) -> None:
        found = re.match(r"Error reading persistent compilation cache .* '(\w+)'", str(message))
        if not found:
            show(message, *rest, **options)
            return
        for file in folder.glob(f"{found[1]}-*"):
            file.unlink(missing_ok=True)
        logging.info("compiled anew: %s; its file in the cache is damaged", found[1])

    warnings.showwarning = drop


def on_cpu() -> bool:
    """Whether the default backend is a CPU, at the time of the call or the trace."""
    return jax.default_backend() == "cpu"


def at_once(cpu: int, accelerator: int) -> int:
    """Returns how much to compute at once: what fits a CPU's caches, or fills an accelerator."""
    return cpu if on_cpu() else accelerator


def mesh(*, local: bool = False) -> Mesh:
    """Makes a mesh of all devices of all hosts, or of this host, with one axis, 'data'."""
    found = jax.local_devices() if local else jax.devices()
    return Mesh(np.array(found), ("data",), axis_types=(AxisType.Auto,))


def count(*, local: bool = False) -> int:
    """Counts the devices of all hosts, or of this host."""
    return jax.local_device_count() if local else jax.device_count()


def share(
    run: Callable,
    *arrays: Any,
    in_specs: Any,
    out_specs: Any,
    join: Callable = lambda x: x,
    local: bool = False,
) -> Any:
    """Runs a function on all devices, each with its part of the arrays.

    `in_specs` and `out_specs` shard arrays and results over the axis 'data', see `jax.shard_map`.
    `join` combines the results of several devices by a collective over 'data'. `local` excludes the
    devices of other hosts.
    """
    over = mesh(local=local)
    if over.size == 1:
        return run(*arrays)
    options = {"in_specs": in_specs, "out_specs": out_specs, "check_vma": False}
    return jax.shard_map(lambda *parts: join(run(*parts)), mesh=over, **options)(*arrays)


def replicate(tree: Any, *, local: bool = False) -> Any:
    """Copies every array of `tree` to each device, for computations with arrays of `split`."""
    return jax.device_put(tree, _layout(mesh(local=local), PartitionSpec()))


def split(batch: Any, *, axis: int = 0, local: bool = False) -> jax.Array:
    """Shards an array along `axis` over the devices, so that jitted functions of it run on all.

    Raises ValueError unless the number of rows is a multiple of the number of devices.
    """
    over = mesh(local=local)
    rows = batch.shape[axis]
    if rows % over.size:
        raise ValueError(f"batch of {rows} rows on {over.size} devices; expected a multiple")
    return jax.device_put(batch, _layout(over, PartitionSpec(*[None] * axis, "data")))


def _layout(over: Mesh, spec: PartitionSpec) -> NamedSharding | None:
    """Returns a sharding; None on one device, where it would only cause more compilations."""
    return NamedSharding(over, spec) if over.size > 1 else None


def pad_rows(
    array: Any, multiple: int = 1, *, axis: int = 0, fill: int = 0, local: bool = False
) -> jax.Array:
    """Pads rows with `fill` to a multiple of `multiple` per device, and shards them."""
    xp = np if isinstance(array, np.ndarray) else jnp
    missing = -array.shape[axis] % (multiple * count(local=local))
    if missing:
        widths = [(0, missing if i == axis else 0) for i in range(array.ndim)]
        array = xp.pad(array, widths, constant_values=fill)
    return split(array, axis=axis, local=local)


def is_free(array: jax.Array) -> bool:
    """Whether programs may shard an array: it is committed to no device, or to all of them.

    An array with explicit mesh axes is not free, because programs would have to follow these axes.
    """
    found, every = array.devices(), set(jax.devices())
    bound = array.committed and found != set(jax.local_devices())
    return not _is_explicit(array) and (found == every or (found <= every and not bound))


def _is_explicit(array: jax.Array) -> bool:
    return AxisType.Explicit in jax.typeof(array).sharding.mesh.axis_types


def gathered(array: jax.Array) -> jax.Array:
    """Copies an array with explicit mesh axes to each device; returns other arrays unchanged.

    Not every operation can follow explicit axes. Undone by `laid_out_as`.
    """
    if not _is_explicit(array):
        return array
    return jax.reshard(array, NamedSharding(jax.typeof(array).sharding.mesh, PartitionSpec()))


def laid_out_as(array: jax.Array, other: jax.Array) -> jax.Array:
    """Lays an array out as another one of the same shape, if that has explicit mesh axes."""
    return jax.reshard(array, jax.typeof(other).sharding) if _is_explicit(other) else array


def largest_divisor(number: int, most: int) -> int:
    """Returns the largest divisor of a number that is at most `most`."""
    return max(n for n in range(1, min(most, number) + 1) if number % n == 0)


def in_parts(run: Callable, rows: jax.Array, most: int) -> Any:
    """Applies a function to equal parts of rows, of at most `most` rows, one after the other."""
    part = largest_divisor(len(rows), most)
    if len(rows) == part:
        return run(rows)
    found = jax.lax.map(run, rows.reshape(-1, part, *rows.shape[1:]))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)


def ahead(run: Callable, items: Iterable) -> Iterator:
    """Yields the results of a function for items, in order, while threads compute the next ones.

    A CPU then runs dispatched steps in parallel, and prepares the next items at the same time.
    """
    waiting: deque[Future] = deque()
    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        for item in items:
            waiting.append(pool.submit(usual(run), item))  # settings belong to a thread
            if len(waiting) > _IN_FLIGHT:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def join_cluster(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Connects this process to the others of a run; each notices when another one ends.

    `coordinator` is HOST:PORT of process 0. Arguments that are None come from the environment of
    the cluster.

    Raises:
        ValueError: There is no such environment, or the arguments do not fit it; the port is in
            use; devices are missing, or processes have different numbers of devices.
        RuntimeError: The other processes do not answer.
    """
    host, _, port = (coordinator or "").rpartition(":")
    if coordinator and not (host and port.isdigit()):
        raise ValueError(f"coordinator {coordinator!r}; expected HOST:PORT")
    if coordinator and process == 0:  # JAX would end with a segmentation fault
        try:
            socket.create_server(("", int(port))).close()
        except (OSError, OverflowError) as error:
            raise ValueError(f"coordinator {coordinator}: {error}; expected a free port") from error
    jax.distributed.initialize(
        coordinator,
        processes,
        process,
        initialization_timeout=2 * START_SECONDS,  # after which JAX aborts
        heartbeat_timeout_seconds=_LOST_SECONDS,
        shutdown_timeout_seconds=_REPORT_SECONDS,
    )
    counts = Counter(device.process_index for device in find_devices())
    if len(set(counts.values())) > 1:
        said = ", ".join(map(str, counts.values()))
        raise ValueError(f"the processes have {said} devices; expected as many in each")
    multihost_utils.sync_global_devices("joined")


def process_share(steps: int) -> range:
    """Returns the steps of this process; all have equally many, so the last may pass the end."""
    each = -(-steps // jax.process_count())
    return range(jax.process_index() * each, (jax.process_index() + 1) * each)


def gather_rows(rows: Any, each: int) -> jax.Array:
    """Joins the rows of all processes, in the order of processes, on each of them.

    Each process has `each` rows. The last ones may have fewer, and are padded with zeros.
    """
    if jax.process_count() == 1:
        return rows
    rows = np.asarray(rows)
    rows = np.pad(rows, [(0, each - len(rows))] + [(0, 0)] * (rows.ndim - 1))
    return jnp.asarray(multihost_utils.process_allgather(rows, tiled=True))


def from_first(value: Any) -> Any:
    """Returns the JSON value of process 0, on every process."""
    if jax.process_count() == 1:
        return value
    text = json.dumps(value).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.frombuffer(text.ljust(size)[:size], np.uint8)
    return json.loads(multihost_utils.broadcast_one_to_all(padded).tobytes())


def check_same(values: dict[str, Any]) -> None:
    """Raises ValueError in all processes unless all have the JSON values of process 0.

    The message of a process with other values has their names.
    """
    plain = json.loads(json.dumps(values))
    own, first = _leaves(plain), _leaves(from_first(plain))
    names = [name for name in own | first if own.get(name) != first.get(name)]
    others = np.flatnonzero(multihost_utils.process_allgather(np.array([bool(names)])))
    if others.size:
        number, fields = (jax.process_index(), f" in {few(names)}") if names else (others[0], "")
        raise ValueError(
            f"process {number} differs from process 0{fields}; expected the same flags, version, "
            "files and checkpoints for all"
        )


def _leaves(tree: dict[str, Any]) -> dict[str, Any]:
    leaves, _ = jax.tree.flatten_with_path(tree, is_leaf=lambda x: not isinstance(x, dict))
    return {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in leaves}


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0
