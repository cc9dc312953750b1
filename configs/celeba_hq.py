r"""CelebA-HQ, faces at 256 pixels: Progressive GAN.

File: celebaHQ_s6_i80000-6196db68.pth of facebookresearch/pytorch_GAN_zoo (its `celebAHQ-256`). It
holds generator, averaged generator and discriminator. Only the averaged generator is used: 23.0
million parameters, 92 MB at full precision, 11.6 MB at 4 bits.

Real images: 2n images of CelebA-HQ (30,000, made from CelebA by its authors' recipe) in the folder
`data/celeba_hq`, resized to 256 pixels; half are for the ceiling. Features: VGG16
(vgg16-397923af.pth of torchvision, 553 MB, in the folder `weights`).

    python main.py --config=configs/celeba_hq.py --dry_run
    python -m checkpoints_tools.inspect celebaHQ_s6_i80000-6196db68.pth
    python -m checkpoints_tools.convert --source=progan --output=checkpoints/celeba_hq256 \
        --input=celebaHQ_s6_i80000-6196db68.pth
    python -m checkpoints_tools.verify checkpoints/celeba_hq256
    python main.py --config=configs/celeba_hq.py --workdir=runs/celeba_hq

15 rows. Computed, not measured: 11e15 floating-point operations, 20 minutes at 10 TFLOP/s, 20 hours
on two cores (150 GFLOP/s).
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration."""
    config = default.get_config()
    config.generators = ("checkpoints/celeba_hq256",)
    config.expected.celeba_hq256 = {
        "family": "progan",
        "options": {"channels": (512, 512, 512, 256, 128, 64)},
        "source": "progan",
        "file": "celebaHQ_s6_i80000-6196db68.pth",
        "origin": "facebookresearch/pytorch_GAN_zoo, celebAHQ-256",
    }
    config.num_samples = config.reference.num_images = 10_000
    config.batch_size = 16
    config.reference.images = "data/celeba_hq"
    config.reference.side = 256
    config.features.name = "vgg16"
    config.features.side = 224
    config.features.weights = "weights/vgg16-397923af.pth"
    return config
