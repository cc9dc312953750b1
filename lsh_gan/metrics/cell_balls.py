"""Balls around the rows of a set, table by table, and exact tests against them."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from lsh_gan.metrics import cell_kernels, refine
from lsh_gan.metrics.cell_kernels import Bounds, DotProducts, Points, ShellProducts
from lsh_gan.metrics.cells import CellBlocks, Grouped, grouped, pair_blocks, shells, tables_of
from lsh_gan.metrics.distances import slack
from lsh_gan.metrics.duplicates import representatives


class Balls(NamedTuple):
    """A set with its cells and balls. A ball may be the same in all tables: then t is 1.

    Attributes:
        points: The set, as the kernels read it.
        standing: The row that stands for each, int64 `[n]`; see `duplicates.representatives`.
        groups: Those rows by shell, table and cell.
        inner: Lower bounds of the squared radii, scaled, float32 `[t, n]`; -inf for no ball, and
            for rows for which another stands.
        outer: Upper bounds of them.
        covered: Which rows the balls of others cover when they are left out, bool `[t, n]`: see
            `refine.covered_by_others`; here a ball needs k + 1 candidates to outlive the loss. None
            where nobody asked.
    """

    points: Points
    standing: np.ndarray
    groups: Grouped
    inner: np.ndarray
    outer: np.ndarray
    covered: np.ndarray | None


class Rule(NamedTuple):
    """What makes a ball and who is in it.

    Attributes:
        k: Neighbours that define a radius.
        inclusive: Whether a point on the sphere belongs to the ball.
        joint: Whether candidates of all tables define one radius.
        max_cell: Cap on the candidates of a cell.
        memory_mb: Bound of the working memory, in MiB.
    """

    k: int
    inclusive: bool
    joint: bool
    max_cell: int
    memory_mb: int


def find(points: Points, cells: np.ndarray, rule: Rule, *, leave_one_out: bool) -> Balls:
    """Finds the balls of all rows from the rows of their cells, `[t, n]`, see `cells.grouped`.

    With `leave_one_out`, `covered` too.
    """
    n, d = points.features.shape
    # Of equal rows a ball needs itself, k others, and one more when one of them is left out.
    standing = representatives(points.features, cells, rule.k + 2)
    groups = grouped(cells, standing == np.arange(n))
    tables = 1 if rule.joint else groups.tables
    inner, outer = (np.full((tables, n), -np.inf, np.float32) for _ in range(2))
    covered = np.zeros((tables, n), bool) if leave_one_out else None
    members, left_out = _Members(groups, rule), _left_out(groups, n, rule)
    for part, _ in shells(groups, groups):
        rows = part.members
        sq, near, norms = _nearest(points, part, rule)
        if rule.joint:
            sq, near = _merge(sq, near)
        inner[:, rows], outer[:, rows] = refine.bounds(sq[:, :, rule.k - 1], norms, d)
        if leave_one_out:
            following, _ = refine.bounds(sq[:, :, rule.k], norms, d)
            tied = following <= outer[:, rows]
            for table in range(tables):
                some = np.flatnonzero(~left_out[table, rows])
                around = near[table, some], tied[table, some]
                _cover(covered[table], points, members, table, rows[some], *around)
    balls = Balls(points, standing, groups, inner, outer, covered)
    if not leave_one_out:
        return balls
    if left_out.any():
        # They are nobody's candidates: without them no ball changes.
        found = _hits(balls, balls, rule)[0]
        covered |= left_out & (found.any(axis=0) if rule.joint else found)
    return balls._replace(covered=covered[:, standing])


def _left_out(groups: Grouped, n: int, rule: Rule) -> np.ndarray:
    """Which rows the cap on a cell leaves out as candidates, bool `[t, n]`; joint: in all."""
    out = np.zeros((groups.tables, n), bool)
    for group in np.flatnonzero(groups.count > rule.max_cell):
        start = groups.start[group]
        rows = groups.order[start + rule.max_cell : start + groups.count[group]]
        out[tables_of(groups.key[group]), rows] = True
    return out.all(axis=0, keepdims=True) if rule.joint else out


def _cover(
    covered: np.ndarray, points: Points, members: "_Members", table: int, rows: np.ndarray,
    near: np.ndarray, tied: np.ndarray,
) -> None:  # fmt: skip
    """Enters the rows that the balls of a shell's rows keep covered; ties by float64.

    Args:
        covered: Of all rows, bool `[n]`; changed in place.
        points: The set.
        members: Its candidates.
        table: The table.
        rows: Rows of the shell, `[s]`.
        near: Their k + 1 nearest, -1 where there are fewer, `[s, k + 1]`.
        tied: Whether float32 cannot tell the last two of them apart, bool `[s]`.
    """
    lasting, features, rule = near[:, -1] >= 0, points.features, members.rule
    covered[near[lasting & ~tied, :-1].ravel()] = True
    tied = np.flatnonzero(lasting & tied)
    if not rule.inclusive:
        # Balls of radius 0 hold nothing, however many the duplicates.
        owners = np.repeat(rows[tied], near.shape[1])
        sq = refine.exact_sq_distances(features, features, owners, near[tied].ravel())
        tied = tied[sq.reshape(-1, near.shape[1]).any(axis=1)]
    for some, cell in members.of_rows(rows[tied], table):
        for _, sq in refine.sq_distances_to_others(features, some, cell):
            if covered[cell].all():
                break
            within = refine.within_next(sq, rule.k, rule.inclusive)
            covered[cell[within.any(axis=0)]] = True


class _Members:
    """The candidates of single rows."""

    def __init__(self, groups: Grouped, rule: Rule):
        self.rule = rule
        self._groups = groups
        self._rows: np.ndarray | None = None
        self._places: np.ndarray | None = None

    def of_rows(self, rows: np.ndarray, table: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows with the same candidates, and these, from a table, or from all that are joint."""
        if self._places is None:
            order = np.argsort(self._groups.order, kind="stable")
            self._places = order.reshape(-1, self._groups.tables)
            self._rows = self._groups.order[self._places[:, 0]]
        places = self._places[np.searchsorted(self._rows, rows)]
        groups = np.searchsorted(self._groups.start, places, side="right") - 1
        if self.rule.joint:
            yield from ((rows[[i]], self.of_groups(own)) for i, own in enumerate(groups))
            return
        own = groups[tables_of(self._groups.key[groups]) == table]
        for group in np.unique(own):
            yield rows[own == group], self.of_groups(np.array([group]))

    def of_groups(self, groups: np.ndarray) -> np.ndarray:
        """Rows in some cells, as far as the cap lets them in."""
        start, count = (part[groups] for part in (self._groups.start, self._groups.count))
        ends = start + np.minimum(count, self.rule.max_cell)
        parts = [self._groups.order[slice(*ends)] for ends in zip(start, ends, strict=True)]
        return np.unique(np.concatenate(parts))


