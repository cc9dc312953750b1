"""Files as people have them: what lies beside a generator, folders, and networks in the way."""

import json
import pickle
import re
import sys
import types

import numpy as np
import pytest
from golden import load_golden
from tensor_file_writers import write_state

from checkpoints_tools.convert import convert
from checkpoints_tools.converters import SOURCES, convert_state
from checkpoints_tools.converters.files import find
from checkpoints_tools.verify import verify


def write(path, value):
    path.write_bytes(pickle.dumps(value))
    return path


@pytest.fixture(scope="module")
def dcgan():
    return load_golden("dcgan_tutorial_64").state()


def optimizer(state):
    return {"state": {i: {"exp_avg": array} for i, array in enumerate(state.values())}}


def test_what_lies_beside_a_state_dict_is_left_out_and_named(dcgan, tmp_path):
    discriminator = {"0.weight": np.ones((8, 3, 4, 4)), "2.weight": np.ones((1, 8, 4, 4))}
    file = write(
        tmp_path / "last.pth",
        {
            "epoch": 7, "loss": np.array(0.7), "fixed_noise": np.ones((64, 100, 1, 1)),
            "optimizerG": optimizer(dcgan), "netD": discriminator, "netG": dcgan,
        },
    )  # fmt: skip
    found = find(file, SOURCES)
    assert (found.prefix, found.source.name) == ("netG", "dcgan")
    count = len(dcgan)
    assert found.left_out == (
        "loss", "fixed_noise", f"optimizerG ({count} tensors)", "netD (2 tensors)"
    )  # fmt: skip


def test_a_training_module_with_all_of_its_networks(dcgan, tmp_path):
    """As Lightning saves it: one state dict with a discriminator, a loss network, fixed latents."""
    state = {f"generator.{name}": array for name, array in dcgan.items()}
    state |= {"discriminator.0.weight": np.ones((8, 3, 4, 4)), "validation_z": np.ones((8, 100))}
    state |= {"loss_fn.vgg.0.weight": np.ones((8, 3, 3, 3))}
    state |= {"fid.inception.fc.weight": np.ones((8, 3))}  # of torchmetrics
    file = write(tmp_path / "last.ckpt", {"state_dict": state, "hyper_parameters": {"lr": 1e-4}})
    found = find(file, SOURCES)
    assert found.prefix == "state_dict.generator"
    beside = ("discriminator.0.weight", "validation_z", "loss_fn.vgg.0.weight", "fid.")
    assert found.left_out == tuple(f"state_dict.{name.partition('.')[0]}" for name in beside)

    shapes = {"generator.0": (20, 5), "generator.2": (30, 20), "generator.4": (3072, 30)}
    shapes |= {"discriminator.0": (8, 3, 4, 4), "discriminator.2": (1, 8, 4, 4)}  # of its images
    state = {f"{name}.weight": np.ones(shape) for name, shape in shapes.items()}
    found = find(write(tmp_path / "dense.ckpt", {"state_dict": state}), SOURCES)
    assert found.prefix == "state_dict.generator"


def test_the_counter_of_an_averaged_model_is_left_out(dcgan, tmp_path):
    averaged = {"n_averaged": np.array(500)} | {f"module.{n}": a for n, a in dcgan.items()}
    averaged["module.main.1.num_batches_tracked"] = np.float16(3)  # as {n: t.half() for n, t in …}
    metadata = convert(write(tmp_path / "swa.pth", averaged), tmp_path / "out")
    assert metadata["left_out"] == ["n_averaged"]
    named = {"n_averaged": np.array(500)}
    named |= {f"module.{n}": a for n, a in load_golden("mimicry_sngan32").state().items()}
    assert find(write(tmp_path / "swa.pth", named), SOURCES).left_out == ("n_averaged",)


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        ({"encoder.0.weight": (8, 3, 4, 4), "project.weight": (100, 10)}, "encoder, project lie "),
        ({"label_emb.weight": (10, 150)}, "label_emb lies beside it"),  # larger than the latent
        ({"scale": (1,)}, "scale lies beside it"),
    ],
)
def test_a_part_of_a_network_is_refused(beside, named, dcgan, tmp_path):
    state = {name: np.ones(shape, np.float32) for name, shape in beside.items()}
    state |= {f"decoder.{name}": array for name, array in dcgan.items()}
    file = write(tmp_path / "net.pth", state)
    with pytest.raises(ValueError, match=rf"'decoder' looks like .*{named}.*--part=decoder takes"):
        convert(file, tmp_path / "out")
    with pytest.raises(ValueError, match=r"'ae\.decoder' looks like a gen"):
        convert(write(tmp_path / "nested.pth", {"ae": state}), tmp_path / "out")
    metadata = convert(file, tmp_path / "out", part="decoder")
    assert (metadata["input_prefix"], len(metadata["left_out"])) == ("decoder", len(beside))
    with pytest.raises(ValueError, match="has no part 'generator'"):
        convert(file, tmp_path / "out", part="generator")


