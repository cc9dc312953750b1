r"""FFHQ, faces: StyleGAN2 at 1024 pixels, or at 256 with `--config=configs/ffhq.py:256`.

- `1024`: ffhq.pkl, 364 MB, from the pretrained networks of NVlabs/stylegan2-ada-pytorch; 30.4
  million parameters, 133 MB at full precision, 26.6 MB at 4 bits (11 MB are constant noise).
- `256`: ffhq-res256-mirror-paper256-noaug.pkl, 280 MB, from its transfer-learning-source-nets; 24.8
  million parameters, 100 MB at full precision, 13.3 MB at 4 bits.

The pickles hold G, D and G_ema; only G_ema is used, and no code in the pickles is run.

Real images: PNG files of the FFHQ data set (NVlabs/ffhq-dataset) in the folder `data/ffhq1024`, or
in `data/ffhq256` as dataset_tool.py of stylegan2-ada-pytorch scales them. They are not resized. 2n
of them are drawn, half for the ceiling, and decoded a batch at a time. Features: VGG16
(vgg16-397923af.pth of torchvision, 553 MB, in the folder `weights`).

    python main.py --config=configs/ffhq.py --dry_run
    python -m checkpoints_tools.inspect ffhq.pkl
    python -m checkpoints_tools.convert --source=stylegan2 --input=ffhq.pkl \
        --output=checkpoints/ffhq1024
    python -m checkpoints_tools.verify checkpoints/ffhq1024
    python main.py --config=configs/ffhq.py --workdir=runs/ffhq1024

15 rows. Computed, not measured: `1024` takes 8e15 floating-point operations, a quarter of an hour
at 10 TFLOP/s, 15 hours on two cores (150 GFLOP/s); `256` takes 11e15, 20 minutes or 20 hours.
"""

import ml_collections

from configs import default
from lsh_gan.errors import choose

RUNS = {
    "1024": {
        "file": "ffhq.pkl",
        "origin": "NVlabs/stylegan2-ada-pytorch, pretrained networks, 364 MB",
        "channels": (512, 512, 512, 512, 512, 256, 128, 64, 32),
        "num_images": 2_500,
    },
    "256": {
        "file": "ffhq-res256-mirror-paper256-noaug.pkl",
        "origin": "NVlabs/stylegan2-ada-pytorch, transfer-learning-source-nets, 280 MB",
        "channels": (512, 512, 512, 512, 256, 128, 64),
        "num_images": 10_000,
    },
}


def get_config(resolution: str = "1024") -> ml_collections.ConfigDict:
    """Returns the configuration of a run, a key of `RUNS`."""
    run = choose("FFHQ run", resolution, RUNS)
    config = default.get_config()
    config.generators = (f"checkpoints/ffhq{resolution}",)
    config.expected[f"ffhq{resolution}"] = {
        "family": "stylegan2",
        "options": {"channels": run["channels"]},
        "source": "stylegan2",
        "file": run["file"],
        "origin": run["origin"],
    }
    config.num_samples = config.reference.num_images = run["num_images"]
    config.batch_size = 16
    config.reference.images = f"data/ffhq{resolution}"
    config.features.name = "vgg16"
    config.features.side = 224
    config.features.weights = "weights/vgg16-397923af.pth"
    return config
