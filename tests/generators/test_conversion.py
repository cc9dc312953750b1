"""Conversion of files: what is recognised, what comes out, and what is refused by name."""

import logging
import pickle
import re
import sys

import jax
import numpy as np
import pytest
from golden import FOLDER, assert_close, load_golden
from tensor_file_writers import write_state

from checkpoints_tools.convert import convert, main, parse_setting
from checkpoints_tools.converters import SOURCES, biggan, convert_state
from checkpoints_tools.converters.files import find
from checkpoints_tools.inspect import describe
from checkpoints_tools.verify import verify
from lsh_gan import generators, tensor_files
from lsh_gan.compression import CompressionSpec, pack, save_packed

FILES = FOLDER / "files"
MIMICRY = FILES / "mimicry_sngan32.netG_100000_steps.legacy.pth"
WHOLE_FILES = {
    "mimicry_sngan32": (MIMICRY, "mimicry", "model_state_dict"),
    "pgan_zoo_32": (FILES / "pgan_zoo_32_s3_i100.pth", "progan", "avgG"),
    "r3gan_32": (FILES / "r3gan_32.pkl", "r3gan", "G_ema"),
    "stylegan2_uncond_skip": (FILES / "stylegan2_uncond_skip.pkl", "stylegan2", "G_ema"),
}


def save(path, state):
    np.savez(path, **state)
    return path


@pytest.fixture(scope="module")
def dcgan():
    return load_golden("dcgan_tutorial_64").state()


@pytest.mark.parametrize("name", WHOLE_FILES)
def test_file_to_images(name, tmp_path):
    file, source, prefix = WHOLE_FILES[name]
    metadata = convert(file, tmp_path / name)
    assert (metadata["source"], metadata["input_prefix"]) == (source, prefix)
    assert metadata["key_map_version"] == 1
    assert len(metadata["input_sha256"]) == 64
    golden = load_golden(name)
    images = tmp_path / "images.npz"
    # The goldens' own tolerances are 1e-5 and 2e-5 of the largest value.
    np.savez(
        images, z=golden.inputs["z"], images=golden.outputs["image"], tolerance=golden.tolerance
    )
    assert "differ from" in verify(tmp_path / name, images)
    if name != "mimicry_sngan32":
        return
    np.savez(images, z=golden.inputs["z"], images=golden.outputs["image"] + 0.01)
    with pytest.raises(ValueError, match=r"images differ by .* allowed is 1e-05"):
        verify(tmp_path / name, images)


def test_settings_are_read_from_the_objects_around():
    found = find(WHOLE_FILES["stylegan2_uncond_skip"][0], SOURCES)
    assert found.settings == {"conv_clamp": None, "lr_multiplier": 0.01, "activation": "lrelu"}
    found = find(WHOLE_FILES["pgan_zoo_32"][0], SOURCES)
    assert found.settings == {
        "alpha": 0, "leakyReluLeak": 0.2, "lossCriterion": "WGANGP",
        "perChannelNormalization": True, "equalizedlR": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"module.{name}",
        lambda name: f"checkpoint.netG_state_dict.module.{name}",
        lambda name: "G_ema." + name.replace("main.", "stages.stage_"),
        lambda name: name.removeprefix("main."),
    ],
    ids=["dataparallel", "deep", "other names", "bare"],
)
def test_dcgan_whatever_the_layers_are_called(rename, dcgan, tmp_path):
    file = save(tmp_path / "gan.npz", {rename(name): array for name, array in dcgan.items()})
    found = find(file, SOURCES)
    assert found.source.name == "dcgan"
    ours = convert_state(found.state, found.source).variables
    plain = convert_state(dcgan, SOURCES["dcgan"]).variables
    np.testing.assert_array_equal(
        ours["params"]["up_1"]["kernel"], plain["params"]["up_1"]["kernel"]
    )
    # Transposed convolution: input, output, height, width → height, width, input, output.
    weight = next(array for name, array in dcgan.items() if name == "main.6.weight")
    np.testing.assert_array_equal(
        ours["params"]["up_1"]["kernel"], np.moveaxis(weight, (2, 3), (0, 1))
    )


