"""What a metric returns, and how memberships and votes become scores with standard errors."""

import functools
import html
import inspect
import math
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from lsh_gan.metrics.inputs import Array, subset

# Ceiling of a hash below which a score says nothing: a little more than the tenth of the rows that
# lie beyond all radius bins, and recognise one another under any hash.
_FEW = 0.12
_FULL = 0.5  # load of tables above which votes say nothing
GROUPS = 8  # groups of tables, or of the rows that span a manifold, for the jackknife


class ClassScores(NamedTuple):
    """How the rows of each class fare among the balls of all; NaN where a class has none."""

    classes: np.ndarray  # ascending, [c]
    precision: np.ndarray  # share of the class's generated samples on the reference manifold
    recall: np.ndarray  # share of the class's reference rows on the generated manifold
    density: np.ndarray  # mean over its generated samples
    coverage: np.ndarray  # share of its reference balls that hold a generated sample


def by_class(labels: tuple[Any, Any], of_r: tuple, of_g: tuple) -> ClassScores:
    """Means by class of recall and coverage `[n]`, and of precision and density `[m]`."""
    classes, at = np.unique(np.concatenate(labels), return_inverse=True)

    def means(values, at):
        count, total = (np.bincount(at, x, len(classes)) for x in (None, values))
        return np.divide(total, count, out=np.full(len(classes), np.nan), where=count > 0)

    n = len(of_r[0])
    (recall, coverage), (precision, density) = (
        [means(x, at) for x in values] for values, at in ((of_r, at[:n]), (of_g, at[n:]))
    )
    return ClassScores(classes, precision, recall, density, coverage)


