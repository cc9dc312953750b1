"""EfficientNet-Lite up to its pooled features: 1280 features per image.

The ImageNet networks of TensorFlow's "lite" variants of EfficientNet (Tan and Le 2019,
arXiv:1905.11946) have ReLU6 and no squeeze-and-excitation. Stem and head are not scaled. In larger
variants the stages between them have `width` times the features and `depth` times the blocks.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from lsh_gan.features.layers import Conv, fold_batch_norm

DIM = 1280


class Stage(NamedTuple):
    """Blocks of one shape; only the first block has these strides, the others have 1."""

    repeats: int
    kernel: int
    strides: int
    expansion: int
    features: int


_STAGES = (  # stages of Lite0
    Stage(1, 3, 1, 1, 16), Stage(2, 3, 2, 6, 24), Stage(2, 5, 2, 6, 40), Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112), Stage(4, 5, 2, 6, 192), Stage(1, 3, 1, 6, 320),
)  # fmt: skip


def scaled_stages(width: float, depth: float) -> list[Stage]:
    """Scales the stages: features to the nearest multiple of 8, repeats rounded up.

    The first and the last stage keep their repeats.

    >>> [stage.features for stage in scaled_stages(1.1, 1.2)]
    [16, 24, 48, 88, 120, 208, 352]
    """
    stages = []
    for i, stage in enumerate(_STAGES):
        features = 8 * int(width * stage.features / 8 + 0.5)
        inside = 0 < i < len(_STAGES) - 1
        repeats = math.ceil(depth * stage.repeats) if inside else stage.repeats
        stages.append(stage._replace(features=features, repeats=repeats))
    return stages


class EfficientNetLite(nn.Module):
    """The network up to average pooling, Lite0 by default; named as in the PyTorch package."""

    width: float = 1.0
    depth: float = 1.0

    @nn.compact
    def __call__(self, x):
        """Maps preprocessed images `[n, side, side, 3]` to `[n, 1280]`."""
        x = nn.relu6(Conv(32, (3, 3), 2, "SAME", name="_conv_stem")(x))
        stages = scaled_stages(self.width, self.depth)
        blocks = [s if i == 0 else s._replace(strides=1) for s in stages for i in range(s.repeats)]
        for index, stage in enumerate(blocks):
            x = _block(x, f"_blocks.{index}.", stage)
        x = nn.relu6(Conv(DIM, (1, 1), name="_conv_head")(x))
        return jnp.mean(x, axis=(1, 2))


def _block(x, name: str, stage: Stage):
    """Inverted residual: 1×1 expansion, depthwise convolution, 1×1 projection."""
    inputs, width = x, x.shape[-1] * stage.expansion
    if stage.expansion > 1:
        x = nn.relu6(Conv(width, (1, 1), name=f"{name}_expand_conv")(x))
    filtered = Conv(
        width, (stage.kernel, stage.kernel), stage.strides, "SAME", depthwise=True,
        name=f"{name}_depthwise_conv",
    )(x)  # fmt: skip
    x = Conv(stage.features, (1, 1), name=f"{name}_project_conv")(nn.relu6(filtered))
    return x + inputs if x.shape == inputs.shape else x


# Name of a convolution -> name of the batch norm after it.
_NORMS = {
    "_conv_stem": "_bn0", "_expand_conv": "_bn0", "_depthwise_conv": "_bn1",
    "_project_conv": "_bn2", "_conv_head": "_bn1",
}  # fmt: skip


def convert(state: dict, path: tuple[str, ...]) -> dict:
    """Returns the weights of the layer at a path, from those of the PyTorch package."""
    block, dot, conv = path[0].rpartition(".")
    return fold_batch_norm(state, path[0], block + dot + _NORMS[conv])
