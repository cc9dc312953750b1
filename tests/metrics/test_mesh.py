"""Memberships, counts and codes are the same on any number of devices and of processes."""

import os
from pathlib import Path

import numpy as np
import pytest
from children import Child, free_address


def start(out, devices, *cluster):
    """Starts `mesh_scores.py` on so many devices of a process."""
    # A busy machine may need longer than the 40 seconds after which a collective ends the program.
    flags = (
        f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices} "
        "--xla_cpu_collective_call_terminate_timeout_seconds=600"
    )
    # XLA has one thread a device, and a collective waits in all of them: one more task, and none is
    # left to run it.
    environment = {"XLA_FLAGS": flags, "PJRT_NPROC": "32"}
    script = Path(__file__).with_name("mesh_scores.py")
    return Child([out, *cluster], out.parent / "said", environment=environment, script=script)


def finish(*children):
    results = [child.end() for child in children]
    assert [result.returncode for result in results] == [0] * len(children), results


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
