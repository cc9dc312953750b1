"""Several processes give the rows of one; one that is lost ends the run, and nothing is lost."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lsh_gan.results import store

ROOT = Path(__file__).parents[2]
FIELDS = [f"{m}_{s}" for m in ("knn", "lsh_knn", "lsh") for s in ("precision", "recall")]


def start(workdir, *flags, bits="4"):
    """Starts `main.py` on few samples, which are no multiple of anything."""
    config = {
        "generators": "dcgan", "num_samples": 75, "batch_size": 16, "reference.num_images": 75,
        "compression.bits": bits, "compression.clipping": "none", "features.side": 32,
    }  # fmt: skip
    command = [sys.executable, "main.py", "--config=configs/smoke.py", f"--workdir={workdir}"]
    command += [f"--config.{name}={value}" for name, value in config.items()]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "LSH_GAN_CACHE": f"{workdir}.cache"}
    return subprocess.Popen(
        [*command, *flags], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def start_two(workdir, **options):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"--coordinator=127.0.0.1:{probe.getsockname()[1]}"
    two = ("--processes=2", address)
    return [start(workdir, *two, f"--process={i}", **options) for i in (0, 1)]


def finish(*processes):
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    return outputs


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone") / "run"
    finish(start(workdir))
    return store.read(workdir)


def test_two_processes_give_the_rows_of_one(tmp_path, alone):
    outputs = finish(*start_two(tmp_path / "run"))
    assert "files: " in outputs[0]
    assert "files: " not in outputs[1]
    found = store.read(tmp_path / "run")
    assert [row["row_hash"] for row in found] == [row["row_hash"] for row in alone]
    for ours, theirs in zip(found, alone, strict=True):
        # A pixel may move by 1 of 255, and a sample over an edge.
        np.testing.assert_allclose(
            [ours[f] for f in FIELDS], [theirs[f] for f in FIELDS], atol=2.1 / 75
        )


def test_a_lost_process_ends_the_run_which_can_be_continued(tmp_path):
    first, second = start_two(tmp_path / "run", bits="4,3,2")
    rows = tmp_path / "run" / store.ROWS_FILE
    started = time.monotonic()
    while not (rows.exists() and rows.stat().st_size) and time.monotonic() < started + 300:
        time.sleep(0.05)
    second.kill()
    output, _ = first.communicate(timeout=120)
    second.communicate()
    if first.returncode:  # else it was done before the other was missed
        assert "lost" in output.splitlines()[-1] or "heartbeat" in output
    kept = store.read(tmp_path / "run")
    assert kept
    finish(start(tmp_path / "run", bits="4"))
    assert store.read(tmp_path / "run")[: len(kept)] == kept
