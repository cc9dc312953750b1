"""Runs: configurations and their checks, measurements, sweeps and searches.

An invalid configuration or file raises ValueError, TypeError or FileNotFoundError. The message is
one line for the user of the command line.
"""

import runpy
from pathlib import Path
from typing import Any

import lsh_gan


def shipped_folder() -> Path:
    """Returns the folder that holds main.py and configs/."""
    package = Path(lsh_gan.__file__).parent
    return package / "shipped" if (package / "shipped").is_dir() else package.parent


def default_config() -> Any:
    """Returns the default configuration, from `configs/default.py` of the shipped folder."""
    return runpy.run_path(str(shipped_folder() / "configs" / "default.py"))["get_config"]()
