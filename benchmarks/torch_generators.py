"""Generators in torch for comparison in benchmarks/generators.py, written from their papers.

A network is a module whose random weights have the names of the original state dict. Factors that
do not depend on the latent (norms of weights, gains) are then folded into the weights, so that
torch does no work per image that ours does not.
"""

import copy
import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

FIR = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1]))


def make(name):
    """Returns weights, NumPy arrays by name, and a function (memory layout) -> network."""
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    state = network.state_dict()
    for key, tensor in state.items():
        if key.endswith(("running_mean", "stored_mean")):
            tensor.normal_(0, 0.1)
    state = {key: tensor.numpy().copy() for key, tensor in state.items()}
    for module in network.modules():
        getattr(module, "fold", lambda: None)()

    def in_layout(layout):
        placed = copy.deepcopy(network).to(memory_format=layout)
        placed.layout = layout
        return placed

    return state, in_layout


class _DCGAN(nn.Module):
    """Maps latents `[n, 100]` to images, by transposed convolutions, as the DCGAN tutorial does."""

    def __init__(self):
        super().__init__()
        layers, inputs = [], 100
        for outputs in (512, 256, 128, 64, 3):
            stride, padding = (2, 1) if layers else (1, 0)
            layers.append(nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False))
            layers += [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
            inputs = outputs
        self.main = nn.Sequential(*layers[:-2], nn.Tanh())

    def forward(self, z):
        return self.main(z[:, :, None, None])


def _up(x, mode="bilinear"):
    return F.interpolate(x, scale_factor=2, mode=mode)


class _Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.b1, self.b2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.c1, self.c2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.c_sc = nn.Conv2d(width, width, 1)

    def forward(self, x):
        y = self.c1(_up(F.relu(self.b1(x), inplace=True)))
        y = self.c2(F.relu(self.b2(y), inplace=True))
        return y + _up(self.c_sc(x))  # 1×1 before upsampling: equal, with a quarter of the work


class _SNGAN(nn.Module):
    """Maps latents `[n, 128]` to images, by residual blocks, as torch-mimicry's SNGAN does."""

    def __init__(self, base=256):
        super().__init__()
        self.l1 = nn.Linear(128, 16 * base)
        self.block2, self.block3, self.block4 = (_Residual(base) for _ in range(3))
        self.b5, self.c5 = nn.BatchNorm2d(base), nn.Conv2d(base, 3, 3, padding=1)

    def forward(self, z):
        x = self.l1(z).view(len(z), -1, 4, 4).contiguous(memory_format=self.layout)
        x = self.block4(self.block3(self.block2(x)))
        return torch.tanh(self.c5(F.relu(self.b5(x), inplace=True)))


def _spectral(kind):
    """Makes a layer whose weight is divided by its spectral norm, from one power step."""

    class Normalised(kind):
        def __init__(self, *sizes, **options):
            super().__init__(*sizes, **options)
            self.register_buffer("u0", torch.randn(1, len(self.weight)))

        def fold(self):
            matrix = self.weight.flatten(1).double()
            v = self.u0[0].double() @ matrix
            self.weight.data /= (matrix @ (v / v.norm())).norm().float()

    return Normalised


Conv, Linear = _spectral(nn.Conv2d), _spectral(nn.Linear)


class _ConditionalNorm(nn.Module):
    def __init__(self, width, condition):
        super().__init__()
        self.gain = Linear(condition, width, bias=False)
        self.bias = Linear(condition, width, bias=False)
        self.register_buffer("stored_mean", torch.zeros(width))
        self.register_buffer("stored_var", torch.ones(width))

    def forward(self, x, condition):
        gain, bias = 1 + self.gain(condition), self.bias(condition)
        x = F.batch_norm(x, self.stored_mean, self.stored_var)
        return F.relu(x * gain[:, :, None, None] + bias[:, :, None, None], inplace=True)


class _BigBlock(nn.Module):
    def __init__(self, inputs, outputs, condition):
        super().__init__()
        self.bn1, self.bn2 = (_ConditionalNorm(n, condition) for n in (inputs, outputs))
        self.conv1 = Conv(inputs, outputs, 3, padding=1)
        self.conv2 = Conv(outputs, outputs, 3, padding=1)
        self.conv_sc = Conv(inputs, outputs, 1)

    def forward(self, x, condition):
        y = self.conv1(_up(self.bn1(x, condition), "nearest"))
        y = self.conv2(self.bn2(y, condition))
        return y + _up(self.conv_sc(x), "nearest")


class _Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        shapes = {"theta": (c, c // 8), "phi": (c, c // 8), "g": (c, c // 2), "o": (c // 2, c)}
        for name, shape in shapes.items():
            self.add_module(name, Conv(*shape, 1, bias=False))
        self.gamma = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, _):
        query = self.theta(x).flatten(2)
        key, value = (F.max_pool2d(conv(x), 2).flatten(2) for conv in (self.phi, self.g))
        weights = torch.softmax(torch.bmm(query.transpose(1, 2), key), -1)
        attended = torch.bmm(value, weights.transpose(1, 2)).view(len(x), -1, *x.shape[2:])
        return x + self.gamma * self.o(attended)


class _BigGAN(nn.Module):
    """Maps latents `[n, 120]` and classes `[n]` to images of 128 pixels."""

    def __init__(self, base=96, widths=(16, 16, 8, 4, 2, 1), chunk=20, shared=128):
        super().__init__()
        sizes = [base * width for width in widths]
        self.shared, self.linear = nn.Embedding(1000, shared), Linear(chunk, 16 * sizes[0])
        self.blocks = nn.ModuleList(
            nn.ModuleList([_BigBlock(*pair, shared + chunk)]) for pair in itertools.pairwise(sizes)
        )
        self.blocks[3].append(_Attention(sizes[4]))
        norm = nn.Module()
        norm.gain, norm.bias = nn.Parameter(torch.ones(base)), nn.Parameter(torch.zeros(base))
        norm.register_buffer("stored_mean", torch.zeros(base))
        norm.register_buffer("stored_var", torch.ones(base))
        self.output_layer = nn.ModuleList([norm, nn.ReLU(), Conv(base, 3, 3, padding=1)])

    def forward(self, z, labels):
        first, *chunks = z.split(z.shape[1] // (len(self.blocks) + 1), dim=1)
        x = self.linear(first).view(len(z), -1, 4, 4).contiguous(memory_format=self.layout)
        embedded = self.shared(labels)
        for block, chunk in zip(self.blocks, chunks, strict=True):
            for layer in block:
                x = layer(x, torch.cat([embedded, chunk], 1))
        norm, relu, conv = self.output_layer
        x = F.batch_norm(x, norm.stored_mean, norm.stored_var, norm.gain, norm.bias)
        return torch.tanh(conv(relu(x)))


class _Styled(nn.Module):
    """A modulated convolution: 3×3 with noise, or 1×1 to colours."""

    def __init__(self, inputs, outputs, w_size, side=0, up=False):
        super().__init__()
        width = 3 if side else 1
        self.weight = nn.Parameter(torch.randn(outputs, inputs, width, width))
        self.bias, self.up = nn.Parameter(torch.zeros(outputs)), up
        self.affine = nn.Linear(w_size, inputs)
        nn.init.normal_(self.affine.weight)
        nn.init.ones_(self.affine.bias)
        if side:
            self.register_buffer("noise_const", torch.randn(side, side))
            self.noise_strength = nn.Parameter(torch.tensor(0.1))
            self.register_buffer("resample_filter", FIR / 64)

    def fold(self):
        self.affine.weight.data /= self.affine.in_features**0.5
        if self.weight.shape[2] == 1:
            self.weight.data /= self.weight.shape[1] ** 0.5
        self.squares = (self.weight**2).sum((2, 3))
        self.transposed = self.weight.transpose(0, 1).contiguous()

    def forward(self, x, w):
        styles = self.affine(w)
        x = x * styles[:, :, None, None]
        if self.weight.shape[2] == 1:
            return (F.conv2d(x, self.weight) + self.bias[:, None, None]).clamp_(-256, 256)
        if self.up:
            x = F.conv_transpose2d(x, self.transposed, stride=2)
            x = F.conv2d(x, (FIR / 16).expand(x.shape[1], 1, 4, 4), padding=1, groups=x.shape[1])
        else:
            x = F.conv2d(x, self.weight, padding=1)
        demodulation = torch.rsqrt(F.linear(styles**2, self.squares) + 1e-8)
        noise = self.noise_const * self.noise_strength
        x = torch.addcmul(noise, x, demodulation[:, :, None, None])
        x = F.leaky_relu_(x + self.bias[:, None, None], 0.2)
        return x.mul_(2**0.5).clamp_(-256, 256)


class _StyleGAN2(nn.Module):
    """Maps latents `[n, d]` to the sum of images of all resolutions."""

    def __init__(self, channels=(512, 512, 512, 512, 256, 128, 64), w_size=512):
        super().__init__()
        self.mapping, self.synthesis = nn.Module(), nn.ModuleDict()
        self.mapping.register_buffer("w_avg", 0.1 * torch.randn(w_size))
        for i in range(8):
            self.mapping.add_module(f"fc{i}", nn.Linear(w_size, w_size))
            nn.init.normal_(self.mapping.get_submodule(f"fc{i}").weight, std=100)
        inputs = channels[0]
        for i, outputs in enumerate(channels):
            block, side = nn.Module(), 4 << i
            if i:
                block.conv0 = _Styled(inputs, outputs, w_size, side, up=True)
            else:
                block.const = nn.Parameter(torch.randn(outputs, 4, 4))
            block.conv1 = _Styled(outputs, outputs, w_size, side)
            block.torgb = _Styled(outputs, 3, w_size)
            block.register_buffer("resample_filter", FIR / 64)
            self.synthesis[f"b{side}"] = block
            inputs = outputs

    def fold(self):
        for layer in self.mapping.children():
            layer.weight.data *= 0.01 / layer.in_features**0.5
            layer.bias.data *= 0.01

    def forward(self, z):
        w = z * torch.rsqrt((z**2).mean(1, keepdim=True) + 1e-8)
        for layer in self.mapping.children():
            w = F.leaky_relu(layer(w), 0.2) * 2**0.5
        x, image = self.synthesis["b4"].const.expand(len(z), -1, 4, 4), None
        x = x.contiguous(memory_format=self.layout)
        for block in self.synthesis.values():
            if image is not None:
                x = block.conv0(x, w)
                kernel = (FIR / 16).expand(3, 1, 4, 4)
                image = F.conv_transpose2d(image, kernel, stride=2, padding=1, groups=3)
            x = block.conv1(x, w)
            rgb = block.torgb(x, w)
            image = rgb if image is None else rgb + image
        return image


NETWORKS: dict[str, Callable] = {
    "dcgan": _DCGAN,
    "sngan": _SNGAN,
    "biggan": _BigGAN,
    "stylegan2": _StyleGAN2,
}
