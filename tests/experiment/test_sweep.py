"""The main job at a tiny size, as a person runs it, and the ways in which it refuses bad input."""

import csv
import logging
import os
import re
import signal
import time

import jax
import numpy as np
import pandas as pd
import pytest
from children import Child, free_address
from configured import save_images, tiny
from PIL import Image

from configs import smoke
from lsh_gan import compression, generators
from lsh_gan.experiment import settings, sweep
from lsh_gan.generators import checkpoints
from lsh_gan.results import report, store
from lsh_gan.results.answer import mean_and_error
from lsh_gan.results.labels import percent


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, cache_folder):
    """The work folder of one run of the smoke configuration from the command line."""
    folder = tmp_path_factory.mktemp("run") / "smoke"
    command = ["--config=configs/smoke.py", f"--workdir={folder}"]
    result = Child(command, folder.parent / "said", pictures=True).end()
    assert result.returncode == 0, result.stderr
    for name in ("dcgan", "sngan"):
        assert re.search(rf"^{name}: .* 95% of precision and recall", result.stdout, re.M)
    time_went, files = result.stdout.splitlines()[-2:]
    assert re.search(r"^time: .* 6 new rows: .*sampling and features \d+%.* images/s$", time_went)
    assert files.startswith(f"files: {folder}: ")
    assert "table.md" in files
    assert any((cache_folder / "programs").iterdir())
    return folder


def test_one_row_a_measurement_with_all_that_repeats_it(workdir):
    measured = store.read(workdir)
    settings = {(row["generator"], row["bits"], row["clipping"]) for row in measured}
    expected = {(None, None), (4, "mse"), (2, "mse")}
    assert settings == {(name, *pair) for name in ("dcgan", "sngan") for pair in expected}
    for row in measured:
        for metric in ("knn", "lsh_knn", "lsh"):
            for field in ("precision", "recall", "precision_ceiling", "recall_ceiling"):
                assert 0 <= row[f"{metric}_{field}"] <= 1
        assert (row["n"], row["m"], row["d"], row["k"], row["seed"]) == (250, 250, 1280, 3, 0)
        assert row["features"]["name"] == "efficientnet_lite0"
        assert row["hash"]["num_tables"] == 32
        assert {"jax", "flax", "numpy", "lsh_gan", "python"} <= row["versions"].keys()
        assert row["seconds"]["knn"] > 0
        assert row["images_per_second"] > 0
        hits = store.read_hits(workdir, row["row_hash"])
        for metric in ("knn", "lsh_knn", "lsh"):
            for score in ("precision", "recall"):
                shares = hits[f"{metric}_{score}_hits"]
                assert (shares.dtype, shares.shape) == (bool, (250,))
                assert shares.mean() == pytest.approx(row[f"{metric}_{score}"])


def test_size_in_the_table_is_the_size_on_disk(workdir):
    for row in store.read(workdir):
        assert (workdir / "packed" / f"{row['row_hash']}.packed").stat().st_size == row["bytes"]
    sizes = {
        row["bits"]: row["bytes"] for row in store.read(workdir) if row["generator"] == "dcgan"
    }
    assert sizes[2] < sizes[4] < sizes[None] / 7


def test_packed_file_is_the_compressed_generator(workdir):
    row = next(r for r in store.read(workdir) if r["generator"] == "sngan" and r["bits"] == 4)
    packed = generators.load(workdir / "packed" / f"{row['row_hash']}.packed")
    spec = compression.CompressionSpec(bits=4, clipping="mse")
    expected, _ = compression.compress(generators.load("sngan").params, spec)
    for path in ("conv_1", "shortcut"):
        ours = packed.params["params"]["block_1"][path]["kernel"]
        np.testing.assert_array_equal(ours, expected["params"]["block_1"][path]["kernel"])


