"""Reports on a search: the chosen widths, and how they compare with uniform ones."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from lsh_gan.results import labels
from lsh_gan.results.answer import changes, kept_of
from lsh_gan.results.labels import SCORES, TITLES, deciding, widths_of

# Roles of rows, in the order of the table.
FULL = "full precision"
MIXED = "mixed precision"
WITHIN = "best uniform that the search accepts"
SAME_SIZE = "best uniform of no more bytes"
ROLES = (FULL, WITHIN, MIXED, SAME_SIZE)
Roles = dict[str, Any]  # a line of `report.summarise`, or None, by role


def write(
    workdir: Path, lines: pd.DataFrame, metrics: list[str], share: float, caption: str = ""
) -> list[str]:
    """Writes and prints `search.md` and `widths.md`; returns a verdict per generator.

    `share` is the share of the scores at full precision to keep. `lines` are those of
    `report.summarise`. The caption describes the conditions of the measurements.
    """
    found: dict[str, Roles] = {}
    for line in lines.to_dict("records"):
        roles = found.setdefault(line["generator"], dict.fromkeys(ROLES))
        roles |= dict.fromkeys(line["roles"], line)
    labels.print_and_save(workdir / "widths.md", make_width_table(found))
    notes = [verdict(*item, metrics, share) for item in found.items()]
    labels.print_and_save(workdir / "search.md", make_table(found, metrics, caption), notes=notes)
    return notes


def make_width_table(found: dict[str, Roles]) -> Table:
    """Makes a table of the chosen width of each tensor."""
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
        for tensor in (roles[MIXED] or {"tensors": []})["tensors"]
    ]
    columns = ["generator", "tensor", "shape", "bits", "SQNR dB", "bytes"]
    return labels.make_rich(pd.DataFrame(lines, columns=columns), text=3, title="chosen widths")


def make_table(found: dict[str, Roles], metrics: list[str], caption: str) -> Table:
    """Makes a table of size, precision/recall and their kept shares, a line per role."""
    cells = []
    for name, roles in found.items():
        for role, line in roles.items():
            cells.append({"generator": name, "setting": role, "bits": "none"})
            if line is not None:
                cells[-1] |= {"bits": widths_of(line), "bytes": f"{line['bytes']:,}"}
                cells[-1] |= {TITLES[metric]: _cell(line, metric, role) for metric in metrics}
    title = "precision/recall (kept shares ± paired standard error)"
    return labels.make_rich(pd.DataFrame(cells).fillna(""), text=3, title=title, caption=caption)


def _cell(line: dict[str, Any], metric: str, role: str) -> str:
    scores = "/".join(f"{line[f'{metric}_{score}']:.3f}" for score in SCORES)
    if role == FULL:
        return scores
    shares = []
    for share, error in kept_of(line, metric).values():
        kept = "–" if math.isnan(share) else f"{share:.0%}".rstrip("%")
        shares.append(kept + (f"±{labels.percent_error(error)}" if error > 0 else ""))
    return f"{scores} ({'/'.join(shares)} %)"


def _keeps(line: dict[str, Any], metric: str, share: float) -> bool:
    """Whether a line keeps the share of both scores, within a standard error."""
    kept = kept_of(line, metric).values()
    return all(x.share + np.nan_to_num(x.stderr) >= share for x in kept)


def verdict(name: str, roles: Roles, metrics: list[str], share: float) -> str:
    """Says what the search achieved for one generator, by the scores of the final samples."""
    mixed, metric = roles[MIXED], deciding(metrics)
    asked = f"{100 * share:g}% of precision and recall by {TITLES[metric]}"
    if mixed is None:
        return f"{name}: no setting keeps {asked}."
    keeps = _keeps(mixed, metric, share)
    least = min(kept_of(mixed, metric).values()).share
    within = " within the error" if keeps and least < share else ""
    text = (
        f"{name}: mixed precision ({widths_of(mixed)} bits) keeps {'' if keeps else 'less than '}"
        f"{asked}{within} on generated samples that the search has not seen "
        f"({changes(mixed, metric)}): {name}.packed, {mixed['bytes']:,} bytes, "
        f"{mixed['ratio']:.1f}× smaller."
    )
    for role in (WITHIN, SAME_SIZE):
        other = roles[role]
        if other is None:
            text += f" There is no {role}."
        else:
            size = f"{widths_of(other)} bits, {other['bytes']:,} bytes"
            less = role == WITHIN and not _keeps(other, metric, share)  # the search had others
            said = f", which keep less than {100 * share:g}% on these samples" if less else ""
            text += f" The {role}: {size} ({changes(other, metric)}){said}."
    return text + "".join(f" By {TITLES[m]}: {changes(mixed, m)}." for m in metrics if m != metric)
