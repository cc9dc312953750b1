"""Progressive GAN of pytorch_GAN_zoo."""

import numpy as np

from checkpoints_tools.converters.origin import (
    Origin,
    Plan,
    Source,
    has,
    kernel,
    numbers,
    take,
    to_grid,
    usual,
)

_TANH_LOSSES = ("MSE", "DCGAN")


def _gain(weight: np.ndarray) -> np.float32:
    return np.float32((2 / weight[0].size) ** 0.5)


def _plan(state, settings) -> Plan:
    inner = "module." if "formatLayer.module.weight" in state else ""
    count = len(numbers(state, r"scaleLayers\.(\d+)\."))
    dense = state[f"formatLayer.{inner}weight"]
    options = {
        "latent_size": dense.shape[1],
        "base_channels": dense.shape[0] // 16,
        "channels": [state[f"scaleLayers.{i}.1.{inner}weight"].shape[0] for i in range(count)],
        "image_channels": state[f"toRGBLayers.{count}.{inner}weight"].shape[0],
        "slope": settings["leakyReluLeak"],
        "alpha": float(settings["alpha"]),
        "tanh": settings["lossCriterion"] in _TANH_LOSSES,
    }
    names = {
        "project": "formatLayer",
        "conv": "groupScale0.0",
        "to_image": f"toRGBLayers.{count}",
        "to_image_before": f"toRGBLayers.{count - 1}",
    }
    for i in range(count):
        names |= {f"up_{i}": f"scaleLayers.{i}.0", f"conv_{i}": f"scaleLayers.{i}.1"}

    def origin(path: str) -> Origin:
        _, layer, leaf = path.split("/")
        layout = to_grid(4) if layer == "project" else kernel
        base = f"{names[layer]}.{inner}"
        # The gain √(2 / fan-in) multiplies the output of the layer, and so also the bias.
        if leaf == "kernel":
            return take(f"{base}weight", lambda w: layout(w * _gain(w)))
        vector = to_grid(4) if layer == "project" else lambda b: b
        return Origin((f"{base}bias", f"{base}weight"), lambda b, w: vector(b * _gain(w)))

    used = count if not options["alpha"] else count - 1
    unused = "|".join(map(str, range(used))) or "(?!)"
    return Plan("progan", options, origin, rf"toRGBLayers\.({unused})\..*")


SOURCE = Source(
    "progan",
    "Progressive GAN (facebookresearch/pytorch_GAN_zoo)",
    has(r"formatLayer\.(module\.)?weight", r"scaleLayers\.0\.0\.(module\.)?weight"),
    _plan,
    settings=usual(
        leakyReluLeak=0.2,
        alpha=0.0,
        lossCriterion="WGANGP",
        perChannelNormalization=True,
        equalizedlR=True,
    ),
    only=("perChannelNormalization", "equalizedlR"),
)
