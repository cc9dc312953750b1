"""How many criteria of two published suites does each metric pass?

    python -m benchmarks.suites [--repeats=10] [--seeds=fresh] [--metrics=KNN,LSH,LSH+KNN]
                                [--suites=sanity,linear] [--rows=1000] [--linear_rows=5000]
                                [--workdir=runs/suites] [--out=benchmarks/results/suites]

- sanity: the fifteen checks of arXiv:2505.22450, each in two parts: its bounds (or independence of
  the sample sizes), and its main property. This makes 30 criteria for fidelity and 30 for
  diversity. A part passes if every line of the check does, judged by means over repeats.
- linear: the four tests of arXiv:2507.01761 and one of ours: scores should fall linearly.

`--repeats=1` takes a tenth of the time. `--seeds=tune` draws other data than `fresh`: choose
defaults with `tune`, and report `fresh`. `--metrics=all` adds the other metrics of
`suite_metrics.py`, which also says how to try another hash. `--checks=a,b` measures only these.

One line per (check, line, metric, repeat) goes to WORKDIR/SEEDS.jsonl, and existing lines are not
measured again; delete the file after a change of the metrics. OUT.md and OUT.csv are made from it;
with `--report` nothing is measured. Two processes may share the file if their metrics differ.
`--repeats=1` takes about ten minutes on two cores, half of it for LSH+KNN in one dimension.
"""

import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
import pandas as pd

from benchmarks import machine, options
from benchmarks import suite_checks as checks
from benchmarks.suite_metrics import METRICS, RELATIVE, Metric, columns, usual
from benchmarks.written import add_row, markdown, read_rows
from lsh_gan.metrics import HashSpec

PARTS = ("bounds", "purpose")
KEY = ["column", "side", "check", "part"]  # key of a letter
SEEDS = {"fresh": 1, "tune": 0}
# Printed below the comparison with published letters.
DIFFERENCES = """\
Ten repeats do not determine all letters. In 200 choices of ten from fifty repeats, KNN passes the
bounds of scaling one dimension in 74 % (fidelity) and 40 % (diversity), and those of + Pareto in
52 % and 39 %: they depend on whether the ball of a single outlier reaches the other set. Density
passes sequential dropping in 46 % (bounds) and 12 % (flat): at d = 64 its range is about .05. All
other letters of the two metrics are as published.

"""
AIMS = dict(zip(checks.SIDES, (0.02, 0.05), strict=True))  # largest deviation from the ideal line
# Scores by (check, line), then by column: [repeats, sides, steps].
Curves = dict[tuple[str, str], dict[str, np.ndarray]]


def lines(suite: str) -> dict[tuple[str, str], checks.Line]:
    """Returns all lines of a suite, by check and name."""
    if suite == "linear":
        return {(name, ""): test.line for name, test in checks.LINEAR.items()}
    return {
        (name, label): line
        for name, check in checks.SANITY.items()
        for label, line in check.lines.items()
    }


def measure(metric: str, known: Mapping[str, Metric], line: checks.Line, job: dict) -> dict:
    """Computes scores of one metric along a line: steps, and [fidelity, diversity] by column."""
    name = zlib.crc32(f"{job['check']}{job['line']}".encode())
    entropy = SEEDS[job["seeds"]], job["repeat"], name
    key, steps, found = jax.random.key(entropy[1] + 1000 * entropy[0]), [], {}
    for x, reference, generated in line(np.random.default_rng(entropy), job["rows"]):
        if job["suite"] == "sanity":
            mean, std = reference.mean(axis=0), reference.std(axis=0)
            reference, generated = (
                (part - mean) / np.where(std > 0, std, 1) for part in (reference, generated)
            )
        sets = (part.astype(np.float32) for part in (reference, generated))
        steps.append(float(x))
        for column, scores in columns(metric, known[metric](key, *sets)).items():
            found.setdefault(column, []).append([round(score, 5) for score in scores])
    return {"x": steps, "columns": {c: np.transpose(v).tolist() for c, v in found.items()}}


def run(file: Path, jobs: list[dict], known: Mapping[str, Metric]) -> None:
    """Measures the jobs that the file lacks, and adds one line for each."""
    done = [{name: row[name] for name in jobs[0]} for row in read_rows(file)]
    missing = [job for job in jobs if job not in done]
    start = time.perf_counter()
    for count, job in enumerate(missing, 1):
        try:
            line = lines(job["suite"])[job["check"], job["line"]]
            found = measure(job["metric"], known, line, job)
        except ImportError as error:
            print(f"{job['metric']}: left out ({error})", flush=True)
            continue
        add_row(file, {**job, **found})
        label = " ".join(map(str, (job["repeat"], job["metric"], job["check"], job["line"])))
        seconds = time.perf_counter() - start
        print(f"{count} of {len(missing)}, {seconds:.0f} s: {label}", flush=True)
        if count % 5 == 0:  # a process may map only so many programs
            jax.clear_caches()


