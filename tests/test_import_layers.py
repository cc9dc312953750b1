"""Imports never run upward, and there is no circle: the contracts of pyproject.toml."""

import subprocess
import sys
from pathlib import Path


def test_imports_keep_the_contracts():
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command as run; run()",
    ]
    done = subprocess.run(
        [*command, "--no-cache"], cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert "2 kept, 0 broken" in done.stdout
