"""Data and sweeps with known truth for `validity.py`.

A sweep starts from a fresh sample of the reference distribution and damages it step by step. Steps
share their random numbers, so that a later step differs from an earlier one only in more damage.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from lsh_gan import compression, datasets, features, generators
from lsh_gan.generators import sampling

FACES = Path("checkpoints/face_dcgan")
# Classes of the packaged images, uint8 [10000]: t10k-labels-idx1-ubyte.gz without its header.
LABELS = Path(__file__).parent / "fashion_mnist_labels.npz"


class Data(NamedTuple):
    """A reference sample and a pool of fresh samples of the same distribution.

    Attributes:
        name: Name in tables.
        reference: float32 `[n, d]`.
        base: Sample from which sweeps start, float32 `[n, d]`.
        base_modes: Mode of each row of `base`, int `[n]`, 0 to 9.
        pool: More samples, float32 `[p, d]`.
        pool_modes: int `[p]`.
        truncated: Function of (rng, n, t) that samples with latents in [-t, t]; None for real data.
    """

    name: str
    reference: np.ndarray
    base: np.ndarray
    base_modes: np.ndarray
    pool: np.ndarray
    pool_modes: np.ndarray
    truncated: Callable | None


class Sweep(NamedTuple):
    """Sets of growing damage.

    Attributes:
        name: Name in tables.
        quality: Whether quality falls (True), stays (False) or is not defined (None).
        diversity: The same for diversity.
        levels: Levels of damage, one per step.
        damaged: Function (level) -> samples `[n, d]`.
    """

    name: str
    quality: bool | None
    diversity: bool | None
    levels: list
    damaged: Callable[[float], np.ndarray]


def gauss(rng: np.random.Generator, n: int) -> Data:
    """Draws ten normal clusters in 64-d, with standard deviation 0.7."""
    centres = rng.normal(size=(10, 64))

    def decode(z, modes):
        return (centres[modes] + 0.7 * z).astype(np.float32)

    return _synthetic("gauss", rng, n, 64, decode, lambda z: rng.integers(0, 10, len(z)))


def curved(rng: np.random.Generator, n: int) -> Data:
    """Draws a curved 10-d manifold in 256-d: a random two-layer network of a normal latent."""
    first, second = rng.normal(size=(10, 64)) * 0.5, rng.normal(size=(64, 256)) * 0.2
    centres = rng.normal(size=(10, 10))

    def decode(z, _):
        return np.tanh(np.tanh(z @ first) @ second).astype(np.float32)

    return _synthetic("curved", rng, n, 10, decode, lambda z: np.argmax(z @ centres.T, axis=1))


def _synthetic(name, rng, n, latent, decode, assign) -> Data:
    def sample(count):
        z = rng.normal(size=(count, latent))
        modes = assign(z)
        return decode(z, modes), modes

    def truncated(truncation_rng, count, t):
        z = truncation_rng.normal(size=(count, latent))
        modes = assign(z)
        # Quantiles are rescaled to those of [-t, t], so that one draw serves every t.
        quantile = jax.scipy.stats.norm.cdf(z)
        low = jax.scipy.stats.norm.cdf(-t)
        return decode(np.asarray(jax.scipy.stats.norm.ppf(low + quantile * (1 - 2 * low))), modes)

    (reference, _), (base, base_modes), (pool, pool_modes) = sample(n), sample(n), sample(8 * n)
    return Data(name, reference, base, base_modes, pool, pool_modes, truncated)


def fashion(rng: np.random.Generator, n: int) -> Data:
    """Takes features of the packaged Fashion-MNIST images; modes are classes."""
    features, labels = embed_packaged(), np.load(LABELS)["labels"]
    order = rng.permutation(len(features))
    first, second, rest = np.split(order, (n, 2 * n))
    rest = np.concatenate([rest, second]) if len(rest) < n else rest
    return Data(
        "fashion", features[first], features[second], labels[second],
        features[rest], labels[rest], None,
    )  # fmt: skip


@functools.cache
def embed_packaged() -> np.ndarray:
    """Computes EfficientNet-Lite0 features of the 10,000 packaged images at 64 px."""
    return embed(datasets.load_images("fashion_mnist"))


@functools.cache
def destroyed(count: int) -> np.ndarray:
    """Computes features of samples of the packaged DCGAN at 2 bits per tensor, `[count, d]`."""
    return embed(generated("dcgan", 2, count, 1))


@functools.cache
def grey(count: int) -> np.ndarray:
    """Computes features of images of one grey level each, 0 to 255, `[count, d]`."""
    levels = np.random.default_rng(1).integers(0, 256, count, np.uint8)
    return embed(np.broadcast_to(levels[:, None, None, None], (count, 32, 32, 1)))


@functools.cache
def untrained(count: int) -> np.ndarray:
    """Computes features of samples of the packaged DCGAN before training, `[count, d]`.

    Weights are drawn from N(0, 0.02²), the initialisation of DCGANs (Radford et al. 2016,
    arXiv:1511.06434), and batch norms do nothing.
    """
    generator, rng = generators.load("dcgan"), np.random.default_rng(1)
    starts = {"scale": np.ones, "var": np.ones, "bias": np.zeros, "mean": np.zeros}

    def drawn(path, leaf):
        start = starts.get(path[-1].key)
        values = rng.normal(0, 0.02, leaf.shape) if start is None else start(leaf.shape)
        return np.asarray(values, np.float32)

    params = jax.tree_util.tree_map_with_path(drawn, generator.params)
    return embed(_images(generator, params, count, 1))


@functools.cache
def faces(count: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Computes features of a DCGAN of faces, full and at 2 bits; None if it was not converted.

    `configs/face_dcgan.py` says where it is from. Samples at full precision are the reference.
    """
    if not FACES.exists():
        return None
    whole, coarse = (generated(str(FACES), bits, count, seed) for bits, seed in ((0, 1), (2, 2)))
    return embed(whole), embed(coarse)


