"""How far does each score fall when the pixels of real images are damaged?

    python -m benchmarks.image_damage [--data=fashion_mnist] [--rows=2000] [--seeds=fresh]
                                      [--hashes=4] [--metrics=KNN,LSH,LSH+KNN]
                                      [--workdir=runs/image_damage]
                                      [--out=benchmarks/results/image_damage]

Half of the drawn real images are the reference. The other half are the samples: they are damaged in
nine ways of five steps each (`DAMAGES`) and embedded by EfficientNet-Lite0 at 64 px. The truth of a
step is the mean distance in features between a damaged image and the same image undamaged, divided
by the root mean square distance of reference rows from their mean. For "upside down" and
"inverted", the step is the share of damaged images (half inverted pixels would be flat grey). Then:

- compressed generators, flat and garbage images, and features damaged as in `validity.py`;
- calibration: a growing share of samples is replaced by bad ones, in four ways, and relative
  precision should be 1 - share. Or only some classes are kept, in as many rows as the rarest class
  has, and relative recall should be their share; classes overlap, so that this is not exact.

Scores are divided by their ceilings and not cut at 1; metrics without ceilings are shown as they
are. They are means over hashes: between single hashes, garbage varies by a factor of three.

Features are kept in WORKDIR, so that another hash takes seconds; `suite_metrics.py` says how to try
one. Scores are kept in WORKDIR/SEEDS.jsonl: delete it after a change of the metrics. Embedding
takes about three minutes on two cores. Writes OUT.md, OUT.csv, OUT.png and OUT_images.png.
"""

import io
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from benchmarks import machine, options, suites
from benchmarks import validity_cases as cases
from benchmarks.suite_metrics import DENSITY, METRICS, RELATIVE, Metric, columns, usual
from benchmarks.written import add_row, markdown, read_rows
from lsh_gan import datasets
from lsh_gan.metrics import HashSpec

SIDES = ("precision", "recall")
KNN = "KNN" + RELATIVE
LEAST_FALL = 0.05  # of KNN's relative score; falls are not compared with a smaller one
AIMS = 0.95, 0.5  # for ρ with the truth, and for a fall divided by KNN's
SHARES = tuple(i / 10 for i in range(11))
# Sets whose images are shown with their precision.
SHOWN = (
    "blur 0.6 px", "blur 0.8 px", "blur 1.2 px", "dimmed 0.2 of the light", "grey levels 1 bit",
    "noise 5 sd of 255", "JPEG 20 quality", "sngan, full precision", "sngan, 2 bits",
    "sngan, 2 bits per tensor (garbage)", "flat grey",
)  # fmt: skip
# Data set -> generators that were trained on it.
GENERATORS = {"fashion_mnist": ("dcgan", "sngan")}

# Scores by set, then by column: (precision, recall).
Found = dict[str, dict[str, tuple[float, float]]]


def _grey_levels(images, bits, _):
    steps = 2**bits - 1
    return np.round(images / 255 * steps) * 255 / steps


def _jpeg(images, quality, _):
    def coded(image):
        stream = io.BytesIO()
        Image.fromarray(image.squeeze().astype(np.uint8)).save(stream, "JPEG", quality=quality)
        return np.asarray(Image.open(stream)).reshape(image.shape)

    return np.stack([coded(image) for image in images])


def _first(damaged: Callable, images, share, _):
    """Damages the first images, a given share of all."""
    count = round(share * len(images))
    return np.concatenate([damaged(images[:count]), images[count:]])


class Damage(NamedTuple):
    """A damage to images `[n, h, w, c]` with values 0 to 255, and its level at each step."""

    unit: str
    levels: tuple
    apply: Callable[[np.ndarray, Any, np.random.Generator], np.ndarray]


