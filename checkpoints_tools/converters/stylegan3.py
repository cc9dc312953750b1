"""StyleGAN3-T and -R and StyleGAN-XL, from their pickles or state dicts."""

import re
from functools import partial

from checkpoints_tools.converters.origin import Origin, Plan, Source, has, take, usual
from checkpoints_tools.converters.stylegan2 import (
    MAPPING_LEARNING_RATE,
    dense_origin,
    mapping_options,
    styled_origin,
)


def _layers(state) -> list[tuple[str, int, int]]:
    """Returns name, side and channels of the layers, in order; names are like L0_36_512."""
    pattern = r"synthesis\.(L(\d+)_(\d+)_(\d+))\.weight"
    found = [m for name in state if (m := re.fullmatch(pattern, name))]
    found.sort(key=lambda m: int(m[2]))
    return [(m[1], int(m[3]), int(m[4])) for m in found]


def _check(taps: list[list[int]], side: int, settings: dict) -> None:
    """Refuses settings that contradict the lengths of filters or the side of the first layer."""
    size, margin = settings["filter_size"], settings["margin_size"]
    for n in (n for pair in taps for n in pair):
        if not n or n % size:
            raise ValueError(f"filter_size is {size}; a filter has {n} taps, no multiple of it")
    if side <= 2 * margin:
        raise ValueError(f"margin_size is {margin}; the first layer has only {side} pixels a side")


def _plan(state, settings, *, xl: bool = False) -> Plan:
    found = _layers(state)
    filters = [
        (state[f"synthesis.{name}.up_filter"], state[f"synthesis.{name}.down_filter"])
        for name, _, _ in found[:-1]
    ]
    taps = [[len(up), len(down)] for up, down in filters]
    _check(taps, found[0][1], settings)
    options = mapping_options(state) | {
        "input_channels": state["synthesis.input.freqs"].shape[0],
        "sampling_rate": float(found[0][1] - 2 * settings["margin_size"]),
        "bandwidth": float(settings["first_cutoff"]),
        "kernel_size": state[f"synthesis.{found[0][0]}.weight"].shape[2],
        "sizes": [size for _, size, _ in found],
        "channels": [channels for _, _, channels in found],
        "taps": taps,
        "factors": [[n // settings["filter_size"] for n in pair] for pair in taps],
        "radial": [down.ndim == 2 for _, down in filters],
        "clamp": settings["conv_clamp"],
        "output_scale": settings["output_scale"],
    }
    if xl:
        conditional = "mapping.embed_proj.weight" in state
        inputs = state["mapping.fc0.weight"].shape[1]
        options |= {
            "latent_size": inputs // 2 if conditional else inputs,
            "num_classes": state["mapping.w_avg"].shape[0] if conditional else 0,
            "embedding_size": state["mapping.embed.weight"].shape[1] if conditional else 0,
        }

    names = {f"layer_{i}": name for i, (name, _, _) in enumerate(found[:-1])}
    names |= {"input": "input", "to_image": found[-1][0]}

    def origin(path: str) -> Origin:
        *_, layer, leaf = path.split("/")
        if layer == "classes":
            return take("mapping.embed.weight", lambda table: table[: options["num_classes"]])
        if layer == "embed" and xl:
            return dense_origin("mapping.embed_proj", leaf)
        return styled_origin(path, names, settings["lr_multiplier"])

    # Unconditional networks of StyleGAN-XL have class vectors too, but do not use them.
    return Plan("stylegan3", options, origin, r"mapping\.embed\.weight" if xl else r"(?!)")


_matches = has(r"synthesis\.input\.freqs", r"mapping\.w_avg", r"synthesis\.L0_\d+_\d+\.weight")
_settings = usual(
    conv_clamp=256.0,
    lr_multiplier=MAPPING_LEARNING_RATE,
    filter_size=6,
    first_cutoff=2.0,
    margin_size=10,
    output_scale=0.25,
)


def _is_xl(state) -> bool:
    return "mapping.embed.weight" in state and "mapping.embed.bias" not in state


SOURCE = Source(
    "stylegan3",
    "StyleGAN3-T and -R (NVlabs/stylegan3)",
    lambda state: _matches(state) and not _is_xl(state),
    _plan,
    settings=_settings,
)
XL = Source(
    "stylegan_xl",
    "StyleGAN-XL (autonomousvision/stylegan-xl), with superresolution stages",
    lambda state: _matches(state) and _is_xl(state),
    partial(_plan, xl=True),
    settings=_settings,
)
