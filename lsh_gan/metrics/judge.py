"""Enters who lies in whose ball, and decides in float64 what float32 leaves open."""

import enum
from typing import NamedTuple

import numpy as np

from lsh_gan.metrics import refine
from lsh_gan.metrics.distances import Blocks
from lsh_gan.metrics.duplicates import DistinctPairs
from lsh_gan.metrics.inputs import Array
from lsh_gan.metrics.knn_reference import KnnReference
from lsh_gan.metrics.nearest import Nearest


class Kind(enum.IntEnum):
    """What a comparison of a row g of G with a row r of R asks."""

    IN_R = 0  # does the ball of r hold g?
    IN_G = 1  # does the ball of g hold r?
    IN_DENSITY_BALL = 2  # does the density ball of r hold g?


class Memberships(NamedTuple):
    """What is known of the samples.

    Attributes:
        within_r: Whether g lies in a ball of R, bool `[m]`.
        within_g: Whether r lies in a ball of G, bool `[n]`.
        density_count: Density balls of R around g, int `[m]`.
        covered: Whether the density ball of r holds a g, bool `[n]`.
    """

    within_r: np.ndarray
    within_g: np.ndarray
    density_count: np.ndarray
    covered: np.ndarray


class Judge:
    """Decides open comparisons in float64; an exact radius is computed once.

    Args:
        fitted: The reference.
        generated: Features as given, `[m, d]`.
        blocks: The same for the float32 kernels.
        nearest: The nearest others in G.
        balls: Bounds of the balls of each `Kind`, in order.
    """

    def __init__(
        self, fitted: KnnReference, generated: Array, blocks: Blocks, nearest: Nearest,
        balls: tuple[refine.BallBounds, ...],
    ):  # fmt: skip
        self.fitted, self.generated = fitted, generated
        self.outer = [np.concatenate(b.outer) for b in balls]
        self.sure = [
            refine.in_own_units((np.concatenate(part) for part in b), fitted.frame.scale)
            for b in balls
        ]
        self.sources = (
            (fitted.features, fitted.blocks, fitted.nearest, fitted.k),
            (generated, blocks, nearest, fitted.k),
            (fitted.features, fitted.blocks, fitted.nearest, fitted.density_k),
        )
        self.distinct = DistinctPairs(generated, fitted.features)
        self.radii = [np.full(len(outer), np.nan) for outer in self.outer]
        self.open: list[tuple[np.ndarray, ...]] = []
        self.waiting = 0

    def add(self, g: np.ndarray, r: np.ndarray, bits: np.ndarray) -> None:
        """Keeps open comparisons (g, r) until `settle`: radii are cheaper many at a time.

        Args:
            g: Rows of G, int `[p]`.
            r: Rows of R, int `[p]`.
            bits: Kinds of comparison that are open, uint8 `[p]`, bit i for kind i.
        """
        self.open.append((g, r, bits))
        self.waiting += len(bits)

    def settle(self, found: Memberships) -> None:
        """Enters in `found` what is true of the comparisons kept so far."""
        if not self.waiting:
            return
        all_g, all_r, values = (np.concatenate(part) for part in zip(*self.open, strict=True))
        self.open, self.waiting = [], 0
        for kind in Kind:
            at = (values >> kind) & 1 == 1
            g, r = all_g[at], all_r[at]
            # A sample that is already known to lie in some ball needs no other one.
            if kind is not Kind.IN_DENSITY_BALL:
                needed = ~found.within_r[g] if kind is Kind.IN_R else ~found.within_g[r]
                g, r = g[needed], r[needed]
            if len(g):
                inside = self._inside(kind, g, r)
                enter(found, kind, g[inside], r[inside])

    def _inside(self, kind: Kind, g: np.ndarray, r: np.ndarray) -> np.ndarray:
        (g, r), at = self.distinct.of(g, r)
        sq = refine.exact_sq_distances(self.generated, self.fitted.features, g, r)
        owners = g if kind is Kind.IN_G else r
        bounds = tuple(bound[owners] for bound in self.sure[kind])

        def radii(some: np.ndarray) -> np.ndarray:
            return self._radii(kind, owners[some])

        return refine.within_balls(sq, bounds, radii, self.fitted.inclusive)[at]

    def _radii(self, kind: Kind, owners: np.ndarray) -> np.ndarray:
        features, blocks, nearest, k = self.sources[kind]
        known = self.radii[kind]
        new = np.unique(owners[np.isnan(known[owners])])
        if len(new):
            known[new] = refine.exact_sq_radii(features, blocks, nearest, self.outer[kind], new, k)
        return known[owners]


def enter(found: Memberships, kind: Kind, g: np.ndarray, r: np.ndarray) -> None:
    """Enters hits of a kind, rows of G and of R, int `[p]` each."""
    if kind is Kind.IN_R:
        found.within_r[g] = True
    elif kind is Kind.IN_G:
        found.within_g[r] = True
    else:
        np.add.at(found.density_count, g, 1)
        found.covered[r] = True
