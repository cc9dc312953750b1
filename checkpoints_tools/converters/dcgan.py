"""DCGAN and its variants: layers one after the other, recognised by order and shape alone.

A pickled module records each layer's settings, and they are used. A state dict records none: they
are the usual ones of a network that doubles the side with each layer, and can be set.
"""

import itertools
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from checkpoints_tools.converters import modules
from checkpoints_tools.converters.modules import ACTIVATIONS, PARAMETRIC, Layer
from checkpoints_tools.converters.origin import (
    BATCH_NORM,
    Origin,
    Plan,
    Source,
    divide_by_stored_norm,
    has,
    is_counter,
    take,
)
from lsh_gan.errors import check_int

# The tensors that make a weight, of spectral and weight norm too; the first has its shape.
_WEIGHTS = (("weight_orig", "weight_u", "weight_v"), ("weight_v", "weight_g"), ("weight",))
_LEAVES = re.compile(
    r"(?:(.*)\.)?(weight(?:_orig|_[uvg])?|bias|running_mean|running_var|num_batches_tracked)"
)
_GEOMETRY = ("strides", "paddings", "output_paddings")
_SHORTCUTS = re.compile(r"(?i)(^|[._])(res\w*|skip|shortcut|attn|attention|emb\w*)([._\d]|$)")


# --- layers of a state dict ---------------------------------------------------------------------


def _grouped(state) -> tuple[dict[str, dict[str, np.ndarray]], bool]:
    """Tensors by layer, and whether there are others."""
    groups: dict[str, dict[str, np.ndarray]] = {}
    others = False
    for name, array in state.items():
        match = _LEAVES.fullmatch(name)
        if match is not None:
            groups.setdefault(match[1] or "", {})[match[2]] = array
        else:
            others |= not is_counter(array)
    return groups, others


def _weight_names(tensors) -> tuple[str, ...]:
    """Those of `_WEIGHTS` that a layer has."""
    return next((names for names in _WEIGHTS if names[0] in tensors), ())


def _state_layers(state) -> list[Layer] | None:
    """The layers of a state dict, as far as shapes tell; None where they are no such network."""
    holder = getattr(state, "module", None)
    if isinstance(holder, dict) and not any(isinstance(v, np.ndarray) for v in holder.values()):
        return None  # several objects
    groups, others = _grouped(state)
    if others or any(map(_SHORTCUTS.search, groups)):
        return None
    layers: list[Layer] = []
    for name, tensors in groups.items():
        names = _weight_names(tensors)
        bias = "bias" in tensors
        if "running_mean" in tensors:
            size = tensors["running_mean"].size
            layer = {"kind": "batch_norm", "inputs": size, "affine": bool(names)}
        elif not names:
            return None
        elif (weight := tensors[names[0]]).ndim == 4:
            layer = {"kind": "either", "in_file": weight.shape, "bias": bias}
        elif weight.ndim == 2:
            out, inputs = weight.shape
            layer = {"kind": "dense", "inputs": inputs, "features": out, "bias": bias}
        elif weight.ndim == 1 and bias:
            layer = {"kind": "group_norm", "inputs": weight.size, "affine": True, "groups": 0}
        else:
            return None
        layers.append({"name": name, **layer})
    if not _tell_convolutions_apart(layers):
        return None
    if any(c["kernel"] == [1, 1] for c in _convolutions(layers)[:-1] if c is not layers[0]):
        return None  # shortcuts
    return layers


def _tell_convolutions_apart(layers: list[Layer]) -> bool:
    """Says of each convolution whether it is transposed; False where channels do not fit."""
    channels, flat, unsure = 0, False, []

    def fits(inputs: int) -> bool:
        return channels == inputs or (flat and _grid(channels, inputs) > 1)

    for layer in layers:
        if layer["kind"] == "either":
            first, second, *kernel = layer["in_file"]
            transposed = not channels or fits(first)
            plain = bool(channels) and fits(second)
            if not transposed and not plain:
                return False
            if transposed and plain and kernel[0] % 2:
                unsure.append(layer)
            _name_kind(layer, transposed)
            layer["kernel"] = list(kernel)
        elif channels and not fits(layer["inputs"]):
            return False
        channels = layer.get("features", channels)
        flat = layer["kind"] == "dense" or (flat and "norm" in layer["kind"])
    sizes: dict[str, set[int]] = {"conv": set(), "conv_transpose": set()}
    for layer in layers[1:]:  # the first is as large as the first image
        if layer["kind"] in sizes and layer not in unsure:
            sizes[layer["kind"]].add(layer["kernel"][0])
    plain, ups = sizes.values()
    for layer in unsure:  # as many channels in as out: it is as those of its size are
        size = layer["kernel"][0]
        refines = size in plain or (size == 3 and ups and size not in ups)
        layer["unsure"] = True
        _name_kind(layer, not refines)
    return True


