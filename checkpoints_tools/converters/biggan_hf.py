"""BigGAN-deep of Hugging Face's pytorch-pretrained-BigGAN, a folder with config.json."""

from functools import partial

import numpy as np

from checkpoints_tools.converters.origin import (
    BATCH_NORM,
    Origin,
    Plan,
    Source,
    has,
    numbers,
    take,
    usual,
    weight_of,
)
from checkpoints_tools.converters.residual import residual_options, residual_origin

_LAYERS = {
    "query": "snconv1x1_theta", "key": "snconv1x1_phi", "value": "snconv1x1_g",
    "output": "snconv1x1_o_conv", "gamma": "gamma",
    **{f"norm_{i + 1}": f"bn_{i}" for i in range(4)},
    **{f"conv_{i + 1}": f"conv_{i}" for i in range(4)},
}  # fmt: skip
_NAMES = {
    "project": "generator.gen_z", "norm": "generator.bn", "to_image": "generator.conv_to_rgb"
}  # fmt: skip
_STATISTICS = {"mean": "running_means", "var": "running_vars"}
_RGB = 3  # the last convolution has further channels, which are not used


def _plan(state, settings) -> Plan:
    if settings["layers"] is None:
        raise ValueError("which blocks upsample is in config.json only: 'layers' is missing")
    indices = numbers(state, r"generator\.layers\.(\d+)\.")
    # Attention modules are entries of the same list as the blocks.
    attention = [i for i in indices if f"generator.layers.{i}.gamma" in state]
    blocks = [i for i in indices if i not in attention]
    convolutions = [f"generator.layers.{i}.conv_3" for i in blocks]
    first = f"generator.layers.{blocks[0]}.conv_0"
    options = residual_options(state, _NAMES["project"], first, convolutions, _NAMES["to_image"])
    size, num_classes = state["embeddings.weight"].shape
    widths, _ = options.pop("channels"), options.pop("image_channels")
    options |= {
        "latent_size": options["latent_size"] - size,
        "embedding_size": size,
        "blocks": [
            [width, bool(up)] for width, (up, *_) in zip(widths, settings["layers"], strict=True)
        ],
        "attention": [sum(block < i for block in blocks) for i in attention],
        "num_classes": num_classes,
        "epsilon": settings["eps"],
        "final_epsilon": settings["eps"],
        "statistics_rows": state["generator.bn.running_means"].shape[0],
        "slope": settings["slope"],
        "output": settings["output"],
    }
    names = _NAMES | {f"block_{i}": f"generator.layers.{j}" for i, j in enumerate(blocks)}
    for number, i in zip(options["attention"], attention, strict=True):
        names[f"attention_{number - 1}"] = f"generator.layers.{i}"
    shape = (options["bottom_width"], options["bottom_width"], options["base_channels"])

    def grid(x: np.ndarray) -> np.ndarray:  # the output is height, width, channels already
        return x.T.reshape(*x.shape[1:], *shape)

    weights = partial(weight_of, state)

    def norm(base: str, rest: list[str]) -> Origin:
        if rest[0] == "statistics":
            return take(f"{base}.{_STATISTICS[rest[1]]}")
        if len(rest) == 1:
            return take(f"{base}.{BATCH_NORM[rest[0]]}")
        return weights(f"{base}.{'scale' if rest[0] == 'scale' else 'offset'}")

    of_layers = residual_origin(names, _LAYERS, weights, norm, grid)

    def origin(path: str) -> Origin:
        if path == "params/embedding/embedding":
            return take("embeddings.weight", np.transpose)
        tensors, lay_out = of_layers(path)
        if not path.startswith("params/to_image/"):
            return Origin(tensors, lay_out)
        return Origin(tensors, lambda *arrays: lay_out(*arrays)[..., :_RGB])

    return Plan("biggan_deep", options, origin)


SOURCE = Source(
    "biggan_deep_hf",
    "BigGAN-deep (Hugging Face pytorch-pretrained-BigGAN)",
    has(r"embeddings\.weight", r"generator\.gen_z\.weight_orig", r"generator\.bn\.running_means"),
    _plan,
    settings=usual(layers=None, eps=1e-4, slope=0.0, output="tanh"),
)
