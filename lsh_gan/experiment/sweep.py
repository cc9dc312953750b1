"""Runs a sweep: one row per measurement; rows that a work folder has are not measured again."""

import dataclasses
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import jax
import pandas as pd
from absl import logging
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import lsh_gan
from lsh_gan import datasets, devices, metrics
from lsh_gan.compression import GeneratorSpec
from lsh_gan.compression.pipeline import check_corrections
from lsh_gan.compression.rules import flatten, isolate, log_rules, plan_tensors
from lsh_gan.experiment import evaluators, outside, recipes, reference, settings
from lsh_gan.experiment.measurement import PACKED_FOLDER, Measurement, Setup, book, measure
from lsh_gan.generators import Generator
from lsh_gan.results import labels, report, store


@devices.alone
def run(config: Any, workdir: str | Path) -> pd.DataFrame:
    """Measures the rows that `workdir` does not have yet, and writes the report.

    `workdir` is made if missing. It keeps all rows: one that is there is not measured again, even
    if another configuration measured it. Bad input is an error before any heavy work. Returns the
    content of `table.csv`, a line per row. Only process 0 writes the report; the others return an
    empty frame.
    """
    config, workdir = settings.resolve(config), Path(workdir).expanduser()
    if config.search.share:
        raise ValueError(
            f"search.share = {config.search.share} is for search.run; expected 0 in a sweep"
        )
    store.check_workdir(workdir)
    setup = prepare(config)
    requested = measurements(setup)
    with store.locked(workdir), progress_bars() as progress:
        session = Session(setup, workdir, progress)
        names = {each.row_hash: {"generator": each.name} for each in requested}
        store.set_requested(workdir, names)
        missing = [each for each in requested if each.row_hash not in session.finished]
        finished = len(requested) - len(missing)
        logging.info("%d of %d measurements are done", finished, len(requested))
        bar = progress.add_task("measurements", total=len(requested), completed=finished)
        for number, measurement in enumerate(missing, 1):
            row = session.measure(measurement)
            progress.advance(bar)
            if progress.disable:
                spent = sum(sum(each["seconds"].values()) for each in session.measured)
                seconds = spent / number * (len(missing) - number)
                scores = labels.scores_line(row, config.metrics)
                done = f"{finished + number} of {len(requested)}"
                tell = labels.say if Console().is_jupyter else logging.info
                tell(f"{done}: {scores}; {labels.duration(seconds)} left")
        measured = [session.finished[each.row_hash] for each in requested]
        if not devices.is_first():
            return pd.DataFrame()
        outside.write(workdir, measured, setup)
    return report.write(workdir, notes=time_notes(session))


def prepare(config: Any, field: str = "reference.num_images") -> Setup:
    """Loads what a checked configuration names; `field` is the name of n in messages."""
    if config.profile:
        store.check_writable("profile", Path(config.profile))
    generators = [recipes.load(config, name) for name in config.generators]
    opened = reference.open_reference(config, field)
    samples = [reference.open_samples(config, path) for path in config.samples]
    sources = [opened, *samples] if opened else samples
    # Each process reads its share of the same files.
    devices.check_same({source.path: source.taken for source in sources})
    shape = opened.image_shape if opened else None
    settings.check_image_sizes(config, shape, generators, samples)
    network = reference.load_network(config, sources)
    loaded = dict(zip(config.generators, generators, strict=True))
    drawn = reference.load_reference(config, network, opened, loaded)
    generators, names = recipes.rename(config, generators)
    settings.check_image_sizes(config, drawn.image_shape, generators, samples)
    reference.check_grey(drawn, generators, samples)
    return Setup(config, network, generators, drawn, dict(zip(names, samples, strict=True)))


def measurements(setup: Setup) -> list[Measurement]:
    """Returns all measurements of the configuration; refuses two names of the same content."""
    found = [
        make_measurement(setup, generator, spec, seed, layer=layer)
        for generator in setup.generators
        for layer, spec in _specs(setup.config, generator)
        for seed in setup.config.seeds
    ]
    for name, source in setup.samples.items():
        samples = reference.load_samples(setup.config, source, setup.reference.image_shape)
        identity = _shared_identity(setup) | {"samples": samples.content_hash}
        found.append(Measurement(name, identity, settings.UNCOMPRESSED, 0, samples))
    names: dict[str, str] = {}
    for each in found:
        name = names.setdefault(each.row_hash, each.name)
        if name != each.name:
            raise ValueError(f"{name} and {each.name} have the same content; expected it once")
    return found


def make_measurement(
    setup: Setup, generator: Generator, spec: GeneratorSpec, seed: int, **options: Any
) -> Measurement:
    """Makes the measurement of one generator, setting and seed; options are `layer` and `keep`."""
    config = setup.config
    asked = {"spec": dataclasses.asdict(spec), "seed": seed, "m": config.num_samples}
    asked["truncation_psi"] = config.truncation_psi
    if spec.needs_latents:
        asked["num_calibration"] = config.compression.num_calibration
    identity = _shared_identity(setup) | generator.identity | asked
    return Measurement(generator.name, identity, spec, seed, generator, **options)


