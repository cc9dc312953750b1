"""Claim: from latents to features takes no longer than in torch on the same cores.

    python -m benchmarks.pipeline [--models=dcgan,sngan] [--images=1024] [--batch=256] [--rounds=5]

The pipeline draws latents, generates images, rounds them to 8 bits and embeds them with
EfficientNet-Lite0 at 64 pixels. torch runs the same two networks in both memory layouts and with
several batch sizes, and its best time counts. (Its feature network has random weights, on which the
time does not depend, and folded batch norms.) The third way is ours with a copy of every batch of
images to the host and back. `--batch`: images per step of ours. Rounds alternate, so that a busy
machine slows all. Needs torch; takes about 3 minutes on two cores.
"""

import dataclasses
import os

import jax

from benchmarks import machine, options
from benchmarks.features import torch_network
from benchmarks.generators import converted
from benchmarks.measuring import best_in_turn
from lsh_gan import features
from lsh_gan.experiment.step import GeneratedSamples
from lsh_gan.features.efficientnet import scaled_stages
from lsh_gan.generators import sampling

SIDE = 64


def candidates(torch, name, count, batch):
    """Returns the ways from latents to features, by name; each embeds `count` images."""
    make, shapes, variables = converted(name)
    generator = dataclasses.replace(shapes, params=variables)
    network = features.load("efficientnet_lite0", side=SIDE)
    key, params = jax.random.key(0), generator.params

    def ours():
        return (
            GeneratedSamples(generator, params, 0, count, batch).embed(network).block_until_ready()
        )

    def through_host():
        images = sampling.sample(generator, params, key, count, batch_size=batch)
        return features.embed(network, images).block_until_ready()

    runs = {"lsh_gan": ours, "lsh_gan, images through the host": through_host}
    resize = torch.nn.functional.interpolate
    for layout in (torch.contiguous_format, torch.channels_last):
        generate = make(layout)
        embed = torch_network(torch, scaled_stages(1, 1), fold=True).to(memory_format=layout)
        for size in (16, 32, 64, 128):

            def theirs(generate=generate, embed=embed, layout=layout, size=size):
                torch.manual_seed(0)
                for _ in range(0, count, size):
                    x = generate(torch.randn(size, generator.latent_size))
                    x = (x * 127.5 + 127.5).clamp(0, 255).round().to(torch.uint8).float()
                    x = resize(x, (SIDE, SIDE), mode="bilinear", antialias=True)
                    x = ((x - 127) / 128).contiguous(memory_format=layout)
                    embed(x).mean((2, 3))

            runs[f"torch, {str(layout).removeprefix('torch.')}, {size} at a time"] = theirs
    return runs


def main():
    """Measures all ways in alternating rounds and prints their best times."""
    args = options.parse(__doc__, models="dcgan,sngan", images=1024, batch=256, rounds=5)
    torch = machine.start_torch(os.cpu_count())
    print(f"{machine.describe('torch')}; EfficientNet-Lite0 at {SIDE} pixels")
    for name in args.models.split(","):
        runs = candidates(torch, name, args.images, args.batch)
        best_in_turn(runs, 1)  # compiles and warms up
        best = best_in_turn(runs, args.rounds)
        for way, seconds in best.items():
            print(f"{name:8s} {way:48s} {1e3 * seconds / args.images:8.3f} ms per image")
        theirs = min(seconds for way, seconds in best.items() if way.startswith("torch"))
        print(f"{name:8s} torch / lsh_gan: {theirs / best['lsh_gan']:.2f}")


if __name__ == "__main__":
    main()
