"""Takes one measurement: compresses a generator, samples it, embeds and scores the samples."""

import math
import platform
import shutil
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

import lsh_gan
from lsh_gan import compression, devices
from lsh_gan.compression.packing import file_bytes
from lsh_gan.datasets import Source
from lsh_gan.experiment import evaluators
from lsh_gan.experiment.reference import Reference, Samples
from lsh_gan.experiment.step import GeneratedSamples
from lsh_gan.features import FeatureNetwork
from lsh_gan.generators import Generator, sampling
from lsh_gan.generators.functions import FAMILY
from lsh_gan.metrics.sketch import encode_all
from lsh_gan.results import store, strips

PACKED_FOLDER = "packed"
_BEYOND = 16  # images meant for [-1, 1] do not reach this value; images in [0, 255] exceed it
_ROUNDING = 8  # of 255; another batch size or bfloat16 changes a pixel by less
# The key is folded with this number to draw calibration latents; no sample has it.
CALIBRATION_FOLD = 2**32 - 1
PACKAGES = ("jax", "jaxlib", "flax", "numpy", "orbax-checkpoint")


class Setup(NamedTuple):
    """What is measured, and against which reference; nothing is computed yet."""

    config: Any
    network: FeatureNetwork
    generators: list[Generator]
    reference: Reference
    samples: dict[str, Source]  # given samples, by name


class Measurement(NamedTuple):
    """One measurement that a configuration requests."""

    name: str  # of the generator or the samples, for tables
    identity: dict[str, Any]  # all that its numbers depend on; a JSON object that goes into the row
    spec: compression.GeneratorSpec  # how the generator is compressed
    seed: int  # of the latents
    subject: Generator | Samples  # a generator, which is compressed and sampled, or given samples
    # Path of the tensor, if only one is compressed; else None.
    layer: str | None = None
    keep: bool = True  # whether the packed file and a strip of samples are kept

    @property
    def row_hash(self) -> str:
        """Hash of the row; equal hashes mean equal numbers."""
        return store.hash_of(self.identity)


def book(seconds: dict[str, float], start: float, **shares: float) -> float:
    """Records the time since `start` under names, in proportion to shares; returns the time now."""
    now = time.perf_counter()
    unit = (now - start) / sum(shares.values())
    seconds |= {name: round(unit * share, 4) for name, share in shares.items()}
    return now


def measure(
    measurement: Measurement,
    setup: Setup,
    workdir: Path,
    scores: dict[str, evaluators.Score],
    advance: Callable[[int], Any],
) -> store.Row:
    """Measures one row: a JSON object of its identity, scores (`METRIC_FIELD`), sizes and seconds.

    `workdir` receives the packed parameters, a strip of samples and the hits of each metric.
    `advance` is called with the number of images embedded since its last call. NaN or Inf in an
    image or a feature is a ValueError.
    """
    config, network, drawn = setup.config, setup.network, setup.reference
    seconds: dict[str, float] = {}
    start, subject, row_hash = time.perf_counter(), measurement.subject, measurement.row_hash
    row = {"generator": measurement.name, **spec_fields(measurement.spec), "seed": measurement.seed}
    if measurement.layer:
        row["layer"] = measurement.layer
    options: dict[str, Any] = {"progress": advance}
    images: list[np.ndarray] = []
    generated: Any
    samples: Samples | GeneratedSamples
    if isinstance(subject, Samples):
        samples = subject
        options["batch_size"] = config.features.batch_size or None
        row["samples_taken"] = subject.source.taken
        if subject.features is None:
            images.append(subject.at(np.arange(min(config.num_columns, len(subject)))))
    else:
        params, size = _compress(subject, measurement, config, workdir)
        row |= size
        start = book(seconds, start, compress=1)
        rest = (config.num_samples, config.batch_size, config.truncation_psi)
        samples = GeneratedSamples(subject, params, measurement.seed, *rest)
        options |= {"keep": config.num_columns if measurement.keep else 0, "images": images}
    m = len(samples)
    if samples.features is None and evaluators.streams(config, m, network.dim):
        hasher = evaluators.lsh_reference(scores).sketch.hasher
        generated = encode_all(hasher, samples.stream(network, **options), "generated")
    else:
        generated = samples.embed(network, **options)
    if images and devices.is_first():
        strip = np.concatenate(images)[: min(config.num_columns, m)]
        strips.save(workdir / strips.SAMPLES / f"{row_hash}.png", [strip])
        if isinstance(subject, Generator) and row["bits"] is None:
            _check_images(subject, samples, strip)
    jax.block_until_ready(generated)
    start = book(seconds, start, sample_and_embed=1)

    def score(name: str) -> tuple[NamedTuple, float]:
        begin = time.perf_counter()
        return scores[name](generated), time.perf_counter() - begin

    hits: dict[str, np.ndarray] = {}
    scored = evaluators.side_by_side(score, scores)
    for name, (result, _) in scored.items():
        for field, value in result._asdict().items():
            if field.endswith(("membership", "deviations")) and value is not None:
                # For paired comparisons of rows that share latents, reference and hash.
                hits[f"{name}_{field.replace('membership', 'hits')}"] = np.asarray(value)
            elif value is not None and np.ndim(value) == 0 and field not in ("n", "m", "k"):
                row[f"{name}_{field}"] = np.asarray(value).item()  # for JSON
    book(seconds, start, **{name: spent for name, (_, spent) in scored.items()})
    store.write_hits(workdir, row_hash, hits)
    if samples.features is None:
        row["images_per_second"] = round(m / seconds["sample_and_embed"], 1)
    return row | {
        "row_hash": row_hash,
        "m": m,
        "d": network.dim,
        **measurement.identity,
        "versions": {package: version(package) for package in PACKAGES}
        | {"lsh_gan": lsh_gan.__version__, "python": platform.python_version()},
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "seconds": seconds,
        "reference_name": drawn.name,
        **({"reference_taken": drawn.taken} if drawn.taken else {}),
    }


