"""Claim: embedding images takes no longer than the same network in torch on the same cores.

    python -m benchmarks.features [--images=512] [--side=64] [--batches=32,64,128] [--threads=2]

Our network has its real weights, the one in torch random weights; the time does not depend on them.
torch runs in both memory layouts, with batch norms folded and not folded, and its best time counts.
Rounds alternate, so that a busy machine slows both. Needs torch.
"""

import os

import numpy as np

from benchmarks import machine, options
from benchmarks.measuring import best_in_turn
from lsh_gan import features
from lsh_gan.features.efficientnet import scaled_stages


def torch_network(torch, stages, *, fold):
    """Makes EfficientNet-Lite0 in torch, up to its pooled features."""
    nn, functional = torch.nn, torch.nn.functional

    class Conv(nn.Module):
        def __init__(self, inputs, features, kernel, strides=1, groups=1, relu=True):
            super().__init__()
            self.conv = nn.Conv2d(inputs, features, kernel, strides, groups=groups, bias=fold)
            self.norm = nn.Identity() if fold else nn.BatchNorm2d(features, eps=1e-3)
            self.strides, self.kernel, self.relu = strides, kernel, relu

        def forward(self, x):
            total = max((-(-x.shape[2] // self.strides) - 1) * self.strides, 0)
            total = max(total + self.kernel - x.shape[2], 0)
            if total:
                x = functional.pad(x, (total // 2, total - total // 2) * 2)
            x = self.norm(self.conv(x))
            return functional.relu6(x, inplace=True) if self.relu else x

    class Block(nn.Module):
        def __init__(self, inputs, stage, strides):
            super().__init__()
            width = inputs * stage.expansion
            layers = [Conv(inputs, width, 1)] if stage.expansion > 1 else []
            layers.append(Conv(width, width, stage.kernel, strides, groups=width))
            layers.append(Conv(width, stage.features, 1, relu=False))
            self.layers = nn.Sequential(*layers)
            self.residual = strides == 1 and inputs == stage.features

        def forward(self, x):
            y = self.layers(x)
            return x + y if self.residual else y

    layers, channels = [Conv(3, 32, 3, 2)], 32
    for stage in stages:
        for repeat in range(stage.repeats):
            layers.append(Block(channels, stage, stage.strides if repeat == 0 else 1))
            channels = stage.features
    return nn.Sequential(*layers, Conv(channels, 1280, 1)).eval()


def candidates(torch, network, stages, images, batch):
    """Yields the name of each way to embed the images, and a function that does it."""

    def ours():
        features.embed(network, images, batch_size=batch).block_until_ready()

    yield f"lsh_gan, batch {batch}", ours
    for fold in (False, True):
        for layout in (torch.contiguous_format, torch.channels_last):
            model = torch_network(torch, stages, fold=fold).to(memory_format=layout)

            def theirs(model=model, layout=layout):
                for start in range(0, len(images), batch):
                    x = torch.from_numpy(images[start : start + batch]).permute(0, 3, 1, 2)
                    x = ((x.float() - 127) / 128).contiguous(memory_format=layout)
                    model(x).mean((2, 3))

            norms = "folded" if fold else "batch norm"
            yield f"torch, batch {batch}, {str(layout).removeprefix('torch.')}, {norms}", theirs


def main():
    """Measures both networks in alternating rounds and prints their best times."""
    args = options.parse(
        __doc__, images=512, side=64, batches="32,64,128", threads=os.cpu_count(), rounds=5
    )
    torch = machine.start_torch(args.threads)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (args.images, args.side, args.side, 3), dtype=np.uint8)
    network = features.load("efficientnet_lite0", side=args.side)
    runs = {}
    for batch in map(int, args.batches.split(",")):
        runs.update(candidates(torch, network, scaled_stages(1, 1), images, batch))
    best_in_turn(runs, 1)  # compiles and warms up
    best = best_in_turn(runs, args.rounds)
    print(f"{machine.describe('torch')}; {network.name} at {args.side} pixels")
    for name, seconds in best.items():
        print(f"{name:48s} {1e3 * seconds / args.images:8.3f} ms per image")
    ours = min(seconds for name, seconds in best.items() if name.startswith("lsh_gan"))
    theirs = min(seconds for name, seconds in best.items() if name.startswith("torch"))
    print(f"torch / lsh_gan, best of each: {theirs / ours:.2f}")


if __name__ == "__main__":
    main()