def test_every_missing_and_unexpected_tensor_is_listed():
    state = load_golden("mimicry_sngan32").state()
    state["block2.c1.weights"] = state.pop("block2.c1.bias")
    state["extra"] = np.zeros(3, np.float32)
    del state["block3.b1.weight"]
    with pytest.raises(ValueError, match="missing tensors") as error:
        convert_state(state, SOURCES["mimicry"])
    message = str(error.value)
    assert "block2.c1.bias (nearest: block2.c1.weights)" in message
    assert "block3.b1.weight (nearest:" in message
    assert "unexpected tensors: block2.c1.weights (nearest: block3.b1.weight), extra (" in message


def test_a_tensor_that_decides_the_architecture_is_missing():
    state = load_golden("mimicry_sngan32").state()
    del state["c5.weight"]
    with pytest.raises(ValueError, match=r"tensor c5.weight is missing"):
        convert_state(state, SOURCES["mimicry"])


def test_wrong_shapes_and_values_are_listed():
    state = load_golden("mimicry_sngan32").state()
    state["block3.c2.bias"] = np.zeros(7, np.float32)
    state["b5.weight"] = np.zeros(9, np.float32)
    state["c5.bias"][1] = np.nan
    with pytest.raises(ValueError, match=r"b5.weight \(9,\) gives .*expected \(16,\)") as error:
        convert_state(state, SOURCES["mimicry"])
    assert "block3.c2.bias (7,) gives params/block_1/conv_2/bias the shape (7,)" in str(error.value)
    assert "c5.bias (3,): NaN or Inf" in str(error.value)


def test_a_checkpoint_of_another_file_is_replaced_with_a_word(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "absl"):
        for file in (MIMICRY, MIMICRY, FILES / "stylegan2_uncond_skip.pkl"):
            convert(file, tmp_path / "out")
    (said,) = [record.getMessage() for record in caplog.records if record.name == "absl"]
    assert f"held sngan, made of {MIMICRY.name}; replaced" in said


def test_the_current_folder_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    convert(MIMICRY, ".")
    assert generators.load(tmp_path).name == tmp_path.name


def test_wrong_source_and_unknown_source(tmp_path):
    with pytest.raises(ValueError, match=r"not a generator of source 'progan'.*like 'mimicry'"):
        convert(MIMICRY, tmp_path / "out", source="progan")
    with pytest.raises(ValueError, match=r"'mimicri' is unknown; did you mean 'mimicry'"):
        convert(MIMICRY, tmp_path / "out", source="mimicri")
    with pytest.raises(ValueError, match=r"'mimicry' has no setting 'conv_clamp'"):
        convert(MIMICRY, tmp_path / "out", settings={"conv_clamp": 1})
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"--output=.*file: is a file; expected a folder"):
        convert("nothing", tmp_path / "file")
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_generator(tmp_path):
    shapes = {"conv1.weight": (8, 3, 4, 4), "conv2.weight": (16, 8, 4, 4), "out.weight": (1, 16)}
    discriminator = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    with pytest.raises(ValueError, match=r"first layer takes images, not a latent \(a discrim"):
        find(save(tmp_path / "d.npz", discriminator), SOURCES)
    optimizer = {"state.0.exp_avg": np.ones(3), "state.0.exp_avg_sq": np.ones(3)}
    with pytest.raises(ValueError, match="looks like an optimizer"):
        find(save(tmp_path / "o.npz", optimizer), SOURCES)
    with pytest.raises(ValueError, match=r"no known generator\. Known .* Generator\.from_torch"):
        find(save(tmp_path / "run.npz", optimizer | {"net.f.weight": np.ones((9, 5))}), SOURCES)
    with pytest.raises(FileNotFoundError, match="no such file"):
        find(tmp_path / "none.pth", SOURCES)


def test_networks_of_stylegan2_that_are_not_supported():
    state = load_golden("stylegan2_uncond_skip").state()
    flat = np.ones((4, 4), np.float32) / 16
    cases = [
        (
            {name.replace("b32", "b24"): array for name, array in state.items()},
            r"sides \[4, 8, 16, 24\]; expected powers of two",
        ),
        (
            {**state, "synthesis.b8.resample_filter": flat},
            r"b8.resample_filter is not the filter \[1, 3, 3, 1\]",
        ),
        (
            {n: a for n, a in state.items() if not n.startswith("synthesis.b4.torgb")},
            r"neither images of every block \(skip\) nor shortcuts",
        ),
    ]
    for changed, message in cases:
        with pytest.raises(ValueError, match=message):
            convert_state(changed, SOURCES["stylegan2"])


