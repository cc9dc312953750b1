"""Data and criteria of two published suites that test metrics of fidelity and diversity.

`SANITY`: the fifteen checks of Räisä et al. 2025, arXiv:2505.22450. `LINEAR`: the four tests of
Salvy et al. 2025, arXiv:2507.01761, and one of ours ("modes kept": how many of ten separate modes
are kept). All are implemented from the descriptions.

A line gives one curve of scores. It is a function of (rng, n) that yields (x, reference, generated)
with n rows, unless the check varies that number. A criterion judges the scores along a line.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

Line = Callable[[np.random.Generator, int], Iterator[tuple[float, np.ndarray, np.ndarray]]]
SIDES = ("fidelity", "diversity")
TOLERANCE = 0.05


class Verdict(NamedTuple):
    """Result of a criterion.

    Attributes:
        passed: True or False; "low" or "high" if a metric may be either, but consistently.
        value: The judged value, for tables.
    """

    passed: bool | str
    value: str


Criterion = Callable[[np.ndarray], Verdict]


def near(index: int, target: float) -> Criterion:
    """Requires that the score at a step is within .05 of the target."""
    return lambda y: Verdict(_close(y[index], target), f"{y[index]:.3f}")


def low_or_high(index: int) -> Criterion:
    """Requires that the score at a step is near 0 or near 1."""

    def judged(y):
        passed = "high" if _close(y[index], 1) else "low" if _close(y[index], 0) else False
        return Verdict(passed, f"{y[index]:.3f}")

    return judged


def _close(value: float, target: float) -> bool:
    # The slack allows for rounding errors of means.
    return bool(abs(value - target) <= TOLERANCE + 1e-9)


def bell(middle: int) -> Criterion:
    """Requires the middle .2 above both ends, within .1 of the maximum; an end near the minimum."""

    def judged(y):
        ends, peak = y[[0, -1]], y[middle]
        passed = (peak - ends >= 0.2).all() and y.max() - peak <= 0.1
        passed = passed and (ends - y.min() <= 0.1).any()
        return Verdict(bool(passed), f"{ends[0]:.2f} {peak:.2f} {ends[1]:.2f}")

    return judged


def falls(drop_at: int | None = None) -> Criterion:
    """Requires a fall by .2 from start to end, both near the extremes; by .1 until `drop_at`."""

    def judged(y):
        passed = y[0] - y[-1] >= 0.2 and y.max() - y[0] <= 0.1 and y[-1] - y.min() <= 0.1
        if drop_at is not None:
            passed = passed and y[0] - y[drop_at] >= 0.1
        return Verdict(bool(passed), f"{y[0]:.2f} to {y[-1]:.2f}")

    return judged


def rises(y: np.ndarray) -> Verdict:
    """Requires the reverse of `falls`."""
    return Verdict(falls()(y[::-1]).passed, f"{y[0]:.2f} to {y[-1]:.2f}")


def flat(y: np.ndarray) -> Verdict:
    """Requires that all scores are within .05 of each other."""
    return Verdict(bool(np.ptp(y) <= TOLERANCE), f"range {np.ptp(y):.3f}")


def settles(y: np.ndarray) -> Verdict:
    """Requires `flat` from the median step on."""
    return flat(y[len(y) // 2 :])


def either(low: Criterion, high: Criterion) -> Criterion:
    """Requires one of two criteria: a metric may be of the low or of the high kind."""

    def judged(y):
        found = low(y)
        passed = "low" if found.passed else "high" if high(y).passed else False
        return Verdict(passed, found.value)

    return judged


class Check(NamedTuple):
    """A sanity check.

    Attributes:
        lines: Its lines by name; all must pass.
        bounds: Criteria by name: one for both sides, a pair (fidelity, diversity) with None for a
            side that is not judged, or such pairs by line. In two checks this part requires
            independence of the sample sizes.
        purpose: Criteria of the same form for the main property of the check.
    """

    lines: dict[str, Line]
    bounds: dict
    purpose: dict


def criterion_of(entry, line: str, side: str) -> Criterion | None:
    """Returns the criterion of one line and side, see `Check`."""
    entry = entry[line] if isinstance(entry, dict) else entry
    return entry[SIDES.index(side)] if isinstance(entry, tuple) else entry


def _shifted(rng, n, *, dim, end, outlier=""):
    reference, far = rng.normal(size=(n, dim)), np.full((1, dim), end)
    if outlier == "R":
        reference = np.concatenate([reference, far])
    for mean in np.linspace(-end, end, 51):
        generated = rng.normal(mean, size=(n, dim))
        yield mean, reference, np.concatenate([generated, far]) if outlier == "G" else generated


def _scaled(rng, n, *, dim, decades):
    reference = rng.normal(size=(n, dim))
    for std in np.logspace(-decades, decades, 51):
        yield std, reference, rng.normal(scale=std, size=(n, dim))


def _mixture(rng, n, centres, std, weights) -> np.ndarray:
    modes = rng.choice(len(centres), n, p=np.divide(weights, np.sum(weights)))
    return centres[modes] + rng.normal(scale=std, size=(n, centres.shape[1]))


def _on_diagonal(dim: int) -> np.ndarray:
    return np.repeat(np.linspace(0, 10, 10)[:, None], dim, axis=1)


def _thinned(rng, n, *, dim, std):
    centres = _on_diagonal(dim)
    reference = _mixture(rng, n, centres, std, np.ones(10))
    for dropped in np.linspace(0, 1, 50):
        weights = np.array([1.0] + [1 - dropped] * 9)
        yield dropped, reference, _mixture(rng, n, centres, std, weights)


def _dropped(rng, n, *, dim, std):
    centres = _on_diagonal(dim)
    reference = _mixture(rng, n, centres, std, np.ones(10))
    for dropped in range(10):
        yield dropped, reference, _mixture(rng, n, centres, std, np.arange(10) < 10 - dropped)


# Ten centres, far from each other compared with the spread of .25.
CENTRES = np.random.default_rng(0).normal(scale=10, size=(10, 2))


def _invented(rng, n):
    reference = _mixture(rng, n, CENTRES, 0.25, np.arange(10) < 5)
    for modes in range(1, 11):
        yield modes, reference, _mixture(rng, n, CENTRES, 0.25, np.arange(10) < modes)


def _on_sphere(rng, n, dim) -> np.ndarray:
    directions = rng.normal(size=(n, dim))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def _spheres(rng, n, *, dim):
    reference = _on_sphere(rng, n, dim)
    for radius in np.linspace(0.1, 1.9, 51):
        yield radius, reference, radius * _on_sphere(rng, n, dim)


def _sizes(n: int) -> np.ndarray:
    return (n * np.logspace(-1, 1, 20)).astype(int)


def _cubes(rng, n, *, dim, vary_reference):
    shift = 1 - 0.2 ** (1 / dim)  # the cubes share a fifth of their volume
    reference = rng.random((n, dim))
    for size in _sizes(n):
        if vary_reference:
            reference = rng.random((size, dim))
        yield size, reference, shift + rng.random((size, dim))


def _in_ball(rng, n, dim, radius) -> np.ndarray:
    return radius * rng.random((n, 1)) ** (1 / dim) * _on_sphere(rng, n, dim)


def _ball(rng, n) -> np.ndarray:
    return _in_ball(rng, n, 3, 0.8)


def _torus(rng, n) -> np.ndarray:
    angle, (across, up) = rng.uniform(0, 2 * np.pi, n), _in_ball(rng, n, 2, 0.1).T
    return np.stack([(1 + across) * np.cos(angle), (1 + across) * np.sin(angle), up], axis=1)


def _ball_and_torus(rng, n, *, of_reference, of_generated):
    reference = of_reference(rng, n)
    for size in _sizes(n):
        yield size, reference, of_generated(rng, size)


def _two_modes(rng, n, *, dim):
    for gap in np.linspace(0, 5, 20):
        centres = np.repeat([[-gap / 2], [gap / 2]], dim, axis=1)
        reference = _mixture(rng, n, centres, 1, np.ones(2))
        yield gap, reference, rng.normal(scale=np.sqrt(1 + gap**2), size=(n, dim))


def _one_axis_scaled(rng, n):
    for scale in np.logspace(-3, 3, 20):
        axes = np.array([1, scale])
        yield scale, rng.normal(size=(n, 2)) * axes, rng.normal((6, 0), size=(n, 2)) * axes


def _with_pareto(rng, n):
    def drawn(mean):
        return np.stack([rng.normal(mean, size=n), 1 + rng.pareto(1.01, n)], axis=1)

    reference = drawn(0)
    for mean in np.linspace(-6, 6, 51):
        yield mean, reference, drawn(mean)


def _one_axis_disjoint(rng, n):
    for identical in np.logspace(0, 3, 20).astype(int):
        reference, generated = rng.normal(size=(2, n, 1 + identical))
        generated[:, 0] += 6
        yield identical, reference, generated


def _rounded(rng, n, *, round_reference):
    for scale in np.logspace(0, 3, 20):
        reference, generated = scale * rng.normal(size=(2, n, 1))
        if round_reference:
            yield scale, np.round(reference), generated
        else:
            yield scale, reference, np.round(generated)


def _by_dim(line: Callable, **options) -> dict[str, partial]:
    """Makes a line for each of the dimensions 1, 8 and 64; options have one value for each."""
    values = zip((1, 8, 64), *options.values(), strict=True)
    named = (dict(zip(("dim", *options), chosen, strict=True)) for chosen in values)
    return {f"d = {kept['dim']}": partial(line, **kept) for kept in named}


ENDS, STDS = (6.0, 3.0, 1.0), (1 / 6, 1 / 3, 1.0)
MIDDLE = 25  # the middle of 51 steps
BELL_BOUNDS = {"identical": near(MIDDLE, 1), "left end": near(0, 0), "right end": near(-1, 0)}
BELL = {"bell": bell(MIDDLE)}
DROP_BOUNDS = {"identical": near(0, 1), "all dropped": (near(-1, 1), None)}
APART = {"left end": near(0, 0), "right end": near(-1, 0)}
ROUNDED_ENDS = {
    "R rounded": lambda index: (near(index, 0), low_or_high(index)),
    "G rounded": lambda index: (near(index, 1), near(index, 0)),
}

SANITY: dict[str, Check] = {
    "mean difference": Check(_by_dim(_shifted, end=ENDS), BELL_BOUNDS, BELL),
    "+ outlier": Check(
        {
            f"{name}, outlier in {where}": partial(line, outlier=where)
            for where in "RG"
            for name, line in _by_dim(_shifted, end=ENDS).items()
        },
        BELL_BOUNDS,
        BELL,
    ),
    "std difference": Check(
        _by_dim(_scaled, decades=(3, 1, 0.5)),
        {
            "identical": near(MIDDLE, 1),
            "low std": (near(0, 1), near(0, 0)),
            "high std": (near(-1, 0), low_or_high(-1)),
        },
        {"shape": (falls(), either(bell(MIDDLE), rises))},
    ),
    "simultaneous dropping": Check(
        _by_dim(_thinned, std=STDS), DROP_BOUNDS, {"shape": (flat, falls(drop_at=47))}
    ),
    "sequential dropping": Check(
        _by_dim(_dropped, std=STDS), DROP_BOUNDS, {"shape": (flat, falls(drop_at=4))}
    ),
    "dropping + invention": Check(
        {"d = 2": _invented},
        {
            "identical": near(4, 1),
            "most dropped": (near(0, 1), None),
            "most invented": (None, near(-1, 1)),
        },
        {"shape": (falls(), rises)},
    ),
    "hypersphere surface": Check(
        {f"d = {dim}": partial(_spheres, dim=dim) for dim in (2, 16, 128)}, BELL_BOUNDS, BELL
    ),
    "hypercube size": Check(
        _by_dim(_cubes, vary_reference=(True,) * 3),
        {"settles": settles},
        {"largest": near(-1, 0.2)},
    ),
    "hypercube syn. size": Check(
        _by_dim(_cubes, vary_reference=(False,) * 3),
        {"settles": settles},
        {"largest": near(-1, 0.2)},
    ),
    "sphere vs torus": Check(
        {
            "R ball": partial(_ball_and_torus, of_reference=_ball, of_generated=_torus),
            "R torus": partial(_ball_and_torus, of_reference=_torus, of_generated=_ball),
        },
        {"largest": near(-1, 0)},
        {"settles": settles},
    ),
    "one vs two modes": Check(
        _by_dim(_two_modes), {"identical": near(0, 1)}, {"shape": (falls(), either(falls(), flat))}
    ),
    "scaling one dimension": Check({"d = 2": _one_axis_scaled}, APART, {"flat": flat}),
    "+ Pareto": Check({"d = 2": _with_pareto}, BELL_BOUNDS, BELL),
    "one disjoint dimension": Check({"d = 2 to 1001": _one_axis_disjoint}, APART, {"flat": flat}),
    "discrete vs continuous": Check(
        {
            "R rounded": partial(_rounded, round_reference=True),
            "G rounded": partial(_rounded, round_reference=False),
        },
        {
            name: {line: ends(index) for line, ends in ROUNDED_ENDS.items()}
            for name, index in (("coarse", 0), ("fine", -1))
        },
        {"flat": flat},
    ),
}

# Bounds and purpose as published with the authors' code; one letter per entry of PUBLISHED_COLUMNS:
# T passed, f failed, L or H passed as a low or high metric.
PUBLISHED_COLUMNS = (
    "KNN", "density/coverage", "α-precision", "precision cover", "symmetric",
    "P-precision/P-recall",
)  # fmt: skip
PUBLISHED: dict[str, tuple[tuple[str, str], tuple[str, str]]] = {
    "mean difference": (("fTfTff", "fTfTff"), ("TTTTTT", "TTTTTT")),
    "+ outlier": (("fffTff", "fTfTff"), ("fTTTfT", "fTTTTT")),
    "std difference": (("ffffff", "ffffff"), ("TTfffT", "HfLffH")),
    "simultaneous dropping": (("fTffff", "fTfTff"), ("TffffT", "fTfTfT")),
    "sequential dropping": (("fTffff", "fTfTff"), ("TTfffT", "TTffTT")),
    "dropping + invention": (("TTffff", "Tfffff"), ("TTfffT", "TffffT")),
    "hypersphere surface": (("ffffTf", "ffffTf"), ("ffTfTf", "ffffTf")),
    "hypercube size": (("ffffff", "ffffff"), ("ffffff", "ffffff")),
    "hypercube syn. size": (("TTTffT", "ffffff"), ("ffffff", "ffffff")),
    "sphere vs torus": (("TTffTT", "TfTTfT"), ("TTTfTT", "ffTfff")),
    "one vs two modes": (("fTfTff", "fTfTff"), ("TTTTTT", "ffffff")),
    "scaling one dimension": (("fTTTTT", "TTTTTT"), ("fTTTTT", "fTTTTT")),
    "+ Pareto": (("fTTTTf", "TTfTTf"), ("TTTTTT", "TTTTTT")),
    "one disjoint dimension": (("ffTfff", "ffTfff"), ("ffffff", "ffffff")),
    "discrete vs continuous": (("ffffff", "ffffff"), ("ffffff", "ffffff")),
}


class Test(NamedTuple):
    """A test of linearity: a line, and the ideal fidelity and diversity as functions of x.

    `mirrored` instead requires that both are the same at x and at -x.
    """

    line: Line
    fidelity: Callable[[np.ndarray], np.ndarray]
    diversity: Callable[[np.ndarray], np.ndarray]
    mirrored: bool = False


DIM = 32


def _spoil(rng, rows, count) -> np.ndarray:
    """Moves `count` random rows about ten times as far from the origin."""
    factors = np.ones(len(rows))
    factors[rng.permutation(len(rows))[:count]] = np.maximum(2, rng.normal(10, size=count))
    return rows * factors[:, None]


def _bad(rng, n, *, shares, in_reference):
    reference, generated = rng.normal(size=(2, n, DIM))
    for share in shares:
        count = round(share * n)
        spoiled = _spoil(rng, reference, count) if in_reference else reference
        yield share, spoiled, _spoil(rng, generated, count)


def _modes(rng, n, weights_of_step):
    """Yields the sets of ten modes, given x and the weights of the modes in G at each step."""
    centres = rng.normal(scale=5, size=(10, DIM))
    reference = _mixture(rng, n, centres, 1, np.ones(10))
    for x, weights in weights_of_step:
        yield x, reference, _mixture(rng, n, centres, 1, weights)


def _modes_thinned(rng, n):
    steps = ((kept, np.array([10 - 9 * kept] + [kept] * 9)) for kept in np.linspace(1, 0, 10))
    yield from _modes(rng, n, steps)


def _modes_kept(rng, n):
    yield from _modes(rng, n, ((kept, np.arange(10) < kept) for kept in range(10, 0, -1)))


def _translated(rng, n):
    reference, generated = rng.normal(size=(2, n, DIM))
    reference[0] = 3
    for mean in np.linspace(-1, 1, 21):
        moved = generated + mean
        moved[0] = -3
        yield mean, reference, moved


def _falling(x):
    return 1 - x


LINEAR: dict[str, Test] = {
    "bad samples in G": Test(
        partial(_bad, shares=np.linspace(0, 1, 11), in_reference=False), _falling, _falling
    ),
    "bad samples in R and G": Test(
        partial(_bad, shares=np.linspace(0, 0.03, 4), in_reference=True), np.ones_like, np.ones_like
    ),
    "modes thinned": Test(_modes_thinned, np.ones_like, lambda kept: (1 + 9 * kept) / 10),
    "translation": Test(_translated, np.ones_like, np.ones_like, mirrored=True),
    "modes kept": Test(_modes_kept, np.ones_like, lambda kept: kept / 10),
}
