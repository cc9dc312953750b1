"""BigGAN and BigGAN-deep of ajbrock/BigGAN-PyTorch."""

import re
from functools import partial

import numpy as np

from checkpoints_tools.converters.origin import (
    Origin,
    Plan,
    Source,
    has,
    kernel,
    take,
    to_grid,
    usual,
)
from lsh_gan.errors import check_int

_ATTENTION = {"query": "theta", "key": "phi", "value": "g", "output": "o"}
_STATISTICS = {"mean": "stored_mean", "var": "stored_var"}
_USUAL = {"BN_eps": 1e-5, "SN_eps": 1e-6, "final_epsilon": 1e-5, "slope": 0.0, "output": "tanh"}


def _divide_by_iterated_norm(weight: np.ndarray, u: np.ndarray, epsilon: float) -> np.ndarray:
    """That code's spectral norm in eval mode: one power step from the stored u."""
    matrix = weight.reshape(len(weight), -1).astype(np.float64)
    v = u.astype(np.float64).reshape(-1) @ matrix
    v /= max(np.linalg.norm(v), epsilon)
    out = matrix @ v
    u = out / max(np.linalg.norm(out), epsilon)
    return (weight / (u @ out)).astype(np.float32)


def _blocks(state) -> list[str]:
    found = {m[0] for name in state if (m := re.match(r"blocks\.\d+\.0(?=\.conv1)", name))}
    return sorted(found, key=lambda block: int(block.split(".")[1]))


def _common(state, blocks: list[str], settings: dict) -> dict:
    """Options that both networks have."""
    base = state[f"{blocks[0]}.conv1.weight"].shape[1]
    return {
        "base_channels": base,
        "attention": [i + 1 for i in range(len(blocks)) if f"blocks.{i}.1.gamma" in state],
        "image_channels": state["output_layer.2.weight"].shape[0],
        "bottom_width": round((state["linear.weight"].shape[0] / base) ** 0.5),
        "epsilon": settings["BN_eps"],
        **{name: settings[name] for name in ("final_epsilon", "slope", "output")},
    }


def _origins(settings: dict, width: int, embedding: str, from_condition=lambda kernel: kernel):
    """The map of names, which both networks share.

    `width` is the side of the first image, `embedding` our name of the shared class embedding;
    `from_condition` reorders the rows of kernels `[condition, ...]`.
    """

    def weights(base: str, function=kernel) -> Origin:
        names = (f"{base}.weight", f"{base}.u0")
        fold = partial(_divide_by_iterated_norm, epsilon=settings["SN_eps"])
        return Origin(names, lambda w, u: function(fold(w, u)))

    def norm(base: str, rest: list[str]) -> Origin:
        if rest[0] == "statistics":
            return take(f"{base}.{_STATISTICS[rest[1]]}")
        part = f"{base}.{'gain' if rest[0] == 'scale' else 'bias'}"
        if len(rest) == 1:
            return take(part)
        if rest[1] == "embedding":
            return take(f"{part}.weight")
        return weights(part, lambda w: from_condition(kernel(w)))

    def origin(path: str) -> Origin:
        _, first, *rest = path.split("/")
        if first == embedding:
            return take("shared.weight")
        if first == "norm":
            return norm("output_layer.0", rest)
        if first in ("project", "to_image"):
            base = "linear" if first == "project" else "output_layer.2"
            grid = to_grid(width) if first == "project" else None
            if rest[0] == "bias":
                return take(f"{base}.bias", grid or (lambda b: b))
            return weights(base, (lambda w: from_condition(grid(w))) if grid else kernel)
        kind, index = first.split("_")
        if kind == "attention":
            if rest[0] == "gamma":
                return take(f"blocks.{index}.1.gamma")
            return weights(f"blocks.{index}.1.{_ATTENTION[rest[0]]}")
        name, _, number = rest[0].partition("_")
        if name == "norm":
            return norm(f"blocks.{index}.0.bn{number}", rest[1:])
        base = f"blocks.{index}.0.{'conv_sc' if name == 'shortcut' else f'conv{number}'}"
        return weights(base) if rest[1] == "kernel" else take(f"{base}.bias")

    return origin


_IGNORED = r".*\.(sv|u)\d+"


def _plan(state, settings) -> Plan:
    blocks = _blocks(state)
    options = _common(state, blocks, settings)
    shared = "shared.weight" in state
    gain = state[f"{blocks[0]}.bn1.gain.weight"]
    shared_size = state["shared.weight"].shape[1] if shared else 0
    hierarchical = shared and gain.shape[1] > shared_size
    chunk = state["linear.weight"].shape[1]
    options |= {
        "latent_size": chunk * (len(blocks) + 1) if hierarchical else chunk,
        "channels": [state[f"{block}.conv1.weight"].shape[0] for block in blocks],
        "num_classes": (state["shared.weight"] if shared else gain).shape[0],
        "shared_size": shared_size,
        "hierarchical": hierarchical,
    }
    origin = _origins(settings, options["bottom_width"], "shared")
    return Plan("biggan", options, origin, _IGNORED)


def _plan_deep(state, settings) -> Plan:
    blocks = _blocks(state)
    options = _common(state, blocks, settings)
    num_classes, size = state["shared.weight"].shape
    condition = state[f"{blocks[0]}.bn1.gain.weight"].shape[1]
    hierarchical = condition > size
    inputs = state["linear.weight"].shape[1]
    depth = check_int("G_depth", settings["G_depth"], 1)
    if len(blocks) % depth:
        raise ValueError(f"{len(blocks)} blocks are no multiple of G_depth = {depth}")
    widths = [state[f"{block}.conv4.weight"].shape[0] for block in blocks]
    options |= {
        "latent_size": inputs - size if hierarchical else inputs,
        "embedding_size": size,
        "blocks": [[width, (i + 1) % depth == 0] for i, width in enumerate(widths)],
        "num_classes": num_classes,
        "hierarchical": hierarchical,
    }

    def class_last(rows: np.ndarray) -> np.ndarray:
        """There the class comes before the latent; ours is the other way round."""
        return np.concatenate([rows[size:], rows[:size]]) if hierarchical else rows

    def reorder(rows: np.ndarray) -> np.ndarray:
        return class_last(rows) if len(rows) > size else rows

    origin = _origins(settings, options["bottom_width"], "embedding", reorder)
    return Plan("biggan_deep", options, origin, _IGNORED)


_matches_any = has(r"linear\.u0", r"blocks\.0\.0\.bn1\.stored_mean", r"output_layer\.2\.weight")
SOURCE = Source(
    "biggan",
    "BigGAN (ajbrock/BigGAN-PyTorch)",
    lambda state: _matches_any(state) and "blocks.0.0.conv_sc.weight" in state,
    _plan,
    settings=usual(**_USUAL),
)
SOURCE_DEEP = Source(
    "biggan_deep",
    "BigGAN-deep (ajbrock/BigGAN-PyTorch)",
    lambda state: _matches_any(state) and "blocks.0.0.conv4.weight" in state,
    _plan_deep,
    settings=usual(**_USUAL, G_depth=2),
)
