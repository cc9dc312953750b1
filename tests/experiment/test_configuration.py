"""Mistakes on the command line are one line; lists of paths are read as lists."""

import importlib
import re
from pathlib import Path

import pytest
from absl import flags
from children import Child

from configs import default, ffhq, train
from lsh_gan.experiment import configuration

ROOT = Path(__file__).parents[2]
# How ml_collections loads a file of Python.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
CONFIGS = [file.stem for file in (ROOT / "configs").glob("[!_]*.py") if file.stem != "train"]


@pytest.fixture
def parse(monkeypatch, tmp_path):
    """Parses a command line by flags of its own, in an empty folder, and returns the config."""
    monkeypatch.chdir(tmp_path)

    def parse_fresh(*arguments):
        monkeypatch.setattr(flags, "FLAGS", flags.FlagValues())
        flags.DEFINE_boolean("dry_run", False, "", flag_values=flags.FLAGS)
        file = ROOT / "configs" / "fashion_mnist.py"
        configuration.parse(["main.py", *arguments], default.get_config(), default=file)
        return flags.FLAGS.config

    return parse_fresh


def test_what_is_right_is_read(parse):
    assert parse().num_samples == default.get_config().num_samples
    config = parse("--config=configs/smoke.py", "--config.seeds=1,2,3", "--config.hash.votes=None")
    assert (config.num_samples, config.seeds, config.hash.votes) == (250, (1, 2, 3), None)
    config = parse("--config.k=5", "--config", "configs/ffhq.py:1024")
    assert (config.generators, config.k) == (("checkpoints/ffhq1024",), 5)
    assert not parse("--noconfig.inclusive").inclusive
    samples = parse("--config.samples=~/a b,c~/d,~/e").samples
    assert samples == (str(Path.home() / "a b"), "c~/d", str(Path.home() / "e"))


def test_mistakes_are_one_line(parse):
    for arguments, message in {
        "--config.metric=knn": "config has no field 'metric'; did you mean 'metrics'?",
        "--bits=4": "'bits'; did you mean --config.compression.bits?",
        "--features=vgg16": "'features'; did you mean --config.features.name?",
        "--num_samples=9": "'num_samples'; did you mean --config.num_samples?",
        "--config.metric": "config has no field 'metric'; did you mean 'metrics'?",
        "--noconfig.inclusiv": "config has no field 'inclusiv'; did you mean 'inclusive'?",
        "--config.compression.bit=4": "config has no field 'compression.bit'; did you mean 'com",
        "--config.num_sampels 5": "no field 'num_sampels'; did you mean 'num_samples'?",
        "--config.num_samples=1e3": "num_samples = '1e3'; expected a whole number, 1000",
        "--config.k=0.3": "k = '0.3'; expected a whole number, such as 3",
        "--config.seed=1": "config has no field 'seed'; did you mean 'seeds'?",
        "--config.dry_run": "config has no field 'dry_run'; did you mean --dry_run?",
        "--config.k=x": "k = 'x'; expected a whole number, such as 3",
        "--config.search.share=x": "search.share = 'x'; expected a number, such as 0.0",
        "--config.inclusive=maybe": "inclusive = 'maybe'; expected True or False",
        "--config.reference=foo": "config has no field 'reference'; did you mean 'reference.",
        "--config.hash={'seed':1}": "config has no field 'hash'; did you mean 'hash.",
        "--config=": "--config is missing; expected a file, such as configs/default.py",
        "--config": "--config is missing; expected a file, such as configs/default.py",
        "--config=configs/nope.py": "--config=configs/nope.py: no such file",
        "--config=smoke": "--config=smoke: no such file; did you mean 'configs/smoke.py'?",
        f"--config={ROOT}/configs": "configs: is a folder; expected a file, such as configs/",
        f"--config={ROOT}/configs/smok.py": "smok.py: no such file; did you mean '",
        "--config=configs/train.py:dcgan": "lacks the field 'compression.activation_bits' and",
        "--config=configs/smoke.py:abc": "smoke.py: TypeError: get_config() takes 0 positional ",
        "--config.seeds=1 --config.seeds=2": "seeds is given 2 times; expected it once, its entr",
    }.items():
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            parse(*arguments.split(" "))
        assert "\n" not in str(caught.value)


def test_mistakes_in_a_file_are_one_line(parse, tmp_path):
    head = "import ml_collections\n\nfrom configs import default\n\n\ndef get_config():\n"
    head += "    c = default.get_config()\n"
    for number, (line, message) in enumerate({
        "c.num_sampels = 100": "'num_sampels'; did you mean 'num_s",
        "c.compression.bit = (3,)": "'compression.bit'; did you mean 'compression.bits'?",
        "c = ml_collections.ConfigDict({'k': 3})": "lacks the field 'batch_size' and ",
        "c = None": "get_config() returned None; expected a configuration",
        "c = (1,)[1]": "IndexError: tuple index out of range",
    }.items()):  # fmt: skip
        file = tmp_path / f"own{number}.py"
        file.write_text(f"{head}    {line}\n    return c\n")
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            parse(f"--config={file}")
        assert re.fullmatch(rf"--config={file}: .*", str(caught.value))


def test_every_config_has_the_fields_of_the_default():
    for name in CONFIGS:
        made = importlib.import_module(f"configs.{name}").get_config()
        assert configuration.check_fields(made, default.get_config()) is None
    for run in train.RUNS:
        assert configuration.check_fields(train.get_config(run), train.get_config()) is None
    with pytest.raises(
        ValueError, match=r"^lacks the field 'beta1' and \d+ more; expected .* of x:"
    ):
        configuration.check_fields(default.get_config(), train.get_config(), source="x")
    own = ffhq.get_config()
    own.expected.mine = {"family": "dcgan"}  # names of generators, not of fields
    assert configuration.check_fields(own, default.get_config()) is None


def test_lists():
    for text, expected in {
        "/a/ok,/a/fake.npy": ("/a/ok", "/a/fake.npy"),
        "dcgan,../x.packed": ("dcgan", "../x.packed"),
        "/a folder/x": ("/a folder/x",),
        "params/a/kernel: skip": ("params/a/kernel: skip",),
        "0,1": (0, 1),
        "(4,)": (4,),
        "'a','b'": ("a", "b"),
    }.items():
        assert configuration.ListParser().parse(text) == expected


ENDS = {
    "--workdir=": "--workdir is missing; expected the folder of the results",
    "more": "unexpected argument 'more'; expected flags, see --help",
    "--config=own.py": "has no get_config(); expected a function that returns a configuration",
    "--config.generators=dcgan,/a/x.packed --dry_run": "generator '/a/x.packed': no such check",
    "--config.metrics=knn": "workdir /dev/null/x: /dev/null is a file",
    "--coordinator=here --processes=2": "no cluster: coordinator 'here'; expected HOST:PORT",
    "--processes=2 --process=1": "coordinator_address should be defined; expected --coordinator, ",
    "--config.metrics=kn": "metrics: metric 'kn' is unknown; did you mean 'knn'",
}


@pytest.mark.parametrize(("arguments", "message"), ENDS.items())
def test_a_run_ends_with_one_line(arguments, message, tmp_path):
    (tmp_path / "own.py").write_text("k = 3\n")
    command = ["--workdir=/dev/null/x", *arguments.split()]
    result = Child(command, tmp_path / "said", cwd=tmp_path).end()
    assert result.returncode == 1
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    assert message in line
    assert "Traceback" not in result.stderr
