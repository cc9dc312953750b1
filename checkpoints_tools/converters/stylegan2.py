"""StyleGAN2-ADA, from NVIDIA's pickles or from their state dicts."""

from collections.abc import Callable, Mapping

import numpy as np

from checkpoints_tools.converters.origin import (
    Origin,
    Plan,
    Source,
    State,
    check_filters,
    has,
    kernel,
    numbers,
    take,
)

MAPPING_LEARNING_RATE = 0.01
_BUFFERS = {"noise": "noise_const", "magnitude": "magnitude_ema"}
_FILTERS = r".*resample_filter"


def equalized(rate: float = 1.0) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the conversion of a kernel whose gain at run time is rate / √fan-in."""
    return lambda w: kernel(w, rate / w[0].size ** 0.5)


def dense_origin(base: str, leaf: str, rate: float = 1.0) -> Origin:
    """Takes a dense layer and folds its gains: rate / √fan-in of the kernel, rate of the bias."""
    if leaf == "bias":
        return take(f"{base}.bias", lambda b: b * np.float32(rate))
    return take(f"{base}.weight", equalized(rate))


def styled_origin(path: str, names: Mapping[str, str], learning_rate: float) -> Origin:
    """Takes a tensor that StyleGAN2 and 3 share; `names` maps our styled layers to theirs."""
    _, layer, *rest = path.split("/")
    if layer == "w_mean":
        return take("mapping.w_avg")
    if layer == "mapping":
        rate = 1.0 if rest[0] == "embed" else learning_rate
        return dense_origin(f"mapping.{rest[0].replace('_', '')}", rest[1], rate)
    base = f"synthesis.{names[layer]}"
    if rest[0] == "affine":
        return dense_origin(f"{base}.affine", rest[1])
    if rest[0] == "kernel":  # demodulation cancels a gain
        demodulated = not layer.startswith(("input", "to_image", "skip"))
        return take(f"{base}.weight", kernel if demodulated else equalized())
    return take(f"{base}.{_BUFFERS.get(rest[0], rest[0])}")


def mapping_options(state: State) -> dict[str, int]:
    """Returns sizes of the mapping network; the class embedding follows the latent."""
    embed, w_size = state.get("mapping.embed.weight"), state["mapping.w_avg"].shape[-1]
    return {
        "latent_size": state["mapping.fc0.weight"].shape[1] - (0 if embed is None else w_size),
        "w_size": w_size,
        "mapping_layers": len(numbers(state, r"mapping\.fc(\d+)\.weight")),
        "num_classes": 0 if embed is None else embed.shape[1],
    }


def _options(state, sides: list[int], settings: dict) -> dict:
    channels = [state["synthesis.b4.const"].shape[0]]
    channels += [state[f"synthesis.b{side}.conv1.weight"].shape[0] for side in sides[1:]]
    return mapping_options(state) | {
        "channels": channels,
        "image_channels": state[f"synthesis.b{sides[-1]}.torgb.weight"].shape[0],
        "architecture": _architecture(state, sides),
        "clamp": settings["conv_clamp"],
    }


def _architecture(state, sides: list[int]) -> str:
    if f"synthesis.b{sides[-1]}.skip.weight" in state:
        return "resnet"
    with_images = [side for side in sides if f"synthesis.b{side}.torgb.weight" in state]
    if with_images == sides:
        return "skip"
    if with_images == sides[-1:]:
        return "orig"
    raise ValueError(
        "neither images of every block (skip) nor shortcuts (resnet) nor only an image of the last "
        "block (orig)"
    )


def _plan(state, settings) -> Plan:
    sides = numbers(state, r"synthesis\.b(\d+)\.")
    if sides != [4 * 2**i for i in range(len(sides))]:
        raise ValueError(f"blocks of sides {sides}; expected powers of two from 4")
    check_filters(state, _FILTERS)
    height, width = state["synthesis.b4.const"].shape[1:]
    if height != width:
        side = sides[-1]
        raise ValueError(
            f"makes images of {side * height // 4}×{side * width // 4} pixels; only square ones "
            "are supported"
        )
    layers = {"conv": "conv1", "up": "conv0", "to_image": "torgb", "skip": "skip"}
    names = {
        f"{ours}_{i}": f"b{side}.{theirs}"
        for i, side in enumerate(sides)
        for ours, theirs in layers.items()
    }

    def origin(path: str) -> Origin:
        *_, layer, leaf = path.split("/")
        if leaf == "const":
            return take("synthesis.b4.const", lambda c: c.transpose(1, 2, 0))
        if "noise" in leaf and f"synthesis.{names[layer]}.noise_strength" not in state:
            side = sides[int(layer.rpartition("_")[2])]  # use_noise=False
            return Origin((), lambda: np.zeros((side, side) if leaf == "noise" else ()))
        return styled_origin(path, names, settings["lr_multiplier"])

    return Plan("stylegan2", _options(state, sides, settings), origin, _FILTERS)


def _settings(state) -> dict:
    usual = {"conv_clamp": 256.0, "lr_multiplier": MAPPING_LEARNING_RATE, "activation": "lrelu"}
    recorded = any(name.endswith("resample_filter") for name in state)
    return usual if recorded else {**usual, "resample_filter": [1, 3, 3, 1]}


SOURCE = Source(
    "stylegan2",
    "StyleGAN2-ADA (NVlabs stylegan2-ada-pytorch, stylegan3)",
    has(r"synthesis\.b4\.const", r"mapping\.w_avg", r"mapping\.fc0\.weight"),
    _plan,
    settings=_settings,
    only=("activation", "resample_filter"),
)
