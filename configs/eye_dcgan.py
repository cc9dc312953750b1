r"""A class-conditional DCGAN of painted eyes from PyPI, against its own uncompressed samples.

The reference is 5,000 uncompressed samples of the same generator, not real images: scores say how
far compression moves the generator from itself, and nothing about its quality. The ceiling is the
score of 5,000 other uncompressed samples.

File: generator_model_state.pth in the Python package `omniart-eye-generator` 0.1 (48 MB, MIT):
128×128 RGB, 12.9 million parameters, 8 colours of eyes (amber, blue, brown, grey, greyscale, green,
hazel, red). The network takes the latent, followed by the one-hot colour. The package is
downloaded, not installed, and none of its code is run:

    pip download --no-deps --dest=downloads omniart-eye-generator==0.1
    python -m zipfile -e downloads/omniart_eye_generator-0.1-py3-none-any.whl downloads
    python -m checkpoints_tools.convert --source=dcgan --set=num_classes=8 \
        --input=downloads/omniart_eye_generator/generator_model_state.pth \
        --output=checkpoints/eye_dcgan
    python -m checkpoints_tools.verify checkpoints/eye_dcgan
    python main.py --config=configs/eye_dcgan.py --workdir=runs/eye_dcgan

15 rows; an estimated 20 minutes on two cores.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration."""
    config = default.get_config()
    config.generators = ("checkpoints/eye_dcgan",)
    config.expected.eye_dcgan = {
        "family": "dcgan",
        "options": {
            "latent_size": 100,
            "channels": (1024, 512, 256, 128, 64),
            "image_channels": 3,
            "num_classes": 8,
        },
        "source": "dcgan --set=num_classes=8",
        "file": "downloads/omniart_eye_generator/generator_model_state.pth",
        "origin": "PyPI package omniart-eye-generator 0.1, 48 MB",
    }
    config.reference.samples_of = config.generators[0]
    config.reference.seed = 1_000  # not one of `seeds`
    return config
