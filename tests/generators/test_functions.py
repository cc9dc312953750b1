"""Any function as a generator: trees of any library, classes, names on the command line."""

import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from configured import tiny

from lsh_gan import Generator, compression, devices, generators
from lsh_gan.compression import CompressionSpec
from lsh_gan.experiment import sweep
from lsh_gan.generators import sampling
from lsh_gan.results import store

DOCS = Path(__file__).parents[2] / "docs" / "any-generator.md"
EXAMPLES = re.findall(r"## ([^\n]+)\n.*?```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
W = jax.random.normal(jax.random.key(0), (4, 48))


def to_images(x):
    return jnp.tanh(x).reshape(-1, 4, 4, 3)


@pytest.mark.parametrize("library", ["Flax Linen", "Flax NNX", "Equinox", "PyTorch"])
def test_examples_of_the_documentation_are_compressed_and_packed(library, tmp_path):
    """The packed file gives back, in a tree of the library, what `compress` made."""
    names = {}
    exec(dict(EXAMPLES)[library], names)
    exec(dict(EXAMPLES)["What it costs"], names)
    generator, report = names["generator"], names["report"]
    assert names["images"].shape == (4, 16, 16, 1)
    widths = {tensor.path: tensor.bits for tensor in report.tensors}
    assert sorted(widths.values(), key=str) == [4, 4, 4, None, None, None]
    axes = {t.channel_axis % len(t.shape) == 0 for t in report.tensors if t.bits}
    assert axes == {"Equinox": {True}, "PyTorch": {True, False}}.get(library, {False})
    size = compression.save_packed(
        tmp_path / "a",
        compression.pack(generator.params, names["spec"], channel_axes=generator.channel_axes),
    )
    restored = generator.unpack(compression.load_packed(tmp_path / "a"))
    assert size == report.bytes
    jax.tree.map(np.testing.assert_array_equal, restored, names["params"])


def test_a_function_of_another_library_runs_on_the_host():
    calls = []

    def f(p, z, labels):
        calls.append(len(z))
        return np.tanh(np.asarray(z) @ np.asarray(p["w"]) + np.asarray(labels)[:, None]).reshape(
            -1, 4, 4, 3
        )

    options = {"latent": 4, "num_classes": 2, "name": "same"}
    host = Generator.from_function(f, {"w": W}, on_host=True, **options)
    own = Generator.from_function(
        lambda p, z, labels: to_images(z @ p["w"] + labels[:, None]), {"w": W}, **options
    )
    assert host.image_shape == (4, 4, 3)
    assert host.identity["params"] == own.identity["params"]
    assert host.identity != own.identity  # of other code
    calls.clear()
    drawn = [sampling.draw(x, 1.0, x.params, jax.random.key(1), np.arange(8)) for x in (host, own)]
    jax.tree.map(partial(np.testing.assert_allclose, atol=1, rtol=1e-5), *drawn)
    assert calls == [8]
    np.testing.assert_array_equal(
        sampling.sample_at(host, host.params, jax.random.key(1), np.arange(8)), drawn[0][0]
    )
    z, labels = host.draw(jax.random.key(1), jnp.arange(2))
    noise = np.random.default_rng(0).normal
    for changed in (
        lambda x: x + noise(size=x.shape), lambda x: x - x.mean(axis=0),
        lambda x: x + np.random.default_rng(0).normal(size=x.shape),  # depends on the place
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"same: a latent gives another image in another"):
            Generator.from_function(
                lambda *given, changed=changed: changed(f(*given)),
                {"w": W},
                on_host=True,
                **options,
            )
    images = jax.jit(lambda p, z: host(p, z, labels=labels))(host.params, z)
    np.testing.assert_allclose(images, own(own.params, z, labels=labels), rtol=1e-5)


def torch_module(torch, **layers):
    """A network of 8×8 grey images, with statistics that are not those of a new network."""
    module = torch.nn.Sequential()
    layers = {
        "dense": torch.nn.Linear(6, 4 * 4 * 4), "grid": torch.nn.Unflatten(1, (4, 4, 4)),
        "norm": torch.nn.BatchNorm2d(4), "up": torch.nn.ConvTranspose2d(4, 1, 4, 2, 1),
        "tanh": torch.nn.Tanh(), **layers,
    }  # fmt: skip
    for name, layer in layers.items():
        module.add_module(name, layer)
    torch.nn.init.uniform_(module.norm.running_var, 0.5, 1.5)
    return module


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_a_torch_module_runs_as_it_is():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module, table = torch_module(torch), torch.randn(3, 6)
    generator = Generator.from_torch(
        module, latent=6, num_classes=3, call=lambda net, z, labels: net(z * table[labels])
    )
    assert generator.image_shape == (8, 8, 1)
    drawn = generator.draw(jax.random.key(1), jnp.arange(5))

    def images():
        z, labels = (torch.from_numpy(np.array(x)) for x in drawn)
        with torch.no_grad():
            return module(z * table[labels]).permute(0, 2, 3, 1).numpy()

    z, labels = drawn
    assert not module.training
    np.testing.assert_allclose(generator(generator.params, z, labels=labels), images(), atol=1e-6)
    scripted = Generator.from_torch(torch.jit.script(module), latent=6)
    assert scripted.channel_axes == generator.channel_axes
    up, last = torch.nn.ConvTranspose2d(6, 6, 4, 2, 1), torch.nn.Conv2d(6, 1, 1)
    twice = torch.jit.script(torch.nn.Sequential(torch.nn.Unflatten(1, (6, 1, 1)), up, up, last))
    assert Generator.from_torch(twice, latent=6).channel_axes == {r"1\.weight": 1}
    spec = CompressionSpec(bits=3, clipping="mse")
    params, report = compression.compress(
        generator.params, spec, channel_axes=generator.channel_axes
    )
    axes = {t.path: t.channel_axis for t in report.tensors if t.bits}
    assert axes == {"dense.weight": 0, "up.weight": 1}
    pixels, _ = sampling.draw(generator, 1.0, params, jax.random.key(1), np.arange(5))
    state = {name: torch.from_numpy(np.array(x)) for name, x in params.items() if x is not None}
    module.load_state_dict(state, strict=False)
    expected = np.asarray(sampling.to_uint8(images()))
    assert np.abs(pixels.astype(int) - expected.astype(int)).max() <= 1


def test_what_a_torch_module_must_be():
    torch = pytest.importorskip("torch")
    norm = torch.nn.utils.parametrizations.spectral_norm
    module = torch_module(torch, up=norm(torch.nn.ConvTranspose2d(4, 1, 4, 2, 1)))
    with pytest.raises(ValueError, match=r"up\.parametrizations.*remove_parametrizations\(layer"):
        Generator.from_torch(module, latent=6)
    with pytest.raises(TypeError, match=r"Sequential: f\(params, z\) with z float32 \[2, 5\]: Run"):
        Generator.from_torch(torch_module(torch), latent=5)
    for changed, made in (
        (lambda x: {"image": x}, "a dict"), (torch.flatten, r"torch.float32 \(128,\)"),
        (lambda x: x.byte(), r"torch.uint8 \(2, 1, 8, 8\)"),
    ):  # fmt: skip
        with pytest.raises(
            TypeError, match=f"call returns {made}; expected a floating tensor .n, 1 or"
        ):
            Generator.from_torch(
                torch_module(torch), latent=6, call=lambda net, z, changed=changed: changed(net(z))
            )
    tied = torch_module(torch, more=torch.nn.Identity())
    tied.more.same, tied.more.weight = tied.dense, tied.dense.weight
    before = {name: x.numpy().copy() for name, x in tied.state_dict().items()}
    generator = Generator.from_torch(
        tied, latent=6, call=lambda net, z: net(z @ net.more.weight.T[:, :6])
    )
    assert len(jax.tree.leaves(generator.params)) == 8
    for name, x in tied.state_dict().items():
        np.testing.assert_array_equal(x.numpy(), before[name])
    zeros = jax.tree.map(jnp.zeros_like, generator.params)
    assert not np.ptp(generator(zeros, jnp.ones((2, 6))))  # in all of their places
    for other in (module.state_dict(), torch.fx.symbolic_trace(torch_module(torch))):
        with pytest.raises(TypeError, match=r"module is a \w+; expected a torch\.nn\.Module as it"):
            Generator.from_torch(other, latent=6)


class Named(NamedTuple):
    layers: list
    steps: int


def test_any_tree_is_compressed_as_nested_dicts_are_also_under_jit():
    spec = CompressionSpec(bits=3, clipping="mse")
    expected, report = compression.compress({"w": W, "b": W[0]}, spec)
    tree = Named([{"w": W, "b": W[0]}], 7)
    generator = Generator.from_function(
        lambda p, z: to_images(z @ p.layers[0]["w"] * p.steps), tree, latent=4, name="named"
    )
    found, of_found = compression.compress(generator.params, spec)
    jitted = jax.jit(lambda p: compression.compress(p, spec)[0])(generator.params)
    for made in (found, jitted):
        np.testing.assert_allclose(made.layers[0]["w"], expected["w"], rtol=1e-6)
        assert made.steps is None
    assert [tensor.path for tensor in of_found.tensors] == ["layers/0/b", "layers/0/w"]
    for tensor, other in zip(of_found.tensors, report.tensors, strict=True):
        assert (tensor.bits, tensor.channel_axis) == (other.bits, other.channel_axis)
    z = jnp.ones((2, 4))
    np.testing.assert_allclose(generator(found, z), to_images(z @ expected["w"] * 7), rtol=1e-5)


def test_classes_latents_and_channel_axes_of_a_function(monkeypatch):
    generator = Generator.from_function(
        lambda p, z, labels: to_images(z @ p["a"]["weight"].T + p["b"]["weight"][labels]),
        {"a": {"weight": W.T}, "b": {"weight": W}},
        latent=lambda key: jax.random.uniform(key, (4,)),
        num_classes=3,
        channel_axes={"b/.*": 1},
        name="classes",
    )
    z, labels = generator.draw(jax.random.key(0), jnp.arange(64))
    assert (z.min() >= 0) & (z.max() < 1) & (labels.max() == 2)
    report = compression.compress(
        generator.params, CompressionSpec(bits=4), channel_axes=generator.channel_axes
    )[1]
    assert {tensor.path: tensor.channel_axis for tensor in report.tensors} == {
        "a/weight": 0,
        "b/weight": 1,
    }
    # No loop within a program: it would make convolutions with channels first slow on a CPU.
    monkeypatch.setattr(sampling, "_CPU_PIXELS", 64)
    draw, calls = sampling._draw, []
    monkeypatch.setattr(sampling, "_draw", lambda *given: calls.append(given) or draw(*given))
    given = generator, generator.params, jax.random.key(0)
    batch = next(sampling.sample(*given, 23, batch_size=24))
    assert batch.shape == (23, 4, 4, 3)
    assert (len(calls) > 1) == devices.on_cpu()
    np.testing.assert_allclose(
        batch.astype(int), sampling.sample_at(*given, np.arange(23)), rtol=0, atol=1
    )
    with pytest.raises(ValueError, match="classes: conditional on 3 classes"):
        generator(generator.params, z)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"f": lambda p, z: (z @ p["w"]).reshape(-1, 3, 4, 4)}, r"makes float32 \(2, 3, 4, 4\)"),
        ({"f": lambda p, z: to_images(z @ p["w"]).astype(int)}, r"bad: makes int32"),
        ({"params": {"w": W.at[1, 2].set(jnp.nan)}}, r"bad: w: NaN or Inf at \(1, 2\)"),
        ({"f": lambda p, z: to_images(jnp.ones_like(z) @ p["w"])}, "bad: f does not use z"),
        ({"params": {"w": 3}}, "bad: the parameter tree holds no floating arrays"),
        ({"channel_axes": {"v": 0}}, "bad: channel_axes: 'v' matches no path; the nearest is 'w'"),
        ({"latent": lambda key: jax.random.normal(key, (2, 2))}, r"latent draws shape"),
        ({"latent": 5}, r"bad: f\(params, z\) with z float32 \[2, 5\]: TypeError: dot_general"),
        ({"num_classes": 3}, r"bad: f\(params, z, labels\) .*takes 2 positional arguments but 3"),
        ({"num_classes": 3.0}, r"bad: num_classes = 3.0 is not a whole number from 0 up"),
        ({"params": {"w": SimpleNamespace(detach=None)}}, "bad: w is a torch tensor"),
    ],
)  # fmt: skip
def test_bad_functions(options, message):
    good = {"f": lambda p, z: to_images(z @ p["w"]), "params": {"w": W}, "latent": 4, "name": "bad"}
    with pytest.raises((ValueError, TypeError), match=message):
        Generator.from_function(**good | options)


