"""One generator against its own uncompressed images: what `lsh-gan compress FILE` goes by.

The smallest width whose images keep 95 % of precision and of recall by KNN, n = m = 2,000, with the
generator's own images as the reference: how far compression moves it, and nothing of how good it
is. `--config.reference.images=FOLDER` compares with real images instead.

Command: `lsh-gan compress dcgan`; from a checkout `python -m lsh_gan.experiment.cli ...`.
1 minute on two cores. Leaves `dcgan_6bits.safetensors`.
"""

import ml_collections

from configs import default


def get_config(generator: str = "dcgan") -> ml_collections.ConfigDict:
    """Returns the configuration for a checkpoint folder, a packed file or a shipped generator."""
    config = default.get_config()
    config.generators = (generator,)
    config.reference.images = ""
    config.reference.samples_of = generator
    config.reference.seed = 2_000
    config.compression.clipping = ("mse",)
    config.search.share = 0.95
    return config
