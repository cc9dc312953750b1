"""The metrics by name, with one interface: fit the reference once, score many generated sets."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

import lsh_gan
from lsh_gan import devices, metrics
from lsh_gan.features import FeatureNetwork
from lsh_gan.features.network import GIVEN
from lsh_gan.metrics import HashSpec, LshReference, hashing

SKETCH_FILE = "reference.sketch"  # in the work folder

Score = Callable[[jax.Array], NamedTuple]
Shape = tuple[int, int, int]  # of images: height, width, channels


class ReferenceFeatures(NamedTuple):
    """Features of a reference."""

    first: Any  # features, float32 `[n, d]`, or a `Share` of them
    second: Any  # a second sample of the same distribution, for the ceilings, or None
    source: str  # what made the features; see `feature_source`
    # For a share: features of row 0 of the whole set, then of the rows that the hash is fitted on.
    sample: jax.Array | None = None


def hash_spec(config: Any) -> HashSpec:
    """Returns the options of the hash in `config.hash`."""
    return HashSpec(**{f.name: config.hash[f.name] for f in dataclasses.fields(HashSpec)})


def _of_lsh(config: Any) -> dict[str, Any]:
    return {name: config.hash[name] for name in ("min_count", "votes", "min_level")}


def feature_source(config: Any, network: FeatureNetwork, shape: Shape | None = None) -> str:
    """Describes what features depend on besides the images; `shape` is that of images, if known."""
    version, fields = f"lsh_gan {lsh_gan.__version__}", config.reference
    if network.name == GIVEN:
        return f"given features of d = {network.dim}, {version}"
    side = fields.side
    images = f"images cropped and resized to {side} px" if side else "images as they are"
    images += "" if shape is None else f" ({shape[0]}×{shape[1]}×{shape[2]})"
    if (fields.background, fields.white_level) != (255, 0):
        images += f" on grey level {fields.background}, white at {fields.white_level}"
    return f"{network.name} at {network.side} px ({network.content_hash[:16]}), {images}, {version}"


class Distance(NamedTuple):
    """Distance between the distributions of two sets of features."""

    distance: float
    distance_stderr: float | None = None


def _knn(config: Any, reference: ReferenceFeatures) -> Score:
    options = {name: config[name] for name in ("k", "inclusive", "memory_mb", "extended")}
    fitted = metrics.knn_fit(reference.first, second_reference=reference.second, **options)
    return partial(metrics.knn_score, fitted, membership=True)


def _lsh_knn(config: Any, reference: ReferenceFeatures) -> Score:
    spec = dataclasses.replace(hash_spec(config), num_tables=config.lsh_knn.num_tables)
    fitted = metrics.lsh_knn_fit(
        jax.random.key(config.hash.seed), reference.first, second_reference=reference.second,
        spec=spec, k=config.k, inclusive=config.inclusive, votes=config.hash.votes,
        bucket_rows=config.lsh_knn.bucket_rows,
    )  # fmt: skip
    return partial(metrics.lsh_knn_score, fitted, membership=True)


def _lsh(config: Any, reference: ReferenceFeatures) -> Score:
    fitted = metrics.lsh_fit(
        jax.random.key(config.hash.seed), reference.first, second_reference=reference.second,
        spec=hash_spec(config), source=reference.source, sample=reference.sample, **_of_lsh(config),
    )  # fmt: skip
    return partial(metrics.lsh_score, fitted, membership=True)


def _kid(config: Any, reference: ReferenceFeatures) -> Score:
    find = partial(metrics.kid, reference.first, memory_mb=config.memory_mb)
    return lambda x: Distance(*find(x))


def _fid(config: Any, reference: ReferenceFeatures) -> Score:
    return lambda x: Distance(metrics.frechet_distance(reference.first, x))


class Evaluator(NamedTuple):
    """A metric of a run. Its scores are a `Distance`, or a `PrecisionRecall` with memberships.

    Its title is in `results.labels`.
    """

    fit: Callable[[Any, ReferenceFeatures], Score]  # function of (configuration, reference)
    fields: tuple[str, ...]  # of the configuration, on which scores depend; part of a row's hash


EVALUATORS = {
    "knn": Evaluator(_knn, ("k", "inclusive")),  # and "extended", if it is on
    "lsh_knn": Evaluator(_lsh_knn, ("k", "inclusive", "hash", "lsh_knn")),
    "lsh": Evaluator(_lsh, ("hash",)),
    "kid": Evaluator(_kid, ()),
    "fid": Evaluator(_fid, ()),
}


def fit(config: Any, reference: ReferenceFeatures) -> dict[str, Score]:
    """Fits every metric of `config.metrics`, by name."""
    return side_by_side(lambda name: EVALUATORS[name].fit(config, reference), config.metrics)


def side_by_side(run: Callable[[str], Any], names: Iterable[str]) -> dict[str, Any]:
    """Maps a function over metrics, two at a time, since one does not keep two cores busy.

    It maps one metric at a time on several devices, whose collectives need a fixed order, and for a
    single metric, which may stream.
    """
    names = list(names)
    if devices.count() > 1 or len(names) == 1:
        return {name: run(name) for name in names}
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(names, pool.map(run, names), strict=True))


def streams(config: Any, rows: int, dim: int) -> bool:
    """Whether features `[rows, d]` go to LSH batch by batch and are not held; scores are equal.

    This is so if LSH is the only metric and the features take more than `config.memory_mb`.
    """
    return config.metrics == ("lsh",) and 4 * rows * dim > config.memory_mb * 2**20


def lsh_reference(scores: Mapping[str, Any]) -> LshReference:
    """Returns the fitted LSH reference among fitted metrics."""
    return scores["lsh"].args[0]


def load_sketch(config: Any, network: FeatureNetwork) -> tuple[LshReference, Shape | None]:
    """Reads the LSH reference that `config.reference.sketch` names, and the shape of its images.

    The shape is None if the file does not say it, as for given features. A sketch of another
    feature network, preprocessing, version or `config.hash`, seed included, is a ValueError.
    """
    path = config.reference.sketch
    if Path(path).is_dir():
        raise ValueError(f"{path}: is a folder; expected the file {SKETCH_FILE} in it or elsewhere")
    fitted = metrics.load(path)
    if isinstance(fitted, metrics.Sketch):
        fitted = LshReference(fitted, **_of_lsh(config))
    hasher = fitted.sketch.hasher
    found = re.search(r"images [^,]*\((\d+)×(\d+)×(\d+)\)", hasher.source)
    shape = (int(found[1]), int(found[2]), int(found[3])) if found else None
    source = feature_source(config, network, shape)
    if hasher.source != source:
        raise ValueError(f"{path}: made of {hasher.source!r}; expected {source!r}")
    made = dataclasses.asdict(hasher.spec)
    made |= {name: getattr(fitted, name) for name in _of_lsh(config)}
    for name, value in made.items():
        asked = config.hash[name]
        if value != asked:
            raise ValueError(
                f"{path}: made with hash.{name} = {value}, not {asked}; say "
                f"--config.hash.{name}={value}"
            )
    # Directions depend only on the seed and the spec, not on features.
    anything = np.eye(2, hasher.directions.shape[1], dtype=np.float32)
    drawn = hashing.fit(jax.random.key(config.hash.seed), anything, hasher.spec)
    same = np.allclose(drawn.directions, hasher.directions, atol=1e-5)
    if not (same and np.array_equal(drawn.members, hasher.members)):
        raise ValueError(
            f"{path}: made with another hash.seed than {config.hash.seed}; expected the one of the "
            "run that made it, which is in its config.json"
        )
    if fitted.sketch.places is None:
        raise ValueError(
            f"{path}: holds counts alone, which give no recall; build it with keep_addresses=True"
        )
    if shape is None:
        logging.warning("%s does not say of which size its images were; it is not compared", path)
    return fitted, shape
