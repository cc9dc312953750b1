"""The console script: an installed wheel, from any folder."""

import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from absl import flags

from configs import compress, train
from lsh_gan import generators
from lsh_gan.experiment import cli, configuration, search
from lsh_gan.experiment.evaluators import EVALUATORS
from lsh_gan.results import report, store
from lsh_gan.results.labels import TITLES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the package of a wheel, as pip installs it."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    source.mkdir()
    for name in ("lsh_gan", "checkpoints_tools", "configs", "tests", "benchmarks"):
        ignore = shutil.ignore_patterns("__pycache__", "goldens")
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for file in [*ROOT.glob("*.py"), *ROOT.glob("*.toml"), *ROOT.glob("*.txt"), ROOT / "README.md"]:
        shutil.copy(file, source)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", str(folder), str(source)], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed, *arguments, cwd):
    """What the entry point of the wheel does; nothing of the checkout can be imported."""
    program = "from lsh_gan.experiment.cli import main; main()"
    environment = os.environ | {"PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True,
    )  # fmt: skip


def test_the_wheel_takes_no_common_name_and_leaves_nothing_out(installed):
    top = {path.name for path in installed.iterdir()}
    assert {name for name in top if not name.endswith(".dist-info")} == {
        "lsh_gan",
        "checkpoints_tools",
    }
    for package in ("lsh_gan", "checkpoints_tools"):
        ours = {path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py")}
        assert ours <= {path.relative_to(installed) for path in installed.rglob("*.py")}
    configs = {path.name for path in (ROOT / "configs").glob("*.py")}
    assert configs == {path.name for path in (installed / "lsh_gan/shipped/configs").glob("*.py")}
    assert (installed / "lsh_gan/packaged/dcgan/generator.json").is_file()
    (entry,) = installed.glob("*.dist-info/entry_points.txt")
    assert "lsh-gan = lsh_gan.experiment.cli:main" in entry.read_text()


def test_an_installed_run_from_another_folder(installed, tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        "from configs import smoke\n\n\ndef get_config():\n    config = smoke.get_config()\n"
        '    config.generators = ("dcgan",)\n    return config\n'
    )
    done = run(installed, "run", "--config=own.py", "--dry_run", "--config.seeds=1,2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rows: 6 = (3) settings × 2 seeds" in done.stdout
    # A mistake is found before JAX is imported, which takes seconds.
    arguments = ["compress", "dcgan", "--config=configs/search.py", "--config.k=x"]
    done = run(installed, *arguments, cwd=tmp_path)
    assert done.stderr == "error: k = 'x'; expected a whole number, such as 3\n"


def call(monkeypatch, *arguments):
    for name in set(flags.FLAGS) & {"config", "keep", "output", "workdir", "dry_run"}:
        delattr(flags.FLAGS, name)  # of the command before, which was another process
    monkeypatch.setattr(sys, "argv", ["/usr/bin/lsh-gan", *arguments])
    monkeypatch.setattr(sys, "path", list(sys.path))
    cli.main()


def test_lists_and_mistakes(monkeypatch, capsys):
    call(monkeypatch)
    assert "compress FILE --keep=95%" in capsys.readouterr().out
    call(monkeypatch, "list")
    printed = capsys.readouterr().out
    for line in (
        "generators: dcgan, dcgan_animals, dcgan_mnist, dcgan_stacked_mnist, sngan",
        "data sets: fashion_mnist",
        "metrics: knn, lsh_knn",
    ):
        assert line in printed
    assert "efficientnet_lite0" in printed
    assert EVALUATORS.keys() == TITLES.keys()
    assert "configs/smoke.py" in printed
    with pytest.raises(SystemExit, match="command 'compres' is unknown; did you mean 'compress'"):
        call(monkeypatch, "compres")
    monkeypatch.setitem(cli.COMMANDS, "list", lambda: signal.default_int_handler(2, None))
    with pytest.raises(SystemExit) as ended:
        call(monkeypatch, "list")
    assert (ended.value.code, capsys.readouterr().err) == (130, "stopped\n")


HELP = {
    "run": ["--workdir: ", "config.num_samples = 5_000  # m: images per generator and setting"],
    "compress": ["lsh-gan compress FILE: Finds the smallest", "--keep: ", "config.hash.seed = 0"],
    "evaluate": ["REAL GENERATED", "of any d", 'config.hash.num_bits = "auto"\n'],
    "report": ["usage: lsh-gan report", "workdir"],
    "convert": ["usage: lsh-gan convert", "--part PART", "stylegan2_rosinality"],
    "inspect": ["usage: lsh-gan inspect", "runs nothing in it"],
    "verify": ["usage: lsh-gan verify", "--golden GOLDEN"],
}


def test_help_says_the_fields_and_succeeds(monkeypatch, capsys):
    for command, says in HELP.items():
        with pytest.raises(SystemExit) as ended:
            call(monkeypatch, command, "--help")
        assert not ended.value.code
        printed = capsys.readouterr().out
        for text in says:
            assert text in printed
    config = train.get_config()
    with pytest.raises(SystemExit):
        configuration.parse(["train_gan", "--help"], config, source="configs/train.py", usage="-")
    named = re.findall(r"config\.([a-z]\w*)", capsys.readouterr().out)
    assert set(named) == {*config}


def test_fields_without_effect_are_refused(monkeypatch):
    for arguments, message in {
        "compress dcgan --config.seeds=1": "seeds has no effect on lsh-gan compress: say --config",
        "compress dcgan --config.search.share=0.9": "search.share .*: say --keep",
        "evaluate a b --config.compression.bits=3": "compression.bits .*: nothing is compressed",
    }.items():
        with pytest.raises(SystemExit, match=message):
            call(monkeypatch, *arguments.split())


@pytest.mark.usefixtures("without_pictures", "projected")
def test_compress_writes_the_smallest_width_that_keeps_the_share(tmp_path, capsys):
    config = compress.get_config("dcgan")
    config.search.num_samples, config.batch_size, config.search.share = 64, 64, 0.9
    config.compression.bits = (8, 7, 6, 1)
    config.features.side, config.hash.num_bits, config.hash.num_tables = 32, 2, 4
    output = tmp_path / "made" / "small.safetensors"
    with pytest.raises(ValueError, match="is a folder; expected a file"):
        search.compress(config, tmp_path / "run", tmp_path)
    (tmp_path / "run").mkdir()
    store.append(tmp_path / "run", {"row_hash": "of another command"})  # is not reported
    said = search.compress(config, tmp_path / "run", output)
    kept = r"dcgan: 6 bits keep .* ± .* % \(standard error\) of .* by KNN"
    assert re.match(kept + "; 1 bits would keep .*; .*, 5.3× smaller$", said)
    assert generators.load(output).packed_file == output
    report.write(tmp_path / "run")
    shown = capsys.readouterr().out
    assert "\ndcgan: 6 bits keeps 90% of precision and recall" in shown
    assert "measurements" not in shown  # 7 bits were not needed
    config.generators, config.compression.bits = (str(output),), (8, 6)
    again = search.compress(config, tmp_path / "run", tmp_path / "again.safetensors")
    assert again.endswith("5.3× smaller; full precision is the packed file as it is")
