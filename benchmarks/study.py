"""Tests the paper's claims on every generator of `configs/study.py`, with paired intervals.

    python -m benchmarks.study [--data=fashion_mnist,mnist,...] [--num_images=10000] [--seeds=0,1,2]
        [--distances=kid,fid] [--runs=runs/study] [--network] [--out=benchmarks/results]

Runs the missing rows of each data set (a stopped run continues), and writes study.md, study.csv and
one picture per claim. --network also runs Fashion-MNIST in the features of `efficientnet_lite2`,
with only the first seed. --distances="" leaves out KID and FID, which only claim (g) needs, and
which take most of the time. --report_only reports the rows that the work folders hold.

An interval is two standard errors of the paired difference (`lsh_gan.results.answer`). Claim (c),
how the time of a metric grows, is measured by `benchmarks.metrics`.
"""

import math
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd

from benchmarks import machine, options, study_outliers, study_plots
from benchmarks.written import markdown
from configs import study
from lsh_gan.experiment import sweep
from lsh_gan.results import report, store
from lsh_gan.results.answer import NOISE, answers, retention
from lsh_gan.results.labels import SCORES, TITLES

METRICS = study_outliers.METRICS
LOW = (4, 3, 2)  # bits
SETTING = ["generator", "clipping", "bits", "metric"]
CHANGES = {"precision": "1 % in the reference: precision", "recall": "own outliers: recall"}
OTHER = "fashion_mnist, efficientnet_lite2"


def configuration(title, num_images, seeds, distances):
    """Makes the configuration of a data set, or of `OTHER`."""
    name, _, network = title.partition(", ")
    config = study.get_config(name)
    config.num_samples = min(num_images, config.num_samples)
    config.reference.num_images = config.num_samples
    config.seeds = seeds[:1] if network else seeds
    config.metrics = (*METRICS, *distances)
    config.features.name = network or config.features.name
    return config


def compare(data, rows):
    """Returns a line per generator, clipping, width and metric: shares kept of full precision.

    `gain` is the share kept of the score at the same width without clipping.
    """
    groups = {}
    for row in rows:
        groups.setdefault((row["generator"], row["clipping"], row["bits"]), []).append(row)
    lines = []
    for (generator, clipping, bits), group in groups.items():
        full = groups.get((generator, None, None), [])
        plain = groups.get((generator, "none", bits), [])
        if bits is None or not full or not plain:  # a run that has not ended lacks rows
            continue
        for metric in METRICS:
            line = {"data": data, "generator": generator, "clipping": clipping, "bits": bits}
            line |= {"metric": metric, "seeds": len(group)}
            for score in SCORES:
                line[score] = np.mean([row[f"{metric}_{score}"] for row in group])
                kept = retention(group, full, metric, score)
                gain = retention(group, plain, metric, score)
                line |= {f"{score}_kept": kept.share, f"{score}_stderr": kept.stderr}
                line |= {f"{score}_gain": gain.share, f"{score}_gain_stderr": gain.stderr}
            lines.append(line)
    return lines


def falls(frame):
    """Says which score a setting loses more of: "recall", "precision", or "both" within noise."""
    gap = frame["precision_kept"] - frame["recall_kept"]
    noise = NOISE * np.hypot(frame["precision_stderr"], frame["recall_stderr"])
    return pd.Series(np.select([gap > noise, gap < -noise], ["recall", "precision"], "both"))


def moves(frame, score):
    """Says what clipping does to a score: "better", "worse", or "≈" within noise."""
    change, noise = frame[f"{score}_gain"] - 1, NOISE * frame[f"{score}_gain_stderr"]
    return pd.Series(np.select([change > noise, change < -noise], ["better", "worse"], "≈"))


