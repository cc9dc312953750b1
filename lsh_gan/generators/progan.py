"""Progressive GAN generator (Karras et al. 2018, arXiv:1710.10196).

The gains of its layers ("equalized learning rate") are folded in when a checkpoint is converted.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lsh_gan.generators import layers


def pixel_norm(x: jax.Array) -> jax.Array:
    """Scales each pixel `x [..., c]` to a mean square of 1 over channels."""
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-8)


class ProGAN(nn.Module):
    """Latent → dense 4×4 → 3×3; then for each scale nearest upsampling and two 3×3; → image.

    The resolution is `4 * 2 ** len(channels)`.
    """

    latent_size: int = 512  # size of the latent vector
    base_channels: int = 512  # channels at 4×4
    channels: tuple[int, ...] = (512, 512, 512, 256, 128)  # channels at 8×8, 16×16, ...
    image_channels: int = 3  # 1 (grey) or 3 (RGB)
    slope: float = 0.2  # of the leaky ReLU
    # Share of the image of half the resolution while the last scale is faded in; 0 when training
    # has ended.
    alpha: float = 0.0
    tanh: bool = False  # whether the image goes through tanh, which depends on the training loss

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """Makes images `[n, h, w, image_channels]`, about [-1, 1]; arguments as of `Generator`."""
        dense = nn.DenseGeneral((4, 4, self.base_channels), name="project")
        x = self._activate(dense(pixel_norm(z)))
        x = self._conv(x, self.base_channels, layers.conv_3x3, "conv")
        before = x
        for i, features in enumerate(self.channels):
            before = x
            x = self._conv(x, features, layers.upsample_conv_3x3, f"up_{i}")
            x = self._conv(x, features, layers.conv_3x3, f"conv_{i}")
        image = self._image(x, "to_image")
        if self.alpha:
            old = self._image(before, "to_image_before").repeat(2, axis=1).repeat(2, axis=2)
            image = (1 - self.alpha) * image + self.alpha * old
        return jnp.tanh(image) if self.tanh else image

    def _activate(self, x: jax.Array) -> jax.Array:
        return pixel_norm(nn.leaky_relu(x, self.slope))

    def _conv(self, x: jax.Array, features: int, function, name: str) -> jax.Array:
        return self._activate(layers.Convolution(features, 3, function, name=name)(x))

    def _image(self, x: jax.Array, name: str) -> jax.Array:
        return layers.Convolution(self.image_channels, 1, layers.conv_1x1, name=name)(x)