def test_a_dense_layer_before_the_generator_is_a_part_of_it(dcgan):
    state = {"fc.weight": np.ones((100, 10), np.float32), "fc.bias": np.ones(100, np.float32)}
    converted = convert_state({**state, **dcgan}, SOURCES["dcgan"])
    assert converted.options["latent_size"] == 10


def test_folders(dcgan, tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"repository: a folder without a tensor file"):
        find(folder, SOURCES)
    metadata = folder / "generator.json"
    metadata.write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"repository: a converted generator; .*\.verify"):
        find(folder, SOURCES)
    metadata.unlink()
    np.savez(folder / "a.npz", **dcgan)
    assert find(folder, SOURCES).source.name == "dcgan"
    np.savez(folder / "b.npz", **dcgan)
    with pytest.raises(FileNotFoundError, match=r"2 tensor files \(a.npz, b.npz\); give one"):
        find(folder, SOURCES)
    write_state(folder / "model.safetensors", dcgan)
    metadata = convert(folder, tmp_path / "out")
    assert metadata["input_file"] == "model.safetensors"
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved/saved_model.pb").touch()
    with pytest.raises(FileNotFoundError, match="saved: a TensorFlow SavedModel; without"):
        find(tmp_path / "saved", SOURCES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n, a: a.repeat(4, 0)[:4] if "torgb" in n and len(a) == 3 else a, "4 channels"),
        (
            lambda n, a: a[:, :, :2] if n.endswith("b4.const") else a,
            r"images of 32×16 pixels; only sq",
        ),
    ],
)
def test_images_that_the_run_does_not_take_are_refused(change, message):
    state = load_golden("stylegan2_uncond_skip").state()
    state = {name: change(name, array) for name, array in state.items()}
    with pytest.raises(ValueError, match=message):
        convert_state(state, SOURCES["stylegan2"])


@pytest.mark.parametrize(
    ("source", "golden"),
    [("mimicry", "mimicry_sngan32"), ("biggan", "biggan_ajbrock_32_cifar"),
     ("studiogan_sngan", "studiogan_sngan_32"), ("biggan_deep", "biggan_ajbrock_deep_64")],
)  # fmt: skip
def test_slope_and_output_can_be_set(source, golden):
    state = load_golden(golden).state()
    converted = convert_state(state, SOURCES[source], {"slope": 0.2, "output": "sigmoid"})
    assert (converted.options["slope"], converted.options["output"]) == (0.2, "sigmoid")
    assert not {"slope", "output"} & converted.assumed.keys()


def test_averages_of_parameters_alone_take_the_statistics_of_their_network(dcgan, tmp_path):
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    shadow = {name: array * 2 for name, array in dcgan.items() if not name.endswith(buffers)}
    file = write(tmp_path / "a.pth", {"shadow": shadow, "model": dcgan})
    found = find(file, SOURCES)
    assert (found.prefix, found.state.buffers_of, found.others) == ("shadow", "model", ("model",))
    assert [*found.state] == [*dcgan]
    for name, array in dcgan.items():
        np.testing.assert_array_equal(found.state[name], shadow.get(name, array))
    wrapped = {f"module.{name}": array for name, array in shadow.items()}
    found = find(write(tmp_path / "b.pth", {"ema": wrapped, "model": dcgan}), SOURCES)
    assert (found.prefix, found.state.buffers_of) == ("ema", "model")
    listed = {"g": dcgan, "g_ema": [*shadow.values()]}  # as FastGAN and torch_ema do
    found = find(write(tmp_path / "c.pth", listed), SOURCES)
    assert (found.prefix, found.state.buffers_of) == ("g_ema", "g")
    for name, array in dcgan.items():
        np.testing.assert_array_equal(found.state[name], shadow.get(name, array))
    flat = {f"ema.shadow.{name}": array for name, array in shadow.items()}
    for network, prefix in (("netG", "netG."), ("", "")):  # as npz and safetensors have them
        whole = {f"{prefix}{name}": array for name, array in dcgan.items()}
        found = find(write(tmp_path / "d.pth", whole | flat), SOURCES)
        assert (found.prefix, found.state.buffers_of) == ("ema.shadow", network)


