"""VGG16 up to its second dense layer: 4096 features an image.

The network of Simonyan and Zisserman 2015 (arXiv:1409.1556, configuration D), whose second dense
layer after its ReLU is the feature space of precision and recall in Kynkäänniemi et al. 2019.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax

from lsh_gan.features.layers import Conv

DIM = 4096
_REPEATS = (2, 2, 3, 3, 3)
_PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # of convolutions in `features.N`


class VGG16(nn.Module):
    """The network up to the ReLU after its second dense layer."""

    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    hidden: int = DIM

    @nn.compact
    def __call__(self, x):
        """Maps preprocessed images `[n, 224, 224, 3]` to `[n, hidden]`."""
        index = 0
        for width, repeats in zip(self.widths, _REPEATS, strict=True):
            for _ in range(repeats):
                x = nn.relu(Conv(width, (3, 3), padding="SAME", name=f"conv_{index}")(x))
                index += 1
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = jnp.reshape(x, (x.shape[0], -1))
        for name in ("dense_0", "dense_1"):
            x = nn.relu(nn.Dense(self.hidden, precision=lax.Precision.HIGHEST, name=name)(x))
        return x


def convert(state: dict) -> dict:
    """Turns weights `{name: array}` of torchvision into variables; the last layer is not used.

    torch flattens channels first: the inputs of the first dense layer go from (channel, row,
    column) to (row, column, channel).

    Raises:
        KeyError: A tensor is missing.
    """

    def layer(name, kernel_of):
        kernel = kernel_of(state[f"{name}.weight"])
        return {
            "kernel": kernel.astype(np.float32),
            "bias": state[f"{name}.bias"].astype(np.float32),
        }

    def rows_reordered(weight):
        side = round((weight.shape[1] / channels) ** 0.5)
        maps = weight.reshape(-1, channels, side, side).transpose(2, 3, 1, 0)
        return maps.reshape(weight.shape[1], -1)

    params = {
        f"conv_{index}": layer(f"features.{place}", lambda weight: weight.transpose(2, 3, 1, 0))
        for index, place in enumerate(_PLACES)
    }
    channels = params["conv_12"]["bias"].size
    params["dense_0"] = layer("classifier.0", rows_reordered)
    params["dense_1"] = layer("classifier.3", np.transpose)
    return {"params": params}
