"""Feature sets as blocks of rows: arrays are cut up, streams collected, iterators replayed.

Blocks begin at multiples of `block_rows()` whatever the batches of a stream: a row goes through the
same computation, to the last bit, however the set arrives.
"""

import tempfile
import weakref
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lsh_gan.backend import on_cpu
from lsh_gan.metrics.inputs import (
    Array,
    check_finite,
    check_kind,
    check_shape,
    join,
    on_host_if_free,
    parts_of,
    readable_empty,
)

SAMPLE_ROWS = 4096  # rows that a hash is fitted on


def block_rows() -> int:
    """Rows of a block: few enough for a CPU's caches, or enough to occupy an accelerator."""
    return 4096 if on_cpu() else 32768


def batches(features: Any, source: str, *, dim: int | None = None) -> Iterator[Array]:
    """Yields checked blocks `[block_rows(), d]`, the last one shorter, of an array or a stream.

    Raises:
        TypeError: Not arrays, or not floating point.
        ValueError: Wrong rank, a d that differs between batches or from `dim`, or no rows at all.
    """
    size = block_rows()
    check_kind(features, source, dim=dim)
    if hasattr(features, "ndim"):
        features = on_host_if_free(features)
        yield from (features[i : i + size] for i in range(0, features.shape[0], size))
        return
    held, rows, total = [], 0, 0
    for batch in parts_of(features, source, dim):
        start = 0
        while start < batch.shape[0]:
            part = batch[start : start + size - rows]
            held.append(part)
            start, rows, total = (x + part.shape[0] for x in (start, rows, total))
            if rows == size:
                yield join(held)
                held, rows = [], 0
    if held:
        yield join(held)
    if not total:
        raise ValueError(f"{source} has no rows.")


def replayable(features: Any, source: str) -> Any:
    """Returns features that can be iterated again: a one-shot iterator goes to a temporary file."""
    if hasattr(features, "ndim") or not isinstance(features, Iterator):
        return features
    return _Spool(features, source)


class _Spool:
    """The batches of an iterator, kept in a file without a name."""

    def __init__(self, parts: Iterator[Array], source: str):
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the object
        weakref.finalize(self, self._file.close)
        self._count = 0
        for batch in parts_of(parts, source, None):
            np.save(self._file, _on_host(batch), allow_pickle=False)
            self._count += 1

    def __iter__(self) -> Iterator[np.ndarray]:
        self._file.seek(0)
        for _ in range(self._count):
            yield np.load(self._file, allow_pickle=False)


def _on_host(batch: Array) -> np.ndarray:
    batch = np.asarray(batch)
    return batch if batch.dtype in (np.float32, np.float64) else batch.astype(np.float32)


def sample_rows(features: Any, source: str, count: int = SAMPLE_ROWS) -> Array:
    """Rows of a set for fitting: all of a small set, else `count` pseudo-random ones, in order.

    Which rows are taken depends on their index alone, not on how the set arrives.

    Raises:
        ValueError: NaN or Inf among them; the first such row of the whole set is named.
    """
    if hasattr(features, "ndim"):
        check_shape(features, source)
        sample = features = on_host_if_free(features)
        if features.shape[0] > count:
            priority = _priority(np.arange(features.shape[0]))
            sample = _take(features, np.sort(np.argpartition(priority, count)[:count]))
    else:
        sample = _reservoir(features, source, count)
    if not _sum_is_finite(sample):
        row = 0
        for batch in batches(features, source):
            check_finite(batch, source, first_row=row)
            row += batch.shape[0]
    return sample


def _take(features: Array, rows: np.ndarray) -> Array:
    if not isinstance(features, np.ndarray):
        return features[rows]
    room = readable_empty((len(rows), features.shape[1]), features.dtype)
    return np.take(features, rows, axis=0, out=room, mode="clip")  # "raise" would copy twice


def _sum_is_finite(x: Array) -> bool:
    """False if a value is not finite, or perhaps if all are but their sum is not."""
    if x.shape[0] == SAMPLE_ROWS and x.dtype != np.float64:
        return bool(np.isfinite(_sum(x)))  # on all cores
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.asarray(x).astype(np.float32, copy=False).sum()))


@jax.jit
def _sum(x):
    return jnp.sum(x.astype(jnp.float32))


def _reservoir(features: Any, source: str, count: int) -> np.ndarray:
    kept, index, seen = None, np.zeros(0, np.int64), 0
    for batch in batches(features, source):
        rows = _on_host(batch)
        index = np.append(index, np.arange(seen, seen + len(rows)))
        kept = rows if kept is None else np.concatenate([kept, rows])
        seen += len(rows)
        if len(index) > count:
            best = np.sort(np.argpartition(_priority(index), count)[:count])
            kept, index = kept[best], index[best]
    return kept


def _priority(index: np.ndarray) -> np.ndarray:
    """A fixed pseudo-random number for each row index (the finaliser of SplitMix64)."""
    z = (index.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