def test_averages_beside_a_network_without_a_wrapper(tmp_path):
    state = load_golden("mimicry_sngan32").state()
    average = {f"ema.{n}": a * 2 for n, a in state.items() if "running" not in n}
    found = find(write(tmp_path / "a.pt", state | average), SOURCES)
    assert (found.prefix, found.others, found.left_out) == ("ema", ("",), ())
    np.testing.assert_array_equal(found.state["l1.weight"], state["l1.weight"] * 2)


def test_norms_that_lost_their_statistics_are_not_taken_for_others(dcgan, tmp_path):
    alone = {name: array for name, array in dcgan.items() if "running" not in name}
    file = write(tmp_path / "shadow.pth", alone)
    with pytest.raises(ValueError, match="norms have no statistics: batch norms whose"):
        convert(file, tmp_path / "out")
    assert convert(file, tmp_path / "out", settings={"norm": "instance"})["family"] == "sequential"


def test_names_come_before_shapes(dcgan, tmp_path):
    """Of a module in DataParallel that was saved whole, whose blocks look like a sequence."""
    named = SOURCES["mimicry"]._replace(matches=lambda state: "0.weight" in state)
    sources = {"mimicry": named, "dcgan": SOURCES["dcgan"]}
    found = find(write(tmp_path / "a.pth", dcgan), sources)
    assert (found.prefix, found.source.name, found.others) == ("main", "mimicry", ())


def test_norms_by_the_names_of_torch_2(tmp_path):
    state = load_golden("mimicry_sagan32").state()
    newer = {"weight_orig": "original", "weight_u": "0._u", "weight_v": "0._v"}

    def rename(name):
        base, _, leaf = name.rpartition(".")
        return f"{base}.parametrizations.weight.{newer[leaf]}" if leaf in newer else name

    file = write(tmp_path / "a.pt", {rename(name): array for name, array in state.items()})
    found = find(file, SOURCES)
    assert (found.source.name, [*found.state]) == ("mimicry", [*state])


def test_pruned_weights_are_what_their_masks_leave(dcgan, tmp_path):
    mask = dcgan["main.3.weight"] > 0
    pruned = {"main.3.weight_orig": dcgan["main.3.weight"], "main.3.weight_mask": mask * 1.0}
    state = {}
    for name, array in dcgan.items():
        state |= pruned if name == "main.3.weight" else {name: array}
    found = find(write(tmp_path / "a.pt", state), SOURCES)
    assert [*found.state] == [*dcgan]
    np.testing.assert_array_equal(found.state["main.3.weight"], dcgan["main.3.weight"] * mask)


def test_sngan_pytorch_has_the_names_of_mimicry_and_upsamples_by_nearest(tmp_path):
    state = load_golden("mimicry_sngan32").state()
    file = write(tmp_path / "a.pth", {"gen_state_dict": state, "avg_gen_state_dict": state})
    found = find(file, SOURCES)
    assert found.prefix == "avg_gen_state_dict"
    assert convert_state(found.state, found.source).options["upsample"] == "nearest"


def test_the_package_ema_pytorch_keeps_both_networks(dcgan, tmp_path):
    both = {f"{part}.{n}": a for part in ("online_model", "ema_model") for n, a in dcgan.items()}
    ema = {**both, "initted": np.ones(1, np.float32), "step": np.ones(1, np.int64)}
    file = write(tmp_path / "a.pt", {"ema": ema})
    found = find(file, SOURCES)
    assert (found.prefix, found.others) == ("ema.ema_model", ("ema.online_model",))
    with pytest.raises(ValueError, match=r"no part 'emo'; did you mean 'ema'\?"):
        find(file, SOURCES, part="emo")


