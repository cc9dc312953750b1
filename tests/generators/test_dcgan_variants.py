"""Variants of DCGAN: modules and state dicts that torch saved, against the images it made."""

import jax
import numpy as np
import pytest
from golden import FOLDER, assert_close, load_golden

from checkpoints_tools.convert import convert
from checkpoints_tools.converters import SOURCES, convert_state, modules
from checkpoints_tools.converters.files import older_names
from checkpoints_tools.converters.origin import Part
from lsh_gan import generators, tensor_files
from lsh_gan.tensor_files import Standin

TOLERANCE = 1e-5
# Modules, and what they do not record: the code around their layers.
WHOLE = {
    # Kernel 3 to 5, output padding, dilation, groups, reflected borders; instance and group norm,
    # epsilon 1e-3; LeakyReLU 0.3, ELU, SiLU, GELU, sigmoid.
    "mixed": {},
    "inorm_affine": {},  # instance norms, one with stored statistics; a last kernel of 1
    "linear_first": {},
    "linear_view": {},  # with a class of its own that reshapes, and dropout
    "bilinear": {},  # upsampling by 2 and 3, convolutions padded to the same size
    "spectral": {},  # spectral and weight norms
    "dp": {},  # in DataParallel
    # Dense without activation, nearest upsampling, epsilon 0.8.
    "ptgan": {"order": "as listed", "slope": 1.0},
    # Activations in its code.
    "func": {"order": "as listed", "slope": 0.0, "activation_first": False, "output": "tanh"},
    # One LeakyReLU for all layers.
    "shared": {"order": "as listed", "slope": 0.1, "activation_first": False},
}


@pytest.fixture(scope="module")
def variants():
    with np.load(FOLDER / "dcgan_variants.npz") as arrays:
        return dict(arrays)


def file(name):
    return FOLDER / "files" / f"dcgan_{name}.pth"


def images_of(converted, z):
    module = generators.build(converted.family, converted.options)
    return np.asarray(jax.jit(module.apply)(converted.variables, z)).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("name", WHOLE)
def test_modules_as_they_are_recorded(name, variants, tmp_path):
    metadata = convert(file(name), tmp_path / name)
    assert metadata["assumed"] == {"num_classes": 0} | WHOLE[name]
    generator = generators.load(tmp_path / name)
    images = np.asarray(jax.jit(generator)(generator.params, variants[f"{name}/z"]))
    assert_close(images.transpose(0, 3, 1, 2), variants[f"{name}/images"], TOLERANCE)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("param", {}),  # new spectral and weight norms
        ("inorm_affine", {"norm": "instance"}),
        ("linear_view", {}),
        ("func", {}),
        ("ptgan", {}),  # known by its names
        ("shared", {"slope": 0.1, "output": "sigmoid"}),
        ("dp", {"slope": [0.2, 0.0]}),
        ("no_output", {"output": "none"}),
    ],
)
def test_state_dicts_with_settings(name, settings, variants):
    state = older_names(tensor_files.state_dict(tensor_files.read(file(name))))
    converted = convert_state(state, SOURCES["dcgan"], settings)
    assert not settings.keys() & converted.assumed.keys()
    assert {"strides", "paddings", "order"} <= converted.assumed.keys()
    assert_close(images_of(converted, variants[f"{name}/z"]), variants[f"{name}/images"], TOLERANCE)


def test_what_a_state_dict_assumes_is_listed():
    state = tensor_files.state_dict(tensor_files.read(file("func")))
    assert convert_state(state, SOURCES["dcgan"]).assumed == {
        "strides": [1, 2, 2], "paddings": [0, 1, 1], "output_paddings": [0, 0, 0],
        "num_classes": 0, "epsilon": 1e-5, "order": "as listed", "slope": 0.0, "output": "tanh",
        "activation_first": False,
    }  # fmt: skip


