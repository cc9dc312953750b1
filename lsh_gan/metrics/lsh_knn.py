"""Precision and recall from k-nearest-neighbour balls among hash candidates: O(log n) a sample.

Only points that share a cell are compared, so that a radius and the test against it cost as many
distances as cells hold points: O(log n), with b chosen for it. A point whose cell holds fewer than
k others has no ball there and covers nothing, which keeps lone outliers from growing huge balls.

`votes=None` (the definition of arXiv:2103.11912 as we read its abstract): candidates are the points
that share a cell in at least one table; the radius is that of the k-th nearest candidate.
`votes=v` (ours): each table has balls of its own, from the points of the cell alone, and says yes
when x lies in one of them; x is on the manifold when at least the share v of tables say yes.

One table of one cell is exact KNN, either way. Memberships are exact in the sense of `knn`:
comparisons that float32 cannot decide are decided in float64.

Cells are uneven; `max_cell` caps the candidates of a cell, and `capped` says what was cut off.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from lsh_gan.metrics import cells as kernels
from lsh_gan.metrics import hashing, lsh, refine
from lsh_gan.metrics.bits import choose_digits
from lsh_gan.metrics.cells import Bounds, Grouped
from lsh_gan.metrics.distances import _TINY, Frame, slack, to_blocks
from lsh_gan.metrics.hashing import Hasher, HashSpec
from lsh_gan.metrics.inputs import Array, as_features
from lsh_gan.metrics.types import PrecisionRecall

# `num_bits='auto'`: other rows that the cells of a recognised row hold, over log2(n).
CELL_ROWS_PER_LOG2 = 1 / 3


class LshKnnSet(NamedTuple):
    """A set with its cells and balls.

    Attributes:
        features: As given, `[n, d]`.
        points: Shifted and scaled, float32 `[n, d]`.
        sq_norms: float32 `[n]`.
        groups: Rows by table and cell.
        sq_radii: Squared radii, scaled, float32 `[t, n]` (votes) or `[1, n]`; inf for no ball.
        neighbours: The k + 1 nearest candidates, int32 `[t, n, k + 1]` or `[1, n, k + 1]`, -1 for
            none.
    """

    features: Array
    points: jax.Array
    sq_norms: jax.Array
    groups: Grouped
    sq_radii: np.ndarray
    neighbours: np.ndarray


class LshKnnReference(NamedTuple):
    """Everything that the score of a generated set needs of the reference.

    Attributes:
        hasher: The hash.
        frame: Shift and scale of distances.
        points: The reference with its cells and balls.
        k: Neighbours.
        votes: Share of tables that must say yes, or None for candidates of any table.
        inclusive: Whether a point on the sphere belongs to the ball.
        max_cell: Cap on the candidates of a cell.
        ceiling: (precision, recall) of the reference distribution, or None.
    """

    hasher: Hasher
    frame: Frame
    points: LshKnnSet
    k: int
    votes: float | None
    inclusive: bool
    max_cell: int
    ceiling: tuple[float, float] | None


def lsh_knn_precision_recall(
    key: jax.Array,
    reference: Any,
    generated: Any,
    *,
    spec: HashSpec | None = None,
    k: int = 3,
    votes: float | None = 0.5,
    inclusive: bool = True,
    membership: bool = False,
    ceiling: bool = True,
    second_reference: Any = None,
    max_cell: int = 8192,
) -> PrecisionRecall:
    """Scores `generated` against `reference` with balls among hash candidates.

    Args:
        key: `jax.random.key`; draws the hash.
        reference: Features `[n, d]`, NumPy or JAX, floating point, or an iterable of batches, which
            is concatenated: distances need the features.
        generated: Features `[m, d]`, likewise.
        spec: Kind of hash; `HashSpec()` if None. Here 'auto' bits give cells of O(log n) rows.
        k: Neighbours that define a radius.
        votes: Share of tables that must say yes, in (0, 1]; None for candidates of any table.
        inclusive: Ball membership by `<=`; False for `<`.
        membership: Whether to return the membership of every sample, bool.
        ceiling: Whether to score the reference against itself too.
        second_reference: A second sample of the reference distribution; gives the ceiling instead.
        max_cell: Cap on the candidates of a cell.

    Returns:
        The scores; see `PrecisionRecall`.

    Raises:
        TypeError: Features that are not floating-point arrays.
        ValueError: NaN, Inf, wrong shape, or fewer than k + 2 rows.
    """
    fitted = lsh_knn_fit(
        key, reference, spec=spec, k=k, votes=votes, inclusive=inclusive, ceiling=ceiling,
        second_reference=second_reference, max_cell=max_cell,
    )  # fmt: skip
    return lsh_knn_score(fitted, generated, membership=membership)


def lsh_knn_fit(
    key: jax.Array,
    reference: Any,
    *,
    spec: HashSpec | None = None,
    k: int = 3,
    votes: float | None = 0.5,
    inclusive: bool = True,
    ceiling: bool = True,
    second_reference: Any = None,
    max_cell: int = 8192,
    source: str = "",
) -> LshKnnReference:
    """Computes what depends on the reference alone; arguments as `lsh_knn_precision_recall`."""
    spec = HashSpec() if spec is None else spec
    lsh.check_votes(1, votes)
    if k < 1 or max_cell <= k:
        raise ValueError(f"k = {k}, max_cell = {max_cell}; expected 1 <= k < max_cell.")
    reference = as_features(reference, "reference", min_rows=k + 2)
    sample = lsh.sample_rows(reference, "reference")
    hasher = hashing.draw_hash(key, sample, spec, source=source)
    codes = lsh.encode_all(hasher, reference, "reference")
    if spec.num_bits == "auto":
        others = max(k + 1, round(CELL_ROWS_PER_LOG2 * np.log2(reference.shape[0])))
        hasher = choose_digits(hasher, codes, min_count=others, votes=votes or 0.5)
    frame = Frame(hasher.shift, hasher.scale)
    empty = LshKnnReference(hasher, frame, None, k, votes, inclusive, max_cell, None)
    fitted = empty._replace(points=_points(empty, reference, codes, "reference"))
    if not ceiling:
        return fitted
    if second_reference is not None:
        scores = lsh_knn_score(fitted, second_reference)
        return fitted._replace(ceiling=(scores.precision, scores.recall))
    alone = _among_themselves(fitted.points, votes)
    return fitted._replace(ceiling=(alone, alone))


def _points(fitted: LshKnnReference, features: Array, codes: Any, source: str) -> LshKnnSet:
    n = features.shape[0]
    blocks = to_blocks(features, fitted.frame, n, source)
    groups = kernels.grouped(hashing.cell_keys(fitted.hasher, codes))
    points, sq_norms = blocks.features[0], blocks.sq_norms[0]
    # One more than the radius needs: it says whether a ball outlives the loss of a neighbour.
    t, k = fitted.hasher.spec.num_tables, fitted.k + 1
    sq = np.full((t, n, k), np.inf, np.float32)
    rows = np.full((t, n, k), -1, np.int32)
    for blocks in kernels.pair_blocks(groups, groups, fitted.max_cell, least=2):
        for part in kernels.batched(blocks, points.shape[1]):
            found = kernels.nearest_in_blocks(points, sq_norms, part.queries, part.candidates, k=k)
            at, column = np.nonzero(part.queries >= 0)
            place = part.table[at], part.queries[at, column]
            sq[place], rows[place] = (np.asarray(f)[at, column] for f in found)
    if fitted.votes is None:
        sq, rows = _merge(sq, rows, k)
    return LshKnnSet(features, points, sq_norms, groups, sq[:, :, -2], rows)


def _merge(sq: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest over all tables, each row counted once."""
    t, n, _ = sq.shape
    sq = sq.transpose(1, 0, 2).reshape(n, t * k)
    rows = rows.transpose(1, 0, 2).reshape(n, t * k)
    order = np.argsort(rows, axis=1, kind="stable")
    sq, rows = (np.take_along_axis(x, order, axis=1) for x in (sq, rows))
    sq[:, 1:][rows[:, 1:] == rows[:, :-1]] = np.inf
    order = np.argsort(sq, axis=1, kind="stable")[:, :k]
    sq, rows = (np.take_along_axis(x, order, axis=1) for x in (sq, rows))
    return sq[None], np.where(np.isinf(sq), -1, rows)[None]