def _check_images(generator: Generator, samples: Any, strip: np.ndarray) -> None:
    """Warns of equal images, of images in [0, 1], and of a function that mixes images of a batch.

    Images of a function that are far outside of [-1, 1] are a ValueError.
    """
    if len(strip) > 1 and (strip == strip[0]).all():
        logging.warning("%s: its first %d images are equal", generator.name, len(strip))
    if strip.min() >= 127:
        logging.warning(
            "%s: no pixel of its first images is darker than mid-grey; expected images in "
            "[-1, 1], and these look like [0, 1] or [0, 255]", generator.name,
        )  # fmt: skip
    if generator.family != FAMILY:
        return
    beside = np.append(np.arange(15) + len(samples), 0)  # image 0 beside others
    key, index = jax.random.key(samples.seed), jnp.asarray(beside, jnp.uint32)
    drawn = sampling.images_at(generator, samples.params, key, index, samples.truncation_psi)
    images, largest = map(np.asarray, drawn)
    if (reached := np.median(largest)) > _BEYOND:
        raise ValueError(
            f"{generator.name}: images reach {reached:.4g}; expected values in [-1, 1]: "
            "x / 127.5 - 1 of an x in [0, 255]"
        )
    change = np.abs(images[-1].astype(int) - strip[0]).max()
    if change > _ROUNDING:
        logging.warning(
            "%s: image 0 changes by %d of 255 with the images beside it in a batch; expected image "
            "i from row i alone: is noise drawn anew, or are norms or dropout in training mode?",
            generator.name, change,
        )  # fmt: skip


def spec_fields(spec: compression.GeneratorSpec) -> dict[str, Any]:
    """Returns the fields of a compression that tables show; all are None at full precision."""
    weights = spec.weights
    fields = {
        "bits": weights.bits,
        "activation_bits": spec.activations and spec.activations.bits,
        "clipping": weights.clipping,
        "granularity": weights.granularity,
        "scheme": weights.scheme,
        "correct_biases": spec.correct_biases,
        "reestimate_batch_norms": spec.reestimate_batch_norms,
    }
    return fields if weights.bits else dict.fromkeys(fields)


def _compress(
    generator: Generator, measurement: Measurement, config: Any, workdir: Path
) -> tuple[Any, dict[str, Any]]:
    """Packs the generator to a file; returns the unpacked parameters and fields of the row.

    A packed file that is measured unchanged is copied. The fields have the report of each
    compressed tensor, with the median of α, and null for an SQNR without noise.
    """
    file = workdir / PACKED_FOLDER / f"{measurement.row_hash}.packed"
    keep = measurement.keep and devices.is_first()
    fields: dict[str, Any]
    if generator.packed_file and measurement.spec.weights.bits is None:
        if keep:
            shutil.copyfile(generator.packed_file, file)
        size, params = generator.packed_file.stat().st_size, generator.params
        fields = {"packed": True, "tensors": []}
    else:
        options: dict[str, Any] = {
            "channel_axes": generator.channel_axes, "metadata": generator.packed_metadata
        }  # fmt: skip
        if measurement.spec.needs_latents:
            key = jax.random.fold_in(jax.random.key(measurement.seed), CALIBRATION_FOLD)
            index = jnp.arange(config.compression.num_calibration, dtype=jnp.uint32)
            options["latents"], options["labels"] = generator.draw(key, index)
        packed, report = compression.pack_generator(
            generator.module, generator.params, measurement.spec, **options
        )
        if keep:
            size = compression.save_packed(file, packed)
        else:
            layouts = [tensor.layout for tensor in packed.tensors]
            size = file_bytes(layouts, packed.empty, packed.metadata)
        params = generator.unpack(packed)
        tensors = [
            tensor._asdict()
            | {"alpha": float(np.median(np.asarray(tensor.alpha)))}
            | {"sqnr_db": None if tensor.sqnr_db == math.inf else tensor.sqnr_db}
            for tensor in report.tensors
            if tensor.bits is not None
        ]
        fields = {"tensors": tensors}
    count = sum(leaf.size for leaf in jax.tree.leaves(generator.params))
    sizes = {"bytes": size, "ratio": 4 * count / size, "bits_per_parameter": 8 * size / count}
    return params, sizes | fields
