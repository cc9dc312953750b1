"""Loads a feature network, or takes the user's own, and embeds images with it."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from lsh_gan import devices, user_code
from lsh_gan.errors import check_int, choose
from lsh_gan.features.registry import FEATURES, FeatureSpec
from lsh_gan.features.resizing import resize
from lsh_gan.identity import code_hash, content_hash

GIVEN = "given"  # name of the unknown network whose features the user gives
_SMALLEST_SIDE = 32
_CPU_PART = 25  # the activations of more images do not fit the caches
_CPU_BATCH = 80  # large enough to hide the cost of a dispatch, small enough to pad little
_DEVICE_BATCH = 256


@dataclass(frozen=True)
class FeatureNetwork:
    """A loaded network that maps images to features. Equal ones share compiled programs.

    It comes from `load`, or is the user's own, by `from_function` or `from_torch`.
    """

    name: str  #: its key in `FEATURES`, or the name of the user's own
    dim: int  #: d, the number of features
    side: int  #: input side in pixels, to which images are resized
    content_hash: str  #: sha256 (hex) over all that features depend on besides the images
    apply: Any = field(repr=False)  #: function of (variables, images); None for `given` features
    variables: Any = field(repr=False, compare=False)  #: the weights
    on_host: bool = False  #: whether `apply` runs outside of JAX's programs

    def __call__(self, images: Any) -> jax.Array:
        """Embeds one batch, uint8 `[n, h, w, c]`, to float32 `[n, d]`; raises as `check_images`."""
        check_images(images)
        return self.apply(self.variables, images)

    @classmethod
    def from_function(
        cls,
        f: Callable[[Any, Any], Any],
        params: Any,
        *,
        side: int,
        name: str = "",
        on_host: bool = False,
    ) -> "FeatureNetwork":
        """Makes a feature network of any function of parameters and images.

        Args:
            f: Function of `(params, images)` that can be jitted: images are float32
                `[n, side, side, 3]` in [0, 1], and grey ones have three equal channels. Returns
                features `[n, d]`, which become float32; row i depends on image i alone.
            params: Any tree of arrays, passed to `f` unchanged.
            side: Input side in pixels, to which images are resized as Pillow does: bilinear,
                antialiased.
            name: Name in tables; "" takes the name of `f`. Features are identified by it, by the
                content of `params`, and by the code of `f` itself, but not by that of functions
                that `f` calls.
            on_host: Whether `f` runs outside of JAX's programs, by any library: it gets arrays with
                values, returns a NumPy array, and is not jitted.

        Raises:
            ValueError, TypeError: `f` fails, or returns another shape or type; `side` is no whole
                number of at least 1; or `params` hold something else than arrays (its path).

        Example::

            >>> import lsh_gan, numpy as np
            >>> def edges(params, x):
            ...     return (x[:, 1:] - x[:, :-1]).reshape(len(x), -1) * params["gain"]
            >>> params = {"gain": np.float32(2)}
            >>> network = lsh_gan.FeatureNetwork.from_function(edges, params, side=8)
            >>> network(np.zeros((5, 32, 32, 1), np.uint8)).shape
            (5, 168)
        """
        name = name or getattr(f, "__name__", "").strip("<>") or "own"
        check_int(f"{name}: side", side, 1)
        for keys, x in jax.tree_util.tree_leaves_with_path(params):
            if not hasattr(x, "__array__") or hasattr(x, "detach"):
                path = jax.tree_util.keystr(keys, simple=True, separator="/")
                kind = type(x).__name__
                raise TypeError(f"{name}: {path} is a {kind}; expected NumPy or JAX arrays")
        apply = _of_function(f, side, on_host)
        try:
            made = apply(params, np.zeros((2, side, side, 3), np.uint8))
        except Exception as error:  # a user's function may raise anything
            why = (str(error).splitlines() or [""])[0]
            raise TypeError(
                f"{name}: on 2 images of {side}×{side}: {type(error).__name__}: {why}"
            ) from error
        if made.ndim != 2 or len(made) != 2:
            raise ValueError(f"{name}: makes {made.shape} of 2 images; expected features [2, d]")
        identity = _hash_of(name, side, code_hash(f), content_hash(params))
        return cls(name, made.shape[1], side, identity, apply, params, on_host)

    @classmethod
    def from_torch(
        cls,
        module: Any,
        *,
        side: int,
        call: Callable[[Any, Any], Any] = lambda module, images: module(images),
        name: str = "",
    ) -> "FeatureNetwork":
        """Makes a feature network of a torch module, which runs as it is, in eval mode.

        Args:
            module: A `torch.nn.Module`, on any device.
            side: As in `from_function`.
            call: Function of (module, images), if the module is not called so: images are a tensor,
                float32 `[n, 3, side, side]` in [0, 1], from which usually a mean is subtracted.
                Returns features, `[n, d]`; row i depends on image i alone.
            name: As in `from_function`; "" takes the name of the class.

        Raises:
            ValueError, TypeError: As `from_function`.

        Example::

            network = FeatureNetwork.from_torch(
                clip, side=224, call=lambda net, x: net.encode_image((x - mean) / std)
            )
        """
        import torch

        name = name or type(module).__name__
        if not isinstance(module, torch.nn.Module):
            raise TypeError(f"module is a {name}; expected a torch.nn.Module")
        module.eval()
        state = {path: x.cpu().float() for path, x in module.state_dict().items()}
        place = next(iter(module.state_dict().values()), torch.zeros(0)).device

        def f(_: Any, images: Any) -> np.ndarray:
            x = torch.from_numpy(np.moveaxis(images, 3, 1).copy()).to(place)
            with torch.no_grad():
                return call(module, x).float().cpu().numpy()

        f.__wrapped__ = call  # type: ignore[attr-defined]  # for `code_hash`
        made = cls.from_function(f, {}, side=side, name=name, on_host=True)
        weights = content_hash({path: x.numpy() for path, x in state.items()})
        return replace(made, content_hash=_hash_of(made.content_hash, weights))


def _hash_of(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@partial(jax.jit, static_argnums=(1, 2))
def _resized(images: jax.Array, side: int, rule: str) -> jax.Array:
    """Resizes images, uint8 `[n, h, w, 1 or 3]`, to float32 `[n, side, side, 3]` in [0, 255]."""
    x = resize(images.astype(jnp.float32), side, rule=rule)
    return jnp.broadcast_to(x, (*x.shape[:3], 3))


def _of_function(f: Callable, side: int, on_host: bool) -> Callable[[Any, Any], jax.Array]:
    """Makes a function of (variables, uint8 images) of a user's function."""

    def prepare(images: Any) -> jax.Array:
        return _resized(images, side, "antialiased") / 255

    def run(variables: Any, images: jax.Array) -> jax.Array:
        part = devices.at_once(_CPU_PART, len(images))
        return devices.in_parts(lambda x: as_features(f(variables, prepare(x))), images, part)

    as_features = partial(jnp.asarray, dtype=jnp.float32)
    if on_host:
        return lambda variables, images: as_features(f(variables, np.asarray(prepare(images))))
    return jax.jit(run)


