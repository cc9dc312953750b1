"""A complete run at a tiny size, in under a minute; the end-to-end test uses it.

Command: `python main.py --config=configs/smoke.py --workdir=runs/smoke`.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration of the smoke test."""
    config = default.get_config()
    config.num_samples = 250
    config.batch_size = 128
    config.reference.num_images = 250
    config.features.side = 32
    config.compression.bits = (4, 2)
    config.compression.clipping = ("mse",)
    return config
