"""Finds the generator in a file: which part it is, and which settings are stored beside it."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import accumulate, pairwise, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from checkpoints_tools.converters import modules
from checkpoints_tools.converters.origin import Part, Source, has, is_counter
from lsh_gan import tensor_files
from lsh_gan.errors import choose, few, nearest
from lsh_gan.generators.checkpoints import METADATA_FILE
from lsh_gan.tensor_files import Standin

_DEEPEST = 4
_AVERAGES = {
    "ema",
    "avg",
    "average",
    "averaged",
    "shadow",
    "running",
    "swa",
    "smooth",
    "smoothed",
    "gs",
}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")  # words of G_ema, avgG and netGEma
# Names of the file with the tensors of a folder; the first one that exists is used.
_TENSOR_FILES = (
    "pytorch_model.bin", "model.safetensors", "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
)  # fmt: skip
_ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".pkl", ".ckpt", ".tar", ".npz")
# Words in the names of other entries beside a generator in the file of a training run.
_OTHER_NETWORKS = {
    "d", "dis", "disc", "discriminator", "critic", "q", "classifier", "optim", "optimizer",
    "optimizers", "opt", "sched", "scheduler", "scaler", "loss", "losses", "criterion", "lpips",
    "vgg", "inception", "perceptual", "augment", "augmentation", "metric", "metrics", "fid", "kid",
}  # fmt: skip
# Words in the names of tensors that a training run keeps in a network, and images do not need.
_INPUTS = {"noise", "latent", "latents", "z"}
_SCALARS = {
    "loss", "step", "steps", "iter", "iteration", "epoch", "fid", "lr", "score", "initted",
}  # fmt: skip
# Known generators that are not supported -> patterns of names that only their files have.
NOT_BUILT: dict[str, tuple[str, ...]] = {
    "a part of lucidrains/stylegan2-pytorch without its mapping network S": (
        r"(.*\.)?blocks\.0\.to_noise1\.weight",
    ),
    "lucidrains/lightweight-gan": (r"G?\.?initial_conv\.0\.weight", r"G?\.?out_conv\.weight"),
    "a StyleGAN of genforce": (r"truncation\.w_avg",),  # the first, and those with classes
    "pytorch.sngan_projection": (r"block2\.c_sc\.weight(_orig)?", r"conv\d\.weight(_orig)?"),
    "TransGAN": (r"pos_embed_1", r"blocks\.0\.attn\.qkv\.weight"),
    "a BigGAN-deep of PyTorch-StudioGAN": (r"linear0\.weight(_orig)?", r".*conv2d4\.bias"),
    "StyleGAN (the first) in TensorFlow": (r"synthesis\.4x4/Const/StyleMod/weight",),
    "Progressive GAN in TensorFlow": (r"4x4/Dense/weight",),
    "StyleGAN (the first) of rosinality": (r"generator\.progression\.0\.conv1\.0\.weight(_orig)?",),
    "a diffusion model (diffusers)": (r"time_embedding\.linear_1\.weight", r"conv_in\.weight"),
    "a diffusion model (guided-diffusion)": (
        r"time_embed\.0\.weight",
        r"input_blocks\.0\.0\.weight",
    ),
}
_PARAMETERS = {"weight", "bias", "weight_orig", "weight_g"}
_LAYER_TENSORS = re.compile(r"(.*\.)?(weight\w*|bias|running_mean)")
_BUFFERS = re.compile(
    r"(.*\.)?(running_\w+|num_batches_tracked|weight_[uv]|s?[uv]\d|stored_\w+|noise_const|noise_\d+"
    r"|resample_filter|(up|down)_filter|w_avg|magnitude_ema|transform|freqs|phases|[kK]ernel)"
)
_PARAMETRIZED = re.compile(r"\.parametrizations\.(\w+)\.(original[01]?|0\._[uv])$")
_OLDER = {"original": "orig", "original0": "g", "original1": "v", "0._u": "u", "0._v": "v"}


class Found(NamedTuple):
    """A part of a file that is a generator."""

    prefix: str  # where it is in the file ("G_ema", "" for the whole file)
    source: Source  # what kind it is
    state: Part  # arrays by name, without the prefix
    settings: dict[str, Any]  # settings that the objects around the arrays record
    others: tuple[str, ...]  # other parts of the file that are generators too
    left_out: tuple[str, ...]  # other contents of the file, by the first words of their names


def tensor_file(path: str | Path) -> Path:
    """Returns the file itself, or the tensor file of a folder.

    Raises:
        FileNotFoundError: Neither exists, or the folder has several; the message says which.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    names = sorted(file.name for file in path.iterdir() if file.is_file())
    if any(name.endswith(".index.json") for name in names):
        raise FileNotFoundError(f"{path}: its tensors lie in several files; save them as one")
    usual = [name for name in _TENSOR_FILES if name in names]
    others = [name for name in names if name.lower().endswith(_ENDINGS)]
    if usual or len(others) == 1:
        return path / (usual or others)[0]
    if len(others) > 1:
        raise FileNotFoundError(
            f"{path}: a folder with {len(others)} tensor files ({', '.join(others[:9])}); give one "
            "of them"
        )
    if METADATA_FILE in names:
        raise FileNotFoundError(
            f"{path}: a converted generator; checkpoints_tools.verify checks it"
        )
    what = "a TensorFlow SavedModel; " if "saved_model.pb" in names else "a folder "
    raise FileNotFoundError(
        f"{path}: {what}without a tensor file ({', '.join(_TENSOR_FILES[:2])}, or one that ends in "
        f"{', '.join(_ENDINGS)})"
    )