DAMAGES = {
    "blur": Damage("px", (0.4, 0.6, 0.8, 1.2, 2.0),
                   lambda x, sigma, _: gaussian_filter(x, (0, sigma, sigma, 0))),
    "noise": Damage("sd of 255", (2.5, 5, 15, 30, 60),
                    lambda x, std, rng: x + std * rng.normal(size=x.shape)),
    "dimmed": Damage("of the light", (0.9, 0.8, 0.6, 0.4, 0.2), lambda x, factor, _: x * factor),
    "grey levels": Damage("bit", (5, 4, 3, 2, 1), _grey_levels),
    "JPEG": Damage("quality", (80, 50, 20, 10, 5), _jpeg),
    "salt": Damage("of pixels", (0.002, 0.005, 0.01, 0.02, 0.05),
                   lambda x, p, rng: np.where(rng.random(x.shape[:3])[..., None] < p, 255, x)),
    "shift": Damage("px", (1, 2, 4, 6, 8),
                    lambda x, n, _: np.pad(x, ((0, 0), (0, 0), (n, 0), (0, 0)))[:, :, :-n]),
    "upside down": Damage("of images", SHARES[2::2], partial(_first, lambda x: x[:, ::-1])),
    "inverted": Damage("of images", SHARES[2::2], partial(_first, lambda x: 255 - x)),
}  # fmt: skip


def damage(images: np.ndarray, name: str, level: Any) -> np.ndarray:
    """Damages uint8 images; steps share their random numbers."""
    found = DAMAGES[name].apply(images.astype(np.float32), level, np.random.default_rng(0))
    return np.clip(np.round(found), 0, 255).astype(np.uint8)


def label_of(name: str, level: Any) -> str:
    """Returns the name of a step."""
    return f"{name} {level:g} {DAMAGES[name].unit}"


def labels_of(name: str) -> list[str]:
    """Returns the names of the steps of a damage."""
    return [label_of(name, level) for level in DAMAGES[name].levels]


class Sets(NamedTuple):
    """Features of one data set.

    Attributes:
        images: The images behind `base`, uint8 `[n, h, w, c]`.
        reference: float32 `[n, d]`.
        base: Other real images, which are damaged, float32 `[n, d]`.
        pool: All real images outside the reference, float32 `[p, d]`.
        labels: Their classes, int `[p]`; None where they are unknown.
        made: Features of damaged and generated images by name, float32 `[n, d]`.
    """

    images: np.ndarray
    reference: np.ndarray
    base: np.ndarray
    pool: np.ndarray
    labels: np.ndarray | None
    made: dict[str, np.ndarray]


def load(data: str, rows: int, seeds: str, workdir: Path) -> Sets:
    """Embeds all sets that are scored, or reads their features from the work folder."""
    images, labels = datasets.load_images(data), Path(__file__).parent / f"{data}_labels.npz"
    order = np.random.default_rng(suites.SEEDS[seeds]).permutation(len(images))
    if len(images) < 2 * rows:
        sys.exit(f"error: {data} has {len(images)} images; --rows={rows} needs {2 * rows}")
    folder, base = workdir / f"{data}_{rows}_{seeds}", images[order[rows : 2 * rows]]
    makers = _images(data, base)
    made = {name: _kept(folder / f"{name}.npz", make) for name, make in makers.items()}
    features = _kept(workdir / f"{data}.npz", lambda: images)[order]
    known = np.load(labels)["labels"] if labels.exists() else None
    return Sets(
        base, features[:rows], features[rows : 2 * rows], features[rows:],
        None if known is None else known[order][rows:], made,
    )  # fmt: skip


