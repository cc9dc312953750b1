"""Diffusion model with an MLP-mixer as its score network (galaxygrad; Sampson et al. 2024).

The sampler solves the probability-flow ODE of the variance-preserving process with beta = 1 (Song
et al. 2021, arXiv:2011.13456), dy/dt = -(y + s(y, t)) / 2, by Euler's method, from noise at
`end_time` back to images at time 0. The network (MLP-Mixer, Tolstikhin et al. 2021,
arXiv:2105.01601) runs once per step, with the same parameters.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from lsh_gan.generators import layers

_norm = partial(
    nn.LayerNorm, epsilon=1e-5, reduction_axes=(-2, -1), feature_axes=(-2, -1),
    use_fast_variance=False,
)  # fmt: skip


class MixerDiffusion(nn.Module):
    """Noise → `num_steps` steps of the sampler → images."""

    side: int = 32  # height and width of an image, a multiple of `patch_size`
    image_channels: int = 1  # 1 (grey) or 3 (RGB)
    patch_size: int = 4  # height and width of a patch
    hidden_size: int = 64  # features of a patch
    patch_mixer_size: int = 512  # hidden units of the MLPs that mix patches
    hidden_mixer_size: int = 512  # hidden units of the MLPs that mix features
    num_blocks: int = 4  # number of pairs of MLPs
    end_time: float = 10.0  # time at which y is noise
    num_steps: int = 35  # steps of the sampler
    black: float = -1.0  # value of y that is black
    white: float = 1.0  # value of y that is white
    # Whether to unroll the steps instead of scanning over them, for calls that record layers.
    unroll: bool = False

    @property
    def latent_size(self) -> int:
        """Number of values of the noise: one per pixel and channel."""
        return self.side**2 * self.image_channels

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """Makes images `[n, h, w, image_channels]`, about [-1, 1]; see `Generator`."""
        score = ScoreNetwork(
            self.patch_size, self.hidden_size, self.patch_mixer_size, self.hidden_mixer_size,
            self.num_blocks, name="score",
        )  # fmt: skip
        step = self.end_time / self.num_steps
        times = self.end_time - step * jnp.arange(self.num_steps)

        def back(score: nn.Module, y: jax.Array, t: jax.Array) -> tuple[jax.Array, None]:
            return y + step / 2 * (y + score(y, t / self.end_time)), None

        y = z.reshape(-1, self.side, self.side, self.image_channels)
        if self.unroll:
            for t in times:
                y, _ = back(score, y, t)
        else:
            scan = nn.scan(back, variable_broadcast=True, split_rngs={"params": False})
            y, _ = scan(score, y, times)
        return 2 * (y - self.black) / (self.white - self.black) - 1


class ScoreNetwork(nn.Module):
    """Patches → blocks of two MLPs → patches; the time is an additional input channel."""

    patch_size: int  # height and width of a patch
    hidden_size: int  # features of a patch
    patch_mixer_size: int  # hidden units of the MLPs that mix patches
    hidden_mixer_size: int  # hidden units of the MLPs that mix features
    num_blocks: int  # number of pairs of MLPs

    @nn.compact
    def __call__(self, y: jax.Array, t: jax.Array) -> jax.Array:
        """Maps images `y [n, h, w, c]` at time `t`, 0 to 1, to scores of the same shape."""
        n, height, width, channels = y.shape
        size = self.patch_size
        times = jnp.broadcast_to(t, (n, height, width, 1)).astype(y.dtype)
        x = jnp.concatenate([y, times], axis=-1)
        x = nn.Conv(self.hidden_size, (size, size), size, "VALID", name="conv_in")(x)
        x = x.reshape(n, -1, self.hidden_size)
        for i in range(self.num_blocks):
            mixed = _norm(name=f"block_{i}_norm_1")(x).swapaxes(1, 2)
            mixed = _mlp(mixed, self.patch_mixer_size, f"block_{i}_patches")
            x = x + mixed.swapaxes(1, 2)
            mixed = _norm(name=f"block_{i}_norm_2")(x)
            x = x + _mlp(mixed, self.hidden_mixer_size, f"block_{i}_features")
        x = _norm(name="norm")(x).reshape(n, height // size, width // size, -1)
        return layers.Convolution(channels, size, _from_patches, name="conv_out")(x)


def _mlp(x: jax.Array, hidden: int, name: str) -> jax.Array:
    y = nn.relu(nn.Dense(hidden, name=f"{name}_0")(x))
    return nn.Dense(x.shape[-1], name=f"{name}_1")(y)


def _from_patches(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Applies a transposed convolution whose stride is the size of its kernel `[p, p, i, o]`."""
    size, _, _, outputs = kernel.shape
    n, rows, columns, _ = x.shape
    y = jnp.einsum("nhwi,abio->nhawbo", x, kernel)
    return y.reshape(n, rows * size, columns * size, outputs)