def curves_of(rows: list[dict]) -> Curves:
    """Joins rows over repeats; cuts scores over a ceiling at 1."""
    found: dict = {}
    for row in rows:
        for column, scores in row["columns"].items():
            by = found.setdefault((row["check"], row["line"]), {})
            scores = np.minimum(scores, 1) if column.endswith(RELATIVE) else np.array(scores)
            by.setdefault(column, []).append(scores)
    return {line: {c: np.stack(v) for c, v in by.items()} for line, by in found.items()}


def judge(curves: Curves) -> pd.DataFrame:
    """Judges every criterion of the sanity checks, one row per column, side, check, part, line."""
    found = []
    for (name, line), by_column in curves.items():
        for column, scores in by_column.items():
            for side, y in zip(checks.SIDES, scores.mean(axis=0), strict=True):
                for part in PARTS:
                    for label, entry in getattr(checks.SANITY[name], part).items():
                        if criterion := checks.criterion_of(entry, line, side):
                            key = (column, side, name, part, line, label)
                            found.append((*key, *criterion(y)))
    return pd.DataFrame(found, columns=[*KEY, "line", "criterion", "passed", "value"])


def letter(passed: Iterable[bool | str]) -> str:
    """Returns T, f, L or H for a part of a check: all must pass, and not some low and some high."""
    kinds = set(passed)
    if False in kinds or {"low", "high"} <= kinds:
        return "f"
    return "L" if "low" in kinds else "H" if "high" in kinds else "T"


def sanity_report(verdicts: pd.DataFrame, curves: Curves) -> Iterator[str]:
    """Yields counts, all letters, and the letters that differ from the published ones."""
    letters = verdicts.groupby(KEY, sort=False)["passed"].agg(letter)
    yield "## Sanity checks (arXiv:2505.22450)\n\nPassed parts, and passed single criteria:\n\n"
    body = []
    for column, mine in verdicts.groupby("column", sort=False):
        cells = [column]
        for side in checks.SIDES:
            passed, single = letters[column, side] != "f", mine["passed"][mine["side"] == side]
            cells += [f"**{passed.sum()}** of {len(passed)}", f"{single.ne(False).sum()} of"]
            cells[-1] += f" {len(single)}"
        repeats = min(len(by[column]) for by in curves.values() if column in by)
        body.append([*cells, repeats])
    head = ["", "fidelity", "single", "diversity", "single", "repeats"]
    yield (
        f"{markdown(head, body)}\n"
        "T passed, f failed, L or H passed as a low or a high metric; bounds, then purpose "
        "(hypercubes: independence of sizes, then the score).\n\n"
    )
    for side in checks.SIDES:
        pairs = letters.xs(side, level="side").unstack("part", sort=False)[list(PARTS)]
        shown = pairs.fillna("").agg(" ".join, axis=1).unstack("column", sort=False).fillna(" ")
        yield f"{markdown([side, *shown], shown.reset_index().to_numpy())}\n"
    yield "### Against the published tables\n\n" + _published(verdicts, letters)


def _published(verdicts: pd.DataFrame, letters: pd.Series) -> str:
    known = letters[letters.index.isin(checks.PUBLISHED_COLUMNS, level="column")]
    if known.empty:
        return "None of the published metrics was measured.\n\n"
    body, order = [], [*known.index.unique("column"), *checks.SIDES]
    for key, ours in sorted(known.items(), key=lambda item: [*map(order.index, item[0][:2])]):
        column, side, check, part = key
        pair = checks.PUBLISHED[check][PARTS.index(part)]
        theirs = pair[checks.SIDES.index(side)][checks.PUBLISHED_COLUMNS.index(column)]
        if ours != theirs:
            judged = verdicts[(verdicts[KEY] == list(key)).all(axis=1)]
            judged = judged if ours != "f" else judged[judged["passed"].eq(False)]
            values = judged[["line", "criterion", "value", "passed"]].astype(str).agg(" ".join, 1)
            body.append([*key, theirs, ours, "; ".join(values)])
    head = [*KEY, "published", "here", "judged"]
    said = f"{len(known) - len(body)} of {len(known)} letters are as published.\n\n"
    return f"{said}{markdown(head, body)}\n" + DIFFERENCES


