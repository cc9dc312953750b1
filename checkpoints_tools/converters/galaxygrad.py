"""Score networks of galaxygrad (Equinox): a sequence of arrays without names.

Their order is that of the fields: the first convolution, the last convolution, each block's two
MLPs and two norms, the last norm, the end time.
"""

from math import isqrt

import numpy as np

from checkpoints_tools.converters.origin import Origin, Plan, Source, State, kernel, take, usual

_PER_BLOCK = 12
_LAYERS = {
    "patches_0": 0,
    "patches_1": 2,
    "features_0": 4,
    "features_1": 6,
    "norm_1": 8,
    "norm_2": 10,
}


def _num_blocks(state: State) -> int:
    return max(0, len(state) - 7) // _PER_BLOCK


def _matches(state: State) -> bool:
    block = [2, 1] * 4 + [2] * 4
    ranks = [4, 3, 4, 3, *block * _num_blocks(state), 2, 2, 0]
    names = [str(i) for i in range(len(ranks))]
    return list(state) == names and [state[name].ndim for name in names] == ranks


def _plan(state: State, settings: dict) -> Plan:
    hidden, inputs, size, _ = state["0"].shape
    end = str(len(state) - 1)
    options = {
        "side": isqrt(state["4"].shape[1]) * size,
        "image_channels": inputs - 1,
        "patch_size": size,
        "hidden_size": hidden,
        "patch_mixer_size": state["4"].shape[0],
        "hidden_mixer_size": state["8"].shape[0],
        "num_blocks": _num_blocks(state),
        "end_time": float(state[end]),
        **settings,
    }
    return Plan("mixer_diffusion", options, lambda path: _origin(path, len(state) - 3), ignored=end)


def _origin(path: str, last_norm: int) -> Origin:
    *_, layer, leaf = path.split("/")
    shift = int(leaf == "bias")
    if layer == "conv_in":
        return take("1", np.ravel) if shift else take("0", kernel)
    if layer == "conv_out":
        # Equinox stores the taps of a transposed convolution as for a plain one.
        return take("3", np.ravel) if shift else take("2", lambda w: kernel(w)[::-1, ::-1])
    if layer == "norm":
        return take(str(last_norm + shift), np.transpose)
    _, block, name = layer.split("_", 2)
    number = str(4 + _PER_BLOCK * int(block) + _LAYERS[name] + shift)
    # In the original, the first norm acts on [features, patches].
    return take(number, np.transpose if leaf == "kernel" or name == "norm_1" else lambda x: x)


SOURCE = Source(
    "galaxygrad",
    "score networks of galaxygrad (Equinox)",
    _matches,
    _plan,
    settings=usual(num_steps=35, black=-1.0, white=7.0),
)
