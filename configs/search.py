"""The smallest mixed precision that keeps 95 % of precision and of recall, for each generator.

KNN decides, or the first of `metrics` without it, with n = m = 2,000; it goes back to the smallest
setting that keeps the share with n = m = 5,000 too, which all metrics score on other samples.
Leaves in the work folder `search.md`, `widths.md` and `GENERATOR.packed`, the result, which
`--config.generators=PATH` takes. It continues where it was stopped. The measurements inside the
search are in the folder `search`.

Command: `python main.py --config=configs/search.py --workdir=runs/search`.
3 minutes on two cores. Expected: dcgan in 487 kB, sngan in 316 kB.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration of the search."""
    config = default.get_config()
    config.search.share = 0.95
    config.compression.clipping = ("mse",)
    return config
