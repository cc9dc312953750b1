"""What a search found: the chosen widths, and how they compare with uniform ones."""

import math
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from lsh_gan.results.labels import SCORES, TITLES, WIDTH, print_and_save, unique, width_label
from lsh_gan.results.store import Row

# Roles of rows, in the order of the table.
FULL = "full precision"
MIXED = "mixed precision"
WITHIN = "best uniform that keeps the share"
SAME_SIZE = "best uniform of no more bytes"
ROLES = (FULL, WITHIN, MIXED, SAME_SIZE)


def write(workdir: Path, measured: list[Row], metrics: list[str], share: float) -> None:
    """Writes `search.md` and `widths.md`, and prints both and the verdict.

    Args:
        workdir: The work folder.
        measured: Rows with their `roles`.
        metrics: Names of the metrics.
        share: Of the scores at full precision that was to be kept.
    """
    print_and_save(workdir / "widths.md", make_width_table(measured))
    print_and_save(workdir / "search.md", make_table(measured, metrics))
    lines = [
        line
        for name in unique(measured, "generator")
        for line in verdict([row for row in measured if row["generator"] == name], metrics, share)
    ]
    with (workdir / "search.md").open("a") as file:
        file.write("\n" + "".join(f"- {line}\n" for line in lines))
    for line in lines:
        Console(width=WIDTH).print(line, highlight=False, markup=False)


def by_role(measured: list[Row]) -> dict[str, list[Row]]:
    """Rows of one generator by role, a row a seed; a row can have several roles."""
    return {role: [row for row in measured if role in row["roles"]] for role in ROLES}


def retention(group: list[Row], full: list[Row], metric: str, score: str) -> float:
    """Share of the mean full precision score that a setting keeps, over the seeds of both.

    NaN where that score is 0: nothing can be kept of it.
    """
    field = f"{metric}_{score}"
    before = {row["seed"]: row[field] for row in full}
    kept = [(row[field], before[row["seed"]]) for row in group if row["seed"] in before]
    whole = sum(value for _, value in kept)
    return sum(value for value, _ in kept) / whole if whole else math.nan


def least_retention(group: list[Row], full: list[Row], metric: str) -> float:
    """The smaller of the kept shares of precision and recall; NaN if one is."""
    kept = [retention(group, full, metric, score) for score in SCORES]
    return math.nan if any(map(math.isnan, kept)) else min(kept)


def _percent(share: float, unit: str = " %") -> str:
    return "–" if math.isnan(share) else f"{100 * share:.0f}{unit}"


def make_width_table(measured: list[Row]) -> Table:
    """The chosen width of each tensor."""
    table = Table(title="chosen widths", box=box.SIMPLE_HEAVY)
    for column in ("generator", "tensor", "shape"):
        table.add_column(column, overflow="fold")
    for column in ("bits", "SQNR dB", "bytes"):
        table.add_column(column, justify="right")
    for name in unique(measured, "generator"):
        mixed = by_role([row for row in measured if row["generator"] == name])[MIXED]
        for tensor in mixed[0]["tensors"] if mixed else ():
            sqnr = tensor["sqnr_db"]
            table.add_row(
                name,
                tensor["path"],
                "×".join(map(str, tensor["shape"])),
                str(tensor["bits"]),
                "–" if sqnr is None else f"{sqnr:.1f}",
                f"{tensor['bytes']:,}",
            )
    return table


def make_table(measured: list[Row], metrics: list[str]) -> Table:
    """Size, precision / recall and the kept shares of both, a line a role."""
    table = Table(title="precision / recall (kept shares)", box=box.SIMPLE_HEAVY)
    for column, width in (("generator", 9), ("setting", 18), ("bits", 7)):
        table.add_column(column, min_width=width, overflow="fold")
    for column in ("bytes", *(TITLES[metric] for metric in metrics)):
        table.add_column(column, justify="right", no_wrap=True)
    for name in unique(measured, "generator"):
        roles = by_role([row for row in measured if row["generator"] == name])
        for role, group in roles.items():
            if not group:
                table.add_row(name, role, "none")
                continue
            first = group[0]
            cells = [_cell(group, roles[FULL], metric) for metric in metrics]
            size = f"{first['bytes']:,}"
            table.add_row(name, role, _bits(first), size, *cells)
    return table


def _bits(row: Row) -> str:
    widths = sorted({tensor["bits"] for tensor in row["tensors"]}, reverse=True)
    return ", ".join(map(str, widths)) or width_label(row)


def _cell(group: list[Row], full: list[Row], metric: str) -> str:
    scores = [sum(row[f"{metric}_{score}"] for row in group) / len(group) for score in SCORES]
    kept = [_percent(retention(group, full, metric, score), "") for score in SCORES]
    return f"{scores[0]:.3f}/{scores[1]:.3f} ({kept[0]}/{kept[1]} %)"


def verdict(measured: list[Row], metrics: list[str], share: float) -> list[str]:
    """What the final samples say of one generator, whichever way it turned out."""
    name, roles = measured[0]["generator"], by_role(measured)
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
            f"{TITLES[m]} {_percent(least_retention(mixed, full, m), '%')} against "
            f"{_percent(least_retention(other, full, m), '%')}"
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
