"""Searches for the smallest mixed precision that keeps a share of precision and recall.

KNN decides, or the first metric if KNN is not requested. Among many settings, a search picks those
that its samples overrate. It therefore goes back to the smallest setting that also keeps the share
on more samples. Each setting that it scores is a row, in the folder `search` of the work folder or
in the work folder itself, so that a stopped search repeats its decisions without measuring anything
twice. All metrics score the result on generated samples that the search has not seen, against the
same reference.
"""

import dataclasses
import itertools
import re
import shutil
from bisect import bisect_left
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_collections
import pandas as pd
from absl import logging

from lsh_gan import devices
from lsh_gan.compression import GeneratorSpec, Rule
from lsh_gan.compression.rules import flatten, join, plan_tensors
from lsh_gan.compression.tree import layout_of
from lsh_gan.experiment import settings, sweep
from lsh_gan.experiment.measurement import PACKED_FOLDER
from lsh_gan.experiment.reference import load_reference, open_reference
from lsh_gan.experiment.settings import UNCOMPRESSED
from lsh_gan.generators import Generator
from lsh_gan.results import report, store
from lsh_gan.results.answer import NOISE, Kept, retention
from lsh_gan.results.labels import SCORES, TITLES, deciding
from lsh_gan.results.search_report import FULL, MIXED, SAME_SIZE, WITHIN
from lsh_gan.results.store import Row

Widths = Mapping[str, int]  # path of a tensor -> bits
Sensitivity = dict[str, dict[int, float]]  # path of a tensor -> bits -> loss if compressed alone
FOLDER = "search"  # in the work folder, for the measurements inside the search


@dataclasses.dataclass(frozen=True)
class WidthEvaluator:
    """Measures settings of one generator by one metric."""

    metric: str
    base: GeneratorSpec  # common to all settings, which replace its width and rules
    options: tuple[int, ...]  # widths to choose from, ascending
    # Paths of the tensors with a free width, and the other fields that rules set for them.
    layers: Mapping[str, Mapping[str, Any]]
    fixed: tuple[Rule, ...]  # rules of the tensors whose width is not free
    sizes: Mapping[int, Mapping[str, int]]  # bytes in the packed file, by width and path
    measure: Callable[[GeneratorSpec], Row]  # returns the row of a setting
    workdir: Path  # holds the hits of rows
    # The rule that keeps all tensors not matched before; none if there is a single tensor.
    others: tuple[Rule, ...] = (Rule(pattern=".*", skip=True),)

    def uniform(self, bits: int) -> Widths:
        """Returns the same width for all free tensors."""
        return dict.fromkeys(self.layers, bits)

    def spec(self, widths: Widths) -> GeneratorSpec:
        """Returns the setting of these widths; equal widths give equal settings."""
        top = max(widths.values())
        named = {layer: b for layer, b in widths.items() if b != top or self.layers[layer]}
        return self._spec(top, named, self.fixed)

    def isolated(self, layer: str, bits: int) -> GeneratorSpec:
        """Returns the setting that compresses one tensor and keeps all others."""
        return self._spec(bits, {layer: bits}, self.others)

    def _spec(self, bits: int, named: Widths, rest: tuple[Rule, ...]) -> GeneratorSpec:
        rules = [Rule(pattern=re.escape(x), bits=b, **self.layers[x]) for x, b in named.items()]
        weights = dataclasses.replace(self.base.weights, bits=bits, rules=(*rules, *rest))
        return dataclasses.replace(self.base, weights=weights)

    def kept(self, setting: Widths | GeneratorSpec) -> Kept:
        """Returns the kept share of precision or recall, whichever is smaller, with its error."""
        spec = setting if isinstance(setting, GeneratorSpec) else self.spec(setting)
        full, row = self.measure(UNCOMPRESSED), self.measure(spec)
        for field in (f"{self.metric}_{score}" for score in SCORES):
            score, error = full[field], full[f"{field}_stderr"]
            if score <= NOISE * error:
                raise ValueError(
                    f"{full['generator']}: {field} is {score:.2g} ± {error:.2g} at full precision; "
                    "there is too little to keep; raise search.num_samples, or use a better "
                    "generator"
                )
        full, row = store.with_hits(self.workdir, [full, row])
        shares = [retention([row], [full], self.metric, score) for score in SCORES]
        # Only process 0 has the hits of earlier runs.
        return Kept(*devices.from_first(min(shares)))

    def size(self, widths: Widths) -> int:
        """Counts the bytes of the free tensors in the packed file; the others do not change."""
        return sum(self.sizes[bits][layer] for layer, bits in widths.items())


