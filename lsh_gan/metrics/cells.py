"""Rows that share a hash cell, packed into dense blocks.

A cell lies in one radius bin, its shell, so that shells are worked on one after another. In a shell
the members of a cell of a table stand together once rows are sorted by cell. Cells are small, so
several go into one block of fixed size, of whose pairs those within a cell count. Cells of all
tables are packed together; a block may span two of them.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

# Queries and candidates of a block, the smallest that a cell fits into: few shapes to compile for.
_SQUARE = (32, 32), (64, 64), (256, 256)
_WIDE = (4, 64), (4, 256)  # where queries are few
_TABLE, _SHELL = 32, 48  # first bits of table and shell in a key; the code stands below


class Grouped(NamedTuple):
    """Some rows of a set by shell, table and cell, or the part of them in one shell.

    Attributes:
        order: Row numbers of the whole set, sorted by key, int32 `[t * rows]`.
        key: Shell, table and code of each group, ascending, int64 `[groups]`.
        start: Where the group starts in `order`, int64 `[groups]`.
        count: Rows in the group, int64 `[groups]`.
        tables: t.
        largest: Rows in the largest group of the set.
    """

    order: np.ndarray
    key: np.ndarray
    start: np.ndarray
    count: np.ndarray
    tables: int
    largest: int

    @property
    def rows(self) -> int:
        """Rows in these groups, each counted once: every table holds them all."""
        return int(self.start[-1] + self.count[-1] - self.start[0]) // self.tables

    @property
    def members(self) -> np.ndarray:
        """These rows, int32 `[rows]`: those of the first table, of one shell."""
        return self.order[self.start[0] : self.start[0] + self.rows]


class CellBlocks(NamedTuple):
    """Blocks of one shape. Rows are numbers in their sets, -1 where a block has no row.

    Attributes:
        queries: int32 `[blocks, q]`.
        query_cells: Cell of each query, numbered through all tables, int32 `[blocks, q]`.
        candidates: int32 `[blocks, s]`.
        candidate_cells: int32 `[blocks, s]`; a pair counts where cells are equal.
        tables: Table of each cell, int64 `[cells]`.
        keys: Key of each cell, int64 `[cells]`.
    """

    queries: np.ndarray
    query_cells: np.ndarray
    candidates: np.ndarray
    candidate_cells: np.ndarray
    tables: np.ndarray
    keys: np.ndarray


class _Side(NamedTuple):
    """Where one side's members of some cells stand: `order[start : start + count]`."""

    order: np.ndarray
    start: np.ndarray
    count: np.ndarray

    def take(self, at: np.ndarray) -> "_Side":
        return _Side(self.order, self.start[at], self.count[at])


def grouped(cells: np.ndarray, rows: np.ndarray | None = None) -> Grouped:
    """Groups rows of every table by cell.

    Within a cell rows stand in a fixed pseudo-random order, so that a cap takes a fair sample.

    Args:
        cells: The cell of each row, int64 `[t, n]`, `shell << 32 | code`.
        rows: Which rows to group, bool `[n]`; all if None.
    """
    shuffled = np.random.default_rng(0).permutation(cells.shape[1]).astype(np.int32)
    if rows is not None:
        shuffled = shuffled[rows[shuffled]]
    t, n = len(cells), len(shuffled)
    order, key = np.empty((t, n), np.int32), np.empty((t, n), np.int64)
    for table, row in enumerate(cells):
        order[table] = shuffled[np.argsort(row[shuffled], kind="stable")]
        key[table] = row[order[table]]
    shell = key >> 32
    key += (shell << _SHELL) - (shell << 32) + (np.arange(t)[:, None] << _TABLE)
    by_shell = np.argsort(shell.astype(np.int16).ravel(), kind="stable")
    order, key = order.ravel()[by_shell], key.ravel()[by_shell]
    start = np.flatnonzero(np.append(True, key[1:] != key[:-1]))
    count = np.diff(np.append(start, len(key)))
    return Grouped(order, key[start], start, count, t, int(count.max()))


def shells(a: Grouped, b: Grouped) -> Iterator[tuple[Grouped, Grouped]]:
    """Cuts two sets into the parts that lie in the same shell, and yields those of both."""
    for shell in np.unique(a.key >> _SHELL).tolist():
        parts = []
        for groups in (a, b):
            ends = np.searchsorted(groups.key, (shell << _SHELL, (shell + 1) << _SHELL))
            cut = slice(*ends)
            key, start, count = groups.key[cut], groups.start[cut], groups.count[cut]
            parts.append(groups._replace(key=key, start=start, count=count))
        if len(parts[1].key):
            yield tuple(parts)


def tables_of(keys: np.ndarray) -> np.ndarray:
    """The table of each cell, int64, from its key."""
    return (keys >> _TABLE) & (2 ** (_SHELL - _TABLE) - 1)