def _kept(file: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Reads features from a file, or embeds the images of `make` and writes it (atomically)."""
    if not file.exists():
        print(f"embedding {file.stem}", flush=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f"part.{file.name}")
        np.savez(part, features=cases.embed(make()))
        part.replace(file)
    return np.load(file)["features"]


def _images(data: str, base: np.ndarray) -> dict[str, Callable[[], np.ndarray]]:
    """Returns functions that make images, by name: damaged, generated, flat and random ones."""
    rng, count = np.random.default_rng(1), len(base)
    grey = rng.integers(0, 256, (count, 1, 1, 1), np.uint8)
    makers = {
        label_of(name, level): partial(damage, base, name, level)
        for name, kind in DAMAGES.items()
        for level in kind.levels
    }
    for name in GENERATORS.get(data, ()):
        drawn = partial(cases.generated, name, count=count, seed=1)
        for bits in (0, 4, 3, 2):
            label = f"{name}, {bits} bits" if bits else f"{name}, full precision"
            makers[label] = partial(drawn, bits, granularity="per_channel", clipping="mse")
        makers[f"{name}, 2 bits per tensor (garbage)"] = partial(drawn, 2)
    makers["flat grey"] = lambda: np.broadcast_to(grey, base.shape)
    makers["pixels drawn at random"] = lambda: rng.integers(0, 256, base.shape, np.uint8)
    return makers


def feature_cases(sets: Sets) -> dict[str, np.ndarray]:
    """Returns features that were damaged directly, by name."""
    rng, base, mean = np.random.default_rng(2), sets.base, sets.reference.mean(axis=0)
    eight = base[np.stack([rng.permutation(len(base)) for _ in range(8)])].mean(axis=0)
    dirty, count = base.copy(), len(base) // 20
    dirty[:count] = cases.outliers(rng, sets.reference, count)
    return {
        "averages of 8": eight,
        "spread halved": mean + 0.5 * (base - mean),
        "150 repeated": base[np.arange(len(base)) % 150],
        "5 % outliers in G": dirty,
    }


def calibration_cases(sets: Sets) -> Iterator[tuple[str, float, np.ndarray]]:
    """Yields (case, share, samples): shares of bad samples, and of kept classes."""
    names = {"noise": "pixels drawn at random", "blurred": label_of("blur", 2.0)}
    garbage = next((name for name in sets.made if name.endswith("(garbage)")), None)
    names |= {"garbage": garbage} if garbage else {}
    bad = {name: sets.made[made] for name, made in names.items()}
    bad["averages of 8"] = feature_cases(sets)["averages of 8"]
    for name, others in bad.items():
        for share in SHARES:
            count = round(share * len(sets.base))
            yield f"share {name}", share, np.concatenate([others[:count], sets.base[count:]])
    if sets.labels is not None:
        classes = np.unique(sets.labels)
        rows = min(np.bincount(sets.labels)[classes].min(), len(sets.base))
        for count in range(len(classes), 0, -1):
            some = np.flatnonzero(np.isin(sets.labels, classes[:count]))[:rows]
            yield "classes kept", count / len(classes), sets.pool[some]


def score(
    sets: Mapping[str, np.ndarray], reference: np.ndarray, known: Mapping[str, Metric], file: Path,
    setting: dict, hashes: int,
) -> Found:  # fmt: skip
    """Returns scores of all sets, divided by ceilings if there are any; means over hashes.

    Adds one line per set, metric and hash to the file; lines that exist are not computed again.
    """
    done = {
        (row["set"], row["metric"], row["hash"]): row["columns"]
        for row in read_rows(file)
        if setting.items() <= row.items()
    }
    found: dict = {name: {} for name in sets}
    for (metric, function), number in itertools.product(known.items(), range(hashes)):
        key = jax.random.key(suites.SEEDS[setting["seeds"]] + 100 * number)
        for name, generated in sets.items():
            if (job := (name, metric, number)) not in done:
                scores = function(key, reference, generated.astype(np.float32))
                done[job] = columns(metric, scores)
                row = dict(zip(("set", "metric", "hash"), job, strict=True))
                add_row(file, setting | row | {"columns": done[job]})
                print(*job, done[job], flush=True)
            for column, pair in done[job].items():
                if column + RELATIVE not in done[job]:
                    found[name].setdefault(column, []).append(pair)
    return {
        name: {column: tuple(np.mean(pairs, axis=0).tolist()) for column, pairs in by.items()}
        for name, by in found.items()
    }


def truth_of(sets: Sets) -> dict[str, float]:
    """Returns the mean paired distance in features of each damaged set, over the spread of R."""
    spread = np.sqrt(sets.reference.var(axis=0).sum())
    return {
        label: float(np.linalg.norm(sets.made[label] - sets.base, axis=1).mean() / spread)
        for name in DAMAGES
        for label in labels_of(name)
    }


def summarise(found: Found, truth: dict[str, float]) -> Iterator[tuple]:
    """Yields (damage, column, side, ρ with the truth, smallest ratio of its fall to KNN's)."""
    for name in DAMAGES:
        labels = ["undamaged", *labels_of(name)]
        damaged = [truth.get(label, 0.0) for label in labels]
        for column in found["undamaged"]:
            for i, side in enumerate(SIDES):
                ys, knn = (
                    np.array([found[label][c][i] for label in labels])
                    for c in (column, KNN if KNN in found["undamaged"] else column)
                )
                rho = spearmanr(damaged, -ys)[0] if np.ptp(ys) else 0.0
                falls, of_knn = ys[0] - ys[1:], knn[0] - knn[1:]
                ratios = falls[of_knn >= LEAST_FALL] / of_knn[of_knn >= LEAST_FALL]
                yield name, column, side, float(rho), float(ratios.min(initial=np.inf))


def deviations(found: Found, steps: list[tuple[str, float]]) -> dict[str, dict[str, float]]:
    """Returns the largest deviation from the ideal line, by case and column.

    Bad samples: deviation of precision. Classes kept: of recall, and of precision, which should
    stay 1. Scores without a ceiling are divided by their first value.
    """
    out: dict = {}
    for case in dict.fromkeys(case for case, _ in steps):
        shares = np.array([share for name, share in steps if name == case])
        ideals = {"precision": 1 - shares}
        if case == "classes kept":
            ideals = {"recall": shares, "precision": np.ones_like(shares)}
        for side, ideal in ideals.items():
            for column in found["undamaged"]:
                ys = [found[f"{case} {share:g}"][column][SIDES.index(side)] for share in shares]
                ys = np.array(ys)
                if column.endswith(RELATIVE):
                    ys = np.minimum(ys, 1)
                elif ys[0]:
                    ys = ys / ys[0]
                worst = float(np.abs(ys - ideal).max())
                out.setdefault(f"{case}: {side}", {})[column] = worst
    return out


def _pairs(found: Found, names, start: Callable[[str], list]) -> list[list]:
    return [
        [*start(name), *("{:.2f} / {:.2f}".format(*pair) for pair in found[name].values())]
        for name in names
    ]


def report(data: str, found: Found, truth: dict, steps: list) -> str:
    """Formats the results of one data set as Markdown."""
    names, text = list(found["undamaged"]), f"## {data}\n\nprecision / recall\n\n"
    body = _pairs(found, ["undamaged", *truth], lambda name: [name, f"{truth.get(name, 0):.2f}"])
    text += markdown(["damage to images", "truth", *names], body)
    text += (
        "\nρ of precision / recall with the truth, then the least ratio of its fall to KNN's over "
        f"steps where KNN falls by {LEAST_FALL}. **Bold**: at least {AIMS[0]} and {AIMS[1]}.\n\n"
    )
    by_cell: dict = {}
    for name, column, side, *values in summarise(found, truth):
        by_cell.setdefault(name, {})[column, side] = values
    cells = next(iter(by_cell.values()))
    least = {cell: np.min([by[cell] for by in by_cell.values()], axis=0) for cell in cells}
    body = [
        [name, *(" / ".join(_bold(by[c, side][i], AIMS[i]) for side in SIDES)
                 for i in range(len(AIMS)) for c in names)]
        for name, by in {**by_cell, "least": least}.items()
    ]  # fmt: skip
    text += markdown(["", *(f"ρ {c}" for c in names), *(f"fall {c}" for c in names)], body)
    others = [n for n in found if n not in truth and n not in {f"{c} {s:g}" for c, s in steps}]
    text += "\n" + markdown(["other cases", *names], _pairs(found, others, lambda name: [name]))
    text += "\nCalibration: largest deviation from the ideal line.\n\n"
    body = [[case, *(f"{v:.3f}" for v in by.values())] for case, by in
            deviations(found, steps).items()]  # fmt: skip
    return text + markdown(["", *names], body) + "\n"


def _bold(value: float, aim: float) -> str:
    shown = "–" if np.isinf(value) else f"{value:.2f}"
    return f"**{shown}**" if aim <= value < np.inf else shown


def plot(data: str, found: Found, truth: dict, path: Path) -> None:
    """Plots precision (above) and recall along each damage, against the truth."""
    figure = Figure(figsize=(9, 12), layout="constrained")
    axes = figure.subplots(6, 3, sharey=True).reshape(2, len(DAMAGES))
    for (i, side), (j, name) in itertools.product(enumerate(SIDES), enumerate(DAMAGES)):
        labels = ["undamaged", *labels_of(name)]
        for column in found["undamaged"]:
            ys, label = [found[x][column][i] for x in labels], column.removesuffix(RELATIVE)
            axes[i, j].plot([truth.get(x, 0) for x in labels], ys, marker=".", label=label)
        axes[i, j].set(title=f"{side}: {name}", ylim=(-0.03, 1.25))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), ncols=3, loc="outside upper center")
    figure.supxlabel("distance in features to the undamaged image")
    figure.supylabel(f"score over its ceiling, {data}")
    figure.savefig(path, dpi=90)


