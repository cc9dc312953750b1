"""Outliers that a compressed generator makes itself, and how scores respond to them.

A generated sample is an **outlier** if its ball, which reaches to its k-th neighbour among the
generated samples, is wider than those of 99.9 % of the reference. KNN counts every real image in a
ball as covered, so that a few such samples can give much recall. Two changes are measured:

- of recall: without the outliers, minus without as many random other samples;
- of precision: with 1 % of broad outliers in the reference, minus without.

A robust score changes by 0. Differences are paired, by sample and by table, with standard errors.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks.validity_cases import outliers
from lsh_gan import generators
from lsh_gan.experiment import evaluators
from lsh_gan.experiment.evaluators import ReferenceFeatures
from lsh_gan.experiment.measurement import PACKED_FOLDER
from lsh_gan.experiment.reference import load_network, load_reference, open_reference
from lsh_gan.experiment.step import GeneratedSamples
from lsh_gan.metrics import PrecisionRecall
from lsh_gan.results import store
from lsh_gan.results.answer import error_of

METRICS = ("knn", "lsh_knn", "lsh")
WIDE = 0.999  # quantile of the reference's balls beyond which a sample is an outlier
BROAD = 0.01  # share of the reference that broad outliers replace


def own_radii(x: Any, k: int) -> np.ndarray:
    """Computes distances of features `[n, d]` to their k-th nearest other, `[n]`."""
    x = jnp.asarray(x) - jnp.mean(x, axis=0)
    square = (x**2).sum(axis=1)
    near = jnp.partition(square[:, None] + square - 2 * x @ x.T, k, axis=1)[:, k]
    return np.sqrt(np.maximum(near, 0))


def wide(reference: Any, generated: Any, k: int) -> np.ndarray:
    """Finds which generated samples are outliers, bool `[m]`."""
    return own_radii(generated, k) > np.quantile(own_radii(reference, k), WIDE)


def difference(a: PrecisionRecall, b: PrecisionRecall, score: str) -> tuple[float, float]:
    """Returns the change of a score under one hash, and its paired standard error.

    Both sets are equal except for a few rows, so that sampling them adds no error.
    """
    hits = np.subtract(*(getattr(x, f"{score}_membership") for x in (a, b)), dtype=float)
    of_both = (getattr(x, f"{score}_deviations") if x.num_tables else () for x in (a, b))
    return float(hits.mean()), error_of(hits, np.subtract(*of_both, dtype=float))


def compare(config: Any, reference: np.ndarray, samples: dict[Any, np.ndarray]) -> list[dict]:
    """Returns one line per set of samples and metric.

    Args:
        config: See `configs/default.py`.
        reference: Features, `[n, d]`.
        samples: Features `[m, d]` of generated samples, by name.
    """
    rng = np.random.default_rng(0)
    dirty = np.array(reference)
    count = round(BROAD * len(dirty))
    dirty[rng.choice(len(dirty), count, replace=False)] = outliers(rng, reference, count)
    clean_scores, dirty_scores = (
        evaluators.fit(config, ReferenceFeatures(jnp.asarray(x), None, ""))
        for x in (reference, dirty)
    )
    lines = []
    for name, generated in samples.items():
        out = wide(reference, generated, config.k)
        least = config.k + 2  # samples that a metric needs
        other = np.isin(np.arange(len(out)), rng.permutation(len(out))[: out.sum()])
        for metric in METRICS:
            score, dirty_score = clean_scores[metric], dirty_scores[metric]
            whole, broad = score(jnp.asarray(generated)), dirty_score(jnp.asarray(generated))
            line = {"name": name, "metric": metric, "outliers": out.mean()}
            line["precision_change"], line["precision_stderr"] = difference(
                broad, whole, "precision"
            )
            line |= {"recall_change": 0.0, "recall_stderr": 0.0}
            if out.any() and len(out) - out.sum() >= least:
                without, control = (score(jnp.asarray(generated[~x])) for x in (out, other))
                line["recall_change"], line["recall_stderr"] = difference(
                    without, control, "recall"
                )
            lines.append(line)
    return lines


def measure(config: Any, workdir: Path, clipping: str, bits: tuple[int, ...]) -> list[dict]:
    """Runs `compare` on the packed generators of a work folder, for its first seed.

    Args:
        config: Configuration of the run that made the work folder.
        workdir: The work folder.
        clipping: Clipping of the rows to take; full precision is taken too.
        bits: Widths of the rows to take.
    """
    network = load_network(config, [source] if (source := open_reference(config)) else [])
    reference = np.asarray(load_reference(config, network, source).first.embed(network))
    lines = []
    rows = [row for row in store.read_requested(workdir) if row["seed"] == config.seeds[0]]
    kept = [
        row
        for row in rows
        if row["bits"] is None or (row["clipping"] == clipping and row["bits"] in bits)
    ]
    for name in dict.fromkeys(row["generator"] for row in kept):
        samples = {}
        for row in kept:
            if row["generator"] != name:
                continue
            generator = generators.load(workdir / PACKED_FOLDER / f"{row['row_hash']}.packed")
            given = (generator, generator.params, row["seed"], row["m"], config.batch_size)
            samples[row["bits"]] = np.asarray(GeneratedSamples(*given).embed(network))
        found = compare(config, reference, samples)
        lines += [{"generator": name, "bits": line.pop("name"), **line} for line in found]
    return lines
