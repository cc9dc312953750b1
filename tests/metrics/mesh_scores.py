"""Scores two sets on all devices of one process, or of several; writes memberships and counts.

python mesh_scores.py out.npz [address processes process]
"""

import sys

import jax
import numpy as np

out, *cluster = sys.argv[1:]
jax.config.update("jax_platforms", "cpu")
if cluster:
    jax.distributed.initialize(cluster[0], int(cluster[1]), int(cluster[2]))

from draws import draw_pair  # noqa: E402

from lsh_gan.metrics import (  # noqa: E402
    HashSpec,
    build,
    fit_hash,
    knn_precision_recall,
    lsh_knn_precision_recall,
    lsh_precision_recall,
    lsh_precision_recall_curve,
)

# Rows and tables are divisible by no number of devices.
N, M, D = 501, 403, 6
SPEC = HashSpec(num_tables=13)


def record(name, scores):
    fields = scores._asdict()
    return {f"{name}.{field}": np.asarray(x) for field, x in fields.items() if x is not None}


def main():
    key, found = jax.random.key(0), {}
    alone = jax.device_count() > 1 and not cluster  # a process of several devices
    for kind in ("normal", "grid"):
        r, g = draw_pair(kind, N, M, D)
        if kind == "grid" and alone:  # features that are bound to one of the devices
            r, g = jax.device_put(r, jax.devices()[-1]), jax.numpy.asarray(g)
        hasher = fit_hash(key, r, SPEC)
        sketch = build(hasher, [g[:200], g[200:]])
        found[f"{kind}.digits"] = np.asarray(hasher.digits)
        found[f"{kind}.counts"] = np.asarray(sketch.counts)
        found[f"{kind}.addresses"] = np.asarray(sketch.places.addresses)
        scores = knn_precision_recall(r, g, memory_mb=1, extended=True, membership=True)
        found |= record(f"{kind}.knn", scores)
        options = {"spec": SPEC, "membership": True}
        found |= record(f"{kind}.lsh", lsh_precision_recall(key, r, g, **options))
        found |= record(f"{kind}.curve", lsh_precision_recall_curve(key, r, g, spec=SPEC))
        options["bucket_rows"] = 5  # a cap that is met
        found |= record(f"{kind}.lsh_knn", lsh_knn_precision_recall(key, r, g, **options))
    if alone:  # a session of its own mesh, whose axes are explicit
        jax.set_mesh(jax.make_mesh((jax.device_count(),), ("x",)))
        key, r, g = jax.random.key(0), *(jax.numpy.asarray(np.asarray(x)) for x in (r, g))
        found |= record("grid.lsh", lsh_precision_recall(key, r, g, spec=SPEC, membership=True))
    if jax.process_index() == 0:
        np.savez(out, devices=jax.device_count(), **found)


main()
