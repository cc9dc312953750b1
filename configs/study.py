"""The study: one of its data sets, with all of its generators: `--config=configs/study.py:NAME`.

| name | generators | reference |
|---|---|---|
| `fashion_mnist` | `dcgan`, `sngan` | held-out images |
| `mnist` | `dcgan_mnist` | held-out images |
| `stacked_mnist` | `dcgan_stacked_mnist` | held-out images, in colour |
| `animals` | `dcgan_animals` | held-out images |
| `faces` | `checkpoints/face_dcgan` (see `configs/face_dcgan.py`) | own samples |
| `eyes` | `checkpoints/eye_dcgan` (see `configs/eye_dcgan.py`) | own samples |
| `galaxies` | `checkpoints/galaxies` (see `configs/galaxies.py`), a diffusion model | own samples |

Full precision, and 8 to 2 bits with each of four clipping methods, for three seeds: 87 rows per
generator. n = m = 10,000, or the number of held-out images if there are fewer.
`python -m benchmarks.study` runs all data sets and makes the verdicts of docs/study.md.
"""

import ml_collections

from configs import default, eye_dcgan, face_dcgan, galaxies
from lsh_gan.errors import choose

GENERATORS = {
    "fashion_mnist": ("dcgan", "sngan"),
    "mnist": ("dcgan_mnist",),
    "stacked_mnist": ("dcgan_stacked_mnist",),
    "animals": ("dcgan_animals",),
    "faces": ("checkpoints/face_dcgan",),
    "eyes": ("checkpoints/eye_dcgan",),
    "galaxies": ("checkpoints/galaxies",),
}
OWN_SAMPLES = {"faces": face_dcgan, "eyes": eye_dcgan, "galaxies": galaxies}
# Number of held-out images; the other data sets have none.
HELD_OUT = {"fashion_mnist": 10_000, "mnist": 4_000, "stacked_mnist": 4_000, "animals": 3_887}
OWN = 10_000  # number of own samples that replace them


def get_config(name: str = "fashion_mnist") -> ml_collections.ConfigDict:
    """Returns the configuration of a data set."""
    generators = choose("data set", name, GENERATORS)
    config = OWN_SAMPLES.get(name, default).get_config()
    config.generators = generators
    config.compression.clipping = ("none", "mse", "aciq_gauss", "percentile")
    config.seeds = (0, 1, 2)
    config.metrics = ("knn", "lsh_knn", "lsh", "kid", "fid")
    config.num_samples = config.reference.num_images = HELD_OUT.get(name, OWN)
    if name in HELD_OUT:
        config.reference.images = name
    return config