class PrecisionRecall(NamedTuple):
    """Precision and recall of a generated set against a reference set.

    `precision` is the share of generated samples on the reference manifold, `recall` the share of
    reference samples on the generated manifold, in [0, 1]. The standard errors cover the samples
    and, by KNN, the rows of the other set, or the hash tables (if a number from 2 to 8 divides
    their number). Where all N samples agree they are 1 / N, as if about one of them differed.

    Two samples of the same distribution do not score 1. The ceilings are what a sample of the
    reference distribution scores: a second reference sample where there is one, else every row of
    the reference against all the others (leave-one-out). One half against the other half would
    estimate the score at n / 2. The ceiling of recall is that of m rows, or of n where m is larger.
    For recall by hashes, n of the m rows count where m is larger.

    `density` is the mean number of reference balls around a generated sample, divided by their k.
    `coverage` is the share of reference balls that hold a generated sample. Memberships are bool
    `[m]` and `[n]`, or float32 shares of tables with `votes=None`. `num_bits` is the mean number of
    digits of a code. `load` is the share of a table's addresses that the reference takes: the
    chance of a false hit of one table. `capped` is the share of rows beyond the cap of a bucket.
    `auth` is the share of generated samples that are authentic: farther from their nearest row of
    the reference than that row is from its own nearest other one (Alaa et al. 2022,
    arXiv:2102.08921); 1 - auth is memorised. `clipped_density` and `clipped_coverage` fall in
    proportion to the share of bad samples (Salvy et al. 2025, arXiv:2507.01761).
    `crowding` is the mean over tables of the share of generated samples at crowded addresses. An
    address with r rows of the reference is crowded if it holds more than 2 r·m/n + 6 max(1, m/n)
    generated samples: r·m/n are expected. With 'auto' bits, chance alone crowds less than .01.
    `precision_deviations` and `recall_deviations` are the contributions of g groups to the standard
    error: groups of hash tables or, by KNN, of the rows of the other set. Their squares sum to the
    variance that comes from the hash, or from the drawing of the other set. The difference of two
    scores under one hash, or of generators that share their latents, has the difference of theirs.

    A field that was not requested, or has no meaning for a metric, is None.
    """

    precision: float
    recall: float | None
    precision_stderr: float
    recall_stderr: float | None
    precision_ceiling: float | None = None
    recall_ceiling: float | None = None
    density: float | None = None
    coverage: float | None = None
    precision_membership: Shaped[np.ndarray, " m"] | None = None
    recall_membership: Shaped[np.ndarray, " n"] | None = None
    k: int | None = None
    n: int = 0
    m: int = 0
    family: str | None = None
    num_bits: float | None = None
    radius_bins: int | None = None
    num_tables: int | None = None
    load: float | None = None
    capped: float | None = None
    crowding: float | None = None
    auth: float | None = None
    clipped_density: float | None = None
    clipped_coverage: float | None = None
    by_class: ClassScores | None = None
    precision_deviations: tuple[float, ...] | None = None
    recall_deviations: tuple[float, ...] | None = None

    @property
    def collapsed(self) -> bool:
        """Whether diversity is lost, so that the precision must not be read as quality.

        Recall is below half of its ceiling by more than two standard errors. Besides, precision is
        above its own ceiling by more than two standard errors, or more than half of the samples are
        crowded. A missing ceiling counts as 1.
        """
        if self.recall is None or self.recall_stderr is None:
            return False
        above, most = (1 if x is None else x for x in (self.precision_ceiling, self.recall_ceiling))
        return self.recall + 2 * self.recall_stderr < most / 2 and (
            self.precision - 2 * self.precision_stderr > above or (self.crowding or 0) > 0.5
        )

    def _lines(self) -> list[tuple[str, str]]:
        lines = []
        for name in ("precision", "recall"):
            score, stderr, ceiling = (getattr(self, name + x) for x in ("", "_stderr", "_ceiling"))
            if score is not None:
                beside = "" if ceiling is None else f" (ceiling {ceiling:.3f})"
                lines.append((name, f"{score:.3f} ± {stderr:.3f}{beside}"))
        if self.density is not None:
            lines.append(("density, coverage", f"{self.density:.3f}, {self.coverage:.3f}"))
        if self.auth is not None:
            clipped = f"{self.clipped_density:.3f}, {self.clipped_coverage:.3f}"
            lines += [("clipped", f"{clipped} (density, coverage)"), ("auth", f"{self.auth:.3f}")]
        if self.crowding is not None:
            lines.append(("crowding", f"{self.crowding:.3f}"))
        if self.collapsed:
            lines.append(("collapsed", "diversity is lost: do not read the precision as quality"))
        names = ("n", "m", "k", "num_tables", "num_bits", "radius_bins", "load", "capped")
        facts = {name: x for name in names if (x := getattr(self, name)) is not None}
        texts = (f"{k} = {x if isinstance(x, int) else f'{x:.4g}'}" for k, x in facts.items())
        of = ", ".join(texts) + (f", {self.family}" if self.family else "")
        return [*lines, ("of", of)]

    def __repr__(self) -> str:
        return "\n".join(f"{name:<10} {text}" for name, text in self._lines())

    def _repr_html_(self) -> str:  # of notebooks
        rows = (f"<tr><th>{n}</th><td>{html.escape(t)}</td></tr>" for n, t in self._lines())
        return f"<table>{''.join(rows)}</table>"


class PrecisionRecallCurve(NamedTuple):
    """Precision against recall of whole distributions; see `lsh_precision_recall_curve`."""

    precision: np.ndarray  # share of G that R accounts for, were it `ratios` times as much, [p]
    recall: np.ndarray  # share of R that G accounts for, were R as much, [p]
    ratios: np.ndarray  # λ, ascending, [p]
    f_8: float  # greatest F-score that weighs recall 8 times as much as precision
    f_1_8: float  # greatest F-score that weighs precision 8 times as much as recall
    n: int
    m: int
    num_bits: float
    num_tables: int

    def __repr__(self) -> str:
        levels = (0.9, 0.7, 0.5, 0.3, 0.1)
        best = [self.precision[self.recall >= x].max(initial=0) for x in levels]
        return "\n".join((
            f"F_8 (recall) {self.f_8:.3f}, F_1/8 (precision) {self.f_1_8:.3f}",
            "recall     " + "  ".join(f"{x:5.3f}" for x in levels),
            "precision  " + "  ".join(f"{x:5.3f}" for x in best),
            f"of         n = {self.n}, m = {self.m}, num_tables = {self.num_tables}, "
            f"num_bits = {self.num_bits:.4g}",
        ))  # fmt: skip


class Summary(NamedTuple):
    """Memberships and their sums, on the device; `result` makes the statistics on the host."""

    # Of the memberships, of their squares, and of the memberships without each of g groups: of the
    # rows that span the manifold, or of tables. Float64 [2 + g].
    sums: Array
    membership: Array | None = None
    digits: Array | None = None  # of the hash, `[q, t]`

    @property
    def total(self) -> Array:
        """The sum of the memberships."""
        return self.sums[0]


