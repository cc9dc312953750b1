"""DCGAN and its variants: a chain of layers, recognised by order and shape alone.

A pickled module records its layers with their settings (`modules`). For a state dict, names and
shapes give them (`shapes`). What neither records gets a usual value, which can be set: how each
convolution changes the side of its image, and what code does between layers.
"""

import itertools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from checkpoints_tools.converters import modules
from checkpoints_tools.converters.modules import ACTIVATIONS, CONVOLUTIONS, PARAMETRIC, Layer, of
from checkpoints_tools.converters.origin import (
    BATCH_NORM,
    Origin,
    Plan,
    Source,
    kernel,
    take,
    weight_of,
)
from checkpoints_tools.converters.shapes import (
    acts_before_norm,
    class_tables,
    grid_side,
    may_have_shortcuts,
    set_kind,
    state_layers,
)
from lsh_gan.errors import check_int

_GEOMETRY = ("strides", "paddings", "output_paddings")
# What a convolution of kernel k usually does to the side of its image -> values of `_GEOMETRY`.
_USUAL: dict[str, Callable[[int], tuple[int, int, int]]] = {
    "opens": lambda k: (1, 0, 0),  # a pixel becomes k×k
    "keeps": lambda k: (1, k // 2, 0),
    "doubles": lambda k: (2, (k - 1) // 2, k % 2),
}
# Known networks: names and kernels (0: dense) of their layers -> settings that are in their code.
_KNOWN: tuple[tuple[dict[str, int], dict[str, Any]], ...] = (
    (  # PyTorch-StudioGAN: no activation after the dense layer, as in the next two.
        {"linear0": 0, "blocks.0.0.deconv0": 4},
        {"epsilon": 1e-4, "slope": [1.0, 0.0, 0.0, 0.0]},
    ),
    (  # PyTorch-GAN
        {"l1.0": 0, "conv_blocks.2": 3, "conv_blocks.6": 3, "conv_blocks.9": 3},
        {"upsample": [2, 2, 1], "epsilon": [1e-5, 0.8, 0.8], "slope": [1.0, 0.2, 0.2]},
    ),
    (  # PyTorch-GAN, its networks without a first norm
        {"l1.0": 0, "conv_blocks.1": 3, "conv_blocks.5": 3, "conv_blocks.8": 3},
        {"upsample": [2, 2, 1], "epsilon": 0.8, "slope": [1.0, 0.2, 0.2]},
    ),
    (  # PyTorch-GAN, its networks of dense layers
        {"model.0": 0, "model.2": 0, "model.5": 0, "model.8": 0, "model.11": 0},
        {"epsilon": 0.8, "slope": 0.2},
    ),
    (  # the course "Generative Adversarial Networks" of deeplearning.ai: digits, then faces
        {"gen.0.0": 3, "gen.1.0": 4, "gen.2.0": 3, "gen.3.0": 4},
        {"strides": [2, 1, 2, 2], "paddings": 0, "output_paddings": 0},
    ),
    (
        {"gen.0.0": 3, "gen.1.0": 3, "gen.2.0": 3, "gen.3.0": 3, "gen.4.0": 4},
        {"strides": 2, "paddings": 0, "output_paddings": 0},
    ),
    (  # Lightning Bolts, its network of dense layers
        {"fc1": 0, "fc2": 0, "fc3": 0, "fc4": 0},
        {"slope": 0.2},
    ),
)
_NORMS = ("batch_norm", "group_norm")
_OUTPUTS = ("tanh", "sigmoid")


# --- what a file has ----------------------------------------------------------------------------


class _Network(NamedTuple):
    layers: list[Layer]  # with those activations whose place is known
    hidden: Layer | None  # the activation after each inner layer without one in `layers`
    around: bool  # whether code that is not in the file may follow the last layer
    between: bool  # whether such code calls the layers


def _module(state) -> Any:
    """Returns the pickled module of a state dict, if there is one."""
    module = getattr(state, "module", None)
    return module if modules.is_module(module) else None


def _matches(state) -> bool:
    """Whether layers lead from a latent to an image, and none makes the image smaller."""
    module = _module(state)
    # Unsupported layers are skipped here, and reported by the conversion.
    layers = modules.readable_layers(module) if module else state_layers(state)
    weighted, convs = of(layers, PARAMETRIC), of(layers, CONVOLUTIONS)
    sizes = [state[name].shape[1] for x in class_tables(state) if (name := f"{x}.weight") in state]
    if len(weighted) < 3 or max(sizes, default=0) > weighted[0]["inputs"]:
        return False
    if not convs:
        return _widens(weighted)
    if len(convs) < 2 or weighted[0]["kind"] == "conv":
        return False
    for one, other in itertools.pairwise(weighted):
        of_images = other["inputs"] if other["kind"] in CONVOLUTIONS else one["features"]
        if of_images in (1, 3) and _first_word(one) != _first_word(other):
            return False  # an image, which is the input of another network
    shrinks = any(c["kind"] == "conv" and max(c.get("stride", [1])) > 1 for c in convs)
    return not shrinks and weighted[-1] is convs[-1] and convs[-1]["features"] <= 4


def _widens(dense: list[Layer]) -> bool:
    """Whether dense layers lead to an image, and inner ones are no narrower than those before."""
    *sizes, last = dense[0]["inputs"], *(layer["features"] for layer in dense)
    fits = sizes[1:] == [layer["inputs"] for layer in dense[1:]]
    return fits and sizes == sorted(sizes) and sizes[0] < last and bool(_image(last))


def _image(values: int) -> list[int]:
    """Returns the shape of a square image of so many values, from 28×28 up; [] for none."""
    return next(([c, side, side] for c in (1, 3) if (side := grid_side(values, c)) >= 28), [])


def _first_word(layer: Layer) -> str:
    return layer["name"].partition(".")[0]


def _segments(layers: list[Layer]) -> list[list[Layer]]:
    """Splits layers before each layer with weights; the first segment has none."""
    segments: list[list[Layer]] = [[]]
    for layer in layers:
        if layer["kind"] in PARAMETRIC:
            segments.append([])
        segments[-1].append(layer)
    return segments


def _read(state) -> _Network:
    """Reads the layers, and finds the activation of inner layers where its place is unknown."""
    if module := _module(state):
        layers, apart = modules.recorded_layers(module)
        around, between = modules.unrecorded_code(module)
    elif layers := state_layers(state):
        apart = around = between = True
    else:
        raise ValueError("its tensors are not those of layers one after the other")
    counts = [len(of(segment, ACTIVATIONS)) for segment in _segments(layers)[1:-1]]
    if any(counts) and (not apart or {*counts} == {1}):  # they are listed where they act
        none = {"kind": "leaky_relu", "slope": 1.0}
        return _Network(layers, none if between and not all(counts) else None, around, between)
    # The module has one activation for all its layers, or the activation is in its code.
    outputs = of(layers, _OUTPUTS)[-1:]
    hidden = [a for a in _options(of(layers, ACTIVATIONS)) if a["kind"] not in _OUTPUTS]
    if any(a != hidden[0] for a in hidden):
        kinds = dict.fromkeys(" ".join(map(str, a.values())) for a in hidden)
        raise ValueError(
            f"which layers its activations ({', '.join(kinds)}) follow is not in the file"
        )
    layers = [layer for layer in layers if layer["kind"] not in ACTIVATIONS]
    usual: Layer = {"kind": "relu"}
    return _Network([*layers, *outputs], hidden[0] if hidden else usual, True, between)


# --- what is assumed ----------------------------------------------------------------------------


def _settings(state) -> dict[str, Any]:
    """Returns the usual values of settings that the file does not record."""
    layers, hidden, around, between = _read(state)
    convs = of(layers, CONVOLUTIONS)
    usual: dict[str, Any] = {"class_vector": None} if class_tables(state) else {"num_classes": 0}
    if not _module(state):
        if convs:
            usual |= _usual_geometry(layers)
        if of(layers, _NORMS):
            usual["epsilon"] = 1e-5
        if of(layers, ("group_norm",)):
            usual["norm"] = None
        if any(layer.get("unsure") for layer in layers):
            usual["transposed"] = [layer["kind"] == "conv_transpose" for layer in convs]
    if between:
        usual["order"] = "as listed"
        if may_have_shortcuts(layers):
            usual["shortcuts"] = None
        larger = of(layers, ("conv_transpose", "upsample"))
        alone = convs and all(layer is of(layers, PARAMETRIC)[0] for layer in larger)
        plain = [layer for layer in layers if layer["kind"] == "conv" or layer.get("unsure")]
        if alone or (plain and not of(layers, ("upsample",))):
            usual |= {"upsample": None if alone else 1, "upsample_mode": "nearest"}
    if hidden and hidden["kind"] in ("relu", "leaky_relu"):
        usual["slope"] = hidden.get("slope", 0.0)
    if hidden and hidden.get("slope") != 1 and of(layers, _NORMS):
        before = _before_norms(layers)
        usual["activation_first"] = before if any(before) else False
    if around and not of(_segments(layers)[-1], ACTIVATIONS):
        usual["output"] = "tanh"
    if not _module(state):
        kernels = {layer["name"]: layer.get("kernel", [0])[0] for layer in layers}
        for known, values in _KNOWN:
            if _has_part(kernels, known):
                usual |= values
    return usual


def _has_part(kernels: dict[str, int], known: dict[str, int]) -> bool:
    """Whether the layers of a known network are among the layers, under any prefix (module.)."""
    first = next(iter(known))
    prefixes = [name.removesuffix(first) for name in kernels if f".{name}".endswith(f".{first}")]
    return any(
        {f"{p}{k}": v for k, v in known.items()}.items() <= kernels.items() for p in prefixes
    )


def _usual_geometry(layers: list[Layer]) -> dict[str, list[int]]:
    convs = of(layers, CONVOLUTIONS)
    sizes = [layer["kernel"][0] for layer in convs]
    dense = [layer["features"] for layer in of(layers, ("dense",))]
    pixel = not dense or dense[-1] == convs[0]["inputs"]  # whether the side is 1 so far
    # As in SNGAN's network without shortcuts.
    last_keeps = sizes[-1] == 3 and {*sizes[1:-1]} == {4}
    found = []
    for layer, size in zip(convs, sizes, strict=True):
        if layer["kind"] == "conv" or size == 1:
            does = "keeps"
        elif pixel:
            does, pixel = "opens", False
        else:
            does = "keeps" if last_keeps and layer is convs[-1] else "doubles"
        found.append(_USUAL[does](size))
    return dict(zip(_GEOMETRY, map(list, zip(*found, strict=True)), strict=True))


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


def _complete(layers: list[Layer], settings: dict) -> None:
    """Adds the settings that shapes do not show to the layers of a state dict."""
    convs, norms = of(layers, CONVOLUTIONS), of(layers, _NORMS)
    for layer, transposed in zip(convs, settings.get("transposed", ()), strict=False):
        set_kind(layer, transposed)
    geometry = [map(_pair, _as_list(name, settings.get(name), len(convs))) for name in _GEOMETRY]
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
    epsilons = _as_list("epsilon", settings.get("epsilon"), len(norms))
    for layer, epsilon in zip(norms, epsilons, strict=True):
        layer["epsilon"] = epsilon


def _insert_upsampling(layers: list[Layer], settings: dict) -> None:
    """Inserts the upsampling that code does before convolutions."""
    convs = of(layers, CONVOLUTIONS)
    if settings["upsample"] is None:
        whole = ", or save the whole module: torch.save(netG, ...)" if "strides" in settings else ""
        raise ValueError(
            "its convolutions do not make the image larger, and where that happens is not in the "
            f"file: --set=upsample=[{','.join('2' * len(convs))}], a factor before each "
            f"convolution{whole}"
        )
    factors = _as_list("upsample", settings["upsample"], len(convs))
    for layer, factor in zip(convs, factors, strict=True):
        if factor != 1:
            mode = settings["upsample_mode"]
            upsample = {"kind": "upsample", "factor": _pair(factor), "mode": mode}
            layers.insert(layers.index(layer), upsample)


def _before_norms(layers: list[Layer]) -> list[bool]:
    """Whether numbers in names put the activation of each inner layer before its norm."""
    _, *inner, last = _segments(layers)
    return [
        any(acts_before_norm(segment[0], norm, following[0]) for norm in of(segment, _NORMS)[:1])
        for segment, following in zip(inner, [*inner[1:], last], strict=True)
    ]


def _with_activations(layers: list[Layer], hidden: Layer | None, settings: dict) -> list[Layer]:
    """Inserts an activation after each inner layer and its norms."""
    head, *inner, last = _segments(layers)
    fills = [hidden] * len(inner)
    if "slope" in settings:
        slopes = _as_list("slope", settings["slope"], len(inner))
        fills = [{"kind": "leaky_relu", "slope": s} if s else {"kind": "relu"} for s in slopes]
    before = _as_list("activation_first", settings.get("activation_first", False), len(inner))
    for segment, fill, first in zip(inner, fills, before, strict=True):
        if fill and not of(segment, ACTIVATIONS):
            norms = [i for i, layer in enumerate(segment) if layer["kind"] in _NORMS and not first]
            segment.insert(1 + max(norms, default=0), fill)
    output = [{"kind": settings["output"]}] if "output" in settings else []
    return [*head, *itertools.chain(*inner), *last, *output]


def _with_reshapes(layers: list[Layer]) -> list[Layer]:
    """Inserts a reshape where values become an image; checks the channels of all layers."""
    found: list[Layer] = []
    features, flat, last = 0, False, ""
    for i, layer in enumerate(layers):
        kind, inputs = layer["kind"], layer.get("inputs")
        if kind == "reshape":
            if not flat or "shape" not in layer:
                continue
            features, flat = layer["shape"][0], False
        of_images = kind in (*CONVOLUTIONS, "upsample", "pad") or inputs not in (None, features)
        if flat and of_images:
            channels = next(later["inputs"] for later in layers[i:] if "inputs" in later)
            side = grid_side(features, channels)
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
    return [*found, {"kind": "reshape", "shape": _image(features)}] if flat else found


def _options(layers: list[Layer]) -> list[Layer]:
    of_files = ("name", "inputs", "in_file", "unsure")
    return [{k: v for k, v in layer.items() if k not in of_files} for layer in layers]


def _plan(state, settings) -> Plan:
    layers, hidden, _, _ = _read(state)
    if settings.get("shortcuts", False) is not False:
        raise ValueError(
            f"whether code adds a shortcut around {may_have_shortcuts(layers)[0]}, which gives as "
            "many channels as it takes, is not in the file: --set=shortcuts=false says that it "
            "adds none; with shortcuts it is not supported"
        )
    if not _module(state):
        _complete(layers, settings)
    if "upsample" in settings:
        _insert_upsampling(layers, settings)
    layers = _with_reshapes(_with_activations(layers, hidden, settings))
    first = of(layers, PARAMETRIC)[0]
    if first is not layers[0] or first["kind"] == "conv":
        raise ValueError(
            f"{layers[0].get('name', layers[0]['kind'])} comes first, a layer of images; "
            "expected a layer that takes the latent"
        )
    classes = _classes(state, settings, first["inputs"])
    options = {**classes, "layers": _options(layers)}
    tutorial, names = _tutorial(options)

    def origin(path: str) -> Origin:
        _, name, leaf = path.split("/")
        if name == "embedding":
            return take(f"{class_tables(state)[0]}.weight")
        layer = layers[names[name] if tutorial else int(name.rpartition("_")[2])]
        if leaf != "kernel":
            return take(f"{layer['name']}.{BATCH_NORM[leaf]}".removeprefix("."))
        axis = int(layer["kind"] == "conv_transpose")
        return weight_of(state, layer["name"], _layout(layer, name == "project"), axis)

    tables = "|".join(re.escape(f"{table}.weight") for table in class_tables(state))  # if unused
    return Plan("dcgan" if tutorial else "sequential", tutorial or options, origin, ignored=tables)


def _classes(state, settings: dict, inputs: int) -> dict[str, Any]:
    """Returns the size of the latent, and options for the vectors of classes if there are any."""
    joined, classes = settings.get("class_vector", "after"), settings.get("num_classes", 0)
    options, size = {"num_classes": classes} if classes else {}, classes
    if tables := class_tables(state):
        table, *others = tables
        if others:
            raise ValueError(
                f"how its code uses {', '.join(tables)}, tables of class vectors, is not in the "
                "file, and only one is supported; Generator.from_torch takes the module as "
                "it is (docs/any-generator.md)"
            )
        classes, size = state[f"{table}.weight"].shape
        if joined not in ("before", "after", "multiply", "unused"):
            raise ValueError(
                f"how its code uses {table}, a table of {classes} vectors of {size} values, is not "
                "in the file: --set=class_vector='\"multiply\"' (the latent by the vector of the "
                'class), "before" or "after" (the latent), or "unused"'
            )
        if joined != "unused":
            options = {"num_classes": classes, "embedding_size": size, "class_vector": joined}
    latent = inputs if joined in ("multiply", "unused") else inputs - size
    return {"latent_size": check_int("latent_size", latent, 1), **options}


def _layout(layer: Layer, to_grid: bool) -> Callable[[np.ndarray], np.ndarray]:
    def lay_out(weight: np.ndarray) -> np.ndarray:
        if to_grid:  # a dense layer onto 4×4 values
            return weight.transpose(0, 2, 3, 1)
        inputs, outputs, *size = weight.shape
        groups = layer["groups"]
        grouped = weight.reshape(groups, inputs // groups, outputs, *size)
        return grouped.transpose(3, 4, 1, 0, 2).reshape(*size, inputs // groups, -1)

    return lay_out if layer["kind"] == "conv_transpose" else kernel


def _tutorial(options: dict) -> tuple[dict, dict[str, int]]:
    """Returns options of the family `dcgan` and layers by its names; {} for other networks."""
    features = [layer["features"] for layer in of(options["layers"], PARAMETRIC)]
    expected: list[Layer] = []
    for i, channels in enumerate(features):
        expected += [
            {
                "kind": "conv_transpose", "features": channels, "kernel": [4, 4],
                "stride": [2, 2] if i else [1, 1], "padding": [1, 1] if i else [0, 0],
                "output_padding": [0, 0], "dilation": [1, 1], "groups": 1, "bias": False,
            },
            {"kind": "batch_norm", "epsilon": 1e-5, "affine": True},
            {"kind": "relu"},
        ]  # fmt: skip
    others = {name: value for name, value in options.items() if name != "layers"}
    tutorial = options["layers"] == [*expected[:-2], {"kind": "tanh"}]
    if not tutorial or "class_vector" in options:
        return {}, {}
    found = {**others, "channels": features[:-1], "image_channels": features[-1]}
    last = len(features) - 1
    names = {"project": 0, "to_image": 3 * last}
    for i in range(last):
        names |= {f"norm_{i}": 3 * i + 1, f"up_{i}": 3 * i + 3}
    return found, names


SOURCE = Source(
    "dcgan",
    "DCGAN and its variants (any layer names)",
    _matches,
    _plan,
    version=3,
    settings=_settings,
    only=("order",),
)
