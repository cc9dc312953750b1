"""A run: its configuration and checks, what it measures, and the sweep over both.

A bad configuration or file raises ValueError, TypeError or FileNotFoundError, whose message is one
line for the user of the command line.
"""

import runpy
from pathlib import Path
from typing import Any

import lsh_gan


def shipped_folder() -> Path:
    """The folder that holds main.py and configs/."""
    package = Path(lsh_gan.__file__).parent
    return package / "shipped" if (package / "shipped").is_dir() else package.parent


def default_config() -> Any:
    """What `configs/default.py` returns, wherever it is."""
    return runpy.run_path(str(shipped_folder() / "configs" / "default.py"))["get_config"]()
