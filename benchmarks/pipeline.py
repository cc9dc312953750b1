"""Claim: latents to features costs no more than the same pipeline in torch on the same cores.

    python -m benchmarks.pipeline [--models=dcgan,sngan] [--images=1024] [--rounds=5]

Latents are drawn, images generated, rounded to 8 bits and embedded by EfficientNet-Lite0 at 64
pixels. torch runs the same two networks (random weights of the feature network, on which the time
does not depend; batch norms folded) in both memory layouts and several batch sizes, and its best
time counts. The third way is ours with a copy of every batch of images to the host, and back.
Rounds alternate, so that a busy machine hurts all. Needs torch; about 3 minutes on two cores.
"""

import argparse
import dataclasses
import os

from benchmarks import machine, options

SIDE = 64


def arguments():
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="dcgan,sngan")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=256, help="images a step of ours")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def candidates(name, count, batch):
    """Each way from latents to features, by name; each returns features [count, d]."""
    import jax
    import torch
    import torch.nn.functional as F

    from benchmarks import torch_generators
    from benchmarks.features import torch_network
    from checkpoints_tools.converters import SOURCES, convert_state
    from lsh_gan import features, generators
    from lsh_gan.experiment.step import GeneratedSamples
    from lsh_gan.features.efficientnet import scaled_stages
    from lsh_gan.generators import sampling

    state = getattr(torch_generators, f"{name}_state")()
    converted = convert_state(state, SOURCES[{"sngan": "mimicry"}.get(name, name)])
    shapes = generators.abstract(name, converted.family, converted.options)
    generator = dataclasses.replace(shapes, params=jax.device_put(converted.variables))
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
    for layout in (torch.contiguous_format, torch.channels_last):
        generate = getattr(torch_generators, name)(state, layout)
        embed = torch_network(torch, scaled_stages(1, 1), fold=True).to(memory_format=layout)
        for size in (16, 32, 64, 128):

            def theirs(generate=generate, embed=embed, layout=layout, size=size):
                torch.manual_seed(0)
                for _ in range(0, count, size):
                    x = generate(torch.randn(size, generator.latent_size))
                    x = (x * 127.5 + 127.5).clamp(0, 255).round().to(torch.uint8).float()
                    x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)
                    x = ((x - 127) / 128).contiguous(memory_format=layout)
                    embed(x).mean((2, 3))

            runs[f"torch, {str(layout).removeprefix('torch.')}, {size} at a time"] = theirs
    return runs


def main():
    """Times all ways in alternating rounds and prints their best times."""
    args = arguments()
    options.need("torch")
    import jax
    import torch

    from benchmarks.measuring import best_in_turn

    torch.set_grad_enabled(False)
    print(f"{machine.processor()}, {os.cpu_count()} cores, jax {jax.__version__}, ", end="")
    print(f"torch {torch.__version__}, EfficientNet-Lite0 at {SIDE} pixels")
    for name in args.models.split(","):
        runs = candidates(name, args.images, args.batch)
        best_in_turn(runs, 1)  # compiles and warms up
        best = best_in_turn(runs, args.rounds)
        for way, seconds in best.items():
            print(f"{name:8s} {way:48s} {1e3 * seconds / args.images:8.3f} ms an image")
        theirs = min(seconds for way, seconds in best.items() if way.startswith("torch"))
        print(f"{name:8s} torch / lsh_gan: {theirs / best['lsh_gan']:.2f}")


if __name__ == "__main__":
    main()