def show(sets: Sets, data: str, found: Found, path: Path) -> None:
    """Draws images of some sets beside their precision over its ceiling."""
    few, names = sets.images[:10], ("KNN", "LSH+KNN", "LSH")
    known = {name: name + RELATIVE for name in names if name + RELATIVE in found["undamaged"]}
    makers = {"undamaged": lambda: few, **_images(data, few)}
    labels = [label for label in ("undamaged", *SHOWN) if label in makers]
    figure = Figure(figsize=(9, 0.5 * len(labels) + 0.3))
    axes = figure.subplots(len(labels), 1)

    def beside(axis, i, y, text):
        axis.text(1.12 + 0.2 * i, y, text, ha="center", va="center", transform=axis.transAxes)

    for axis, label in zip(axes, labels, strict=True):
        axis.imshow(np.concatenate(list(makers[label]()), axis=1), cmap="gray", vmin=0, vmax=255)
        axis.set_axis_off()
        axis.text(-0.02, 0.5, label, ha="right", va="center", transform=axis.transAxes)
        for i, column in enumerate(known.values()):
            beside(axis, i, 0.5, f"{found[label][column][0]:.2f}")
    for i, name in enumerate(known):
        beside(axes[0], i, 1.3, name)
    figure.subplots_adjust(left=0.29, right=0.68, top=0.94, bottom=0.01, hspace=0.08)
    figure.savefig(path, dpi=110)


