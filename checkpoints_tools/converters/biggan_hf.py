"""BigGAN-deep of Hugging Face's pytorch-pretrained-BigGAN, a folder with config.json."""

import re

import numpy as np

from checkpoints_tools.converters.origin import (
    BATCH_NORM,
    Origin,
    Plan,
    Source,
    has,
    kernel,
    normalised,
    take,
    usual,
)

_ATTENTION = {"query": "theta", "key": "phi", "value": "g", "output": "o_conv"}
_STATISTICS = {"mean": "running_means", "var": "running_vars"}
_RGB = 3  # the last convolution has more channels, which are not used


def _plan(state, settings) -> Plan:
    if settings["layers"] is None:
        raise ValueError("which blocks upsample is in config.json only: 'layers' is missing")
    eps = settings["eps"]
    indices = {int(m[1]) for name in state if (m := re.match(r"generator\.layers\.(\d+)\.", name))}
    attention = [i for i in sorted(indices) if f"generator.layers.{i}.gamma" in state]
    blocks = [i for i in sorted(indices) if i not in attention]
    dense = state["generator.gen_z.weight_orig"]
    size, num_classes = state["embeddings.weight"].shape
    base = state[f"generator.layers.{blocks[0]}.conv_0.weight_orig"].shape[1]
    width = round((dense.shape[0] / base) ** 0.5)
    options = {
        "latent_size": dense.shape[1] - size,
        "embedding_size": size,
        "base_channels": base,
        "blocks": [
            [state[f"generator.layers.{i}.conv_3.weight_orig"].shape[0], bool(up)]
            for i, (up, *_) in zip(blocks, settings["layers"], strict=True)
        ],
        "attention": [sum(block < i for block in blocks) for i in attention],
        "num_classes": num_classes,
        "bottom_width": width,
        "epsilon": eps,
        "final_epsilon": eps,
        "statistics_rows": state["generator.bn.running_means"].shape[0],
        "slope": settings["slope"],
        "output": settings["output"],
    }
    # Attention modules are entries of the same list, before the block of that number.
    after = {number - 1: i for number, i in zip(options["attention"], attention, strict=True)}

    def origin(path: str) -> Origin:
        _, first, *rest = path.split("/")
        if first == "embedding":
            return take("embeddings.weight", np.transpose)
        if first == "project":
            return _project(rest[0], width, base)
        if first == "norm":
            return _norm("generator.bn", rest)
        if first == "to_image":
            name = "generator.conv_to_rgb"
            if rest[0] == "bias":
                return take(f"{name}.bias", lambda b: b[:_RGB])
            return normalised(name, lambda w: kernel(w)[..., :_RGB])
        kind, index = first.split("_")
        if kind == "attention":
            name = f"generator.layers.{after[int(index)]}"
            if rest[0] == "gamma":
                return take(f"{name}.gamma", lambda gamma: gamma.reshape(()))
            return normalised(f"{name}.snconv1x1_{_ATTENTION[rest[0]]}")
        part, number = rest[0].split("_")
        name = (
            f"generator.layers.{blocks[int(index)]}.{part.replace('norm', 'bn')}_{int(number) - 1}"
        )
        if part == "norm":
            return _norm(name, rest[1:])
        return normalised(name) if rest[1] == "kernel" else take(f"{name}.bias")

    return Plan("biggan_deep", options, origin)


def _project(leaf: str, width: int, channels: int) -> Origin:
    """Here the dense layer's output is already height, width, channels."""
    shape = (width, width, channels)
    if leaf == "bias":
        return take("generator.gen_z.bias", lambda b: b.reshape(shape))
    return normalised("generator.gen_z", lambda w: w.T.reshape(-1, *shape))


def _norm(base: str, rest: list[str]) -> Origin:
    if rest[0] == "statistics":
        return take(f"{base}.{_STATISTICS[rest[1]]}")
    if len(rest) == 1:
        return take(f"{base}.{BATCH_NORM[rest[0]]}")
    return normalised(f"{base}.{'scale' if rest[0] == 'scale' else 'offset'}")


SOURCE = Source(
    "biggan_deep_hf",
    "BigGAN-deep (Hugging Face pytorch-pretrained-BigGAN)",
    has(r"embeddings\.weight", r"generator\.gen_z\.weight_orig", r"generator\.bn\.running_means"),
    _plan,
    settings=usual(layers=None, eps=1e-4, slope=0.0, output="tanh"),
)
