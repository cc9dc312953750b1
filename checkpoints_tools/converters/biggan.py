"""BigGAN and BigGAN-deep of ajbrock/BigGAN-PyTorch."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from checkpoints_tools.converters.origin import (
    Origin,
    Plan,
    Source,
    State,
    has,
    kernel,
    numbers,
    take,
    to_grid,
)
from checkpoints_tools.converters.residual import residual_options, residual_origin
from lsh_gan.errors import check_int

_LAYERS = {
    "query": "theta", "key": "phi", "value": "g", "output": "o", "gamma": "gamma",
    **{f"norm_{i}": f"bn{i}" for i in range(1, 5)},
    **{f"conv_{i}": f"conv{i}" for i in range(1, 5)}, "shortcut": "conv_sc",
}  # fmt: skip
_USUAL: dict[str, Any] = {
    "BN_eps": 1e-5,
    "SN_eps": 1e-6,
    "final_epsilon": 1e-5,
    "slope": 0.0,
    "output": "tanh",
}


def _usual(**more: float) -> Callable[[State], dict[str, Any]]:
    """Returns usual settings; for a file without u0, the user must say `spectral_norm=false`."""
    return lambda s: _USUAL | more | ({} if "linear.u0" in s else {"spectral_norm": None})


def _divide_by_iterated_norm(weight: np.ndarray, u: np.ndarray, epsilon: float) -> np.ndarray:
    """Applies the original's spectral norm in eval mode: one power step from the stored u."""
    matrix = weight.reshape(len(weight), -1).astype(np.float64)
    v = u.astype(np.float64).reshape(-1) @ matrix
    v /= max(np.linalg.norm(v), epsilon)
    out = matrix @ v
    u = out / max(np.linalg.norm(out), epsilon)
    return (weight / (u @ out)).astype(np.float32)


def _statistic(state, base: str, name: str) -> Origin:
    """Finds mean or variance of a norm; cross-replica and mybn runs have them in an inner norm."""
    inner = f"{base}.bn.accumulation_counter"
    if inner in state:  # a sum over this number of batches, or a running mean if it is 0
        names = (f"{base}.bn.stored_{name}", inner)
        return Origin(names, lambda total, count: total / np.maximum(count, 1))
    running = f"{base}.bn.running_{name}"
    return take(running if running in state else f"{base}.stored_{name}")


def _plan(state, settings, *, deep: bool) -> Plan:
    if settings.get("spectral_norm", False) is not False:
        raise ValueError(
            "there is no u0 of a spectral norm: was it trained without (G_param other than SN), or "
            "is it left out of the file? --set=spectral_norm=false takes weights as they are"
        )
    blocks = [f"blocks.{i}.0" for i in numbers(state, r"blocks\.(\d+)\.0\.conv1")]
    convolutions = [f"{block}.conv{4 if deep else 1}" for block in blocks]
    options = residual_options(
        state, "linear", f"{blocks[0]}.conv1", convolutions, "output_layer.2"
    )
    gain = state[f"{blocks[0]}.bn1.gain.weight"]
    shared = deep or "shared.weight" in state
    num_classes, size = state["shared.weight"].shape if shared else (len(gain), 0)
    hierarchical = shared and gain.shape[1] > size
    attention = [i for i in range(len(blocks)) if f"blocks.{i}.1.gamma" in state]
    options |= {
        "attention": [i + 1 for i in attention],
        "num_classes": num_classes,
        "hierarchical": hierarchical,
        "epsilon": settings["BN_eps"],
        **{name: settings[name] for name in ("final_epsilon", "slope", "output")},
    }
    if deep:
        depth = check_int("G_depth", settings["G_depth"], 1)
        widths = options.pop("channels")
        changes = itertools.pairwise([options["base_channels"], *widths])
        if len(blocks) % depth or any(a != b for i, (a, b) in enumerate(changes, 1) if i % depth):
            raise ValueError(
                f"blocks of {widths} channels are not in stages of G_depth = {depth}; --set=G_depth"
            )
        options["blocks"] = [[width, (i + 1) % depth == 0] for i, width in enumerate(widths)]
        options["embedding_size"] = size
        options["latent_size"] -= size if hierarchical else 0
    else:
        options["shared_size"] = size
        options["latent_size"] *= len(blocks) + 1 if hierarchical else 1

    def weights(base: str, function) -> Origin:
        def lay_out(weight: np.ndarray, *u: np.ndarray) -> np.ndarray:
            divided = _divide_by_iterated_norm(weight, u[0], settings["SN_eps"]) if u else weight
            laid = function(divided)
            # Dense layers of BigGAN-deep take the class before the latent, ours after it.
            turn = weight.ndim == 2 and deep and hierarchical
            return np.roll(laid, -size, axis=0) if turn else laid

        vector = (f"{base}.u0",) if "linear.u0" in state else ()
        return Origin((f"{base}.weight", *vector), lay_out)

    def norm(base: str, rest: list[str]) -> Origin:
        if rest[0] == "statistics":
            return _statistic(state, base, rest[1])
        part = f"{base}.{'gain' if rest[0] == 'scale' else 'bias'}"
        if rest[-1] == "kernel":
            return weights(part, kernel)
        return take(f"{part}.weight" if rest[-1] == "embedding" else part)

    names = {"shared": "shared", "embedding": "shared", "norm": "output_layer.0"}
    names |= {"project": "linear", "to_image": "output_layer.2"}
    names |= {f"block_{i}": block for i, block in enumerate(blocks)}
    names |= {f"attention_{i}": f"blocks.{i}.1" for i in attention}
    origin = residual_origin(names, _LAYERS, weights, norm, to_grid(options["bottom_width"]))
    return Plan("biggan_deep" if deep else "biggan", options, origin, r".*\.(sv|u)\d+")


_matches_any = has(
    r"linear\.weight",
    r"blocks\.0\.0\.bn1\.(stored|bn\.stored|bn\.running)_mean",
    r"output_layer\.2\.weight",
)
SOURCE = Source(
    "biggan",
    "BigGAN (ajbrock/BigGAN-PyTorch)",
    lambda state: _matches_any(state) and "blocks.0.0.conv_sc.weight" in state,
    lambda state, settings: _plan(state, settings, deep=False),
    settings=_usual(),
)
SOURCE_DEEP = Source(
    "biggan_deep",
    "BigGAN-deep (ajbrock/BigGAN-PyTorch)",
    lambda state: _matches_any(state) and "blocks.0.0.conv4.weight" in state,
    lambda state, settings: _plan(state, settings, deep=True),
    settings=_usual(G_depth=2),
)
