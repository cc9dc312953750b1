r"""CIFAR-10, ten classes at 32 pixels: StyleGAN2-ADA with classes, and SNGAN without.

- cifar10.pkl from the pretrained networks of NVlabs/stylegan2-ada-pytorch: 20.2 million parameters,
  81 MB at full precision, 10.2 MB at 4 bits. The pickle holds G, D and G_ema; only G_ema is used,
  and no code in the pickle is run. Classes are drawn uniformly.
- netG_100000_steps.pth of kwotsin/mimicry (model zoo, CIFAR-10, SNGAN 32×32): 4.3 million
  parameters, 17 MB at full precision, 2.2 MB at 4 bits.

Real images: the 50,000 training images in the folder `data/cifar10`, 32×32 PNG files, as
dataset_tool.py of stylegan2-ada-pytorch makes them. Features: VGG16 (vgg16-397923af.pth of
torchvision, 553 MB, in the folder `weights`).

    python main.py --config=configs/cifar10.py --dry_run
    python -m checkpoints_tools.inspect cifar10.pkl
    python -m checkpoints_tools.convert --source=stylegan2 --input=cifar10.pkl \
        --output=checkpoints/cifar10_stylegan2
    python -m checkpoints_tools.convert --source=mimicry --input=netG_100000_steps.pth \
        --output=checkpoints/cifar10_sngan
    python -m checkpoints_tools.verify checkpoints/cifar10_stylegan2
    python main.py --config=configs/cifar10.py --workdir=runs/cifar10

30 rows. Computed, not measured: 12e15 floating-point operations, nearly all of them in VGG16, take
20 minutes at 10 TFLOP/s, 22 hours on two cores (150 GFLOP/s).
"""

import ml_collections

from configs import default

EXPECTED = {
    "cifar10_stylegan2": {
        "family": "stylegan2",
        "options": {"channels": (512, 512, 512, 512), "mapping_layers": 2, "num_classes": 10},
        "source": "stylegan2",
        "file": "cifar10.pkl",
        "origin": "NVlabs/stylegan2-ada-pytorch, pretrained networks",
    },
    "cifar10_sngan": {
        "family": "sngan",
        "options": {
            "base_channels": 256,
            "channels": (256, 256, 256),
            "image_channels": 3,
            "upsample": "bilinear",
        },
        "source": "mimicry",
        "file": "netG_100000_steps.pth",
        "origin": "kwotsin/mimicry, model zoo, CIFAR-10, SNGAN 32×32",
    },
}


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration."""
    config = default.get_config()
    config.generators = tuple(f"checkpoints/{name}" for name in EXPECTED)
    for name, described in EXPECTED.items():
        config.expected[name] = described
    config.num_samples = config.reference.num_images = 10_000
    config.reference.images = "data/cifar10"
    config.features.name = "vgg16"
    config.features.side = 224
    config.features.weights = "weights/vgg16-397923af.pth"
    return config