def test_tables_and_pictures_are_there(workdir):
    with (workdir / "table.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 6
    first = table[0]
    relative = float(first["knn_precision"]) / float(first["knn_precision_ceiling"])
    assert float(first["knn_precision_relative"]) == pytest.approx(relative)
    assert (workdir / "table.md").read_text().count("\n") >= 10
    plots = ["precision_recall", "tradeoff", "size_recall"]
    for name in plots:
        assert (workdir / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    for name in (*plots, "samples_dcgan", "samples_sngan", "outside", "uncovered"):
        with Image.open(workdir / f"{name}.png") as image:
            pixels = np.asarray(image.convert("L"))
        assert pixels.shape[0] > 200
        assert pixels.std() > 5
    page = (workdir / "report.html").read_text(encoding="utf-8")
    assert len(page) < 3_000_000
    assert all(f'data-row="{row["row_hash"]}"' in page for row in store.read(workdir))


def test_strips_show_the_same_latents(workdir):
    strips = {}
    for row in store.read(workdir):
        if row["generator"] == "dcgan":
            with Image.open(workdir / "samples" / f"{row['row_hash']}.png") as image:
                strips[row["bits"]] = np.asarray(image).astype(float)
    assert strips[None].shape == (32, 320)
    shuffled = np.roll(strips[None], 32, axis=1)
    for bits in (4, 2):
        changed = np.abs(strips[bits] - strips[None]).mean()
        assert 0 < changed < np.abs(strips[bits] - shuffled).mean() / 2


@pytest.mark.usefixtures("without_pictures")
def test_repeating_the_command_computes_nothing(workdir):
    before = (workdir / "rows.jsonl").read_bytes()
    started = time.time()
    sweep.run(smoke.get_config(), workdir)
    assert (workdir / "rows.jsonl").read_bytes() == before
    assert (workdir / "table.md").stat().st_mtime >= started
    for file in (workdir / "packed").iterdir():
        assert file.stat().st_mtime < started


def test_reports_that_cannot_be_made(workdir, tmp_path):
    with pytest.raises(SystemExit, match="is not a work folder"):
        report.main([str(tmp_path)])
    # Not even by root: another error number by system, the same advice.
    with pytest.raises(SystemExit, match="name another folder as OUTPUT"):
        report.main([str(workdir), "/sys/report"])


@pytest.mark.usefixtures("without_pictures", "projected")
def test_a_work_folder_grows_and_measures_nothing_twice(tmp_path):
    """Only what changes the numbers of a row makes a new one; the table is of the last run."""
    folder = tmp_path / "run"
    first = sweep.run(tiny(), str(folder))
    assert list(first["row_hash"]) == [row["row_hash"] for row in store.read(folder)]
    same = {"batch_size": 64, "memory_mb": 128, "num_columns": 3, "keep": 0.9}
    same |= {"hash__num_tables": 16, "features__batch_size": 16, "lsh_knn__num_tables": 6}
    wider = sweep.run(tiny(compression__bits=(4,), seeds=(0, 1), **same), folder)
    assert (len(wider), len(store.read(folder))) == (4, 4)
    assert first["row_hash"][0] in set(wider["row_hash"])
    pd.testing.assert_frame_equal(sweep.run(tiny(), folder), first)
    assert (folder / "table.md").read_text().count("dcgan") == 1
    setup = sweep.prepare(settings.resolve(tiny()))
    for changes in ({"k": 2}, {"num_samples": 9}, {"inclusive": False}, {"seeds": (2,)}):
        config = settings.resolve(tiny(**changes))
        (task,) = sweep.measurements(setup._replace(config=config))
        assert task.row_hash not in {row["row_hash"] for row in store.read(folder)}
    hashes = [
        sweep.measurements(setup._replace(config=settings.resolve(tiny(metrics=("lsh",), k=k))))
        for k in (2, 3)
    ]
    assert hashes[0][0].row_hash == hashes[1][0].row_hash  # LSH has no k


@pytest.mark.usefixtures("projected")
def test_another_run_in_the_folder_is_found_before_anything_is_read(tmp_path):
    config = tiny(generators=("gone",))
    with store.locked(tmp_path), pytest.raises(ValueError, match="another run is measuring there"):
        sweep.run(config, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(
        ValueError, match=r"workdir .*/file/x: .*/file is a file; expected a folder"
    ):
        sweep.run(config, tmp_path / "file" / "x")


@pytest.mark.parametrize(
    ("signal_sent", "code", "cluster"),
    # A scheduler sends SIGTERM, which JAX takes for itself in a cluster.
    [(signal.SIGINT, 130, 0), (signal.SIGTERM, 143, 1)],
)
def test_an_interrupted_run_says_how_far_it_came(tmp_path, signal_sent, code, cluster):
    workdir = tmp_path / "run"
    seeds = ",".join(map(str, range(500)))
    options = ["num_samples=8", "reference.num_images=8", "metrics=knn", "compression.bits=()"]
    options += ["generators=dcgan", f"seeds={seeds}", "batch_size=8", "hash.num_tables=1"]
    command = ["--config=configs/smoke.py", f"--workdir={workdir}"]
    if cluster:
        command += ["--processes=1", "--process=0", f"--coordinator={free_address()}"]
    command += [f"--config.{option}" for option in options]
    run = Child(command, tmp_path / "said", projected=True)
    while run.process.is_alive() and len(store.read(workdir)) < 2:  # the line of one is out
        time.sleep(0.1)
    os.kill(run.process.pid, signal_sent)
    result = run.end()
    said = result.stderr
    assert result.returncode == code
    assert "Traceback" not in said
    done = len(store.read(workdir))
    assert 0 < done < 500
    lines = [line for line in said.splitlines() if " of 500: dcgan, full, seed " in line]
    assert len(lines) in (done, done - 1)  # the last row may end before its line
    assert re.search(r" 1 of 500: .*: KNN [\d.±]+/[\d.±]+ in .* images/s; .* left$", lines[0])
    last = said.splitlines()[-1]
    assert last.startswith(f"stopped: {done} of 500 measurements are done; run the same command ag")


@pytest.mark.usefixtures("without_pictures", "projected")
def test_a_strip_is_taken_from_as_many_batches_as_it_needs(tmp_path, caplog):
    config = tiny(batch_size=3, num_columns=7, compression__bits=(4, 2))
    config.compression.rules = ("params/to_image/kernel: skip",)
    with caplog.at_level(logging.INFO, "absl"):
        sweep.run(config, tmp_path / "run")
    for row in store.read(tmp_path / "run"):
        with Image.open(tmp_path / "run" / "samples" / f"{row['row_hash']}.png") as image:
            assert image.size == (7 * 32, 32)
    said = [record.getMessage() for record in caplog.records]
    rule = "dcgan: rule 'params/to_image/kernel' applies to params/to_image/kernel"
    assert [text for text in said if "applies to" in text] == [rule]


def test_log_and_bars_are_silent_where_there_is_no_terminal(tmp_path):
    save_images(tmp_path, np.arange(8, dtype=np.uint8)[:, None, None].repeat(32, 1).repeat(32, 2))
    options = ["num_samples=8", "reference.num_images=8", "metrics=knn", "compression.bits=4"]
    options += ["generators=dcgan", f"reference.images={tmp_path}", "compression.layerwise=True"]
    command = ["--config=configs/smoke.py", f"--workdir={tmp_path / 'run'}"]
    command += [f"--config.{option}" for option in options]
    result = Child(command, tmp_path / "said", projected=True).end()
    assert result.returncode == 0, result.stderr
    for word in ("Unable to initialize backend", "Rule(", "applies to"):
        assert word not in result.stderr
    for word in ("measurements", "reading", "8/8"):
        assert word not in result.stdout


def test_own_images_and_features(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 32, 32, 3), np.uint8)
    save_images(tmp_path / "psi_0.5", images)
    np.save(tmp_path / "real.npy", rng.standard_normal((12, 1280), np.float32))
    np.save(tmp_path / "fake.npy", rng.standard_normal((9, 1280), np.float32))
    config = tiny(
        generators=(),
        samples=(str(tmp_path / "psi_0.5"), str(tmp_path / "fake.npy")),
        reference__features=str(tmp_path / "real.npy"),
    )
    sweep.run(config, tmp_path / "run")
    folder, features = store.read(tmp_path / "run")
    assert (folder["generator"], folder["m"], features["generator"], features["m"]) == (
        "psi_0.5", 8, "fake", 9
    )  # fmt: skip
    assert "bytes" not in folder
    with Image.open(tmp_path / "run" / "samples" / f"{folder['row_hash']}.png") as image:
        np.testing.assert_array_equal(image, np.concatenate(images, axis=1))
    with Image.open(tmp_path / "run" / "samples_psi_0.5.png") as image:
        assert np.asarray(image).std() > 5
    assert not (tmp_path / "run" / "samples_fake.png").exists()


@pytest.mark.usefixtures("without_pictures", "projected")
def test_equal_names_and_packed_files_say_what_they_are(workdir, tmp_path):
    by_width = {row["bits"]: row for row in store.read(workdir) if row["generator"] == "dcgan"}
    packed = tmp_path / "p.packed"
    packed.write_bytes((workdir / "packed" / f"{by_width[2]['row_hash']}.packed").read_bytes())
    sweep.run(tiny(generators=("dcgan", str(packed))), tmp_path / "run")
    plain, compressed = store.read(tmp_path / "run")
    assert (plain["generator"], compressed["generator"]) == ("dcgan", "p.packed")
    assert compressed["bytes"] == packed.stat().st_size == by_width[2]["bytes"]
    assert compressed["ratio"] == by_width[2]["ratio"] > 7
    kept = tmp_path / "run" / "packed" / f"{compressed['row_hash']}.packed"
    assert kept.read_bytes() == packed.read_bytes()
    lines = (tmp_path / "run" / "table.md").read_text().splitlines()
    widths = [line.split("|")[2].strip() for line in lines if "p.packed" in line]
    assert widths == ["packed"]


@pytest.mark.usefixtures("without_pictures", "projected")
def test_a_report_has_what_the_last_run_asked_for(tmp_path):
    """A checkpoint that changes in its place is measured again, and its old rows are not mixed."""
    dcgan, path = generators.load("dcgan"), tmp_path / "own"
    for scale in (1.0, 0.5):
        params = jax.tree.map(lambda leaf, scale=scale: scale * leaf, dcgan.params)
        checkpoints.save(path, dcgan.provenance | {"name": "own"}, params)
        sweep.run(tiny(generators=(str(path),)), tmp_path / "run")
    first, second = store.read(tmp_path / "run")
    assert first["params"] != second["params"]
    assert store.read_requested(tmp_path / "run") == [second]
    with (tmp_path / "run" / "table.csv").open() as file:
        assert [line["row_hash"] for line in csv.DictReader(file)] == [second["row_hash"]]


@pytest.mark.usefixtures("without_pictures", "projected")
def test_several_seeds_are_one_line(tmp_path, capsys):
    sweep.run(tiny(seeds=(0, 1, 2), num_samples=40, reference__num_images=40), tmp_path / "run")
    assert "means ± standard errors of seeds 0, 1, 2" in capsys.readouterr().out
    rows = store.read(tmp_path / "run")
    assert np.std([row["knn_recall"] for row in rows]) > 0
    rows = store.with_hits(tmp_path / "run", rows)
    (line,) = (x for x in (tmp_path / "run" / "table.md").read_text().splitlines() if "dcgan" in x)
    assert f"/{percent(*mean_and_error(rows, 'knn_recall'))} |" in line


@pytest.mark.usefixtures("projected")
def test_layers_and_given_samples_in_one_run(tmp_path):
    np.save(tmp_path / "fake.npy", np.random.default_rng(0).random((9, 8), np.float32))
    config = tiny(
        compression__bits=(4,), compression__layerwise=True, samples=(str(tmp_path / "fake.npy"),)
    )
    sweep.run(config, tmp_path / "run")
    assert (tmp_path / "run" / "layers_dcgan.png").exists()
    assert not (tmp_path / "run" / "layers_fake.png").exists()


@pytest.mark.usefixtures("projected")
def test_the_same_content_under_two_names_is_refused(workdir, tmp_path):
    full = next(r for r in store.read(workdir) if r["generator"] == "dcgan" and not r["bits"])
    same = str(workdir / "packed" / f"{full['row_hash']}.packed")
    with pytest.raises(ValueError, match=r"^dcgan and .*\.packed have the same content"):
        sweep.run(tiny(generators=("dcgan", same)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.full((12, 1280), np.nan, np.float32), r"real\.npy: row 0 holds NaN or Inf"),
        (np.zeros((12, 7), np.float32), r"real\.npy: d = 7; the feature network has d = 1280"),
        (
            np.zeros((12, 4, 4), np.float32),
            r"real\.npy: an array: float32 \(12, 4, 4\); expected f",
        ),
        (np.zeros((12, 1280), np.int32), r"real\.npy: an array: int32 .*; expected float features"),
        (np.zeros((4, 1280), np.float32), r"num_images = 8: .* has 4, and .* needs at least 5$"),
        (np.zeros((7, 1280), np.float32), r"num_images = 8: .* has 7, .*; the nearest is 7$"),
        (np.full((12, 1280), -1e60), r"row 0 holds 1e\+60; expected magnitudes of float32"),
    ],
)
def test_bad_reference_features(content, message, tmp_path):
    np.save(tmp_path / "real.npy", content)
    config = tiny(reference__features=str(tmp_path / "real.npy"))
    with pytest.raises(ValueError, match=message):
        sweep.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_bad_sources_are_errors_before_the_work_folder_exists(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.pth").write_bytes(b"no weights")
    (tmp_path / "text.npy").write_text("1 2 3")
    sketch = {"metrics": ("lsh",), "reference__sketch": str(tmp_path / "empty")}
    cases = [
        ({"reference__images": str(tmp_path / "empty")}, ValueError, "no images"),
        ({"generators": ("dcgam",)}, FileNotFoundError, "generators: dcgan, dcgan_animals"),
        ({"features__name": "vgg16", "features__side": 224}, FileNotFoundError,
         r"Say --config\.features\.weights=FILE"),
        ({"features__weights": str(tmp_path / "no.pth")}, FileNotFoundError, "no such file"),
        ({"features__weights": str(tmp_path / "weights.pth")}, ValueError, "sha256 is"),
        ({"reference__features": str(tmp_path / "empty")}, ValueError, "empty: is a folder"),
        ({"reference__features": str(tmp_path / "text.npy")}, ValueError, r"nor \.npy, \.npz or a"),
        (sketch, ValueError, "empty: is a folder; expected the file reference.sketch"),
        ({"reference__num_images": 20_000}, ValueError, "fashion_mnist has 10000"),
        ({"samples": (str(tmp_path / "gone"),)}, FileNotFoundError, "no such folder or file"),
        ({"profile": str(tmp_path / "text.npy")}, ValueError, "profile .* is a file; expected a f"),
    ]  # fmt: skip
    for changes, error, message in cases:
        with pytest.raises(error, match=message):
            sweep.run(tiny(**changes), tmp_path / "run")
    rule = ("params/up_9/kernel: skip",)
    with pytest.raises(ValueError, match=r"up_9.*matches nothing.*nearest path is 'params/up_"):
        sweep.run(tiny(compression__bits=(4,), compression__rules=rule), tmp_path / "run")
    assert not (tmp_path / "run").exists()
