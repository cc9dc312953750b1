"""lsh-gan COMMAND: what compressing a GAN generator costs, quality or diversity.

  run                          measures a sweep: --config=FILE --workdir=FOLDER, as main.py
  compress FILE --keep=95%     finds the smallest width that keeps precision and recall
  evaluate REAL GENERATED      scores two sets of images or features
  report WORKDIR [OUTPUT]      writes tables and pictures of a work folder
  convert, inspect, verify     handle checkpoints of other projects
  list                         lists generators, data sets, networks, methods and metrics

lsh-gan COMMAND --help lists the options of a command.
"""

import itertools
import re
import runpy
import signal
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from inspect import cleandoc
from pathlib import Path
from typing import Any

from absl import flags

from lsh_gan.errors import choose
from lsh_gan.experiment import default_config, shipped_folder
from lsh_gan.experiment.configuration import fields_set, parse


def main() -> None:
    """Runs the subcommand that `sys.argv` names; bad input ends it with a one-line error."""
    program, command, *rest = sys.argv if len(sys.argv) > 1 else [*sys.argv, "--help"]
    if command in ("-h", "--help", "-help", "help"):
        print((__doc__ or "").strip())  # noqa: T201
        return
    sys.argv = [f"{Path(program).name} {command}", *rest]
    sys.path.insert(0, str(shipped_folder()))  # an installation has no top-level `configs`
    try:
        choose("command", command, COMMANDS)()
    except (ValueError, TypeError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(128 + signal.SIGINT)


# Patterns of fields that a command sets itself or does not use, and the end of the error message.
_OF_COMPRESS = {
    "generators|reference.samples_of": "FILE says it",
    "search.share|keep": "say --keep",
    "num_samples|reference.num_images": "say --config.search.num_samples",
    "seeds": "say --config.search.seed",
}
_OF_EVALUATE = {
    "generators|samples|reference.(images|features|sketch|samples_of)": "REAL and GENERATED say it",
    "compression|search|seeds|keep": "nothing is compressed",
    "num_samples": "all of GENERATED is scored",
}


def _parse(
    names: str, command: Callable, file: str, others: dict[str, str]
) -> tuple[list[str], Any]:
    """Parses the arguments in `names`, and the configuration, whose defaults come from `file`.

    --help prints the docstring of the command, then the fields. Fields in `others` are refused.
    """
    for field, (pattern, why) in itertools.product(fields_set(sys.argv), others.items()):
        if re.match(rf"({pattern})\b", field):
            sys.exit(f"error: --config.{field} has no effect on {sys.argv[0]}: {why}")
    usage = f"{sys.argv[0]} {names}: {cleandoc(command.__doc__ or '')}"
    options: dict[str, Any] = {"default": shipped_folder() / file, "usage": usage}
    _, *values = parse(sys.argv, default_config(), **options)
    if len(values) != len(names.split()):
        raise ValueError(f"arguments are {' '.join(values) or 'missing'}; expected {names}")
    from lsh_gan import datasets, devices

    devices.fix_numbers()
    devices.keep_programs(datasets.cache_folder() / "programs")
    devices.find_devices()
    return values, flags.FLAGS.config


def _compress() -> None:
    """Finds the smallest width that keeps precision and recall by KNN, and writes the packed file.

    FILE is a checkpoint folder, a packed file or the name of a shipped generator. Its compressed
    images are compared with its uncompressed ones, or with --config.reference.images=FOLDER.
    Values in configs/compress.py replace the defaults below.
    """
    keep = flags.DEFINE_string("keep", "95%", "The share to keep, such as 95% or 0.95.")
    output = flags.DEFINE_string("output", None, "Packed file; default NAME_BITSbits.safetensors.")
    workdir = flags.DEFINE_string("workdir", None, "Folder that keeps measurements for later runs.")
    (file,), config = _parse("FILE", _compress, "configs/compress.py", _OF_COMPRESS)
    from lsh_gan.experiment import search

    share = re.fullmatch(r"(\d*\.?\d+)(%?)", keep.value)
    config.search.share = float(share[1]) / (100 if share[2] else 1) if share else 0.0
    if not 0 < config.search.share < 1:
        raise ValueError(f"--keep={keep.value}; expected a share between 0 and 1, such as 95%")
    config.generators = (file,)
    reference = config.reference
    others = reference.images or reference.features or reference.sketch
    reference.samples_of = "" if others else file
    with tempfile.TemporaryDirectory() as folder:
        print(search.compress(config, Path(workdir.value or folder), output.value))  # noqa: T201


def _evaluate() -> None:
    """Scores generated images or features against real ones.

    Each side is a folder or zip of images, an .npz, .npy or idx file, or the name of a shipped data
    set. REAL is sampled to the size of GENERATED, or to --config.reference.num_images.
    """
    names, file = "REAL GENERATED", "configs/default.py"
    (real, generated), config = _parse(names, _evaluate, file, _OF_EVALUATE)
    from lsh_gan.experiment.evaluate import compare

    given = "reference.num_images" in fields_set(sys.argv)
    print(compare(real, generated, config, config.reference.num_images if given else 0))  # noqa: T201


def _list() -> None:
    from lsh_gan import compression, datasets, features
    from lsh_gan.experiment.evaluators import EVALUATORS
    from lsh_gan.generators import checkpoints

    configs = (shipped_folder() / "configs").glob("[!_]*.py")
    for kind, names in {
        "generators": checkpoints.shipped_names(),
        "data sets": datasets.NAMED,
        "feature networks": [*features.FEATURES, features.GIVEN],
        "clipping methods": compression.METHODS,
        "metrics": EVALUATORS,
        "configurations": sorted(f"configs/{file.name}" for file in configs),
    }.items():
        print(f"{kind}: {', '.join(names)}")  # noqa: T201


COMMANDS: dict[str, Callable[[], Any]] = {
    "run": lambda: runpy.run_path(str(shipped_folder() / "main.py"), run_name="__main__"),
    "compress": _compress,
    "evaluate": _evaluate,
    "report": lambda: import_module("lsh_gan.results.report").main(),
    "convert": lambda: import_module("checkpoints_tools.convert").main(),
    "inspect": lambda: import_module("checkpoints_tools.inspect").main(),
    "verify": lambda: import_module("checkpoints_tools.verify").main(),
    "list": _list,
}

if __name__ == "__main__":
    main()
