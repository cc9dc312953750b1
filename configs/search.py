"""The smallest mixed precision that keeps 95 % of precision and of recall, for each generator.

KNN decides inside the search, n = m = 2,000, or the first of `metrics` without it; what
it ends with is scored by all metrics on other samples, n = m = 5,000. Leaves in the work folder
`search.md`, `widths.md` and `GENERATOR.packed`, the result, which `--config.generators=PATH` takes.
It continues where it was stopped. The measurements inside the search are in the folder `search`.

Command: `python main.py --config=configs/search.py --workdir=runs/search`.
9 minutes on two cores with other work on them. Expected: dcgan in 487 kB, sngan in 272 kB.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration of the search."""
    config = default.get_config()
    config.search.share = 0.95
    config.compression.clipping = ("mse",)
    return config
