"""VGG16 up to its second dense layer: 4096 features per image.

This is the network of Simonyan and Zisserman 2015 (arXiv:1409.1556, configuration D). Kynkäänniemi
et al. 2019 compute precision and recall on the output of its second dense layer, after the ReLU.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax

from lsh_gan.features.layers import Conv, plain_layer

DIM = 4096
_REPEATS = (2, 2, 3, 3, 3)
_PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # N of convolutions `features.N`


class VGG16(nn.Module):
    """The network up to the ReLU after its second dense layer."""

    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    hidden: int = DIM

    @nn.compact
    def __call__(self, x):
        """Maps preprocessed images `[n, 224, 224, 3]` to `[n, hidden]`."""
        names = (f"conv_{index}" for index in range(sum(_REPEATS)))
        for width, repeats in zip(self.widths, _REPEATS, strict=True):
            for _ in range(repeats):
                x = nn.relu(Conv(width, (3, 3), padding="SAME", name=next(names))(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = jnp.reshape(x, (x.shape[0], -1))
        for name in ("dense_0", "dense_1"):
            x = nn.relu(nn.Dense(self.hidden, precision=lax.Precision.HIGHEST, name=name)(x))
        return x


def convert(state: dict, path: tuple[str, ...]) -> dict:
    """Returns the weights of the layer at a path of `VGG16`, from those of torchvision.

    torch flattens channels first, so the inputs of the first dense layer are reordered from
    (channel, row, column) to (row, column, channel).
    """
    kind, _, index = path[0].partition("_")
    if kind == "conv":
        return plain_layer(state, f"features.{_PLACES[int(index)]}")
    name = ("classifier.0", "classifier.3")[int(index)]
    kernel = state[f"{name}.weight"].T
    if index == "0":
        channels = len(state["features.28.bias"])
        side = round((len(kernel) / channels) ** 0.5)
        maps = kernel.reshape(channels, side, side, -1)
        kernel = maps.transpose(1, 2, 0, 3).reshape(kernel.shape)
    return {"kernel": kernel.astype(np.float32), "bias": state[f"{name}.bias"].astype(np.float32)}
