"""StyleGAN2 in layouts other than NVIDIA's for PyTorch: rosinality's, BasicSR's, genforce's, ...

All are first translated to the names and axes of `stylegan2`, whose plan converts them.
"""

import re
from functools import partial, reduce

import numpy as np

from checkpoints_tools.converters import stylegan2
from checkpoints_tools.converters.origin import (
    Origin,
    Plan,
    Source,
    check_filters,
    drawn_noise,
    has,
    numbers,
    take,
    usual,
)

_ROOT_2 = 2**0.5


def _translated(state, settings: dict, table: dict[str, Origin], ignored: str = r"(?!)") -> Plan:
    """Makes the plan of `stylegan2` for a state dict; `table` has tensors by NVIDIA's names."""
    view = {name: o.function(*(state[n] for n in o.names)) for name, o in table.items()}
    plan = stylegan2.SOURCE.plan(view, settings)

    def origin(path: str) -> Origin:
        (name,), function = plan.origin(path)
        names, translate = table[name]
        return Origin(names, lambda *arrays: function(translate(*arrays)))

    return Plan(plan.family, plan.options, origin, ignored)


# --- rosinality/stylegan2-pytorch ---------------------------------------------------------------


def _scaled(weight: np.ndarray) -> np.ndarray:
    """Scales a weight by its gain, as before demodulation, which adds epsilon to its square."""
    return weight[0] * np.float32(weight[0, 0].size ** -0.5)


def _rosinality_layer(base: str, ours: str, noise: Origin | None) -> dict[str, Origin]:
    table = {
        f"{ours}.affine.weight": take(f"{base}.conv.modulation.weight"),
        f"{ours}.affine.bias": take(f"{base}.conv.modulation.bias"),
    }
    if noise is None:
        return table | {
            f"{ours}.weight": take(f"{base}.conv.weight", lambda w: w[0]),
            f"{ours}.bias": take(f"{base}.bias", np.ravel),
        }
    return table | {
        f"{ours}.weight": take(f"{base}.conv.weight", _scaled),
        f"{ours}.bias": take(f"{base}.activate.bias"),
        f"{ours}.noise_strength": take(f"{base}.noise.weight", lambda w: w.reshape(())),
        f"{ours}.noise_const": noise,
    }


def _mean_of_w(count: int, rate: float):
    """Returns a function for the mean of w over `count` latents, if the file stores none."""

    def mean(*layers: np.ndarray) -> np.ndarray:
        x = np.random.default_rng(0).normal(size=(count, layers[0].shape[1]))
        x /= np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-8)
        for weight, bias in zip(layers[::2], layers[1::2], strict=True):
            x = x @ weight.T * (rate / weight.shape[1] ** 0.5) + bias * rate
            x = np.where(x > 0, x, 0.2 * x) * _ROOT_2
        return x.mean(axis=0)

    return mean