def _among_themselves(points: LshKnnSet, votes: float | None) -> float:
    """Share of rows that stay covered when they are left out: the neighbours of some other row."""
    t, n, _ = points.neighbours.shape
    covered = np.zeros((t, n), bool)
    for table, near in enumerate(points.neighbours):
        near = near[near[:, -1] >= 0, :-1]
        covered[table, near.ravel()] = True
    return float(_join(covered, votes).mean())


def _join(yes: np.ndarray, votes: float | None) -> np.ndarray:
    """Joins bool `[t, n]` over tables."""
    if votes is None:
        return yes.any(axis=0)
    return yes.sum(axis=0) >= np.ceil(votes * len(yes) - 1e-9)


def lsh_knn_score(
    fitted: LshKnnReference, generated: Any, *, membership: bool = False
) -> PrecisionRecall:
    """Scores `generated` `[m, d]` against a fitted reference; see `lsh_knn_precision_recall`."""
    reference, hasher = fitted.points, fitted.hasher
    d = reference.features.shape[1]
    generated = as_features(generated, "generated", min_rows=fitted.k + 2, dim=d)
    codes = lsh.encode_all(hasher, generated, "generated")
    points = _points(fitted, generated, codes, "generated")
    in_reference, in_generated = _compare(fitted, points)
    precise, recalled = _join(in_reference, fitted.votes), _join(in_generated, fitted.votes)
    ceiling = fitted.ceiling or (None, None)
    cut = [
        kernels.capped_share(a.groups, b.groups, fitted.max_cell)
        for a, b in ((reference, reference), (points, reference), (reference, points))
    ]
    return PrecisionRecall(
        precision=float(precise.mean()),
        recall=float(recalled.mean()),
        precision_stderr=_stderr(in_reference, precise, fitted.votes),
        recall_stderr=_stderr(in_generated, recalled, fitted.votes),
        precision_ceiling=ceiling[0],
        recall_ceiling=ceiling[1],
        precision_membership=precise if membership else None,
        recall_membership=recalled if membership else None,
        k=fitted.k,
        n=len(recalled),
        m=len(precise),
        family=hasher.spec.family,
        num_bits=hasher.num_bits,
        radius_bins=hasher.spec.radius_bins,
        num_tables=hasher.spec.num_tables,
        capped=max(cut),
    )


