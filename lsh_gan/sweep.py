"""The driver: configuration in, one row a measurement out; what is done is not done again."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import logging
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import lsh_gan
from lsh_gan import checkpoints, evaluators, features, generators, report, rows, settings
from lsh_gan.compression import CompressionSpec
from lsh_gan.compression.rules import flatten, plan_tensors
from lsh_gan.features import FeatureNetwork
from lsh_gan.generators import Generator
from lsh_gan.measurement import PACKED_FOLDER, SAMPLES_FOLDER, Task, measure
from lsh_gan.reference import Reference, load_reference, load_samples


def run(config: Any, workdir: Path) -> None:
    """Measures what is not yet in `workdir` and writes the report.

    Args:
        config: See `configs/default.py`.
        workdir: The work folder; made if missing.

    Raises:
        ValueError, TypeError, FileNotFoundError: Bad input, before any heavy work.
    """
    config = settings.resolve(config)
    network = features.load(
        config.features.name, side=config.features.side, weights=config.features.weights or None
    )
    judged = [generators.load(name) for name in config.generators]
    reference = load_reference(config, network.dim)
    tasks = list(_tasks(config, judged, network, reference))
    rows.open_workdir(workdir, config.to_dict())
    finished = {row["row_hash"] for row in rows.read(workdir)}
    waiting = [task for task in tasks if task.row_hash not in finished]
    logging.info("%d of %d measurements are done", len(tasks) - len(waiting), len(tasks))
    if waiting:
        _measure_all(waiting, config, workdir, network, reference, total=len(tasks))
    report.write(workdir)


def _tasks(
    config: Any, judged: list[Generator], network: FeatureNetwork, reference: Reference
) -> Iterator[Task]:
    """Yields every measurement that the configuration asks for; bad rules are errors here."""
    shared = {
        "version": lsh_gan.__version__,
        "config_hash": rows.hash_of(config.to_dict()),
        "n": len(reference.first),
        "reference": reference.content_hash,
        "features": {
            "name": network.name,
            "side": network.side,
            "content_hash": network.content_hash,
        },
        "metrics": list(config.metrics),
        "k": config.k,
        "inclusive": config.inclusive,
        "hash": config.hash.to_dict(),
    }
    specs = settings.compression_specs(config)
    for generator in judged:
        params_hash = checkpoints.content_hash(generator.params)
        for spec in specs:
            plan_tensors(flatten(generator.params)[0], spec, None)
            for seed in config.seeds:
                asked = {"params": params_hash, "spec": dataclasses.asdict(spec), "seed": seed}
                yield Task(generator.name, shared | asked, spec, seed, generator=generator)
    for path in config.samples:
        samples = load_samples(config, path, network.dim)
        asked = {"samples": samples.content_hash}
        full = CompressionSpec(bits=None)
        yield Task(Path(path).stem, shared | asked, full, 0, samples=samples)


def _measure_all(
    waiting: list[Task],
    config: Any,
    workdir: Path,
    network: FeatureNetwork,
    reference: Reference,
    *,
    total: int,
) -> None:
    for folder in (PACKED_FOLDER, SAMPLES_FOLDER):
        (workdir / folder).mkdir(exist_ok=True)
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    with Progress(*columns, TimeRemainingColumn(), disable=None) as progress:
        images = progress.add_task("reference", total=None)
        done = progress.add_task("measurements", total=total, completed=total - len(waiting))

        def advance(count: int) -> None:
            progress.advance(images, count)

        embedded = reference.embed(config, network, workdir / "cache", advance)
        scores = evaluators.fit(config, *embedded)
        for task in waiting:
            size = len(task.samples) if task.samples else config.num_samples
            progress.reset(images, description=task.title, total=size)
            rows.append(workdir, measure(task, config, workdir, network, scores, advance))
            progress.advance(done)