def test_a_biggan_without_spectral_norm(monkeypatch):
    state = load_golden("biggan_ajbrock_32_cifar").state()
    plain = {name: a for name, a in state.items() if not re.search(r"\.(u|sv)0$", name)}
    with pytest.raises(ValueError, match=r"no u0 of a spectral norm: .* --set=spectral_norm=false"):
        convert_state(plain, SOURCES["biggan"])
    given = {"spectral_norm": False}
    without = convert_state(plain, SOURCES["biggan"], given).variables
    monkeypatch.setattr(biggan, "_divide_by_iterated_norm", lambda weight, *_: weight)
    undivided = convert_state(state, SOURCES["biggan"]).variables
    jax.tree.map(np.testing.assert_array_equal, without, undivided)


def test_a_biggan_of_synchronized_norms():
    state = load_golden("biggan_ajbrock_32_cifar").state()
    sums = {}  # mybn counts the batches of its sums; four are exact
    for name, array in state.items():
        counted = name.replace(".stored_", ".bn.stored_")
        sums[counted] = array if counted == name else 4 * array
    counters = {n.replace("stored_mean", "accumulation_counter") for n in sums if "d_mean" in n}
    mybn = sums | {name: np.full(1, 4, np.float32) for name in counters}
    replicas = {name.replace(".stored_", ".bn.running_"): array for name, array in state.items()}
    expected = convert_state(state, SOURCES["biggan"]).variables
    for other in (mybn, replicas):
        assert SOURCES["biggan"].matches(other)
        ours = convert_state(other, SOURCES["biggan"]).variables
        jax.tree.map(np.testing.assert_array_equal, ours, expected)


def test_hugging_face_without_config_says_what_is_missing():
    state = load_golden("biggan_deep_hf_small32").state()
    with pytest.raises(ValueError, match=r"config.json only: 'layers' is missing"):
        convert_state(state, SOURCES["biggan_deep_hf"])


def test_unrecorded_settings_are_reported_as_assumed():
    converted = convert_state(load_golden("stylegan2_uncond_skip").state(), SOURCES["stylegan2"])
    assert converted.assumed == {"conv_clamp": 256.0, "lr_multiplier": 0.01, "activation": "lrelu"}
    assert convert_state({**load_golden("pgan_zoo_32").state()}, SOURCES["progan"]).assumed


def test_settings_of_the_command_line():
    assert parse_setting("conv_clamp=null") == ("conv_clamp", None)
    assert parse_setting('lossCriterion="MSE"') == ("lossCriterion", "MSE")
    for wrong in ("conv_clamp", "conv_clamp=off"):
        with pytest.raises(ValueError, match=f"--set={wrong}: expected NAME=VALUE in JSON"):
            parse_setting(wrong)


def test_stylegan2_without_noise_is_that_of_strength_0():
    state = load_golden("stylegan2_uncond_skip").state()
    none = {n: a for n, a in state.items() if "noise" not in n}
    zero = {n: a * (not n.endswith("noise_strength")) for n, a in state.items()}
    z = load_golden("stylegan2_uncond_skip").inputs["z"]
    images = []
    for changed in (none, zero):
        converted = convert_state(changed, SOURCES["stylegan2"])
        module = generators.build(converted.family, converted.options)
        images.append(jax.jit(module.apply)(converted.variables, z))
    np.testing.assert_array_equal(*images)


def test_orig_is_skip_whose_smaller_images_are_black():
    state = load_golden("stylegan2_uncond_skip").state()
    z = load_golden("stylegan2_uncond_skip").inputs["z"]
    smaller = [name for name in state if re.match(r"synthesis\.b(4|8|16)\.torgb\.", name)]
    black = {n: a * 0 if n in smaller and "affine" not in n else a for n, a in state.items()}
    orig = {name: array for name, array in state.items() if name not in smaller}
    images = {}
    for architecture, tensors in (("skip", black), ("orig", orig)):
        converted = convert_state(tensors, SOURCES["stylegan2"])
        assert converted.options["architecture"] == architecture
        module = generators.build(converted.family, converted.options)
        images[architecture] = jax.jit(module.apply)(converted.variables, z)
    # The same sums in programs that are compiled apart.
    assert_close(images["orig"], images["skip"], 1e-6)