def test_images_of_a_function_in_bfloat16_are_float32():
    def f(params, z):
        return to_images(z @ params["w"]).astype(jnp.bfloat16)

    generator = Generator.from_function(f, {"w": W}, latent=4)
    assert generator(generator.params, jnp.ones((2, 4))).dtype == jnp.float32


def test_parameters_that_a_function_does_not_use_are_warned_of(caplog):
    tree = {"ema": {"w": W}, "raw": {"w": W}}
    Generator.from_function(lambda p, z: to_images(z @ p["ema"]["w"]), tree, latent=4, name="both")
    assert f"both: f does not use raw/w: {W.size} of {2 * W.size} parameters" in caplog.text


MODULE = """
import jax
import lsh_gan

def make(scale=1.0):
    w = jax.random.normal(jax.random.key(0), (4, 16 * 16)) * scale
    def f(params, z):
        return jax.numpy.tanh(z @ params[0]).reshape(-1, 16, 16, 1)
    return lsh_gan.Generator.from_function(f, [w], latent=4, name="mine")

def other():
    return make(scale=0.5)

def train():  # a batch norm in training mode
    w = jax.random.normal(jax.random.key(0), (4, 16 * 16))
    def f(params, z):
        x = z @ params[0]
        return jax.numpy.tanh((x - x.mean(0)) / x.std(0)).reshape(-1, 16, 16, 1)
    return lsh_gan.Generator.from_function(f, [w], latent=4, name="train")

def same():
    f = lambda params, z: params["w"] + 0 * z[:, :1, None, None]
    w = jax.random.normal(jax.random.key(0), (16, 16, 1))
    return lsh_gan.Generator.from_function(f, {"w": w}, latent=4, name="same")

def bright():
    w = jax.random.normal(jax.random.key(0), (4, 16 * 16))
    def f(params, z):
        return 255 * jax.nn.sigmoid(z @ params[0]).reshape(-1, 16, 16, 1)
    return lsh_gan.Generator.from_function(f, [w], latent=4, name="bright")

def wrong():
    return 3

def apply(params, z):
    return z

generator, number = make(), 3
"""


