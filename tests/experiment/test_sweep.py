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
from children import Child, free_address, project
from configured import changed, save_images, tiny
from PIL import Image

from configs import smoke
from lsh_gan import compression, generators
from lsh_gan.experiment import search, settings, sweep
from lsh_gan.generators import checkpoints
from lsh_gan.results import plots, report, store
from lsh_gan.results.answer import mean_and_error
from lsh_gan.results.labels import percent

# Two generators of one architecture, which share programs.
SMALL = {"generators": ("dcgan", "dcgan_mnist"), "num_samples": 100, "batch_size": 8}
SMALL["reference.num_images"] = 100


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """The work folder of one small run of the smoke configuration, pictures included."""
    folder = tmp_path_factory.mktemp("run") / "smoke"
    with pytest.MonkeyPatch.context() as patch:
        project(patch.setattr)
        sweep.run(changed(smoke.get_config(), **SMALL), folder)
    return folder


def test_one_row_a_measurement_with_all_that_repeats_it(workdir):
    measured = store.read(workdir)
    settings = {(row["generator"], row["bits"], row["clipping"]) for row in measured}
    expected = {(None, None), (4, "mse"), (2, "mse")}
    assert settings == {(name, *pair) for name in SMALL["generators"] for pair in expected}
    for row in measured:
        for metric in ("knn", "lsh_knn", "lsh"):
            for field in ("precision", "recall", "precision_ceiling", "recall_ceiling"):
                assert 0 <= row[f"{metric}_{field}"] <= 1
        assert (row["n"], row["m"], row["d"], row["k"], row["seed"]) == (100, 100, 8, 3, 0)
        assert row["features"]["name"] == "projection"
        assert row["hash"]["num_tables"] == 32
        assert {"jax", "flax", "numpy", "lsh_gan", "python"} <= row["versions"].keys()
        assert row["seconds"]["knn"] > 0
        assert row["images_per_second"] > 0
        hits = store.read_hits(workdir, row["row_hash"])
        for metric in ("knn", "lsh_knn", "lsh"):
            for score in ("precision", "recall"):
                shares = hits[f"{metric}_{score}_hits"]
                assert (shares.dtype, shares.shape) == (bool, (100,))
                assert shares.mean() == pytest.approx(row[f"{metric}_{score}"])


def test_size_in_the_table_is_the_size_on_disk(workdir):
    for row in store.read(workdir):
        assert (workdir / "packed" / f"{row['row_hash']}.packed").stat().st_size == row["bytes"]
    sizes = {
        row["bits"]: row["bytes"] for row in store.read(workdir) if row["generator"] == "dcgan"
    }
    assert sizes[2] < sizes[4] < sizes[None] / 7


def test_packed_file_is_the_compressed_generator(workdir):
    row = next(r for r in store.read(workdir) if r["generator"] == "dcgan" and r["bits"] == 4)
    packed = generators.load(workdir / "packed" / f"{row['row_hash']}.packed")
    spec = compression.CompressionSpec(bits=4, clipping="mse")
    expected, _ = compression.compress(generators.load("dcgan").params, spec)
    for layer in ("project", "up_1", "to_image"):
        ours = packed.params["params"][layer]["kernel"]
        np.testing.assert_array_equal(ours, expected["params"][layer]["kernel"])


