"""Loads the reference and given samples: the sides of a comparison that are not compressed."""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lsh_gan import datasets, devices, features, metrics
from lsh_gan.datasets import Decoding, Source
from lsh_gan.experiment import evaluators, recipes, settings, step
from lsh_gan.experiment.evaluators import ReferenceFeatures, Score, Shape
from lsh_gan.experiment.step import Embedded, GeneratedSamples
from lsh_gan.features import FeatureNetwork
from lsh_gan.generators import Generator
from lsh_gan.metrics import LshReference
from lsh_gan.metrics.hashing import SAMPLE_ROWS
from lsh_gan.metrics.inputs import subset

Progress = Callable[[int], Any]  # called with the number of images embedded since the last call

HELD = 2**28  # bytes of decoded images that are kept per set; larger sets are decoded again


@dataclasses.dataclass(frozen=True, eq=False)
class Samples(Embedded):
    """Rows of a source; each process reads its share of them."""

    source: Source  # where the rows come from
    rows: np.ndarray  # their numbers, ascending, int `[n]`
    content_hash: str  # sha256 (hex) over the values
    # The images of this process, in batches, if they fit in `HELD`; else None, and each pass over
    # them decodes them.
    held: list[np.ndarray] | None
    features: np.ndarray | None  # of a source of features, float32 `[n, d]`; None for images
    batch_size: int = datasets.BATCH

    def images(self) -> Iterable[np.ndarray] | None:
        """Returns the images of this process in batches, uint8 `[b, h, w, c]`, or None."""
        if self.features is not None:
            return None
        return self.source.read(_share(self.rows)) if self.held is None else self.held

    def batches(self, network: FeatureNetwork, **options: Any) -> Iterator[jax.Array]:
        """Yields the features of this process, float32 `[b, d]`; options as `features.embed`."""
        if self.features is not None:
            yield jnp.asarray(_share(self.features))
        elif len(_share(self.rows)):
            yield from features.stream(network, self.images(), **options)

    def at(self, rows: np.ndarray) -> np.ndarray:
        """Returns the images of some rows, uint8 `[b, h, w, c]`."""
        return np.concatenate(list(self.source.read(self.rows[rows])))

    def __len__(self) -> int:
        return len(self.rows)


def _share(rows: np.ndarray) -> np.ndarray:
    """Returns the rows of this process: whole batches, in order."""
    share = step.share_of(len(rows), datasets.BATCH)
    return rows[share.start : share.stop]


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """A reference sample, and a second one of the same size if there are enough images."""

    first: Samples | GeneratedSamples | None  # the reference; None if a sketch takes its place
    # Disjoint from the first and as large, for the ceilings; None if there is none.
    second: Samples | GeneratedSamples | None
    content_hash: str  # sha256 (hex) over the values of both, or of the sketch
    name: str  # what it is, for tables
    # Height, width and channels of its images; None if not known.
    image_shape: Shape | None = None
    sketch: LshReference | None = None  # a saved sketch that takes the place of samples, or None
    taken: str = ""  # what was taken from its path; "" if it has none

    def __len__(self) -> int:
        return self.sketch.sketch.rows if self.sketch else len(self.first or ())

    def fit(self, config: Any, network: FeatureNetwork, progress: Progress) -> dict[str, Score]:
        """Fits the metrics of `config` on the reference; the cache folder keeps its features."""
        if self.sketch is not None:
            return {"lsh": partial(metrics.lsh_score, self.sketch, membership=True)}
        source = evaluators.feature_source(config, network, self.image_shape)
        options = {"batch_size": config.features.batch_size or None, "progress": progress}
        images = isinstance(self.first, Samples) and self.first.features is None
        parts: list[Any] = [self.first, self.second]
        sample = None
        if images and evaluators.streams(config, len(self), network.dim):
            rows = parts[0].rows[np.r_[0, subset(len(self), SAMPLE_ROWS)]]
            sample = dataclasses.replace(parts[0], rows=rows, held=None).embed(network, **options)
            first, second = (x and x.stream(network, **options) for x in parts)
        else:
            key = evaluators.feature_source(config, network)
            first, second = (x and _embedded(x, key, network, options) for x in parts)
        reference = ReferenceFeatures(first, second, source, sample)
        return evaluators.fit(config, reference)