def _name_kind(layer: Layer, transposed: bool) -> None:
    first, second = layer["in_file"][:2]
    layer["kind"] = "conv_transpose" if transposed else "conv"
    layer["inputs"], layer["features"] = (first, second) if transposed else (second, first)


def _grid(features: int, channels: int) -> int:
    """The side of the square image of so many channels that so many values make, or 0."""
    side = round((features / channels) ** 0.5) if channels else 0
    return side if side * side * channels == features else 0


def _convolutions(layers: list[Layer]) -> list[Layer]:
    return [layer for layer in layers if layer["kind"] in ("conv", "conv_transpose")]


def _usual_geometry(layers: list[Layer]) -> dict[str, list]:
    """Strides, paddings and output paddings: each layer but that of one pixel doubles the side.

    A last 3×3 layer after 4×4 ones does not (SNGAN's network without shortcuts).
    """
    found = []
    convs = _convolutions(layers)
    dense = [layer["features"] for layer in layers if layer["kind"] == "dense"]
    pixel = not dense or dense[-1] == convs[0]["inputs"]  # whether the side is 1 so far
    sizes = [layer["kernel"][0] for layer in convs]
    keeps = len(sizes) > 2 and sizes[-1] == 3 and {*sizes[1:-1]} == {4}
    for layer, size in zip(convs, sizes, strict=True):
        if size == 1 or (pixel and layer["kind"] == "conv_transpose"):
            found.append((1, 0, 0))
            pixel = pixel and size == 1
        elif layer["kind"] == "conv" or (keeps and len(found) == len(sizes) - 1):
            found.append((1, size // 2, 0))
        else:
            found.append((2, (size - 1) // 2, size % 2))
    return dict(zip(_GEOMETRY, map(list, zip(*found, strict=True)), strict=True))


# --- what is known, and what is assumed -------------------------------------------------------


def _layers(state) -> tuple[list[Layer], bool]:
    """The layers of a pickled module or a state dict, and whether activations stand apart."""
    if module := _module(state):
        return modules.recorded_layers(module)
    if (layers := _state_layers(state)) is None:
        raise ValueError("its tensors are not those of layers one after the other")
    return layers, True


def _module(state) -> Any:
    """The pickled module that a state dict is of, if there is one."""
    module = getattr(state, "module", None)
    return module if modules.is_module(module) else None


def _is_network(layers: list[Layer] | None) -> bool:
    """From a latent to an image: no layer makes an image smaller."""
    weighted = [layer for layer in layers or () if layer["kind"] in PARAMETRIC]
    convs = _convolutions(weighted)
    if len(weighted) < 3 or len(convs) < 2 or weighted[0]["kind"] == "conv":
        return False
    shrinks = any(c["kind"] == "conv" and max(c.get("stride", [1])) > 1 for c in convs)
    if any(
        a["features"] in (1, 3) and a["name"].partition(".")[0] != b["name"].partition(".")[0]
        for a, b in itertools.pairwise(weighted)
    ):
        return False  # images, which another network takes
    return not shrinks and weighted[-1] is convs[-1] and convs[-1]["features"] <= 4


def _matches(state) -> bool:
    module = _module(state)
    # What is not supported is said when it is converted.
    return _is_network(modules.readable_layers(module) if module else _state_layers(state))


def _segments(layers: list[Layer]) -> list[list[Layer]]:
    """What follows each layer with weights, up to the next one."""
    starts = [i for i, layer in enumerate(layers) if layer["kind"] in PARAMETRIC]
    return [layers[a + 1 : b] for a, b in itertools.pairwise([*starts, len(layers)])]


def _activations(layers: list[Layer]) -> list[Layer]:
    return [layer for layer in layers if layer["kind"] in ACTIVATIONS]


def _in_place(layers: list[Layer], apart: bool) -> bool:
    """Whether the activations are recorded where they act."""
    after = [len(_activations(segment)) for segment in _segments(layers)[:-1]]
    return any(after) and (not apart or all(count == 1 for count in after))


def _settings(state) -> dict[str, Any]:
    layers, apart = _layers(state)
    module = _module(state)
    usual: dict[str, Any] = {"num_classes": 0}  # whose weights follow the latent
    if not module:
        usual |= _usual_geometry(layers)
        if any("norm" in layer["kind"] for layer in layers):
            usual["epsilon"] = 1e-5
        if any(layer["kind"] == "group_norm" for layer in layers):
            usual["norm"] = None
        if any("unsure" in layer for layer in layers):
            kinds = [layer["kind"] for layer in _convolutions(layers)]
            usual["transposed"] = [kind == "conv_transpose" for kind in kinds]
    around, between = modules.unrecorded_code(module) if module else (True, True)
    if between:
        usual["order"] = "as listed"
        first = next(i for i, layer in enumerate(layers) if layer["kind"] in PARAMETRIC)
        later = {layer["kind"] for layer in layers[first + 1 :]}
        if later.isdisjoint(("conv_transpose", "upsample")):
            usual |= {"upsample": None, "upsample_mode": "nearest"}
    last = _activations(_segments(layers)[-1])
    if not _in_place(layers, apart):
        hidden = _hidden_kind(layers)
        if hidden["kind"] in ("relu", "leaky_relu"):
            usual["slope"] = hidden.get("slope", 0.0)
        outputs = [a["kind"] for a in _activations(layers) if a["kind"] in ("tanh", "sigmoid")]
        if not outputs:
            usual["output"] = "tanh"
    else:
        if between and not all(map(_activations, _segments(layers)[:-1])):
            usual["slope"] = 1.0  # none, where none is recorded
        if not last and around:
            usual["output"] = "tanh"
    if not module and has(r"linear0\..*", r"blocks\.0\.0\.deconv0\..*")(state):
        # PyTorch-StudioGAN's, whose dense layer has no activation.
        blocks = sum(layer["kind"] in PARAMETRIC for layer in layers) - 2
        usual |= {"epsilon": 1e-4, "slope": [1.0] + blocks * [0.0]}
    return usual


def _hidden_kind(layers: list[Layer]) -> Layer:
    """The activation that a module has once for all of its layers; ReLU where it has none."""
    kinds = [a for a in _activations(layers) if a["kind"] not in ("tanh", "sigmoid")]
    found = {a["kind"]: a for a in _options(kinds)}
    if len(found) > 1:
        raise ValueError(
            f"which layers its activations ({', '.join(found)}) follow is not in the file"
        )
    return next(iter(found.values()), {"kind": "relu"})


# --- the network ------------------------------------------------------------------------------


def _as_list(name: str, value: Any, count: int) -> list:
    values = value if isinstance(value, list | tuple) else [value] * count
    if len(values) != count:
        raise ValueError(f"{name} = {value}: {len(values)} values for {count} layers")
    return list(values)


def _pair(value: Any) -> list[int]:
    pair = list(value) if isinstance(value, list | tuple) else [value, value]
    if len(pair) != 2 or not all(type(v) is int and v >= 0 for v in pair):
        raise ValueError(f"{value!r}: expected a whole number from 0 up, or a pair of them")
    return pair


def _with_settings(layers: list[Layer], settings: dict) -> list[Layer]:
    """The layers of a state dict with what it does not record."""
    convs = _convolutions(layers)
    for layer, transposed in zip(convs, settings.get("transposed", ()), strict=False):
        _name_kind(layer, transposed)
    geometry = [map(_pair, _as_list(name, settings[name], len(convs))) for name in _GEOMETRY]
    for layer, stride, padding, end in zip(convs, *geometry, strict=True):
        layer |= {"stride": stride, "dilation": [1, 1], "groups": 1}
        if layer["kind"] == "conv":
            layer |= {"padding": [[p, p] for p in padding], "padding_mode": "constant"}
        else:
            layer |= {"padding": padding, "output_padding": end}
    if settings.get("norm", "instance") != "instance":
        raise ValueError(
            "norms have no statistics: batch norms whose statistics were not saved, or instance "
            "norms? --set=norm='\"instance\"' takes them as instance norms"
        )
    norms = [layer for layer in layers if "norm" in layer["kind"]]
    epsilons = _as_list("epsilon", settings.get("epsilon"), len(norms))
    for layer, epsilon in zip(norms, epsilons, strict=True):
        layer["epsilon"] = epsilon
    return layers


def _with_upsampling(layers: list[Layer], settings: dict) -> list[Layer]:
    """The layers with the upsampling that code does between them."""
    convs = _convolutions(layers)
    if "upsample" not in settings:
        return layers
    if settings["upsample"] is None:
        whole = ", or save the whole module: torch.save(netG, ...)" if "strides" in settings else ""
        raise ValueError(
            "its convolutions do not make the image larger, and where that happens is not in the "
            f"file: --set=upsample=[{','.join('2' * len(convs))}], a factor before each "
            f"convolution{whole}"
        )
    factors = iter(_as_list("upsample", settings["upsample"], len(convs)))
    found = []
    for layer in layers:
        if layer in convs and (factor := next(factors)) != 1:
            mode = settings["upsample_mode"]
            found.append({"kind": "upsample", "factor": _pair(factor), "mode": mode})
        found.append(layer)
    return found


def _with_activations(layers: list[Layer], apart: bool, settings: dict) -> list[Layer]:
    """The layers with the activations that are not recorded in their place."""
    output = [{"kind": settings["output"]}] if "output" in settings else []
    hidden: list[Layer] = []
    if not _in_place(layers, apart):
        ends = [a for a in _activations(layers) if a["kind"] in ("tanh", "sigmoid")]
        output, hidden = output or ends[-1:], [_hidden_kind(layers)]
        layers = [layer for layer in layers if layer["kind"] not in ACTIVATIONS]
    start = next(i for i, layer in enumerate(layers) if layer["kind"] in PARAMETRIC)
    segments = _segments(layers)
    weighted = [layer for layer in layers if layer["kind"] in PARAMETRIC]
    slopes = _as_list("slope", settings.get("slope"), len(weighted) - 1)
    found = layers[:start]
    for layer, segment, slope in zip(weighted, segments, [*slopes, None], strict=True):
        norms = 1 + max([i for i, s in enumerate(segment) if "norm" in s["kind"]], default=-1)
        if layer is weighted[-1]:
            activation = output
            norms = norms if hidden else len(segment)
        elif slope is None or _activations(segment):
            activation = hidden
        else:
            activation = [{"kind": "leaky_relu", "slope": slope} if slope else {"kind": "relu"}]
        found += [layer, *segment[:norms], *activation, *segment[norms:]]
    return found


def _with_reshapes(layers: list[Layer]) -> list[Layer]:
    """The layers with a reshape where values become an image; checks the channels on the way."""
    found: list[Layer] = []
    features, flat, last = 0, False, ""
    for i, layer in enumerate(layers):
        kind = layer["kind"]
        if kind == "reshape":
            if "shape" in layer and flat:
                found.append(layer)
                features, flat = layer["shape"][0], False
            continue
        inputs = layer.get("inputs")
        if flat and (
            kind in ("conv", "conv_transpose", "upsample", "pad") or (inputs and inputs != features)
        ):
            channels = next(r["inputs"] for r in layers[i:] if "inputs" in r)
            side = _grid(features, channels)
            if not side:
                raise ValueError(
                    f"the {features} values of {last} are no square image of {channels} channels, "
                    f"which {layer.get('name', kind)} takes"
                )
            found.append({"kind": "reshape", "shape": [channels, side, side]})
            features, flat = channels, False
        if inputs and features and inputs != features:
            raise ValueError(
                f"{layer['name']} takes {inputs} channels, but {last} gives {features}"
            )
        found.append(layer)
        if kind in PARAMETRIC:
            features, flat, last = layer["features"], kind == "dense", layer["name"]
    return found


def _options(layers: Iterable[Layer]) -> list[Layer]:
    hidden = ("name", "inputs", "in_file", "unsure")
    return [{k: v for k, v in layer.items() if k not in hidden} for layer in layers]


def _plan(state, settings) -> Plan:
    layers, apart = _layers(state)
    if not _module(state):
        layers = _with_settings(layers, settings)
    layers = _with_upsampling(layers, settings)
    layers = _with_reshapes(_with_activations(layers, apart, settings))
    first = next(layer for layer in layers if layer["kind"] in PARAMETRIC)
    if first is not layers[0] or first["kind"] == "conv":
        raise ValueError(
            f"{layers[0].get('name', layers[0]['kind'])} comes first, a layer of images; "
            "expected a layer that takes the latent"
        )
    groups, _ = _grouped(state)
    options = {"latent_size": first["inputs"], "layers": _options(layers)}
    usual = _tutorial(first, options["layers"], settings["num_classes"])
    if settings["num_classes"] and not usual:
        raise ValueError("num_classes is for DCGANs as in the tutorial; its layers are others")

    def origin(path: str) -> Origin:
        _, name, leaf = path.split("/")
        index = usual[1][name] if usual else int(name.rpartition("_")[2])
        return _origin(layers[index], groups, leaf, grid=name == "project")

    if usual:
        return Plan("dcgan", usual[0], origin)
    return Plan("sequential", options, origin)


def _tutorial(
    first: Layer, layers: list[Layer], num_classes: int
) -> tuple[dict, dict[str, int]] | None:
    """Options of the family `dcgan` and the layers of its names, where these layers are its."""
    convs = [i for i, layer in enumerate(layers) if layer["kind"] == "conv_transpose"]
    features = [layers[i]["features"] for i in convs]
    expected: list[Layer] = []
    for i, channels in enumerate(features):
        expected.append({
            "kind": "conv_transpose", "features": channels, "kernel": [4, 4],
            "stride": [2, 2] if i else [1, 1], "padding": [1, 1] if i else [0, 0],
            "output_padding": [0, 0], "dilation": [1, 1], "groups": 1, "bias": False,
        })  # fmt: skip
        if i < len(features) - 1:
            expected += [{"kind": "batch_norm", "epsilon": 1e-5, "affine": True}, {"kind": "relu"}]
    if len(features) < 2 or layers != [*expected, {"kind": "tanh"}]:
        return None
    latent_size = check_int("latent_size", first["inputs"] - num_classes, 1)
    options = {
        "latent_size": latent_size, "channels": features[:-1], "image_channels": features[-1]
    }  # fmt: skip
    options |= {"num_classes": num_classes} if num_classes else {}
    names = {"project": 0, "to_image": convs[-1]}
    names |= {f"up_{i}": index for i, index in enumerate(convs[1:-1])}
    return options, names | {f"norm_{i}": index + 1 for i, index in enumerate(convs[:-1])}


def _origin(layer: Layer, groups: dict, leaf: str, *, grid: bool) -> Origin:
    base = f"{layer['name']}." if layer["name"] else ""
    if leaf != "kernel":
        return take(base + BATCH_NORM[leaf])
    names = _weight_names(groups[layer["name"]])

    def lay_out(*arrays: np.ndarray) -> np.ndarray:
        weight = _folded(arrays, axis=int(layer["kind"] == "conv_transpose"))
        if layer["kind"] == "dense":
            return weight.T
        if grid:  # a dense layer onto 4×4 values
            return weight.transpose(0, 2, 3, 1)
        if layer["kind"] == "conv":
            return weight.transpose(2, 3, 1, 0)
        inputs, outputs, *kernel = weight.shape
        count = layer["groups"]
        grouped = weight.reshape(count, inputs // count, outputs, *kernel)
        return grouped.transpose(3, 4, 1, 0, 2).reshape(*kernel, inputs // count, -1)

    return Origin(tuple(base + name for name in names), lay_out)


def _folded(arrays: tuple[np.ndarray, ...], *, axis: int) -> np.ndarray:
    """A weight without its spectral norm (of the matrix of that axis) or weight norm."""
    weight, *rest = arrays
    if len(rest) == 2:
        return divide_by_stored_norm(weight, *rest, axis)
    if len(rest) == 1:
        (length,) = rest
        axes = tuple(i for i, size in enumerate(length.shape) if size == 1)
        norm = np.sqrt((weight.astype(np.float64) ** 2).sum(axis=axes, keepdims=True))
        return (weight / norm * length).astype(np.float32)
    return weight


SOURCE = Source(
    "dcgan",
    "DCGAN and its variants (any layer names)",
    _matches,
    _plan,
    version=2,
    settings=_settings,
    only=("order",),
)