def test_rosinality_files(tmp_path):
    golden = load_golden("rosinality_stylegan2_16")
    state = golden.state()
    mean = state.pop("latent_avg")
    images = tmp_path / "images.npz"
    np.savez(
        images, z=golden.inputs["z"], images=golden.outputs["image_psi0.7"], truncation_psi=0.7
    )
    training = {"g": {n: a * 0 for n, a in state.items()}, "g_ema": state, "d_optim": {}}
    convert(write(tmp_path / "a.pt", {**training, "latent_avg": mean}), tmp_path / "with")
    verify(tmp_path / "with", images)
    rows = {**training, "latent_avg": np.tile(mean, (6, 1))}  # one for each layer, as pSp saves it
    convert(write(tmp_path / "rows.pt", rows), tmp_path / "rows")
    verify(tmp_path / "rows", images)
    for parts in (training["g"], state):  # as in older files
        for name in [name for name in parts if name.startswith("noises.")]:
            del parts[name]
    metadata = convert(write(tmp_path / "b.pt", training), tmp_path / "without")
    assert metadata["assumed"]["truncation_mean"] == 4096
    assert metadata["assumed"]["noise_seed"] == 0
    assert metadata["input_prefix"] == "g_ema"
    kernel = {"convs.0.conv.blur.kernel": np.ones((4, 4), np.float32)}
    with pytest.raises(ValueError, match=r"convs.0.conv.blur.kernel is not the filter \[1, 3, 3"):
        convert_state({**state, **kernel}, SOURCES["stylegan2_rosinality"])


def test_basicsr_is_rosinality_by_other_names(tmp_path):
    golden = load_golden("rosinality_stylegan2_16")
    state = golden.state()
    mean, renamed = state.pop("latent_avg"), {}
    for name, array in state.items():
        other = re.sub(r"^style\.", "style_mlp.", name).replace(
            "input.input", "constant_input.weight"
        )
        other = re.sub(r"^conv", "style_conv", other.replace(".noise.weight", ".weight"))
        other = other.replace(".conv.", ".modulated_conv.").replace("noise_", "noise")
        if not name.endswith("kernel"):
            renamed[other] = array
    images = tmp_path / "images.npz"
    np.savez(
        images, z=golden.inputs["z"], images=golden.outputs["image_psi0.7"], truncation_psi=0.7
    )
    parts = {"params_ema": renamed, "params": {n: a * 0 for n, a in renamed.items()}}
    convert(write(tmp_path / "a.pth", {**parts, "latent_avg": mean}), tmp_path / "converted")
    verify(tmp_path / "converted", images)


def test_mmgeneration_is_rosinality_by_other_names_with_blue_first(tmp_path):
    golden = load_golden("rosinality_stylegan2_16")
    renamed = {}
    for name, array in golden.state().items():
        other = name.replace("modulation.", "style_modulation.linear.")
        other = re.sub(r"^style\.(\d+)", r"style_mapping.\1.linear", other)
        other = re.sub(r"(linear|conv)\.weight$", r"\1.weight_orig", other)
        other = other.replace("linear.bias", "bias").replace("noises.noise_", "injected_noise_")
        other = other.replace("noise.weight", "noise_injector.weight")
        renamed[other.replace("input.input", "constant_input.input")] = array
    del renamed["latent_avg"]
    images = tmp_path / "images.npz"
    for bgr in (True, False):
        image = golden.outputs["image"]
        np.savez(images, z=golden.inputs["z"], images=image[:, ::-1] if bgr else image)
        file = write(tmp_path / "a.pth", {"state_dict": {"generator_ema": renamed}})
        metadata = convert(file, tmp_path / "out", settings={} if bgr else {"bgr": False})
        verify(tmp_path / "out", images)
    assert metadata["source"] == "stylegan2_mmgeneration"


def test_genforce_has_the_variables_of_tensorflow(tmp_path):
    golden = load_golden("stylegan2_tf_16")
    renamed = {}
    for name, array in golden.state().items():
        other = name.replace("dlatent_avg", "truncation.w_avg").replace("mod_", "style.")
        other = other.replace("Dense", "dense").replace("4x4/Const", "early_layer")
        other = re.sub(r"noise(\d+)$", r"layer\1.noise", other)
        for i in range(3):
            layers = {"Conv1?": f"layer{2 * i}", "Conv0_up": f"layer{2 * i - 1}"}
            for theirs, ours in {**layers, "ToRGB": f"output{i}"}.items():
                other = re.sub(rf"{4 * 2**i}x\d+/{theirs}/", f"{ours}/", other)
        axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(array.ndim) if "weight" in name else None
        renamed[other.replace("/", ".")] = array.transpose(axes) if axes else array
    del renamed["lod"]
    images = tmp_path / "images.npz"
    np.savez(images, z=golden.inputs["z"], images=golden.outputs["image"])
    zeros = {name: array * 0 for name, array in renamed.items()}
    file = write(tmp_path / "a.pth", {"generator": zeros, "generator_smooth": renamed})
    assert convert(file, tmp_path / "out")["source"] == "stylegan2_genforce"
    verify(tmp_path / "out", images)