def _specs(config: Any, generator: Generator) -> Iterator[tuple[str | None, GeneratorSpec]]:
    """Yields each setting of a generator, with the layer if it compresses only one, else None."""
    leaves, _ = flatten(generator.params)
    logged = False
    for spec in settings.generator_specs(config):
        plans = plan_tensors(leaves, spec.weights, generator.channel_axes)
        check_corrections(generator.module, plans, spec)
        if not logged and spec.weights.bits is not None:  # equal for all widths
            log_rules(generator.name, plans, [rule.pattern for rule in spec.weights.rules])
            logged = True
        if not config.compression.layerwise or spec.weights.bits is None:
            yield None, spec
            continue
        for layer, weights in isolate(plans).items():
            yield layer, dataclasses.replace(spec, weights=weights)


def _shared_identity(setup: Setup) -> dict[str, Any]:
    """Returns what all rows depend on, except what only changes rounding: batch sizes, devices."""
    config, network = setup.config, setup.network
    identity = {
        "version": lsh_gan.__version__,
        "n": len(setup.reference),
        "reference": setup.reference.content_hash,
        "features": {x: getattr(network, x) for x in ("name", "side", "content_hash")},
        "metrics": sorted(config.metrics),
    }
    fields = config.to_dict()
    for metric in config.metrics:
        identity |= {name: fields[name] for name in evaluators.EVALUATORS[metric].fields}
    if config.extended and "knn" in config.metrics:
        identity["extended"] = True
    return identity


def progress_bars() -> Progress:
    """Makes progress bars with counts and the time left; silent without a terminal."""
    columns = [TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()]
    silent = not (datasets.has_bars() and devices.is_first())
    return Progress(*columns, TimeRemainingColumn(), disable=silent)


class Session:
    """An open work folder; measures the rows that it does not have yet."""

    def __init__(self, setup: Setup, workdir: Path, progress: Progress):
        generators = {x.name: x.identity for x in setup.generators}
        devices.check_same(_shared_identity(setup) | {"generators": generators})
        workdir.mkdir(parents=True, exist_ok=True)
        store.write_config(workdir, setup.config.to_dict())
        rows = devices.from_first(store.read(workdir))
        self.finished = {row["row_hash"]: row for row in rows}  # all rows in the folder
        self.measured: list[store.Row] = []  # rows of this run
        self.seconds: dict[str, float] = {}  # by stage, of work in this run outside of rows
        self._setup, self.workdir = setup, workdir
        self._scores: dict[str, evaluators.Score] = {}
        self._progress = progress
        self._images = progress.add_task("images", total=None, visible=False)
        self._advance = partial(progress.advance, self._images)

    def measure(self, measurement: Measurement) -> store.Row:
        """Returns the row of a measurement: from the work folder, or measured and added to it."""
        if measurement.row_hash in self.finished:
            return self.finished[measurement.row_hash]
        config, drawn = self._setup.config, self._setup.reference
        if not self._scores:
            (self.workdir / PACKED_FOLDER).mkdir(exist_ok=True)
            self._progress.update(self._images, description="reference", visible=True)
            start = time.perf_counter()
            self._scores = drawn.fit(config, self._setup.network, self._advance)
            if "lsh" in self._scores and not drawn.sketch and devices.is_first():
                fitted = evaluators.lsh_reference(self._scores)
                metrics.save(self.workdir / evaluators.SKETCH_FILE, fitted)
            book(self.seconds, start, reference=1)
        subject, bits = measurement.subject, measurement.spec.weights.bits
        size = len(subject) if isinstance(subject, reference.Samples) else config.num_samples
        title = f"{measurement.name} {bits} bits" if bits else measurement.name
        self._progress.reset(self._images, description=title, total=size, visible=True)
        profiled = config.profile and not self.measured
        with jax.profiler.trace(config.profile) if profiled else nullcontext():
            row = measure(measurement, self._setup, self.workdir, self._scores, self._advance)
        store.append(self.workdir, row)
        self.finished[measurement.row_hash] = row
        self.measured.append(row)
        return row


def time_notes(*sessions: Session) -> list[str]:
    """Returns one line on where the time of a run went; none if nothing was measured."""
    rows = [row for session in sessions for row in session.measured]
    if not rows:
        return []
    seconds: Any = Counter()
    for part in [session.seconds for session in sessions] + [row["seconds"] for row in rows]:
        seconds.update(part)
    names = {"sample_and_embed": "sampling and features", "compress": "compression"} | labels.TITLES
    total = sum(seconds.values())
    shares = ", ".join(
        f"{names.get(stage, stage)} {value / total:.0%}"
        for stage, value in seconds.most_common()
        if value
    )
    images = sum(row["m"] for row in rows if "images_per_second" in row)
    speed = f"; {images / seconds['sample_and_embed']:,.0f} images/s" if images else ""
    count = f"{len(rows)} new row{'s' * (len(rows) > 1)}"
    return [f"time: {labels.duration(total)} for {count}: {shares}{speed}"]
