"""Shared code of the converters of residual generators: SNGAN, SAGAN, BigGAN and BigGAN-deep."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from checkpoints_tools.converters.origin import Origin, State, kernel, stored_weight, take


def residual_options(
    state: State, project: str, first: str, convolutions: Sequence[str], to_image: str
) -> dict[str, Any]:
    """Returns the sizes of a generator, given the names of layers that have them.

    These are the dense layer, the first convolution, one convolution per block with the width of
    the block, and the last convolution.
    """
    dense, base = stored_weight(state, project), stored_weight(state, first).shape[1]
    return {
        "latent_size": dense.shape[1],
        "base_channels": base,
        "channels": [stored_weight(state, name).shape[0] for name in convolutions],
        "image_channels": stored_weight(state, to_image).shape[0],
        "bottom_width": round((dense.shape[0] / base) ** 0.5),
    }


def residual_origin(
    names: Mapping[str, str],
    layers: Mapping[str, str],
    weights: Callable[[str, Callable], Origin],
    norm: Callable[[str, list[str]], Origin],
    grid: Callable,
) -> Callable[[str], Origin]:
    """Makes the map from our paths to the tensors of a code base.

    Args:
        names: Its names for our outer modules ("project", "block_0", "attention_2", "shared").
        layers: Its names for the layers in them ("norm_1", "conv_1", "query", "gamma").
        weights: Function (name of a layer, function that converts the kernel) -> origin.
        norm: Function (name of a norm, rest of our path) -> origin of a tensor of the norm.
        grid: Converts kernel and bias of "project".
    """

    def origin(path: str) -> Origin:
        _, part, *rest = path.split("/")
        base = names[part]
        if rest[0] in layers:
            part, *rest = rest
            base = f"{base}.{layers[part]}"
        if part == "gamma":
            return take(base, lambda gamma: gamma.reshape(()))
        if part in ("shared", "embedding"):
            return take(f"{base}.weight")
        if part.startswith("norm"):
            return norm(base, rest)
        to_kernel, to_bias = (grid, grid) if part == "project" else (kernel, lambda bias: bias)
        return weights(base, to_kernel) if rest == ["kernel"] else take(f"{base}.bias", to_bias)

    return origin
