"""Says where each of our tensors comes from: names in the file, and a function that converts them.

Axis rules: PyTorch stores convolutions as output, input, height, width and dense layers as output,
input; ours are height, width, input, output and input, output. PyTorch's transposed convolutions
are input, output, height, width; the order of their taps is kept.
"""

import re
from collections.abc import Callable, Container, Mapping
from typing import Any, NamedTuple

import numpy as np

from lsh_gan.tensor_files import Standin


class Origin(NamedTuple):
    """Tensors of the file from which one of our tensors is made."""

    names: tuple[str, ...]  # their names in the file
    function: Callable[..., np.ndarray]  # maps their arrays to our array


class Plan(NamedTuple):
    """How a state dict becomes the variables of a generator."""

    family: str  # key of `lsh_gan.generators.FAMILIES`
    options: dict  # attributes of the module
    origin: Callable[[str], Origin]  # origin of our tensor at a path ("params/to_image/kernel")
    ignored: str = r"(?!)"  # pattern of names in the file that do not affect images


class Part(dict[str, np.ndarray]):
    """A part of a file: its arrays by name, and the pickled object that holds them."""

    prefix: str = ""  # where it is in the file
    module: Standin | None = None  # the object; None if the file has only arrays
    buffers_of: str | None = None  # part from which its buffers are taken; None if they are its own


State = Mapping[str, np.ndarray]


def usual(**values: Any) -> Callable[[State], dict[str, Any]]:
    """Returns `settings` of a source whose usual values are the same for all its files."""
    return lambda state: values


class Source(NamedTuple):
    """One kind of checkpoint."""

    name: str  # as in `--source`
    title: str  # code base that writes it
    matches: Callable[[State], bool]  # whether a state dict is of this kind, by names and shapes
    plan: Callable[[State, dict], Plan]  # plans the conversion, from a state dict and all settings
    version: int = 1  # of the map of names: raised when converted numbers change
    # Settings that tensors do not show, with their usual values. Recorded values and those of the
    # command line override them.
    settings: Callable[[State], dict[str, Any]] = usual()
    only: tuple[str, ...] = ()  # settings that are supported only with their usual value
    beside: tuple[str, ...] = ()  # tensors that belong to it but may be beside it in the file


def is_counter(array: np.ndarray) -> bool:
    """Whether an array is a counter of steps, an integer (num_batches_tracked, n_averaged)."""
    return array.ndim == 0 and array.dtype.kind in "iub"


def has(*patterns: str) -> Callable[[State], bool]:
    """Makes a `matches` function: each pattern must match the whole name of some tensor."""
    compiled = [re.compile(pattern) for pattern in patterns]

    def matches(state: State) -> bool:
        return all(any(pattern.fullmatch(name) for name in state) for pattern in compiled)

    return matches


def numbers(state: State, pattern: str) -> list[int]:
    """Returns the different numbers in the group of a pattern over all names, sorted."""
    return sorted({int(m[1]) for name in state if (m := re.match(pattern, name))})


def take(name: str, function: Callable[[np.ndarray], np.ndarray] = lambda x: x) -> Origin:
    """Takes one tensor, unchanged or through `function`."""
    return Origin((name,), function)


def drawn_noise(seed: int, layer: int, side: int) -> Origin:
    """Draws the noise of a layer, if the file has none."""
    return Origin((), lambda: np.random.default_rng([seed, layer]).standard_normal((side, side)))


def kernel(weight: np.ndarray, gain: float = 1.0) -> np.ndarray:
    """Moves the output of a weight, `[o, i, h, w]` or `[o, i]`, last; multiplies by `gain`."""
    axes = (2, 3, 1, 0) if weight.ndim == 4 else (1, 0)
    return (weight * np.float32(gain) if gain != 1 else weight).transpose(axes)


def to_grid(width: int) -> Callable[[np.ndarray], np.ndarray]:
    """Converts dense layers with output `[channels, width, width]` to our `[w, w, c]` grid."""

    def rearrange(x: np.ndarray) -> np.ndarray:
        grid = x.reshape(-1, width, width, *x.shape[1:])
        return grid.transpose(3, 1, 2, 0) if x.ndim == 2 else grid.transpose(1, 2, 0)

    return rearrange


def divide_by_stored_norm(
    weight: np.ndarray, u: np.ndarray, v: np.ndarray, axis: int = 0
) -> np.ndarray:
    """Applies PyTorch's spectral norm in eval mode: weight / (u · W v) with the stored u and v.

    The rows of W are along `axis`: 1 for a transposed convolution, else 0.
    """
    matrix = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float64)
    sigma = u.astype(np.float64) @ (matrix @ v.astype(np.float64))
    return (weight / sigma).astype(np.float32)


# Tensors that make a weight, under spectral norm, weight norm or none; the first has its shape.
_WEIGHTS = (("weight_orig", "weight_u", "weight_v"), ("weight_v", "weight_g"), ("weight",))


def weight_names(tensors: Container[str], prefix: str = "") -> tuple[str, ...]:
    """Names the tensors that make a weight, the one with its shape first; () if there are none."""
    named = (tuple(prefix + name for name in names) for names in _WEIGHTS)
    return next((names for names in named if names[0] in tensors), ())


def weight_of(
    state: State,
    base: str,
    function: Callable[[np.ndarray], np.ndarray] = kernel,
    axis: int = 0,
) -> Origin:
    """Takes the weight `base`, under spectral norm, weight norm or none, through `function`."""
    prefix = f"{base}." if base else ""

    def lay_out(weight: np.ndarray, *norm: np.ndarray) -> np.ndarray:
        if len(norm) == 2:
            return function(divide_by_stored_norm(weight, *norm, axis))
        return function(_of_length(weight, *norm) if norm else weight)

    return Origin(weight_names(state, prefix) or (f"{prefix}weight",), lay_out)


def _of_length(weight: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Applies PyTorch's weight norm: the length is over the axes where `length` has size 1."""
    axes = tuple(i for i, size in enumerate(length.shape) if size == 1)
    norm = np.sqrt((weight.astype(np.float64) ** 2).sum(axis=axes, keepdims=True))
    return (weight / norm * length).astype(np.float32)


def stored_weight(state: State, base: str) -> np.ndarray:
    """Returns the weight `base` as it is stored, without applying a norm."""
    return state[weight_of(state, base).names[0]]


FILTER = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64


def check_filters(state: State, pattern: str, gain: float = 1.0) -> None:
    """Refuses tensors whose name matches but which are not our filter times `gain`."""
    for name, array in state.items():
        if re.fullmatch(pattern, name) and not (
            array.size == FILTER.size
            and np.allclose(array.reshape(FILTER.shape), gain * FILTER, atol=1e-6)
        ):
            raise ValueError(f"{name} is not the filter [1, 3, 3, 1], the only one supported")


BATCH_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