def test_inspect_lists_source_tensors_and_totals():
    lines = describe(MIMICRY)
    assert "source: mimicry" in lines[1]
    assert any(line.split() == ["model_state_dict.c5.bias", "float32", "[3]"] for line in lines)
    assert "tensors" in lines[-1]


def test_inspect_knows_a_packed_file(tmp_path):
    save_packed(
        tmp_path / "x", pack({"params": {"kernel": np.ones((3, 4))}}, CompressionSpec(bits=4))
    )
    assert "parameters of Flax; generators.load reads a packed" in describe(tmp_path / "x")[1]


@pytest.mark.parametrize(
    ("plain", "average"),
    [("g", "g_running"), ("G", "G_ema"), ("G", "G_swa"), ("G", "Gs"), ("netG", "avgG"),
     ("G", "netGEma")],
)  # fmt: skip
def test_averages_go_by_many_names(plain, average, dcgan, tmp_path):
    parts = {plain: 1.0, average: 2.0}
    state = {f"{p}.{name}": f * array for p, f in parts.items() for name, array in dcgan.items()}
    found = find(save(tmp_path / "gan.npz", state), SOURCES)
    assert (found.prefix, found.others) == (average, (plain,))


def test_a_word_in_a_word_is_no_average(dcgan, tmp_path):
    names = ("generator", "old.schematic")
    state = {f"{p}.{name}": array for p in names for name, array in dcgan.items()}
    assert find(save(tmp_path / "gan.npz", state), SOURCES).prefix == "generator"


def test_the_command_says_what_it_took(dcgan, tmp_path, monkeypatch, capsys):
    state = {f"{p}.{name}": a for p in ("G", "G_ema") for name, a in dcgan.items()}
    file = save(tmp_path / "gan.npz", state)
    command = ["convert", f"--input={file}", f"--output={tmp_path / 'out'}"]
    monkeypatch.setattr(sys, "argv", command)
    main()
    said = capsys.readouterr().out
    assert "taken: 'G_ema'; the file has other generators: 'G'" in said
    assert said.endswith("out: dcgan from dcgan checkpoint, images 64×64×3\n")
    monkeypatch.setattr(sys, "argv", [*command, f"--input={FILES / 'dcgan_ptgan.pth'}"])
    main()
    said = capsys.readouterr().out
    assert "slope = 1.0, no activation where none is among the modules; 0 is ReLU (--set=" in said


def test_safetensors_are_in_the_order_of_their_numbers_dense_layers_first(dcgan, tmp_path):
    dense_first = tensor_files.state_dict(tensor_files.read(FILES / "dcgan_ptgan.pth"))
    numbered = chain("main.0", "main.1", "main.3", "main.4", "main.7", "main.8", "main.10")
    named = chain("fc1", "bn1", "fc2", "bn2", "deconv3", "bn3", "deconv4")
    for state in (dcgan, dense_first, numbered, named):
        found = find(write_state(tmp_path / "dcgan.safetensors", state), SOURCES)
        ours = convert_state(found.state, found.source).variables
        expected = convert_state(state, SOURCES["dcgan"]).variables
        jax.tree.map(np.testing.assert_array_equal, ours, expected)
    grouped = {name: named[name] for name in sorted(named, key=lambda name: name[:2] == "bn")}
    found = find(save(tmp_path / "norms_last.npz", grouped), SOURCES)
    ours = convert_state(found.state, found.source).variables
    jax.tree.map(np.testing.assert_array_equal, ours, expected)  # of `named`
    state = chain("first", "first_bn", "second", "second_bn", "up", "up_bn", "last")
    with pytest.raises(ValueError, match="Safetensors files lose the order of layers"):
        find(write_state(tmp_path / "dcgan.safetensors", state), SOURCES)


