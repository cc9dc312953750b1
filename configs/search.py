"""The smallest mixed precision that keeps 95 % of precision and of recall, for each generator.

KNN decides, or the first of `metrics` if KNN is not among them, with n = m = 2,000. The search then
goes back to the smallest setting that also keeps the share with n = m = 5,000. All metrics score
this setting on other samples. The work folder has `search.md`, `widths.md` and the result,
`GENERATOR.packed`, which `--config.generators=PATH` takes; its folder `search` has the measurements
inside the search. The same command continues a stopped search.

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
