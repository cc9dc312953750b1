"""The generators that benchmarks/generators.py compares with, in torch, from their papers' facts.

Each family is a pair of functions: random weights under the names of the original state dicts, and
a function of latents that uses them. Norms and gains that do not depend on the latent are applied
to the weights beforehand, so torch does no work per image that ours does not.
"""

import itertools

import numpy as np
import torch
import torch.nn.functional as F

_ROOT_2 = 2**0.5
_RNG = np.random.default_rng(0)


def _normal(*shape, scale=1.0):
    return (scale * _RNG.standard_normal(shape, np.float32)).astype(np.float32)


def _fan_in(*shape):
    return _normal(*shape, scale=np.prod(shape[1:]) ** -0.5)


def _batch_norm(name, channels, names=("running_mean", "running_var", "weight", "bias")):
    values = (_normal(channels, scale=0.1), np.ones(channels, np.float32)) + (
        (np.ones(channels, np.float32), _normal(channels, scale=0.1)) if len(names) == 4 else ()
    )
    return {f"{name}.{part}": value for part, value in zip(names, values, strict=True)}


def _layer(name, *shape):
    return {f"{name}.weight": _fan_in(*shape), f"{name}.bias": _normal(shape[0], scale=0.1)}


def _tensors(state, layout):
    """Tensors of a state dict, convolution weights in the given memory layout."""
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}
    return {n: t.contiguous(memory_format=layout) if t.ndim == 4 else t for n, t in tensors.items()}


