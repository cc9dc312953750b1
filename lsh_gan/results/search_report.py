"""What a search found: the chosen widths, and how they compare with uniform ones."""

import math
from pathlib import Path
from statistics import fmean

import pandas as pd
from rich.table import Table

from lsh_gan.results import labels
from lsh_gan.results.answer import Hits, retention
from lsh_gan.results.labels import SCORES, TITLES
from lsh_gan.results.store import Row

# Roles of rows, in the order of the table.
FULL = "full precision"
MIXED = "mixed precision"
WITHIN = "best uniform that keeps the share"
SAME_SIZE = "best uniform of no more bytes"
ROLES = (FULL, WITHIN, MIXED, SAME_SIZE)
Roles = dict[str, list[Row]]  # the rows of one generator


def write(
    workdir: Path, measured: list[Row], metrics: list[str], share: float, hits: Hits | None = None
) -> None:
    """Writes `search.md` and `widths.md`, and prints both and the verdict.

    `share` of the scores at full precision was to be kept; `hits` give paired standard errors.
    """
    found = by_role(measured)
    labels.print_and_save(workdir / "widths.md", make_width_table(found))
    lines = [line for item in found.items() for line in verdict(*item, metrics, share)]
    labels.print_and_save(workdir / "search.md", make_table(found, metrics, hits), notes=lines)


def by_role(measured: list[Row]) -> dict[str, Roles]:
    """Rows by generator; each has a row a seed, and a row can have several roles."""
    found: dict[str, Roles] = {}
    for row in measured:
        roles = found.setdefault(row["generator"], {role: [] for role in ROLES})
        for role in row["roles"]:
            roles[role].append(row)
    return found


def least_retention(group: list[Row], full: list[Row], metric: str) -> float:
    """The smaller of the kept shares of precision and recall; NaN if one is."""
    kept = [retention(group, full, metric, score).share for score in SCORES]
    return math.nan if any(map(math.isnan, kept)) else min(kept)


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{share:.0%}"


def make_width_table(found: dict[str, Roles]) -> Table:
    """The chosen width of each tensor."""
    lines = [
        {
            "generator": name,
            "tensor": tensor["path"],
            "shape": "×".join(map(str, tensor["shape"])),
            "bits": str(tensor["bits"]),
            "SQNR dB": "–" if tensor["sqnr_db"] is None else f"{tensor['sqnr_db']:.1f}",
            "bytes": f"{tensor['bytes']:,}",
        }
        for name, roles in found.items()
        for row in roles[MIXED][:1]
        for tensor in row["tensors"]
    ]
    columns = ["generator", "tensor", "shape", "bits", "SQNR dB", "bytes"]
    return labels.make_rich(pd.DataFrame(lines, columns=columns), text=3, title="chosen widths")


def make_table(found: dict[str, Roles], metrics: list[str], hits: Hits | None) -> Table:
    """Size, precision/recall and the kept shares of both, a line a role."""
    lines = []
    for name, roles in found.items():
        for role, group in roles.items():
            line = {"generator": name, "setting": role, "bits": "none"}
            if group:
                line |= {"bits": _bits(group[0]), "bytes": f"{group[0]['bytes']:,}"}
                line |= {TITLES[m]: _cell(group, roles[FULL], m, hits) for m in metrics}
            lines.append(line)
    title = "precision/recall (kept shares ± paired standard error)"
    return labels.make_rich(pd.DataFrame(lines).fillna(""), text=3, title=title)


def _bits(row: Row) -> str:
    widths = sorted({tensor["bits"] for tensor in row["tensors"]}, reverse=True)
    return ", ".join(map(str, widths)) or labels.width_label(row)


def _cell(group: list[Row], full: list[Row], metric: str, hits: Hits | None) -> str:
    scores, shares = [], []
    for score in SCORES:
        scores.append(f"{fmean(row[f'{metric}_{score}'] for row in group):.3f}")
        share, error = retention(group, full, metric, score, hits)
        shares.append(_percent(share).rstrip("%") + (f"±{100 * error:.0f}" if error > 0 else ""))
    return f"{'/'.join(scores)} ({'/'.join(shares)} %)"


def verdict(name: str, roles: Roles, metrics: list[str], share: float) -> list[str]:
    """What the final samples say of one generator, whichever way it turned out."""
    full, mixed = roles[FULL], roles[MIXED]
    if not mixed:
        return [f"{name}: no setting keeps {share:.0%} of precision and recall by LSH."]
    lines = []
    for role in (WITHIN, SAME_SIZE):
        if not roles[role]:
            lines.append(f"{name}: there is no {role}.")
            continue
        other = roles[role]
        smaller = 1 - mixed[0]["bytes"] / other[0]["bytes"]
        kept = "; ".join(
            f"{TITLES[m]} {_percent(least_retention(mixed, full, m))} against "
            f"{_percent(least_retention(other, full, m))}"
            for m in metrics
        )
        size = f"{abs(smaller):.1%} {'smaller' if smaller > 0 else 'larger'} than"
        if smaller == 0:
            size = "of the same size as"
        lines.append(
            f"{name}: mixed precision is {size} the {role} ({_bits(other[0])} bits); of the "
            f"worse of precision and recall it keeps: {kept}."
        )
    met = [TITLES[m] for m in metrics if least_retention(mixed, full, m) >= share]
    lines.append(
        f"{name}: on these samples, which the search has not seen, mixed precision keeps "
        f"{share:.0%} of both by {', '.join(met) or 'none of the metrics'}."
    )
    return lines
