"""One measurement: compress a generator, sample it, embed the samples, judge them."""

import platform
import shutil
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

import lsh_gan
from lsh_gan import compression, devices
from lsh_gan.compression import CompressionReport, GeneratorSpec
from lsh_gan.compression.files import file_bytes
from lsh_gan.experiment import evaluators
from lsh_gan.experiment.evaluators import Score
from lsh_gan.experiment.reference import Samples
from lsh_gan.experiment.step import embed_samples, stream_samples
from lsh_gan.features import FeatureNetwork
from lsh_gan.generators import Generator, sampling
from lsh_gan.results import store
from lsh_gan.results.labels import SCORES
from lsh_gan.results.store import Row

PACKED_FOLDER = "packed"
SAMPLES_FOLDER = "samples"
# Number of the fold of the key that calibration draws from; no sample has this number.
CALIBRATION_FOLD = 2**32 - 1
PACKAGES = ("jax", "jaxlib", "flax", "numpy", "orbax-checkpoint")


class Task(NamedTuple):
    """One measurement that a configuration asks for.

    Attributes:
        name: Of what is judged, for tables.
        identity: All that its numbers depend on; a JSON object that goes into the row.
        spec: What is done to the generator.
        seed: Of the latents.
        generator: What is compressed and sampled; None for given samples.
        samples: Given samples; None for a generator.
        channel_axes: Of the generator, see `generators.channel_axes`.
        layer: Path of the only tensor that is compressed; None if it is not the only one.
        keep: Whether the packed file, a strip of samples and the hits are kept.
    """

    name: str
    identity: dict[str, Any]
    spec: GeneratorSpec
    seed: int
    generator: Generator | None = None
    samples: Samples | None = None
    channel_axes: Mapping[str, int] | None = None
    layer: str | None = None
    keep: bool = True

    @property
    def row_hash(self) -> str:
        """Names the row: equal hashes mean equal numbers."""
        return store.hash_of(self.identity)

    @property
    def label(self) -> dict[str, Any]:
        """What the row is called in this run; see `store.set_requested`."""
        return {"generator": self.name}

    @property
    def title(self) -> str:
        """What a progress bar says."""
        bits = self.spec.weights.bits
        return f"{self.name} {bits} bits" if bits else self.name


class Clock:
    """Seconds between laps, by name; they add up where a name returns."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Books the time since the last lap under `name`."""
        now = time.perf_counter()
        self.seconds[name] = round(self.seconds.get(name, 0.0) + now - self._last, 4)
        self._last = now


