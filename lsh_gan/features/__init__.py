"""Feature networks: images to feature vectors, with each network's exact preprocessing."""

from lsh_gan.features.network import FeatureNetwork, embed, feature_shape, load, weight_file
from lsh_gan.features.registry import FEATURES, FeatureSpec

__all__ = [
    "FEATURES",
    "FeatureNetwork",
    "FeatureSpec",
    "embed",
    "feature_shape",
    "load",
    "weight_file",
]