def _stderr(yes: np.ndarray, joined: np.ndarray, votes: float | None) -> float:
    if votes is None:
        return float(joined.std() / np.sqrt(len(joined)))
    groups = np.stack([yes[i :: lsh._GROUPS].sum(axis=0) for i in range(lsh._GROUPS)])
    return lsh.join(groups, len(yes), votes).stderr


def _compare(fitted: LshKnnReference, points: LshKnnSet) -> tuple[np.ndarray, np.ndarray]:
    """Which g lie in balls of R and which r in balls of G, bool `[t, m]` and `[t, n]`."""
    in_r, in_g = _compare_once(fitted, points)
    if fitted.points.groups.count.max() > fitted.max_cell:
        # The cap has left rows of R out as candidates; as queries they are all assessed.
        in_g, _ = _compare_once(fitted._replace(points=points), fitted.points)
    return in_r, in_g


def _compare_once(fitted: LshKnnReference, points: LshKnnSet) -> tuple[np.ndarray, np.ndarray]:
    reference, t = fitted.points, fitted.hasher.spec.num_tables
    d = points.points.shape[1]
    share = np.float32(slack(d))
    g_balls, r_balls = _bounds(points, share, t), _bounds(reference, share, t)
    in_r = np.zeros((t, points.groups.rows), bool)
    in_g = np.zeros((t, reference.groups.rows), bool)
    exact = _Exact(fitted, points)
    # A cell of R may hold no ball and still be covered by balls of G: all common cells count.
    for blocks in kernels.pair_blocks(points.groups, reference.groups, fitted.max_cell):
        for part in kernels.batched(blocks, d):
            arguments = (
                points.points, points.sq_norms, part.queries,
                reference.points, reference.sq_norms, part.candidates,
                Bounds(*_gather(g_balls, part.table, part.queries),
                       *_gather(r_balls, part.table, part.candidates)), share,
            )  # fmt: skip
            hit_g, hit_r, unsure = kernels.compare_blocks(*arguments, masks=False)
            _enter(in_r, part.table, part.queries, np.asarray(hit_g))
            _enter(in_g, part.table, part.candidates, np.asarray(hit_r))
            if int(unsure):
                masks = np.asarray(kernels.compare_blocks(*arguments, masks=True)[2])
                exact.settle(part, masks, in_r, in_g)
    return in_r, in_g


