"""EfficientNet-Lite2 and the thin ResNet-50 against their originals, with published weights."""

import numpy as np
import onnx
import onnxruntime
import pytest
from golden import FOLDER, assert_close

from lsh_gan import features
from lsh_gan.features.registry import FEATURES


@pytest.fixture(scope="module")
def images():
    """Noise, and a ramp of another tint in each channel: uint8 `[2, 64, 64, 3]`."""
    noise = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    ramp = np.add.outer(np.arange(64) * 3, np.arange(64))[..., None] + np.array([0, 20, 40])
    noise[1] = np.clip(ramp, 0, 255)
    return noise


def test_efficientnet_lite2_matches_torch(images):
    """The golden is the network in torch 2.13.0 functions; 1.9e-6 was measured on CPU."""
    found = features.load("efficientnet_lite2", side=64)(images)
    with np.load(FOLDER / "efficientnet_lite2.npz") as golden:
        assert_close(found, golden["pooled"], 1e-5)


def test_open_nsfw_matches_onnxruntime(images):
    """At its own size; 2.3e-6 was measured on CPU."""
    model = onnx.load(FEATURES["open_nsfw"].default_file())
    pooled = "Reshape:0"
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(pooled, onnx.TensorProto.FLOAT, None)
    )
    session = onnxruntime.InferenceSession(model.SerializeToString())
    large = images.repeat(4, axis=1).repeat(4, axis=2)[:, :224, :224]
    bgr = large[..., ::-1].astype(np.float32) - np.array([104, 117, 123], np.float32)
    (expected,) = session.run([pooled], {"input:0": bgr})
    assert_close(features.load("open_nsfw")(large), expected, 1e-5)
