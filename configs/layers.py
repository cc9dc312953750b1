"""Which layers suffer: each layer of the shipped generators compressed alone, to 4, 3 and 2 bits.

Leaves in the work folder, besides a sweep's files, `layers.md` (a line a layer: threshold, share
clipped, SQNR, drops of precision and recall) and `layers_GENERATOR.png`.

Command: `python main.py --config=configs/layers.py --workdir=runs/layers`.
4 minutes on two cores with other work on them.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration."""
    config = default.get_config()
    config.num_samples = 2_000
    config.reference.num_images = 2_000
    config.compression.bits = (4, 3, 2)
    config.compression.clipping = ("mse",)
    config.compression.layerwise = True
    config.metrics = ("knn", "lsh")
    return config