def _norm_relu(t, name, x):
    parts = (t[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.relu(F.batch_norm(x, *parts), inplace=True)


def dcgan_state(latent_size=100, channels=(512, 256, 128, 64), image_channels=3):
    """Weights of the DCGAN tutorial's generator."""
    sizes = (latent_size, *channels, image_channels)
    state = {}
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        state[f"main.{3 * i}.weight"] = _normal(inputs, outputs, 4, 4, scale=(4 * inputs) ** -0.5)
        if outputs != image_channels:
            state |= _batch_norm(f"main.{3 * i + 1}", outputs)
    return state


def dcgan(state, layout):
    """Latents `[n, d]` to images, by transposed convolutions."""
    t = _tensors(state, layout)
    last = max(int(name.split(".")[1]) for name in state)

    def images(z):
        x = F.conv_transpose2d(z[:, :, None, None], t["main.0.weight"])
        for i in range(3, last + 1, 3):
            x = _norm_relu(t, f"main.{i - 2}", x)
            x = F.conv_transpose2d(x, t[f"main.{i}.weight"], stride=2, padding=1)
        return torch.tanh(x)

    return images


def sngan_state(latent_size=128, base=256, channels=(256, 256, 256)):
    """Weights of torch-mimicry's SNGAN generator."""
    state = _layer("l1", 16 * base, latent_size)
    inputs = base
    for i, outputs in enumerate(channels, 2):
        state |= _layer(f"block{i}.c1", outputs, inputs, 3, 3)
        state |= _layer(f"block{i}.c2", outputs, outputs, 3, 3)
        state |= _layer(f"block{i}.c_sc", outputs, inputs, 1, 1)
        state |= _batch_norm(f"block{i}.b1", inputs) | _batch_norm(f"block{i}.b2", outputs)
        inputs = outputs
    last = len(channels) + 2
    return state | _batch_norm(f"b{last}", inputs) | _layer(f"c{last}", 3, inputs, 3, 3)


def sngan(state, layout):
    """Latents `[n, d]` to images, by residual blocks with bilinear upsampling."""
    t = _tensors(state, layout)
    last = max(int(name[1:].split(".")[0]) for name in state if name[0] == "c")

    def conv(name, x):
        weight = t[f"{name}.weight"]
        return F.conv2d(x, weight, t[f"{name}.bias"], padding=weight.shape[2] // 2)

    def up(x):
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    def images(z):
        x = F.linear(z, t["l1.weight"], t["l1.bias"]).view(len(z), -1, 4, 4)
        x = x.contiguous(memory_format=layout)
        for i in range(2, last):
            y = conv(f"block{i}.c1", up(_norm_relu(t, f"block{i}.b1", x)))
            y = conv(f"block{i}.c2", _norm_relu(t, f"block{i}.b2", y))
            # The 1×1 shortcut before its upsampling: equal, and a quarter of the work.
            x = y + up(conv(f"block{i}.c_sc", x))
        return torch.tanh(conv(f"c{last}", _norm_relu(t, f"b{last}", x)))

    return images


def biggan_state(base=96, widths=(16, 16, 8, 4, 2, 1), chunk=20, shared=128, attention=3):
    """Weights of BigGAN for 128 pixels; `attention` is the block that self-attention follows."""
    sizes = [base * width for width in widths]
    state = {"shared.weight": _normal(1000, shared)} | _layer("linear", 16 * sizes[0], chunk)
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        block = f"blocks.{i}.0"
        state |= _layer(f"{block}.conv1", outputs, inputs, 3, 3)
        state |= _layer(f"{block}.conv2", outputs, outputs, 3, 3)
        state |= _layer(f"{block}.conv_sc", outputs, inputs, 1, 1)
        for norm, width in (("bn1", inputs), ("bn2", outputs)):
            state |= _batch_norm(f"{block}.{norm}", width, ("stored_mean", "stored_var"))
            for part in ("gain", "bias"):
                state[f"{block}.{norm}.{part}.weight"] = _fan_in(width, shared + chunk)
        if i == attention:
            c = outputs
            shapes = {"theta": (c // 8, c), "phi": (c // 8, c), "g": (c // 2, c), "o": (c, c // 2)}
            for part, shape in shapes.items():
                state[f"blocks.{i}.1.{part}.weight"] = _fan_in(*shape, 1, 1)
            state[f"blocks.{i}.1.gamma"] = np.float32(0.5)
    names = ("stored_mean", "stored_var", "gain", "bias")
    state |= _batch_norm("output_layer.0", sizes[-1], names)
    state |= _layer("output_layer.2", 3, sizes[-1], 3, 3)
    normalised = [n for n in state if n.endswith(".weight") and n != "shared.weight"]
    for name in normalised:
        state[name.replace(".weight", ".u0")] = _normal(1, len(state[name]))
    return state


def _spectrally_normalised(weight, u):
    """The weight over its largest singular value, estimated by one power step from `u`."""
    matrix = weight.reshape(len(weight), -1).astype(np.float64)
    v = u[0].astype(np.float64) @ matrix
    out = matrix @ (v / np.linalg.norm(v))
    return (weight / np.linalg.norm(out)).astype(np.float32)


def biggan(state, layout):
    """Latents `[n, 120]` and classes `[n]` to images."""
    folded = dict(state)
    for name in state:
        if name.endswith(".u0"):
            weight = name.replace(".u0", ".weight")
            folded[weight] = _spectrally_normalised(state[weight], state[name])
    t = _tensors({k: np.asarray(v) for k, v in folded.items()}, layout)
    count = len({name.split(".")[1] for name in state if name.startswith("blocks.")})

    def conv(name, x):
        weight = t[f"{name}.weight"]
        return F.conv2d(x, weight, t.get(f"{name}.bias"), padding=weight.shape[2] // 2)

    def norm_relu(name, x, condition):
        gain = 1 + F.linear(condition, t[f"{name}.gain.weight"])
        bias = F.linear(condition, t[f"{name}.bias.weight"])
        x = F.batch_norm(x, t[f"{name}.stored_mean"], t[f"{name}.stored_var"])
        return F.relu(x * gain[:, :, None, None] + bias[:, :, None, None], inplace=True)

    def attend(name, x):
        n, channels, height, width = x.shape
        query = conv(f"{name}.theta", x).reshape(n, channels // 8, -1)
        key = F.max_pool2d(conv(f"{name}.phi", x), 2).reshape(n, channels // 8, -1)
        value = F.max_pool2d(conv(f"{name}.g", x), 2).reshape(n, channels // 2, -1)
        weights = torch.softmax(torch.bmm(query.transpose(1, 2), key), -1)
        attended = torch.bmm(value, weights.transpose(1, 2)).view(n, -1, height, width)
        return x + t[f"{name}.gamma"] * conv(f"{name}.o", attended)

    def images(z, labels):
        first, *chunks = z.split(z.shape[1] // (count + 1), dim=1)
        x = F.linear(first, t["linear.weight"], t["linear.bias"]).view(len(z), -1, 4, 4)
        x = x.contiguous(memory_format=layout)
        embedded = F.embedding(labels, t["shared.weight"])
        for i, chunk in enumerate(chunks):
            block, condition = f"blocks.{i}.0", torch.cat([embedded, chunk], 1)
            y = F.interpolate(norm_relu(f"{block}.bn1", x, condition), scale_factor=2)
            y = norm_relu(f"{block}.bn2", conv(f"{block}.conv1", y), condition)
            y = conv(f"{block}.conv2", y)
            x = y + F.interpolate(conv(f"{block}.conv_sc", x), scale_factor=2)
            if f"blocks.{i}.1.gamma" in t:
                x = attend(f"blocks.{i}.1", x)
        parts = (f"output_layer.0.{p}" for p in ("stored_mean", "stored_var", "gain", "bias"))
        x = F.relu(F.batch_norm(x, *(t[part] for part in parts)), inplace=True)
        return torch.tanh(conv("output_layer.2", x))

    return images


def stylegan2_state(channels=(512, 512, 512, 512, 256, 128, 64), mapping_layers=8, w_size=512):
    """Weights of StyleGAN2-ADA, unconditional, images of all resolutions added."""
    fir = np.outer([1, 3, 3, 1], [1, 3, 3, 1]).astype(np.float32) / 64
    state = {"mapping.w_avg": _normal(w_size, scale=0.1)}
    for i in range(mapping_layers):
        state[f"mapping.fc{i}.weight"] = _normal(w_size, w_size, scale=100.0)
        state[f"mapping.fc{i}.bias"] = np.zeros(w_size, np.float32)
    state["synthesis.b4.const"] = _normal(channels[0], 4, 4)
    inputs = channels[0]
    for i, outputs in enumerate(channels):
        block, side = f"synthesis.b{4 << i}", 4 << i
        layers = {"conv0": inputs} if i else {}
        for name, width in (layers | {"conv1": outputs}).items():
            base = f"{block}.{name}"
            state[f"{base}.weight"] = _normal(outputs, width, 3, 3)
            state[f"{base}.bias"] = np.zeros(outputs, np.float32)
            state[f"{base}.noise_const"] = _normal(side, side)
            state[f"{base}.noise_strength"] = np.float32(0.1)
            state[f"{base}.resample_filter"] = fir
            state[f"{base}.affine.weight"] = _normal(width, w_size)
            state[f"{base}.affine.bias"] = np.ones(width, np.float32)
        base = f"{block}.torgb"
        state[f"{base}.weight"] = _normal(3, outputs, 1, 1)
        state[f"{base}.bias"] = np.zeros(3, np.float32)
        state[f"{base}.affine.weight"] = _normal(outputs, w_size)
        state[f"{base}.affine.bias"] = np.ones(outputs, np.float32)
        state[f"{block}.resample_filter"] = fir
        inputs = outputs
    return state


def stylegan2(state, layout):
    """Latents `[n, d]` to images; weights shared by all images, styles applied to activations."""
    t = _tensors({k: np.asarray(v) for k, v in state.items()}, layout)
    sides = sorted(int(n.split(".")[1][1:]) for n in state if n.endswith("torgb.weight"))
    depth = sum(n.startswith("mapping.fc") and n.endswith("weight") for n in state)
    for name in [n for n in t if n.startswith("mapping.fc") and n.endswith("weight")]:
        t[name] = t[name] * (0.01 / t[name].shape[1] ** 0.5)
    for name in [n for n in t if n.endswith(("affine.weight", "torgb.weight"))]:
        t[name] = t[name] * t[name][0].numel() ** -0.5
    squares = {
        n: (w**2).sum((2, 3)) for n, w in t.items() if n[-12:] in ("conv0.weight", "conv1.weight")
    }
    fir = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 16
    transposed = {
        n: w.transpose(0, 1).contiguous() for n, w in t.items() if n.endswith("conv0.weight")
    }

    def filtered(x, padding):
        kernel = fir.expand(x.shape[1], 1, 4, 4)
        return F.conv2d(x, kernel, padding=padding, groups=x.shape[1])

    def styled(base, x, w):
        name = f"{base}.weight"
        styles = F.linear(w, t[f"{base}.affine.weight"], t[f"{base}.affine.bias"])
        x = x * styles[:, :, None, None]
        if base.endswith("conv0"):
            x = filtered(F.conv_transpose2d(x, transposed[name], stride=2), 1)
        else:
            x = F.conv2d(x, t[name], padding=1)
        demodulation = torch.rsqrt(F.linear(styles**2, squares[name]) + 1e-8)
        x = torch.addcmul(
            t[f"{base}.noise_const"] * t[f"{base}.noise_strength"],
            x,
            demodulation[:, :, None, None],
        )
        x = F.leaky_relu_(x + t[f"{base}.bias"][:, None, None], 0.2)
        return x.mul_(_ROOT_2).clamp_(-256, 256)

    def images(z):
        w = z * torch.rsqrt((z**2).mean(1, keepdim=True) + 1e-8)
        for i in range(depth):
            w = F.linear(w, t[f"mapping.fc{i}.weight"], t[f"mapping.fc{i}.bias"] * 0.01)
            w = F.leaky_relu(w, 0.2) * _ROOT_2
        x = t["synthesis.b4.const"].expand(len(z), -1, 4, 4).contiguous(memory_format=layout)
        image = None
        for side in sides:
            base = f"synthesis.b{side}"
            if side > 4:
                x = styled(f"{base}.conv0", x, w)
            x = styled(f"{base}.conv1", x, w)
            styles = F.linear(w, t[f"{base}.torgb.affine.weight"], t[f"{base}.torgb.affine.bias"])
            rgb = F.conv2d(x * styles[:, :, None, None], t[f"{base}.torgb.weight"])
            rgb = (rgb + t[f"{base}.torgb.bias"][:, None, None]).clamp_(-256, 256)
            if image is not None:
                kernel = fir.expand(3, 1, 4, 4)
                image = F.conv_transpose2d(image, kernel, stride=2, padding=1, groups=3)
                rgb = rgb + image
            image = rgb
        return image

    return images