def find(
    path: str | Path, sources: Mapping[str, Source], source: str = "auto", part: str | None = None
) -> Found:
    """Finds the generator in a file.

    Averaged weights (a wrapper with a word such as "ema" or "avg" in its name) are preferred, then
    the part that is wrapped the least.

    Args:
        path: The file, or a folder with one.
        sources: Known kinds.
        source: Key of `sources`, or "auto" for the first that matches.
        part: Where in the file the generator is, whatever is beside it; None searches for it.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Unknown kind; no generator of that kind; a generator whose input may be the
            output of other layers; or a damaged file. The message says what the file looks like.
    """
    wanted = sources if source == "auto" else {source: choose("source", source, sources)}
    file = tensor_file(path)
    value = tensor_files.read(file)
    state = older_names(tensor_files.state_dict(value))
    if any(name.startswith("params/") for name in state):
        raise ValueError(f"{file}: parameters of Flax; generators.load reads a packed generator")
    with file.open("rb") as stream:
        start = stream.read(9)
    # A safetensors file sorts by size and name, but some kinds depend on the order of layers.
    sorts = start[8:] == b"{"
    state = _name_averages(_in_order(state) if sorts else state, lists=not sorts)
    parts = _parts(state, value)
    if part is not None:
        if part not in dict(parts):
            hint = nearest(part, dict(parts))
            raise ValueError(f"{file}: has no part {part!r}; did you mean {hint!r}?")
        parts = [(part, dict(parts)[part])]

    def fits(kinds: list[Source], parts: list) -> list[tuple[str, Source, Part]]:
        return [(k, kind, part) for k, part in parts for kind in kinds if kind.matches(part)]

    # Kinds known by names are first: the kind known by shapes alone may match an outer part.
    by_shape = [kind for kind in wanted.values() if kind.name == "dcgan"]
    by_name = [kind for kind in wanted.values() if kind not in by_shape]
    taken = fits(by_name, parts) or fits(by_shape, parts)
    if not taken and not sorts:  # norms may be listed after all other layers
        numbered = [(k, p) for k, p in _parts(_in_order(state), value) if part in (None, k)]
        taken = fits(by_shape, numbered)
    if not taken:
        said = _why_not(state if part is None else parts[0][1], parts, sources, source)
        order = ". Safetensors files lose the order of layers, torch.save keeps it" if sorts else ""
        raise ValueError(f"{file}: {said}{order}")
    prefix, kind, found = taken[0]
    try:
        others = _outermost([other for other, _, _ in taken])[1:]
        if part is None:
            _refuse_layers_before(value, prefix, parts, others)
        settings = _settings(value, found, kind, file)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    inner = f"{prefix}." if prefix else ""
    outside = [name for name in state if not name.startswith(inner)]
    for name in kind.beside:
        if name in outside:
            found[name] = state[name]
            outside.remove(name)
    elsewhere = tuple(f"{other}." if other else "" for other in others)
    apart = [name for name in outside if not name.startswith(elsewhere)]
    return Found(prefix, kind, found, settings, others, tuple(_counted(apart, prefix)))


