"""A set of samples as counts in hash cells: fixed size, additive, one small file."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsh_gan.backend import on_cpu
from lsh_gan.metrics import hashing
from lsh_gan.metrics.bits import check_votes, choose_digits
from lsh_gan.metrics.checks import check_flags, check_type, check_whole
from lsh_gan.metrics.hash_fit import check_spec, draw_hash
from lsh_gan.metrics.hashing import Codes, Hasher, HashSpec
from lsh_gan.metrics.inputs import Array, check_finite, join, readable_empty
from lsh_gan.metrics.streams import batches


class Sketch(NamedTuple):
    """Counts of a set in the cells of a hasher.

    Attributes:
        hasher: The hash that made the codes.
        counts: Rows in each cell of each table, int32 `[t, cells]`.
        cells: Cell of every row in every table, int32 `[t, n]`; None in a sketch of counts only,
            which cannot give a voted recall.
        rows: n.
    """

    hasher: Hasher
    counts: Array
    cells: jax.Array | None
    rows: int


def fit_hash(
    key: jax.Array,
    sample: Any,
    spec: HashSpec | None = None,
    *,
    rows: int | None = None,
    min_count: int = 1,
    votes: float | None = 0.5,
    source: str = "",
) -> Hasher:
    """Fits a hash on a sample of the reference and freezes it.

    Args:
        key: `jax.random.key`; draws the directions and thresholds.
        sample: Features `[n, d]`, floating point.
        spec: What to fit; `HashSpec()` if None.
        rows: Size of the whole reference if it is larger than the sample; with `num_bits='auto'`
            each doubling adds one bit.
        min_count: Others that a cell must hold, for `num_bits='auto'`.
        votes: How tables are joined, for `num_bits='auto'`; see `lsh_precision_recall`.
        source: Where the features come from: network, preprocessing, version. Sketches of
            different sources do not mix.

    Returns:
        The hasher; `hasher.num_bits` says what 'auto' found.

    Raises:
        TypeError: Features that are not floating-point arrays.
        ValueError: NaN, Inf, wrong shape, too few rows, or tables too large for memory.
    """
    spec = HashSpec() if spec is None else spec
    check_spec(key, spec, source)
    min_count = check_votes(min_count, votes)
    if rows is not None:
        (rows,) = check_whole(rows=rows)
        if rows < 1:
            raise ValueError(f"rows = {rows}; expected at least 1.")
    parts = list(batches(sample, "sample"))
    sample = join([np.asarray(p) for p in parts] if len(parts) > 1 else parts)
    check_finite(sample, "sample")
    if sample.shape[0] < min_count + 2:
        raise ValueError(f"sample has {sample.shape[0]} rows; at least {min_count + 2} are needed.")
    hasher = draw_hash(key, sample, spec, source=source)
    hasher = hasher._replace(rows=max(rows or 0, sample.shape[0]))
    if spec.num_bits == "auto":
        codes = hashing.encode(hasher, sample, "sample")
        doublings = np.log2(rows / sample.shape[0]) if rows else 0.0
        hasher = choose_digits(
            hasher, codes, min_count=min_count, votes=votes, doublings=max(0.0, doublings)
        )
    hashing.check_memory(hasher)
    return hasher


def build(hasher: Hasher, features: Any, *, keep_codes: bool = True) -> Sketch:
    """Counts a set, batch by batch.

    Args:
        hasher: From `fit_hash`.
        features: `[n, d]`, or an iterable of batches, of which one at a time is held.
        keep_codes: Whether to keep every row's cell, which voted recall needs.

    Returns:
        The sketch.

    Raises:
        TypeError: `hasher` is not a fitted hasher, or features are not floating-point arrays.
        ValueError: NaN, Inf, or a d other than the hasher's.
    """
    check_hasher(hasher)
    check_flags(keep_codes=keep_codes)
    counts, cells, rows = empty_counts(hasher), [], 0
    for batch in batches(features, "features", dim=len(hasher.shift)):
        codes = hashing.encode(hasher, batch, "features", rows)
        found = hashing.cell_index(hasher, codes)
        counts = add_counts(counts, found)
        cells.append(found)
        rows += batch.shape[0]
        if not keep_codes:
            cells.clear()
    return Sketch(hasher, counts, jnp.concatenate(cells, axis=1) if keep_codes else None, rows)


def from_codes(hasher: Hasher, codes: Codes) -> Sketch:
    """The sketch of rows whose full-length codes are at hand."""
    return from_cells(hasher, hashing.cell_index(hasher, codes))


def from_cells(hasher: Hasher, cells: jax.Array) -> Sketch:
    """The sketch of rows whose cells, int32 `[t, n]`, are at hand."""
    return Sketch(hasher, add_counts(empty_counts(hasher), cells), cells, cells.shape[1])


def merge(a: Sketch, b: Sketch) -> Sketch:
    """The sketch of two sets together: counts add, codes follow one another.

    Raises:
        ValueError: The two were not made by the same hasher.
    """
    for part in (a, b):
        check_type("part", part, Sketch, "a Sketch, see build")
    check_same_hasher(a.hasher, b.hasher)
    both = a.cells is not None and b.cells is not None
    cells = jnp.concatenate([a.cells, b.cells], axis=1) if both else None
    return Sketch(a.hasher, a.counts + b.counts, cells, a.rows + b.rows)


def check_hasher(hasher: Any) -> None:
    """Raises TypeError unless `hasher` is a fitted one."""
    check_type("hasher", hasher, Hasher, "a Hasher, see fit_hash")


def check_same_hasher(a: Hasher, b: Hasher) -> None:
    """Raises ValueError, saying what differs, unless two hashers are the same."""
    if a is b:
        return
    for field, x, y in zip(Hasher._fields, a, b, strict=True):
        same = np.array_equal(x, y) if isinstance(x, (np.ndarray, jax.Array)) else x == y
        if not same:
            detail = f" ({x!r} and {y!r})" if isinstance(x, (str, float, HashSpec)) else ""
            raise ValueError(f"The sketches come from different hashers: {field} differs{detail}.")


def empty_counts(hasher: Hasher) -> Array:
    """Zeros, int32 `[t, cells]`; NumPy's on a CPU, which counts there in half the time."""
    shape = hasher.spec.num_tables, hasher.cells
    if not on_cpu():
        return jnp.zeros(shape, jnp.int32)
    counts = readable_empty(shape, np.int32)
    counts.fill(0)
    return counts


def add_counts(counts: Array, cells: jax.Array) -> Array:
    """Adds one for every row of `cells` `[t, n]` to `counts` `[t, cells]`, which is used up."""
    if not isinstance(counts, np.ndarray):
        return _add_counts(counts, cells)
    for of_table, found in zip(counts, np.asarray(cells), strict=True):
        np.add.at(of_table, found.astype(np.intp), np.int32(1))  # other types take 30 times as long
    return counts


@functools.partial(jax.jit, donate_argnums=0)
def _add_counts(counts, cells):
    return counts.at[jnp.arange(counts.shape[0])[:, None], cells].add(1)
