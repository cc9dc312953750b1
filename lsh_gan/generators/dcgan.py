"""DCGAN generator (Radford et al. 2016, arXiv:1511.06434)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lsh_gan.generators import layers
from lsh_gan.generators.conditioning import one_hot


class DCGAN(nn.Module):
    """Latent → 4×4 → doubled by transposed convolutions → tanh.

    The resolution is `4 * 2 ** len(channels)`.
    """

    latent_size: int = 128  # size of the latent vector
    # Channels at 4×4 and after each doubling but the last.
    channels: tuple[int, ...] = (256, 128, 64)
    image_channels: int = 1  # 1 (grey) or 3 (RGB)
    num_classes: int = 0  # number of classes, whose weights follow the latent; 0 is unconditional

    @nn.compact
    def __call__(
        self, z: jax.Array, train: bool = False, labels: jax.Array | None = None
    ) -> jax.Array:
        """Makes images `[n, h, w, image_channels]` in [-1, 1]; arguments as of `Generator`.

        With `train` the norms use the batch's own statistics and update `batch_stats`.
        """
        if self.num_classes:
            z = jnp.concatenate([z, one_hot(labels, len(z), self.num_classes)], axis=-1)
        first, *rest = self.channels
        # A transposed convolution of a 1×1 image is a dense layer onto the 4×4 grid.
        init = nn.initializers.normal(0.02)
        x = nn.DenseGeneral((4, 4, first), use_bias=False, kernel_init=init, name="project")(z)
        x = _norm_relu(x, train, "norm_0")
        for i, features in enumerate(rest):
            x = _up(features, f"up_{i}")(x)
            x = _norm_relu(x, train, f"norm_{i + 1}")
        return jnp.tanh(_up(self.image_channels, "to_image")(x))


def _up(features: int, name: str) -> nn.Module:
    return layers.Convolution(features, 4, layers.conv_transpose_4x4, use_bias=False, name=name)


def _norm_relu(x: jax.Array, train: bool, name: str) -> jax.Array:
    norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name)
    return nn.relu(norm(x))
