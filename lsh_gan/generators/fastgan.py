"""FastGAN generator (Liu et al. 2021, arXiv:2101.04775).

Projected GAN (Sauer et al. 2021, arXiv:2111.01007) uses it too. Spectral normalisation is folded
into the weights when a checkpoint is converted. The original draws new noise in each call; here the
noise is drawn once, and is a buffer.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from lsh_gan.generators import layers

_EXCITED_FROM = {64: 4, 128: 8, 256: 16, 512: 32}  # side -> side of the image that scales it


class Noise(nn.Module):
    """Adds noise, equal in all channels, times a learnt strength."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `x [n, h, w, c]` to the same shape."""
        strength = self.param("strength", nn.initializers.zeros, ())
        stored = self.variable("buffers", "noise", jnp.zeros, x.shape[1:3]).value
        return x + strength * stored[..., None]


class Excitation(nn.Module):
    """Scales the channels of an image by factors computed from a smaller image."""

    features: int  # channels

    @nn.compact
    def __call__(self, small: jax.Array, x: jax.Array) -> jax.Array:
        """Maps `small [n, 4k, 4k, i]`, `x [n, h, w, features]` to the shape of `x`."""
        n, side, _, channels = small.shape
        pooled = small.reshape(n, 4, side // 4, 4, side // 4, channels).mean(axis=(2, 4))
        valid = partial(layers.conv, padding=0)
        conv = partial(layers.Convolution, self.features, function=valid, use_bias=False)
        y = nn.silu(conv(kernel_size=4, name="conv_1")(pooled))
        return x * nn.sigmoid(conv(kernel_size=1, name="conv_2")(y))


class FastGAN(nn.Module):
    """Latent → 4×4 → blocks that each double the side, some scaled by a smaller image → image.

    A block is nearest upsampling, then once or twice: 3×3 convolution, batch norm, gated linear
    unit. Blocks with two convolutions add noise before each norm.
    """

    latent_size: int = 256  # size of the latent vector
    channels: tuple[int, ...] = (1024, 512, 256, 128, 128, 64, 32)  # channels at 4×4, 8×8, ...
    # For each block, whether it has two convolutions.
    double: tuple[bool, ...] = (True, False, True, False, True, False)
    image_channels: int = 3  # 1 (grey) or 3 (RGB)
    excited: tuple[int, ...] = (64, 128, 256)  # sides of the images that smaller images scale
    normalise: bool = False  # whether latents are scaled to a mean square of 1
    bias: bool = False  # whether the last convolution has a bias
    epsilon: float = 1e-5  # of the norms, added to the variance
    output: str = "none"  # "none", "tanh" or "sigmoid"

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """Makes images `[n, h, w, image_channels]`, about [-1, 1]; see `Generator`."""

        def norm_gate(x: jax.Array, name: str) -> jax.Array:
            norm = nn.BatchNorm(use_running_average=True, epsilon=self.epsilon, name=name)
            return nn.glu(norm(x))

        conv = partial(layers.Convolution, kernel_size=3, use_bias=False)
        z = layers.pixel_norm(z) if self.normalise else z
        shape = (4, 4, 2 * self.channels[0])
        x = norm_gate(nn.DenseGeneral(shape, use_bias=False, name="project")(z), "norm")
        images = {4: x}
        for i, (features, double) in enumerate(zip(self.channels[1:], self.double, strict=True)):
            side = 8 * 2**i
            x = conv(2 * features, function=layers.upsample_conv_3x3, name=f"up_{i}")(x)
            for j in range(1 + double):
                if double:
                    if j:
                        x = conv(2 * features, function=layers.conv_3x3, name=f"conv_{i}")(x)
                    x = Noise(name=f"noise_{i}_{j}")(x)
                x = norm_gate(x, f"norm_{i}_{j}")
            if side in self.excited:
                x = Excitation(features, name=f"excitation_{i}")(images[_EXCITED_FROM[side]], x)
            images[side] = x
            self.sow("intermediates", f"block_{i}", x)
        return layers.to_image(x, self.image_channels, self.output, use_bias=self.bias)