def test_networks_of_tensorflow_are_read_without_their_code(tmp_path, monkeypatch):
    golden = load_golden("stylegan2_tf_16")
    module = types.ModuleType("dnnlib.tflib.network")
    network = type("Network", (), {"__module__": module.__name__, "__qualname__": "Network"})
    module.Network = network
    for name in ("dnnlib", "dnnlib.tflib"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def make(name, variables, factor, **components):
        made = network()
        made.__dict__.update(
            version=4, name=name, components=components, build_func_name="G_main",
            static_kwargs={"mapping_lrmul": 0.01, "nonlinearity": "lrelu", "conv_clamp": None},
            build_module_src="raise SystemExit", variables=[(n, a * factor) for n, a in variables],
        )  # fmt: skip
        return made

    def generator(name, factor):
        parts = {"": [], "mapping": [], "synthesis": []}
        for key, array in golden.state().items():
            part, _, rest = key.rpartition(".") if "." in key.split("/")[0] else ("", "", key)
            parts[part].append((rest, array))
        own = parts.pop("")
        return make(name, own, factor, **{n: make(n, v, factor) for n, v in parts.items()})

    networks = (generator("G", 0), make("D", [], 1), generator("Gs", 1))
    metadata = convert(write(tmp_path / "net.pkl", networks), tmp_path / "out")
    assert (metadata["source"], metadata["input_prefix"]) == ("stylegan2_tf", "2")
    assert metadata["recorded"]["conv_clamp"] is None
    assert "mapping_lrmul" not in metadata["assumed"]
    images = tmp_path / "images.npz"
    np.savez(images, z=golden.inputs["z"], images=golden.outputs["image"])
    assert "differ from" in verify(tmp_path / "out", images)


def test_lucidrains_files(tmp_path):
    golden = load_golden("lucidrains_stylegan2_32")
    state, images = golden.state(), tmp_path / "images.npz"
    np.savez(images, z=golden.inputs["z"], images=golden.outputs["image"])
    other = {f"{net}.blocks.0.conv_res.weight": np.ones((4, 3, 1, 1)) for net in ("D", "D_aug.D")}
    file = write(tmp_path / "model_7.pt", {"GAN": state | other, "version": "1.9.0"})
    assert convert(file, tmp_path / "out")["input_prefix"] == "GAN"
    verify(tmp_path / "out", images)
    network = {name: array for name, array in state.items() if name[1] == "."}  # no averages
    averages = {f"{n[0]}.{n[3:]}": array for n, array in state.items() if n[1] == "E"}
    convert(write(tmp_path / "a.pt", network | averages), tmp_path / "last")
    verify(tmp_path / "last", images)
    for name, message in {
        "GE.attns.1.0.fn.fn.to_q.weight": "attention",
        "GE.to_initial_block.weight": "no_const",
        "GE.blocks.0.to_rgb.upsample.1.f": r"is not the filter \[1, 2, 1\]",
    }.items():
        with pytest.raises(ValueError, match=message):
            convert_state({**state, name: np.ones(3)}, SOURCES["stylegan2_lucidrains"])
    alone = {name[3:]: array for name, array in state.items() if name.startswith("GE.")}
    with pytest.raises(ValueError, match="without its mapping network S is not supported"):
        find(write(tmp_path / "alone.pt", alone), SOURCES)


def test_known_kinds_that_are_not_built_are_named(tmp_path):
    state = {"G.initial_conv.0.weight": np.ones((4, 4)), "G.out_conv.weight": np.ones((4, 4))}
    file = write(tmp_path / "model_7.pt", {"GAN": state})
    with pytest.raises(ValueError, match=r"lucidrains/lightweight-gan is not supported"):
        find(file, SOURCES)


def test_config_beside_safetensors_or_in_a_module_is_read(tmp_path, monkeypatch):
    golden = load_golden("biggan_deep_hf_small32")
    write_state(tmp_path / "model.safetensors", golden.state())
    config = {"layers": golden.config["layers"], "eps": golden.config["eps"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert find(tmp_path, SOURCES).settings == config

    package = types.ModuleType("biggan")
    monkeypatch.setitem(sys.modules, "biggan", package)
    for name in ("BigGAN", "BigGANConfig"):
        setattr(package, name, type(name, (), {"__module__": "biggan"}))
    module, module_config = package.BigGAN(), package.BigGANConfig()
    module_config.__dict__.update(config)
    module.__dict__.update(
        _parameters=golden.state(), _buffers={}, _modules={}, config=module_config
    )
    assert find(write(tmp_path / "net.pkl", module), SOURCES).settings == config