def _counted(names: list[str], prefix: str) -> Iterator[str]:
    """Summarises names outside a part, up to the first word that differs from its prefix."""
    groups: Counter[str] = Counter()
    taken = prefix.split(".")
    for name in names:
        words = name.split(".")
        same = sum(1 for _ in takewhile(lambda p: p[0] == p[1], zip(words, taken, strict=False)))
        groups[".".join(words[: same + 1])] += 1
    for name, count in groups.items():
        yield name if count == 1 else f"{name} ({count} tensors)"


def _refuse_layers_before(value: Any, prefix: str, parts: list, others: tuple[str, ...]) -> None:
    """Refuses a part with layers beside it, because its input may be the output of these."""
    by_name = dict(parts)
    words = prefix.split(".") if prefix else []
    for depth, word in enumerate(words):
        parent = ".".join(words[:depth])
        if parent in others:  # the network whose averages these are
            continue
        inner = f"{parent}." if parent else ""
        one_network = _is_state_dict(modules.part(value, parent))
        groups: dict[str, dict] = {}
        for name, array in by_name[parent].items():
            first, _, rest = name.partition(".")
            groups.setdefault(first, {})[rest] = array
        beside = [
            name
            for name, tensors in groups.items()
            if name != word
            and not any(f"{other}.".startswith(f"{inner}{name}.") for other in others)
            and not _is_another_network(name, tensors, one_network)
        ]
        if beside:
            listed = ", ".join(f"{inner}{name}" for name in beside[:5])
            raise ValueError(
                f"{prefix!r} looks like a generator, but {listed} lie{'s' * (len(beside) == 1)} "
                f"beside it: its input may be what other layers give, not the latent; "
                f"--part={prefix} takes it as it is"
            )


def _is_state_dict(value: Any) -> bool:
    """Whether the entries are parts of one network: a module, or names with dots."""
    if modules.is_module(value):
        return True
    return isinstance(value, dict) and any(
        isinstance(array, np.ndarray) and "." in str(name) for name, array in value.items()
    )


def _is_another_network(name: str, tensors: dict[str, np.ndarray], one_network: bool) -> bool:
    """Whether an entry has no effect on a generator beside it."""
    words = {word.lower() for word in _WORD.findall(name)}
    if words & _OTHER_NETWORKS or _looks_like_optimizer(tensors):
        return True
    if set(tensors) == {""}:  # a tensor without a module
        array = tensors[""]
        kept = words & (_INPUTS if array.ndim >= 2 else _SCALARS)
        return not one_network or is_counter(array) or bool(kept)
    inputs, outputs = _ends(tensors)
    discriminator = inputs and outputs == 1
    return bool(discriminator) or not any(map(_LAYER_TENSORS.fullmatch, tensors))


