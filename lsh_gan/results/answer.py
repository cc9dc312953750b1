"""The answer of a sweep: the smallest width that keeps precision and recall, and the next loss.

All rows of a sweep share the reference and, per seed, the latents, so that rows are compared sample
by sample. For each of N samples (generated ones for precision, reference ones for recall), a_i and
b_i say whether sample i is a hit in a compressed row and at full precision. The kept share r is the
ratio of their means. Its standard error comes from that of the mean of the differences a_i − r b_i
(Cochran 1977, Sampling Techniques, section 6.3: the linearised ratio of paired means):

    r = Σ a_i / Σ b_i        se(r) = sd(a_i − r b_i) / (√N mean(b))

At r = 1 it is the standard error of the difference of two paired shares (McNemar 1947,
doi:10.1007/BF02295996). Hits that are equal in both rows then add nothing, which makes it smaller
than the error of unpaired scores. Rows also share what spans the manifold: the hash, and the other
set, whose row i has the same latent in both rows or is the same real image. Let u_g and v_g be the
deviations of both scores (`PrecisionRecall.precision_deviations`) for group g, of rows of the other
set (KNN) or of tables. A jackknife of the ratio gives a second term, which is added to the square
of the first error:

    Σ (u_g − r v_g)² / mean(b)²

With S seeds, precision has N = S · m samples. Recall has N = n: every seed assesses the same
reference, so that a_i and b_i are means over the seeds, as are u_g and v_g.

For metrics by a hash, this leaves out the drawing of the other set. Their jackknife over tables
counts the chance of single samples once more, which makes up for it if the reference has at least
N rows. For precision with a smaller reference, N in the first error is n.

Where the error of the mean of a_i − r b_i is 0, it becomes 1 / N, as for scores
(`PrecisionRecall`): no hit, after 3 of 200 at full precision, is a change of −100 ± 33 %.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lsh_gan.metrics import PrecisionRecall
from lsh_gan.results.labels import SCORES, TITLES, deciding, in_words, percent_error, shorten
from lsh_gan.results.store import Row

NOISE = 2  # standard errors; smaller differences are within noise
WITHIN_NOISE, COLLAPSED = "≈", "!"
LEGEND = {
    WITHIN_NOISE: "≈ within noise of full precision (2 paired standard errors)",
    COLLAPSED: "! collapsed: diversity is lost, do not read the precision as quality",
}


class Kept(NamedTuple):
    """The kept share of a score at full precision; NaN if that score is 0."""

    share: float  # ratio of the means over the seeds that both have
    stderr: float  # its paired standard error; NaN where there are no hits


def retention(group: list[Row], full: list[Row], metric: str, score: str) -> Kept:
    """Compares a setting with full precision, each with a row per seed; see above for the formula.

    The standard error is NaN if rows lack their hits, see `store.with_hits`.
    """
    field = f"{metric}_{score}"
    before = {row["seed"]: row for row in full}
    pairs = [(row, before[row["seed"]]) for row in group if row["seed"] in before]
    whole = sum(other[field] for _, other in pairs)
    if not whole:
        return Kept(math.nan, math.nan)
    share = sum(row[field] for row, _ in pairs) / whole
    error = paired_error(pairs, metric, score, share)
    return Kept(share, error * len(pairs) / whole)


def paired_error(
    pairs: list[tuple[Row, Row]], metric: str, score: str, share: float = 1.0
) -> float:
    """Computes the standard error of mean(a − share · b), from a pair of rows per seed, or NaN."""

    def differences(kind: str) -> list[np.ndarray]:
        """Returns a − share · b, an array per seed; none if rows lack their hits."""
        field = f"{metric}_{score}_{kind}"
        known = [[row.get("hits", {}) for row in pair] for pair in pairs]
        if not all(field in x for pair in known for x in pair):
            return []
        return [np.subtract(a[field], share * b[field], dtype=np.float64) for a, b in known]

    of_samples, of_groups = differences("hits"), differences("deviations")
    if not of_samples:
        return math.nan
    joined = np.concatenate(of_samples) if score == "precision" else np.mean(of_samples, axis=0)
    deviations, row = np.mean(of_groups, axis=0) if of_groups else (), pairs[0][0]
    by_hash = f"{metric}_num_tables" in row
    return error_of(joined, deviations, row["n"] if by_hash and score == "precision" else math.inf)


def mean_and_error(group: list[Row], field: str) -> tuple[float, float]:
    """Returns the mean of a score over seeds and its standard error; for one seed, that of the row.

    A few seeds may agree by chance, so that their spread counts as at least the error of one row.
    The result is also at least the error from hits, as above with r = 0, since the reference and
    the hash, which seeds share, do not average out. For a distance, each row of either set is taken
    to add the same variance. A Fréchet distance has no error of its own.
    """
    values = [row[field] for row in group]
    errors = [row.get(f"{field}_stderr") or 0.0 for row in group]
    each = math.sqrt(np.mean(np.square(errors)))
    if len(group) == 1:
        return values[0], each
    metric, _, score = field.rpartition("_")
    if score == "distance":
        n, m = group[0]["n"], group[0]["m"]
        whole = each * math.sqrt((m + n / len(group)) / (m + n))
    else:
        whole = paired_error([(row, row) for row in group], metric, score, 0.0)
    of_seeds = max(each, np.std(values, ddof=1)) / len(group) ** 0.5
    return float(np.mean(values)), float(np.fmax(of_seeds, whole))  # `whole` may be NaN


def error_of(
    hits: np.ndarray, deviations: Sequence[float] | np.ndarray, drawn: float = math.inf
) -> float:
    """Combines the standard error of the mean of hits `[N]` with deviations `[g]`, () for none.

    The standard error is that of `drawn` hits if these are fewer. One of 0 becomes 1 / N.
    """
    variance = hits.var(ddof=1) / min(len(hits), drawn)
    return math.sqrt(variance + np.square(deviations).sum()) or 1 / len(hits)


def mark(line: Mapping[str, Any], metric: str, score: str) -> str:
    """Marks the precision of a collapse, or else a score within noise of full precision.

    `PrecisionRecall.collapsed` defines a collapse. A compressed setting must also keep less than
    half of the recall at full precision, if there was any.
    """
    kept = kept_of(line, metric) if line["setting"] != "" else None
    left, stderr = kept["recall"] if kept else (0, 0)  # NaN if there was none to keep
    if score == "precision" and not left + NOISE * np.nan_to_num(stderr) >= 0.5:
        values = {name: line.get(f"{metric}_{name}") for name in PrecisionRecall._fields}
        none = {f"{name}_stderr": 0.0 for name in SCORES}  # a line has None for an error of 0
        known: Any = {x: none.get(x) if pd.isna(value) else value for x, value in values.items()}
        if PrecisionRecall(**known).collapsed:
            return COLLAPSED
    if kept and abs(kept[score].share - 1) <= NOISE * kept[score].stderr:
        return WITHIN_NOISE
    return ""


def answers(lines: pd.DataFrame, metrics: list[str], keep: float) -> list[str]:
    """Returns one sentence for each compressed generator, and for each set of given samples.

    KNN decides, or the first metric if KNN is not requested; the sentence names it, and what the
    other metrics find. `lines` are those of `report.summarise`, `metrics` those with precision and
    recall, and `keep` is the share to keep.
    """
    found: list[str] = []
    if not metrics:
        return found
    metric = deciding(metrics)
    for name, mine in lines.groupby("generator", sort=False):
        swept = mine[mine["setting"] != ""]
        if len(swept):
            full = mine[mine["setting"] == ""]
            found.append(
                f"{name}: {_nothing_to_keep(full, metric) or _answer(swept, metric, metrics, keep)}"
            )
        elif "samples" in mine and mine["samples"].notna().all():
            found.append(f"{name}: {_scores(mine.iloc[0], metric)}")
    return found


def _scores(line: pd.Series, metric: str) -> str:
    """Formats the scores of given samples, with their ceilings."""

    def pair(kind: str) -> str:
        values = [line[f"{metric}_{score}{kind}"] for score in SCORES]
        return " / ".join("–" if pd.isna(value) else f"{value:.3f}" for value in values)

    return f"precision / recall by {TITLES[metric]} {pair('')}, ceiling {pair('_ceiling')}."


def _smallest(swept: pd.DataFrame, metric: str, keep: float) -> pd.Series | None:
    """Finds the smallest file that keeps the share within its error; of equal ones, the best."""
    shares = swept[[f"{metric}_{score}_kept" for score in SCORES]]
    errors = swept[[f"{metric}_{score}_kept_stderr" for score in SCORES]].fillna(0)
    good = (shares.to_numpy() + errors.to_numpy() >= keep).all(axis=1)
    kept = swept.assign(least=shares.min(axis=1))[good]
    if kept.empty:
        return None
    return kept.sort_values(["bytes", "least"], ascending=[True, False], kind="stable").iloc[0]


def _nothing_to_keep(full: pd.DataFrame, metric: str) -> str:
    """Says why no share can be kept: no line at full precision, or a score of 0 in it; else ""."""
    if full.empty:
        return "there is no row at full precision to compare with."
    none = [score for score in SCORES if (full[f"{metric}_{score}"] == 0).all()]
    said = f"{' and '.join(none)} by {TITLES[metric]} {'is' if len(none) == 1 else 'are'} 0"
    return f"{said} at full precision: no share of it can be kept." if none else ""


def _answer(swept: pd.DataFrame, metric: str, metrics: list[str], keep: float) -> str:
    title, asked = TITLES[metric], f"{100 * keep:g}% of precision and recall"

    def compares(metric: str) -> bool:  # no score at full precision is 0
        return swept[[f"{metric}_{score}_kept" for score in SCORES]].notna().to_numpy().all()

    settings = list(dict.fromkeys(swept["setting"]))

    def called(line: pd.Series) -> str:
        setting = shorten(line["setting"], settings) if len(settings) > 1 else ""
        return in_words(line["bits"]) + (f" ({setting})" if setting else "")

    best = _smallest(swept, metric, keep)
    least = swept[[f"{metric}_{score}_kept" for score in SCORES]].min(axis=1)
    if best is None:
        closest = swept.loc[least.idxmax()]
        return f"no width keeps {asked} by {title}; {called(closest)}: {_loss(closest, metric)}."
    narrower = swept[(swept["setting"] == best["setting"]) & (swept["bytes"] < best["bytes"])]
    shares, errors = zip(*kept_of(best, metric).values(), strict=True)
    if max(np.nan_to_num(errors)) > 1 - keep:  # the error exceeds the loss that is allowed
        within = " within the error of too few samples"
    else:
        within = "" if min(shares) >= keep else " within the error"
    text = (
        f"{called(best)} keeps {asked}{within} by {title} ({changes(best, metric)}): "
        f"{best['file']}, {best['bytes']:,.0f} bytes, {best['ratio']:.1f}× smaller."
    )
    if narrower.empty:
        text += " It is the narrowest that was measured."
    else:
        following = narrower.sort_values("bytes", kind="stable").iloc[-1]["bits"]
        line = swept.loc[least[swept["bits"] == following].idxmax()]  # the best of its settings
        text += f" {called(line)}: {line['ratio']:.1f}× smaller, {_loss(line, metric)}."
    others = []
    for other in (m for m in metrics if m != metric):
        line = _smallest(swept, other, keep)
        agrees = line is not None and line["bytes"] == best["bytes"]
        says = "no width" if line is None else called(line)
        says = says if compares(other) else "nothing (0 at full precision)"
        others.append(f"{TITLES[other]} {'agrees' if agrees else f'says {says}'}")
    return text + (f" {', '.join(others)}." if others else "")


def kept_of(line: Mapping[str, Any] | pd.Series, metric: str) -> dict[str, Kept]:
    """Returns the kept shares of precision and recall in a line of `report.summarise`."""
    fields = {score: f"{metric}_{score}_kept" for score in SCORES}
    return {score: Kept(line[field], line[f"{field}_stderr"]) for score, field in fields.items()}


def changes(line: Mapping[str, Any] | pd.Series, metric: str) -> str:
    """Says how precision and recall change, the worse first: "recall −36 ± 2 %, ..."."""
    parts = []
    for score, (share, e) in sorted(kept_of(line, metric).items(), key=lambda item: item[1].share):
        if math.isnan(share):
            parts.append(f"{score} was 0")
            continue
        error = "" if math.isnan(e) else f" ± {percent_error(e)}"
        digits = int("." in error)
        change = np.round(100 * (share - 1), digits) + 0  # + 0 turns −0 into 0
        parts.append(f"{score} {change:+.{digits}f}{error} %".replace("-", "−"))
    return ", ".join(parts)


def _loss(line: pd.Series, metric: str) -> str:
    """Says what a setting loses, and whether it is diversity or quality."""
    precision, recall = kept_of(line, metric).values()
    errors = np.nan_to_num([precision.stderr, recall.stderr])
    shares = np.array([precision.share, recall.share])
    falls, apart = shares + NOISE * errors < 1, abs(precision.share - recall.share)
    if apart > NOISE * math.hypot(*errors) and max(shares) > 0.5:  # below that, both are lost
        lost = f"{'diversity' if recall.share < precision.share else 'quality'} is lost"
    elif falls.all():
        lost = "quality and diversity are lost"
    elif falls.any():
        first, other = ("quality", "diversity") if falls[0] else ("diversity", "quality")
        lost = f"{first} is lost, too few samples to say if {other} is"
    else:
        lost = "too few samples to say which is lost"
    return f"{changes(line, metric)}: {lost}"