def make_width_evaluator(
    setup: sweep.Setup, generator: Generator, session: sweep.Session, *, keep: bool = False
) -> WidthEvaluator:
    """Makes the evaluator of a generator, `keep` as in `Measurement`; rules with widths stay."""
    specs, seed = settings.generator_specs(setup.config), setup.config.search.seed
    base = next(spec for spec in specs if spec.weights.bits is not None)
    rules = {rule.pattern: rule for rule in base.weights.rules}
    fixed = {pattern: rule for pattern, rule in rules.items() if rule.bits or rule.skip}
    leaves = flatten(generator.params)[0]
    plans = plan_tensors(leaves, base.weights, generator.channel_axes)
    free = [
        (plan, layout_of(plan, leaf.shape))
        for plan, (_, leaf) in zip(plans, leaves, strict=True)
        if plan.spec.bits is not None and plan.rule not in fixed
    ]
    layers = {
        join(plan.path): rules[plan.rule].overrides() if plan.rule in rules else {}
        for plan, _ in free
    }
    if not layers:
        raise ValueError(f"{generator.name}: compression.rules leave no tensor for the search")

    def measure(spec: GeneratorSpec) -> Row:
        return session.measure(sweep.make_measurement(setup, generator, spec, seed, keep=keep))

    options = tuple(sorted(setup.config.compression.bits))
    sizes = {
        bits: {join(plan.path): layout._replace(bits=bits).num_bytes() for plan, layout in free}
        for bits in options
    }
    metric = deciding(setup.config.metrics)
    parts = base, options, layers, tuple(fixed.values()), sizes
    found = WidthEvaluator(metric, *parts, measure, session.workdir)
    return found if len(plans) > 1 else dataclasses.replace(found, others=())


@devices.alone
def run(config: Any, workdir: str | Path) -> pd.DataFrame:
    """Searches for every generator of `config`, as `config.search` says, and writes the report.

    The result is `GENERATOR.packed` in the work folder. Bad input is an error before any heavy
    work. Returns the content of `table.csv`, as `sweep.run` does.
    """
    config, workdir = settings.resolve(config), Path(workdir).expanduser()
    if not config.search.share:
        raise ValueError("search.share = 0; expected the share to keep, such as 0.95")
    inside = _inside(config, config.search.share)
    store.check_workdir(workdir)
    store.check_workdir(workdir / FOLDER)
    opened = open_reference(inside, "search.num_samples")  # checks n inside the search, too
    final = sweep.prepare(config)
    sweep.measurements(final)  # raises for bad rules
    loop = final._replace(config=inside, reference=load_reference(inside, final.network, opened))
    with store.locked(workdir), sweep.progress_bars() as progress:
        session = sweep.Session(final, workdir, progress)
        inner = sweep.Session(loop, workdir / FOLDER, progress)
        of_each = [
            (make_width_evaluator(loop, each, inner), make_width_evaluator(final, each, session))
            for each in final.generators
        ]
        requested: dict[str, dict[str, Any]] = {}
        for generator, (evaluator, confirm) in zip(final.generators, of_each, strict=True):
            store.set_requested(workdir, requested)
            roles: dict[GeneratorSpec, list[str]] = {UNCOMPRESSED: [FULL]}
            for role, widths in find(evaluator, confirm, config.search.share).items():
                if widths is not None:
                    roles.setdefault(evaluator.spec(widths), []).append(role)
            for (spec, names), seed in itertools.product(roles.items(), config.seeds):
                row = session.measure(sweep.make_measurement(final, generator, spec, seed))
                requested[row["row_hash"]] = {"generator": generator.name, "roles": names}
                if MIXED in names and seed == config.seeds[0] and devices.is_first():
                    packed = workdir / PACKED_FOLDER / f"{row['row_hash']}.packed"
                    shutil.copyfile(packed, workdir / f"{generator.name}.packed")
        store.set_requested(workdir, requested)
        if not devices.is_first():
            return pd.DataFrame()
    return report.write(workdir, notes=sweep.time_notes(session, inner))


