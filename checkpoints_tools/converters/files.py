"""Finds the generator in a file: which part of it, and which settings lie around it."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from checkpoints_tools.converters.origin import Source
from lsh_gan import tensor_files
from lsh_gan.errors import choose
from lsh_gan.tensor_files import Standin

_DEEPEST = 4
_AVERAGES = frozenset(
    ("ema", "avg", "average", "averaged", "shadow", "running", "swa", "smoothed", "gs")
)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")  # of G_ema, avgG and netGEma
_HUGGING_FACE = ("pytorch_model.bin", "config.json")


class Found(NamedTuple):
    """A part of a file that is a generator.

    Attributes:
        prefix: Where it is in the file ("G_ema", "" for the whole file).
        source: What kind it is.
        state: Arrays by name, without the prefix.
        settings: What the objects around the arrays record, where names and shapes do not.
        others: Other parts of the file that are generators too.
    """

    prefix: str
    source: Source
    state: dict[str, np.ndarray]
    settings: dict[str, Any]
    others: tuple[str, ...] = ()


def tensor_file(path: str | Path) -> Path:
    """The file itself, or the tensor file of a Hugging Face folder.

    Raises:
        FileNotFoundError: Neither exists.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    if not (path / _HUGGING_FACE[0]).is_file():
        raise FileNotFoundError(f"{path}: a folder without {_HUGGING_FACE[0]}")
    return path / _HUGGING_FACE[0]


def find(path: str | Path, sources: Mapping[str, Source], source: str = "auto") -> Found:
    """Finds the generator in a file.

    Averaged weights (a wrapper with a word such as "ema" or "avg" in its name) are preferred, then
    the part that is wrapped the least.

    Args:
        path: The file, or a Hugging Face folder.
        sources: Known kinds.
        source: Key of `sources`, or "auto" for whichever matches.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Unknown kind; no generator of that kind; or a damaged file. The message says
            what the file looks like instead.
    """
    wanted = sources if source == "auto" else {source: choose("source", source, sources)}
    file = tensor_file(path)
    value = tensor_files.read(file)
    state = tensor_files.state_dict(value)
    if file.suffix == ".safetensors":
        # Sorted by size and name there; some kinds go by the order of their layers.
        state = dict(sorted(state.items(), key=_by_number))
    fits = (
        (prefix, kind, part)
        for prefix, part in _parts(state)
        for kind in wanted.values()
        if kind.matches(part)
    )
    taken = next(fits, None)
    if taken is not None:
        prefix, kind, part = taken
        others = _outermost([prefix, *(other for other, _, _ in fits)])[1:]
        return Found(prefix, kind, part, _settings(value, prefix, kind, file), others)
    raise ValueError(f"{file}: {_why_not(state, sources, source)}")


def _by_number(item: tuple[str, Any]) -> list[str | int]:
    parts = re.split(r"(\d+)", item[0])
    return [int(part) if part.isdecimal() else part for part in parts]


def _outermost(prefixes: list[str]) -> tuple[str, ...]:
    """The prefixes that lie in none before them."""
    kept: list[str] = []
    for prefix in prefixes:
        if not any(f"{prefix}.".startswith(f"{other}." if other else "") for other in kept):
            kept.append(prefix)
    return tuple(kept)


def _parts(state: dict[str, np.ndarray]) -> list[tuple[str, dict[str, np.ndarray]]]:
    """The state dict and its parts under each prefix, best candidates first."""
    groups: dict[str, dict[str, np.ndarray]] = {"": state}
    for name, array in state.items():
        words = name.split(".")
        for depth in range(1, min(len(words) - 1, _DEEPEST) + 1):
            prefix = ".".join(words[:depth])
            groups.setdefault(prefix, {})[".".join(words[depth:])] = array

    def rank(item: tuple[str, dict]) -> tuple[bool, int]:
        prefix = item[0]
        average = any(word.lower() in _AVERAGES for word in _WORD.findall(prefix))
        return not average, prefix.count(".") + bool(prefix)

    whole, *parts = groups.items()
    return [whole, *sorted(parts, key=rank)]


def _settings(value: Any, prefix: str, source: Source, file: Path) -> dict[str, Any]:
    """Values of `source.settings`, innermost object first, then `config` or `config.json`."""
    found: dict[str, Any] = {}
    holder = value
    for word in filter(None, prefix.split(".")):
        holder = holder.get(word) if isinstance(holder, dict) else None
    config = value.get("config") if isinstance(value, dict) else None
    beside = file.with_name(_HUGGING_FACE[1])
    if file.name == _HUGGING_FACE[0] and beside.is_file():
        config = _json(beside)
    for place in [*_nested(holder), *_nested(config)]:
        for name in source.settings:
            if name in place:
                found.setdefault(name, place[name])
    for name, setting in found.items():
        if not _is_plain(setting):
            kind = type(setting).__name__
            raise ValueError(f"{file}: the setting {name} is a {kind}; expected a plain value")
    return found


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error})") from error


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _nested(value: Any, depth: int = 0) -> list[dict]:
    """The dictionaries of plain settings in an object: attributes, constructor arguments, parts."""
    if depth > _DEEPEST:
        return []
    if isinstance(value, dict):
        return [value]
    if not isinstance(value, Standin):
        return []
    attributes = value.attributes
    places = [attributes, value.init_kwargs, value.kwargs, value.entries]
    for kwargs in value.init_kwargs.values():
        places += _nested(kwargs, depth + 1)
    modules = attributes.get("_modules")
    for part in modules.values() if isinstance(modules, dict) else ():
        places += _nested(part, depth + 1)
    return places


def _why_not(state: dict[str, np.ndarray], sources: Mapping[str, Source], source: str) -> str:
    if not state:
        return "holds no tensors"
    names = ", ".join(list(state)[:5])
    what = f"its {len(state)} tensors ({names}, ...) are of no known generator"
    if source != "auto":
        others = [k for k in sources if any(sources[k].matches(p) for _, p in _parts(state))]
        hint = f"; it looks like {others[0]!r}" if others else ""
        return f"not a generator of source {source!r}{hint}: {what}"
    if _looks_like_optimizer(state):
        what += "; it looks like an optimizer's state"
    elif _looks_like_discriminator(state):
        what += "; it looks like a discriminator"
    return f"{what}. Known sources: {', '.join(sources)}"


def _looks_like_optimizer(state: dict[str, np.ndarray]) -> bool:
    return any(name.endswith(("exp_avg", "exp_avg_sq", "momentum_buffer")) for name in state)


def _looks_like_discriminator(state: dict[str, np.ndarray]) -> bool:
    """Image channels in, and one number (or a map of one channel) out."""
    weights = [array for array in state.values() if array.ndim in (2, 4)]
    images_in = any(a.ndim == 4 and a.shape[1] in (1, 3) for a in weights)
    return images_in and any(a.shape[0] == 1 for a in weights)