def _nearest(points: Points, part: Grouped, rule: Rule) -> tuple[np.ndarray, ...]:
    """Squared distances and rows of the k + 1 nearest of a shell's rows, `[t, rows, k + 1]`.

    One more than the radius needs: it says whether a ball outlives the loss of a neighbour. With
    them the squared norms of the rows that have candidates.
    """
    rows, k = part.members, rule.k + 1
    at = np.empty(points.features.shape[0], np.int64)
    at[rows] = np.arange(len(rows))
    sq = np.full((part.tables, len(rows), k), np.inf, np.float32)
    near = np.full(sq.shape, -1, np.int32)
    norms = np.zeros(len(rows), np.float32)
    # A cell of k rows or fewer has no ball of its own.
    least = 2 if rule.joint else rule.k + 1
    blocks = list(pair_blocks(part, part, rule.max_cell, least=least, width=k))
    products = ShellProducts(points, points, part, part, blocks, rule.memory_mb)

    def nearest(part: CellBlocks, found: DotProducts):
        return *cell_kernels.nearest(part, found, k), np.asarray(found.query_sq)

    for of_one_shape in blocks:
        for block, (d2, ids, query_sq) in products.each(nearest, of_one_shape):
            real = block.queries >= 0
            place = block.tables[block.query_cells[real]], at[block.queries[real]]
            sq[place], near[place], norms[place[1]] = d2[real], ids[real], query_sq[real]
    return sq, near, norms


