r"""A diffusion model of galaxies from PyPI, compressed, against its own uncompressed samples.

The score network runs 35 times per image, so that the error of its parameters grows over the steps.
The reference is 5,000 uncompressed samples of the same model, not real images: scores say how far
compression moves the model from itself, and nothing about its quality. The ceiling is the score of
5,000 other uncompressed samples.

File: eqx_hsc_ScoreNet32.eqx in the Python package `galaxygrad` 0.1.9 (37 MB, not shipped here since
no licence is stated): an MLP-mixer of 0.6 million parameters, trained on 32×32 images of the Hyper
Suprime-Cam survey. The package is downloaded, not installed, and none of its code is run:

    pip download --no-deps --dest=downloads galaxygrad==0.1.9
    python -m zipfile -e downloads/galaxygrad-0.1.9-py3-none-any.whl downloads
    python -m checkpoints_tools.convert --source=galaxygrad --output=checkpoints/galaxies \
        --input=downloads/galaxygrad/eqx_hsc_ScoreNet32.eqx
    python -m checkpoints_tools.verify checkpoints/galaxies
    python main.py --config=configs/galaxies.py --workdir=runs/galaxies

15 rows; an estimated 10 minutes on two cores.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration."""
    config = default.get_config()
    config.generators = ("checkpoints/galaxies",)
    config.expected.galaxies = {
        "family": "mixer_diffusion",
        "options": {"num_steps": 35, "black": -1.0, "white": 7.0},
        "source": "galaxygrad",
        "file": "downloads/galaxygrad/eqx_hsc_ScoreNet32.eqx",
        "origin": "PyPI package galaxygrad 0.1.9, 37 MB",
    }
    config.reference.samples_of = config.generators[0]
    config.reference.seed = 1_000  # not one of `seeds`
    return config