@devices.alone
def compress(config: Any, workdir: Path, output: str | Path | None = None) -> str:
    """Writes a generator at the smallest width that keeps `config.search.share`.

    The width is found by bisection, which assumes that a narrower width never keeps more. `config`
    has one generator. KNN decides, or the first metric if KNN is not requested. `workdir` receives
    the measurements, and `output` is `NAME_BITSbits.safetensors` if None. Returns one sentence: the
    width, the share that it keeps ± a paired standard error, its size and file, and the share that
    the next width keeps. If no width keeps the share, it is a ValueError.
    """
    config = settings.resolve(config)
    store.check_workdir(workdir)
    if output and Path(output).is_dir():
        raise ValueError(f"output {output}: is a folder; expected a file")
    store.check_writable("output", Path(output or ".").parent)
    # With share 0 the work folder is that of a sweep.
    setup = sweep.prepare(_inside(config, 0.0), "search.num_samples")
    (generator,) = setup.generators
    with store.locked(workdir), sweep.progress_bars() as progress:
        session = sweep.Session(setup, workdir, progress)
        evaluator = make_width_evaluator(setup, generator, session, keep=True)
        title = TITLES[evaluator.metric]

        def kept(widths: Widths) -> str:
            share, error = evaluator.kept(widths)
            return f"{100 * share:.1f} ± {100 * error:.1f} %"

        path = [evaluator.uniform(bits) for bits in reversed(evaluator.options)]
        specs, seed = [UNCOMPRESSED, *map(evaluator.spec, path)], config.search.seed
        every = [sweep.make_measurement(setup, generator, spec, seed).row_hash for spec in specs]
        requested = {row_hash: {"generator": generator.name} for row_hash in every}
        store.set_requested(workdir, requested)
        widths = last_kept(evaluator, path, config.search.share)
        # A bisection leaves out some widths.
        requested = {x: names for x, names in requested.items() if x in session.finished}
        store.set_requested(workdir, requested)
        if widths is None:
            raise ValueError(
                f"{generator.name}: {evaluator.options[-1]} bits keep {kept(path[0])} of precision "
                f"and recall by {title}; expected wider compression.bits, or less to keep"
            )
        row = evaluator.measure(evaluator.spec(widths))
        text = f"{row['bits']} bits keep {kept(widths)} (standard error) of "
        text += f"precision and recall by {title}"
        for narrower in path[path.index(widths) + 1 :][:1]:
            bits = evaluator.measure(evaluator.spec(narrower))["bits"]
            text += f"; {bits} bits would keep {kept(narrower)}"
    output = output or f"{generator.name}_{row['bits']}bits.safetensors"
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(workdir / PACKED_FOLDER / f"{row['row_hash']}.packed", output)
    whole = "; full precision is the packed file as it is" if generator.packed_file else ""
    return (
        f"{generator.name}: {text}; {output}: {row['bytes']:,} bytes, {row['ratio']:.1f}× smaller"
        f"{whole}"
    )


def _inside(config: Any, share: float) -> Any:
    """Returns the configuration of the measurements inside the search."""
    inside = ml_collections.ConfigDict(config.to_dict())
    inside.num_samples = inside.reference.num_images = config.search.num_samples
    inside.metrics = (deciding(config.metrics),)
    inside.seeds = (config.search.seed,)
    inside.keep = config.search.share
    inside.search.share = share
    return ml_collections.FrozenConfigDict(inside)


def find(
    evaluator: WidthEvaluator, confirm: WidthEvaluator, share: float
) -> dict[str, Widths | None]:
    """Searches for the smallest widths that keep `share` of precision and of recall.

    `confirm` measures as many samples as the final rows have, usually more. Returns widths by role:
    the mixed ones, the smallest uniform ones that keep the share, and the widest uniform ones of no
    more bytes than the mixed ones; each is None if there are none.

    1. Each layer is scored alone, from narrow to wide, until its loss is small.
    2. From these widths on, the layer with the smallest additional loss per byte saved is narrowed,
       again and again. Bisection finds the last setting on this path that keeps the share.
    3. From there on, single layers are narrowed as long as the share is kept.
    4. `confirm` goes back along all these settings, by bisection, to the last that keeps the share.
    """
    uniform = [evaluator.uniform(bits) for bits in reversed(evaluator.options)]
    within = last_kept(confirm, uniform, share)
    sensitivity = layer_sensitivity(evaluator, share)
    path = [uniform[0], *descend(evaluator, sensitivity)]
    start = path.index(last_kept(evaluator, path, share) or uniform[0])
    way = [*path[:start], *narrow(evaluator, path[start], sensitivity, share)]
    found = [w for w in (last_kept(confirm, way, share), within) if w is not None]
    if not found:
        return dict.fromkeys((WITHIN, MIXED, SAME_SIZE))
    mixed = min(found, key=evaluator.size)
    smaller = [widths for widths in uniform if evaluator.size(widths) <= evaluator.size(mixed)]
    same_size = max(smaller, key=evaluator.size, default=None)
    return {WITHIN: within, MIXED: mixed, SAME_SIZE: same_size}


