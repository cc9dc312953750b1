"""Loads a feature network and embeds images with it."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from lsh_gan import devices
from lsh_gan.errors import choose
from lsh_gan.features.registry import FEATURES, FeatureSpec
from lsh_gan.features.resizing import resize

GIVEN = "given"  # name of the unknown network whose features the user gives
_SMALLEST_SIDE = 32
_CPU_PART = 25  # the activations of more images do not fit the caches
_CPU_BATCH = 80  # large enough to hide the cost of a dispatch, small enough to pad little
_DEVICE_BATCH = 256


@dataclass(frozen=True)
class FeatureNetwork:
    """A loaded network that maps images to features. Equal ones share compiled programs."""

    name: str  #: its key in `FEATURES`
    dim: int  #: d, the number of features
    side: int  #: input side in pixels, to which images are resized
    content_hash: str  #: sha256 (hex) over name, preprocessing version, side and weight file
    apply: Any = field(repr=False)  #: jitted, of (variables, images); None for `given` features
    variables: Any = field(repr=False, compare=False)  #: the weights

    def __call__(self, images: Any) -> jax.Array:
        """Embeds one batch, uint8 `[n, h, w, c]`, to float32 `[n, d]`; raises as `check_images`."""
        check_images(images)
        return self.apply(self.variables, images)


def check_images(images: Any) -> None:
    """Raises TypeError unless images are uint8, ValueError unless `[n, h, w, 1 or 3]`."""
    dtype, shape = getattr(images, "dtype", None), tuple(getattr(images, "shape", ()))
    if dtype != np.uint8:
        found = type(images).__name__ if dtype is None else dtype
        raise TypeError(f"images are {found}; expected uint8 with values 0 to 255.")
    if len(shape) != 4 or shape[3] not in (1, 3) or 0 in shape[1:]:
        raise ValueError(f"images have shape {shape}; expected [n, h, w, 1 or 3].")


def given(dim: int) -> FeatureNetwork:
    """Makes a placeholder for the network of given features; it cannot embed images."""
    return FeatureNetwork(GIVEN, dim, 0, f"d = {dim}", None, None)


def load(
    name: str,
    *,
    side: int | None = None,
    weights: str | os.PathLike | None = None,
    sha256: str | None = None,
) -> FeatureNetwork:
    """Loads a feature network; checks everything before it computes anything.

    Args:
        name: A key of `FEATURES`.
        side: Input side in pixels; None takes the default of the network.
        weights: The weight file; None takes that of the installed package, if there is one.
        sha256: Expected hash of the weight file, or its first digits. None expects the published
            file if its hash is known here; "" accepts every file.

    Raises:
        FileNotFoundError: No weight file; the message says where to get it.
        ValueError: Unknown name, invalid side, wrong hash, damaged file, or weights of another
            network.
    """
    spec = choose("feature network", name, FEATURES)
    side = spec.side if side is None else side
    check_side(name, side)
    path = weight_file(spec, weights)
    if path is None or not path.is_file():
        where = f"{path}: no such file" if path else "no weight file is given"
        raise FileNotFoundError(
            f"{where}; the weights of {spec.name} usually come from {spec.origin}; "
            f"their sha256 is {spec.sha256 or 'not on record'}. Nothing is downloaded."
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    expected = spec.sha256 if sha256 is None else sha256
    if not found.startswith(expected):
        raise ValueError(f"{path}: sha256 is {found}; expected {expected} for {name}.")
    variables = devices.replicate(_read_variables(spec, path), local=True)
    identity = json.dumps([spec.name, spec.version, side, found])
    content_hash = hashlib.sha256(identity.encode()).hexdigest()
    return FeatureNetwork(name, spec.dim, side, content_hash, _apply(spec, side), variables)


@cache  # one object, so that networks that are loaded again are equal
def _apply(spec: FeatureSpec, side: int) -> Callable[[Any, jax.Array], jax.Array]:
    return partial(_features, spec, side)


@partial(jax.jit, static_argnums=(0, 1))
def _features(spec: FeatureSpec, side: int, variables: Any, images: jax.Array) -> jax.Array:
    def run(images):
        x = resize(images.astype(jnp.float32), side, rule=spec.resize_rule)
        x = jnp.broadcast_to(x, (*x.shape[:3], 3))
        x = (x - jnp.asarray(spec.shift, jnp.float32)) / jnp.asarray(spec.scale, jnp.float32)
        return jnp.asarray(spec.module.apply(variables, x))

    return devices.in_parts(run, images, devices.at_once(_CPU_PART, len(images)))


def check_side(name: str, side: int) -> None:
    """Checks the input side of a network without loading it; raises ValueError if invalid."""
    spec = choose("feature network", name, FEATURES)
    if spec.fixed_side and side != spec.side:
        raise ValueError(
            f"side of {spec.name} is {side}; it is defined for {spec.side} only: say "
            f"--config.features.side={spec.side}"
        )
    if side < _SMALLEST_SIDE:
        raise ValueError(f"side of {spec.name} is {side}; expected at least {_SMALLEST_SIDE}.")


def weight_file(spec: FeatureSpec, weights: str | os.PathLike | None) -> Path | None:
    """Returns the weight file: the given one, or that of the installed package, or None."""
    return Path(weights) if weights is not None else spec.default_file and spec.default_file()


@cache
def _shapes(spec: FeatureSpec) -> Any:
    images = jax.ShapeDtypeStruct((1, spec.side, spec.side, 3), jnp.float32)
    with jax.enable_x64(False):  # with x64, initialisers would make float64
        return jax.eval_shape(spec.module.init, jax.random.key(0), images)["params"]


def _read_variables(spec: FeatureSpec, path: Path) -> Any:
    state, expected = spec.read(path), _shapes(spec)
    layers = dict.fromkeys(tuple(layer) for *layer, _ in traverse_util.flatten_dict(expected))
    try:
        params = {layer: spec.convert(state, layer) for layer in layers}
    except KeyError as error:
        raise ValueError(f"{path}: has no tensor {error}, which {spec.name} needs.") from error
    for name, values in traverse_util.flatten_dict(expected).items():
        if (shape := params[name[:-1]][name[-1]].shape) != values.shape:
            raise ValueError(
                f"{path}: {'/'.join(name)} has shape {shape}; {spec.name} expects {values.shape}."
            )
    return {"params": traverse_util.unflatten_dict(params)}


def embed(
    network: FeatureNetwork,
    images: Any,
    *,
    batch_size: int | None = None,
    progress: Callable[[int], Any] | None = None,
) -> jax.Array:
    """Embeds any number of images to features, float32 `[n, d]` on the device.

    A row does not depend on the others of its batch. Another batch size changes it by at most 1e-5
    of the largest feature, because other kernels round differently. One program is compiled.

    Args:
        network: Result of `load`, or any such function of images.
        images: Uint8 `[n, h, w, c]`, or an iterable of such batches with equal `h, w, c`.
        batch_size: Images per batch, a multiple of the number of devices; None takes 80 on CPU, 256
            elsewhere, or the next multiple.
        progress: Called with the number of images done since its last call (`tqdm.update`).

    Raises:
        TypeError: Images are not uint8.
        ValueError: No images, different sizes, or a feature that is NaN or Inf (row index).
    """
    return jnp.concatenate(list(stream(network, images, batch_size=batch_size, progress=progress)))


def stream(
    network: FeatureNetwork,
    images: Any,
    *,
    batch_size: int | None = None,
    progress: Callable[[int], Any] | None = None,
) -> Iterator[jax.Array]:
    """Yields the features of `embed` in batches `[<= batch_size, d]`; takes the same arguments."""
    if batch_size is None:
        count = jax.local_device_count()
        batch_size = -(-devices.at_once(_CPU_BATCH, _DEVICE_BATCH) // count) * count
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}; expected an integer of at least 1.")
    rows = 0

    def run(batch_and_count: tuple[np.ndarray, int]) -> tuple[jax.Array, np.ndarray]:
        batch, count = batch_and_count
        features = network(devices.split(batch, local=True))[:count]
        return features, np.asarray(jnp.isfinite(features).all(axis=1))

    for features, finite in devices.ahead(run, _batches(images, batch_size)):
        if not finite.all():
            row = rows + int(np.argmin(finite))
            raise ValueError(f"row {row} of the features holds NaN or Inf.")
        rows += len(features)
        if progress is not None:
            progress(len(features))
        yield features
    if not rows:
        raise ValueError("there are no images to embed.")


def _batches(images: Any, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Splits arrays of any length into batches of one size; pads the last one with zeros."""
    parts: Iterable = [images] if hasattr(images, "shape") else images
    shape: tuple[int, ...] = ()
    rest = np.zeros(0, np.uint8)
    for part in parts:
        check_images(part)
        shape = shape or part.shape[1:]
        if part.shape[1:] != shape:
            raise ValueError(f"images have sizes {shape} and {part.shape[1:]}; resize them first.")
        rest = np.concatenate([rest, part]) if len(rest) else np.asarray(part)
        while len(rest) >= batch_size:
            yield rest[:batch_size], batch_size
            rest = rest[batch_size:]
    if len(rest):
        padding = np.zeros((batch_size - len(rest), *shape), np.uint8)
        yield np.concatenate([rest, padding]), len(rest)
