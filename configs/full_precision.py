"""How good the shipped generators are: n = m = 10,000, no compression.

Command: `python main.py --config=configs/full_precision.py --workdir=runs/full_precision`.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration."""
    config = default.get_config()
    config.num_samples = 10_000
    config.reference.num_images = 10_000
    config.compression.bits = ()
    return config