def _plan_rosinality(state, settings) -> Plan:
    filters = r"(convs\.\d+\.conv\.blur|to_rgbs\.\d+\.upsample)\.kernel"
    check_filters(state, filters, gain=4)  # the gain of doubling the side
    depth = len(numbers(state, r"style\.(\d+)\.weight"))
    style = [f"style.{i + 1}.{leaf}" for i in range(depth) for leaf in ("weight", "bias")]
    ours = [f"mapping.fc{i}.{leaf}" for i in range(depth) for leaf in ("weight", "bias")]
    table = {name: take(original) for name, original in zip(ours, style, strict=True)}
    if "latent_avg" in state:  # one row, or equal rows, one per layer (pSp, e4e)
        size = state["style.1.weight"].shape[1]
        table["mapping.w_avg"] = take("latent_avg", lambda w: w.reshape(-1, size)[0])
    else:
        mean = _mean_of_w(settings["truncation_mean"], settings["lr_mlp"])
        table["mapping.w_avg"] = Origin(tuple(style), mean)
    table["synthesis.b4.const"] = take("input.input", lambda c: c[0])

    def noise(layer: int) -> Origin:
        if f"noises.noise_{layer}" in state:
            return take(f"noises.noise_{layer}", lambda n: n[0, 0])
        return drawn_noise(settings["noise_seed"], layer, 4 * 2 ** ((layer + 1) // 2))

    table |= _rosinality_layer("conv1", "synthesis.b4.conv1", noise(0))
    table |= _rosinality_layer("to_rgb1", "synthesis.b4.torgb", None)
    for i in numbers(state, r"to_rgbs\.(\d+)\.bias"):
        block = f"synthesis.b{8 * 2**i}"
        for j in (0, 1):
            layer = 2 * i + j
            table |= _rosinality_layer(f"convs.{layer}", f"{block}.conv{j}", noise(layer + 1))
        table |= _rosinality_layer(f"to_rgbs.{i}", f"{block}.torgb", None)
    inner = {"conv_clamp": None, "lr_multiplier": settings["lr_mlp"]}
    return _translated(state, inner, table, r".*\.kernel")


def _settings_rosinality(state) -> dict:
    settings = {"lr_mlp": stylegan2.MAPPING_LEARNING_RATE, "slope": 0.2}
    if "latent_avg" not in state:
        settings["truncation_mean"] = 4096
    if "noises.noise_0" not in state:
        settings["noise_seed"] = 0
    return settings


# --- BasicSR, MMGeneration: rosinality's network by other names ----------------------------------

Rules = tuple[tuple[str, str], ...]
_BASICSR: Rules = (
    (r"^style_mlp\.", "style."),
    (r"^constant_input\.weight$", "input.input"),
    (r"^style_(conv1|convs\.\d+)\.weight$", r"\1.noise.weight"),
    (r"^style_conv", "conv"),
    (r"\.modulated_conv\.", ".conv."),
    (r"^noises\.noise", "noises.noise_"),
)
_MMGENERATION: Rules = (
    (r"^style_mapping\.", "style."),
    (r"^constant_input\.", "input."),
    (r"\.style_modulation\.", ".modulation."),
    (r"(\.linear)?\.weight_orig$", ".weight"),
    (r"\.noise_injector\.", ".noise."),
    (r"^injected_noise_", "noises.noise_"),
)


def _names(state, rules: Rules) -> dict[str, str]:
    """Maps rosinality's names to the names of the tensors."""
    return {reduce(lambda n, rule: re.sub(*rule, n), rules, name): name for name in state}


def _plan_renamed(state, settings, rules: Rules) -> Plan:
    names = _names(state, rules)
    plan = _plan_rosinality({other: state[name] for other, name in names.items()}, settings)

    def origin(path: str) -> Origin:
        theirs, function = plan.origin(path)
        turn = settings.get("bgr") and re.fullmatch(r"params/to_image_\d+/(kernel|bias)", path)
        lay_out = (lambda *arrays: function(*arrays)[..., ::-1]) if turn else function
        return Origin(tuple(names[name] for name in theirs), lay_out)

    return plan._replace(origin=origin)


# --- TensorFlow ---------------------------------------------------------------------------------


def _tensorflow_layer(base: str, ours: str, noise: str | None, *, up: bool) -> dict[str, Origin]:
    order = -1 if up else 1  # convolutions that double the side have flipped kernels
    table = {
        f"{ours}.weight": take(
            f"{base}/weight", lambda w: w[::order, ::order].transpose(3, 2, 0, 1)
        ),
        f"{ours}.bias": take(f"{base}/bias"),
        f"{ours}.affine.weight": take(f"{base}/mod_weight", np.transpose),
        f"{ours}.affine.bias": take(f"{base}/mod_bias", lambda b: b + 1),
    }
    if noise is None:
        return table
    return table | {
        f"{ours}.noise_strength": take(f"{base}/noise_strength", lambda s: s.reshape(())),
        f"{ours}.noise_const": take(f"synthesis.{noise}", lambda n: n[0, 0]),
    }


def _plan_tensorflow(state, settings) -> Plan:
    depth = len(numbers(state, r"mapping\.Dense(\d+)/weight"))
    table = {"mapping.w_avg": take("dlatent_avg")}
    layers = [(f"mapping.fc{i}", f"mapping.Dense{i}") for i in range(depth)]
    if "mapping.LabelEmbed/weight" in state:
        layers.append(("mapping.embed", "mapping.LabelEmbed"))
    for ours, base in layers:
        table[f"{ours}.weight"] = take(f"{base}/weight", np.transpose)
        table[f"{ours}.bias"] = take(f"{base}/bias")
    table["synthesis.b4.const"] = take("synthesis.4x4/Const/const", lambda c: c[0])
    for i, side in enumerate(numbers(state, r"synthesis\.(\d+)x\d+/")):
        base, ours = f"synthesis.{side}x{side}", f"synthesis.b{side}"
        if i == 0:
            table |= _tensorflow_layer(f"{base}/Conv", f"{ours}.conv1", "noise0", up=False)
        else:
            first, second = f"noise{2 * i - 1}", f"noise{2 * i}"
            table |= _tensorflow_layer(f"{base}/Conv0_up", f"{ours}.conv0", first, up=True)
            table |= _tensorflow_layer(f"{base}/Conv1", f"{ours}.conv1", second, up=False)
        if f"{base}/ToRGB/weight" in state:
            table |= _tensorflow_layer(f"{base}/ToRGB", f"{ours}.torgb", None, up=False)
    inner = {"conv_clamp": settings["conv_clamp"], "lr_multiplier": settings["mapping_lrmul"]}
    return _translated(state, inner, table, r"(synthesis\.)?lod|(.*/)?lod")


# --- genforce: the variables of TensorFlow with the axes of PyTorch -------------------------------


def _genforce_layer(base: str, ours: str, *, up: bool, image: bool) -> dict[str, Origin]:
    def lay_out(weight: np.ndarray) -> np.ndarray:
        scaled = weight if image else weight * np.float32(weight[0].size ** -0.5)
        return scaled[..., ::-1, ::-1] if up else scaled

    table = {
        f"{ours}.weight": take(f"{base}.weight", lay_out),
        f"{ours}.bias": take(f"{base}.bias"),
        f"{ours}.affine.weight": take(f"{base}.style.weight"),
        f"{ours}.affine.bias": take(f"{base}.style.bias", lambda b: b + 1),
    }
    if image:
        return table
    return table | {
        f"{ours}.noise_strength": take(f"{base}.noise_strength"),
        f"{ours}.noise_const": take(f"{base}.noise", lambda n: n[0, 0]),
    }


def _plan_genforce(state, settings) -> Plan:
    check_filters(state, r".*\.kernel", gain=4)
    table = {
        "mapping.w_avg": take("truncation.w_avg"),
        "synthesis.b4.const": take("synthesis.early_layer.const", lambda c: c[0]),
    }
    for i in numbers(state, r"mapping\.dense(\d+)\.weight"):
        for leaf in ("weight", "bias"):
            table[f"mapping.fc{i}.{leaf}"] = take(f"mapping.dense{i}.{leaf}")
    for i in numbers(state, r"synthesis\.layer(\d+)\.weight"):
        up = i % 2
        ours = f"synthesis.b{4 * 2 ** ((i + 1) // 2)}.conv{1 - up}"
        table |= _genforce_layer(f"synthesis.layer{i}", ours, up=bool(up), image=False)
    for i in numbers(state, r"synthesis\.output(\d+)\.weight"):
        ours = f"synthesis.b{4 * 2**i}.torgb"
        table |= _genforce_layer(f"synthesis.output{i}", ours, up=False, image=True)
    inner = {"conv_clamp": None, "lr_multiplier": settings["mapping_lr_mul"]}
    return _translated(state, inner, table, r".*\.kernel")


ROSINALITY = Source(
    "stylegan2_rosinality",
    "StyleGAN2 (rosinality/stylegan2-pytorch)",
    has(r"style\.1\.weight", r"input\.input", r"convs\.0\.conv\.modulation\.weight"),
    _plan_rosinality,
    settings=_settings_rosinality,
    only=("slope",),
    beside=("latent_avg",),
)
BASICSR = Source(
    "stylegan2_basicsr",
    "StyleGAN2 (BasicSR)",
    has(r"style_mlp\.1\.weight", r"constant_input\.weight", r"style_convs\.0\.activate\.bias"),
    partial(_plan_renamed, rules=_BASICSR),
    settings=lambda state: _settings_rosinality(_names(state, _BASICSR)),
    only=("slope",),
    beside=("latent_avg",),
)
MMGENERATION = Source(
    "stylegan2_mmgeneration",
    "StyleGAN2 (MMGeneration, MMagic)",
    has(r"style_mapping\.1\.bias", r"constant_input\.input", r"convs\.0\.noise_injector\.weight"),
    partial(_plan_renamed, rules=_MMGENERATION),
    settings=lambda state: _settings_rosinality(_names(state, _MMGENERATION)) | {"bgr": True},
    only=("slope",),
)
GENFORCE = Source(
    "stylegan2_genforce",
    "StyleGAN2 (genforce, SeFa)",
    has(r"truncation\.w_avg", r"synthesis\.early_layer\.const", r"synthesis\.layer0\.style\.bias"),
    _plan_genforce,
    settings=usual(mapping_lr_mul=stylegan2.MAPPING_LEARNING_RATE, slope=0.2),
    only=("slope",),
)
TENSORFLOW = Source(
    "stylegan2_tf",
    "StyleGAN2 (TensorFlow pickles of NVlabs/stylegan2 and stylegan2-ada)",
    has(r"dlatent_avg", r"mapping\.Dense0/weight", r"synthesis\.4x4/Conv/mod_weight"),
    _plan_tensorflow,
    settings=usual(
        conv_clamp=None,
        mapping_lrmul=stylegan2.MAPPING_LEARNING_RATE,
        nonlinearity="lrelu",
        mapping_nonlinearity="lrelu",
        resample_kernel=[1, 3, 3, 1],
        use_noise=True,
        normalize_latents=True,
    ),
    only=(
        "nonlinearity", "mapping_nonlinearity", "resample_kernel", "use_noise", "normalize_latents"
    ),
)  # fmt: skip