def deviations(curves: Curves, name: str) -> dict[str, tuple[float, float]]:
    """Returns the largest deviation of mean curves in a linear test, by column and side.

    Scores without a ceiling are divided by their value at the step without damage.
    """
    test, out = checks.LINEAR[name], {}
    for column, scores in curves[name, ""].items():
        worst = []
        for side, y in zip(checks.SIDES, scores.mean(axis=0), strict=True):
            if not column.endswith(RELATIVE):
                start = y[len(y) // 2 if test.mirrored else 0]
                y = y / start if start else y
            worst.append(float(np.abs(y - _ideal(test, name, side, y)).max()))
        out[column] = tuple(worst)
    return out


def _ideal(test: checks.Test, name: str, side: str, y: np.ndarray) -> np.ndarray:
    steps = test.line(np.random.default_rng(0), 20)
    return y[::-1] if test.mirrored else getattr(test, side)(np.array([x for x, *_ in steps]))


def linear_report(curves: Curves) -> str:
    """Formats the largest deviations of every column in every linear test."""
    names = [name for name, _ in curves]
    found = {name: deviations(curves, name) for name in names}
    body = []
    for column in next(iter(found.values())):
        cells = [column]
        for name in names:
            values = found[name].get(column, (np.nan, np.nan))  # not measured yet
            for side, value in zip(checks.SIDES, values, strict=True):
                cells.append(f"**{value:.3f}**" if value <= AIMS[side] else f"{value:.3f}")
        body.append(cells)
    head = ["", *(f"{name}: {side}" for name in names for side in checks.SIDES)]
    return (
        "## Linear scores (arXiv:2507.01761)\n\nLargest deviation from the ideal line; **bold**: "
        f"fidelity at most {AIMS['fidelity']}, diversity at most {AIMS['diversity']}. Translation: "
        f"difference of the scores at μ and -μ.\n\n{markdown(head, body)}\n"
    )


def write(out: Path, rows: list[dict], head: str) -> None:
    """Writes and prints OUT.md, and writes OUT.csv with every single criterion."""
    parts = {s: curves_of([row for row in rows if row["suite"] == s]) for s in ("sanity", "linear")}
    verdicts = judge(parts["sanity"])
    text = head + "".join(sanity_report(verdicts, parts["sanity"])) if len(verdicts) else head
    text += linear_report(parts["linear"]) if parts["linear"] else ""
    print(text)
    out.with_suffix(".md").write_text(text)
    if len(verdicts):
        verdicts.to_csv(out.with_suffix(".csv"), index=False)


def main(known: Mapping[str, Metric] = METRICS) -> None:
    """Measures missing jobs, then writes the tables."""
    args = options.parse(
        __doc__, repeats=10, seeds=tuple(SEEDS), metrics=usual(known), suites="sanity,linear",
        checks="", report=False, rows=1000, linear_rows=5000, workdir=Path("runs/suites"),
        out=Path("benchmarks/results/suites"),
    )  # fmt: skip
    asked = ",".join(known) if args.metrics == "all" else args.metrics
    chosen = options.names("--metrics", asked, known)
    sizes = {"sanity": args.rows, "linear": args.linear_rows}
    suites = options.names("--suites", args.suites, sizes)
    every = {check: None for suite in suites for check, _ in lines(suite)}
    wanted = options.names("--checks", args.checks, every) if args.checks else every
    for folder in (args.out.parent, args.workdir):
        folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        {
            "suite": suite, "check": check, "line": line, "metric": metric, "repeat": repeat,
            "seeds": args.seeds, "rows": sizes[suite],
        }
        for repeat in range(args.repeats)
        for metric in chosen
        for suite in suites
        for check, line in lines(suite)
        if check in wanted
    ]  # fmt: skip
    file = args.workdir / f"{args.seeds}.jsonl"
    if not args.report:
        run(file, jobs, known)
    rows = [row for row in read_rows(file) if {name: row[name] for name in jobs[0]} in jobs]
    if not rows:
        sys.exit("error: there is nothing to report; every metric was left out")
    head = (
        f"# Two published suites\n\n`python -m benchmarks.suites --repeats={args.repeats} "
        f"--seeds={args.seeds}`, {machine.processor()}.\nDefaults: `{HashSpec()!r}`.\n"
        "Columns over a ceiling are cut at 1.\n\n"
    )
    write(args.out, rows, head)


if __name__ == "__main__":
    main()
