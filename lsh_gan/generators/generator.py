"""`Generator`: a generator of any family with its parameters; and the table of families."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.core import FrozenDict
from flax.errors import FlaxError

from lsh_gan import compression, devices, user_code
from lsh_gan.compression import activations
from lsh_gan.compression.rules import compare_shapes
from lsh_gan.errors import check_names, choose
from lsh_gan.generators import checkpoints, functions
from lsh_gan.generators.dcgan import DCGAN, ProGAN, Sequential
from lsh_gan.generators.fastgan import FastGAN
from lsh_gan.generators.functions import Function, Latent
from lsh_gan.generators.mixer_diffusion import MixerDiffusion
from lsh_gan.generators.r3gan import R3GAN
from lsh_gan.generators.residual import SNGAN, BigGAN, BigGANDeep
from lsh_gan.generators.stylegan2 import StyleGAN2
from lsh_gan.generators.stylegan2_lucidrains import LucidrainsStyleGAN2
from lsh_gan.generators.stylegan3 import StyleGAN3
from lsh_gan.identity import content_hash

FAMILIES: dict[str, type[nn.Module]] = {
    "biggan": BigGAN,
    "biggan_deep": BigGANDeep,
    "dcgan": DCGAN,
    "fastgan": FastGAN,
    "mixer_diffusion": MixerDiffusion,
    "progan": ProGAN,
    "r3gan": R3GAN,
    "sequential": Sequential,
    "sngan": SNGAN,
    "stylegan2": StyleGAN2,
    "stylegan2_lucidrains": LucidrainsStyleGAN2,
    "stylegan3": StyleGAN3,
}


@dataclasses.dataclass(frozen=True)
class Generator:
    """A generator and its parameters, from a checkpoint (`load`) or from any function.

    Equal ones share compiled programs: what differs is at most their parameters and origin.
    """

    name: str  #: the checkpoint's name, for tables
    family: str  #: key of `FAMILIES`, or "function"
    module: nn.Module | Function  #: the Flax module, or the function in its place
    #: Variables of the module: parameters and statistics; only their shapes if from `abstract`.
    params: Any = dataclasses.field(repr=False, compare=False)
    resolution: int  #: height and width of an image, pixels
    image_channels: int  #: 1 (grey) or 3 (RGB)
    #: Description of its origin (`generator.json`).
    provenance: dict[str, Any] = dataclasses.field(repr=False, compare=False)
    #: The packed file from which it was read; None for a checkpoint in float32.
    packed_file: Path | None = dataclasses.field(default=None, compare=False)

    @classmethod
    def from_function(
        cls,
        f: Callable[..., jax.Array],
        params: Any,
        *,
        latent: Latent,
        num_classes: int = 0,
        name: str = "",
        channel_axes: Mapping[str, int] | None = None,
        on_host: bool = False,
    ) -> "Generator":
        """Makes a generator of any function of parameters and latents.

        Paths of parameters are their keys, attributes and indices in lists, joined by "/".
        `CompressionSpec` says which parameters are compressed by default.

        Args:
            f: Function of `(params, z)`, or of `(params, z, labels)` with classes, that can be
                jitted: z is float32 `[n, d]` and labels int32 `[n]`. Returns images in [-1, 1],
                `[n, h, h, 1 or 3]`; image i depends on row i alone.
            params: Any tree. Floating arrays become float32; other leaves (counters, keys,
                functions) are passed to `f` unchanged.
            latent: Size d of standard normal latents, or a function of a key that draws one latent
                `[d]`.
            num_classes: Number of classes; 0 for none.
            name: Name in tables and file names; "" takes the name of `f`. Rows of a table are
                identified by it, by the content of `params`, and by the code of `f` itself, but
                not by that of functions that `f` calls.
            channel_axes: Patterns of paths -> axis of output channels. The default is the first
                axis of arrays named "weight", as in Equinox and torch, and the last of others.
            on_host: Whether `f` runs outside of JAX's programs, by any library: it gets arrays with
                values, returns a NumPy array, and is not jitted.

        Raises:
            ValueError, TypeError: `f` fails, or its images have another shape or type; with
                `on_host`, an image depends on others of its batch; `params` hold no floating array,
                a torch tensor, or NaN or Inf (the message has the path); or a pattern matches no
                array.

        Example::

            >>> import jax, jax.numpy as jnp, lsh_gan
            >>> w = jax.random.normal(jax.random.key(0), (8, 16))
            >>> def tiny(params, z):
            ...     return jnp.tanh(z @ params["w"]).reshape(-1, 4, 4, 1)
            >>> lsh_gan.Generator.from_function(tiny, {"w": w}, latent=8).image_shape
            (4, 4, 1)
        """
        axes = channel_axes or {}
        module, images, params = functions.wrap(f, params, latent, num_classes, axes, name, on_host)
        options = module.options
        metadata = {"name": options["name"], "family": functions.FAMILY, "options": options}
        return _generator(module, images, params, metadata)

    @classmethod
    def from_torch(
        cls,
        module: Any,
        *,
        latent: Latent,
        call: Callable[..., Any] = lambda module, *given: module(*given),
        num_classes: int = 0,
        name: str = "",
    ) -> "Generator":
        """Makes a generator of a torch module, which runs as it is, in eval mode, on its device.

        Weights are compressed in JAX. Each batch of latents, and the weights with it, pass through
        the host, so that a network written in JAX is faster (`from_function`).

        Args:
            module: A `torch.nn.Module` without spectral or weight norms, see the error message.
            latent: As in `from_function`.
            call: Function of (module, z), or of (module, z, labels) with classes, if the module is
                not called so. It gets tensors: z float32 `[n, d]`, labels int64 `[n]`. Returns
                images in [-1, 1], `[n, 1 or 3, h, h]`; image i depends on row i alone.
            num_classes: Number of classes; 0 for none.
            name: As in `from_function`; "" takes the name of the class.

        Raises:
            ValueError, TypeError: As `from_function`; or a weight is under a norm.

        Example::

            generator = Generator.from_torch(
                net, latent=100, call=lambda net, z: net(z[:, :, None, None])
            )
        """
        name = name or type(module).__name__
        f, state, axes = functions.of_torch(module, call, name)
        options: Any = {"num_classes": num_classes, "channel_axes": axes, "on_host": True}
        return cls.from_function(f, state, latent=latent, name=name, **options)

    @property
    def channel_axes(self) -> dict[str, int]:
        """Patterns of kernel paths -> axis of the output channels; the first match counts.

        It is empty for `FAMILIES`, whose kernels all have the output channels last. Dense layers
        onto a grid, `[d, h, w, c]`, count as transposed convolutions of one pixel: c channels.
        """
        return getattr(self.module, "channel_axes", {})

    @property
    def on_host(self) -> bool:
        """Whether it runs outside of JAX's programs; see `from_function`."""
        return getattr(self.module, "on_host", False)

    def unpack(self, packed: compression.PackedTree) -> Any:
        """Unpacks parameters of this generator, with activation ranges if there are any."""
        like = self.params if isinstance(self.module, Function) else None
        return compression.unpack(packed, like=like)

    @property
    def latent_size(self) -> int:
        """Size of a latent vector."""
        return self.module.latent_size

    @property
    def black(self) -> float:
        """Value of black in its images: 0 if they come from a sigmoid, else -1; white is 1."""
        last = getattr(self.module, "output", "")
        if isinstance(self.module, Sequential):
            last = self.module.layers[-1]["kind"]
        return 0.0 if last == "sigmoid" else -1.0

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return self.resolution, self.resolution, self.image_channels

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything besides the inputs that its images depend on, as a JSON object.

        It includes the options: some, such as `upsample`, change the images but no parameter.
        """
        options = self.provenance["options"]
        params = content_hash(self.params)
        return {"params": params, "family": self.family, "options": options}

    @property
    def packed_metadata(self) -> dict[str, Any]:
        """Metadata of its packed files, from which `load` rebuilds it."""
        return {"name": self.name, "family": self.family, "options": self.provenance["options"]}

    @property
    def num_classes(self) -> int:
        """Number of classes, 0 for an unconditional generator."""
        return getattr(self.module, "num_classes", 0)

    def draw(
        self, key: jax.Array, index: jax.Array, *, truncation_psi: float = 1.0
    ) -> tuple[jax.Array, jax.Array | None]:
        """Draws the inputs for each index, from the distribution that the authors use.

        Latents are standard normal, or drawn by the function's own `latent`. If statistics are
        stored per truncation (BigGAN-deep of Hugging Face), latents are truncation_psi times a
        normal truncated to [-2, 2]. In other generators truncation acts inside them, on w.

        Args:
            key: From `jax.random.key`; input i depends only on (key, i), not on the batch.
            index: Indices of the inputs, uint32 `[n]`.
            truncation_psi: In [0, 1].

        Returns:
            Latents, float32 `[n, latent_size]`, and uniformly drawn classes, int32 `[n]`, or None
            for an unconditional generator.
        """

        def latent(key: jax.Array) -> jax.Array:
            shape = (self.latent_size,)
            if isinstance(self.module, Function):
                return self.module.draw(key)
            if getattr(self.module, "statistics_rows", 0):
                z = jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32)
                return z * truncation_psi
            return jax.random.normal(key, shape, jnp.float32)

        def label(key: jax.Array) -> jax.Array:
            key = jax.random.fold_in(key, 0)  # the key itself has drawn the latent
            return jax.random.randint(key, (), 0, self.num_classes, jnp.int32)

        keys = jax.vmap(partial(jax.random.fold_in, key))(index)
        return jax.vmap(latent)(keys), jax.vmap(label)(keys) if self.num_classes else None

    @devices.usual
    def __call__(
        self,
        params: Any,
        z: jax.Array,
        *,
        labels: jax.Array | None = None,
        truncation_psi: float = 1.0,
    ) -> jax.Array:
        """Generates images; a pure function that can be jitted (psi static).

        Noise inside a network is constant: the checkpoint stores it.

        Args:
            params: A tree like `self.params`, for example a compressed one. If it has activation
                ranges, the inputs of layers are quantized to them.
            z: Latents, floating `[n, latent_size]`; converted to float32.
            labels: Classes, integer `[n]`, or their weights, float `[n, num_classes]`; required by
                a conditional generator and refused by the others.
            truncation_psi: In [0, 1]; 1 is no truncation. StyleGAN: w becomes
                mean + psi · (w − mean). BigGAN-deep with statistics per truncation: psi selects the
                statistics; latents must come from `draw` with the same psi. Other families: only 1.

        Returns:
            Float32 `[n, h, w, c]`, nominally in [`black`, 1], not clipped. Matrix products have
            full float32 precision, on a GPU too.

        Raises:
            ValueError: An input that this generator does not accept, or that is out of range.
        """
        z = jnp.asarray(z, jnp.float32)
        if z.ndim != 2 or z.shape[1] != self.latent_size:
            raise ValueError(
                f"{self.name}: latents of shape {z.shape}; expected [n, {self.latent_size}]"
            )
        labels = np.asarray(labels) if isinstance(labels, list | tuple) else labels
        self.check_labels(labels, len(z))
        if not 0 <= truncation_psi <= 1:
            raise ValueError(f"{self.name}: truncation_psi is {truncation_psi}; expected 0 to 1")
        given: dict[str, Any] = {} if labels is None else {"labels": labels}
        if truncation_psi != 1:
            if "truncation_psi" not in inspect.signature(type(self.module).__call__).parameters:
                raise ValueError(f"{self.name}: the family {self.family!r} takes no truncation_psi")
            given["truncation_psi"] = truncation_psi
        return activations.apply(self.module, params, z, **given).astype(jnp.float32)

    def check_labels(self, labels: jax.Array | None, n: int) -> None:
        """Raises ValueError unless these are labels of n images of this generator."""
        classes = self.num_classes
        if labels is None and classes:
            raise ValueError(
                f"{self.name}: conditional on {classes} classes; pass labels, integers [n]"
            )
        if labels is None:
            return
        if not classes:
            raise ValueError(f"{self.name}: unconditional; it takes no labels")
        if labels.shape not in ((n,), (n, classes)):
            raise ValueError(
                f"{self.name}: labels of shape {labels.shape}; expected ({n},) or ({n}, {classes})"
            )
        if labels.ndim == 2 or isinstance(labels, jax.core.Tracer):
            return
        values = np.asarray(labels)
        wrong = (values < 0) | (values >= classes)
        if not np.issubdtype(values.dtype, np.integer) or wrong.any():
            index = int(np.argmax(wrong))
            raise ValueError(
                f"{self.name}: label {index} is {values[index]}; expected an integer from 0 to "
                f"{classes - 1}"
            )


def build(family: str, options: dict[str, Any]) -> nn.Module:
    """Makes the module of `family` with the attributes `options`.

    Raises:
        ValueError: Unknown family or attribute; the message suggests the nearest name.
    """
    module = choose("generator family", family, FAMILIES)
    known = {field.name for field in dataclasses.fields(module)} - {"parent", "name"}
    check_names(f"generator family {family!r} has no option", options, known)
    return module(**{name: _hashable(value) for name, value in options.items()})


def _hashable(value: Any) -> Any:
    if isinstance(value, dict):
        return FrozenDict({name: _hashable(part) for name, part in value.items()})
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


@cache
def trace(module: nn.Module) -> tuple[Any, Any]:
    """Returns the shapes and dtypes of an image `[1, h, w, c]` and of the variables of `module`."""
    z = jax.ShapeDtypeStruct((1, module.latent_size), jnp.float32)
    with jax.enable_x64(False):  # with x64, initialisers would make float64
        return jax.eval_shape(module.init_with_output, jax.random.key(0), z)


def network_order(module: nn.Module) -> list[str]:
    """Lists paths ("params/up_0/kernel") from latents to image; trees would sort them by name."""
    module = activations.unrolled(module)  # a scan sorts the variables inside it
    paths: list[str] = []

    def init(key, z):  # in here, the dict of variables still has its insertion order
        paths.extend(traverse_util.flatten_dict(module.init(key, z), sep="/"))

    z = jax.ShapeDtypeStruct((1, module.latent_size), jnp.float32)
    jax.eval_shape(init, jax.random.key(0), z)
    return paths


def abstract(name: str, family: str, options: dict[str, Any]) -> Generator:
    """Makes a generator without weights: the leaves of `params` are shapes and dtypes.

    Raises:
        ValueError: Unknown family or option.
    """
    module = build(family, options)
    return _generator(module, *trace(module), {"name": name, "family": family, "options": options})


def _generator(
    module: nn.Module | Function, images: Any, params: Any, metadata: dict[str, Any]
) -> Generator:
    _, height, _, channels = images.shape
    name, family = metadata["name"], metadata["family"]
    if not isinstance(name, str) or not name or name != Path(name).name:  # part of file names
        raise ValueError(
            f"the name of the generator is {name!r}; expected text without '/', "
            f"{Path(str(name)).name or family!r} for example"
        )
    return Generator(name, family, module, params, height, channels, metadata)


def _described(metadata: dict[str, Any], path: Path) -> Generator:
    """Makes the generator that the metadata of a file describe, without weights."""
    try:
        module = build(metadata["family"], metadata["options"])
        return _generator(module, *trace(module), {"name": path.stem, **metadata})
    except (ValueError, TypeError, ArithmeticError, AttributeError, LookupError, FlaxError) as e:
        raise ValueError(f"{path}: {e}") from e


@devices.usual
def load(path: str | Path) -> Generator:
    """Loads a generator: a folder, a packed file, the name of a shipped one, or MODULE:FUNCTION.

    MODULE:FUNCTION is the user's own code, see `user_code.load`.

    Raises:
        FileNotFoundError: No such checkpoint, module or function.
        TypeError: The function takes arguments, or returns something else.
        ValueError: Unknown family; parameters that do not fit it (the message has path and shapes
            of the first such tensor); damaged files; or a hash that differs from the recorded one.
    """
    if (own := user_code.load(str(path), "generator", Generator)) is not None:
        return own
    path = checkpoints.locate(path)
    if path.is_dir():
        metadata = checkpoints.read_metadata(path)
        plain = _described(metadata, path)
        params = checkpoints.restore(path, plain.params)
        found, recorded = content_hash(params), metadata["sha256"]
        if found != recorded:
            raise ValueError(f"{path}: sha256 of the parameters is {found}; recorded is {recorded}")
        return dataclasses.replace(plain, params=params)
    packed = compression.load_packed(path)
    metadata = packed.metadata
    if "family" not in metadata:
        raise ValueError(f"{path}: a packed tree of parameters, but not of a generator")
    if metadata["family"] == functions.FAMILY:
        raise ValueError(
            f"{path}: parameters of a function, {metadata.get('name')}, which is not in the file; "
            "in Python: generator.unpack(lsh_gan.compression.load_packed(file))"
        )
    plain, params = _described(metadata, path), compression.unpack(packed)
    weights = {name: tree for name, tree in params.items() if name != activations.COLLECTION}
    compare_shapes(weights, plain.params, source=str(path))
    return dataclasses.replace(plain, params=params, packed_file=path)