def test_other_strides_and_paddings_give_other_sides():
    state = tensor_files.state_dict(tensor_files.read(file("func")))
    settings = {"paddings": [0, 1, 3]}
    z = np.ones((1, 10), np.float32)
    images = images_of(convert_state(state, SOURCES["dcgan"], settings), z)
    assert images.shape == (1, 3, 12, 12)
    with pytest.raises(ValueError, match=r"strides = \[1, 2\]: 2 values for 3 layers"):
        convert_state(state, SOURCES["dcgan"], {"strides": [1, 2]})
    with pytest.raises(ValueError, match=r"-1: expected a whole number from 0 up"):
        convert_state(state, SOURCES["dcgan"], {"paddings": -1})
    with pytest.raises(ValueError, match=r"order is 'b'; only 'as listed' is supported"):
        convert_state(state, SOURCES["dcgan"], {"order": "b"})


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_layers_may_all_be_dense(shape):
    """As in PyTorch-GAN, whose norms have epsilon 0.8, which its names say."""
    rng, state = np.random.default_rng(0), {}
    sizes = {0: (6, 8), 2: (8, 8), 5: (8, 16), 8: (16, 24), 11: (24, np.prod(shape))}
    x = z = rng.normal(size=(3, 6)).astype(np.float32)
    for number, (inputs, outputs) in sizes.items():
        dense, norm = f"model.{number}", f"model.{number + 1}"
        state[f"{dense}.weight"] = rng.normal(size=(outputs, inputs)).astype("f") / inputs**0.5
        state[f"{dense}.bias"] = rng.normal(size=outputs).astype("f")
        x = x @ state[f"{dense}.weight"].T + state[f"{dense}.bias"]
        if 0 < number < 11:
            mean, var, scale, bias = rng.uniform(0.5, 1.5, (4, outputs)).astype("f")
            leaves = "weight", "bias", "running_mean", "running_var"
            for leaf, array in zip(leaves, (scale, bias, mean, var), strict=True):
                state[f"{norm}.{leaf}"] = array
            x = (x - mean) / np.sqrt(var + 0.8) * scale + bias
        x = np.where(x > 0, x, 0.2 * x) if number < 11 else np.tanh(x)
    assert SOURCES["dcgan"].matches(state)
    converted = convert_state(state, SOURCES["dcgan"])
    assert_close(images_of(converted, z), x.reshape(3, *shape), TOLERANCE)
    encoder = {"e.0.weight": np.ones((5, np.prod(shape)), "f"), "e.1.weight": np.ones((6, 5), "f")}
    assert not SOURCES["dcgan"].matches(encoder | state)


def test_classes_follow_the_latent():
    state = load_golden("dcgan_tutorial_64").state()
    z = np.random.default_rng(0).standard_normal((3, state["main.0.weight"].shape[0]))
    z[:, -3:] = np.eye(3)
    plain, conditional = (
        convert_state(state, SOURCES["dcgan"], {"num_classes": classes}) for classes in (0, 3)
    )
    module = generators.build("dcgan", conditional.options)
    assert module.latent_size == z.shape[1] - 3
    images = jax.jit(module.apply)(conditional.variables, z[:, :-3], labels=np.arange(3))
    assert_close(images.transpose(0, 3, 1, 2), images_of(plain, z), TOLERANCE)
    state["main.0.weight"] = state["main.0.weight"][:, :, :3, :3]  # of the family `sequential`
    plain, conditional = (
        convert_state(state, SOURCES["dcgan"], {"num_classes": classes}) for classes in (0, 3)
    )
    module = generators.build("sequential", conditional.options)
    images = jax.jit(module.apply)(conditional.variables, z[:, :-3], labels=np.arange(3))
    assert_close(images.transpose(0, 3, 1, 2), images_of(plain, z), TOLERANCE)