def main(known: Mapping[str, Metric] = METRICS) -> None:
    """Embeds and scores all sets, and writes the results."""
    args = options.parse(
        __doc__, data="fashion_mnist", rows=2000, seeds=tuple(suites.SEEDS), hashes=4,
        metrics=usual(known), workdir=Path("runs/image_damage"),
        out=Path("benchmarks/results/image_damage"),
    )  # fmt: skip
    chosen = {name: known[name] for name in options.names("--metrics", args.metrics, known)}
    text = (
        f"# Real images damaged as images\n\n`python -m benchmarks.image_damage --rows={args.rows} "
        f'--seeds={args.seeds} --hashes={args.hashes} "--metrics={args.metrics}"`, '
        f"{machine.processor()}.\n"
        f"Defaults: `{HashSpec()!r}`.\nScores are over their ceilings, except {DENSITY}.\n\n"
    )
    rows = []
    args.out.parent.mkdir(parents=True, exist_ok=True)
    file = args.workdir / f"{args.seeds}.jsonl"
    data_sets = options.names("--data", args.data, datasets.NAMED)
    for data in data_sets:
        sets = load(data, args.rows, args.seeds, args.workdir)
        judged = {"undamaged": sets.base, **sets.made, **feature_cases(sets)}
        steps = []
        for case, share, generated in calibration_cases(sets):
            steps.append((case, share))
            judged[f"{case} {share:g}"] = generated
        setting = {"data": data, "rows": args.rows, "seeds": args.seeds}
        found = score(judged, sets.reference, chosen, file, setting, args.hashes)
        truth = truth_of(sets)
        text += report(data, found, truth, steps)
        suffix = "" if data == data_sets[0] else f"_{data}"
        plot(data, found, truth, args.out.with_name(f"{args.out.name}{suffix}.png"))
        show(sets, data, found, args.out.with_name(f"{args.out.name}{suffix}_images.png"))
        rows += [(data, n, c, *pair) for n, by in found.items() for c, pair in by.items()]
    print(text)
    args.out.with_suffix(".md").write_text(text)
    frame = pd.DataFrame(rows, columns=["data", "set", "metric", *SIDES])
    frame.to_csv(args.out.with_suffix(".csv"), index=False, float_format="%.4f")


if __name__ == "__main__":
    main()
