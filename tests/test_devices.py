"""What a process sets before it computes."""

import warnings
from types import SimpleNamespace

import jax
import pytest

from lsh_gan import devices


def test_the_environment_changes_no_number():
    wanted = {
        "jax_enable_x64": False, "jax_default_prng_impl": "threefry2x32",
        "jax_threefry_partitionable": True,
    }  # fmt: skip
    for name, other in zip(wanted, (True, "rbg", False), strict=True):
        jax.config.update(name, other)
    devices.fix_numbers()
    assert {name: getattr(jax.config, name) for name in wanted} == wanted


def test_a_device_that_is_not_there_is_one_line(monkeypatch):
    def fail():
        raise RuntimeError("Unable to initialize backend 'cuda'\nand more")

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(jax, "devices", fail)
    with pytest.raises(ValueError, match=r"JAX_PLATFORMS = 'cuda': Unable to .* 'cuda'$"):
        devices.find_devices()


def test_processes_have_equally_many_devices_and_wait_for_the_report(monkeypatch):
    asked = {}
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **options: asked.update(options))
    monkeypatch.setattr(
        jax, "devices", lambda: [SimpleNamespace(process_index=i) for i in (0, 1, 1)]
    )
    with pytest.raises(ValueError, match=r"^the processes have 1, 2 devices; expected as many"):
        devices.join_cluster("localhost:1", 2, 1)
    assert asked["shutdown_timeout_seconds"] > 3600  # of process 0, after which JAX ends them all


def test_damaged_programs_are_made_anew(tmp_path):
    for name in ("jit_f-1-cache", "jit_f-1-atime", "jit_g-2-cache"):
        (tmp_path / name).touch()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        devices._drop_damaged(tmp_path)
        warnings.warn(
            "Error reading persistent compilation cache entry for 'jit_f': x", stacklevel=1
        )
    assert [file.name for file in tmp_path.iterdir()] == ["jit_g-2-cache"]
