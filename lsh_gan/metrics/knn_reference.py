"""What a score by k-nearest-neighbour balls needs of its reference."""

from typing import NamedTuple

from lsh_gan.metrics.distances import Blocks, Frame
from lsh_gan.metrics.inputs import Array
from lsh_gan.metrics.nearest import Nearest
from lsh_gan.metrics.types import Ceiling


class KnnReference(NamedTuple):
    """Everything that the score of a generated set needs of the reference.

    Attributes:
        features: The reference as given, `[n, d]`.
        frame: Shift and scale, fitted on it.
        blocks: The reference for the float32 kernels.
        nearest: Nearest other rows of each, one more than the radii need if there are so many.
        k: Neighbours of precision and recall.
        density_k: Neighbours of density and coverage.
        inclusive: Whether a point on the sphere belongs to the ball.
        ceiling: Scores of the reference distribution, or None.
        second: A second sample of the reference distribution, at least n rows, or None.
    """

    features: Array
    frame: Frame
    blocks: Blocks
    nearest: Nearest
    k: int
    density_k: int
    inclusive: bool
    ceiling: Ceiling | None
    second: Array | None = None

    @property
    def dense(self) -> bool:
        """Whether there are rows enough for the radii of density and coverage."""
        return self.nearest.sq.shape[1] >= self.density_k
