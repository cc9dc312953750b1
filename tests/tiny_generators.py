"""The smallest generator of each family, as options of its module, and with weights."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from lsh_gan.generators import Generator, build
from lsh_gan.generators.generator import trace

TINY = {
    "biggan": {
        "latent_size": 6, "base_channels": 8, "channels": [8, 8], "num_classes": 3,
        "shared_size": 2, "attention": [2],
    },
    "biggan_deep": {
        "latent_size": 4, "embedding_size": 2, "base_channels": 8, "num_classes": 3,
        "blocks": [[8, True], [8, False]], "statistics_rows": 3,
    },
    "dcgan": {"latent_size": 4, "channels": [8, 4]},
    "fastgan": {
        "latent_size": 4, "channels": [4, 4, 2], "double": [True, False], "excited": [],
    },
    "mixer_diffusion": {
        "side": 8, "image_channels": 3, "hidden_size": 4, "patch_mixer_size": 4,
        "hidden_mixer_size": 4, "num_blocks": 1, "end_time": 1.0, "num_steps": 2,
    },
    "progan": {"latent_size": 4, "base_channels": 4, "channels": [4]},
    "r3gan": {
        "latent_size": 4, "channels": [4, 2], "widths": [4, 4], "groups": [2, 2],
        "blocks": [1, 1], "num_classes": 3, "embedding_size": 2,
    },
    "sequential": {
        "latent_size": 4, "layers": [
            {"kind": "dense", "features": 16, "bias": True},
            {"kind": "reshape", "shape": [4, 2, 2]},
            {"kind": "batch_norm", "epsilon": 1e-5, "affine": True},
            {"kind": "relu"},
            {
                "kind": "conv_transpose", "features": 3, "kernel": [4, 4], "stride": [2, 2],
                "padding": [1, 1], "output_padding": [0, 0], "dilation": [1, 1], "groups": 1,
                "bias": True,
            },
            {"kind": "tanh"},
        ],
    },
    "sngan": {"latent_size": 4, "base_channels": 4, "channels": [4], "num_classes": 3},
    "stylegan2": {"latent_size": 4, "w_size": 4, "channels": [4, 4], "mapping_layers": 1},
    "stylegan2_lucidrains": {"latent_size": 4, "channels": [4, 4], "mapping_layers": 1},
    "stylegan3": {
        "latent_size": 4, "w_size": 4, "input_channels": 4, "channels": [4, 4, 3],
        "num_classes": 3,
    },
}  # fmt: skip


@cache
def make(family):
    """A tiny generator with random weights, cheaply drawn."""
    module = build(family, TINY[family])
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0.1, 0.5, leaf.shape), jnp.float32),
        trace(module)[1],
    )
    if "batch_stats" in variables:
        variables["batch_stats"] = jax.tree.map(jnp.abs, variables["batch_stats"])
    return Generator("tiny", family, module, variables, 8, 3, {"options": TINY[family]})
