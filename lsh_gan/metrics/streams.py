"""Feature sets as batches: arrays are cut up, iterables pass through, one-shot iterators replay."""

import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from lsh_gan.metrics.inputs import Array, check_shape

BATCH_ROWS = 8192
SAMPLE_ROWS = 4096  # rows that a hash is fitted on


def batches(features: Any, source: str, *, dim: int | None = None) -> Iterator[Array]:
    """Yields checked batches `[*, d]` of an array or of an iterable of arrays.

    Raises:
        TypeError: Not arrays, or not floating point.
        ValueError: Wrong rank, a d that differs between batches or from `dim`, or no rows at all.
    """
    if hasattr(features, "ndim"):
        check_shape(features, source, dim=dim)
        parts: Iterable[Array] = (
            features[i : i + BATCH_ROWS] for i in range(0, features.shape[0], BATCH_ROWS)
        )
    elif isinstance(features, Iterable) and not isinstance(features, (str, bytes)):
        parts = features
    else:
        raise TypeError(
            f"{source} is a {type(features).__name__}; expected a NumPy or JAX array [n, d] or an "
            "iterable of such batches."
        )
    rows = 0
    for index, batch in enumerate(parts):
        name = source if hasattr(features, "ndim") else f"batch {index} of {source}"
        check_shape(batch, name, dim=dim)
        dim = batch.shape[1]
        rows += batch.shape[0]
        if batch.shape[0]:
            yield batch
    if not rows:
        raise ValueError(f"{source} has no rows.")


def replayable(features: Any) -> Any:
    """Returns features that can be iterated again: a one-shot iterator goes to a temporary file."""
    if hasattr(features, "ndim") or not isinstance(features, Iterator):
        return features
    return _Spool(features)


class _Spool:
    """The batches of an iterator, kept in a file without a name."""

    def __init__(self, parts: Iterator[Array]):
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the object
        self._count = 0
        for batch in parts:
            check_shape(batch, f"batch {self._count}")
            batch = np.asarray(batch)
            wide = batch.dtype in (np.float32, np.float64)
            np.save(self._file, batch if wide else batch.astype(np.float32), allow_pickle=False)
            self._count += 1

    def __iter__(self) -> Iterator[np.ndarray]:
        self._file.seek(0)
        for _ in range(self._count):
            yield np.load(self._file, allow_pickle=False)


def sample_rows(features: Any, source: str, count: int = SAMPLE_ROWS) -> Array:
    """Rows of a set for fitting: all of a small set, else `count` pseudo-random ones, in order.

    Which rows are taken depends on their index alone, not on how the set is cut into batches.
    """
    if hasattr(features, "ndim"):
        check_shape(features, source)
        if features.shape[0] <= count:
            return features
        priority = _priority(np.arange(features.shape[0]))
        return features[np.sort(np.argpartition(priority, count)[:count])]
    kept, index = None, np.zeros(0, np.int64)
    seen = 0
    for batch in batches(features, source):
        rows = np.asarray(batch)
        rows = rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float32)
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
