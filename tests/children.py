"""Runs of scripts, mostly `main.py`, as children of one process that has imported everything.

A child is what the command is in a shell: its flags, streams, signals and exit code are its own.
"""

import itertools
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tiny_network import projection

from lsh_gan.experiment import reference
from lsh_gan.results import plots, strips

ROOT = Path(__file__).parents[1]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["tests.fast_programs", "lsh_gan.experiment.search", "configs.default"]
)
NUMBERS = itertools.count()


class Ended(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


class Child:
    """A run of a script in the folder `cwd`; what it writes goes to two files in `folder`.

    It draws no pictures. `projected` is the d of features that are one product of the pixels; 0 is
    the real network.
    """

    def __init__(
        self, arguments, folder, cwd=ROOT, environment=(), projected=0,
        script=ROOT / "main.py",
    ):  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        number = next(NUMBERS)
        self.files = [folder / f"{number}.{name}" for name in ("out", "err")]
        arguments = list(map(str, (script, *arguments)))
        given = (arguments, cwd, dict(environment), self.files, projected)
        self.process = CONTEXT.Process(target=_main, args=given)
        self.process.start()

    def end(self, timeout=600):
        """Waits for the end."""
        self.process.join(timeout)
        return Ended(self.process.exitcode, *(file.read_text() for file in self.files))


def free_address():
    """HOST:PORT of this machine that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def draw_nothing(setattr=setattr):
    """Lets runs draw no pictures."""
    setattr(plots, "save", lambda figure, path: None)
    setattr(plots, "write", lambda output, measured, metrics: {})
    setattr(strips, "write", lambda workdir, output, measured: None)


def project(setattr=setattr, dim=8):
    """Lets runs embed images by one product of their pixels, to d = `dim`."""
    setattr(reference, "load_network", lambda *_: projection(dim))


def _main(arguments, cwd, environment, files, projected):
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # deaf in background jobs of a shell
    tempfile.tempdir = str(files[0].parent)  # such a process ends without removing its folders
    os.chdir(cwd)
    os.environ.update(environment)
    draw_nothing()
    if projected:
        project(dim=projected)
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")
