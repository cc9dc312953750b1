"""Checks a configuration before any heavy work, and lists the compression settings in it."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

import jax
import ml_collections

from lsh_gan import datasets, features
from lsh_gan.compression import METHODS, CompressionSpec, GeneratorSpec, Rule
from lsh_gan.compression.rules import MAX_BITS
from lsh_gan.datasets import Source
from lsh_gan.errors import check_int, choose, nearest
from lsh_gan.experiment.evaluators import EVALUATORS, Shape, hash_spec
from lsh_gan.generators import Generator
from lsh_gan.metrics.inputs import MAX_DIGITS, check_options
from lsh_gan.results.labels import DISTANCES

UNCOMPRESSED = GeneratorSpec(weights=CompressionSpec(bits=None))


def resolve(config: ml_collections.ConfigDict) -> ml_collections.FrozenConfigDict:
    """Checks every field that can be checked without reading a file; returns a frozen copy.

    Names with commas are split. A ValueError names the field, the value and the nearest valid one.
    """
    config = config.copy_and_resolve_references()
    _split_lists(config)
    _check_numbers(config)
    here, network = jax.local_device_count(), config.features.name
    for fields in (config, config.features):
        fields.batch_size = -(-fields.batch_size // here) * here
    for metric in config.metrics:
        choose("metrics: metric", metric, EVALUATORS)
    if features.own(network, again=True) is None:
        known = {**features.FEATURES, features.GIVEN: None}
        choose("features.name: feature network", network, known)
        if network != features.GIVEN:
            with _named("features."):
                features.check_side(network, config.features.side)
    for check in (_subjects, _references, _compressions, _searches):
        for message in check(config):
            raise ValueError(message)
    _check_hash(config)
    if config.reference.num_images and not config.reference.sketch:
        check_min_count(config, config.reference.num_images)
    return ml_collections.FrozenConfigDict(config)


@contextmanager
def _named(prefix: str) -> Iterator[None]:
    """Adds the prefix to errors inside the context, so that they name the field."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{prefix}{error}") from error


# Checks of several fields together: each function yields messages for invalid ones.


def _subjects(config: Any) -> Iterator[str]:
    if not (config.generators or config.samples):
        yield "generators and samples are both empty; expected something to judge"
    if not 0 <= config.truncation_psi <= 1:
        yield f"truncation_psi = {config.truncation_psi}; expected 0 to 1"
    if not 0 < config.keep <= 1:
        yield f"keep = {config.keep}; expected a share above 0, at most 1"
    given = config.reference.features or config.reference.sketch
    if config.features.name == features.GIVEN and (config.generators or not given):
        yield (
            f"features.name = {features.GIVEN}: there is no network to embed images with; expected "
            "no generators, and reference.features or reference.sketch with samples of features"
        )


def _references(config: Any) -> Iterator[str]:
    fields = config.reference
    if fields.on_error not in ("fail", "skip"):
        yield f"reference.on_error = {fields.on_error!r}; expected 'fail' or 'skip'"
    kinds = ("sketch", "samples_of", "features", "images")
    given = [kind for kind in kinds if fields[kind]]
    if not given:
        yield (
            "reference.images, reference.features, reference.samples_of, reference.sketch are all "
            "empty; expected one of them, such as --config.reference.images=fashion_mnist"
        )
    if fields.sketch or fields.images in datasets.NAMED:  # it may be the default
        given = [kind for kind in given if kind != "images"]
    for first, second in itertools.pairwise(given):
        yield (
            f"reference.{first} and reference.{second} are both given; expected one of them: "
            f"say --config.reference.{second}= to take {fields[first]}"
        )
    if fields.sketch and config.metrics != ("lsh",):
        yield (
            f"metrics = {','.join(config.metrics)} with reference.sketch; a sketch has no features "
            "to measure distances to: say --config.metrics=lsh, or give reference.images instead"
        )
    if fields.samples_of:
        seeds = dict.fromkeys(config.seeds, "seeds")
        if config.search.share:
            seeds[config.search.seed] = "search.seed"
        if fields.seed in seeds:
            yield (
                f"reference.seed = {fields.seed} is in {seeds[fields.seed]} too: samples would be "
                "judged against themselves"
            )
        if fields.num_images == 0:
            yield "reference.num_images = 0; expected a number with reference.samples_of"


