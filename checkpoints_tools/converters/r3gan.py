"""R3GAN (brownvc/R3GAN), from its pickles or state dicts."""

import numpy as np

from checkpoints_tools.converters.origin import (
    Origin,
    Plan,
    Source,
    check_filters,
    has,
    kernel,
    numbers,
    take,
    usual,
)

_STAGE = "Model.MainLayers.{}.Layers.{}"
_FILTERS = r".*Resampler\.Kernel"


def _plan(state, settings) -> Plan:
    blocks = r"Model\.MainLayers\.{}\.Layers\.{}\.LinearLayer2"
    stages = numbers(state, blocks.format(r"(\d+)", r"\d+"))
    grouped = [state[f"{_STAGE.format(i, 1)}.LinearLayer2.Layer.weight"].shape for i in stages]
    last = [state[f"{_STAGE.format(i, 1)}.LinearLayer3.Layer.weight"].shape for i in stages]
    embedding = state.get("Model.EmbeddingLayer.weight")
    size, classes = (0, 0) if embedding is None else embedding.shape
    options = {
        "latent_size": state[f"{_STAGE.format(0, 0)}.LinearLayer.weight"].shape[1] - size,
        "channels": [shape[0] for shape in last],
        "widths": [shape[0] for shape in grouped],
        "groups": [shape[0] // shape[1] for shape in grouped],
        "blocks": [len(numbers(state, blocks.format(i, r"(\d+)"))) for i in stages],
        "num_classes": classes,
        "embedding_size": size,
        "image_channels": state["Model.AggregationLayer.Layer.weight"].shape[0],
    }
    check_filters(state, _FILTERS)
    return Plan("r3gan", options, _origin, _FILTERS)


def _origin(path: str) -> Origin:
    _, first, *rest = path.split("/")
    if first == "embedding":
        return take("Model.EmbeddingLayer.weight", np.transpose)
    if first == "basis":
        return take(f"{_STAGE.format(0, 0)}.Basis", lambda b: b.transpose(1, 2, 0))
    if first == "project":
        return take(f"{_STAGE.format(0, 0)}.LinearLayer.weight", kernel)
    if first == "to_image":
        return take("Model.AggregationLayer.Layer.weight", kernel)
    kind, stage, *block = first.split("_")
    if kind == "up":
        return take(f"{_STAGE.format(stage, 0)}.LinearLayer.Layer.weight", kernel)
    base = _STAGE.format(stage, int(block[0]) + 1)
    number = rest[0].removeprefix("conv_")
    if rest[1] == "bias":
        return take(f"{base}.NonLinearity{number}.Bias")
    return take(f"{base}.LinearLayer{number}.Layer.weight", kernel)


SOURCE = Source(
    "r3gan",
    "R3GAN (brownvc/R3GAN)",
    has(r"Model\.MainLayers\.0\.Layers\.0\.Basis", r"Model\.AggregationLayer\.Layer\.weight"),
    _plan,
    settings=usual(slope=0.2),
    only=("slope",),
)