def pair_blocks(
    a: Grouped, b: Grouped, cap: int, *, least: int = 1, width: int = 1
) -> Iterator[CellBlocks]:
    """Blocks that together hold every pair of rows (of a, of b) in a common cell.

    Args:
        a: Groups of the queries.
        b: Groups of the candidates.
        cap: Candidates taken of a cell, at most.
        least: Cells with fewer rows on either side are left out.
        width: Least number of places for candidates in a block.
    """
    i, j = _common(a, b)
    keep = np.maximum(a.count[i], b.count[j]) >= least
    i, j = i[keep], j[keep]
    if not len(i):
        return
    keys = a.key[i]
    queries = _Side(a.order, a.start[i], a.count[i])
    candidates = _Side(b.order, b.start[j], np.minimum(b.count[j], cap))
    left = np.arange(len(i))
    for q, s in _WIDE if 4 * queries.count.sum() <= candidates.count.sum() else _SQUARE:
        s = max(s, 1 << (width - 1).bit_length())
        fits = (queries.count[left] <= q) & (candidates.count[left] <= s)
        at, left = left[fits], left[~fits]
        if len(at):
            sides = queries.take(at), candidates.take(at)
            yield _blocks(*sides, at, _pack(sides[0].count, sides[1].count, q, s), (q, s), keys)
    if len(left):
        yield from _large(queries, candidates, left, (q, s), keys)


def _common(a: Grouped, b: Grouped) -> tuple[np.ndarray, np.ndarray]:
    """Places of the common cells in both, looked up from the side of `a`: O(log) for each."""
    place = np.minimum(np.searchsorted(b.key, a.key), len(b.key) - 1)
    found = b.key[place] == a.key
    return np.flatnonzero(found), place[found]


def _pack(a: np.ndarray, b: np.ndarray, q: int, s: int) -> np.ndarray:
    """Block of each cell: neighbours share one while their counts sum to at most (q, s)."""
    following = []
    for count, size in ((a, q), (b, s)):
        ends = np.cumsum(count)
        # The first cell that does not fit into a block that begins with this one.
        following.append(np.searchsorted(ends, ends - count + size, side="right"))
    following = np.minimum(*following).tolist()
    firsts, cell = [], 0
    while cell < len(following):
        firsts.append(cell)
        cell = following[cell]
    return np.repeat(np.arange(len(firsts)), np.diff([*firsts, len(following)]))


def _large(queries, candidates, at, least: tuple[int, int], keys) -> Iterator[CellBlocks]:
    """Blocks of one cell each; cells with many queries are cut into pieces."""
    q, s = least
    pieces = -(-queries.count[at] // q)
    piece = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    at = np.repeat(at, pieces)
    queries, candidates = queries.take(at), candidates.take(at)
    count = np.minimum(queries.count - piece * q, q)
    queries = _Side(queries.order, queries.start + piece * q, count)
    steps = np.ceil(np.log2(np.maximum(1, candidates.count / s)) / 2).astype(np.int64)
    for step in np.unique(steps):
        here = np.flatnonzero(steps == step)
        sides = queries.take(here), candidates.take(here)
        yield _blocks(*sides, at[here], np.arange(len(here)), (q, s * 4 ** int(step)), keys)


def _blocks(queries: _Side, candidates: _Side, cell, block, shape, keys) -> CellBlocks:
    sides = (
        _fill(side, cell, block, width)
        for side, width in zip((queries, candidates), shape, strict=True)
    )
    (q, q_cells), (s, s_cells) = sides
    return CellBlocks(q, q_cells, s, s_cells, tables_of(keys), keys)


def _fill(side: _Side, cell, block, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and cells of blocks, `[blocks, width]` each, from cells `[c]` in blocks `[c]`."""
    before = np.cumsum(side.count) - side.count
    place = np.arange(side.count.sum())
    first = before[np.flatnonzero(np.append(True, block[1:] != block[:-1]))]
    at = place + np.repeat(block * width - first[block], side.count)
    rows = np.full((block[-1] + 1, width), -1, np.int32)
    cells = np.full_like(rows, -1)
    rows.ravel()[at] = side.order.take(place + np.repeat(side.start - before, side.count))
    cells.ravel()[at] = np.repeat(cell.astype(np.int32), side.count)
    return rows, cells


def batched(blocks: CellBlocks, size: int) -> Iterator[CellBlocks]:
    """Cuts blocks into batches of `size`, the last filled with empty blocks."""
    for first in range(0, len(blocks.queries), size):
        part = [x[first : first + size] for x in blocks[:4]]
        if fill := size - len(part[0]):
            part = [np.pad(x, ((0, fill), (0, 0)), constant_values=-1) for x in part]
        yield CellBlocks(*part, *blocks[4:])


def capped_share(a: Grouped, b: Grouped, cap: int) -> float:
    """Share of the candidates of all queries that the cap leaves out."""
    i, j = _common(a, b)
    everything = np.sum(a.count[i] * b.count[j])
    kept = np.sum(a.count[i] * np.minimum(b.count[j], cap))
    return float(1 - kept / everything) if everything else 0.0
