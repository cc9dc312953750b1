"""Mistakes on the command line are one line; lists of paths are read as lists."""

import subprocess
import sys
from pathlib import Path

import pytest

from configs import (
    celeba_hq,
    cifar10,
    default,
    eye_dcgan,
    face_dcgan,
    fashion_mnist,
    ffhq,
    full_precision,
    galaxies,
    imagenet,
    layers,
    lsun,
    search,
    smoke,
    train,
)
from lsh_gan import command_line

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.metric=knn", r"no field 'metric'; did you mean 'metrics'"),
        ("--config.metric", r"no field 'metric'; did you mean 'metrics'"),
        ("--noconfig.inclusiv", r"no field 'inclusiv'; did you mean 'inclusive'"),
        ("--config.compression.bit=4", r"no field 'compression.bit'.*'compression.bits'"),
    ],
)
def test_unknown_fields(argument, message):
    with pytest.raises(ValueError, match=message):
        command_line.check_field_names(["main.py", argument], default.get_config())


def test_known_fields_pass():
    arguments = ["main.py", "--config=a.py", "--config.compression.bits=4", "--workdir=x"]
    assert command_line.check_field_names(arguments, default.get_config()) is None


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["c = default.get_config()", "c.num_sampels = 100"], "'num_sampels'; did you mean 'num_s"),
        (
            ["c = default.get_config()", "c.compression.bit = (3,)"],
            "no field 'compression.bit'; did you mean 'compression.bits'?",
        ),
        (["c = ml_collections.ConfigDict()", "c.k = 3"], "lacks the field 'batch_size' and "),
        (["c = None"], "get_config() returned None; expected a configuration"),
        (["c = (1,)[1]"], "IndexError: tuple index out of range"),
    ],
)
def test_mistakes_in_a_file_are_one_line(lines, message, tmp_path):
    file, body = tmp_path / "own.py", "".join(f"    {line}\n" for line in [*lines, "return c"])
    head = "import ml_collections\n\nfrom configs import default\n\n\ndef get_config():\n"
    file.write_text(head + body)
    command = [sys.executable, "main.py", f"--config={file}", "--dry_run"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    line = result.stderr.splitlines()[-1]
    assert line.startswith(f"error: --config={file}: ")
    assert message in line
    assert "Traceback" not in result.stderr


def test_a_file_without_the_function(tmp_path):
    (tmp_path / "own.py").write_text("k = 3\n")
    command = [sys.executable, "main.py", f"--config={tmp_path / 'own.py'}", "--dry_run"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    message = "own.py: has no get_config(); expected a function that returns a configuration"
    assert result.stderr.splitlines()[-1].endswith(message)


def test_every_config_has_the_fields_of_the_default():
    parts = (celeba_hq, cifar10, face_dcgan, ffhq, full_precision, imagenet, layers, lsun, search)
    for part in (*parts, eye_dcgan, fashion_mnist, galaxies, smoke):
        assert command_line.check_fields(part.get_config(), default.get_config()) is None
    for run in train.RUNS:
        assert command_line.check_fields(train.get_config(run), train.get_config()) is None
    with pytest.raises(
        ValueError, match=r"^lacks the field 'beta1' and 1\d more; expected .* of x:"
    ):
        command_line.check_fields(default.get_config(), train.get_config(), source="x")
    own = ffhq.get_config()
    own.expected.mine = {"family": "dcgan"}  # names of generators, not of fields
    assert command_line.check_fields(own, default.get_config()) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/a/ok,/a/fake.npy", ("/a/ok", "/a/fake.npy")),
        ("dcgan,../x.packed", ("dcgan", "../x.packed")),
        ("/a folder/x", ("/a folder/x",)),
        ("params/a/kernel: skip", ("params/a/kernel: skip",)),
        ("0,1", (0, 1)),
        ("(4,)", (4,)),
        ("'a','b'", ("a", "b")),
    ],
)
def test_lists(text, expected):
    assert command_line.ListParser().parse(text) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config=configs/nope.py"],
            r"--config=configs/nope.py: no such file; did you mean 'conf",
        ),
        (
            ["--config.num_samples=1e3"],
            "num_samples = '1e3'; expected a whole number; the nearest is 10",
        ),
        (["--config.k=x"], "k = 'x'; expected a whole number, such as 3"),
        (["--config.search.share=x"], "search.share = 'x'; expected a number, such as 0.0"),
        (["--config.inclusive=maybe"], "inclusive = 'maybe'; expected True or False"),
        (
            ["--config.reference=foo"],
            "reference = 'foo'; expected one of its fields, such as --con",
        ),
        (
            ["--config=configs"],
            "--config=configs: is a folder; expected a file; did you mean 'config",
        ),
        (["--config="], "--config is empty; expected a file, such as configs/fashion_mnist.py"),
        (["--config.hash=2"], "hash = '2'; expected one of its fields, such as --config.hash."),
        (["--workdir="], "--workdir is empty; expected the folder of the results"),
        (["more"], "unexpected argument 'more'; expected flags, see --help"),
        (
            ["--config.features.name=vgg16"],
            "it is defined for 224 only: say --config.features.side=224",
        ),
        (["--config=configs/train.py:dcgan"], "lacks the field 'compression.activation_bits' and"),
        (["--config=configs/smoke.py:abc"], "get_config() takes 0 positional arguments but 1"),
        (["--config.num_sampels", "5"], "no field 'num_sampels'; did you mean 'num_samples'?"),
        (
            ["--config.generators=dcgan,/abs/x.packed", "--dry_run"],
            "generator '/abs/x.packed': no such check",
        ),
        (
            ["--workdir=/dev/null/x", "--config.metrics=knn"],
            "workdir /dev/null/x: /dev/null is a file",
        ),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    command = [sys.executable, "main.py", "--config=configs/smoke.py", "--workdir=/dev/null/x"]
    result = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    assert message in line
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("argument", "code", "message"),
    [
        ("--config.num_sampels=5", 1, "error: config has no field 'num_sampels'; did you mean 'nu"),
        ("--config.k=x", 1, "error: k = 'x'; expected a whole number, such as 3"),
        ("--config.seeds=1,2,3", 0, "× 3 seeds"),
    ],
)
def test_without_a_file_from_any_folder(argument, code, message, tmp_path):
    """The default configuration, and the same checks."""
    command = [sys.executable, str(ROOT / "main.py"), "--dry_run", argument]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == code
    assert "Traceback" not in result.stderr
    assert message in (result.stderr.splitlines()[-1] if code else result.stdout)