def embed(images: np.ndarray) -> np.ndarray:
    """Embeds uint8 images `[n, h, w, c]` by EfficientNet-Lite0 at 64 px, float32 `[n, d]`."""
    return np.asarray(features.embed(features.load("efficientnet_lite0", side=64), images))


def generated(
    name: str, bits: int, count: int, seed: int, *, granularity="per_tensor", clipping="none"
) -> np.ndarray:
    """Draws samples of a generator, quantized unless `bits` is 0, uint8 `[count, h, w, c]`."""
    generator = generators.load(name)
    params = generator.params
    if bits:
        spec = compression.CompressionSpec(bits=bits, granularity=granularity, clipping=clipping)
        params = compression.compress(params, spec)[0]
    return _images(generator, params, count, seed)


def _images(generator, params, count, seed) -> np.ndarray:
    batches = sampling.sample(generator, params, jax.random.key(seed), count, batch_size=250)
    return np.concatenate(list(batches))


def sweeps(data: Data, rng: np.random.Generator) -> list[Sweep]:
    """Makes all sweeps that the data allow; the order of draws from `rng` is fixed."""
    base, mean, n = data.base, data.reference.mean(axis=0), len(data.base)

    direction = rng.normal(size=base.shape[1])
    direction *= np.sqrt(data.reference.var(axis=0).sum()) / np.linalg.norm(direction)
    noise = rng.normal(size=base.shape) * data.reference.std(axis=0)
    spare, spare_gradual, turn = rng.random(n), rng.random(n), rng.random(n)
    order = rng.permutation(n)
    others = data.pool[rng.integers(0, len(data.pool), (n, 7))]
    at = np.arange(n) / n

    def replaced(gone, spare, kept):
        """Replaces rows `gone` of the base by rows `kept` of the pool; `spare` chooses which."""
        donors = np.flatnonzero(kept)
        out = base.copy()
        out[gone] = data.pool[donors[(spare[gone] * len(donors)).astype(int)]]
        return out

    def scaled(level):
        return mean + level * (base - mean)

    def dropped(count):
        return replaced(data.base_modes >= count, spare, data.pool_modes < count)

    def dropped_gradually(share):
        gone = (data.base_modes > 0) & (turn < share)
        return replaced(gone, spare_gradual, data.pool_modes == 0)

    repeated = [int(share * n) for share in (1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.25, 0.12, 0.02)]
    found = [
        Sweep("shift", True, True, [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.5],
              lambda x: base + x * direction),
        Sweep("shrink", None, True, [1, 0.97, 0.94, 0.9, 0.87, 0.84, 0.8, 0.7, 0.5, 0.25], scaled),
        Sweep("spread", True, None, [1, 1.05, 1.1, 1.15, 1.2, 1.3, 1.5, 2, 4], scaled),
        Sweep("noise", True, False, [0, 0.125, 0.25, 0.35, 0.5, 0.6, 0.7, 0.85, 1],
              lambda x: base + x * noise),
        Sweep("drop modes", False, True, list(range(10, 0, -1)), dropped),
        Sweep("drop gradually", False, True, [0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 1],
              dropped_gradually),
        Sweep("repeat", False, True, repeated, lambda count: base[order[np.arange(n) % count]]),
        Sweep("blur", True, None, [1, 2, 3, 4, 6, 8],
              lambda x: (base + others[:, : x - 1].sum(axis=1)) / x),
        Sweep("at mean", True, True, [0, 0.1, 0.25, 0.5, 0.75, 1],
              lambda x: np.where((at < x)[:, None], mean, base)),
    ]  # fmt: skip
    if data.truncated:
        seed, levels = int(rng.integers(2**31)), [9, 2.5, 2, 1.75, 1.5, 1.25, 1, 0.8, 0.5, 0.2]
        draw = data.truncated
        found.append(Sweep("truncate", None, True, levels,
                           lambda t: draw(np.random.default_rng(seed), n, t)))  # fmt: skip
    return found


def outliers(rng: np.random.Generator, reference: np.ndarray, count: int) -> np.ndarray:
    """Draws broad outliers `[count, d]`: normal, with three times the reference's deviations."""
    noise = rng.normal(size=(count, reference.shape[1])) * 3 * reference.std(axis=0)
    return (reference.mean(axis=0) + noise).astype(np.float32)


DATA = {"gauss": gauss, "curved": curved, "fashion": fashion}
