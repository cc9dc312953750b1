"""A generator's own uncompressed samples as a reference, drawn when they are embedded."""

import dataclasses
import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import jax

from lsh_gan.experiment import recipes
from lsh_gan.experiment.step import embed_samples
from lsh_gan.features import FeatureNetwork
from lsh_gan.generators import Generator, sampling


@dataclasses.dataclass(frozen=True, eq=False)
class OwnSamples:
    """Samples `start .. start + count - 1` of a generator; takes the place of given images.

    Attributes:
        generator: The uncompressed generator.
        seed: Of the latents.
        start: Number of the first sample.
        count: n.
        batch_size: Of sampling.
        truncation_psi: In [0, 1], 1 is none.
        content_hash: Sha256 (hex) over what the samples are a function of.
    """

    generator: Generator
    seed: int
    start: int
    count: int
    batch_size: int
    truncation_psi: float
    content_hash: str
    features: None = None  # as of samples that are given as images

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return self.generator.image_shape

    def embed(
        self,
        network: FeatureNetwork,
        *,
        batch_size: int | None = None,
        progress: Callable[[int], Any] | None = None,
    ) -> jax.Array:
        """Returns features, float32 `[n, d]`; arguments as `features.embed`."""
        features, _ = embed_samples(
            self.generator,
            self.generator.params,
            network,
            jax.random.key(self.seed),
            self.count,
            batch_size=self.batch_size,
            truncation_psi=self.truncation_psi,
            start=self.start,
            progress=progress or (lambda count: None),
        )
        return features

    def __len__(self) -> int:
        return self.count


def load(config: Any) -> tuple[OwnSamples, OwnSamples, str]:
    """The reference that `config.reference.samples_of` asks for.

    Returns:
        n samples, the next n of the same sequence for the ceilings, and what to call them.

    Raises:
        FileNotFoundError, ValueError: As `recipes.load`; or the generator does not take
            `config.truncation_psi`.
    """
    fields = config.reference
    generator = recipes.load(config, fields.samples_of)
    sampling.image_shape(generator, 1, truncation_psi=config.truncation_psi)
    n = fields.num_images

    def samples(start: int) -> OwnSamples:
        identity = [generator.identity, fields.seed, start, n, config.truncation_psi]
        content_hash = sha256(json.dumps(identity).encode()).hexdigest()
        rest = (config.batch_size, config.truncation_psi, content_hash)
        return OwnSamples(generator, fields.seed, start, n, *rest)

    kind = "packed" if generator.packed_file else "uncompressed"
    name = f"{kind} samples of {generator.name} itself, not real images"
    return samples(0), samples(n), name