def _in_order(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Orders tensors by the numbers in names, for files without order or with norms listed last.

    At each level of names, dense layers come before convolutions, except in a `Sequential`, whose
    numbers tell. A norm follows the layer of its number (bn1 follows conv1) if only one has it.
    """

    def prefixes(name: str) -> list[str]:
        return ["", *accumulate(name.split("."), "{}.{}".format)]

    ranks: dict[str, set[int]] = {}
    for name, array in state.items():
        for prefix in prefixes(name):
            ranks.setdefault(prefix, set()).add(array.ndim)

    def split(prefix: str) -> list[Any]:
        parts = re.split(r"(\d+)", prefix.rpartition(".")[2])
        return [int(part) if part.isdecimal() else part for part in parts]

    def number(prefix: str) -> tuple:
        return prefix.rpartition(".")[0], *split(prefix)[1::2]

    weighted: dict[tuple, list[str]] = {}  # layers with weights, by the numbers in their names
    for prefix, found in ranks.items():
        if found & {2, 4}:
            weighted.setdefault(number(prefix), []).append(prefix)

    def place(name: str) -> list[tuple]:
        found = []
        for outer, prefix in pairwise(prefixes(name)):
            norm = ranks[prefix] - {0} == {1} and prefix != name  # vectors, and perhaps a counter
            layers = weighted.get(number(prefix), []) if norm else []
            layer = layers[0] if len(layers) == 1 else prefix
            listed = layer.rpartition(".")[2].isdecimal()  # in a Sequential, whose order is known
            dense_of_both = not listed and 4 in ranks[outer] and ranks[layer] & {2, 4} == {2}
            found.append((not dense_of_both, split(layer) + ["norm"] * (layer != prefix)))
        return found

    return {name: state[name] for name in sorted(state, key=place)}


def _outermost(prefixes: list[str]) -> tuple[str, ...]:
    """Returns the prefixes that are not inside an earlier one."""
    kept: list[str] = []
    for prefix in prefixes:
        if not any(f"{prefix}.".startswith(f"{other}." if other else "") for other in kept):
            kept.append(prefix)
    return tuple(kept)


def older_names(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames tensors of spectral and weight norms as before torch 2.

    Weights with a mask of `torch.nn.utils.prune` are multiplied by it.
    """
    named = {
        _PARAMETRIZED.sub(lambda m: f".{m[1]}_{_OLDER[m[2]]}", name): array
        for name, array in state.items()
    }
    masks = {n.removesuffix("_mask"): a for n, a in named.items() if n.endswith("_mask")}
    pruned = {f"{base}_orig": base for base in masks if f"{base}_orig" in named}
    return {
        pruned.get(name, name): array * masks[pruned[name]] if name in pruned else array
        for name, array in named.items()
        if name.removesuffix("_mask") not in pruned.values()
    }


def _is_average(name: str) -> bool:
    words = {word.lower() for word in _WORD.findall(name)}
    # The package ema_pytorch stores weights and averages: ema.online_model and ema.ema_model.
    return bool(words & _AVERAGES) and "online" not in words


def _name_averages(state: dict[str, np.ndarray], lists: bool) -> dict[str, np.ndarray]:
    """Renames averages as the parameters of their network, if they have other names.

    FastGAN's files and torch_ema have a list of averages; `LitEma` has names without dots, and two
    numbers besides.
    """
    averages = {k: part for k, part in _groups(state).items() if _is_average(k)}
    outer = tuple(f"{prefix}." for prefix in averages)
    networks = _groups({n: array for n, array in state.items() if not n.startswith(outer)})
    names: dict[str, str | None] = {}
    for prefix, average in averages.items():
        is_list = lists and all(map(str.isdecimal, average))
        for network in [part for k, part in networks.items() if k] + [networks[""]]:
            parameters = [name for name in network if not _BUFFERS.fullmatch(name)]
            own = list(average) if is_list else [name.replace(".", "") for name in parameters]
            shapes = [average[name].shape if name in average else None for name in own]
            if own != parameters and shapes == [network[name].shape for name in parameters]:
                pairs = zip(own, parameters, strict=True)
                names |= {f"{prefix}.{one}": f"{prefix}.{name}" for one, name in pairs}
                names |= {f"{prefix}.{word}": None for word in ("decay", "num_updates")}
                break
    return {
        new: array for name, array in state.items() if (new := names.get(name, name)) is not None
    }


def _groups(state: dict[str, np.ndarray]) -> dict[str, Part]:
    """Returns the state dict and its parts, by prefix."""
    groups: dict[str, Part] = {"": Part(state)}
    for name, array in state.items():
        words = name.split(".")
        for depth in range(1, min(len(words) - 1, _DEEPEST) + 1):
            prefix = ".".join(words[:depth])
            groups.setdefault(prefix, Part())[".".join(words[depth:])] = array
    return groups


def _parts(state: dict[str, np.ndarray], value: Any) -> list[tuple[str, Part]]:
    """Returns the state dict and its parts, by prefix, with the best candidates first."""
    groups = _groups(state)
    for prefix, found in groups.items():
        found.prefix, found.module = prefix, modules.part(value, prefix)

    def name(module: Any) -> Any:  # recorded by networks of TensorFlow: Gs
        return module.attributes.get("name") if isinstance(module, Standin) else None

    averages = {k for k, found in groups.items() if _is_average(f"{k} {name(found.module)}")}
    outer = tuple(f"{prefix}." for prefix in averages)
    networks = _groups({n: array for n, array in state.items() if not n.startswith(outer)})
    for prefix in averages:
        _take_buffers(groups[prefix], networks)

    def rank(item: tuple[str, Part]) -> tuple[bool, bool, int]:
        prefix, found = item
        depth = prefix.count(".") + bool(prefix)
        return prefix not in averages, found.buffers_of is None, depth

    return sorted(groups.items(), key=rank)


def _take_buffers(average: Part, others: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Adds the buffers of the averaged network to averages of its parameters.

    The usual class `EMA` keeps no statistics of norms, because it copies averages to the network.
    """
    shapes = {name: array.shape for name, array in average.items()}
    wrapped = {k: {f"module.{n}": a for n, a in other.items()} for k, other in others.items()}
    for prefix, other in [*others.items(), *wrapped.items()]:
        beyond = {name.rpartition(".")[2] for name in other.keys() - shapes.keys()}
        of_it = shapes == {name: a.shape for name, a in other.items() if name in shapes}
        if of_it and beyond and not beyond & _PARAMETERS:
            own = dict(average)
            average.clear()  # to get the order of the network, on which some kinds depend
            average.update({name: own.get(name, array) for name, array in other.items()})
            average.buffers_of = prefix
            return


def _settings(value: Any, state: Part, source: Source, file: Path) -> dict[str, Any]:
    """Finds recorded settings of the source: in the object of the part, or else in `config`.

    Outer objects have priority. `config` is in the file, or beside it as config.json.
    """
    usual = source.settings(state)
    found: dict[str, Any] = {}
    config = value.get("config") if isinstance(value, dict) else None
    beside = file.with_name("config.json")
    if file.name in _TENSOR_FILES and beside.is_file():
        config = json.loads(beside.read_text())
    for place in [*_nested(state.module), *_nested(config)]:
        for name in usual:
            if name in place:
                found.setdefault(name, place[name])
    if modules.is_module(state.module) and "slope" in usual and "order" not in usual:
        found |= modules.common_settings(state.module, usual)
    for name, setting in found.items():
        if not _is_plain(setting):
            kind = type(setting).__name__
            raise ValueError(f"the setting {name} is a {kind}; expected a plain value")
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _nested(value: Any, depth: int = 0) -> list[dict]:
    """Lists the dicts of plain settings in an object: attributes, constructor arguments, parts."""
    if depth > _DEEPEST:
        return []
    if isinstance(value, dict):
        return [value]
    if not isinstance(value, Standin):
        return []
    attributes = value.attributes
    places = [attributes, value.init_kwargs, value.kwargs, value.entries]
    inner = (attributes.get("static_kwargs"), attributes.get("config"), *value.init_kwargs.values())
    for kwargs in inner:
        places += _nested(kwargs, depth + 1)
    modules = attributes.get("_modules")
    for part in modules.values() if isinstance(modules, dict) else ():
        places += _nested(part, depth + 1)
    return places


def _why_not(state: dict, parts: list, sources: Mapping[str, Source], source: str) -> str:
    if not state:
        return "holds no tensors"
    what = f"its {len(state)} tensors ({few(state)}) are of no known generator"
    others = "any torch module comes in by Generator.from_torch (docs/any-generator.md)"
    known = f"Known sources: {', '.join(sources)}; {others}"
    if source != "auto":
        fitting = [k for k in sources if any(sources[k].matches(part) for _, part in parts)]
        hint = f"; it looks like {fitting[0]!r}" if fitting else ""
        return f"not a generator of source {source!r}{hint}: {what}"
    for title, patterns in NOT_BUILT.items():
        if any(has(*patterns)(part) for _, part in parts):
            return f"{title} is not supported: {what}. {known}"
    if _looks_like_optimizer(state) and not any(map(_LAYER_TENSORS.fullmatch, state)):
        what += "; it looks like an optimizer's state"
    elif _ends(state)[0]:
        what += "; its first layer takes images, not a latent (a discriminator, an encoder?)"
    return f"{what}. {known}"


def _looks_like_optimizer(state: dict[str, np.ndarray]) -> bool:
    return any(name.endswith(("exp_avg", "exp_avg_sq", "momentum_buffer")) for name in state)


def _ends(state: dict[str, np.ndarray]) -> tuple[int, int]:
    """Returns input channels of the first layer (0: no image), and outputs of the last layer."""
    weights = [
        array for name, array in state.items()
        if array.ndim in (2, 4) and _LAYER_TENSORS.fullmatch(name)
    ]  # fmt: skip
    if len(weights) < 2:
        return 0, 0
    first = weights[0].shape[1] if weights[0].ndim == 4 else 0
    return first if first in (1, 3) else 0, weights[-1].shape[0]