@pytest.mark.parametrize("joined", ["multiply", "before", "after", "unused"])
@pytest.mark.parametrize("whole", [False, True])
def test_how_code_uses_a_table_of_classes_must_be_said(joined, whole, variants):
    """As in conditional networks of PyTorch-GAN."""
    value = tensor_files.read(file("ptgan"))
    state = Part(older_names(tensor_files.state_dict(value)))
    plain, z = convert_state(state, SOURCES["dcgan"]), variants["ptgan/z"]
    size = 3 if joined in ("before", "after") else z.shape[1]
    table = np.random.default_rng(0).normal(size=(len(z), size)).astype(np.float32)
    state["label_emb.weight"] = table
    if whole:
        state.module = value
        state.module.attributes["_modules"]["label_emb"] = layer("sparse.Embedding")
    with pytest.raises(
        ValueError, match=r"label_emb, a table .* --set=class_vector='\"multiply\"'"
    ):
        convert_state(state, SOURCES["dcgan"])
    settings = {"class_vector": joined} | ({"slope": 1.0} if whole else {})
    converted = convert_state(state, SOURCES["dcgan"], settings)
    module = generators.build(converted.family, converted.options)
    assert getattr(module, "num_classes", 0) == (0 if joined == "unused" else len(table))
    if joined == "unused":
        assert_close(images_of(converted, z), images_of(plain, z), TOLERANCE)
        return
    rest = {"multiply": z, "before": z[:, size:], "after": z[:, :-size]}[joined]
    expected = {
        "multiply": lambda: z * table,
        "before": lambda: np.concatenate([table, rest], 1),
        "after": lambda: np.concatenate([rest, table], 1),
    }[joined]()
    images = jax.jit(module.apply)(converted.variables, rest, labels=np.arange(len(z)))
    assert_close(images.transpose(0, 3, 1, 2), images_of(plain, expected), TOLERANCE)
    if whole:
        state.module.attributes["_modules"]["more"] = layer("sparse.Embedding")
        with pytest.raises(
            ValueError, match=r"uses label_emb, more, tables .*only one is supported"
        ):
            convert_state(state, SOURCES["dcgan"])


def test_a_3x3_layer_between_larger_ones_that_double_the_side_does_not():
    state = load_golden("dcgan_tutorial_64").state()
    *before, last = state
    channels = len(state[last])
    extra = {"extra-layers-0.conv.weight": np.ones((channels, channels, 3, 3), np.float32)}
    state = {name: state[name] for name in before} | extra | {last: state[last]}
    converted = convert_state(state, SOURCES["dcgan"])  # as of WassersteinGAN
    assert converted.assumed["transposed"] == [True, True, True, True, False, True]
    z = np.ones((1, len(state[before[0]])), np.float32)
    assert images_of(converted, z).shape == (1, 3, 64, 64)
    assert converted.assumed["upsample"] == 1  # its code may do that before plain convolutions
    converted = convert_state(state, SOURCES["dcgan"], {"upsample": [1, 1, 1, 1, 2, 1]})
    assert images_of(converted, z).shape == (1, 3, 128, 128)


def test_a_last_3x3_layer_after_4x4_ones_keeps_the_side():
    state = load_golden("dcgan_tutorial_64").state()
    *_, last = state
    state[last] = state[last][..., :3, :3]  # as of SNGAN's network without shortcuts
    converted = convert_state(state, SOURCES["dcgan"])
    assert converted.assumed["strides"] == [1, 2, 2, 2, 1]
    assert images_of(converted, np.ones((1, len(next(iter(state.values())))))).shape[2] == 32


def test_layers_of_one_pixel_do_not_double_it():
    dense, point = (64, 20), (20, 64, 1, 1)  # both give one pixel of 64 channels
    for first, strides in ((dense, [1, 2]), (point, [1, 1, 2])):
        shapes = {"a": first, "b": (64, 32, 7, 7), "c": (32, 3, 4, 4)}
        state = {f"{name}.weight": np.ones(shape, np.float32) for name, shape in shapes.items()}
        converted = convert_state(state, SOURCES["dcgan"])
        assert converted.assumed["strides"] == strides
        assert images_of(converted, np.ones((1, 20))).shape == (1, 3, 14, 14)


def test_known_networks_need_no_settings():
    blocks = {f"blocks.{i}.0.deconv0": (8, 8, 4, 4) for i in range(3)}
    shapes = {"linear0": (128, 5), **blocks, "conv4": (3, 8, 3, 3)}
    state = {f"{name}.weight": np.ones(shape, np.float32) for name, shape in shapes.items()}
    for prefix in ("", "module."):  # of DataParallel
        prefixed = {prefix + name: array for name, array in state.items()}
        assumed = convert_state(prefixed, SOURCES["dcgan"]).assumed
        assert (assumed["slope"], assumed["epsilon"]) == ([1.0, 0.0, 0.0, 0.0], 1e-4)
    shapes = {"fc1": (8, 5), "fc2": (16, 8), "fc3": (32, 16), "fc4": (784, 32)}
    state = {f"{name}.weight": np.ones(shape, np.float32) for name, shape in shapes.items()}
    assert convert_state(state, SOURCES["dcgan"]).assumed["slope"] == 0.2  # Lightning Bolts