def _merge(sq: np.ndarray, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest over all tables, each row counted once."""
    t, n, k = sq.shape
    sq, near = (x.transpose(1, 0, 2).reshape(n, t * k) for x in (sq, near))
    order = np.argsort(near, axis=1, kind="stable")
    sq, near = (np.take_along_axis(x, order, axis=1) for x in (sq, near))
    sq[:, 1:][near[:, 1:] == near[:, :-1]] = np.inf
    order = np.argsort(sq, axis=1, kind="stable")[:, :k]
    sq, near = (np.take_along_axis(x, order, axis=1) for x in (sq, near))
    return sq[None], np.where(np.isinf(sq), -1, near)[None]


def hits(queries: Balls, candidates: Balls, rule: Rule) -> tuple[np.ndarray, np.ndarray]:
    """Which queries lie in balls of candidates and the reverse, bool `[t, queries]`, `[t, n]`."""
    in_candidates, in_queries = _hits(queries, candidates, rule)
    if max(queries.groups.largest, candidates.groups.largest) > rule.max_cell:
        # The cap has left rows out as candidates; as queries they are all assessed.
        in_queries, _ = _hits(candidates, queries, rule)
    return in_candidates[:, queries.standing], in_queries[:, candidates.standing]


def _hits(queries: Balls, candidates: Balls, rule: Rule) -> tuple[np.ndarray, np.ndarray]:
    sides, tables = (queries, candidates), queries.groups.tables
    share = np.float32(slack(queries.points.features.shape[1]))
    in_candidates, in_queries = (
        np.zeros((tables, side.points.features.shape[0]), bool) for side in sides
    )
    exact = _Exact(queries, candidates, rule)

    def compare(part: CellBlocks, found: DotProducts):
        bounds = Bounds(
            *_gather(queries, part.tables, part.query_cells, part.queries),
            *_gather(candidates, part.tables, part.candidate_cells, part.candidates),
        )
        return cell_kernels.compare(part, found, bounds, share)

    # A cell may hold no ball of one side and still be covered by the other.
    least = 1 if rule.joint else rule.k + 1
    for a, b in shells(queries.groups, candidates.groups):
        blocks = list(pair_blocks(a, b, rule.max_cell, least=least))
        points = (side.points for side in sides)
        products = ShellProducts(*points, a, b, blocks, rule.memory_mb)
        for of_one_shape in blocks:
            for part, (hit_q, hit_s, unsure) in products.each(compare, of_one_shape):
                _enter(in_candidates, hit_q, part.tables, part.query_cells, part.queries)
                _enter(in_queries, hit_s, part.tables, part.candidate_cells, part.candidates)
                if unsure is not None:
                    exact.settle(part, unsure, in_candidates, in_queries)
    return in_candidates, in_queries


def _gather(balls: Balls, tables: np.ndarray, cells: np.ndarray, rows: np.ndarray) -> list:
    """Bounds of the balls of rows of cells; any where there is no row, whose norm is inf."""
    t, n = balls.inner.shape
    at = (np.minimum(tables, t - 1) * n).take(cells) + rows
    return [b.ravel().take(at) for b in (balls.inner, balls.outer)]


def _enter(
    found: np.ndarray, hit: np.ndarray, tables: np.ndarray, cells: np.ndarray, rows: np.ndarray
) -> None:
    """Marks in bool `[t, n]` the rows of cells that are hit, bool `[blocks, q]`."""
    at = np.flatnonzero(hit)
    found[tables[cells.ravel()[at]], rows.ravel()[at]] = True


class _Exact:
    """Decides open comparisons in float64, remembering the exact radii it needed."""

    def __init__(self, queries: Balls, candidates: Balls, rule: Rule):
        self._sides, self._rule = (queries, candidates), rule
        self._members = [_Members(side.groups, rule) for side in self._sides]
        self._radii: tuple[dict, dict] = {}, {}

    def settle(
        self, part: CellBlocks, masks: np.ndarray, in_candidates: np.ndarray, in_queries: np.ndarray
    ) -> None:
        """Enters what is true of the open comparisons of a batch, bool `[2, blocks, q, s]`."""
        for mask, owner, found in zip(masks, (1, 0), (in_candidates, in_queries), strict=True):
            some = np.flatnonzero(mask.any(axis=(1, 2)))
            block, q, s = np.nonzero(mask[some])
            block = some[block]
            cell = part.query_cells[block, q]
            pairs = np.stack([part.queries[block, q], part.candidates[block, s], part.keys[cell]])
            at = part.tables[cell], pairs[1 - owner]
            for chosen in _few_at_first(at[0] * found.shape[1] + at[1]):
                # A sample that is already known to lie in some ball needs no other one.
                chosen = chosen[~found[at[0][chosen], at[1][chosen]]]
                chosen = chosen[self._inside(owner, *pairs[:, chosen])]
                found[at[0][chosen], at[1][chosen]] = True

    def _inside(self, owner: int, *pairs: np.ndarray) -> np.ndarray:
        """Whether pairs (query, candidate, key of their cell) lie in the ball of the owner."""
        *rows, keys = pairs
        features = (side.points.features for side in self._sides)
        sq = refine.exact_sq_distances(*features, *rows)
        table = 0 if self._rule.joint else tables_of(keys)
        side = self._sides[owner]
        bounds = (bound[table, rows[owner]] for bound in (side.inner, side.outer))
        bounds = refine.in_own_units(bounds, side.points.frame.scale)

        def radii(some: np.ndarray) -> np.ndarray:
            return self._sq_radii(owner, keys[some], rows[owner][some])

        return refine.within_balls(sq, bounds, radii, self._rule.inclusive)

    def _sq_radii(self, owner: int, keys: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Squared distances to the k-th nearest candidate of rows of cells (keys), float64."""
        features, k = self._sides[owner].points.features, self._rule.k
        known = self._radii[owner]
        asked = list(zip(keys.tolist(), rows.tolist(), strict=True))
        if self._rule.joint:  # the same in all cells
            asked = [(0, row) for _, row in asked]
        new = np.array(sorted(set(asked) - known.keys()), np.int64).reshape(-1, 2)
        for key in np.unique(new[:, 0]):
            some = new[new[:, 0] == key, 1]
            for owners, members in self._candidates(owner, key, some):
                for of_some, sq in refine.sq_distances_to_others(features, owners, members):
                    radii = np.partition(sq, k - 1, axis=1)[:, k - 1]
                    known.update(zip(((key, row) for row in of_some.tolist()), radii, strict=True))
        return np.array([known[pair] for pair in asked])

    def _candidates(
        self, owner: int, key: int, rows: np.ndarray
    ) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        members = self._members[owner]
        if self._rule.joint:
            return members.of_rows(rows, 0)
        group = np.searchsorted(self._sides[owner].groups.key, [key])
        return ((rows, members.of_groups(group)),)


def _few_at_first(samples: np.ndarray) -> Iterator[np.ndarray]:
    """Places of pairs: one of each sample (its number, `[pairs]`), then 2, 6, 18 more, and so on.

    So that most are not looked at where one of them says yes.
    """
    order = np.argsort(samples, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.searchsorted(samples[order], samples[order])
    first, end = 0, 1
    while (chosen := np.flatnonzero((first <= rank) & (rank < end))).size:
        yield chosen
        first, end = end, 3 * end