def verdict_a(frame):
    """Tests claim (a): low-bit compression keeps precision and loses recall."""
    low = frame[frame["bits"].isin(LOW)].reset_index(drop=True)
    low["falls"], low["keeps"] = falls(low), low["precision_kept"] > 0.9
    by = ["metric", "bits"]
    table = low.groupby([*by, "falls"]).size().unstack(fill_value=0)
    table = table.reindex(columns=["recall", "precision", "both"], fill_value=0)
    table = table.add_prefix("falls more: ").assign(
        keeps=low.groupby(by)["keeps"].sum(), of=low.groupby(by).size()
    )
    table = table.rename(columns={"keeps": "over 90 % of precision kept"})
    share = low["falls"].value_counts(normalize=True)
    kept = low.groupby("bits")["keeps"].mean()
    text = (
        f"Recall falls more than precision in {share.get('recall', 0):.0%} of the settings of 4 to "
        f"2 bits, precision more than recall in {share.get('precision', 0):.0%} (by more than two "
        "paired standard errors); more than 90 % of precision is kept in "
        f"{', '.join(f'{kept[bits]:.0%} at {bits} bits' for bits in LOW if bits in kept)}."
    )
    return text, table.sort_index(ascending=[True, False]).reset_index()


def verdict_b(found):
    """Tests claim (b): outliers, also those of compressed generators, change LSH metrics less."""
    lines = []
    for metric, mine in found.groupby("metric", sort=False):
        line = {"metric": TITLES[metric]}
        for score in SCORES:
            change = mine[f"{score}_change"]
            real = change.abs() > NOISE * mine[f"{score}_stderr"]
            name = CHANGES[score]
            line[f"{name}, mean change in points"] = 100 * change.abs().mean()
            line[f"{name}, most"] = 100 * change[change.abs().idxmax()]
            line[f"{name}, moved in"] = f"{real.sum()} of {len(mine)}"
        lines.append(line)
    table = pd.DataFrame(lines).set_index("metric")
    most = found["outliers"].max()

    def told(score):
        columns = [f"{CHANGES[score]}, mean change in points", f"{CHANGES[score]}, moved in"]
        return ", ".join(
            f"{name} by {mean:.2f} points ({moved} beyond noise)"
            for name, mean, moved in zip(table.index, *(table[c] for c in columns), strict=True)
        )

    text = (
        "Outliers that compressed generators make themselves are rare (at most "
        f"{most:.2%} of the samples) and change recall by {told('recall')}; 1 % of broad outliers "
        f"in the reference change precision by {told('precision')}."
    )
    return text, table.reset_index()


def verdict_d(frame):
    """Tests claim (d): clipping helps."""
    clipped = frame[frame["clipping"] != "none"].reset_index(drop=True)
    for score in SCORES:
        clipped[f"{score} moves"] = moves(clipped, score)
    lines = []
    for (clipping, bits), mine in clipped.groupby(["clipping", "bits"]):
        line = {"clipping": clipping, "bits": bits, "of": len(mine)}
        for score in SCORES:
            line |= {
                f"{score} {word}": int((mine[f"{score} moves"] == word).sum())
                for word in ("better", "worse")
            }
            gain = mine[f"{score}_gain"].replace(math.inf, np.nan).median()
            line |= {f"{score} median": f"{100 * (gain - 1):+.1f} %"}
        lines.append(line)
    table = pd.DataFrame(lines).sort_values(["clipping", "bits"], ascending=[True, False])
    better = table["recall better"] + table["precision better"]
    worse = table["recall worse"] + table["precision worse"]
    helps = table[(better >= table["of"]) & (better > 2 * worse)].groupby("clipping")["bits"]
    said = "; ".join(f"{name} at {' and '.join(map(str, bits))} bits" for name, bits in helps)
    text = (
        "Clipping helps (at least half of the scores are better, and less than half as many worse, "
        f"by more than two paired standard errors) with {said or 'no method'}."
    )
    return text, table