def _compressions(config: Any) -> Iterator[str]:
    fields, specs = config.compression, generator_specs(config)
    if config.truncation_psi != 1 and any(spec.needs_latents for spec in specs):
        yield (
            f"truncation_psi = {config.truncation_psi}: activation_bits, correct_biases and "
            "reestimate_batch_norms are calibrated without truncation; expected 1.0 with them"
        )
    if config.generators and not specs:
        yield (
            "compression.bits is empty and compression.full_precision is off; expected widths, or "
            "compression.full_precision=True"
        )
    if (fields.layerwise or config.search.share) and set(config.metrics) <= set(DISTANCES):
        yield (
            f"metrics = {','.join(config.metrics)}: compression.layerwise and a search compare "
            "precision and recall; expected knn, lsh_knn or lsh with them"
        )
    if fields.layerwise and not fields.full_precision:
        yield "compression.layerwise compares with full precision; set full_precision"
    why = "has no effect without compression.bits" if not fields.bits else ""
    if fields.layerwise:
        why = "changes all layers, and compression.layerwise measures one at a time"
    alone = {"activation_bits": (0,), "correct_biases": False, "reestimate_batch_norms": False}
    for name, value in alone.items():
        if why and fields[name] != value:
            yield f"compression.{name} = {fields[name]} {why}; expected {value}"


def _searches(config: Any) -> Iterator[str]:
    fields = config.search
    if not 0 <= fields.share <= 1:
        yield f"search.share = {fields.share}; expected 0 (no search) to 1"
    if not fields.share:
        return
    for name in ("clipping", "granularity", "scheme", "activation_bits"):
        if len(config.compression[name]) != 1:
            yield (
                f"compression.{name} = {config.compression[name]}: a search chooses widths; "
                "expected one value"
            )
    if len(config.compression.bits) < 2:
        yield f"compression.bits = {config.compression.bits}; expected widths to choose"
    if fields.seed in config.seeds or not config.generators:
        yield (
            f"search.seed = {fields.seed}, generators = {config.generators}: expected a seed that "
            "is not in seeds, and a generator"
        )
    if config.compression.layerwise or config.samples:
        yield "a search takes neither compression.layerwise nor samples"


def _check_hash(config: Any) -> None:
    votes, lsh_knn = config.hash.votes, "lsh_knn" in config.metrics
    choose("hash.family: hash family", config.hash.family, MAX_DIGITS)
    with _named("hash."):
        hash_spec(config)
        check_options(votes=votes, min_level=config.hash.min_level)
    if votes is None and lsh_knn:
        raise ValueError("hash.votes = None is for lsh alone; expected a share with lsh_knn")
    if lsh_knn:
        with _named("lsh_knn."):
            check_options(k=config.k, bucket_rows=config.lsh_knn.bucket_rows)


