"""Mistakes on the command line are one line; lists of paths are read as lists."""

import subprocess
import sys
from pathlib import Path

import pytest

from configs import default
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
        (["--config=configs/smoke.py:abc"], "get_config() takes 0 positional arguments but 1"),
        (["--config.num_sampels", "5"], "no field 'num_sampels'; did you mean 'num_samples'?"),
        (["--config.generators=dcgan,/abs/x.packed"], "generator '/abs/x.packed': no such check"),
        (["--workdir=/dev/null/x", "--config.metrics=knn"], "/dev/null/x: cannot be written"),
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