def test_whether_blocks_have_shortcuts_must_be_said():
    shapes = {"fc": (64, 5), "up1": (16, 16, 4, 4), "up2": (16, 16, 4, 4), "out": (3, 16, 3, 3)}
    blocks = {f"up{i}.conv{j}": (16, 16, 3, 3) for i in (1, 2) for j in (1, 2)}
    names = ("fc", "up1", "up1.conv1", "up1.conv2", "up2", "up2.conv1", "up2.conv2", "out")
    state = {f"{n}.weight": np.ones((shapes | blocks)[n], np.float32) for n in names}
    with pytest.raises(ValueError, match=r"a shortcut around up1, .* --set=shortcuts=false"):
        convert_state(state, SOURCES["dcgan"])
    converted = convert_state(state, SOURCES["dcgan"], {"shortcuts": False})
    assert images_of(converted, np.ones((1, 5))).shape == (1, 3, 8, 8)

    shapes = ((8, 5), (8, 8), (784, 8))
    dense = {f"{i}.weight": np.ones(shape, np.float32) for i, shape in enumerate(shapes)}
    assert "shortcuts" not in convert_state(dense, SOURCES["dcgan"]).assumed  # a Sequential
    with pytest.raises(ValueError, match=r"a shortcut around l1, .* --set=shortcuts=false"):
        convert_state({f"l{name}": array for name, array in dense.items()}, SOURCES["dcgan"])


def test_where_it_upsamples_must_be_said():
    state = tensor_files.state_dict(tensor_files.read(file("ptgan")))
    state = {name.replace("conv_blocks", "blocks"): array for name, array in state.items()}
    with pytest.raises(ValueError, match=r"where that happens is not in the file: --set=upsample"):
        convert_state(state, SOURCES["dcgan"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonsquare", "images of 16×8 pixels; only square ones"),
        ("rgba", r"images of 4 channels \(RGBA, with alpha\?\); only grey"),
        ("prelu", r"main.1 is a torch.nn.modules.activation.PReLU, which is not supported"),
        ("notrack", "main.1 has track_running_stats = False; only True is supported"),
        ("align", "main.2 has align_corners = True; only False is supported"),
    ],
)
def test_what_is_not_supported_is_named(name, message, tmp_path):
    with pytest.raises(ValueError, match=rf"dcgan_{name}.pth: .*{message}"):
        convert(file(name), tmp_path / name)


def layer(kind, parameters=(), **settings):
    own = {"_parameters": dict(parameters), "_buffers": {}, "_modules": {}}
    return Standin(f"torch.nn.modules.{kind}", state={**own, **settings})


def holder(kind="models.Net", **children):
    return Standin(kind, state={"_parameters": {}, "_buffers": {}, "_modules": children})


def test_blocks_of_unknown_code_are_refused():
    linear = {"in_features": 4, "out_features": 4}
    block = holder(
        "models.ResBlock", a=layer("linear.Linear", **linear), b=layer("linear.Linear", **linear)
    )
    with pytest.raises(ValueError, match=r"block is a models.ResBlock of 2 layers: how they are"):
        modules.recorded_layers(holder(block=block, other=layer("activation.ReLU")))


def test_a_module_whose_code_upsamples_says_so():
    pair = {"stride": (1, 1), "dilation": (1, 1), "padding": (1, 1), "kernel_size": (3, 3)}
    conv = layer("conv.Conv2d", in_channels=4, out_channels=4, groups=1, **pair)
    state = Part()
    state.module = holder(
        fc=layer("linear.Linear", in_features=4, out_features=64), conv=conv, last=conv
    )
    assert SOURCES["dcgan"].settings(state)["upsample"] is None
    upsample = layer("upsampling.Upsample", scale_factor=2, size=None, mode="nearest")
    state.module.attributes["_modules"]["up"] = upsample
    assert "upsample" not in SOURCES["dcgan"].settings(state)


