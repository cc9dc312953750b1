"""Infers the layers of a state dict, in order, from names and shapes.

Layers are as those of `modules`, without stride, padding and epsilon. Convolutions also have
`in_file`, the shape of their weight, and `unsure`: whether shapes allow both kinds of convolution.
"""

import re
from typing import Any

import numpy as np

from checkpoints_tools.converters.modules import CONVOLUTIONS, Layer, is_module, leaves, of
from checkpoints_tools.converters.origin import State, is_counter, weight_names

_LEAVES = re.compile(
    r"(?:(.*)\.)?(weight(?:_orig|_[uvg])?|bias|running_mean|running_var|num_batches_tracked)"
)
_SHORTCUTS = re.compile(r"(?i)(^|[._])(res\w*|skip|shortcut|attn|attention|emb\w*)([._\d]|$)")
_TABLE = re.compile(r"(?i)((?:.*[._])?emb\w*)\.weight")


def class_tables(state: State) -> list[str]:
    """Names the layers with tables of class vectors, `[classes, size]`."""
    if is_module(module := getattr(state, "module", None)):
        return [name for name, leaf in leaves(module) if leaf.name.endswith(".Embedding")]
    found = {match[1]: a for name, a in state.items() if (match := _TABLE.fullmatch(name))}
    return [name for name, a in found.items() if a.ndim == 2 and f"{name}.bias" not in state]


def state_layers(state: State) -> list[Layer]:
    """Returns the layers of a state dict; [] if they do not form a chain."""
    holder: Any = getattr(state, "module", None)
    if isinstance(holder, dict) and not any(isinstance(v, np.ndarray) for v in holder.values()):
        return []  # several objects
    groups: dict[str, dict[str, np.ndarray]] = {}
    for name, array in state.items():
        if match := _LEAVES.fullmatch(name):
            groups.setdefault(match[1] or "", {})[match[2]] = array
        elif not is_counter(array):
            return []
    for table in class_tables(state):
        groups.pop(table)
    layers = [_layer(name, tensors) for name, tensors in groups.items()]
    if {} in layers or any(map(_SHORTCUTS.search, groups)) or not _tell_convolutions_apart(layers):
        return []
    later = [layer for layer in layers[1:] if layer["kind"] in CONVOLUTIONS]
    return [] if any(layer["kernel"] == [1, 1] for layer in later[:-1]) else layers  # shortcuts


def _layer(name: str, tensors: dict[str, np.ndarray]) -> Layer:
    """Returns one layer; {} if its kind is unknown."""
    names, bias = weight_names(tensors), "bias" in tensors
    shape = tensors[names[0]].shape if names else ()
    layer: Layer = {"name": name}
    if "running_mean" in tensors:
        size = tensors["running_mean"].size
        return layer | {"kind": "batch_norm", "inputs": size, "affine": bool(names)}
    if len(shape) == 4:  # transposed or not: `_tell_convolutions_apart` decides
        return layer | {"kind": "conv_transpose", "in_file": shape, "bias": bias}
    if len(shape) == 2:
        return layer | {"kind": "dense", "inputs": shape[1], "features": shape[0], "bias": bias}
    if len(shape) == 1 and bias:
        return layer | {"kind": "group_norm", "inputs": shape[0], "affine": True, "groups": 0}
    return {}


def _tell_convolutions_apart(layers: list[Layer]) -> bool:
    """Decides for each convolution whether it is transposed; False if channels do not fit."""
    channels, flat = 0, False

    def fits(size: int) -> bool:
        return not channels or channels == size or (flat and grid_side(channels, size) > 1)

    for layer in layers:
        if "in_file" in layer:
            first, second, *kernel = layer["in_file"]
            transposed, plain = fits(first), bool(channels) and fits(second)
            set_kind(layer, transposed)
            layer |= {"kernel": kernel, "unsure": transposed and plain and kernel[0] % 2 == 1}
        else:
            transposed = plain = fits(layer["inputs"])
        if not transposed and not plain:
            return False
        channels = layer.get("features", channels)
        flat = layer["kind"] == "dense" or (flat and "norm" in layer["kind"])
    convs = of(layers, CONVOLUTIONS)
    # The first layer makes the first image, and its kernel is as large as the image.
    sure = [layer for layer in convs if layer is not layers[0] and not layer["unsure"]]
    up, plain = ({c["kernel"][0] for c in sure if c["kind"] == kind} for kind in CONVOLUTIONS)
    for layer in convs:
        if layer["unsure"]:  # as many channels in as out: take the kind of others of its size
            size = layer["kernel"][0]
            set_kind(layer, not (size in plain or (size == 3 and up and size not in up)))
    return True


def may_have_shortcuts(layers: list[Layer]) -> list[str]:
    """Lists what keeps the shape of its input: modules of several plain convolutions.

    In a network of dense layers alone: layers outside of a `Sequential`, which numbers them.
    """
    blocks: dict[str, list[Layer]] = {}
    every = of(layers, CONVOLUTIONS)
    for layer in every:
        if block := layer["name"].rpartition(".")[0]:
            blocks.setdefault(block, []).append(layer)
    larger = {layer["name"].rpartition(".")[0] for layer in of(layers, ("upsample", "dense"))}
    if not every:
        dense = [d["name"] for d in of(layers, ("dense",))[1:] if d["inputs"] == d["features"]]
        return [name for name in dense if not name.rpartition(".")[2].isdecimal()]
    return [
        name
        for name, convs in blocks.items()
        if name not in larger
        and 1 < len(convs) < len(every)  # all of them are the network itself
        and all(conv["kind"] == "conv" for conv in convs)
        and convs[0]["inputs"] == convs[-1]["features"]
    ]


def acts_before_norm(layer: Layer, norm: Layer, following: Layer) -> bool:
    """Whether the numbers in names have a gap for an activation before the norm, not after it."""
    names = [other["name"].rpartition(".") for other in (layer, norm, following)]
    same = len({prefix for prefix, *_ in names}) == 1
    if not same or not all(word.isdecimal() for *_, word in names):
        return False
    first, second, third = (int(word) for *_, word in names)
    return second - first > 1 and third - second == 1


def set_kind(layer: Layer, transposed: bool) -> None:
    """Makes a convolution transposed or plain."""
    first, second = layer["in_file"][:2]
    layer["kind"] = "conv_transpose" if transposed else "conv"
    layer["inputs"], layer["features"] = (first, second) if transposed else (second, first)


def grid_side(features: int, channels: int) -> int:
    """Returns the side of a square image with `channels` channels and `features` values, or 0."""
    side = round((features / channels) ** 0.5) if channels else 0
    return side if side * side * channels == features else 0
