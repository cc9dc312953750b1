"""A set of samples as counts in hash cells: small, additive, one file."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsh_gan.backend import on_cpu
from lsh_gan.metrics import encoding, hashing
from lsh_gan.metrics.bits import check_min_count, check_rows, choose_digits
from lsh_gan.metrics.checks import check_flags, check_type, check_whole
from lsh_gan.metrics.directory import Directory, joined, look_up
from lsh_gan.metrics.hash_fit import check_spec, draw_hash
from lsh_gan.metrics.hashing import Codes, Hasher, HashSpec
from lsh_gan.metrics.inputs import Array, check_finite, join, readable_empty
from lsh_gan.metrics.streams import batches
from lsh_gan.metrics.votes import check_votes

_FEWEST = 4096  # rows of a part of a sketch that is built in a stream


class Sketch(NamedTuple):
    """Counts of a set in the cells of a hasher.

    Attributes:
        hasher: The hash that made the codes.
        counts: Rows in each cell of each table, int32 `[t, cells]`.
        cells: Cell of every row in every table, int32 `[t, n]`; None in a sketch of counts only,
            which cannot give a voted recall.
        rows: n.
        directory: Where codes stand in the tables; None where codes are addresses.
    """

    hasher: Hasher
    counts: Array
    cells: jax.Array | None
    rows: int
    directory: Directory | None


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
    min_count = check_min_count(min_count)
    check_votes(votes)
    if rows is not None:
        (rows,) = check_whole(rows=rows)
        if rows < 1:
            raise ValueError(f"rows = {rows}; expected at least 1.")
    parts = list(batches(sample, "sample"))
    sample = join([np.asarray(p) for p in parts] if len(parts) > 1 else parts)
    check_finite(sample, "sample")
    check_rows("sample", sample.shape[0], min_count)
    hasher = draw_hash(key, sample, spec, source=source)
    if spec.num_bits == "auto":
        codes = encoding.encode(hasher, sample, "sample")
        doublings = np.log2(rows / sample.shape[0]) if rows else 0.0
        hasher = choose_digits(
            hasher, codes, min_count=min_count, votes=votes, doublings=max(0.0, doublings)
        )
    hashing.check_table_memory(hasher, max(rows or 0, sample.shape[0]))
    return hasher


def build(hasher: Hasher, features: Any, *, keep_codes: bool = True) -> Sketch:
    """Counts a set, batch by batch.

    Args:
        hasher: From `fit_hash`.
        features: `[n, d]`, or an iterable of batches, of which one at a time is held, beside codes.
        keep_codes: Whether to keep every row's cell, which voted recall needs.

    Returns:
        The sketch.

    Raises:
        TypeError: `hasher` is not a fitted hasher, or features are not floating-point arrays.
        ValueError: NaN, Inf, a d other than the hasher's, or tables too large for memory.
    """
    check_hasher(hasher)
    check_flags(keep_codes=keep_codes)
    if keep_codes:
        return from_codes(hasher, encoding.encode_all(hasher, features, "features"))
    whole, waiting, rows = None, [], 0
    for codes in encoding.encoded(hasher, features, "features"):
        waiting.append(codes)
        rows += codes.digits.shape[1]
        # Codes that wait take no more memory than tables, and are few additions of tables.
        if rows >= (_FEWEST if whole is None else min(whole.rows, hasher.table_size(whole.rows))):
            whole, waiting, rows = _added(hasher, whole, waiting), [], 0
    return _added(hasher, whole, waiting) if waiting else whole


def _added(hasher: Hasher, whole: Sketch | None, codes: list[Codes]) -> Sketch:
    part = from_codes(hasher, encoding.joined(codes))._replace(cells=None)
    return part if whole is None else merge(whole, part)


def from_codes(hasher: Hasher, codes: Codes) -> Sketch:
    """The sketch of rows whose full-length codes are at hand."""
    hashing.check_table_memory(hasher, codes.digits.shape[1])
    directory = hashing.directory_of(hasher, codes)
    return from_cells(hasher, hashing.cell_index(hasher, codes, directory), directory)


def from_cells(hasher: Hasher, cells: jax.Array, directory: Directory | None) -> Sketch:
    """The sketch of rows whose cells, int32 `[t, n]`, in a directory of theirs are at hand."""
    rows = cells.shape[1]
    counts = add_counts(empty_counts(hasher.spec.num_tables, hasher.cells(rows)), cells)
    return Sketch(hasher, counts, cells, rows, directory)


def merge(first: Sketch, *others: Sketch) -> Sketch:
    """The sketch of several sets together: counts add, codes follow one another.

    Of parts of which one has no codes, the whole has none.

    Raises:
        TypeError: A part is no sketch.
        ValueError: They were not made by the same hasher, or do not fit in memory together.
    """
    for part in (first, *others):
        check_type("part", part, Sketch, "a Sketch, see build")
        check_same_hasher(first.hasher, part.hasher)
    return functools.reduce(_merge, others, first)


def _merge(a: Sketch, b: Sketch) -> Sketch:
    hasher, rows = a.hasher, a.rows + b.rows
    both = a.cells is not None and b.cells is not None
    if a.directory is None:
        directory, counts = None, a.counts + b.counts
        cells = [a.cells, b.cells]
    else:
        hashing.check_table_memory(hasher, rows)
        directory = joined(a.directory, b.directory, hasher.table_size(rows))
        counts = sum(_counts_in(directory, part) for part in (a, b))
        cells = [cells_in(directory, part) for part in (a, b)] if both else []
    return Sketch(hasher, counts, jnp.concatenate(cells, axis=1) if both else None, rows, directory)


def _counts_in(directory: Directory, sketch: Sketch) -> Array:
    """Counts of a sketch where another directory, which lists all its codes, has them."""
    tables = len(sketch.counts)
    counts = np.asarray(sketch.counts).reshape(tables, -1, sketch.directory.size)
    moved = np.zeros((*counts.shape[:2], directory.size), np.int32)
    addresses = np.asarray(look_up(directory, jnp.asarray(sketch.directory.keys)))
    for of_table, old, at, listed in zip(
        moved, counts, addresses, sketch.directory.listed, strict=True
    ):
        of_table[:, at[:listed]] = old[:, :listed]
    moved = moved.reshape(tables, -1)
    return moved if on_cpu() else jnp.asarray(moved)


def cells_in(directory: Directory | None, sketch: Sketch) -> jax.Array:
    """Cells of the rows of a sketch, int32 `[t, n]`, as another directory has them."""
    if directory is None or directory is sketch.directory:
        return sketch.cells
    return _cells_in(directory, sketch.directory, sketch.cells)


@jax.jit
def _cells_in(directory: Directory, own: Directory, cells: jax.Array) -> jax.Array:
    radius_bin, address = jnp.divmod(cells, own.size)
    keys = jnp.take_along_axis(own.keys, address, axis=1)
    return hashing.listed_cells(radius_bin, directory, keys)


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


def empty_counts(tables: int, cells: int) -> Array:
    """Zeros, int32 `[tables, cells]`; NumPy's on a CPU, which counts there in half the time."""
    if not on_cpu():
        return jnp.zeros((tables, cells), jnp.int32)
    counts = readable_empty((tables, cells), np.int32)
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
