"""torch-mimicry: SNGAN, conditional SNGAN (cGAN with projection) and SAGAN."""

import re
from functools import partial

import numpy as np

from checkpoints_tools.converters.origin import (
    BATCH_NORM,
    Origin,
    Plan,
    Source,
    has,
    stored_weight,
    take,
    to_grid,
    weight_of,
)

_ATTENTION = {"query": "theta", "key": "phi", "value": "g", "output": "o"}
_LAYERS = {"conv_1": "c1", "conv_2": "c2", "shortcut": "c_sc"}


def _options(state, blocks: list[str], settings: dict) -> dict:
    channels = [stored_weight(state, f"{block}.c1").shape[0] for block in blocks]
    base = stored_weight(state, f"{blocks[0]}.c1").shape[1]
    dense = stored_weight(state, "l1")
    options = {
        "latent_size": dense.shape[1],
        "base_channels": base,
        "channels": channels,
        "image_channels": stored_weight(state, f"c{len(blocks) + 2}").shape[0],
        "bottom_width": round((dense.shape[0] / base) ** 0.5),
        **settings,
    }
    embedding = state.get(f"{blocks[0]}.b1.embed.weight")
    if embedding is not None:
        options["num_classes"] = embedding.shape[0]
    if "attn_block.gamma" in state:
        # In the 32 px network, whose blocks are equally wide, it follows the second block; else
        # the width says which one it follows.
        width = stored_weight(state, "attn_block.o").shape[0]
        options["attention"] = 2 if len(set(channels)) == 1 else channels.index(width) + 1
    return options


def _plan(state, settings) -> Plan:
    blocks = sorted({m[0] for name in state if (m := re.match(r"block\d+(?=\.)", name))})
    blocks.sort(key=lambda block: int(block.removeprefix("block")))
    options = _options(state, blocks, settings)
    last = len(blocks) + 2
    names = {"project": "l1", "norm": f"b{last}", "to_image": f"c{last}", "attention": "attn_block"}
    names |= {f"block_{i}": block for i, block in enumerate(blocks)}

    weights = partial(weight_of, state)

    def origin(path: str) -> Origin:
        _, first, *rest = path.split("/")
        base, leaf = names[first], rest[-1]
        grid = to_grid(options["bottom_width"])
        if first == "project":
            return weights(base, grid) if leaf == "kernel" else take(f"{base}.bias", grid)
        if first == "norm":
            return take(f"{base}.{BATCH_NORM[leaf]}")
        if first == "attention":
            if leaf == "gamma":
                return take(f"{base}.gamma")
            return weights(f"{base}.{_ATTENTION[rest[0]]}")
        if first.startswith("block_") and rest[0].startswith("norm_"):
            return _norm(f"{base}.b{rest[0].removeprefix('norm_')}", rest[1:])
        if first.startswith("block_"):
            base = f"{base}.{_LAYERS[rest[0]]}"
        return weights(base) if leaf == "kernel" else take(f"{base}.bias")

    return Plan("sngan", options, origin)


def _norm(base: str, rest: list[str]) -> Origin:
    """Batch norm; with classes one table holds the scales, then the biases."""
    if rest[-1] == "embedding":
        half = 0 if rest[0] == "scale" else 1
        return take(f"{base}.embed.weight", lambda table: np.split(table, 2, axis=1)[half])
    inner = ".bn" if rest[0] == "statistics" else ""
    return take(f"{base}{inner}.{BATCH_NORM[rest[-1]]}")


def _settings(state) -> dict:
    # sngan.pytorch, whose names of tensors are the same, saves under `avg_gen_state_dict`.
    other = "gen_state_dict" in getattr(state, "prefix", "")
    upsample = "nearest" if other else "bilinear"
    return {"upsample": upsample, "epsilon": 1e-5, "slope": 0.0, "output": "tanh"}


SOURCE = Source(
    "mimicry",
    "torch-mimicry: SNGAN, conditional SNGAN, SAGAN",
    has(r"l1\.weight(_orig)?", r"block2\.c1\.weight(_orig)?", r"block2\.c_sc\.bias", r"c\d\.bias"),
    _plan,
    settings=_settings,
)