def _bounds(points: LshKnnSet, share: np.float32, t: int) -> tuple[np.ndarray, np.ndarray]:
    norms = np.asarray(points.sq_norms)
    radii = points.sq_radii
    finite = np.isfinite(radii)
    safe = np.where(finite, radii, 0)
    error = share * (norms + (np.sqrt(norms) + np.sqrt(safe)) ** 2) + _TINY
    inner, outer = (np.where(finite, b, -np.inf) for b in (safe - error, safe + error))
    return tuple(np.broadcast_to(b.astype(np.float32), (t, len(norms))) for b in (inner, outer))


def _gather(balls: tuple, table: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
    found = (ball[table[:, None], np.maximum(rows, 0)] for ball in balls)
    return [np.where(rows < 0, -np.inf, ball).astype(np.float32) for ball in found]


def _enter(hits: np.ndarray, table: np.ndarray, rows: np.ndarray, found: np.ndarray) -> None:
    at, column = np.nonzero(found & (rows >= 0))
    hits[table[at], rows[at, column]] = True


class _Exact:
    """Decides open comparisons in float64, remembering the exact radii it needed."""

    def __init__(self, fitted: LshKnnReference, points: LshKnnSet):
        self._fitted, self._points = fitted, points
        self._known: dict = {}

    def settle(self, part: Any, masks: np.ndarray, in_r: np.ndarray, in_g: np.ndarray) -> None:
        reference, points = self._fitted.points, self._points
        for mask, owner_is_r in zip(masks, (True, False), strict=True):
            block, q, s = np.nonzero(mask)
            table, g, r = part.table[block], part.queries[block, q], part.candidates[block, s]
            sq = refine.exact_sq_distances(points.features, reference.features, g, r)
            owners, owned = (r, reference) if owner_is_r else (g, points)
            radii = np.array(
                [self._radius(owned, int(t), int(o)) for t, o in zip(table, owners, strict=True)]
            )
            inside = sq <= radii if self._fitted.inclusive else sq < radii
            hits, rows = (in_r, g) if owner_is_r else (in_g, r)
            hits[table[inside], rows[inside]] = True

    def _radius(self, owned: LshKnnSet, table: int, row: int) -> float:
        """Squared distance to the k-th nearest candidate of a row, float64."""
        votes, k = self._fitted.votes, self._fitted.k
        key = (id(owned), row) if votes is None else (id(owned), row, table)
        if key not in self._known:
            tables = range(self._fitted.hasher.spec.num_tables) if votes is None else (table,)
            near = self._candidates(owned, tables, row)
            sq = refine.exact_sq_distances(
                owned.features, owned.features, np.full(len(near), row), near
            )
            self._known[key] = np.partition(sq, k - 1)[k - 1]
        return self._known[key]

    def _candidates(self, owned: LshKnnSet, tables: Any, row: int) -> np.ndarray:
        groups, found = owned.groups, []
        for table in tables:
            first, last = np.searchsorted(groups.key, (table << 40, (table + 1) << 40))
            order = groups.order[table * groups.rows : (table + 1) * groups.rows]
            place = self._places(owned, table)[row] + table * groups.rows
            group = first + np.searchsorted(groups.start[first:last], place, side="right") - 1
            start = groups.start[group] - table * groups.rows
            found.append(order[start : start + min(groups.count[group], self._fitted.max_cell)])
        near = np.unique(np.concatenate(found))
        return near[near != row]

    def _places(self, owned: LshKnnSet, table: int) -> np.ndarray:
        key = (id(owned), "places", table)
        if key not in self._known:
            n = owned.groups.rows
            self._known[key] = np.argsort(owned.groups.order[table * n : (table + 1) * n])
        return self._known[key]