def measure(
    task: Task,
    config: Any,
    workdir: Path,
    network: FeatureNetwork,
    scores: dict[str, Score],
    advance: Callable[[int], Any],
) -> Row:
    """Measures one row.

    Args:
        task: What to measure.
        config: See `configs/default.py`.
        workdir: Receives the packed parameters, a strip of samples and the hits of each metric.
        network: Embeds the images.
        scores: The metrics, fitted on the reference.
        advance: Called with a number of embedded images.

    Returns:
        A JSON object: the identity, the scores (`METRIC_FIELD`), sizes, versions and seconds.

    Raises:
        ValueError: NaN or Inf in an image or a feature.
    """
    clock = Clock()
    row = {"generator": task.name, **_spec_fields(task.spec), "seed": task.seed}
    if task.layer:
        row["layer"] = task.layer
    if task.samples is not None:
        options = {"batch_size": config.features.batch_size or None, "progress": advance}
        row["samples_taken"] = task.samples.taken
        m = len(task.samples)
        if task.samples.features is None and evaluators.streams(config, m, network.dim):
            generated = evaluators.encode(scores, task.samples.stream(network, **options))
        else:
            generated = task.samples.embed(network, **options)
    else:
        m = config.num_samples
        params, size = _compress(task, config, workdir)
        row |= size
        clock.lap("compress")
        key, psi = jax.random.key(task.seed), config.truncation_psi
        keep = min(config.num_columns, m) if task.keep else 0
        given = (task.generator, params, network, key, m)
        options = {"batch_size": config.batch_size, "truncation_psi": psi, "progress": advance}
        if evaluators.streams(config, m, network.dim):
            generated = evaluators.encode(scores, stream_samples(*given, **options))
            index = np.arange(keep)
            images = sampling.sample_at(task.generator, params, key, index, truncation_psi=psi)
        else:
            generated, images = embed_samples(*given, **options, keep=keep)
        if task.keep and devices.is_first():
            strip = np.concatenate(list(images), axis=1)
            image = Image.fromarray(strip[..., 0] if strip.shape[-1] == 1 else strip)
            image.save(workdir / SAMPLES_FOLDER / f"{task.row_hash}.png")
    jax.block_until_ready(generated)
    clock.lap("sample_and_embed")
    hits: dict[str, np.ndarray] = {}
    for name, score in scores.items():
        result = score(generated)
        row |= _score_fields(name, result)
        hits |= _hits(name, result)
        clock.lap(name)
    if task.keep:
        store.write_hits(workdir, task.row_hash, hits)
    if task.samples is None or task.samples.features is None:
        speed = m / clock.seconds["sample_and_embed"]
        row["images_per_second"] = round(speed, 1)
    return row | {
        "row_hash": task.row_hash,
        "m": m,
        "d": network.dim,
        **task.identity,
        "versions": _versions(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "seconds": clock.seconds,
    }


def _spec_fields(spec: GeneratorSpec) -> dict[str, Any]:
    """What tables show of a compression; nothing but the width is meant at full precision."""
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


def _compress(task: Task, config: Any, workdir: Path) -> tuple[Any, dict[str, Any]]:
    """Packs the generator to a file and takes the parameters back from the packed codes.

    A packed file that is to be judged as it is stays what it is.
    """
    generator = task.generator
    file = workdir / PACKED_FOLDER / f"{task.row_hash}.packed"
    count = sum(leaf.size for leaf in jax.tree.leaves(generator.params))
    if generator.packed_file and task.spec.weights.bits is None:
        if task.keep:
            shutil.copyfile(generator.packed_file, file)
        size = generator.packed_file.stat().st_size
        return generator.params, _sizes(size, count) | {"packed": True, "tensors": []}
    options = generator.provenance["options"]
    metadata = {"name": task.name, "family": generator.family, "options": options}
    inputs = (None, None)
    if task.spec.needs_latents:
        key = jax.random.fold_in(jax.random.key(task.seed), CALIBRATION_FOLD)
        inputs = generator.draw(key, np.arange(config.compression.num_calibration, dtype=np.uint32))
    packed, report = compression.pack_generator(
        generator.module,
        generator.params,
        task.spec,
        latents=inputs[0],
        labels=inputs[1],
        channel_axes=task.channel_axes,
        metadata=metadata,
    )
    if task.keep:
        size = compression.save_packed(file, packed)
    else:
        size = file_bytes([tensor.layout for tensor in packed.tensors], packed.empty, metadata)
    return generator.unpack(packed), _sizes(size, count) | {"tensors": _tensor_fields(report)}


def _sizes(size: int, count: int) -> dict[str, Any]:
    return {"bytes": size, "ratio": 4 * count / size, "bits_per_parameter": 8 * size / count}


def _tensor_fields(report: CompressionReport) -> list[dict[str, Any]]:
    """What happened to each compressed tensor; an SQNR without noise is null, α the median."""
    return [
        {
            "path": tensor.path,
            "shape": list(tensor.shape),
            "channel_axis": tensor.channel_axis,
            "bits": tensor.bits,
            "clipping": tensor.clipping,
            "scheme": tensor.scheme,
            "pruned": tensor.pruned,
            "alpha": float(np.median(tensor.alpha)),
            "share_clipped": tensor.share_clipped,
            "sqnr_db": tensor.sqnr_db if np.isfinite(tensor.sqnr_db) else None,
            "bytes": tensor.bytes,
        }
        for tensor in report.tensors
        if tensor.bits is not None
    ]


def _score_fields(metric: str, result: NamedTuple) -> dict[str, Any]:
    """The numbers of a score as `METRIC_FIELD`; what does not apply is left out."""
    fields = {k: v for k, v in result._asdict().items() if v is not None and np.ndim(v) == 0}
    return {f"{metric}_{k}": v for k, v in fields.items() if k not in ("n", "m", "k")}


def _hits(metric: str, result: NamedTuple) -> dict[str, np.ndarray]:
    """Which samples count, for paired comparisons of rows that share latents and reference."""
    found = {score: getattr(result, f"{score}_membership", None) for score in SCORES}
    return {f"{metric}_{score}_hits": x for score, x in found.items() if x is not None}


def _versions() -> dict[str, str]:
    found = {package: version(package) for package in PACKAGES}
    return found | {"lsh_gan": lsh_gan.__version__, "python": platform.python_version()}
