"""Feature sets that tests of the metrics draw."""

import numpy as np


def draw(n, d, seed=0):
    """Standard normal rows, float32 `[n, d]`."""
    return np.random.default_rng([n, d, seed]).standard_normal((n, d)).astype(np.float32)


def draw_pair(kind, n, m, d):
    """A reference `[n, d]` and a generated set `[m, d]` with what is hard for balls."""
    rng = np.random.default_rng([n, m, d])
    r = rng.standard_normal((n, d)).astype(np.float32)
    g = (0.8 * rng.standard_normal((m, d))).astype(np.float32)
    if kind == "grid":  # ties everywhere
        r, g = np.round(2 * r) / 2, np.round(2 * g) / 2
    elif kind == "duplicates":
        r[n // 2 :] = r[: n - n // 2]
        g[:40] = r[:40]
    elif kind == "copies":  # up to dozens of equal rows, more than any ball needs
        r, g = (x[np.minimum(rng.geometric(0.05, len(x)), len(x)) - 1] for x in (r, g))
        g[::3] = r[: len(g[::3])]
    elif kind == "identical":
        g = r.copy()
    elif kind == "offset":  # float32 without a shift would be wrong in every digit
        r, g = r + np.float32(1e4), g + np.float32(1e4)
    elif kind == "constant":
        r, g = np.ones_like(r), np.ones_like(g)
    return r, g