def test_tables_and_pictures_are_there(workdir):
    with (workdir / "table.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 6
    first = table[0]
    relative = float(first["knn_precision"]) / float(first["knn_precision_ceiling"])
    assert float(first["knn_precision_relative"]) == pytest.approx(relative)
    assert (workdir / "table.md").read_text().count("\n") >= 10
    views = ["precision_recall", "tradeoff", "size_recall"]
    for name in views:
        assert (workdir / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    for name in (*views, "samples_dcgan", "samples_dcgan_mnist", "outside", "uncovered"):
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


def run_command(folder, options, *flags, **given):
    command = ["--config=configs/smoke.py", f"--workdir={folder}", *flags]
    command += [f"--config.{name}={value}" for name, value in options.items()]
    return Child(command, folder.parent / "said", projected=8, **given)


def test_repeating_the_command_computes_nothing(workdir):
    before = (workdir / "rows.jsonl").read_bytes()
    started = time.time()
    result = run_command(workdir, SMALL).end()
    assert result.returncode == 0, result.stderr
    assert (workdir / "rows.jsonl").read_bytes() == before
    assert (workdir / "table.md").stat().st_mtime >= started
    for file in (workdir / "packed").iterdir():
        assert file.stat().st_mtime < started
    for name in SMALL["generators"]:
        assert re.search(rf"^{name}: .* 95% of precision and recall", result.stdout, re.M)
    last = result.stdout.splitlines()[-1]
    assert last.startswith(f"files: {workdir}: ")
    assert "table.md" in last


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
    same = {"batch_size": 3, "memory_mb": 128, "num_columns": 3, "keep": 0.9}
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
def test_another_run_in_the_folder_is_found_before_anything_is_read(tmp_path, monkeypatch):
    config = tiny(generators=("gone",))
    monkeypatch.setenv("HOME", str(tmp_path))
    options = {"search__share": 0.9, "compression__bits": (4, 2)}
    for run, changes in ((sweep.run, {}), (search.run, options)):
        with store.locked(tmp_path), pytest.raises(ValueError, match="another run is measuring th"):
            run(changed(config, **changes), "~")
    with pytest.raises(ValueError, match=r"search.share = 0.9 is for search.run; expected 0 in a"):
        sweep.run(config, tmp_path)
    config.search.share = 0.0
    with pytest.raises(ValueError, match=r"share = 0; expected the share to keep, such as"):
        search.run(config, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(
        ValueError, match=r"workdir .*/file/x: .*/file is a file; expected a folder"
    ):
        sweep.run(config, tmp_path / "file" / "x")


# A scheduler sends SIGTERM, which JAX takes for itself in a cluster.
SIGNALS = {"in_a_cluster": (signal.SIGTERM, 143), "in_a_shell": (signal.SIGINT, 130)}


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """Runs of thousands of rows, and their folders; a signal has ended each.

    One in a cluster waits before it ends: the other one runs then.
    """
    runs, cache = {}, tmp_path_factory.getbasetemp() / "cache_of_interrupted"  # of both
    rows = np.arange(8, dtype=np.uint8)[:, None, None].repeat(32, 1).repeat(32, 2)
    options = {"num_samples": 8, "batch_size": 8, "reference.num_images": 8, "metrics": ("knn",)}
    options |= {"generators": ("dcgan",), "seeds": tuple(range(500)), "compression.bits": (4,)}
    options |= {"compression.layerwise": True}
    for where, (signal_sent, _) in SIGNALS.items():
        folder = tmp_path_factory.mktemp("interrupted")
        options["reference.images"] = save_images(folder / "images", rows)
        cluster = ["--processes=1", "--process=0", f"--coordinator={free_address()}"]
        cluster *= where == "in_a_cluster"
        environment = {"LSH_GAN_CACHE": str(cache)}
        run = run_command(folder / "run", options, *cluster, environment=environment)
        while run.process.is_alive() and len(store.read(folder / "run")) < 2:  # the line of one
            time.sleep(0.1)
        os.kill(run.process.pid, signal_sent)
        runs[where] = run, folder / "run"
    ended = {where: run.end(timeout=100) for where, (run, _) in runs.items()}
    assert any((cache / "programs").iterdir())  # for the next run
    return {where: (ended[where], store.read(folder)) for where, (_, folder) in runs.items()}


@pytest.mark.parametrize("where", SIGNALS)
def test_an_interrupted_run_says_how_far_it_came(interrupted, where):
    result, rows = interrupted[where]
    assert result.returncode == SIGNALS[where][1]
    total, done = 500 * (1 + 4), len(rows)  # seeds × full precision and 4 layers
    assert "Traceback" not in result.stderr
    assert 0 < done < 500
    said = result.stderr.splitlines()
    lines = [line for line in said if f" of {total}: dcgan, full, seed " in line]
    assert len(lines) in (done, done - 1)  # the last row may end before its line
    assert re.search(rf" 1 of {total}: .*: KNN [\d.±]+/[\d.±]+ in .* images/s; .* left$", lines[0])
    start = f"stopped: {done} of {total} measurements are done; run the same command ag"
    assert said[-1].startswith(start)


@pytest.mark.parametrize("where", SIGNALS)
def test_log_and_bars_are_silent_where_there_is_no_terminal(interrupted, where, monkeypatch):
    result, _ = interrupted[where]
    for word in ("Unable to initialize backend", "Rule(", "applies to"):
        assert word not in result.stderr
    for word in ("measurements", "reading", "8/8"):
        assert word not in result.stdout
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal to rich, as "!" in a notebook
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    assert not sweep.progress_bars().disable
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    assert sweep.progress_bars().disable


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


@pytest.mark.usefixtures("projected")
def test_own_images_and_features(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "write", lambda *_: {})  # strips alone are looked at
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 16, 16, 3), np.uint8)
    save_images(tmp_path / "psi_0.5", images)
    np.save(tmp_path / "real.npy", rng.standard_normal((12, 8), np.float32))
    np.save(tmp_path / "fake.npy", rng.standard_normal((9, 8), np.float32))
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
    sweep.run(tiny(40, batch_size=8, seeds=(0, 1, 2)), tmp_path / "run")
    printed = capsys.readouterr().out
    assert "means ± standard errors of seeds 0, 1, 2" in printed
    time_went = printed.splitlines()[-2]
    assert re.search(r"^time: .* 3 new rows: .*sampling and features \d+%.* images/s$", time_went)
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