@jax.jit
def summarise(hits: jax.Array, inside: jax.Array) -> Summary:
    """Memberships of the rows that are `inside`, and their sums.

    Hits, bool `[n, 8]`, say which groups of rows of the other set put a row on its manifold; balls
    keep their radii without a group.
    """
    with jax.enable_x64(True):
        groups = hits.sum(axis=1, keepdims=True)
        members = jnp.concatenate([groups > 0, groups > 0, groups > hits], axis=1)
        sums = jnp.sum(members, axis=0, where=inside[:, None], dtype=jnp.float64)
        return Summary(sums, members[:, 0])


def group_count(tables: int) -> int:
    """Groups of equally many tables, at most 8, so that what is left asks for the same share."""
    return max([g for g in range(1, GROUPS + 1) if tables % g == 0])


class Found(NamedTuple):
    """What the tables of a set say of n rows, by group of tables."""

    hits: jax.Array  # how many tables have a hit, int32 [8, n]
    company: jax.Array | None = None  # rows of the set in the buckets, over tables, int32 [8, n]
    least: jax.Array | None = None  # the level that a member needs, as `levels_of`, [1 + g, n]


def levels_of(company: jax.Array, tables: int) -> jax.Array:
    """Levels of rows by company `[8, n]`: of all tables, and without each group, `[1 + g, n]`.

    log2(1 + company) in whole 1024ths, float32, so that sums do not depend on their order.
    """
    every, left_out = company.sum(axis=0), company[: _left_out(tables)]
    company = jnp.concatenate([every[None], every - left_out]).astype(jnp.float32)
    return jnp.round(1024 * jnp.log2(1 + company)) / 1024


def _left_out(tables: int) -> int:
    """How many groups are left out in turn: none if there is only one."""
    return count if (count := group_count(tables)) > 1 else 0


@functools.partial(jax.jit, static_argnames=("tables", "votes"))
def aggregate_votes(
    found: Found, digits: jax.Array, *, tables: int, votes: float | None
) -> Summary:
    """Joins what all tables say to memberships; `digits` `[q, t]` are those of the hash."""
    membership, sums = sum_votes(found, tables=tables, votes=votes)
    return Summary(sums, membership, digits)


