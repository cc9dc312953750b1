"""Memberships, counts and codes are the same on any number of devices and of processes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from children import free_address

ROOT = Path(__file__).parents[2]


def start(out, devices, *cluster):
    """Starts `mesh_scores.py` on so many devices of one process."""
    # A busy machine may need longer than the 40 seconds after which a collective ends the program.
    flags = (
        f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices} "
        "--xla_cpu_collective_call_terminate_timeout_seconds=600"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    # XLA has one thread a device, and a collective waits in all of them: one more task, and none is
    # left to run it.
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": path, "PJRT_NPROC": "32"}
    environment |= {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, ROOT / "tests/metrics/mesh_scores.py", out, *map(str, cluster)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(*processes):
    try:
        for process in processes:
            output, _ = process.communicate(timeout=600)
            assert process.returncode == 0, output[-3000:]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def on_one_device(tmp_path_factory):
    out = tmp_path_factory.mktemp("mesh") / "one.npz"
    finish(start(out, 1))
    return np.load(out)


def check(out, devices, expected):
    found = np.load(out)
    assert found["devices"] == devices
    assert sorted(found.files) == sorted(expected.files)
    for name in set(found.files) - {"devices"}:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_eight_devices(tmp_path, on_one_device):
    finish(start(tmp_path / "eight.npz", 8))
    check(tmp_path / "eight.npz", 8, on_one_device)


def test_two_processes_of_two_devices(tmp_path, on_one_device):
    """Each holds both sets whole."""
    out, address = tmp_path / "four.npz", free_address()
    finish(*(start(out, 2, address, 2, process) for process in (0, 1)))
    check(out, 4, on_one_device)
