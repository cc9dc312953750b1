r"""LSUN: StyleGAN2 of dogs at 256 pixels, or SNGAN of bedrooms at 128 with `:bedroom`.

- `dog`: lsundog-res256-paper256-kimg100000-noaug.pkl, 282 MB, transfer-learning-source-nets of
  NVlabs/stylegan2-ada-pytorch: 24.8 million parameters, 100 MB at full precision, 13.3 MB at 4
  bits. The pickle holds G, D and G_ema; only G_ema is used, and no code in the pickle is run.
- `bedroom`: netG_100000_steps.pth of kwotsin/mimicry (model zoo, LSUN-Bedroom, SNGAN 128×128): 32.2
  million parameters, 129 MB at full precision, 16.3 MB at 4 bits.

Real images: 2n images of the LSUN category in the folder `data/lsun_dog` or `data/lsun_bedroom`,
cropped and resized to the generator's side; half are for the ceiling. Features: VGG16
(vgg16-397923af.pth of torchvision, 553 MB, in the folder `weights`).

    python main.py --config=configs/lsun.py --dry_run
    python -m checkpoints_tools.inspect lsundog-res256-paper256-kimg100000-noaug.pkl
    python -m checkpoints_tools.convert --source=stylegan2 --output=checkpoints/lsun_dog \
        --input=lsundog-res256-paper256-kimg100000-noaug.pkl
    python -m checkpoints_tools.verify checkpoints/lsun_dog
    python main.py --config=configs/lsun.py --workdir=runs/lsun_dog

15 rows. Computed, not measured: `dog` takes 11e15 floating-point operations, 20 minutes at
10 TFLOP/s, 20 hours on two cores (150 GFLOP/s); `bedroom` takes 8e15, 13 minutes or 15 hours.
"""

import ml_collections

from configs import default
from lsh_gan.errors import choose

RUNS = {
    "dog": {
        "family": "stylegan2",
        "options": {"channels": (512, 512, 512, 512, 256, 128, 64)},
        "source": "stylegan2",
        "file": "lsundog-res256-paper256-kimg100000-noaug.pkl",
        "origin": "NVlabs/stylegan2-ada-pytorch, transfer-learning-source-nets, 282 MB",
    },
    "bedroom": {
        "family": "sngan",
        "options": {
            "base_channels": 1024,
            "channels": (1024, 512, 256, 128, 64),
            "image_channels": 3,
            "upsample": "bilinear",
        },
        "source": "mimicry",
        "file": "netG_100000_steps.pth",
        "origin": "kwotsin/mimicry, model zoo, LSUN-Bedroom, SNGAN 128×128",
    },
}
SIDES = {"dog": 256, "bedroom": 128}


def get_config(category: str = "dog") -> ml_collections.ConfigDict:
    """Returns the configuration of a run, a key of `RUNS`."""
    described = choose("LSUN run", category, RUNS)
    config = default.get_config()
    config.generators = (f"checkpoints/lsun_{category}",)
    config.expected[f"lsun_{category}"] = described
    config.num_samples = config.reference.num_images = 10_000
    config.batch_size = 16
    config.reference.images = f"data/lsun_{category}"
    config.reference.side = SIDES[category]
    config.features.name = "vgg16"
    config.features.side = 224
    config.features.weights = "weights/vgg16-397923af.pth"
    return config