def generator_specs(config: Any) -> list[GeneratorSpec]:
    """Returns all settings of `config.compression`, full precision first."""
    fields = config.compression
    sized = fields.group_size or any("group_size" in rule for rule in fields.rules)
    if "per_group" in fields.granularity and not sized:
        raise ValueError(
            f"compression.group_size = {fields.group_size}; granularity per_group needs a positive "
            "one that divides the inputs of every layer, such as --config.compression.group_size=16"
        )
    if fields.group_size and "per_group" not in fields.granularity:
        raise ValueError(
            f"compression.group_size = {fields.group_size} has no effect without granularity "
            "per_group; expected both, or neither (a rule has its own group_size)"
        )
    choose("compression.activation_clipping", fields.activation_clipping, METHODS)
    options = {"percentile": fields.percentile, "num_stds": fields.num_stds}
    corrections = {name: fields[name] for name in ("correct_biases", "reestimate_batch_norms")}
    rules = tuple(_rule(rule) for rule in fields.rules if rule)
    widths = (None, *fields.bits)  # None, so that names are checked without widths, too
    with _named("compression."):
        weights = [
            CompressionSpec(
                bits=bits,
                clipping=clipping,
                granularity=granularity,
                scheme=scheme,
                group_size=fields.group_size or None if granularity == "per_group" else None,
                rules=rules,
                **options,
            )
            for granularity, scheme, clipping, bits in itertools.product(
                fields.granularity, fields.scheme, fields.clipping, widths
            )
        ]
    ranges = {"clipping": fields.activation_clipping, "granularity": "per_tensor", **options}
    activations = [
        CompressionSpec(bits=bits, scheme="affine", **ranges) if bits else None
        for bits in fields.activation_bits
    ]
    full = [UNCOMPRESSED] if fields.full_precision else []
    return full + [
        GeneratorSpec(weights=spec, activations=inputs, **corrections)
        for inputs in activations
        for spec in weights
        if spec.bits is not None
    ]


def _rule(text: str) -> Rule:
    """Reads a rule: 'PATTERN: skip', or 'PATTERN: bits=8 clipping=mse' with fields of `Rule`."""
    pattern, separator, wanted = text.rpartition(":")
    if not separator or not wanted.strip():
        raise ValueError(
            f"compression.rules: {text!r} is no rule; expected 'PATTERN: skip' or "
            "'PATTERN: bits=8 clipping=mse'"
        )
    known = [field.name for field in dataclasses.fields(Rule) if field.name != "pattern"]
    fields: dict[str, Any] = {}
    for assignment in wanted.split():
        name, equals, value = assignment.partition("=")
        if name not in known:
            said = f"no field {name!r}; did you mean {nearest(name, known)!r}?"
        elif name in fields:
            said = f"{name} twice; expected it once"
        elif bool(equals) == (name == "skip"):
            said = f"{assignment!r}; expected {'skip' if equals else f'{name}=VALUE'}"
        else:
            fields[name] = int(value) if value.isdigit() else value or True
            continue
        raise ValueError(f"compression.rules: {text!r} has {said}")
    with _named("compression.rules: "):
        return Rule(pattern=pattern.strip(), **fields)


LAST_SEED = 2**32 - 1  # keys are made of 32 bits: other seeds would be taken modulo 2³²
MOST_PIXELS = 4096  # per side of a reference image; the largest usual data set has 1024

# Smallest and largest value of each whole number, and of the entries in lists of whole numbers.
_COUNTS = ("batch_size", "memory_mb", "num_columns", "compression.num_calibration")
_SIZES = ("reference.num_images", "features.batch_size", "compression.group_size")
_RANGES = {
    **dict.fromkeys(_COUNTS, (1, math.inf)),
    **dict.fromkeys(_SIZES, (0, math.inf)),
    **dict.fromkeys(("reference.seed", "hash.seed", "search.seed"), (0, LAST_SEED)),
    "k": (1, 1024),
    "reference.side": (0, MOST_PIXELS),
    "reference.background": (0, 255),
    "reference.white_level": (0, 65535),
    "hash.min_count": (1, 1024),
    "lsh_knn.num_tables": (1, 2**16 - 1),
}
_LISTS = {
    "seeds": (0, LAST_SEED),
    "compression.bits": (1, MAX_BITS),
    "compression.activation_bits": (0, MAX_BITS),  # 0 for none
}
_NAMES = (
    "generators", "samples", "metrics", "compression.clipping", "compression.granularity",
    "compression.scheme",
)  # fmt: skip
# Without generators there are samples, and without bits there is full precision.
_MAY_BE_EMPTY = ("generators", "samples", "compression.bits")


