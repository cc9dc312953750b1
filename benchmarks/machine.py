"""Describes the machine of a benchmark. Imports no JAX, so that threads can still be set."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

from benchmarks import options


def processor() -> str:
    """Returns the model of the CPU as the system names it, or else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def describe(*packages: str) -> str:
    """Names the CPU, cores of this process, device, and versions of Python, JAX and packages."""
    import jax

    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", *packages))
    cores, device = len(os.sched_getaffinity(0)), jax.devices()[0].device_kind
    return f"{processor()}, {cores} cores, {device}; Python {platform.python_version()}, {versions}"


def start_torch(threads: int) -> ModuleType:
    """Limits this process to `threads` cores, before JAX starts its threads; returns torch."""
    options.need("torch")
    import torch

    cores = sorted(os.sched_getaffinity(0))[:threads]
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(cores))
    torch.set_grad_enabled(False)
    return torch