def _embedded(samples: Any, source: str, network: FeatureNetwork, options: dict) -> jax.Array:
    """Loads features from the cache folder, or computes them and saves them there atomically."""
    # Several processes may have different cache folders.
    if samples.features is not None or jax.process_count() > 1:
        return samples.embed(network, **options)
    header = {"kind": "features", "source": source, "images": samples.content_hash}
    name = hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()[:32]
    file = datasets.cache_folder() / f"{name}.features"
    if file.exists():
        try:
            with safe_open(file, framework="numpy") as tensors:
                if tensors.metadata() != header:
                    raise ValueError(f"holds features of {tensors.metadata()}")
                return jnp.asarray(tensors.get_tensor("features"))
        except (ValueError, SafetensorError) as error:
            logging.warning("%s: %s; it is computed again", file, str(error).rstrip("."))
    x = samples.embed(network, **options)
    part = file.with_name(f"{os.getpid()}.{file.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"features": np.asarray(x)}, part, metadata=header)
        part.replace(file)
    except (OSError, SafetensorError) as error:
        logging.warning("%s: is not kept (%s)", file, getattr(error, "strerror", None) or error)
        part.unlink(missing_ok=True)
    return x


def open_reference(config: Any, field: str = "reference.num_images") -> Source | None:
    """Opens the images or features of `config.reference`; `field` is the name of n in messages."""
    fields = config.reference
    if fields.sketch or fields.samples_of:
        return None
    path, kind = (fields.features, "features") if fields.features else (fields.images, "images")
    source = datasets.open_source(path, (kind,), decoding_of(config))
    check_count(config, source, field)
    return source


def check_count(config: Any, source: Source, field: str = "reference.num_images") -> None:
    """Checks that a reference has as many rows as are drawn, and enough for k."""
    count = len(source)
    n = config.reference.num_images or count
    if n > count or n < config.k + 2:
        close = f"; the nearest is {count}" if count >= config.k + 2 else ""
        raise ValueError(
            f"{field} = {n}: {source.path} has {count}, and k = {config.k} needs at "
            f"least {config.k + 2}{close}"
        )
    settings.check_min_count(config, n)


def open_samples(config: Any, path: str) -> Source:
    """Opens given samples, images or features; raises as `datasets.open_source`."""
    kinds = ["images", "features"]
    if config.features.name == features.GIVEN:
        kinds = ["features"]
    elif config.reference.features:
        kinds.reverse()
    return datasets.open_source(path, kinds, decoding_of(config))


def decoding_of(config: Any) -> Decoding:
    """Returns the options for decoding image files."""
    return Decoding(**{field: config.reference[field] for field in Decoding._fields})


def choose_network(config: Any, sources: Iterable[Source]) -> tuple[str, int]:
    """Returns the name and d of the feature network; given features must have this d.

    The name is "given" if `features.name` is, or if there is nothing to embed and the features do
    not have the d of the network in `config.features`.
    """
    name, sources = config.features.name, list(sources)
    dims = {source.path: source.shape[1] for source in sources if source.kind == "features"}
    d = next(iter(dims.values()), 0)
    embeds = config.generators or len(dims) < len(sources) or not config.reference.features
    if name == features.GIVEN or not (embeds or d == features.dim_of(name)):
        name = features.GIVEN
    else:
        d = features.dim_of(name)
    for path, dim in dims.items():
        if dim != d:
            other = "the other side" if name == features.GIVEN else "the feature network"
            raise ValueError(
                f"{path}: d = {dim}; {other} has d = {d}. Features of any d are compared "
                "where both sides are features: see reference.features and samples"
            )
    return name, d


def load_network(config: Any, sources: Iterable[Source]) -> FeatureNetwork:
    """Loads the network of `choose_network`; for "given" it only has a name and d."""
    fields, (name, d) = config.features, choose_network(config, sources)
    if name == features.GIVEN:
        logging.info("features of d = %d are taken as given, whatever made them", d)
        return features.given(d)
    try:
        return features.load(name, side=fields.side, weights=fields.weights or None)
    except FileNotFoundError as error:
        say = "Say --config.features.weights=FILE (of `evaluate`: weights)."
        raise FileNotFoundError(f"{error} {say}") from error


def load_reference(
    config: Any,
    network: FeatureNetwork,
    source: Source | None,
    loaded: Mapping[str, Generator] | None = None,
) -> Reference:
    """Draws and decodes the reference of `config`; `source` comes from `open_reference`.

    `loaded` has generators by their names in `config.generators`, and saves loading them again.
    """
    fields = config.reference
    if fields.sketch:
        sketch, shape = evaluators.load_sketch(config, network)
        found = metrics.file_hash(fields.sketch)
        return Reference(None, None, found, Path(fields.sketch).name, shape, sketch)
    first: Samples | GeneratedSamples
    second: Samples | GeneratedSamples | None
    n, psi = fields.num_images, config.truncation_psi
    if source is None:
        own = fields.samples_of
        generator = (loaded or {}).get(own) or recipes.load(config, own)
        given = (generator, generator.params, fields.seed, n, config.batch_size, psi)
        first, second = (GeneratedSamples(*given, start=start) for start in (0, n))
        kind = "packed" if generator.packed_file else "uncompressed"
        name = f"{kind} samples of {generator.name} itself, not real images"
        shape, taken = generator.image_shape, ""
    else:
        n = n or len(source)
        order = np.random.default_rng(fields.seed).permutation(len(source))
        first = _samples(source, order[:n])
        second = _samples(source, order[n : 2 * n]) if len(source) >= 2 * n else None
        name, shape, taken = Path(source.path).name, source.image_shape, source.taken
        logging.info("reference: n = %d of %s: %s", n, source.path, taken)
    both = first.content_hash + (second.content_hash if second else "")
    found = hashlib.sha256(both.encode()).hexdigest()
    return Reference(first, second, found, name, shape, taken=taken)


def check_grey(drawn: Reference, generators: list[Generator], samples: Iterable[Source]) -> None:
    """Refuses grey generators and samples if a reference image is in colour.

    RGB files of grey images count as grey. The colours of a sketch, and of a generator's samples as
    the reference, are not known and not compared.
    """
    if not isinstance(drawn.first, Samples) or (drawn.image_shape or (1,))[-1] == 1:
        return
    if _first_in_colour(drawn.first.images() or ()) is None:
        return
    given = [x for x in samples if x.kind == "images"]
    grey = [f"generator {each.name} makes" for each in generators if each.image_channels == 1]
    grey += [
        f"samples {x.path} are" for x in given
        if x.shape[3] == 1 or _first_in_colour(x.read(np.arange(len(x)))) is None
    ]  # fmt: skip
    if grey:
        raise ValueError(
            f"{grey[0]} grey images, but the reference {drawn.name} is in colour; expected a grey "
            "reference, or images in colour"
        )


def load_samples(config: Any, source: Source, expected: Shape | None) -> Samples:
    """Decodes given samples, which are scored as they are.

    `expected` is the shape of the reference images, or None if not known. Samples in colour are
    refused if the reference is grey. RGB files of grey images count as grey.
    """
    if len(source) < config.k + 2:
        raise ValueError(
            f"{source.path}: {len(source)} samples; k = {config.k} needs at least {config.k + 2}"
        )
    logging.info("samples: m = %d of %s: %s", len(source), source.path, source.taken)
    samples = _samples(source, np.arange(len(source)))
    grey = expected and expected[-1] == 1
    index = _first_in_colour(samples.images() or ()) if grey else None
    if index is not None:
        raise ValueError(
            f"samples {source.path}: image {index} is in colour, but the reference is grey; "
            "convert the samples to grey, or give a reference in colour"
        )
    return samples


def _first_in_colour(batches: Iterable[np.ndarray]) -> int | None:
    """Returns the number of the first image that is not grey, or None."""
    start = 0
    for images in batches:
        coloured = (images != images[..., :1]).any(axis=(1, 2, 3))
        if coloured.any():
            return start + int(coloured.argmax())
        start += len(images)
    return None


def _samples(source: Source, rows: np.ndarray) -> Samples:
    """Reads all rows, which finds damaged files, and hashes them; keeps images that fit `HELD`."""
    rows = np.sort(rows)
    share = rows if source.kind == "features" else _share(rows)
    keep = source.kind == "features" or math.prod((len(share), *source.shape[1:])) <= HELD
    digests, parts, total = b"", [], len(datasets.cut(share))
    for batch in datasets.progress(source.read(share), total, f"reading {source.path}"):
        digests += hashlib.sha256(batch.tobytes()).digest()
        parts += [batch] if keep else []
    if source.kind == "images":
        own, count = np.frombuffer(digests, np.uint8).reshape(-1, 32), len(datasets.cut(rows))
        gathered = devices.gather_rows(own, len(devices.process_share(count)))
        digests = np.asarray(gathered)[:count].tobytes()
    shape = (len(rows), *source.shape[1:])
    found = hashlib.sha256(f"{source.dtype}{shape}".encode() + digests).hexdigest()
    if source.kind == "features":
        return Samples(source, rows, found, None, np.concatenate(parts))
    return Samples(source, rows, found, parts if keep else None, None)
