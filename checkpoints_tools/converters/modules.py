"""Reads what a pickled torch module records of its layers: strides, paddings, slopes, epsilons.

Each layer becomes a mapping as in `lsh_gan.generators.dcgan.Sequential`. It also has `name`, its
place in the module, and `inputs`, its number of input channels.
"""

import contextlib
import re
from collections.abc import Container, Iterator
from typing import Any

from lsh_gan.tensor_files import Standin

Layer = dict[str, Any]

CONVOLUTIONS = ("conv_transpose", "conv")
PARAMETRIC = (*CONVOLUTIONS, "dense")
ACTIVATIONS = (
    "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "softplus", "tanh", "sigmoid", "none"
)  # fmt: skip
# They have no effect in eval mode; a table of classes is not in the chain of layers.
_SKIPPED = re.compile(r"(Alpha|Feature)?Dropout\w*|Identity|Flatten|Embedding")
_RESHAPES = re.compile(r"(?i).*(view|reshape|unflatten|squeeze).*")
_PAD_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
_PADS = {
    "ZeroPad2d": "constant", "ReflectionPad2d": "reflect", "ReplicationPad2d": "edge",
    "CircularPad2d": "wrap",
}  # fmt: skip


def of(layers: list[Layer], kinds: Container[str]) -> list[Layer]:
    """Returns the layers of some kinds."""
    return [layer for layer in layers if layer["kind"] in kinds]


def part(value: Any, prefix: str) -> Any:
    """Returns what is under a dotted name in a file: an entry of dicts, a part of modules."""
    for word in filter(None, prefix.split(".")):
        if isinstance(value, Standin):
            inner = value.attributes.get("_modules")
            value = inner if isinstance(inner, dict) else value.attributes | value.entries
        elif isinstance(value, list | tuple):
            value = {str(i): item for i, item in enumerate(value)}
        value = value.get(word) if isinstance(value, dict) else None
    return value


def is_module(value: Any) -> bool:
    """Whether a value stands for a pickled torch module."""
    return isinstance(value, Standin) and isinstance(value.attributes.get("_modules"), dict)


def _children(module: Standin) -> dict[str, Standin]:
    inner = module.attributes.get("_modules")
    return {k: m for k, m in inner.items() if is_module(m)} if isinstance(inner, dict) else {}


def _own_class(module: Standin) -> bool:
    return not module.name.startswith("torch.nn.")


def leaves(module: Standin, name: str = "") -> Iterator[tuple[str, Standin]]:
    """Yields the modules without submodules, in order, with their dotted names."""
    inner = _children(module)
    if not inner:
        yield name, module
    for key, child in inner.items():
        yield from leaves(child, f"{name}.{key}" if name else key)


def recorded_layers(module: Standin) -> tuple[list[Layer], bool]:
    """Returns the layers of a module, and whether activations are not in the order of layers.

    Raises:
        ValueError: A class or a setting that is not supported, by name and value.
    """
    outer = module
    while len(inner := _children(outer)) == 1:
        (outer,) = inner.values()
    layers = [layer for name, leaf in leaves(module) if (layer := read_layer(name, leaf))]
    for key, child in inner.items():
        _refuse_unknown_blocks(child, key)
    direct = [read_layer(key, child) or {} for key, child in inner.items() if not _children(child)]
    kinds = [layer["kind"] for layer in direct if layer.get("kind") in ACTIVATIONS]
    if kinds and layers[-1]["kind"] == kinds[-1] in ("tanh", "sigmoid"):
        kinds.pop()  # the output activation is last, where it acts
    return layers, _own_class(outer) and bool(kinds)


def readable_layers(module: Standin) -> list[Layer]:
    """Returns the layers of a module that are supported."""
    found = []
    for name, leaf in leaves(module):
        with contextlib.suppress(ValueError):
            found.append(read_layer(name, leaf))
    return [layer for layer in found if layer]


def unrecorded_code(module: Standin) -> tuple[bool, bool]:
    """Whether code that is not in the file may act around the layers, and between them."""
    around = _own_class(module)
    while len(inner := _children(module)) == 1:
        (module,) = inner.values()
        around |= _own_class(module)
    return around, _own_class(module) or module.name.endswith((".ModuleList", ".ModuleDict"))


def _refuse_unknown_blocks(module: Standin, name: str) -> None:
    found = [read_layer(key, leaf) for key, leaf in leaves(module, name)]
    count = sum(layer is not None and layer["kind"] in PARAMETRIC for layer in found)
    if _own_class(module) and count > 1:
        raise ValueError(
            f"{name} is a {module.name} of {count} layers: how they are connected (shortcuts?) is "
            "not in the file; only blocks of torch.nn.Sequential are in a known order"
        )
    for key, child in _children(module).items():
        _refuse_unknown_blocks(child, f"{name}.{key}")


def read_layer(name: str, leaf: Standin) -> Layer | None:
    """Reads one layer with its settings; None for those of `_SKIPPED`.

    Raises:
        ValueError: A class or a setting that is not supported.
    """
    short = leaf.name.rpartition(".")[2]
    settings = leaf.attributes
    if leaf.name.startswith("torch.nn.") and _SKIPPED.fullmatch(short):
        return None
    try:
        layer = _read(name, short, settings, own_class=_own_class(leaf))
    except KeyError as error:
        raise ValueError(f"{name} is a {leaf.name} that lacks {error}") from error
    if layer is None:
        raise ValueError(
            f"{name} is a {leaf.name}, which is not supported; Generator.from_torch takes "
            "the module as it is (docs/any-generator.md)"
        )
    return {"name": name, **layer}


