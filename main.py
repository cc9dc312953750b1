"""Measures what compressing GAN generators costs: python main.py --config=FILE --workdir=FOLDER.

With --dry_run instead of --workdir it prints what would be measured, from shapes alone.
"""

import atexit
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging

from configs import default
from lsh_gan import datasets, devices
from lsh_gan.experiment import configuration, dry_run, search, sweep
from lsh_gan.generators import checkpoints
from lsh_gan.results import store

_DEFAULT = Path(__file__).parent / "configs" / "fashion_mnist.py"
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the results.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Runs one of the processes that a cluster such as SLURM has started."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, without --distributed."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "Number of processes.")
_PROCESS = flags.DEFINE_integer("process", None, "Number of this process.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only print what would be measured.")
# Errors of a collective that has lost a process; on CPUs they are ValueErrors.
_LOST = re.compile(r"(ABORTED|CANCELLED|DEADLINE_EXCEEDED|INTERNAL|UNAVAILABLE|UNKNOWN): ")
_GRACE_SECONDS = 3  # for messages of the others, before they lose process 0


def main(arguments: list[str]) -> None:
    """Runs the experiment; bad input ends it with one line."""
    if len(arguments) > 1:
        sys.exit(f"error: unexpected argument {arguments[1]!r}; expected flags, see --help")
    if not (_WORKDIR.value or _DRY_RUN.value):
        sys.exit("error: --workdir is missing; expected the folder of the results")
    config = flags.FLAGS.config
    checkpoints.quiet_libraries()
    devices.fix_numbers()
    devices.keep_programs(datasets.cache_folder() / "programs")
    cluster = (_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    if _DISTRIBUTED.value or cluster != (None, None, None):
        _join_cluster()
    signal.signal(signal.SIGTERM, _terminate)  # replaces JAX's handler, which only records it
    try:
        logging.info("devices: %s", ", ".join(map(str, devices.find_devices())))
        devices.check_same(config.to_dict())
        if _DRY_RUN.value:
            dry_run.run(config)
        else:
            run = search.run if config.search.share else sweep.run
            run(config, Path(_WORKDIR.value))
    except (ValueError, TypeError, OSError, MemoryError, jax.errors.JaxRuntimeError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        if _LOST.search(said) and jax.process_count() > 1:
            _end(1, f"error: another process is lost; see its output ({said}); {_stopped()}")
        if isinstance(error, jax.errors.JaxRuntimeError):
            if not devices.is_out_of_memory(error):
                raise
            _end(1, f"error: out of memory on the device ({said}); {_stopped()}")
        logging.debug("where it happened", exc_info=True)
        full = type(error) in (OSError, MemoryError)  # a full disk or device, not a missing file
        _end(1, f"error: {error}{f'; {_stopped()}' if full else ''}")
    except KeyboardInterrupt as stop:
        # The exit code of a process that the signal has ended.
        _end(128 + (stop.args[0] if stop.args else signal.SIGINT), _stopped())


def _end(code: int, said: str) -> None:
    """Ends this process at once; an orderly exit from a cluster would wait for the others."""
    sys.stderr.write(f"{said}\n")
    if jax.distributed.is_initialized():
        sys.stderr.flush()
        if devices.is_first():
            time.sleep(_GRACE_SECONDS)
        else:
            shutil.rmtree(flags.FLAGS.workdir, ignore_errors=True)
        os._exit(code)
    sys.exit(code)


def _join_cluster() -> None:
    """Makes this process one of several, of which only process 0 writes to the work folder."""
    late = threading.Timer(devices.START_SECONDS, _miss_others)
    late.daemon = True
    late.start()
    try:
        devices.join_cluster(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    except (ValueError, RuntimeError) as error:
        missing = None in (_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
        expected = "; expected --coordinator, --processes and --process, or --distributed where a "
        expected += "cluster such as SLURM says them"
        said = str(error).splitlines()[0].rstrip(".")
        sys.exit(f"error: no cluster: {said}{expected if missing else ''}")
    finally:
        late.cancel()
    if not devices.is_first():
        logging.set_verbosity(logging.WARNING)
        scratch = tempfile.TemporaryDirectory(prefix="lsh-gan-")
        atexit.register(scratch.cleanup)
        flags.FLAGS.workdir = scratch.name


def _miss_others() -> None:
    """Ends this process with one line, before JAX aborts it with many."""
    sys.stderr.write(
        f"error: no cluster: not all processes are there after {devices.START_SECONDS} s; expected "
        "each number from 0 to --processes - 1 once, and the coordinator where process 0 runs\n"
    )
    sys.stderr.flush()
    os._exit(1)


def _terminate(number: int, frame: Any) -> None:
    """Ends the run as Ctrl-C does."""
    raise KeyboardInterrupt(number)


def _stopped() -> str:
    """Says what is done after an interruption, and how to continue."""
    if _DRY_RUN.value:
        return "stopped"
    again = "run the same command again to continue"
    progress = store.read_progress(Path(_WORKDIR.value))
    # A search does not know its total, and only the first process knows what is done.
    if progress is None or flags.FLAGS.config.search.share or not devices.is_first():
        return f"stopped; {again}"
    return f"stopped: {progress[0]} of {progress[1]} measurements are done; {again}"


if __name__ == "__main__":
    options = {"config": default.get_config(), "default": _DEFAULT}
    app.run(main, flags_parser=partial(configuration.parse_or_exit, **options))
