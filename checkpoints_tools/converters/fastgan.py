"""FastGAN, and Projected GAN, which has the same generator."""

import re

from checkpoints_tools.converters.origin import (
    BATCH_NORM,
    Origin,
    Plan,
    Source,
    drawn_noise,
    has,
    take,
    weight_of,
)

_SIDES = (8, 16, 32, 64, 128, 256, 512, 1024)


def _inner(state) -> str:
    return "synthesis." if "synthesis.init.init.1.running_mean" in state else ""


def _channels(state) -> dict[int, int]:
    """Returns output channels of the blocks by side, without blocks that are not used.

    Networks of 128 pixels have blocks up to 256. The last block in use is found by its channels:
    as many as the last convolution takes.
    """
    inner = _inner(state)
    names = {side: f"{inner}feat_{side}.1.weight_orig" for side in _SIDES}
    found = {side: state[name].shape[0] // 2 for side, name in names.items() if name in state}
    last = state[f"{inner}to_big.weight_orig"].shape[1]
    ends = [side for side in found if side >= 128 and found[side] == last]
    if not ends:
        raise ValueError(f"no block from 128 pixels up gives the {last} channels of to_big")
    return {side: count for side, count in found.items() if side <= ends[0]}


def _settings(state) -> dict:
    plain = not _inner(state)
    side = max(_channels(state))
    output = "tanh" if plain and side == 1024 else "none"
    return {"output": output, "normalise": not plain, "epsilon": 1e-5, "noise_seed": 0}


def _plan(state, settings) -> Plan:
    if any(".gain." in name for name in state):
        raise ValueError("a conditional Projected GAN, whose class norms are not supported")
    inner = _inner(state)
    channels = _channels(state)
    sides = list(channels)
    double = [f"{inner}feat_{side}.5.weight_orig" in state for side in sides]
    first = state[f"{inner}init.init.0.weight_orig"]
    options = {
        "latent_size": first.shape[0],
        "channels": [first.shape[1] // 2, *channels.values()],
        "double": double,
        "image_channels": state[f"{inner}to_big.weight_orig"].shape[0],
        "excited": [s for s in sides if f"{inner}se_{s}.main.1.weight_orig" in state],
        "bias": f"{inner}to_big.bias" in state,
        **{name: settings[name] for name in ("output", "normalise", "epsilon")},
    }
    names = {"project": "init.init.0", "norm": "init.init.1", "to_image": "to_big"}
    for i, side in enumerate(sides):
        layers = {f"up_{i}": 1, f"noise_{i}_0": 2, f"norm_{i}_0": 3 if double[i] else 2}
        layers |= {f"conv_{i}": 5, f"noise_{i}_1": 6, f"norm_{i}_1": 7}
        names |= {name: f"feat_{side}.{number}" for name, number in layers.items()}
        names[f"excitation_{i}"] = f"se_{side}.main"

    def origin(path: str) -> Origin:
        _, layer, *_, leaf = path.split("/")
        base, (kind, *numbers) = f"{inner}{names[layer]}", layer.split("_")
        if leaf == "noise":
            i, j = map(int, numbers)
            return drawn_noise(settings["noise_seed"], 2 * i + j, sides[i])
        if kind == "noise":
            return take(f"{base}.weight", lambda w: w.reshape(()))
        if kind == "norm":
            return take(f"{base}.{BATCH_NORM[leaf]}")
        if kind == "project":
            return weight_of(state, base, lambda w: w.transpose(0, 2, 3, 1), axis=1)
        if kind == "excitation":
            base += ".1" if "conv_1" in path else ".3"
        return take(f"{base}.bias") if leaf == "bias" else weight_of(state, base)

    unused = "|".join(str(side) for side in _SIDES if side not in sides)
    ignored = rf"{re.escape(inner)}(to_128|(feat|se)_({unused or 'none'}))\..*"
    return Plan("fastgan", options, origin, ignored)


SOURCE = Source(
    "fastgan",
    "FastGAN (odegeasslbc/FastGAN-pytorch), Projected GAN (autonomousvision/projected-gan)",
    has(
        r"(synthesis\.)?init\.init\.0\.weight_orig",
        r"(synthesis\.)?feat_8\.1\.weight_orig",
        r"(synthesis\.)?to_big\.weight_orig",
    ),
    _plan,
    settings=_settings,
)
