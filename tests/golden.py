"""Goldens: inputs and outputs of the original networks, on weights made by a recipe.

A golden is `goldens/NAME.json` (description) and `goldens/NAME.npz` (arrays). No weights are
stored: each tensor is drawn from a NumPy stream seeded by its name (`draw`). Usage:

    golden = load_golden("dcgan_tutorial_64")
    state = golden.state()          # {state-dict name: array}, PyTorch layouts, listing order
    assert_close(ours, golden.outputs["img"], golden.tolerance)

To make one, give the original network the weights that `draw` makes, and run it. The JSON needs
`golden` (its name), `config` (settings that tensors do not show), `inputs` ({name: {"kind":
"stored"}}, or a kind and a shape to draw), `state` ([name, shape, kind] of each tensor) and
`suggested_tolerance` ({"max_diff_over_max_abs": 1e-5}). The npz holds `in/NAME` of each stored
input, `out/NAME` of each output, and `literal/NAME` of each tensor whose kind is `literal`.
"""

import json
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

FOLDER = Path(__file__).parent / "goldens"


class Golden(NamedTuple):
    """One golden: `meta` is the whole description, `tolerance` is relative to max|expected|."""

    meta: dict
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    literals: dict[str, np.ndarray]

    @property
    def config(self) -> dict:
        return self.meta["config"]

    @property
    def tolerance(self) -> float:
        return self.meta["suggested_tolerance"]["max_diff_over_max_abs"]

    def state(self) -> dict[str, np.ndarray]:
        """Draws the weights, in the order of the listing."""
        return {
            name: self.literals[name] if kind == "literal" else draw(name, shape, kind)
            for name, shape, kind in self.meta["state"]
        }


def load_golden(name: str) -> Golden:
    """Loads `goldens/NAME.json` and `goldens/NAME.npz`, and draws the inputs not stored."""
    meta = json.loads((FOLDER / f"{name}.json").read_text())
    parts: dict[str, dict] = {"in": {}, "out": {}, "literal": {}}
    with np.load(FOLDER / f"{name}.npz") as arrays:
        for key in arrays.files:
            part, _, rest = key.partition("/")
            parts[part][rest] = arrays[key]
    for key, spec in meta["inputs"].items():
        if spec["kind"] != "stored":
            full_name = f"{meta['golden']}/in/{key}"
            parts["in"][key] = draw(full_name, spec["shape"], spec["kind"])
    return Golden(meta, parts["in"], parts["out"], parts["literal"])


def draw(name: str, shape, kind: str) -> np.ndarray:
    """Draws one array from the stream of `name`.

    Kinds: `normal:MEAN:SD`; `fan_in:G` (sd = G / sqrt(prod(shape[1:]))); `uniform:LOW:HIGH`;
    `unit` (L2 norm 1); `const:V`; `int:V` (int64); `eye`; `uint8`; `labels:K` (int64 below K);
    `sn_v:OUT` (see `_right_singular`). Values are drawn in float64 and cast to float32.
    """
    shape = tuple(int(s) for s in shape)
    kind, *args = kind.split(":")
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    numbers = [float(a) for a in args]
    if kind == "normal":
        values = numbers[0] + numbers[1] * rng.standard_normal(shape)
    elif kind == "fan_in":
        fan_in = np.prod(shape[1:], dtype=np.float64)
        values = numbers[0] * rng.standard_normal(shape) / np.sqrt(fan_in)
    elif kind == "uniform":
        values = numbers[0] + (numbers[1] - numbers[0]) * rng.random(shape)
    elif kind == "unit":
        values = _normalised(rng.standard_normal(shape))
    elif kind == "const":
        values = np.full(shape, numbers[0])
    elif kind == "int":
        return np.full(shape, int(args[0]), np.int64)
    elif kind == "eye":
        values = np.eye(shape[0])
    elif kind == "uint8":
        return rng.integers(0, 256, size=shape).astype(np.uint8)
    elif kind == "labels":
        return rng.integers(0, int(args[0]), size=shape).astype(np.int64)
    elif kind == "sn_v":
        values = _right_singular(name, int(args[0]), shape[0], rng)
    else:
        raise ValueError(f"{name}: kind {kind!r} cannot be drawn.")
    return np.asarray(values).astype(np.float32).reshape(shape)


def _right_singular(name: str, rows: int, columns: int, rng) -> np.ndarray:
    """The `weight_v` of a spectral norm: near W'u but not on it, so that recomputing it shows."""
    prefix = name.removesuffix("weight_v")
    weight = draw(prefix + "weight_orig", (rows, columns), "fan_in:1").astype(np.float64)
    u = draw(prefix + "weight_u", (rows,), "unit").astype(np.float64)
    noise = rng.standard_normal(columns)
    return _normalised(_normalised(weight.T @ u) + 0.3 * _normalised(noise))


def _normalised(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.sum(x * x))


def assert_close(actual, expected, tolerance: float) -> None:
    """Asserts max|actual - expected| <= tolerance * max|expected|, shapes equal, all finite."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    assert np.isfinite(actual).all()
    scale = np.abs(expected).max()
    error = np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max()
    assert error <= tolerance * scale, f"error {error / scale:.2e} of max, allowed {tolerance:.2e}"