def test_activations_are_in_their_place_unless_code_runs_them():
    linear = layer("linear.Linear", in_features=4, out_features=4)
    relu, tanh = layer("activation.ReLU"), layer("activation.Tanh")

    def kinds(settings=None, **children):
        state = Part()
        state.module = holder(**children)
        usual = SOURCES["dcgan"].settings(state)
        plan = SOURCES["dcgan"].plan(state, usual | (settings or {}))
        *layers, image = plan.options["layers"]
        assert image == {"kind": "reshape", "shape": [1, 28, 28]}
        return [layer.get("slope", layer["kind"]) for layer in layers]

    wider = layer("linear.Linear", in_features=4, out_features=8)
    last = layer("linear.Linear", in_features=8, out_features=784)
    block = holder("models.Block", linear=wider, relu=relu)
    placed = kinds(first=linear, block=block, last=last, tanh=tanh)
    assert placed == ["dense", 1.0, "dense", "relu", "dense", "tanh"]
    said = kinds({"slope": 0.2}, first=linear, block=block, last=last, tanh=tanh)
    assert said == ["dense", 0.2, "dense", "relu", "dense", "tanh"]
    main = holder("torch.nn.modules.container.Sequential", relu=relu, last=last)
    assert kinds(first=wider, tanh=tanh, main=main) == ["dense", "relu", "dense", "tanh"]


def test_numbers_tell_activations_before_norms():
    for numbers, expected in (
        ((0, 2, 3), ["relu", "batch_norm"]),  # 1 is free, and none is between 2 and 3
        ((0, 1, 3), ["batch_norm", "relu"]),
        ((0, 2, 4), ["batch_norm", "relu"]),
        ((0, 1, 2), ["batch_norm", "relu"]),
    ):
        first, norm, last = (f"net.{number}" for number in numbers)
        shapes = {f"{first}.weight": (5, 4, 4, 4)}
        shapes |= {f"{norm}.{leaf}": (4,) for leaf in ("running_mean", "running_var")}
        shapes |= {f"{last}.weight": (4, 4, 4, 4), "net.9.weight": (4, 3, 4, 4)}
        state = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
        converted = convert_state(state, SOURCES["dcgan"])
        assert [layer["kind"] for layer in converted.options["layers"][1:3]] == expected
        first = expected[0] == "relu"
        assert converted.assumed["activation_first"] == ([True, False] if first else False)
        other = convert_state(state, SOURCES["dcgan"], {"activation_first": not first})
        assert [layer["kind"] for layer in other.options["layers"][1:3]] == expected[::-1]


def test_settings_of_networks_whose_layers_are_known():
    norm = layer("batchnorm.BatchNorm2d", eps=1e-3)
    conv = {"kernel_size": (3, 3), "stride": (1, 1), "dilation": (1, 1), "padding_mode": "zeros"}
    names = ("epsilon", "slope", "output")

    def settings(**changes):
        parts = {
            "b1": norm, "c1": layer("conv.Conv2d", **conv),
            "activation": layer("activation.LeakyReLU", negative_slope=0.1), **changes,
        }  # fmt: skip
        return modules.common_settings(holder(**parts), names)

    assert settings() == {"epsilon": 1e-3, "slope": 0.1}
    pool = layer("pooling.MaxPool2d", kernel_size=2, stride=2)  # of attention, as is the softmax
    attention = holder(pool=pool, softmax=layer("activation.Softmax", dim=-1))
    assert settings(attention=attention) == settings()
    with pytest.raises(ValueError, match=r"c1 has stride = \(2, 2\); only \(1, 1\) is supported"):
        settings(c1=layer("conv.Conv2d", **{**conv, "stride": (2, 2)}))
    with pytest.raises(ValueError, match=r"b2 has epsilon 1e-05, another layer 0.001"):
        settings(b2=layer("batchnorm.BatchNorm2d", eps=1e-5))
    with pytest.raises(ValueError, match=r"is a torch.nn.modules.activation.ELU; only ReLU and L"):
        settings(activation=layer("activation.ELU", alpha=1.0))