def layer_sensitivity(evaluator: WidthEvaluator, share: float) -> Sensitivity:
    """Scores each layer alone, from narrow to wide, until its loss is its part of the budget.

    The budget is 1 − share, divided equally. Widths that alone lose more than all of it are left
    out, except the widest. A wider width never counts as a larger loss than a narrower one, since
    that would be noise.
    """
    tolerable = (1 - share) / len(evaluator.layers)
    sensitivity: Sensitivity = {}
    for number, layer in enumerate(evaluator.layers, 1):
        measured: dict[int, float] = {}
        for bits in evaluator.options:
            loss = 1 - evaluator.kept(evaluator.isolated(layer, bits)).share
            measured[bits] = min([max(0.0, loss), *measured.values()])
            if measured[bits] <= tolerable:
                break
        losses = {b: round(d, 4) for b, d in measured.items()}
        logging.info("%s alone (%d of %d): %s", layer, number, len(evaluator.layers), losses)
        widest = max(measured)
        sensitivity[layer] = {b: d for b, d in measured.items() if d <= 1 - share or b == widest}
    return sensitivity


def _steps(
    evaluator: WidthEvaluator, widths: Widths, sensitivity: Sensitivity
) -> list[tuple[str, int]]:
    """Returns layers with their next width of fewer bytes, by the expected loss per byte saved."""
    steps = []
    for number, layer in enumerate(evaluator.layers):
        bits = widths[layer]
        saved = {
            b: evaluator.sizes[bits][layer] - evaluator.sizes[b][layer] for b in sensitivity[layer]
        }
        # A tensor of few values may take as many bytes at two widths.
        narrower = max((b for b in saved if saved[b] > 0), default=None)
        if narrower is not None:
            lost = sensitivity[layer][narrower] - sensitivity[layer].get(bits, 0.0)
            price = lost / saved[narrower]
            steps.append((price, -saved[narrower], number, (layer, narrower)))
    return [step for *_, step in sorted(steps)]


def descend(evaluator: WidthEvaluator, sensitivity: Sensitivity) -> list[Widths]:
    """Returns the path from the widest measured widths to the narrowest, cheapest step first."""
    path: list[Widths] = [{layer: max(sensitivity[layer]) for layer in evaluator.layers}]
    while steps := _steps(evaluator, path[-1], sensitivity):
        layer, bits = steps[0]
        path.append({**path[-1], layer: bits})
    return path


def last_kept(evaluator: WidthEvaluator, path: list[Widths], share: float) -> Widths | None:
    """Finds by bisection the last setting of a path that keeps the share; None if there is none."""

    def keeps(widths: Widths) -> bool:
        return evaluator.kept(widths).share >= share

    widest, *rest = path
    back = [*reversed(rest), widest]
    return back[bisect_left(back, True, hi=len(rest), key=keeps)] if keeps(widest) else None


def narrow(
    evaluator: WidthEvaluator, widths: Widths, sensitivity: Sensitivity, share: float
) -> list[Widths]:
    """Narrows single layers, cheapest first, while the share is kept; returns all settings."""
    refused: set[tuple[str, int]] = set()
    taken = [widths]
    while steps := [x for x in _steps(evaluator, taken[-1], sensitivity) if x not in refused]:
        layer, bits = steps[0]
        narrowed = {**taken[-1], layer: bits}
        kept = evaluator.kept(narrowed).share
        done = "taken" if kept >= share else "refused"
        logging.info("%s, %d bits: %.4f kept, %s", layer, bits, kept, done)
        if kept >= share:
            taken.append(narrowed)
        else:
            refused.add(steps[0])
    return taken
