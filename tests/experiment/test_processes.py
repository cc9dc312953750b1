"""Several processes give the rows of one; one that is lost ends the run, and nothing is lost."""

import time

import numpy as np
import pytest
from children import Child, free_address
from configured import save_images, tiny
from PIL import Image

from lsh_gan import devices
from lsh_gan.experiment import settings, sweep
from lsh_gan.results import store

FIELDS = [f"{m}_{s}" for m in ("knn", "lsh_knn", "lsh") for s in ("precision", "recall")]


def start(workdir, *flags, **changes):
    """Starts `main.py` on few samples, which are no multiple of anything."""
    config = {
        "generators": "dcgan", "num_samples": 75, "batch_size": 16, "reference.num_images": 75,
        "compression.bits": "4", "compression.clipping": "none", "features.side": 32,
    } | changes  # fmt: skip
    command = ["--config=configs/smoke.py", f"--workdir={workdir}", *flags]
    command += [f"--config.{name}={value}" for name, value in config.items()]
    environment = {"LSH_GAN_CACHE": f"{workdir}.cache"}
    said = workdir.with_name("said")
    return Child(command, said, environment=environment, projected=True)


def start_two(workdir, **changes):
    two = ("--processes=2", f"--coordinator={free_address()}")
    return [start(workdir, *two, f"--process={i}", **changes) for i in (0, 1)]


def finish(*processes):
    results = [process.end() for process in processes]
    assert [result.returncode for result in results] == [0] * len(processes), results
    return [result.stdout for result in results]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone") / "run"
    finish(start(workdir))
    return store.read(workdir)


def test_two_processes_give_the_rows_of_one(tmp_path, alone):
    outputs = finish(*start_two(tmp_path / "run"))
    assert "files: " in outputs[0]
    assert "files: " not in outputs[1]
    compare(store.read(tmp_path / "run"), alone)


def test_processes_with_other_flags_end_before_they_measure(tmp_path):
    two = ("--processes=2", f"--coordinator={free_address()}")
    first = start(tmp_path / "run", *two, "--process=0")
    second = start(tmp_path / "run", *two, "--process=1", seeds="7")
    assert "process 1 differs from process 0 in seeds; expected" in second.end(timeout=100).stderr
    assert "process 1 differs from process 0; expected" in first.end(timeout=100).stderr
    assert not (tmp_path / "run" / store.ROWS_FILE).exists()


def test_a_process_with_fewer_images_is_named(tmp_path, monkeypatch):
    folder = str(save_images(tmp_path, np.zeros((8, 32, 32), np.uint8)))
    monkeypatch.setattr(devices, "from_first", lambda own: own | {folder: "9 image files"})
    with pytest.raises(ValueError, match=f"differs from process 0 in {folder}; expected the same"):
        sweep.prepare(settings.resolve(tiny(generators=(), samples=(folder,))))


def compare(found, expected):
    assert [row["row_hash"] for row in found] == [row["row_hash"] for row in expected]
    for ours, theirs in zip(found, expected, strict=True):
        for field in set(FIELDS) & set(theirs):
            # A pixel may move by 1 of 255, and a sample over an edge.
            np.testing.assert_allclose(ours[field], theirs[field], atol=2.1 / theirs["n"])


def test_processes_that_do_not_hold_features_give_the_rows_of_one(tmp_path):
    changes = {"metrics": "lsh", "num_samples": 220, "reference.num_images": 210}
    finish(start(tmp_path / "alone", **changes, memory_mb=256))
    finish(*start_two(tmp_path / "run", **changes, memory_mb=1))  # 205 rows of 1280
    compare(store.read(tmp_path / "run"), store.read(tmp_path / "alone"))


def test_an_error_of_one_process_ends_the_others_at_once(tmp_path):
    for number in range(75):  # of which the second process decodes the last
        image = Image.new("RGB", (32, 32), (3 * number, 0, 0))
        image.save(tmp_path / f"{number:02}.png")
    image = tmp_path / "74.png"
    image.write_bytes(image.read_bytes()[:60])
    changes = {"reference.images": tmp_path, "generators": "", "samples": tmp_path}
    first, second = start_two(tmp_path / "run", **changes)
    assert f"error: {image}: not a readable image" in second.end(timeout=100).stderr
    assert "another process is lost" in first.end(timeout=100).stderr.splitlines()[-1]


def test_a_lost_process_ends_the_run_which_can_be_continued(tmp_path):
    changes = {"metrics": "knn", "compression.bits": "4,3,2"}
    first, second = start_two(tmp_path / "run", **changes)
    rows = tmp_path / "run" / store.ROWS_FILE
    started = time.monotonic()
    while not (rows.exists() and rows.stat().st_size) and time.monotonic() < started + 300:
        time.sleep(0.05)
    second.process.kill()
    result = first.end(timeout=120)
    second.end()
    assert result.returncode is not None
    if result.returncode:  # else it was done before the other was missed
        assert "lost" in result.stderr.splitlines()[-1] or "heartbeat" in result.stderr
    kept = store.read(tmp_path / "run")
    assert kept
    finish(start(tmp_path / "run", metrics="knn"))
    assert store.read(tmp_path / "run")[: len(kept)] == kept