def verdict_e(frame, other):
    """Tests claim (e): (a) and (d) also hold, per setting, in the features of another network."""
    both = frame.merge(other, on=SETTING, suffixes=("", "_other"))
    here = both[list(frame)]
    there = both.drop(columns=list(frame.columns.difference(SETTING))).rename(
        columns=lambda name: name.removesuffix("_other")
    )
    low, clipped = both["bits"].isin(LOW), both["clipping"] != "none"
    pairs = {"(a) falls more": (falls(here)[low], falls(there)[low])}
    for score in SCORES:
        said = moves(here, score)[clipped], moves(there, score)[clipped]
        pairs[f"(d) clipping, {score}"] = said
    lines, opposite = [], {"recall": "precision", "better": "worse"}
    opposite |= {b: a for a, b in opposite.items()}
    for claim, (a, b) in pairs.items():
        against = (a.map(opposite) == b).sum()
        lines.append({"claim": claim, "equal": (a == b).sum(), "contrary": against, "of": len(a)})
    table = pd.DataFrame(lines)
    text = (
        "Another feature network (EfficientNet-Lite2) agrees with Lite0 on which score falls more "
        f"in {table['equal'][0]} of {table['of'][0]} settings of 4 to 2 bits and contradicts it in "
        f"{table['contrary'][0]}; on what clipping does, it agrees in {table['equal'][1:].sum()} "
        f"of {table['of'][1:].sum()} and contradicts it in {table['contrary'][1:].sum()}."
    )
    return text, table, both


def widths(folders, keep=0.95):
    """Finds the smallest width that keeps a share, by each metric, with any clipping; 0: none."""
    lines = []
    for data, rows in folders.items():
        found = report.summarise(rows, list(METRICS))
        for generator, mine in found.groupby("generator", sort=False):
            line = {"data": data, "generator": generator}
            kept = mine[mine["setting"] != ""]
            for metric in METRICS:
                shares = kept[[f"{metric}_{s}_kept" for s in SCORES]].to_numpy()
                errors = kept[[f"{metric}_{s}_kept_stderr" for s in SCORES]].fillna(0).to_numpy()
                good = kept[(shares + errors >= keep).all(axis=1)]
                line[metric] = int(good["bits"].astype(int).min()) if len(good) else 0
            lines.append(line)
    return pd.DataFrame(lines)


def verdict_f(found):
    """Tests claim (f): the metrics agree on the smallest width that keeps 95 %."""
    apart = found[list(METRICS)].max(axis=1) - found[list(METRICS)].min(axis=1)
    none = (found[list(METRICS)] == 0).any(axis=1)
    text = (
        "KNN, LSH+KNN and LSH name the same smallest width that keeps 95 % for "
        f"{(apart == 0).sum()} of {len(found)} generators, and widths at most one bit apart for "
        f"{((apart <= 1) & ~none).sum()}; KNN and LSH+KNN agree for "
        f"{(found['knn'] == found['lsh_knn']).sum()}."
    )
    table = found.rename(columns=TITLES)
    return text, table.replace({title: {0: "none"} for title in TITLES.values() if title in table})


def distances_of(folders):
    """Returns KID, FID and the scores by KNN of every row; empty if KID and FID were left out."""
    lines = [
        {
            "generator": row["generator"], "clipping": row["clipping"], "bits": row["bits"],
            "precision": row["knn_precision"], "recall": row["knn_recall"],
            "KID": row["kid_distance"], "FID": row["fid_distance"],
        }
        for rows in folders.values() for row in rows if "fid_distance" in row
    ]  # fmt: skip
    return pd.DataFrame(lines)


def verdict_g(found):
    """Answers (g), which of the two losses KID and FID follow, by rank correlations."""
    lines = []
    for generator, mine in found.groupby("generator", sort=False):
        ranks = mine[["precision", "recall", "KID", "FID"]].corr(method="spearman")
        full = mine[mine["bits"].isna()].iloc[0]
        line = {"generator": generator, "KID at full precision": full["KID"], "FID": full["FID"]}
        for bits in LOW:
            low = mine[(mine["bits"] == bits) & (mine["clipping"] == "mse")]
            line[f"FID, {bits} bits, mse"] = low["FID"].mean()
        for name in ("KID", "FID"):
            for score in SCORES:
                line[f"ρ of {name} and {score}"] = ranks.loc[name, score]
        lines.append(line)
    table = pd.DataFrame(lines)
    closer = table["ρ of FID and recall"] < table["ρ of FID and precision"]
    said = (
        f"{score} {table[f'ρ of FID and {score}'].min():.2f} to "
        f"{table[f'ρ of FID and {score}'].max():.2f}"
        for score in SCORES
    )
    text = (
        f"FID follows recall more closely than precision for {closer.sum()} of {len(table)} "
        f"generators (rank correlation by KNN over all settings: {', '.join(said)})."
    )
    return text, table


