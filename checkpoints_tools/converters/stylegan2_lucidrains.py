"""StyleGAN2 of the PyPI package stylegan2_pytorch (lucidrains)."""

from functools import partial

import numpy as np

from checkpoints_tools.converters.origin import (
    Origin,
    Plan,
    Source,
    has,
    kernel,
    numbers,
    take,
    usual,
)

_ROOT_2 = 2**0.5


def _mean_of_w(count: int, rate: float, *layers: np.ndarray) -> np.ndarray:
    """Computes the mean of w over `count` latents."""
    x = np.random.default_rng(0).normal(size=(count, layers[0].shape[1]))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    for weight, bias in zip(layers[::2], layers[1::2], strict=True):
        x = (x @ weight.T + bias) * rate
        x = np.where(x > 0, x, 0.2 * x)
    return x.mean(axis=0)


def _constant(first: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Convolves the first image `[1, c, 4, 4]`, which no latent changes."""
    padded = np.pad(first[0], ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    return np.einsum("ihwkl,oikl->hwo", windows, weight) + bias


def _plan(state, settings) -> Plan:
    averaged = any(name.startswith("GE.") for name in state)
    network, mapping = ("GE", "SE") if averaged else ("G", "S")
    if any(name.startswith(f"{network}.attns.") for name in state):
        raise ValueError("a network with attention (attn_layers), which is not supported")
    if f"{network}.to_initial_block.weight" in state:
        raise ValueError("a network whose first layer takes w (no_const), which is not supported")
    blocks = len(numbers(state, rf"{network}\.blocks\.(\d+)\."))
    side = 4 * 2 ** (blocks - 1)
    for i in range(blocks - 1):
        name = f"{network}.blocks.{i}.to_rgb.upsample.1.f"
        if state[name].tolist() != [1, 2, 1]:
            raise ValueError(f"{name} is not the filter [1, 2, 1], the only one supported")
    layers = [f"{mapping}.net.{i}" for i in numbers(state, rf"{mapping}\.net\.(\d+)\.weight")]
    rgb = state[f"{network}.blocks.0.to_rgb.conv.weight"]
    options = {
        "latent_size": state[f"{layers[0]}.weight"].shape[1],
        "channels": [len(state[f"{network}.blocks.{i}.conv1.weight"]) for i in range(blocks)],
        "mapping_layers": len(layers),
        "image_channels": len(rgb),
    }
    rate, drawn = settings["lr_mlp"], np.random.default_rng(settings["noise_seed"])
    noise = drawn.random((side, side), np.float32)
    bases = {}  # names of what gives styles, of the convolution, and of what takes noise
    for i in range(blocks):
        block = f"{network}.blocks.{i}"
        bases[f"to_image_{i}"] = (f"{block}.to_rgb.to_style", f"{block}.to_rgb.conv", "")
        for j in (1, 2):
            ours = f"conv_{i}_{j - 1}"
            bases[ours] = (f"{block}.to_style{j}", f"{block}.conv{j}", f"{block}.to_noise{j}")

    def origin(path: str) -> Origin:
        _, layer, *rest = path.split("/")
        if layer == "w_mean":
            names = (f"{base}.{kind}" for base in layers for kind in ("weight", "bias"))
            return Origin(tuple(names), partial(_mean_of_w, settings["truncation_mean"], rate))
        if layer == "const":
            names = ("initial_block", "initial_conv.weight", "initial_conv.bias")
            return Origin(tuple(f"{network}.{name}" for name in names), _constant)
        *inner, leaf = rest
        if layer == "mapping":  # the original has latents of length 1, and no gain of activations
            i = int(inner[0].removeprefix("fc_"))
            if leaf == "bias":
                return take(f"{layers[i]}.bias", lambda b: b * (rate / _ROOT_2))
            length = 1 if i else options["latent_size"] ** 0.5
            return take(f"{layers[i]}.weight", partial(kernel, gain=rate / _ROOT_2 / length))
        style, conv, strength = bases[layer]
        if inner:
            weight, bias = take(f"{style}.weight", kernel), take(f"{style}.bias", lambda b: b + 1)
            return weight if leaf == "kernel" else bias
        if leaf == "kernel":  # images of the original are from 0 to 1
            return take(f"{conv}.weight", partial(kernel, gain=1 if strength else 2))
        if leaf == "noise":  # the original turns it by its diagonal
            size = 4 * 2 ** int(layer.split("_")[1])
            return Origin((), lambda: noise[:size, :size].T)
        if not strength:
            black = -1.0 if layer == f"to_image_{blocks - 1}" else 0.0
            return Origin((), lambda: np.full(len(rgb), black))
        if leaf == "noise_strength":
            return take(f"{strength}.weight", lambda w: w[:, 0])
        return take(f"{strength}.bias")

    ignored = rf"(?!({network}|{mapping})\.).*|.*\.upsample\.1\.f"
    return Plan("stylegan2_lucidrains", options, origin, ignored)


SOURCE = Source(
    "stylegan2_lucidrains",
    "StyleGAN2 (lucidrains/stylegan2-pytorch)",
    has(r"S\.net\.0\.weight", r"G\.blocks\.0\.to_noise1\.weight"),
    _plan,
    settings=usual(lr_mlp=0.1, truncation_mean=2000, noise_seed=0),
)
