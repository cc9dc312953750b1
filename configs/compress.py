"""One generator against its own uncompressed images: the defaults of `lsh-gan compress FILE`.

It finds the smallest width that keeps 95 % of precision and of recall by KNN, n = m = 2,000. With
the generator's own images as the reference, scores say how far compression moves it, and nothing
about its quality. `--config.reference.images=FOLDER` compares with real images instead.

Command: `lsh-gan compress dcgan`; from a checkout `python -m lsh_gan.experiment.cli ...`.
1 minute on two cores. Writes `dcgan_6bits.safetensors`.
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