@pytest.mark.usefixtures("without_pictures", "projected")
def test_a_function_named_in_a_configuration_goes_through_a_sweep(tmp_path, monkeypatch, caplog):
    (tmp_path / "my_own_gan.py").write_text(MODULE)
    elsewhere = tmp_path / "else-where" / "my_own_gan.py"
    elsewhere.parent.mkdir()
    elsewhere.write_text("import beside\nmake = beside.make\n")
    (tmp_path / "else-where" / "beside.py").write_text(MODULE)
    generators.load(f"{elsewhere.parent}/beside.py:make")
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "real.npy", np.random.default_rng(0).integers(0, 256, (12, 16, 16, 1), "u1"))
    config = tiny(6, generators=("my_own_gan:make",), compression__bits=(4,))
    config.reference.images = str(tmp_path / "real.npy")
    sweep.run(config, tmp_path / "run")
    assert "beside" not in caplog.text
    assert "are equal" not in caplog.text
    rows = store.read(tmp_path / "run")
    assert len({row["row_hash"] for row in rows}) == len(rows) == 2
    assert generators.load("my_own_gan:make").identity.items() <= rows[0].items()
    assert generators.load("my_own_gan:generator").identity.items() <= rows[0].items()
    assert generators.load("./my_own_gan.py:other").identity["params"] != rows[0]["params"]
    assert {row["tensors"][0]["channel_axis"] for row in rows if row["bits"]} == {1}
    assert len(list((tmp_path / "run" / "packed").iterdir())) == 2
    packed = tmp_path / "run" / "packed" / f"{rows[0]['row_hash']}.packed"
    with pytest.raises(ValueError, match=r"parameters of a function, .*generator\.unpack"):
        generators.load(packed)
    config.generators = ("my_own_gan:train", "my_own_gan:same")
    sweep.run(config, tmp_path / "train")
    assert re.search(r"same: its first \d+ images are equal", caplog.text)
    assert re.search(r"train: image 0 changes by \d+ of 255 with the images beside", caplog.text)
    config.generators = ("my_own_gan:bright",)
    with pytest.raises(
        ValueError, match=r"bright: images reach 25\d.*; expected values in \[-1, 1"
    ):
        sweep.run(config, tmp_path / "bright")
    config.compression.activation_bits = (8,)
    with pytest.raises(ValueError, match="this generator is a Function: expected weights alone"):
        sweep.run(config, tmp_path / "activations")
    for name, error, message in (
        ("my_own_gan:apply", TypeError, "apply: missing a required .*; expected a function with"),
        ("my_own_gan:wrong", TypeError, "returned int; expected a Generator"),
        ("my_own_gan:mak", FileNotFoundError, "has no function 'mak'; did you mean 'make'"),
        ("my_own_gan:number", FileNotFoundError, r"no function 'number'; did you mean '(?!number)"),
        ("no_such_gan:make", FileNotFoundError, "no module 'no_such_gan' in "),
        (tmp_path / "my_own_gan.py", ValueError, r"my_own_gan\.py:FUNCTION; it has make, other, "),
        (f"{elsewhere}:make", ValueError, r"called my_own_gan, .*\.py; rename "),
        ("", FileNotFoundError, "is not a generator checkpoint"),
    ):
        with pytest.raises(error, match=message):
            generators.load(name)
