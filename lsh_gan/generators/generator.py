"""A generator with its parameters, whatever its family, and the table of families."""

import dataclasses
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lsh_gan import checkpoints, compression
from lsh_gan.errors import choose, nearest
from lsh_gan.generators.dcgan import DCGAN
from lsh_gan.generators.sngan import SNGAN

FAMILIES: dict[str, type[nn.Module]] = {"dcgan": DCGAN, "sngan": SNGAN}


@dataclasses.dataclass(frozen=True, eq=False)
class Generator:
    """A Flax generator and its parameters.

    Attributes:
        name: For tables: the checkpoint's name.
        family: Key of `FAMILIES`.
        module: The Flax module.
        params: Its variables: parameters and batch statistics.
        resolution: Height and width of an image, pixels.
        image_channels: 1 (grey) or 3 (RGB).
        provenance: Where it comes from (`generator.json`).
    """

    name: str
    family: str
    module: nn.Module
    params: Any = dataclasses.field(repr=False)
    resolution: int
    image_channels: int
    provenance: dict[str, Any] = dataclasses.field(repr=False)

    @property
    def latent_size(self) -> int:
        """Size of a latent vector."""
        return self.module.latent_size

    def __call__(self, params: Any, z: jax.Array) -> jax.Array:
        """Generates images; a pure function that can be jitted.

        Args:
            params: A tree like `self.params`, for example a compressed one.
            z: Latents, float32 `[n, latent_size]`.

        Returns:
            Float32 `[n, h, w, c]`, nominally in [-1, 1], not clipped.
        """
        return self.module.apply(params, z)


def build(family: str, options: dict[str, Any]) -> nn.Module:
    """Makes the module of `family` with the attributes `options`.

    Raises:
        ValueError: Unknown family or attribute; the message names the nearest.
    """
    module = choose("generator family", family, FAMILIES)
    known = {field.name for field in dataclasses.fields(module)} - {"parent", "name"}
    for option in options:
        if option not in known:
            raise ValueError(
                f"generator family {family!r} has no option {option!r}; "
                f"did you mean {nearest(option, known)!r}?"
            )
    lists_to_tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    return module(**lists_to_tuples)


def abstract_params(module: nn.Module) -> Any:
    """Shapes and dtypes of the variables of `module`, computed without any arithmetic."""
    z = jax.ShapeDtypeStruct((1, module.latent_size), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), z)


def load(path: str | Path) -> Generator:
    """Loads a generator checkpoint: a folder, a packed file, or the name of a shipped one.

    Raises:
        FileNotFoundError: No such checkpoint.
        ValueError: Unknown family, parameters that do not fit it (path and shapes of the first
            tensor), damaged files, another hash than recorded, or NaN or Inf.
    """
    path = checkpoints.locate(path)
    if path.is_dir():
        metadata = checkpoints.read_metadata(path)
        module = build(metadata["family"], metadata["options"])
        params = checkpoints.restore(path, abstract_params(module))
        checkpoints.verify(params, metadata["sha256"], source=str(path))
    else:
        packed = compression.load_packed(path)
        metadata = packed.metadata
        if "family" not in metadata:
            raise ValueError(f"{path}: a packed tree of parameters, but not of a generator")
        module = build(metadata["family"], metadata["options"])
        params = compression.unpack(packed)
        checkpoints.compare_shapes(params, abstract_params(module), source=str(path))
    z = jax.ShapeDtypeStruct((1, module.latent_size), jnp.float32)
    _, height, _, channels = jax.eval_shape(module.apply, params, z).shape
    return Generator(
        name=metadata.get("name", path.stem),
        family=metadata["family"],
        module=module,
        params=params,
        resolution=height,
        image_channels=channels,
        provenance=metadata,
    )