def chain(*names):
    """A generator of two dense layers and two convolutions, with norms between them."""
    rng = np.random.default_rng(0)
    shapes = ((16, 8), (16, 16), (4, 4, 4, 4), (4, 1, 4, 4))
    state = {}
    for i, name in enumerate(names):
        if i % 2:
            size = shapes[i // 2][0]
            leaves = ("weight", "bias", "running_mean", "running_var")
            state |= {f"{name}.{leaf}": rng.random(size, np.float32) for leaf in leaves}
        else:
            state[f"{name}.weight"] = rng.random(shapes[i // 2], np.float32)
    return state


def test_averages_without_dots_have_the_names_of_their_network(dcgan, tmp_path):
    state = {f"model.{name}": array for name, array in dcgan.items()}
    for name in (name for name in dcgan if name.endswith(("weight", "bias"))):
        state[f"model_ema.{name.replace('.', '')}"] = 2 * dcgan[name]
    numbers = {"model_ema.decay": np.ones(()), "model_ema.num_updates": np.ones((), int)}
    found = find(save(tmp_path / "gan.npz", state | numbers), SOURCES)
    assert (found.prefix, found.state.buffers_of) == ("model_ema", "model")
    assert found.state.keys() == dcgan.keys()
    np.testing.assert_array_equal(found.state["main.6.weight"], 2 * dcgan["main.6.weight"])


@pytest.mark.parametrize(
    ("golden", "source", "settings", "message"),
    [
        ("stylegan3_t", "stylegan3", {"filter_size": 7}, r"filter_size is 7; .* 12 taps, no mult"),
        ("stylegan3_t", "stylegan3", {"margin_size": 1000}, r"margin_size is 1000; .* pixels"),
        ("biggan_ajbrock_deep_64", "biggan_deep", {"G_depth": 0}, r"G_depth = 0 is not .* from 1"),
        ("biggan_ajbrock_deep_64", "biggan_deep", {"G_depth": -1}, r"G_depth = -1 is not a whole"),
        ("biggan_ajbrock_deep_64", "biggan_deep", {"G_depth": 4}, "not in stages of G_depth = 4"),
        ("biggan_deep_hf_small32", "biggan_deep_hf", {"layers": 3}, r"such shapes and such sett"),
        ("stylegan2_uncond_skip", "stylegan2", {"lr_multiplier": "a"}, r"cannot become"),
        ("stylegan2_uncond_skip", "stylegan2", {"activation": "relu"}, "only 'lrelu' is supported"),
        ("stylegan2_tf_16", "stylegan2_tf", {"resample_kernel": [1, 2, 1]}, r"only \[1, 3, 3, 1\]"),
        ("pgan_zoo_32", "progan", {"perChannelNormalization": False}, "Normalization is False"),
        ("pgan_zoo_32", "progan", {"equalizedlR": False}, "equalizedlR is False; only True is sup"),
    ],
)
def test_settings_that_cannot_be_right(golden, source, settings, message):
    state = load_golden(golden).state()
    with pytest.raises(ValueError, match=message):
        convert_state(state, SOURCES[source], settings)


@pytest.mark.parametrize("name", ["dcgan_tutorial_64", "pgan_zoo_32", "r3gan_32", "stylegan3_t"])
def test_tensors_of_other_shapes_are_errors_of_one_kind(name):
    """Wherever a tensor is replaced by another, unless no image depends on it."""
    state = load_golden(name).state()
    (source,) = (source for source in SOURCES.values() if source.matches(state))
    ignored = source.plan(state, source.settings(state)).ignored
    for key in list(state)[:: max(1, len(state) // 12)]:
        for shape in ((), (0, 4), (2, 0, 4, 4)):
            changed = {**state, key: np.ones(shape, np.float32)}
            if shape == state[key].shape or re.fullmatch(ignored, key):
                continue
            if source.matches(changed):
                with pytest.raises(ValueError, match=r".+"):
                    convert_state(changed, source)


def test_a_setting_that_is_a_tensor_is_refused(tmp_path):
    file = tmp_path / "a.pkl"
    state = load_golden("pgan_zoo_32").state()
    file.write_bytes(pickle.dumps({"avgG": state, "config": {"leakyReluLeak": np.ones(2)}}))
    with pytest.raises(ValueError, match="the setting leakyReluLeak is a ndarray; expected a pla"):
        find(file, SOURCES)


def test_goldens_that_are_none(tmp_path):
    with pytest.raises(ValueError, match=r"golden\.npz: lacks the array 'images'; it has z"):
        verify("dcgan", save(tmp_path / "golden.npz", {"z": np.ones((2, 8))}))
    np.save(tmp_path / "list.npy", np.ones(3))
    with pytest.raises(ValueError, match=r"list\.npy: holds a ndarray; expected an npz"):
        verify("dcgan", tmp_path / "list.npy")
