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

from lsh_gan import devices
from lsh_gan.metrics.inputs import Array, subset

# Ceiling below which a score by a hash says nothing. A tenth of the rows lie beyond all radius bins
# and recognise one another under any hash; this is a little more.
_FEW = 0.12
_FULL = 0.5  # load of tables above which votes say nothing
GROUPS = 8  # jackknife groups of the rows that span a manifold; of tables, at most


class ClassScores(NamedTuple):
    """Scores of each class against the balls of all classes; NaN for a class without rows."""

    classes: np.ndarray  #: ascending, [c]
    precision: np.ndarray  #: share of the class's generated samples on the reference manifold
    recall: np.ndarray  #: share of the class's reference rows on the generated manifold
    density: np.ndarray  #: mean over the class's generated samples
    coverage: np.ndarray  #: share of the class's reference balls that hold a generated sample


def by_class(labels: tuple[Any, Any], of_r: tuple, of_g: tuple) -> ClassScores:
    """Averages recall and coverage `[n]`, and precision and density `[m]`, per class."""
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
    reference samples on the generated manifold, in [0, 1]. The standard errors cover the assessed
    samples and, by a jackknife, the rows of the other set (KNN) or the hash tables (LSH, LSH+KNN;
    if their number has a divisor from 2 to 8). By a hash, the first part is that of as many samples
    as the smaller set has. Where all N samples agree, the error is 1 / N, as if
    about one of them differed: five samples that agree are no certainty.

    Two samples of the same distribution do not score 1. The ceilings are the scores of a sample of
    the reference distribution: a second reference sample if there is one, else each row of the
    reference against all others (leave-one-out). Scoring one half against the other would estimate
    the score at n / 2. The ceiling of recall is that of m rows, or of n rows if m is larger; recall
    by hashes then uses n of the m samples.

    `density` is the mean number of reference balls around a generated sample, divided by their k.
    `coverage` is the share of reference balls that hold a generated sample. Memberships are bool
    `[m]` and `[n]`, or shares of tables with `votes=None`. `num_bits` is the mean number of
    digits of a code. `load` is the share of addresses per table that the reference takes: the
    chance of a false hit in one table. `capped` is the share of rows beyond the cap of a bucket.
    `auth` is the share of generated samples that are farther from their nearest reference row than
    that row is from its own nearest neighbour (Alaa et al. 2022, arXiv:2102.08921); 1 - auth is the
    memorised share. `clipped_density` and `clipped_coverage` fall in proportion to the share of bad
    samples (Salvy et al. 2025, arXiv:2507.01761).
    `crowding` is the mean over tables of the share of generated samples at crowded addresses. An
    address that holds r reference rows is crowded if it holds more than 2 r·m/n + 6 max(1, m/n)
    generated samples: twice the expected number and six more. With 'auto' bits, chance alone gives
    less than .01.
    `precision_deviations` and `recall_deviations` are the contributions of g groups to the standard
    error: groups of hash tables or, by KNN, of rows of the other set. Their squares sum to the
    variance from the hash, or from the sampling of the other set. For the difference of two scores
    under one hash, or of generators that share their latents, subtract the deviations.

    A field that was not requested, or that a metric does not have, is None.
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
        """Whether diversity is lost, so that precision does not measure quality.

        Recall is below half of its ceiling by more than two standard errors, and one of two
        conditions holds: precision is above its own ceiling by more than two standard errors, or
        more than half of the samples are crowded. A missing ceiling counts as 1.
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

    def _repr_html_(self) -> str:  # for notebooks
        rows = (f"<tr><th>{n}</th><td>{html.escape(t)}</td></tr>" for n, t in self._lines())
        return f"<table>{''.join(rows)}</table>"


class PrecisionRecallCurve(NamedTuple):
    """Precision against recall of whole distributions; see `lsh_precision_recall_curve`."""

    precision: np.ndarray  #: share of G that R, scaled by λ, covers, [p]
    recall: np.ndarray  #: share of R that G, scaled by 1 / λ, covers, [p]
    ratios: np.ndarray  #: λ, ascending, [p]
    f_8: float  #: largest F-score on the curve that weighs recall 8 times as much as precision
    f_1_8: float  #: largest F-score on the curve that weighs precision 8 times as much as recall
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
    """Memberships and their sums, on the device; `result` computes the statistics on the host."""

    # Sums of the memberships, of their squares, and of the memberships without each of g groups, of
    # tables or of the rows that span the manifold. Float64 [2 + g].
    sums: Array
    membership: Array | None = None
    digits: Array | None = None  # of the hash, `[q, t]`

    @property
    def total(self) -> Array:
        """The sum of the memberships."""
        return self.sums[0]


@jax.jit
def summarise(hits: jax.Array, inside: jax.Array) -> Summary:
    """Computes the memberships of the rows that are `inside`, not padding, and their sums.

    Hits, bool `[n, 8]`, say which groups of rows of the other set put a row on its manifold. When a
    group is left out, the balls of the others keep their radii.
    """
    with jax.enable_x64(True):
        groups = hits.sum(axis=1, keepdims=True)
        members = jnp.concatenate([groups > 0, groups > 0, groups > hits], axis=1)
        sums = jnp.sum(members, axis=0, where=inside[:, None], dtype=jnp.float64)
        return Summary(sums, members[:, 0])


class Found(NamedTuple):
    """Hits and company of n rows in the tables of a set, per group of tables."""

    hits: jax.Array  # number of tables with a hit, int32 [8, n]
    company: jax.Array | None = None  # rows of the set in the buckets, summed, int32 [8, n]
    least: jax.Array | None = None  # level that a member needs, in the order of `levels_of`


def levels_of(company: jax.Array, tables: int) -> jax.Array:
    """Computes levels from company `[8, n]`: of all tables, then without each group, `[1 + g, n]`.

    The level is log2(1 + company), float32, rounded to 1/1024 so that sums do not depend on their
    order.
    """
    every, left_out = company.sum(axis=0), company[: _left_out(tables)]
    company = jnp.concatenate([every[None], every - left_out]).astype(jnp.float32)
    return jnp.round(1024 * jnp.log2(1 + company)) / 1024


def _left_out(tables: int) -> int:
    """Returns the number of groups that are left out in turn: 0 if there is only one group."""
    return count if (count := devices.largest_divisor(tables, GROUPS)) > 1 else 0


@functools.partial(jax.jit, static_argnames=("tables", "votes"))
def aggregate_votes(
    found: Found, digits: jax.Array, *, tables: int, votes: float | None
) -> Summary:
    """Combines the votes of all tables into memberships; `digits` `[q, t]` come from the hash."""
    count = devices.largest_divisor(tables, GROUPS)
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
        return Summary(jnp.concatenate(sums), members[0], digits)


def _statistics(
    found: Summary, rows: int, drawn: int
) -> tuple[float, float, tuple[float, ...] | None]:
    """Returns the mean of the memberships, its standard error, and the deviation of each group.

    The standard error covers the rows (`drawn` rows if these are fewer) and, by a jackknife (Efron
    & Stein 1981, doi:10.1214/aos/1176345462), the groups. With 'auto' bits some groups of tables
    have more digits than others. The part of the deviations that is linear in the number of digits
    would be the same for any directions, so it is no error: a least-squares fit removes it. A
    standard error of 0 becomes 1 / N, as for a share with a uniform prior (Laplace).
    """
    mean, squares, *left_out = found.sums / rows
    variance, count = max(squares - mean**2, 0) / min(rows, drawn), len(left_out)
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
    """Returns the ceilings of precision and of recall, each as a sum and its number of rows.

    They depend only on the reference and on m; `known` caches them. `left_out` is the number of
    rows of R on the manifold of the other rows. `compare` takes a sample and returns three bool
    arrays: its rows on the manifold of R, the rows of R on the manifold of the sample, and its rows
    on the manifold of its other rows.
    """
    n, rows = len(reference), min(m, len(reference))
    if rows in known:
        return known[rows]
    if second is None:
        precision = recall = left_out, n
        if rows < n:
            drawn = subset(n, rows)
            _, recalled, sample_left_out = compare(reference[drawn])
            # A row of the sample would cover itself, so it is compared with the others only.
            recall = jnp.sum(recalled.at[drawn].set(sample_left_out)), n
    else:
        on_r, recalled, _ = compare(second)
        precision = jnp.sum(on_r), len(second)
        if rows < len(second):
            recalled = compare(second[subset(len(second), rows)])[1]
        recall = jnp.sum(recalled), n
    return known.setdefault(rows, (precision, recall))


def result(precision, recall, ceilings, *, membership, rows, extra, **facts) -> PrecisionRecall:
    """Makes the result, in one transfer from the device; warns of scores that say nothing.

    `precision` and `recall` are each a `Summary`; `recall` is None if it was not requested. Each
    ceiling, and each field in `extra`, is a sum and its divisor, or None. `rows` are n and m, and
    `facts` are further fields.
    """
    n, m = rows
    precision, recall, ceilings, extra = jax.device_get((precision, recall, ceilings, extra))
    extra |= {"precision_ceiling": ceilings[0], "recall_ceiling": ceilings[1]}
    fields = {name: x and float(x[0]) / float(x[1]) for name, x in extra.items()} | facts
    for name, found, count, other in (("precision", precision, m, n), ("recall", recall, n, m)):
        if found is None:
            fields |= {name: None, f"{name}_stderr": None}
            continue
        # A jackknife over tables counts the chance of single samples of the assessed set once more,
        # in place of that of the other set, which is larger if this has fewer rows.
        drawn = other if facts.get("num_tables") else count
        score, stderr, deviations = _statistics(found, count, drawn)
        fields |= {name: score, f"{name}_stderr": stderr, f"{name}_deviations": deviations}
        if membership:  # cuts the padding off
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
        frame, level = inspect.currentframe(), 1
        while frame is not None and frame.f_globals["__name__"].startswith("lsh_gan."):
            frame, level = frame.f_back, level + 1
        warnings.warn(f"{name}: only {said}", stacklevel=level)  # of the line outside of lsh_gan