def as_text(table):
    """Formats a table as Markdown."""
    shown = [[f"{x:.3g}" if isinstance(x, float) else x for x in row] for row in table.values]
    return markdown(table.columns, shown).rstrip()


def spent(rows):
    """Returns the hours that rows took."""
    return sum(sum(row["seconds"].values()) for row in rows) / 3600


def write(folders, outliers, out):
    """Writes the verdicts, each with a table and a picture.

    Args:
        folders: Rows by the title of a run.
        outliers: Results of `study_outliers.measure` for all generators.
        out: The folder to write to.

    Returns:
        The text of the report.
    """
    lines = [line for title, found in folders.items() for line in compare(title, found)]
    frame = pd.DataFrame(lines)
    plain = {title: found for title, found in folders.items() if title != OTHER}
    other = frame[frame["data"] == OTHER]
    frame_0 = frame[frame["data"] != OTHER]
    found = widths(plain)
    parts = [
        ("a", "kept", *verdict_a(frame_0), study_plots.plot_kept(frame_0)),
        ("b", "outliers", *verdict_b(outliers), study_plots.plot_outliers(outliers)),
        ("d", "clipping", *verdict_d(frame_0), study_plots.plot_gain(frame_0)),
        ("f", "widths", *verdict_f(found), study_plots.plot_widths(found)),
    ]
    if len(other):
        text, table, both = verdict_e(frame[frame["data"] == OTHER.partition(", ")[0]], other)
        parts.insert(3, ("e", "network", text, table, study_plots.plot_networks(both)))
    if len(beside := distances_of(plain)):
        parts.append(("g", "distances", *verdict_g(beside), study_plots.plot_distances(beside)))
    out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(out / "study.csv", index=False, float_format="%.4g")
    outliers.to_csv(out / "study_outliers.csv", index=False, float_format="%.4g")
    conditions = [
        f"{title}: n = {rows[0]['n']:,}, m = {rows[0]['m']:,}, {len({r['seed'] for r in rows})} "
        f"seed(s), {len(rows)} rows, {spent(rows):.1f} h, {rows[0]['features']['name']} at "
        f"{rows[0]['features']['side']} px, reference {rows[0]['reference_name']}"
        for title, rows in folders.items()
    ]
    text = ["## Study", f"{machine.describe()}.", "\n".join(f"- {line}" for line in conditions)]
    for claim, name, verdict, table, figure in parts:
        figure.savefig(out / f"study_{name}.png")
        text += [f"### ({claim}) {verdict}", f"![{verdict}](study_{name}.png)", as_text(table)]
    text.append("### Answers")
    for rows in plain.values():
        summary = report.summarise(rows, list(METRICS))
        text += [f"- {line}" for line in answers(summary, list(METRICS), 0.95)]
    (out / "study.md").write_text("\n\n".join(text) + "\n")
    return "\n\n".join(text)


def main():
    """Runs the missing rows and writes the verdicts."""
    args = options.parse(
        __doc__, data=",".join(study.GENERATORS), num_images=10_000, seeds="0,1,2",
        distances="kid,fid", runs=Path("runs/study"), out=Path("benchmarks/results"),
        network=False, report_only=False,
    )  # fmt: skip
    titles = options.names("data", args.data, study.GENERATORS) + ([OTHER] if args.network else [])
    seeds = tuple(map(int, args.seeds.split(",")))
    distances = tuple(filter(None, args.distances.split(",")))
    folders, outliers = {}, []
    for title in titles:
        config = configuration(title, args.num_images, seeds, distances)
        workdir = args.runs / title.replace(", ", "_")
        if not args.report_only:
            sweep.run(config, workdir)
        folders[title] = store.with_hits(workdir, store.read_requested(workdir))
        if title != OTHER:
            file = workdir / "outliers.csv"
            if not file.exists():
                found = study_outliers.measure(config, workdir, "mse", LOW)
                pd.DataFrame(found).to_csv(file, index=False)
            outliers.append(pd.read_csv(file))
    with mpl.rc_context(study_plots.STYLE):
        print(write(folders, pd.concat(outliers, ignore_index=True), args.out))


if __name__ == "__main__":
    main()