@functools.partial(jax.jit, static_argnames=("tables", "votes"))
def sum_votes(found: Found, *, tables: int, votes: float | None) -> tuple[jax.Array, jax.Array]:
    """Memberships `[n]`, and their sums, which add up over batches of rows; see `Summary`."""
    count = group_count(tables)
    with jax.enable_x64(True):

        def member(hits, size):
            if votes is None:
                return hits / size
            return hits >= jnp.maximum(1, jnp.ceil(votes * size - 1e-9))

        every, left_out = found.hits.sum(axis=0), found.hits[: _left_out(tables)]
        members = jnp.concatenate([
            member(every, tables)[None], member(every - left_out, tables - tables // count)
        ])  # fmt: skip
        if found.least is not None and found.company is not None:
            members *= levels_of(found.company, tables) >= found.least
        parts = [members[:1], jnp.square(members[:1].astype(jnp.float64)), members[1:]]
        sums = [jnp.sum(x, axis=1, dtype=jnp.float64) for x in parts]
        return members[0], jnp.concatenate(sums)


def _statistics(found: Summary, rows: int) -> tuple[float, float, tuple[float, ...] | None]:
    """Mean of the memberships of so many rows, its standard error, and what groups add to that.

    The standard error covers samples and groups, the latter by a jackknife (Efron & Stein 1981,
    doi:10.1214/aos/1176345462). Of a hash with 'auto' bits some groups have more digits than
    others. What follows their number, by least squares, would be so with any other directions: it
    is no error. It is 1 / N where that is 0, as that of a share with a uniform prior (Laplace).
    """
    mean, squares, *left_out = found.sums / rows
    variance, count = max(squares - mean**2, 0) / rows, len(left_out)
    if not count:
        return float(mean), math.sqrt(variance) or 1 / rows, None
    digits = np.ones(count) if found.digits is None else np.asarray(found.digits).sum(axis=0)
    x, y = digits.reshape(-1, count).sum(axis=0), np.asarray(left_out)
    x, y = x - x.mean(), y - y.mean()
    uneven = x.any() and count > 2
    rest = y - (x @ y / (x @ x) if uneven else 0) * x
    deviations = rest * (count - 1) / math.sqrt(count * (count - 1 - uneven))
    stderr = math.sqrt(variance + deviations @ deviations) or 1 / rows
    return float(mean), stderr, tuple(deviations.tolist())


def ceilings(
    known: dict[int, Any], reference: Array, second: Array | None, m: int, left_out: Any,
    compare: Any,
) -> Any:  # fmt: skip
    """Ceilings of precision and of recall: each a sum, and the number of rows that it is of.

    They depend on the reference and m alone, and are `known` from then on. `left_out` is the sum of
    the rows of R on the manifold of the others. `compare` is a function of a sample to bool arrays:
    which of its rows are on the manifold of R, which rows of R on that of the sample, and which of
    its rows on that of its other rows.
    """
    n, rows = len(reference), min(m, len(reference))
    if rows in known:
        return known[rows]
    if second is None:
        precision = recall = left_out, n
        if rows < n:
            drawn = subset(n, rows)
            _, recalled, sample_left_out = compare(reference[drawn])
            # A row of the sample covers itself: it is compared with the others.
            recall = jnp.sum(recalled.at[drawn].set(sample_left_out)), n
    else:
        on_r, recalled, _ = compare(second)
        precision = jnp.sum(on_r), len(second)
        if rows < len(second):
            recalled = compare(second[subset(len(second), rows)])[1]
        recall = jnp.sum(recalled), n
    return known.setdefault(rows, (precision, recall))


def result(precision, recall, ceilings, *, membership, rows, extra, **facts) -> PrecisionRecall:
    """Waits for the device, once, and makes the result; warns of a hash that says nothing.

    `precision` and `recall` are each a `Summary`, or None for a recall that was not asked for. Both
    ceilings, and the fields `extra`, are each a sum and what it is divided by, or None. The facts
    are further fields, and `rows` n and m.
    """
    n, m = rows
    precision, recall, ceilings, extra = jax.device_get((precision, recall, ceilings, extra))
    extra |= {"precision_ceiling": ceilings[0], "recall_ceiling": ceilings[1]}
    fields = {name: x and float(x[0]) / float(x[1]) for name, x in extra.items()} | facts
    for name, found, count in (("precision", precision, m), ("recall", recall, n)):
        if found is None:
            fields |= {name: None, f"{name}_stderr": None}
            continue
        score, stderr, deviations = _statistics(found, count)
        fields |= {name: score, f"{name}_stderr": stderr, f"{name}_deviations": deviations}
        if membership:  # rows behind the end of a set are no members
            fields[f"{name}_membership"] = found.membership[:count]
    scores = PrecisionRecall(n=n, m=m, **fields)
    if scores.num_tables:
        _warn_of_few(scores)
    return scores


def _warn_of_few(scores: PrecisionRecall) -> None:
    name, said = "LSH+KNN" if scores.k else "LSH", ""
    precision, recall = scores.precision_ceiling, scores.recall_ceiling
    if precision is not None and precision < _FEW:
        also = f"k = {scores.k} or the votes" if scores.k else "the votes or min_level"
        said = (
            f"{precision:.1%} of the reference recognises itself, so the scores say little: "
            f"num_bits = {scores.num_bits:g} (say 'auto'), radius_bins = {scores.radius_bins}, "
            f"{also} ask for too much of n = {scores.n} rows."
        )
    elif (scores.load or 0) > _FULL:
        said = (
            f"{1 - (scores.load or 0):.0%} of the addresses are free, so that nearly all votes are "
            f"yes: give more table_bytes for n = {scores.n} rows, or fewer tables."
        )
    elif scores.recall is not None and recall is not None and recall < _FEW:
        said = (
            f"{recall:.1%} of the reference is recalled by m = {scores.m} rows of its own, so the "
            f"recall says little: generate more samples, or take fewer than n = {scores.n} rows."
        )
    if said:
        warnings.warn(f"{name}: only {said}", stacklevel=_levels_to_caller())


def _levels_to_caller() -> int:
    """How many frames above the function that asks the first one outside of this package is."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals["__name__"].startswith("lsh_gan."):
        frame, level = frame.f_back, level + 1
    return level
