"""BigGAN and SNGAN (SAGAN) of PyTorch-StudioGAN."""

import re
from functools import partial

import numpy as np

from checkpoints_tools.converters.origin import (
    BATCH_NORM,
    Origin,
    Plan,
    Source,
    has,
    kernel,
    stored_weight,
    take,
    to_grid,
    usual,
    weight_of,
)
from checkpoints_tools.converters.residual import residual_options, residual_origin

_LAYERS = {
    "query": "conv1x1_theta", "key": "conv1x1_phi", "value": "conv1x1_g", "output": "conv1x1_attn",
    "gamma": "sigma", "conv_1": "conv2d1", "conv_2": "conv2d2", "shortcut": "conv2d0",
    "norm_1": "bn1", "norm_2": "bn2",
}  # fmt: skip


def _blocks(state) -> tuple[list[str], dict[int, str]]:
    """Returns residual blocks in order, and attention by the number of the block before it.

    Both are entries of one list in the file.
    """
    pattern = r"blocks\.(\d+)\.0\.(conv2d1|sigma)\b"
    found = sorted({(int(m[1]), m[2]) for name in state if (m := re.match(pattern, name))})
    blocks: list[str] = []
    attention: dict[int, str] = {}
    for index, kind in found:
        if kind == "sigma":
            attention[len(blocks)] = f"blocks.{index}.0"
        else:
            blocks.append(f"blocks.{index}.0")
    return blocks, attention


def _plan(state, settings, *, big: bool) -> Plan:
    blocks, attention = _blocks(state)
    convolutions = [f"{block}.conv2d1" for block in blocks]
    options = residual_options(state, "linear0", convolutions[0], convolutions, "conv2d5")
    options |= {name: settings[name] for name in ("epsilon", "slope", "output")}
    if big:
        classes, size = state["shared.weight"].shape
        options |= {
            "latent_size": options["latent_size"] * (len(blocks) + 1),
            "num_classes": classes,
            "shared_size": size,
            "hierarchical": True,
            "attention": list(attention),
            "final_epsilon": settings["epsilon"],
        }
    else:
        if len(attention) > 1:
            raise ValueError(f"attention after the blocks {list(attention)}; one is supported")
        options |= {"upsample": "nearest", "attention": sum(attention)}
        if f"{blocks[0]}.bn1.bn.running_mean" in state:
            options["num_classes"] = stored_weight(state, f"{blocks[0]}.bn1.gain").shape[1]

    weights = partial(weight_of, state)

    def norm(name: str, rest: list[str]) -> Origin:
        if rest[0] in ("scale", "bias") and len(rest) == 2:  # a conditional norm
            part = f"{name}.{'gain' if rest[0] == 'scale' else 'bias'}"
            # In the original, a dense layer takes one-hot classes; the scale is 1 + its output.
            one = 1 if rest == ["scale", "embedding"] else 0
            return weights(part, lambda w: kernel(w) + np.float32(one) if one else kernel(w))
        inner = ".bn" if f"{name}.bn.running_mean" in state else ""
        return take(f"{name}{inner}.{BATCH_NORM[rest[-1]]}")

    names = {"shared": "shared", "project": "linear0", "norm": "bn4", "to_image": "conv2d5"}
    names |= {f"block_{i}": block for i, block in enumerate(blocks)}
    for number, name in attention.items():
        names |= {f"attention_{number - 1}": name, "attention": name}
    origin = residual_origin(names, _LAYERS, weights, norm, to_grid(options["bottom_width"]))
    return Plan("biggan" if big else "sngan", options, origin)


_matches = has(
    r"linear0\.weight(_orig)?", r"blocks\.0\.0\.conv2d0\.bias", r"bn4\.weight", r"conv2d5\.bias"
)
_settings = usual(epsilon=1e-4, slope=0.0, output="tanh")
BIGGAN = Source(
    "studiogan_biggan",
    "BigGAN (PyTorch-StudioGAN, big_resnet)",
    lambda state: _matches(state) and "shared.weight" in state,
    lambda state, settings: _plan(state, settings, big=True),
    settings=_settings,
)
SNGAN = Source(
    "studiogan_sngan",
    "SNGAN, SAGAN and others with that generator (PyTorch-StudioGAN, resnet)",
    lambda state: _matches(state) and "shared.weight" not in state,
    lambda state, settings: _plan(state, settings, big=False),
    settings=_settings,
)
