"""StyleGAN2 generator of the PyPI package stylegan2_pytorch (lucidrains).

Beside the modulated convolutions it differs from the published one: upsampling is bilinear, images
are blurred, noise has a strength per channel, and activations have no gain. Its first layer, a
convolution of a constant, is a constant here. The original draws new noise in each call; here the
noise is drawn once, and is a buffer.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lsh_gan.generators.layers import UPSAMPLINGS
from lsh_gan.generators.stylegan2 import Mapping, StyledConv, ToImage, truncate


def _blur(x: jax.Array) -> jax.Array:
    """Filters rows and columns of `x [n, h, w, c]` with [1, 2, 1] / 4, reflected at the border."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
    rows = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    return (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 16


class LucidrainsStyleGAN2(nn.Module):
    """Mapping network, then blocks of two convolutions; all but the first double the side.

    The resolution is `4 * 2 ** (len(channels) - 1)`.
    """

    latent_size: int = 512  # size of z and of w
    channels: tuple[int, ...] = (512, 512, 256, 128, 64, 32)  # channels at 4×4, 8×8, ...
    mapping_layers: int = 8  # dense layers of the mapping network
    image_channels: int = 3  # RGB

    @nn.compact
    def __call__(self, z: jax.Array, truncation_psi: float = 1.0) -> jax.Array:
        """Makes images `[n, h, w, image_channels]`, about [-1, 1]; see `Generator`."""
        w = Mapping(self.latent_size, self.mapping_layers, name="mapping")(z)
        mean = self.variable("buffers", "w_mean", jnp.zeros, (self.latent_size,)).value
        w = truncate(w, mean, truncation_psi)
        const = self.param("const", nn.initializers.normal(1.0), (4, 4, self.channels[0]))
        x = jnp.broadcast_to(const, (len(z), *const.shape))
        image: Any = None
        _, upsample = UPSAMPLINGS["bilinear"]
        for i, features in enumerate(self.channels):
            styled = partial(StyledConv, features, gain=0.5**0.5, bilinear=True)
            x = styled(up=i > 0, name=f"conv_{i}_0")(x, w)
            x = styled(name=f"conv_{i}_1")(x, w)
            self.sow("intermediates", f"block_{i}", x)
            rgb = ToImage(self.image_channels, name=f"to_image_{i}")(x, w)
            image = rgb if image is None else _blur(upsample(image)) + rgb
        return image
