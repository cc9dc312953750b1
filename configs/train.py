"""Training of the packaged generators: `--config=configs/train.py:dcgan` or `:sngan`.

Needs the 60,000 training images of Fashion-MNIST (Debian package `dataset-fashion-mnist`, or a
folder with its idx files).
"""

import ml_collections


def get_config(generator: str = "dcgan") -> ml_collections.ConfigDict:
    """Returns the training configuration of `generator` ('dcgan' or 'sngan')."""
    config = ml_collections.ConfigDict()
    config.generator = generator
    config.images = "/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz"
    config.seed = 0
    config.batch_size = {"dcgan": 64}.get(generator, 32)
    config.steps = {"dcgan": 7_000}.get(generator, 9_000)
    config.learning_rate = 4e-4  # of both networks, decayed linearly to zero over the last half
    config.beta1 = 0.0
    config.beta2 = 0.99
    config.ema_decay = 0.999
    config.log_every = 100
    config.checkpoint_every = 250
    config.standing_batches = 200  # batches that re-estimate the batch norm of the averaged weights
    return config
