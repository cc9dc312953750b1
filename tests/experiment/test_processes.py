"""Several processes give the rows of one; one that is lost ends the run, and nothing is lost."""

import threading
import time

import numpy as np
import pytest
from children import Child, free_address, project
from configured import changed, save_images, tiny

from configs import smoke
from lsh_gan import devices
from lsh_gan.experiment import evaluators, settings, sweep
from lsh_gan.results import store

pytestmark = pytest.mark.usefixtures("without_pictures", "projected")
# Few samples, which are no multiple of anything.
CHANGES = {
    "generators": ("dcgan",), "num_samples": 75, "batch_size": 16, "reference.num_images": 75,
    "compression.bits": (4, 3, 2), "compression.clipping": ("none",), "metrics": ("knn",),
}  # fmt: skip
WIDE = 1280  # features of which few rows are more than a MiB


def start_two(folder, second=(), dim=8, **changes):
    """Starts `main.py` in two processes, whose work folder is `run`."""
    flags = ["--config=configs/smoke.py", f"--workdir={folder / 'run'}", "--processes=2"]
    flags += [f"--coordinator={free_address()}"]
    flags += [f"--config.{name}={value}" for name, value in (CHANGES | changes).items()]
    return [
        Child([*flags, f"--process={i}", *more], folder / "said", projected=dim)
        for i, more in enumerate(((), second))
    ]


def run_alone(workdir, **changes):
    sweep.run(changed(smoke.get_config(), **CHANGES | changes), workdir)
    return store.read(workdir)


@pytest.fixture(scope="module")
def lost(tmp_path_factory):
    """A run whose second process is killed after two rows: its folder, and the first process.

    That one waits a few seconds for what others say before it ends, as in all such runs: tests do
    something else then.
    """
    folder = tmp_path_factory.mktemp("lost")
    first, second = start_two(folder)
    started = time.monotonic()
    while len(store.read(folder / "run")) < 2 and time.monotonic() < started + 300:
        time.sleep(0.05)
    second.process.kill()
    second.end()
    return folder / "run", first


def compare(found, expected, metric):
    assert [row["row_hash"] for row in found] == [row["row_hash"] for row in expected]
    for ours, theirs in zip(found, expected, strict=True):
        for field in (f"{metric}_precision", f"{metric}_recall"):
            # A pixel may move by 1 of 255, and a sample over an edge.
            np.testing.assert_allclose(ours[field], theirs[field], atol=2.1 / theirs["n"])


def test_two_processes_give_the_rows_of_one(lost, tmp_path):
    alone = run_alone(tmp_path / "run")
    lost[1].end(timeout=120)
    found = store.read(lost[0])
    assert len(found) >= 2
    compare(found, alone[: len(found)], "knn")


def test_a_lost_process_ends_the_run_which_can_be_continued(lost):
    workdir, ended = lost[0], lost[1].end(timeout=120)
    assert ended.returncode is not None
    if ended.returncode:  # else it was done before the other was missed
        assert "lost" in ended.stderr.splitlines()[-1] or "heartbeat" in ended.stderr
    kept = store.read(workdir)
    rows = run_alone(workdir)
    assert rows[: len(kept)] == kept
    assert [row["bits"] for row in rows] == [None, 4, 3, 2]
    # What the killed process left in its scratch folder has no generators.
    scratch = list((workdir.parent / "said").glob("lsh-gan-*"))
    assert scratch
    assert not [file for each in scratch for file in each.rglob("*.packed")]


def test_processes_that_do_not_hold_features_give_the_rows_of_one(tmp_path, monkeypatch):
    changes = {"metrics": ("lsh",), "num_samples": 220, "reference.num_images": 210}
    changes |= {"memory_mb": 1, "compression.bits": ()}
    results = [process.end() for process in start_two(tmp_path, dim=WIDE, **changes)]
    assert [result.returncode for result in results] == [0, 0], results
    assert ["files: " in result.stdout for result in results] == [True, False]
    streams, asked = evaluators.streams, []
    monkeypatch.setattr(
        evaluators, "streams", lambda *given: asked.append(streams(*given)) and False
    )
    project(monkeypatch.setattr, WIDE)
    expected = run_alone(tmp_path / "alone", **changes)
    assert asked == [True, True]  # the reference, and the row
    compare(store.read(tmp_path / "run"), expected, "lsh")


def test_metrics_of_several_devices_run_in_one_order(monkeypatch):
    """Else a collective of one metric would meet that of another."""
    monkeypatch.setattr(devices, "count", lambda: 2)
    threads = evaluators.side_by_side(lambda name: threading.get_ident(), ("knn", "lsh"))
    assert threads == dict.fromkeys(("knn", "lsh"), threading.get_ident())


@pytest.fixture(scope="module")
def ending(tmp_path_factory):
    """Two runs that end early, at once: of other flags, and of an image that cannot be read."""
    folder = tmp_path_factory.mktemp("ending")
    flags = start_two(folder / "flags", second=["--config.seeds=7"])
    grey = np.arange(75, dtype=np.uint8)[:, None, None].repeat(32, 1).repeat(32, 2)
    images = save_images(folder / "images", grey)
    image = images / "74.png"  # which the second process decodes
    image.write_bytes(image.read_bytes()[:60])
    changes = {"reference.images": images, "generators": (), "samples": images}
    return folder, flags, start_two(folder / "image", **changes)


def test_processes_with_other_flags_end_before_they_measure(ending):
    folder, (first, second), _ = ending
    assert "process 1 differs from process 0 in seeds; expected" in second.end(timeout=100).stderr
    assert "process 1 differs from process 0; expected" in first.end(timeout=100).stderr
    assert not (folder / "flags" / "run" / store.ROWS_FILE).exists()


def test_a_process_with_fewer_images_is_named(tmp_path, monkeypatch):
    folder = str(save_images(tmp_path, np.zeros((8, 32, 32), np.uint8)))
    monkeypatch.setattr(devices, "from_first", lambda own: own | {folder: "9 image files"})
    with pytest.raises(ValueError, match=f"differs from process 0 in {folder}; expected the same"):
        sweep.prepare(settings.resolve(tiny(generators=(), samples=(folder,))))


def test_an_error_of_one_process_ends_the_others_at_once(ending):
    folder, _, (first, second) = ending
    image = folder / "images" / "74.png"
    assert f"error: {image}: not a readable image" in second.end(timeout=100).stderr
    assert "another process is lost" in first.end(timeout=100).stderr.splitlines()[-1]
