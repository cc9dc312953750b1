"""One measurement: compress a generator, sample it, embed the samples, judge them."""

import platform
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

import lsh_gan
from lsh_gan import compression, features, rows, sampling
from lsh_gan.compression import CompressionSpec
from lsh_gan.evaluators import Score
from lsh_gan.features import FeatureNetwork
from lsh_gan.generators import Generator
from lsh_gan.reference import Samples

PACKED_FOLDER = "packed"
SAMPLES_FOLDER = "samples"
PACKAGES = ("jax", "jaxlib", "flax", "numpy", "orbax-checkpoint")


class Task(NamedTuple):
    """One measurement that a configuration asks for.

    Attributes:
        name: Of what is judged, for tables.
        identity: All that its numbers depend on; a JSON object that goes into the row.
        spec: The compression.
        seed: Of the latents.
        generator: What is compressed and sampled; None for given samples.
        samples: Given samples; None for a generator.
    """

    name: str
    identity: dict[str, Any]
    spec: CompressionSpec
    seed: int
    generator: Generator | None = None
    samples: Samples | None = None

    @property
    def row_hash(self) -> str:
        """Names the row: equal hashes mean equal numbers."""
        return rows.hash_of(self.identity)

    @property
    def title(self) -> str:
        """What a progress bar says."""
        return f"{self.name} {self.spec.bits} bits" if self.spec.bits else self.name


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
) -> dict[str, Any]:
    """Measures one row.

    Args:
        task: What to measure.
        config: See `configs/default.py`.
        workdir: Receives the packed parameters and a strip of samples.
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
    batch_size = config.features.batch_size or None
    if task.samples is not None:
        generated = task.samples.embed(network, batch_size=batch_size, progress=advance)
    else:
        params, size = _compress(task, workdir)
        row |= size
        clock.lap("compress")
        images = _sample(task, params, config, workdir)
        generated = features.embed(network, images, batch_size=batch_size, progress=advance)
    jax.block_until_ready(generated)
    clock.lap("sample_and_embed")
    for name, score in scores.items():
        row |= _score_fields(name, score(generated))
        clock.lap(name)
    return row | {
        "row_hash": task.row_hash,
        "m": len(generated),
        "d": network.dim,
        **task.identity,
        "versions": _versions(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "seconds": clock.seconds,
    }


def _spec_fields(spec: CompressionSpec) -> dict[str, Any]:
    """What tables show of a compression; nothing but the width is meant at full precision."""
    names = ("bits", "clipping", "granularity", "scheme")
    return {name: getattr(spec, name) if spec.bits else None for name in names}


def _compress(task: Task, workdir: Path) -> tuple[Any, dict[str, Any]]:
    """Packs the generator to a file and takes the parameters back from the packed codes."""
    options = task.generator.provenance["options"]
    metadata = {"name": task.name, "family": task.generator.family, "options": options}
    packed = compression.pack(task.generator.params, task.spec, metadata=metadata)
    size = compression.save_packed(workdir / PACKED_FOLDER / f"{task.row_hash}.packed", packed)
    count = sum(leaf.size for leaf in jax.tree.leaves(task.generator.params))
    sizes = {"bytes": size, "ratio": 4 * count / size, "bits_per_parameter": 8 * size / count}
    return compression.unpack(packed), sizes


def _sample(task: Task, params: Any, config: Any, workdir: Path) -> Iterator[np.ndarray]:
    """Yields the generated images and keeps the first ones as a strip, one file a row."""
    key = jax.random.key(task.seed)
    batches = sampling.sample(
        task.generator, params, key, config.num_samples, batch_size=config.batch_size
    )
    for number, batch in enumerate(batches):
        if number == 0:
            strip = np.concatenate(list(batch[: config.num_columns]), axis=1)
            image = Image.fromarray(strip[..., 0] if strip.shape[-1] == 1 else strip)
            image.save(workdir / SAMPLES_FOLDER / f"{task.row_hash}.png")
        yield batch


def _score_fields(metric: str, result: NamedTuple) -> dict[str, Any]:
    """The numbers of a score as `METRIC_FIELD`; what does not apply is left out."""
    fields = {k: v for k, v in result._asdict().items() if v is not None and np.ndim(v) == 0}
    return {f"{metric}_{k}": v for k, v in fields.items() if k not in ("n", "m", "k")}


def _versions() -> dict[str, str]:
    found = {package: version(package) for package in PACKAGES}
    return found | {"lsh_gan": lsh_gan.__version__, "python": platform.python_version()}
