"""Equal rows: a generator that has collapsed draws one image many times."""

import hashlib

import numpy as np

from lsh_gan.metrics.inputs import Array

_MANY = 4096  # pairs after which equal rows are looked for


def first_of_equal(x: Array, rows: np.ndarray | None = None) -> np.ndarray:
    """Where among some rows of x `[n, d]` the first one stands that is equal to each, int64.

    Args:
        x: The set.
        rows: The rows, int; all if None.
    """
    # Of digests: to sort the rows themselves takes two copies of all of them.
    host = np.asarray(x)
    rows = range(len(host)) if rows is None else rows
    digests = [hashlib.blake2b(host[i].tobytes(), digest_size=16).digest() for i in rows]
    _, first, at = np.unique(np.array(digests, "V16"), return_index=True, return_inverse=True)
    return first[at]


def representatives(features: Array, cells: np.ndarray, most: int) -> np.ndarray:
    """A row that stands for each: itself, or an equal one where more than `most` are equal.

    Pairs of equal rows would be the square of their number.

    Args:
        features: The set, `[n, d]`.
        cells: Their cells, as `cells.grouped` takes them.
        most: Rows that stand for themselves, of equal ones in equal cells.

    Returns:
        int64 `[n]`.
    """
    t, n = cells.shape
    standing = np.arange(n)
    weights = np.random.default_rng(0).integers(2**63, size=t)
    _, number, count = np.unique(weights @ cells, return_inverse=True, return_counts=True)
    some = np.flatnonzero(count[number] > most)
    if len(some):
        # Rounding may give equal rows different cells.
        own = first_of_equal(features, some) * n + number[some]
        _, first, own = np.unique(own, return_index=True, return_inverse=True)
        order = np.argsort(own, kind="stable")
        before = np.searchsorted(own[order], own[order])
        extra = order[np.arange(len(some)) - before >= most]
        standing[some[extra]] = some[first[own[extra]]]
    return standing


class DistinctPairs:
    """Pairs of rows of two sets of which each is looked at once, however often its rows occur."""

    def __init__(self, x: Array, y: Array):
        self._sets, self._firsts, self._seen = (x, y), None, 0

    def of(
        self, rows_x: np.ndarray, rows_y: np.ndarray
    ) -> tuple[list[np.ndarray], np.ndarray | slice]:
        """Some pairs that stand for all, and where each is among them.

        Args:
            rows_x: int `[p]`.
            rows_y: int `[p]`.

        Returns:
            The same of distinct pairs, with the first of equal rows for each; and an index from
            them to all pairs.
        """
        pairs = [rows_x, rows_y]
        self._seen += len(rows_x)
        # All rows are read to find equal ones, so that it pays off for as many pairs.
        if self._seen < max(_MANY, *map(len, self._sets)):
            return pairs, slice(None)
        if self._firsts is None:
            self._firsts = [first_of_equal(x) for x in self._sets]
        x, y = (firsts[rows] for firsts, rows in zip(self._firsts, pairs, strict=True))
        number = x * len(self._sets[1]) + y
        _, kept, at = np.unique(number, return_index=True, return_inverse=True)
        return [x[kept], y[kept]], at
