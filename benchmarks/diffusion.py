"""Claim: the error of a compressed diffusion model grows over the steps of its sampler.

    python -m benchmarks.diffusion [--generator=checkpoints/galaxies] [--out=benchmarks/results]

The sampler runs from the same noise with the full and with the compressed score network. Two errors
are measured after each step, as the root mean square over pixels and images, divided by that of the
full state: the distance between the two states, and the error of the step alone (the compressed
network takes one step from the full network's state). `configs/galaxies.py` says how to get the
generator. Takes a minute on two cores.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import options
from benchmarks.written import markdown
from lsh_gan import generators
from lsh_gan.compression import CompressionSpec, compress
from lsh_gan.generators.mixer_diffusion import MixerDiffusion, ScoreNetwork


@partial(jax.jit, static_argnums=0)
def step_errors(
    module: MixerDiffusion, full: dict, compressed: dict, z: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Computes errors after each step, and of each step alone, as shares of the state.

    Both are `[num_steps]`.

    Args:
        module: The diffusion model.
        full: Its variables.
        compressed: Its variables, compressed.
        z: Noise `[n, latent_size]`.
    """
    score = ScoreNetwork(
        module.patch_size, module.hidden_size, module.patch_mixer_size, module.hidden_mixer_size,
        module.num_blocks,
    )  # fmt: skip
    step = module.end_time / module.num_steps

    def back(variables: dict, y: jax.Array, t: jax.Array) -> jax.Array:
        slope = y + score.apply({"params": variables["params"]["score"]}, y, t / module.end_time)
        return y + step / 2 * slope

    def both(states: tuple, t: jax.Array) -> tuple:
        y, other = states
        after, alone, other = back(full, y, t), back(compressed, y, t), back(compressed, other, t)
        norm = jnp.linalg.norm(after)
        errors = jnp.linalg.norm(other - after) / norm, jnp.linalg.norm(alone - after) / norm
        return (after, other), errors

    y = z.reshape(-1, module.side, module.side, module.image_channels)
    times = module.end_time - step * jnp.arange(module.num_steps)
    return jax.lax.scan(both, (y, y), times)[1]


def main() -> None:
    """Measures the errors and writes `diffusion.md`."""
    results = Path("benchmarks/results")
    args = options.parse(__doc__, generator="checkpoints/galaxies", out=results)
    generator = generators.load(args.generator)
    args.out.mkdir(parents=True, exist_ok=True)
    z, _ = generator.draw(jax.random.key(0), jnp.arange(256, dtype=jnp.uint32))
    steps = np.unique(np.linspace(1, generator.module.num_steps, 6).astype(int))
    lines = []
    for bits in (8, 6, 4, 3, 2):
        for clipping in ("none", "mse"):
            compressed, _ = compress(
                generator.params, CompressionSpec(bits=bits, clipping=clipping)
            )
            total, alone = step_errors(generator.module, generator.params, compressed, z)
            cells = [f"{100 * total[step - 1]:.2g} ({100 * alone[step - 1]:.2g})" for step in steps]
            lines.append([bits, clipping, *cells])
            print(*lines[-1], flush=True)
    text = (
        f"`python -m benchmarks.diffusion --generator={args.generator}`: error in per cent of\n"
        "the full state (root mean square, 256 images); in parentheses, of the step alone.\n\n"
    ) + markdown(["bits", "clipping", *(f"step {step}" for step in steps)], lines)
    (args.out / "diffusion.md").write_text(text)


if __name__ == "__main__":
    main()
