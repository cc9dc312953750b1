"""Feature networks turn images into feature vectors, with each network's exact preprocessing."""

from lsh_gan.features.network import (
    GIVEN,
    FeatureNetwork,
    check_side,
    dim_of,
    embed,
    given,
    load,
    own,
    stream,
    weight_file,
)
from lsh_gan.features.registry import FEATURES, FeatureSpec

__all__ = [
    "FEATURES", "GIVEN", "FeatureNetwork", "FeatureSpec", "check_side", "dim_of", "embed", "given",
    "load", "own", "stream", "weight_file",
]  # fmt: skip
