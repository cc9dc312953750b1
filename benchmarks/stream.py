"""Claim: the memory of LSH does not depend on the number of rows.

    python -m benchmarks.stream [--rows=100000,500000,1000000,5000000] [--table_mib=1024]
    python -m benchmarks.stream --files=200000

The first command scores n rows of d = 512 against n others. They are drawn from a key, batch by
batch, in every pass over them, so that nothing holds them. Each n runs in its own process, whose
peak memory is read at its end. It writes benchmarks/results/stream.{csv,md,png}. The second command
writes FILES small images (half PNG, half JPEG) to a temporary folder. It runs `main.py` on them,
one half against the other, with only the metric lsh, which never holds all features, and adds a
line to stream.md. `--table_mib`: memory for the counts of one set. `--one=N`: only this n, in this
process.
"""

import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import machine, options
from benchmarks.written import markdown
from lsh_gan import metrics

RESULTS = Path(__file__).parent / "results"
D, BATCH, FIRST = 512, 16_384, 65_536  # FIRST: rows that the hash is fitted on
FIELDS = ("rows", "peak_mib", "start_mib", "seconds", "load", "num_bits", "precision", "recall")
SIDE = 32


def peak_mib(who=resource.RUSAGE_SELF):
    """Returns the largest resident memory until now, of this process or of its ended children."""
    return resource.getrusage(who).ru_maxrss / 1024


def measure(n, table_mib):
    """Scores n rows against n others; returns memory, time and scores."""
    mixing = jax.random.normal(jax.random.key(99), (64, D)) / 8

    @jax.jit
    def draw(key, i):
        inner = jax.random.normal(jax.random.fold_in(key, i), (BATCH, 64))
        return jnp.maximum(inner @ mixing, 0)

    def stream(seed, rows=n):
        key = jax.random.key(seed)
        return (draw(key, i)[: rows - i * BATCH] for i in range(-(-rows // BATCH)))

    start, started = peak_mib(), time.perf_counter()
    first = list(stream(1, min(n, FIRST)))
    hasher = metrics.fit_hash(jax.random.key(0), first, rows=n, table_bytes=table_mib * 2**20)
    scores = metrics.lsh_score_streams(hasher, lambda: stream(1), lambda: stream(2))
    took = time.perf_counter() - started
    facts = (scores.load, scores.num_bits, scores.precision, scores.recall)
    found = (n, round(peak_mib()), round(start), round(took, 1), *(round(x, 4) for x in facts))
    return dict(zip(FIELDS, found, strict=True))


def table(rows, args):
    """Formats the rows as Markdown, with the machine and the command."""
    head = (
        f"`python -m benchmarks.stream --rows={args.rows} --table_mib={args.table_mib}`\n\n"
        f"n rows against n others, d = {D}, drawn batch by batch ({BATCH} rows); counts of a set "
        f"take at most {args.table_mib} MiB. {machine.describe()}. `start` is the memory of the "
        "process before the first row.\n\n"
    )
    names = ("n", "features of both sets, MiB", "peak, MiB", "start, MiB", "s", "load", "bits",
             "precision", "recall")  # fmt: skip
    lines = []
    for row in rows:
        features = round(2 * 4 * D * row["rows"] / 2**20)
        lines.append([f"{row['rows']:,}", f"{features:,}", *(row[name] for name in FIELDS[1:])])
    return head + markdown(names, lines)


def plot(rows, path):
    """Plots peak memory against n, and the memory that the features of both sets would take."""
    from matplotlib.figure import Figure  # not in the processes that are measured

    n = [row["rows"] for row in rows]
    figure = Figure(figsize=(6, 4))
    axis = figure.subplots()
    axis.loglog(n, [row["peak_mib"] for row in rows], marker="o", label="peak of the process")
    features = [2 * 4 * D * x / 2**20 for x in n]
    axis.loglog(n, features, linestyle="--", label="features of both sets, never held")
    axis.set(xlabel="rows n of each set", ylabel="MiB")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


def write_images(folder, count, seed):
    """Writes `count` images of 4×4 coloured squares, half PNG and half JPEG."""
    from PIL import Image

    def write(i):
        rng = np.random.default_rng([seed, i])
        pixels = rng.integers(0, 256, (4, 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels).save(folder / f"{i:07}.{('png', 'jpg')[i // 2 % 2]}")

    folder.mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(write, range(count)):
            pass


def run_on_files(count):
    """Runs `main.py` on a folder of images; returns a line on what it took."""
    half = count // 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed, part in enumerate(("real", "made")):
            write_images(folder / part, half, seed)
        config = {
            "generators": "", "samples": folder / "made", "reference.images": folder / "real",
            "reference.num_images": 0, "metrics": "lsh", "features.side": SIDE,
        }  # fmt: skip
        command = [sys.executable, "main.py", f"--workdir={folder / 'run'}"]
        command += [f"--config.{field}={value}" for field, value in config.items()]
        started = time.perf_counter()
        environment = os.environ | {"LSH_GAN_CACHE": str(folder / "cache")}
        subprocess.run(command, check=True, env=environment)
        took = time.perf_counter() - started
        row = json.loads((folder / "run" / "rows.jsonl").read_text().splitlines()[0])
        kept = sum(file.stat().st_size for file in (folder / "run" / "hits").iterdir())
    return (
        f"\n`python -m benchmarks.stream --files={count}`: {half:,} image files of {SIDE}×{SIDE} "
        f"pixels against {half:,} others, d = {row['d']} (features "
        f"{2 * 4 * row['d'] * half / 2**20:,.0f} MiB): peak "
        f"{peak_mib(resource.RUSAGE_CHILDREN):,.0f} MiB, {took:,.0f} s, of which decoding, "
        f"embedding and hashing the samples {row['seconds']['sample_and_embed']:,.0f} s; hits on "
        f"disk {kept:,} bytes.\n"
    )


def main():
    """Measures every n in its own process, or a folder of files."""
    args = options.parse(
        __doc__, rows="100000,500000,1000000,5000000", table_mib=1024, files=0, one=0
    )
    if args.one:
        print(json.dumps(measure(args.one, args.table_mib)))
        return
    if args.files:
        line = run_on_files(args.files)
        print(line)
        with (RESULTS / "stream.md").open("a") as file:
            file.write(line)
        return
    rows = []
    for n in args.rows.split(","):
        command = [sys.executable, "-m", "benchmarks.stream", f"--one={n}"]
        command.append(f"--table_mib={args.table_mib}")
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    with (RESULTS / "stream.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    (RESULTS / "stream.md").write_text(table(rows, args))
    plot(rows, RESULTS / "stream.png")


if __name__ == "__main__":
    main()
