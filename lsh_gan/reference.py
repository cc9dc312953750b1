"""The two sides of a comparison that are not generated: reference images, and given samples."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lsh_gan import datasets, features
from lsh_gan.features import FeatureNetwork


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
        first: The reference sample.
        second: Disjoint from the first and as large, for the ceilings; None if there is none.
        content_hash: Sha256 (hex) over the values of both.
    """

    first: Samples
    second: Samples | None
    content_hash: str

    def embed(
        self, config: Any, network: FeatureNetwork, cache: Path, progress: Callable[[int], Any]
    ) -> tuple[jax.Array, jax.Array | None]:
        """Returns the features of both samples, from the folder `cache` if they are there."""
        first, second = (
            part and _cached(part, config, network, cache, progress)
            for part in (self.first, self.second)
        )
        return first, second


def _cached(
    part: Samples, config: Any, network: FeatureNetwork, cache: Path, progress: Callable
) -> jax.Array:
    file = cache / f"{network.content_hash[:16]}-{part.content_hash[:16]}.npy"
    if file.exists():
        return jnp.asarray(load_features(file, network.dim))
    batch_size = config.features.batch_size or None
    embedded = part.embed(network, batch_size=batch_size, progress=progress)
    if part.features is None:
        cache.mkdir(exist_ok=True)
        with file.with_suffix(".part").open("wb") as stream:
            np.save(stream, np.asarray(embedded))
        file.with_suffix(".part").replace(file)
    return embedded


def load_reference(config: Any, dim: int) -> Reference:
    """Loads and draws the reference that `config.reference` asks for.

    Raises:
        FileNotFoundError, ValueError: As `datasets.load_images`; fewer than k + 2 or than asked.
    """
    fields = config.reference
    if fields.features:
        source, kind = fields.features, "features"
        everything = load_features(source, dim)
    else:
        source, kind = fields.images, "images"
        everything = datasets.load_images(source, side=fields.side)
    n = fields.num_images or len(everything)
    if n > len(everything) or n < config.k + 2:
        raise ValueError(
            f"reference.num_images = {n}: {source} has {len(everything)}, and k = {config.k} needs "
            f"at least {config.k + 2}; the nearest is {max(config.k + 2, len(everything))}"
        )
    order = np.random.default_rng(fields.seed).permutation(len(everything))
    first = _samples(everything[np.sort(order[:n])], kind)
    second = None
    if len(everything) >= 2 * n:
        second = _samples(everything[np.sort(order[n : 2 * n])], kind)
    both = first.content_hash + (second.content_hash if second else "")
    return Reference(first, second, hashlib.sha256(both.encode()).hexdigest())


def load_samples(config: Any, path: str, dim: int) -> Samples:
    """Loads samples that are judged as they are: `.npy` features `[m, d]`, or images.

    Raises:
        FileNotFoundError, ValueError: As `datasets.load_images` and `load_features`; fewer samples
            than k + 2.
    """
    if path.endswith(".npy") and datasets.load_array(path).ndim == 2:
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
        ValueError: Not floating point, wrong rank or d, or NaN or Inf (the row).
    """
    values = datasets.load_array(path)
    if not np.issubdtype(values.dtype, np.floating) or values.ndim != 2:
        raise ValueError(f"{path}: {values.dtype} {values.shape}; expected float features [n, d]")
    if values.shape[1] != dim:
        raise ValueError(f"{path}: d = {values.shape[1]}; the feature network has d = {dim}")
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise ValueError(f"{path}: row {int(np.argmin(finite))} holds NaN or Inf")
    return values.astype(np.float32)


def _samples(values: np.ndarray, kind: str) -> Samples:
    digest = hashlib.sha256(f"{values.dtype}{values.shape}".encode())
    digest.update(np.ascontiguousarray(values).tobytes())
    images = values if kind == "images" else None
    return Samples(images, values if kind == "features" else None, digest.hexdigest())
