"""Claims: sampling takes no longer than in torch; converting takes little time and memory.

StyleGAN2 and BigGAN may take 1.5 times as long as in torch. A StyleGAN2 pickle of 30 million
parameters is converted in 20 s, with a peak memory of 3 times its size.

    python -m benchmarks.generators [--threads=2] [--models=dcgan,sngan,biggan,stylegan2,convert]

Both libraries run the same network with the same weights, and must give the same images. torch runs
in both memory layouts, with whole batches and with the parts that ours uses, and its best time
counts. Rounds alternate, so that a busy machine slows both. Needs torch
(benchmarks/requirements.txt); takes about 4 minutes on two cores.
"""

import multiprocessing
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from benchmarks import machine, options
from benchmarks.measuring import best_in_turn
from checkpoints_tools.converters import SOURCES, convert_state
from lsh_gan import generators
from lsh_gan.generators import sampling

# Batch size, and the claimed limit of our time divided by torch's.
MODELS = {"dcgan": (64, 1.0), "sngan": (32, 1.0), "biggan": (4, 1.5), "stylegan2": (2, 1.5)}
CHANNELS_1024 = (512, 512, 512, 512, 512, 256, 128, 64, 32)


def converted(name):
    """Returns a function that makes the torch network, our generator without weights, weights."""
    from benchmarks import torch_generators

    state, network = torch_generators.make(name)
    found = convert_state(state, SOURCES[{"sngan": "mimicry"}.get(name, name)])
    generator = generators.abstract(name, found.family, found.options)
    return network, generator, jax.device_put(found.variables)


def candidates(torch, name, batch):
    """Returns the ways to generate a batch, the largest difference of images, and their shape."""
    make, generator, variables = converted(name)
    rng = np.random.default_rng(1)
    inputs = {"z": rng.standard_normal((batch, generator.latent_size), np.float32)}
    if generator.num_classes:
        inputs["labels"] = rng.integers(0, generator.num_classes, batch)
    apply = jax.jit(lambda variables, inputs: generator.module.apply(variables, **inputs))
    part = sampling.part_size(generator, batch)

    def in_parts(function, size):
        starts = range(0, batch, size)
        parts = [{k: v[start : start + size] for k, v in inputs.items()} for start in starts]
        return np.concatenate([np.asarray(function(part)) for part in parts])

    runs = {"lsh_gan": lambda: in_parts(lambda inputs: apply(variables, inputs), part)}
    for layout in (torch.contiguous_format, torch.channels_last):
        network = make(layout)

        def theirs(inputs, network=network):
            tensors = {key: torch.from_numpy(value) for key, value in inputs.items()}
            return network(**tensors).permute(0, 2, 3, 1)

        for size in {batch, part}:
            label = f"torch, {layout}, {size} at a time"
            runs[label] = lambda theirs=theirs, size=size: in_parts(theirs, size)
    images = {label: run() for label, run in runs.items()}
    ours = images.pop("lsh_gan")
    worst = max(np.abs(ours - theirs).max() / np.abs(theirs).max() for theirs in images.values())
    return runs, float(worst), ours.shape


def write_pickle(path):
    """Writes a pickle of the size and kind of ffhq.pkl: G, D and G_ema, with torch tensors."""
    import torch

    from benchmarks import torch_generators

    def tensors():
        return torch_generators.NETWORKS["stylegan2"](CHANNELS_1024).state_dict()

    generator = tensors()
    count = sum(tensor.numel() for tensor in generator.values())
    other = {f"b{i}.weight": torch.zeros(512, 512, 3, 3) for i in range(12)}
    with Path(path).open("wb") as stream:
        pickle.dump({"G": tensors(), "D": other, "G_ema": generator}, stream)
    return count


def time_conversion():
    """Measures time, peak memory and file size of converting a StyleGAN2 of 1024 pixels."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ffhq.pkl"
        # Elsewhere: the peak of a new process counts from what the process that starts it holds.
        with multiprocessing.get_context("spawn").Pool(1) as other:
            count = other.apply(write_pickle, [file])
        command = [sys.executable, "-m", "checkpoints_tools.convert"]
        command += ["--source=stylegan2", f"--input={file}", f"--output={folder}/ffhq"]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        start = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{' '.join(command)}: ended with {process.returncode}")
        size, processor = file.stat().st_size, used.ru_utime + used.ru_stime
        return count, size, seconds, processor, 1024 * used.ru_maxrss


def main():
    """Prints the table."""
    known = ",".join([*MODELS, "convert"])
    args = options.parse(__doc__, threads=os.cpu_count(), models=known, rounds=3)
    models = options.names("--models", args.models, {**MODELS, "convert": None})
    torch = machine.start_torch(args.threads)
    if "convert" in models:
        count, size, seconds, processor, peak = time_conversion()
        print(
            f"convert: {count:,} values, file {size / 1e6:.0f} MB: {seconds:.1f} s (processor "
            f"{processor:.1f} s; claim: 20), peak {peak / 1e6:.0f} MB, {peak / size:.2f} times the "
            "file (claim: 3)",
            flush=True,
        )
    print(f"{machine.describe('torch')}; best of {args.rounds}")
    print("| network | batch | ours, ms per image | torch | ours / torch | claim | difference |")
    print("|---|---|---|---|---|---|---|")
    for name in (model for model in models if model != "convert"):
        batch, claim = MODELS[name]
        runs, difference, shape = candidates(torch, name, batch)
        best = best_in_turn(runs, args.rounds)
        ours = 1e3 * best.pop("lsh_gan") / batch
        theirs = 1e3 * min(best.values()) / batch
        print(
            f"| {name}, {shape[1]} px | {batch} | {ours:.1f} | {theirs:.1f} | "
            f"{ours / theirs:.2f} | {claim} | {difference:.0e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
