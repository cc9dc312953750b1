"""DINOv2: a narrow copy against the original's functions in torch."""

import jax
import numpy as np
import pytest
from golden import FOLDER, assert_close, draw
from safetensors.numpy import save_file

from lsh_gan import features
from lsh_gan.features import dinov2, registry

DIM, DEPTH = 32, 2


def narrow_state(dim=DIM, depth=DEPTH):
    """Weights under the original's names; positions are learnt for 37 × 37 patches."""
    shapes = {
        "cls_token": ((1, 1, dim), "normal:0:1"),
        "pos_embed": ((1, 1 + 37**2, dim), "normal:0:1"),
        "patch_embed.proj.weight": ((dim, 3, 14, 14), "fan_in:1"),
        "patch_embed.proj.bias": ((dim,), "normal:0:0.1"),
    }
    for name in ("norm", *(f"blocks.{i}.norm{j}" for i in range(depth) for j in (1, 2))):
        shapes[f"{name}.weight"] = (dim,), "normal:1:0.2"
        shapes[f"{name}.bias"] = (dim,), "normal:0:0.2"
    for i in range(depth):
        for name, out, into in (
            ("attn.qkv", 3 * dim, dim), ("attn.proj", dim, dim),
            ("mlp.fc1", 4 * dim, dim), ("mlp.fc2", dim, 4 * dim),
        ):  # fmt: skip
            shapes[f"blocks.{i}.{name}.weight"] = (out, into), "fan_in:2"
            shapes[f"blocks.{i}.{name}.bias"] = (out,), "normal:0:0.2"
        for name in ("ls1", "ls2"):
            shapes[f"blocks.{i}.{name}.gamma"] = (dim,), "normal:0.5:0.2"
    return {name: draw(name, *of) for name, of in shapes.items()}


@pytest.fixture
def narrow(monkeypatch):
    """The registry's network as narrow as `narrow_state`."""
    spec = registry.FEATURES["dinov2_vits14"]._replace(
        module=dinov2.DinoV2(DIM, DEPTH, heads=4), dim=DIM
    )
    monkeypatch.setitem(registry.FEATURES, spec.name, spec)
    return spec.name


def images():
    """Noise, a ramp of another tint in each channel, and weak noise: uint8 `[3, 224, 224, 3]`."""
    noise = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    ramp = np.add.outer(np.arange(224), np.arange(224) // 2)[..., None] + np.array([0, 20, 40])
    noise[1], noise[2] = np.clip(ramp, 0, 255), noise[2] // 8 + 100
    return noise


def test_images_to_features_as_in_torch(narrow, tmp_path):
    """The golden is the network in torch 2.13.0 functions; 3.6e-6 was measured on CPU."""
    np.savez(tmp_path / "narrow.npz", **narrow_state())
    network = features.load(narrow, weights=tmp_path / "narrow.npz")
    with np.load(FOLDER / "dinov2_narrow.npz") as golden:
        assert_close(network(images()), golden["features"], 1e-5)


def hub_state():
    """`narrow_state` as transformers saves it: facebook/dinov2-small and its like."""
    state = narrow_state()
    hub = {
        "embeddings.cls_token": state["cls_token"],
        "embeddings.mask_token": np.zeros((1, DIM), np.float32),
        "embeddings.position_embeddings": state["pos_embed"],
    }
    for kind in ("weight", "bias"):
        hub[f"embeddings.patch_embeddings.projection.{kind}"] = state[f"patch_embed.proj.{kind}"]
        hub[f"layernorm.{kind}"] = state[f"norm.{kind}"]
        for i in range(DEPTH):
            old, new = f"blocks.{i}.", f"encoder.layer.{i}."
            parts = np.split(state[f"{old}attn.qkv.{kind}"], 3)
            for part, tensor in zip(("query", "key", "value"), parts, strict=True):
                hub[f"{new}attention.attention.{part}.{kind}"] = tensor
            hub[f"{new}attention.output.dense.{kind}"] = state[f"{old}attn.proj.{kind}"]
            for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                hub[f"{new}{name}.{kind}"] = state[f"{old}{name}.{kind}"]
            for j in (1, 2):
                hub[f"{new}layer_scale{j}.lambda1"] = state[f"{old}ls{j}.gamma"]
    return hub


def test_weights_of_the_hub_are_those_of_the_original(narrow, tmp_path):
    np.savez(tmp_path / "original.npz", **narrow_state())
    save_file(hub_state(), tmp_path / "model.safetensors")
    networks = [
        features.load(narrow, weights=tmp_path / name)
        for name in ("original.npz", "model.safetensors")
    ]
    jax.tree.map(np.testing.assert_array_equal, *(network.variables for network in networks))


def test_weights_with_registers_are_refused(narrow, tmp_path):
    registers = np.zeros((1, 4, DIM), np.float32)
    for name, state in (
        ("register_tokens", narrow_state()),
        ("embeddings.register_tokens", hub_state()),
    ):
        np.savez(tmp_path / "reg4.npz", **state, **{name: registers})
        with pytest.raises(
            ValueError, match=r"reg4\.npz: holds register_tokens; expected DINOv2 w"
        ):
            features.load(narrow, weights=tmp_path / "reg4.npz")


def test_weights_of_another_size_are_refused(tmp_path):
    for depth, said in ((DEPTH, "has no tensor .*blocks"), (12, r"shape .*32.*expects .*384")):
        np.savez(tmp_path / "narrow.npz", **narrow_state(depth=depth))
        with pytest.raises(ValueError, match=rf"narrow\.npz: .*{said}"):
            features.load("dinov2_vits14", weights=tmp_path / "narrow.npz")


def test_positions_learnt_for_this_size_stay():
    learnt = draw("positions", (257, 8), "normal:0:1")
    state = {"pos_embed": learnt[None], "cls_token": np.zeros((1, 1, 8), np.float32)}
    found = dinov2.convert(state, ("tokens",))
    np.testing.assert_array_equal(np.concatenate([*found.values()]), learnt)


def test_the_largest_network_is_what_its_name_says():
    spec = registry.FEATURES["dinov2_vitl14"]
    images = jax.ShapeDtypeStruct((2, 224, 224, 3), np.float32)
    out, variables = jax.eval_shape(spec.module.init_with_output, jax.random.key(0), images)
    assert out.shape == (2, 1024)
    # 304.4 million in the paper, with the token of masks and 1,370 positions; less two scales of
    # 1024 a block, which are in the layers before them.
    count = sum(x.size for x in jax.tree.leaves(variables))
    assert count == 304_368_640 - 1024 - (1370 - 257 + 1) * 1024 - 24 * 2 * 1024
