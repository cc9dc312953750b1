"""Where a tensor of ours comes from: names in the file, and the function that lays them out.

Axis rules: PyTorch stores convolutions as output, input, height, width and dense layers as output,
input; ours are height, width, input, output and input, output. A transposed convolution is input,
output, height, width there, and keeps its taps in place here.
"""

import re
from collections.abc import Callable, Container, Mapping
from typing import Any, NamedTuple

import numpy as np

from lsh_gan.tensor_files import Standin


class Origin(NamedTuple):
    """The tensors of the file that make one tensor of ours."""

    names: tuple[str, ...]  # in the file
    function: Callable[..., np.ndarray]  # from their arrays to our array


class Plan(NamedTuple):
    """How a state dict becomes the variables of a generator."""

    family: str  # key of `lsh_gan.generators.FAMILIES`
    options: dict  # attributes of the module
    origin: Callable[[str], Origin]  # of one of our tensors, by path ("params/to_image/kernel")
    ignored: str = r"(?!)"  # pattern of names in the file that no image depends on


class Part(dict[str, np.ndarray]):
    """A part of a file: its arrays by name, and the pickled object that they lie in."""

    prefix: str = ""  # where in the file they lie
    module: Standin | None = None  # that object; None where the file has only the arrays
    buffers_of: str | None = None  # where its buffers are from; None where they are its own


State = Mapping[str, np.ndarray]


def usual(**values: Any) -> Callable[[State], dict[str, Any]]:
    """The `settings` of a source whose usual values are the same for all of its files."""
    return lambda state: values


class Source(NamedTuple):
    """One kind of checkpoint."""

    name: str  # as in `--source`
    title: str  # code base that writes it
    matches: Callable[[State], bool]  # whether a state dict is of it, by names and shapes
    plan: Callable[[State, dict], Plan]  # from a state dict and all settings
    version: int = 1  # of the map of names: raised when converted numbers change
    # What tensors do not tell: names, and the values that are usual. Recorded values and those of
    # the command line come before them.
    settings: Callable[[State], dict[str, Any]] = usual()
    only: tuple[str, ...] = ()  # settings that are supported with their usual value only
    beside: tuple[str, ...] = ()  # tensors that belong to it and may lie beside it in the file


def is_counter(array: np.ndarray) -> bool:
    """Whether it is a whole number that counts steps (num_batches_tracked, n_averaged)."""
    return array.ndim == 0 and array.dtype.kind in "iub"


def has(*patterns: str) -> Callable[[State], bool]:
    """A `matches` that asks for a name for each pattern (the whole name)."""
    compiled = [re.compile(pattern) for pattern in patterns]

    def matches(state: State) -> bool:
        return all(any(pattern.fullmatch(name) for name in state) for pattern in compiled)

    return matches


def numbers(state: State, pattern: str) -> list[int]:
    """The different numbers that names have where the pattern has its group, in order."""
    return sorted({int(m[1]) for name in state if (m := re.match(pattern, name))})


def take(name: str, function: Callable[[np.ndarray], np.ndarray] = lambda x: x) -> Origin:
    """One tensor, as it is or through `function`."""
    return Origin((name,), function)


def drawn_noise(seed: int, layer: int, side: int) -> Origin:
    """The noise of a layer, where the file has none."""
    return Origin((), lambda: np.random.default_rng([seed, layer]).standard_normal((side, side)))


def kernel(weight: np.ndarray, gain: float = 1.0) -> np.ndarray:
    """A convolution `[o, i, h, w]` or dense `[o, i]` weight, times `gain`, output last."""
    axes = (2, 3, 1, 0) if weight.ndim == 4 else (1, 0)
    return (weight * np.float32(gain) if gain != 1 else weight).transpose(axes)


def to_grid(width: int) -> Callable[[np.ndarray], np.ndarray]:
    """A dense layer whose output is seen as `[channels, width, width]`, on our `[w, w, c]` grid."""

    def rearrange(x: np.ndarray) -> np.ndarray:
        grid = x.reshape(-1, width, width, *x.shape[1:])
        return grid.transpose(3, 1, 2, 0) if x.ndim == 2 else grid.transpose(1, 2, 0)

    return rearrange


def divide_by_stored_norm(
    weight: np.ndarray, u: np.ndarray, v: np.ndarray, axis: int = 0
) -> np.ndarray:
    """PyTorch's spectral norm in eval mode: weight / (u · W v) with the stored u and v.

    The rows of W are `axis`: 1 of a transposed convolution, else 0.
    """
    matrix = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float64)
    sigma = u.astype(np.float64) @ (matrix @ v.astype(np.float64))
    return (weight / sigma).astype(np.float32)


# The tensors that make a weight, of spectral and weight norm too; the first has its shape.
_WEIGHTS = (("weight_orig", "weight_u", "weight_v"), ("weight_v", "weight_g"), ("weight",))


def weight_names(tensors: Container[str], prefix: str = "") -> tuple[str, ...]:
    """The tensors that make a weight, the one of its shape first; () where there is none."""
    named = (tuple(prefix + name for name in names) for names in _WEIGHTS)
    return next((names for names in named if names[0] in tensors), ())


def weight_of(
    state: State,
    base: str,
    function: Callable[[np.ndarray], np.ndarray] = kernel,
    axis: int = 0,
) -> Origin:
    """The weight `base`, under spectral norm, weight norm or none, laid out by `function`."""
    prefix = f"{base}." if base else ""

    def lay_out(weight: np.ndarray, *norm: np.ndarray) -> np.ndarray:
        if len(norm) == 2:
            return function(divide_by_stored_norm(weight, *norm, axis))
        return function(_of_length(weight, *norm) if norm else weight)

    return Origin(weight_names(state, prefix) or (f"{prefix}weight",), lay_out)


def _of_length(weight: np.ndarray, length: np.ndarray) -> np.ndarray:
    """PyTorch's weight norm: the length is of all axes that it has no size of."""
    axes = tuple(i for i, size in enumerate(length.shape) if size == 1)
    norm = np.sqrt((weight.astype(np.float64) ** 2).sum(axis=axes, keepdims=True))
    return (weight / norm * length).astype(np.float32)


def stored_weight(state: State, base: str) -> np.ndarray:
    """The weight `base` as it is stored, under a norm or not."""
    return state[weight_of(state, base).names[0]]


FILTER = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64


def check_filters(state: State, pattern: str, gain: float = 1.0) -> None:
    """Refuses tensors of such names that are not the filter of our networks, times `gain`."""
    for name, array in state.items():
        if re.fullmatch(pattern, name) and not (
            array.size == FILTER.size
            and np.allclose(array.reshape(FILTER.shape), gain * FILTER, atol=1e-6)
        ):
            raise ValueError(f"{name} is not the filter [1, 3, 3, 1], the only one supported")


BATCH_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
