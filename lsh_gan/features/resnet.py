"""A thin ResNet-50 up to its pooled features: 1024 features per image.

This is the network of He et al. 2016 (arXiv:1512.03385) with half of the features. Yahoo trained it
on ImageNet, and then to distinguish two kinds of photographs (open_nsfw).
"""

from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp

from lsh_gan.features.layers import Conv, plain_layer

DIM = 1024
_BLOCKS = (3, 4, 6, 3)


class ThinResNet50(nn.Module):
    """The network up to global average pooling; names of convolutions are those of the file."""

    @nn.compact
    def __call__(self, x):
        """Maps preprocessed images `[n, side, side, 3]` to `[n, 1024]`."""
        x = nn.relu(Conv(64, (7, 7), 2, 3, name="1")(x))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for stage, blocks in enumerate(_BLOCKS):
            for block in range(blocks):
                strides = 2 if stage > 0 and block == 0 else 1
                x = _bottleneck(x, f"stage{stage}_block{block}_", 32 * 2**stage, strides)
        return jnp.mean(x, axis=(1, 2))


def _bottleneck(x, name: str, features: int, strides: int):
    shortcut = x
    if x.shape[-1] != 4 * features:
        shortcut = Conv(4 * features, (1, 1), strides, name=f"{name}proj_shortcut")(x)
    x = nn.relu(Conv(features, (1, 1), strides, name=f"{name}branch2a")(x))
    x = nn.relu(Conv(features, (3, 3), 1, 1, name=f"{name}branch2b")(x))
    return nn.relu(Conv(4 * features, (1, 1), name=f"{name}branch2c")(x) + shortcut)


def read_onnx(path: Path) -> dict:
    """Reads kernels and biases of the convolutions of an ONNX file, without running it.

    They are named NAME.weight and NAME.bias, after the batch norm that is folded into the
    convolution. An unreadable file, or a missing package onnx, is a ValueError.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError:
        raise ValueError(f"{path}: is read with the package onnx: pip install onnx") from None
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except DecodeError as error:
        raise ValueError(f"{path}: not a readable ONNX file ({error})") from error
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    state = {}
    for node in graph.node:
        if node.op_type == "Conv":
            name = node.output[0].partition("/")[0].removeprefix("bn_")
            for part, tensor in zip(("weight", "bias"), node.input[1:], strict=True):
                state[f"{name}.{part}"] = onnx.numpy_helper.to_array(tensors[tensor])
    return state


def convert(state: dict, path: tuple[str, ...]) -> dict:
    """Returns the weights of the layer at a path, from the result of `read_onnx`.

    The original takes images with channels blue, green, red. Here the input channels of the first
    kernel are reversed, so that images have red, green, blue as everywhere.
    """
    layer = plain_layer(state, path[0])
    if path == ("1",):
        layer["kernel"] = layer["kernel"][:, :, ::-1].copy()
    return layer
