"""Precision and recall by other packages: one function of two feature sets per package."""

import contextlib
import io
from collections.abc import Callable
from importlib.metadata import version

import numpy as np

Run = Callable[[], object]


def installed(r: np.ndarray, g: np.ndarray) -> dict[str, Run]:
    """Returns the installed packages by name and version; prints those that are missing."""
    makers = (_prdc, _torch_fidelity, cdist, _faiss, _sklearn)
    found = {}
    for make in makers:
        try:
            name, run = make(r, g)
        except ImportError as error:
            print(f"{make.__name__.strip('_')}: not installed ({error})")
        else:
            found[name] = run
    return found


def _prdc(r, g) -> tuple[str, Run]:
    from prdc import compute_prdc

    def run():
        with contextlib.redirect_stdout(io.StringIO()):
            return compute_prdc(r, g, nearest_k=3)

    return f"prdc {version('prdc')}", run


def _torch_fidelity(r, g) -> tuple[str, Run]:
    import torch

    # A torchvision built for another torch lacks two operators, which torch-fidelity needs when it
    # is imported, but not for its metric.
    operators = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from torch_fidelity.metric_prc import prc_features_to_metric

    a, b = torch.from_numpy(r), torch.from_numpy(g)

    def run():
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return prc_features_to_metric(b, a, prc_neighborhood=3, verbose=False)

    return f"torch-fidelity {version('torch-fidelity')}", run


def cdist(r: np.ndarray, g: np.ndarray, rows: int = 10_000) -> tuple[str, Run]:
    """Uses torch's distances in blocks of `rows`, on a GPU if any; r `[n, d]`, g `[m, d]`."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False  # float32, as ours
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.from_numpy(x).to(device) for x in (r, g))

    def radii(x):
        parts = [torch.cdist(p, x).kthvalue(4, dim=1).values for p in x.split(rows)]
        return torch.cat(parts)

    def run():
        radius = {"r": radii(a), "g": radii(b)}
        precision = torch.cat([(torch.cdist(p, a) <= radius["r"]).any(1) for p in b.split(rows)])
        recall = torch.cat([(torch.cdist(p, b) <= radius["g"]).any(1) for p in a.split(rows)])
        return precision.float().mean().item(), recall.float().mean().item()

    return f"cdist + kthvalue, torch {torch.__version__} ({device})", run


def _faiss(r, g) -> tuple[str, Run]:
    import faiss

    def radii(x):
        index = faiss.IndexFlatL2(x.shape[1])
        index.add(x)
        return index.search(x, 4)[0][:, 3]

    def share(queries, x, radius):
        # A range search takes one radius for all queries, so this computes distances in blocks.
        hits = np.zeros(len(queries), bool)
        for start in range(0, len(queries), 1024):
            d2 = faiss.pairwise_distances(queries[start : start + 1024], x)
            hits[start : start + 1024] = (d2 <= radius).any(axis=1)
        return hits.mean()

    def run():
        return share(g, r, radii(r)), share(r, g, radii(g))

    return f"faiss flat {faiss.__version__}", run


def _sklearn(r, g) -> tuple[str, Run]:
    import sklearn
    from sklearn.metrics import pairwise_distances_chunked
    from sklearn.neighbors import NearestNeighbors

    def radii(x):
        finder = NearestNeighbors(n_neighbors=4, algorithm="brute").fit(x)
        return finder.kneighbors(x)[0][:, 3]

    def share(queries, x, radius):
        parts = pairwise_distances_chunked(queries, x)
        return np.concatenate([(d <= radius).any(axis=1) for d in parts]).mean()

    def run():
        return share(g, r, radii(r)), share(r, g, radii(g))

    return f"scikit-learn {sklearn.__version__}", run
