"""The two sides of a comparison that are not generated: reference images, and given samples."""

import dataclasses
import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lsh_gan import datasets, evaluators, features, image_sizes, metrics, own_samples
from lsh_gan.cache import kept
from lsh_gan.evaluators import CACHE_FOLDER, ReferenceFeatures, Score
from lsh_gan.features import FeatureNetwork
from lsh_gan.image_sizes import Shape
from lsh_gan.metrics import LshReference


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """Images, or features made of images elsewhere.

    Attributes:
        images: Uint8 `[n, h, w, c]`; None if features are given.
        features: Float32 `[n, d]`; None if images are given.
        content_hash: Sha256 (hex) over the values.
    """

    images: np.ndarray | None
    features: np.ndarray | None
    content_hash: str

    def embed(
        self,
        network: FeatureNetwork,
        *,
        batch_size: int | None = None,
        progress: Callable[[int], Any] | None = None,
    ) -> jax.Array:
        """Returns features, float32 `[n, d]`, on the device; arguments as `features.embed`."""
        if self.features is not None:
            return jnp.asarray(self.features)
        return features.embed(network, self.images, batch_size=batch_size, progress=progress)

    def __len__(self) -> int:
        return len(self.images if self.features is None else self.features)


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """A reference sample, and a second one of the same size where there are enough images.

    Attributes:
        first: The reference sample; None if a sketch takes its place.
        second: Disjoint from the first and as large, for the ceilings; None if there is none.
        content_hash: Sha256 (hex) over the values of both, or of the sketch.
        name: What it is, for tables.
        image_shape: Height, width and channels of its images; None where that is not known.
        sketch: The saved sketch that is scored against, or None.
    """

    first: Samples | None
    second: Samples | None
    content_hash: str
    name: str
    image_shape: Shape | None = None
    sketch: LshReference | None = None

    def __len__(self) -> int:
        return len(self.first) if self.sketch is None else self.sketch.sketch.rows

    def fit(
        self, config: Any, network: FeatureNetwork, workdir: Path, progress: Callable[[int], Any]
    ) -> dict[str, Score]:
        """Fits the metrics of `config` on the reference, which is embedded if need be.

        Args:
            config: See `configs/default.py`.
            network: Embeds the images.
            workdir: Keeps the features; see also `evaluators.fit`.
            progress: Called with a number of embedded images.
        """
        if self.sketch is not None:
            return {"lsh": partial(metrics.lsh_score, self.sketch)}
        first, second = (
            part and _embedded(part, config, network, workdir / CACHE_FOLDER, progress)
            for part in (self.first, self.second)
        )
        source = evaluators.feature_source(config, network, self.image_shape)
        reference = ReferenceFeatures(first, second, self.content_hash, source)
        return evaluators.fit(config, reference, workdir)


def _embedded(
    part: Samples, config: Any, network: FeatureNetwork, cache: Path, progress: Callable
) -> jax.Array:
    if part.features is not None:
        return part.embed(network)
    batch_size = config.features.batch_size or None
    header = {
        "kind": "features",
        "source": evaluators.feature_source(config, network),
        "images": part.content_hash,
    }
    return kept(
        cache / f"{network.content_hash[:16]}-{part.content_hash[:16]}.features",
        read=partial(_read_embedded, header),
        make=lambda: part.embed(network, batch_size=batch_size, progress=progress),
        write=lambda file, x: save_file({"features": np.asarray(x)}, file, metadata=header),
    )


def _read_embedded(expected: dict[str, str], file: Path) -> jax.Array:
    try:
        with safe_open(file, framework="numpy") as tensors:
            if tensors.metadata() != expected:
                raise ValueError(f"{file}: holds features of {tensors.metadata()}")
            return jnp.asarray(tensors.get_tensor("features"))
    except SafetensorError as error:
        raise ValueError(f"{file}: is damaged ({error})") from error


def load_reference(config: Any, network: FeatureNetwork) -> Reference:
    """Loads and draws the reference that `config.reference` asks for.

    Raises:
        FileNotFoundError, ValueError: As `datasets.load_images` and `evaluators.load_sketch`; fewer
            than k + 2 or than asked.
    """
    fields = config.reference
    if fields.sketch:
        sketch, shape = evaluators.load_sketch(config, network)
        found = metrics.file_hash(fields.sketch)
        return Reference(None, None, found, Path(fields.sketch).name, shape, sketch)
    if fields.samples_of:
        first, second, name = own_samples.load(config)
        both = first.content_hash + second.content_hash
        found = hashlib.sha256(both.encode()).hexdigest()
        return Reference(first, second, found, name, first.image_shape)
    if fields.features:
        source, kind = fields.features, "features"
        everything = load_features(source, network.dim)
    else:
        source, kind = fields.images, "images"
        everything = datasets.load_images(source, side=fields.side)
    n = image_sizes.check_count(config, source, len(everything))
    order = np.random.default_rng(fields.seed).permutation(len(everything))
    first = _samples(everything[np.sort(order[:n])], kind)
    second = None
    if len(everything) >= 2 * n:
        second = _samples(everything[np.sort(order[n : 2 * n])], kind)
    both = first.content_hash + (second.content_hash if second else "")
    found = hashlib.sha256(both.encode()).hexdigest()
    shape = None if first.images is None else first.images.shape[1:]
    return Reference(first, second, found, Path(source).name, shape)


def load_samples(config: Any, path: str, dim: int) -> Samples:
    """Loads samples that are judged as they are: `.npy` features `[m, d]`, or images.

    Raises:
        FileNotFoundError, ValueError: As `datasets.load_images` and `load_features`; fewer samples
            than k + 2.
    """
    if image_sizes.are_features(path):
        samples = _samples(load_features(path, dim), "features")
    else:
        samples = _samples(datasets.load_images(path, side=config.reference.side), "images")
    if len(samples) < config.k + 2:
        raise ValueError(
            f"{path}: {len(samples)} samples; k = {config.k} needs at least {config.k + 2}"
        )
    return samples


def load_features(path: str | Path, dim: int) -> np.ndarray:
    """Reads features from an `.npy` or `.npz` file.

    Args:
        path: The file.
        dim: Expected d.

    Returns:
        Float32 `[n, d]`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Not floating point, wrong rank or d, or NaN, Inf or more than float32
            holds (the row).
    """
    values = datasets.load_array(path)
    if not np.issubdtype(values.dtype, np.floating) or values.ndim != 2:
        raise ValueError(f"{path}: {values.dtype} {values.shape}; expected float features [n, d]")
    if values.shape[1] != dim:
        raise ValueError(f"{path}: d = {values.shape[1]}; the feature network has d = {dim}")
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise ValueError(f"{path}: row {int(np.argmin(finite))} holds NaN or Inf")
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    finite = np.isfinite(narrow).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(
            f"{path}: row {row} holds {np.abs(values[row]).max():.3g}; expected magnitudes of "
            f"float32, up to {np.finfo(np.float32).max:.3g}"
        )
    return narrow


def _samples(values: np.ndarray, kind: str) -> Samples:
    digest = hashlib.sha256(f"{values.dtype}{values.shape}".encode())
    digest.update(np.ascontiguousarray(values).tobytes())
    images = values if kind == "images" else None
    return Samples(images, values if kind == "features" else None, digest.hexdigest())