def check_images(images: Any) -> None:
    """Raises TypeError unless images are uint8, ValueError unless `[n, h, w, 1 or 3]`."""
    dtype, shape = getattr(images, "dtype", None), tuple(getattr(images, "shape", ()))
    if dtype != np.uint8:
        found = type(images).__name__ if dtype is None else dtype
        raise TypeError(f"images are {found}; expected uint8 with values 0 to 255.")
    if len(shape) != 4 or shape[3] not in (1, 3) or 0 in shape[1:]:
        raise ValueError(f"images have shape {shape}; expected [n, h, w, 1 or 3].")


def own(name: Any, *, again: bool = False) -> FeatureNetwork | None:
    """Returns the user's own network, given itself or as MODULE:FUNCTION; None for other names.

    MODULE:FUNCTION is a `FeatureNetwork`, or a function that returns one; see `user_code.load`. The
    network of the last function is kept; `again` calls the function again.
    """
    if again:
        _called.cache_clear()
    if isinstance(name, FeatureNetwork):
        return name
    if not isinstance(name, str):
        raise TypeError(
            f"features.name is a {type(name).__name__}; expected a name or a FeatureNetwork, "
            "which FeatureNetwork.from_function and from_torch make"
        )
    if name in FEATURES:
        return None
    return user_code.load(name, "feature network", FeatureNetwork, _called)


@lru_cache(maxsize=1)
def _called(function: Callable) -> Any:
    return function()


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
        name: A key of `FEATURES`; or MODULE:FUNCTION, see `own`, without other arguments.
        side: Input side in pixels; None takes the default of the network.
        weights: The weight file; None takes that of the installed package, if there is one.
        sha256: Expected hash of the weight file, or its first digits. None expects the published
            file if its hash is known here; "" accepts every file.

    Raises:
        FileNotFoundError: No weight file; the message says where to get it.
        ValueError: Unknown name, invalid side, wrong hash, damaged file, or weights of another
            network.
    """
    if (network := own(name)) is not None:
        return network
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
    identity = _hash_of(spec.name, spec.version, side, found)
    return FeatureNetwork(name, spec.dim, side, identity, _apply(spec, side), variables)


@cache  # one object, so that networks that are loaded again are equal
def _apply(spec: FeatureSpec, side: int) -> Callable[[Any, jax.Array], jax.Array]:
    return partial(_features, spec, side)


@partial(jax.jit, static_argnums=(0, 1))
def _features(spec: FeatureSpec, side: int, variables: Any, images: jax.Array) -> jax.Array:
    def run(images):
        x = _resized(images, side, spec.resize_rule)
        x = (x - jnp.asarray(spec.shift, jnp.float32)) / jnp.asarray(spec.scale, jnp.float32)
        return jnp.asarray(spec.module.apply(variables, x))

    return devices.in_parts(run, images, devices.at_once(_CPU_PART, len(images)))


def check_side(name: str, side: int) -> None:
    """Checks the input side of a network of `FEATURES`; raises ValueError if invalid."""
    spec = choose("feature network", name, FEATURES)
    if spec.fixed_side and side != spec.side:
        raise ValueError(
            f"side of {spec.name} is {side}; it is defined for {spec.side} only: say "
            f"--config.features.side={spec.side}"
        )
    if side < _SMALLEST_SIDE:
        raise ValueError(f"side of {spec.name} is {side}; expected at least {_SMALLEST_SIDE}.")


def dim_of(name: Any) -> int:
    """Returns d, the number of features of a network of `FEATURES` or of the user's own."""
    return (own(name) or FEATURES[name]).dim


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