def _only(name: str, settings: dict, **supported: Any) -> None:
    for setting, value in supported.items():
        found = settings.get(setting, value)
        if found != value:
            raise ValueError(f"{name} has {setting} = {found!r}; only {value!r} is supported")


def _read(name: str, short: str, settings: dict, *, own_class: bool) -> Layer | None:
    if own_class:
        empty = not settings.get("_parameters") and not settings.get("_buffers")
        return {"kind": "reshape"} if empty and _RESHAPES.fullmatch(short) else None
    if short in ("ConvTranspose2d", "Conv2d"):
        return _convolution(name, short, settings)
    if short == "Linear":
        inputs, features = settings["in_features"], settings["out_features"]
        return {
            "kind": "dense", "inputs": inputs, "features": features, "bias": _has_bias(settings)
        }  # fmt: skip
    if short in ("BatchNorm1d", "BatchNorm2d", "SyncBatchNorm"):
        _only(name, settings, track_running_stats=True)
        return _norm("batch_norm", settings)
    if short in ("InstanceNorm1d", "InstanceNorm2d"):
        if settings["track_running_stats"]:
            return _norm("batch_norm", settings)
        return _norm("group_norm", settings) | {"groups": 0}
    if short == "GroupNorm":
        return _norm("group_norm", settings) | {"groups": settings["num_groups"]}
    if short in ("Upsample", "UpsamplingNearest2d", "UpsamplingBilinear2d"):
        return _upsampling(name, settings)
    if short == "Unflatten":
        return {"kind": "reshape", "shape": list(settings["unflattened_size"])}
    if short in _PADS:
        left, right, top, bottom = settings["padding"]
        return {"kind": "pad", "padding": [[top, bottom], [left, right]], "mode": _PADS[short]}
    return _activation(name, short, settings)


def _has_bias(settings: dict) -> bool:
    return settings["_parameters"].get("bias") is not None


def _norm(kind: str, settings: dict) -> Layer:
    inputs = settings.get("num_channels") or settings["num_features"]
    return {
        "kind": kind, "inputs": inputs, "epsilon": settings["eps"], "affine": settings["affine"]
    }  # fmt: skip


def _convolution(name: str, short: str, settings: dict) -> Layer:
    kernel, dilation = list(settings["kernel_size"]), list(settings["dilation"])
    layer = {
        "kind": "conv_transpose" if short == "ConvTranspose2d" else "conv",
        "inputs": settings["in_channels"],
        "features": settings["out_channels"],
        "kernel": kernel,
        "stride": list(settings["stride"]),
        "dilation": dilation,
        "groups": settings["groups"],
        "bias": _has_bias(settings),
    }
    padding = settings["padding"]
    if short == "ConvTranspose2d":
        _only(name, settings, padding_mode="zeros")
        return layer | {
            "padding": list(padding), "output_padding": list(settings["output_padding"])
        }  # fmt: skip
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        pads = [[t // 2, t - t // 2] for t in total]
    else:
        pads = [[p, p] for p in ((0, 0) if padding == "valid" else padding)]
    mode = settings.get("padding_mode", "zeros")
    return layer | {"padding": pads, "padding_mode": _PAD_MODES[mode]}


def _upsampling(name: str, settings: dict) -> Layer:
    _only(name, settings, size=None)
    if settings["mode"] != "nearest":
        _only(name, settings, mode="bilinear")
        if settings.get("align_corners"):
            raise ValueError(f"{name} has align_corners = True; only False is supported")
    factor = settings["scale_factor"]
    pair = list(factor) if isinstance(factor, list | tuple) else [factor, factor]
    if any(f != int(f) for f in pair):
        raise ValueError(f"{name} has scale_factor = {factor}; only whole numbers are supported")
    return {"kind": "upsample", "factor": [int(f) for f in pair], "mode": settings["mode"]}


def _activation(name: str, short: str, settings: dict) -> Layer | None:
    if short == "LeakyReLU":
        return {"kind": "leaky_relu", "slope": settings["negative_slope"]}
    if short == "ELU":
        return {"kind": "elu", "alpha": settings["alpha"]}
    if short == "GELU":
        _only(name, settings, approximate="none")
    if short == "Softplus":
        _only(name, settings, beta=1, threshold=20)
    kind = short.lower()
    return {"kind": kind} if kind in ACTIVATIONS and kind != "none" else None


def common_settings(module: Standin, names: Container[str]) -> dict[str, Any]:
    """Returns epsilon, slope and output of a known network, as far as its module records them.

    Raises:
        ValueError: A convolution has another stride, dilation or padding mode than 1, 1 and zeros;
            layers differ from each other; or a class of activations is not supported.
    """
    found: dict[str, Any] = {}

    def note(name: str, value: Any, where: str) -> None:
        if name in names and found.setdefault(name, value) != value:
            raise ValueError(f"{where} has {name} {value!r}, another layer {found[name]!r}")

    for name, leaf in leaves(module):
        settings = leaf.attributes
        short = leaf.name.rpartition(".")[2]
        if "kernel_size" in settings and "padding_mode" in settings:
            _only(name, settings, stride=(1, 1), dilation=(1, 1), padding_mode="zeros")
        elif short.startswith("BatchNorm") and not _own_class(leaf):
            note("epsilon", settings["eps"], name)
        elif leaf.name.startswith("torch.nn.modules.activation.") and short != "Softmax":
            layer = _activation(name, short, settings) or {"kind": short}
            if layer["kind"] in ("tanh", "sigmoid"):
                note("output", layer["kind"], name)
            elif layer["kind"] not in ("relu", "leaky_relu"):
                raise ValueError(f"{name} is a {leaf.name}; only ReLU and LeakyReLU are supported")
            else:
                note("slope", layer.get("slope", 0.0), name)
    return found
