"""Layer sensitivity: each layer of the shipped generators compressed alone, to 4, 3 and 2 bits.

Besides the files of a sweep, it writes to the work folder `layers.md` (a line per layer: threshold,
share clipped, SQNR, drops of precision and recall) and `layers_GENERATOR.png`.

Command: `python main.py --config=configs/layers.py --workdir=runs/layers`.
4 minutes on two busy cores.
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
