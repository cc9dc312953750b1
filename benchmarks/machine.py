"""What a benchmark ran on. Imports no JAX, so that threads can still be chosen."""

import platform
from pathlib import Path


def processor() -> str:
    """The model of the CPU as the system names it, else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
