"""torch-mimicry: SNGAN, conditional SNGAN (cGAN with projection) and SAGAN."""

from functools import partial

import numpy as np

from checkpoints_tools.converters.origin import (
    BATCH_NORM,
    Origin,
    Plan,
    Source,
    has,
    numbers,
    stored_weight,
    take,
    to_grid,
    weight_of,
)
from checkpoints_tools.converters.residual import residual_options, residual_origin

_LAYERS = {
    "query": "theta", "key": "phi", "value": "g", "output": "o", "gamma": "gamma",
    "conv_1": "c1", "conv_2": "c2", "shortcut": "c_sc", "norm_1": "b1", "norm_2": "b2",
}  # fmt: skip


def _plan(state, settings) -> Plan:
    blocks = [f"block{i}" for i in numbers(state, r"block(\d+)\.")]
    last = len(blocks) + 2
    names = {"project": "l1", "norm": f"b{last}", "to_image": f"c{last}", "attention": "attn_block"}
    names |= {f"block_{i}": block for i, block in enumerate(blocks)}
    convolutions = [f"{block}.c1" for block in blocks]
    options = residual_options(state, "l1", convolutions[0], convolutions, names["to_image"])
    options |= settings
    embedding = state.get(f"{blocks[0]}.b1.embed.weight")
    if embedding is not None:
        options["num_classes"] = embedding.shape[0]
    if "attn_block.gamma" in state:
        # In the 32 px network, whose blocks have equal widths, attention follows the second block;
        # in others the block whose width it has.
        channels, width = options["channels"], stored_weight(state, "attn_block.o").shape[0]
        options["attention"] = 2 if len(set(channels)) == 1 else channels.index(width) + 1
    grid = to_grid(options["bottom_width"])
    origin = residual_origin(names, _LAYERS, partial(weight_of, state), _norm, grid)
    return Plan("sngan", options, origin)


def _norm(base: str, rest: list[str]) -> Origin:
    """Finds a tensor of a batch norm; with classes one table has the scales, then the biases."""
    if rest[-1] == "embedding":
        half = 0 if rest[0] == "scale" else 1
        return take(f"{base}.embed.weight", lambda table: np.split(table, 2, axis=1)[half])
    inner = ".bn" if rest[0] == "statistics" else ""
    return take(f"{base}{inner}.{BATCH_NORM[rest[-1]]}")


def _settings(state) -> dict:
    # sngan.pytorch has the same names of tensors, but saves under `avg_gen_state_dict`.
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
