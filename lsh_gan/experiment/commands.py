"""lsh-gan COMMAND: what compressing a GAN generator costs, quality or diversity.

  run                          a sweep: --config=FILE --workdir=FOLDER, as main.py
  compress FILE --keep=95%     the smallest width that keeps precision and recall
  evaluate REAL GENERATED      scores of two sets of images or features
  report WORKDIR [OUTPUT]      tables and pictures of a work folder
  convert, inspect, verify     other people's checkpoints
  list                         names of what is shipped, of methods and of metrics

lsh-gan COMMAND --help says more.
"""

import argparse
import importlib
import runpy
import sys
import tempfile
from functools import partial
from inspect import cleandoc
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from lsh_gan.errors import choose
from lsh_gan.experiment import cli

_HELP = ("-h", "--help", "-help", "help")


def main() -> None:
    """Runs the subcommand that `sys.argv` names; bad input ends it with one line."""
    program, command, *rest = sys.argv if len(sys.argv) > 1 else [*sys.argv, "--help"]
    if command in _HELP:
        print(__doc__.strip())  # noqa: T201
        return
    sys.argv = [f"{Path(program).name} {command}", *rest]
    cli.make_importable()
    try:
        choose("command", command, COMMANDS)()
    except (ValueError, TypeError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped")


def _parse(names: str, usage: str, file: str) -> tuple[list[str], Any]:
    """The arguments of a command, as many as there are names, and its configuration.

    Args:
        names: Of the arguments, for messages.
        usage: What --help says before the fields.
        file: The configuration to begin with.
    """
    config = config_flags.DEFINE_config_file("config", None, f"Other defaults than {file}.")
    cli.register_lists()
    _, *values = cli.parse_or_exit(
        sys.argv,
        usage=f"{sys.argv[0]} {names}: {cleandoc(usage)}",
        config=cli.default_config(),
        default=cli.shipped_folder() / file,
    )
    if len(values) != len(names.split()):
        raise ValueError(f"arguments are {' '.join(values) or 'missing'}; expected {names}")
    return values, config.value


def _compress() -> None:
    """The smallest width that keeps precision and recall by LSH, and the file.

    FILE is a checkpoint folder, a packed file or the name of a shipped generator. Its compressed
    images are compared with uncompressed ones, or with --config.reference.images=FOLDER.
    """
    keep = flags.DEFINE_string("keep", "95%", "The share that is kept, 95% or 0.95.")
    output = flags.DEFINE_string("output", None, "The file; NAME_BITSbits.safetensors if none.")
    workdir = flags.DEFINE_string("workdir", None, "Keeps the measurements, to go on with them.")
    (file,), config = _parse("FILE", _compress.__doc__, "configs/compress.py")
    from lsh_gan.experiment import search

    config.generators, config.search.share = (file,), _share(keep.value)
    reference = config.reference
    others = reference.images or reference.features or reference.sketch
    reference.samples_of = "" if others else file
    with tempfile.TemporaryDirectory() as folder:
        print(search.compress(config, Path(workdir.value or folder), output.value))  # noqa: T201


def _share(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise ValueError(f"--keep={text}; expected a share between 0 and 1, such as 95%")
    return share


def _evaluate() -> None:
    """Scores of generated images or features against real ones.

    Both are a folder or zip of images, an .npz, .npy or idx file, or the name of a shipped data
    set. As many real ones are drawn as are generated, or --config.reference.num_images.
    """
    given = any(argument.startswith("--config.reference.num_images") for argument in sys.argv)
    (real, generated), config = _parse("REAL GENERATED", _evaluate.__doc__, "configs/default.py")
    from lsh_gan.experiment.evaluate import evaluate

    result = evaluate(
        real,
        generated,
        metrics=config.metrics,
        features=config.features.name,
        features_side=config.features.side,
        weights=config.features.weights,
        k=config.k,
        num_images=config.reference.num_images if given else 0,
        resize=config.reference.side,
        seed=config.reference.seed,
        config=config,
    )
    print(result)  # noqa: T201


def _report() -> None:
    from lsh_gan.results import report

    parser = argparse.ArgumentParser(description="Writes the tables and pictures of a work folder.")
    parser.add_argument("workdir", help="The --workdir of a run.")
    parser.add_argument("output", nargs="?", help="Where they go; the work folder if not given.")
    given = parser.parse_args()
    sys.exit(report.main([given.workdir, *([given.output] if given.output else [])]))


def _list() -> None:
    from lsh_gan import compression, datasets, features
    from lsh_gan.experiment.evaluators import EVALUATORS
    from lsh_gan.generators import checkpoints

    configs = (cli.shipped_folder() / "configs").glob("[!_]*.py")
    for kind, names in {
        "generators": checkpoints.shipped_names(),
        "data sets": datasets.NAMED,
        "feature networks": [*features.FEATURES, features.GIVEN],
        "clipping methods": compression.METHODS,
        "metrics": EVALUATORS,
        "configurations": sorted(f"configs/{file.name}" for file in configs),
    }.items():
        print(f"{kind}: {', '.join(names)}")  # noqa: T201


def _module(name: str) -> None:
    importlib.import_module(name).main()


COMMANDS = {
    "run": lambda: runpy.run_path(str(cli.shipped_folder() / "main.py"), run_name="__main__"),
    "compress": _compress,
    "evaluate": _evaluate,
    "report": _report,
    "convert": partial(_module, "checkpoints_tools.convert"),
    "inspect": partial(_module, "checkpoints_tools.inspect"),
    "verify": partial(_module, "checkpoints_tools.verify"),
    "list": _list,
}

if __name__ == "__main__":
    main()