def _split_lists(config: Any) -> None:
    """Splits names at commas, in place; refuses empty lists and repeated entries."""
    for field in (*_NAMES, *_LISTS):
        entries = attrgetter(field)(config)
        if field in _NAMES:
            for entry in entries:
                if not isinstance(entry, str | Path):
                    raise TypeError(
                        f"{field}: an entry is a {type(entry).__name__}; expected a name or a path "
                        "('__main__:make' names a function of a notebook)"
                    )
            entries = tuple(name.strip() for text in entries for name in str(text).split(","))
        entries = tuple(entry for entry in entries if entry != "")
        if not entries and field not in _MAY_BE_EMPTY:
            raise ValueError(f"{field} is empty; expected at least one entry")
        twice = next((entry for entry in entries if entries.count(entry) > 1), None)
        if twice is not None:
            raise ValueError(f"{field}: {twice!r} is given twice; expected each entry once")
        config.update_from_flattened_dict({field: entries})


def _check_numbers(config: Any) -> None:
    """Checks the range of every whole number; those of NumPy become ints, in place."""
    for field, (low, high) in (_RANGES | _LISTS).items():
        value = attrgetter(field)(config)
        if field in _LISTS:
            checked: Any = tuple(check_int(field, number, low, high) for number in value)
        else:
            checked = check_int(field, value, low, high)
        config.update_from_flattened_dict({field: checked})
    search, n, k = config.search, config.reference.num_images, config.k
    sizes = {"num_samples": config.num_samples, "reference.num_images": n or math.inf}
    sizes["search.num_samples"] = search.num_samples if search.share else math.inf
    for field, number in sizes.items():
        if number < k + 2:
            raise ValueError(f"{field} = {number}; k = {k} needs at least {k + 2} images")


def check_min_count(config: Any, n: int) -> None:
    """Refuses a `hash.min_count` that no bucket of n reference points can reach."""
    count = config.hash.min_count
    if "lsh" in config.metrics and n - 2 < count:
        raise ValueError(
            f"hash.min_count = {count} needs a reference of at least {count + 2}, and this one has "
            f"{n}; the nearest valid value is {n - 2}"
        )


UNPADDED = (28, 28)  # size of the shipped images as published


def check_image_sizes(
    config: Any, expected: Shape | None, generators: list[Generator], samples: Iterable[Source]
) -> None:
    """Refuses generators and samples of another image size than the reference.

    `expected` is the shape of the reference images; if it is None, unknown, nothing is checked. A
    generator of RGB images is refused if the reference is grey.
    """
    if expected is None:
        return
    fields, (height, width, channels) = config.reference, expected
    size = f"{height}×{width}"
    fixed = fields.sketch or fields.samples_of
    name = f"the reference {Path(fixed or fields.images).name}"
    for generator in generators:
        made, side = f"generator {generator.name} makes", generator.resolution
        if (height, width) != (side, side):
            way_out = f"say --config.reference.side={side} to crop and resize the reference"
            if fixed:
                way_out = f"expected a sketch or a generator of images of {side}×{side}"
            raise ValueError(
                f"{made} images of {side}×{side} pixels, but {name} has {size}; {way_out}"
            )
        if generator.image_channels > channels:
            raise ValueError(
                f"{made} RGB images, but {name} is grey; expected a reference in colour, or a "
                "generator of grey images"
            )
    padded = datasets.is_named(fields.images) and not (fixed or fields.features)
    for source in samples:
        if source.kind != "images":
            continue
        if padded and source.first_size == UNPADDED:  # resized, they would not match padded ones
            raise ValueError(
                f"samples {source.path} have 28×28 pixels, but {name} has 32×32; pad them with "
                "black pixels, 2 at each side: its images are padded to 32×32 before they are "
                "resized"
            )
        if source.shape[1:3] != (height, width):
            side = min(height, width)
            both = f", or say --config.reference.side={side} (of evaluate: resize) for both"
            raise ValueError(
                f"samples {source.path} have {source.shape[1]}×{source.shape[2]} pixels, but "
                f"{name} has {size}; resize them to {size}{'' if fixed else both}"
            )
