r"""ImageNet: BigGAN and BigGAN-deep at 128 pixels, or BigGAN-deep at 256 with `:256`.

- `128`: G_ema.pth, 282 MB, from checkpoint "138k" of ajbrock/BigGAN-PyTorch; 70.4 million
  parameters, 282 MB at full precision, 36 MB at 4 bits.
- `128`: biggan-deep-128, 201 MB, from huggingface/pytorch-pretrained-BigGAN; 50.2 million
  parameters, 209 MB at full precision, 35 MB at 4 bits.
- `256`: biggan-deep-256, 224 MB, from the same project; 55.7 million, 233 MB and 39 MB.

The last two are folders with pytorch_model.bin and config.json. The project offers these files
under names such as biggan-deep-128-config.json: rename them. Classes are drawn uniformly. Latents
of BigGAN-deep are normal, truncated to [-2, 2], times `truncation_psi`, as its authors draw them.

Real images: 2n images of ImageNet (ILSVRC2012, validation) in the folder `data/imagenet`, cropped
and resized to the generators' side; half are for the ceiling. Features: VGG16 (vgg16-397923af.pth
of torchvision, 553 MB, in the folder `weights`).

    python main.py --config=configs/imagenet.py --dry_run
    python -m checkpoints_tools.inspect G_ema.pth
    python -m checkpoints_tools.convert --source=biggan --input=G_ema.pth \
        --output=checkpoints/biggan128
    python -m checkpoints_tools.convert --source=biggan_deep_hf --input=biggan-deep-128 \
        --output=checkpoints/biggan_deep128
    python -m checkpoints_tools.verify checkpoints/biggan128
    python main.py --config=configs/imagenet.py --workdir=runs/imagenet128

30 rows, or 15. Computed, not measured: `128` takes 16e15 floating-point operations, half an hour
at 10 TFLOP/s, 30 hours on two cores (150 GFLOP/s); `256` takes 13e15, 20 minutes or a day.
"""

import ml_collections

from configs import default
from lsh_gan.errors import choose

_HUGGING_FACE = (
    "huggingface/pytorch-pretrained-BigGAN, a folder with pytorch_model.bin, config.json"
)


def _deep(side: str, blocks: tuple[tuple[int, bool], ...]) -> dict:
    options = {"blocks": blocks, "attention": (8,), "statistics_rows": 51}
    return {
        "family": "biggan_deep",
        "options": options,
        "source": "biggan_deep_hf",
        "file": f"biggan-deep-{side}",
        "origin": _HUGGING_FACE,
    }


def _pairs(*channels: int) -> tuple[tuple[int, bool], ...]:
    """Returns blocks, alternately without and with upsampling."""
    return tuple((features, i % 2 == 1) for i, features in enumerate(channels))


EXPECTED = {
    "biggan128": {
        "family": "biggan",
        "options": {"epsilon": 1e-5},
        "source": "biggan",
        "file": "G_ema.pth",
        "origin": 'ajbrock/BigGAN-PyTorch, checkpoint "138k", 282 MB',
    },
    "biggan_deep128": _deep("128", _pairs(2048, 2048, 2048, 1024, 1024, 512, 512, 256, 256, 128)),
    "biggan_deep256": _deep(
        "256", _pairs(2048, 2048, 2048, 1024, 1024, 1024, 1024, 512, 512, 256, 256, 128)
    ),
}
RUNS = {"128": ("biggan128", "biggan_deep128"), "256": ("biggan_deep256",)}


def get_config(resolution: str = "128") -> ml_collections.ConfigDict:
    """Returns the configuration of a run, a key of `RUNS`."""
    names = choose("ImageNet run", resolution, RUNS)
    config = default.get_config()
    config.generators = tuple(f"checkpoints/{name}" for name in names)
    for name in names:
        config.expected[name] = EXPECTED[name]
    config.num_samples = config.reference.num_images = 10_000
    config.batch_size = 64
    config.reference.images = "data/imagenet"
    config.reference.side = int(resolution)
    config.features.name = "vgg16"
    config.features.side = 224
    config.features.weights = "weights/vgg16-397923af.pth"
    return config
