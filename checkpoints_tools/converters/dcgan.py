"""DCGAN in the layout of the PyTorch tutorial, recognised by order and shape alone.

Transposed convolutions of kernel 4 without bias, each but the last with a batch norm after it. What
the layers are called does not matter: `main.0.weight`, `layers.3.conv.weight`, anything.
"""

import itertools

from checkpoints_tools.converters.origin import (
    BATCH_NORM,
    Origin,
    Plan,
    Source,
    take,
    transposed_kernel,
)


def _kernels(state) -> list[str]:
    return [name for name, array in state.items() if array.ndim == 4]


def _norms(state) -> list[str]:
    suffix = ".running_mean"
    return [name.removesuffix(suffix) for name in state if name.endswith(suffix)]


def _matches(state) -> bool:
    shapes = [state[name].shape for name in _kernels(state)]
    if len(shapes) < 3 or any(shape[2:] != (4, 4) for shape in shapes):
        return False
    chained = all(a[1] == b[0] for a, b in itertools.pairwise(shapes))
    means = [state[f"{norm}.running_mean"].shape for norm in _norms(state)]
    return chained and shapes[-1][1] in (1, 3) and means == [(s[1],) for s in shapes[:-1]]


def _plan(state, settings) -> Plan:
    kernels, norms = _kernels(state), _norms(state)
    options = {
        "latent_size": state[kernels[0]].shape[0],
        "channels": [state[name].shape[1] for name in kernels[:-1]],
        "image_channels": state[kernels[-1]].shape[1],
    }
    layer = {"project": kernels[0], "to_image": kernels[-1]}
    layer |= {f"up_{i}": name for i, name in enumerate(kernels[1:-1])}

    def origin(path: str) -> Origin:
        _, name, leaf = path.split("/")
        if leaf == "kernel":
            # The first layer maps a 1×1 image to 4×4: a dense layer, [latent, 4, 4, channels].
            first = name == "project"
            return take(
                layer[name], (lambda w: w.transpose(0, 2, 3, 1)) if first else transposed_kernel
            )
        norm = norms[int(name.removeprefix("norm_"))]
        return take(f"{norm}.{BATCH_NORM[leaf]}")

    return Plan("dcgan", options, origin, ignored=r".*num_batches_tracked")


SOURCE = Source("dcgan", "PyTorch DCGAN tutorial (any layer names)", _matches, _plan)
