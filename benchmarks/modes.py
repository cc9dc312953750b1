"""How many of the 1,000 modes of stacked MNIST does a compressed generator keep?

    python -m benchmarks.modes [--clipping=mse] [--samples=25600] [--out=benchmarks/results]

Precision and recall are estimates in a feature space, but the modes of stacked MNIST are known: a
mode is a triple of digits. A small convolutional network reads the digit of each channel. `KL` is
the divergence of the frequencies of modes from those of the data (Metz et al. 2017,
arXiv:1611.02163, appendix D); for two samples of n from one distribution it is (1,000 - 1) / n by
chance. `sure` is the share of digits that are read with a probability of at least .9; it falls when
digits become illegible. Needs `python -m checkpoints_tools.fetch mnist`.
"""

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import machine, options
from benchmarks.written import markdown
from lsh_gan import compression, datasets, generators
from lsh_gan.generators import sampling

GENERATOR, DATA = "dcgan_stacked_mnist", "stacked_mnist"
STEPS, BATCH = 1_500, 64


class Reader(nn.Module):
    """A classifier of digits."""

    @nn.compact
    def __call__(self, x):
        """Maps grey images `[n, 32, 32, 1]` in [0, 1] to logits `[n, 10]`."""
        for channels in (32, 64):
            x = nn.max_pool(nn.relu(nn.Conv(channels, (5, 5))(x)), (2, 2), strides=(2, 2))
        x = nn.relu(nn.Dense(128)(x.reshape(len(x), -1)))
        return nn.Dense(10)(x)


def train(images, labels):
    """Trains a `Reader` on randomly shifted grey images, uint8 `[n, 32, 32, 1]`."""
    reader, optimizer = Reader(), optax.adam(optax.cosine_decay_schedule(1e-3, STEPS))
    images, labels = jnp.asarray(images) / 255, jnp.asarray(labels)
    params = reader.init(jax.random.key(0), images[:1])

    @jax.jit
    def step(params, moments, key):
        rows = jax.random.randint(key, (BATCH,), 0, len(images))
        moved = jnp.roll(images[rows], jax.random.randint(key, (2,), -2, 3), (1, 2))

        def loss(params):
            scores = reader.apply(params, moved)
            return optax.softmax_cross_entropy_with_integer_labels(scores, labels[rows]).mean()

        updates, moments = optimizer.update(jax.grad(loss)(params), moments)
        return optax.apply_updates(params, updates), moments

    moments = optimizer.init(params)
    for number in range(STEPS):
        params, moments = step(params, moments, jax.random.fold_in(jax.random.key(1), number))
    return params


@jax.jit
def read(params, images):
    """Returns the digits `[n]` of grey images `[n, 32, 32, 1]`, and their probabilities."""
    chances = jax.nn.softmax(Reader().apply(params, images / 255))
    return chances.argmax(axis=1), chances.max(axis=1)


def describe(params, batches):
    """Counts the modes `[1000]` in colour images; also returns the share of sure digits."""
    found = np.zeros(1_000, int)
    sure = []
    for batch in batches:
        digits, chances = zip(*(read(params, batch[..., c, None]) for c in range(3)), strict=True)
        modes = np.stack(digits, axis=1) @ [100, 10, 1]
        found += np.bincount(modes, minlength=1_000)
        sure.append(np.stack(chances) >= 0.9)
    return found, float(np.mean(np.concatenate(sure, axis=1)))


def divergence(found, truth):
    """Computes the KL divergence of the modes of samples from those of the data, in nats."""
    p, q = found / found.sum(), truth / truth.sum()
    return float(np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0])))


def main():
    """Trains the reader and writes `modes.md`."""
    results = Path("benchmarks/results")
    args = options.parse(__doc__, clipping="mse", samples=25_600, out=results)
    digits, labels = datasets.load_named("mnist:train")
    args.out.mkdir(parents=True, exist_ok=True)
    params = train(datasets.pad_to(digits, 32), labels)
    digits, labels = datasets.load_named("mnist")
    right = np.mean(read(params, datasets.pad_to(digits, 32))[0] == labels)
    real = datasets.load_images(f"{DATA}:train")[: args.samples]
    truth, sure = describe(params, np.array_split(real, 100))
    lines = [["training images", f"{np.count_nonzero(truth):,}", "0.00", f"{sure:.1%}"]]
    generator = generators.load(GENERATOR)
    for bits in (None, 8, 7, 6, 5, 4, 3, 2):
        spec = compression.CompressionSpec(bits=bits, clipping=args.clipping)
        weights = compression.compress(generator.params, spec)[0]
        key = jax.random.key(0)
        batches = sampling.sample(generator, weights, key, args.samples, batch_size=256)
        found, sure = describe(params, batches)
        name = f"{bits} bits" if bits else "full precision"
        count, kl = np.count_nonzero(found), divergence(found, truth)
        lines.append([name, f"{count:,}", f"{kl:.2f}", f"{sure:.1%}"])
    text = (
        f"`python -m benchmarks.modes --clipping={args.clipping} --samples={args.samples}`, "
        f"{machine.processor()}, JAX {jax.__version__}. {GENERATOR}; {right:.1%} of the held-out "
        "digits are read correctly.\n\n"
    ) + markdown(["", "modes of 1,000", "KL, nats", "sure digits"], lines)
    print(text)
    (args.out / "modes.md").write_text(text)


if __name__ == "__main__":
    main()
