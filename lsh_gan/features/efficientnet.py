"""EfficientNet-Lite up to its pooled features: 1280 numbers an image.

The ImageNet network of TensorFlow's "lite" variants of EfficientNet (Tan and Le 2019,
arXiv:1905.11946): no squeeze-and-excitation, ReLU6, stem and head not scaled. Of larger variants
the stages in between have `width` times the features and `depth` times the blocks.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from lsh_gan.features.layers import Conv, fold_batch_norm

DIM = 1280


class Stage(NamedTuple):
    """Blocks of one shape; only the first of them has the strides."""

    repeats: int
    kernel: int
    strides: int
    expansion: int
    features: int


_STAGES = (  # of Lite0
    Stage(1, 3, 1, 1, 16), Stage(2, 3, 2, 6, 24), Stage(2, 5, 2, 6, 40), Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112), Stage(4, 5, 2, 6, 192), Stage(1, 3, 1, 6, 320),
)  # fmt: skip


def scaled_stages(width: float, depth: float) -> list[Stage]:
    """The stages of a variant: features to the nearest multiple of 8, repeats rounded up.

    First and last stage keep their repeats.

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
    """The network up to global average pooling; Lite0 by default."""

    width: float = 1.0
    depth: float = 1.0

    @nn.compact
    def __call__(self, x):
        """Maps preprocessed images `[n, side, side, 3]` to `[n, 1280]`."""
        x = nn.relu6(Conv(32, (3, 3), 2, "SAME", name="stem")(x))
        stages = scaled_stages(self.width, self.depth)
        blocks = [s if i == 0 else s._replace(strides=1) for s in stages for i in range(s.repeats)]
        for index, stage in enumerate(blocks):
            x = Block(stage, name=f"block_{index}")(x)
        x = nn.relu6(Conv(DIM, (1, 1), name="head")(x))
        return jnp.mean(x, axis=(1, 2))


class Block(nn.Module):
    """Inverted residual: widen by a 1×1, filter each channel, narrow by a 1×1."""

    stage: Stage

    @nn.compact
    def __call__(self, x):
        """Maps `[n, h, w, c]` to `[n, h / strides, w / strides, stage.features]`."""
        inputs, stage = x, self.stage
        width = x.shape[-1] * stage.expansion
        if stage.expansion > 1:
            x = nn.relu6(Conv(width, (1, 1), name="expand")(x))
        size = (stage.kernel, stage.kernel)
        x = Conv(width, size, stage.strides, "SAME", depthwise=True, name="depthwise")(x)
        x = Conv(stage.features, (1, 1), name="project")(nn.relu6(x))
        return x + inputs if x.shape == inputs.shape else x


# Convolution and batch norm of a layer in the PyTorch package.
_NAMES = {
    "stem": ("_conv_stem", "_bn0"),
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
    "head": ("_conv_head", "_bn1"),
}


def convert(state: dict, path: tuple[str, ...]) -> dict:
    """Takes the layer at a path of `EfficientNetLite` from weights of the PyTorch package."""
    *block, layer = path
    prefix = f"_blocks.{block[0].removeprefix('block_')}." if block else ""
    conv, norm = _NAMES[layer]
    return fold_batch_norm(state, prefix + conv, prefix + norm)
