"""Checks a configuration before any heavy work, and says what it asks for."""

import dataclasses
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ml_collections

from lsh_gan import compression, datasets, features
from lsh_gan.compression import CompressionSpec, GeneratorSpec, Rule
from lsh_gan.compression.spec import GRANULARITIES, SCHEMES
from lsh_gan.errors import choose, nearest
from lsh_gan.experiment import config_checks
from lsh_gan.experiment.evaluators import EVALUATORS, hash_spec
from lsh_gan.metrics.inputs import check_options

_CHOICES = {
    "clipping": compression.METHODS,
    "granularity": GRANULARITIES,
    "scheme": SCHEMES,
}


def resolve(config: ml_collections.ConfigDict) -> ml_collections.FrozenConfigDict:
    """Checks every field that can be checked without reading a file.

    Args:
        config: As in `configs/default.py`. Tuples of names may be one string with commas, which is
            what a command line gives.

    Returns:
        The configuration, unchangeable, with such strings split.

    Raises:
        ValueError: A value out of range or an unknown name; the message names the field, the value
            and the nearest valid choice.
    """
    config = config.copy_and_resolve_references()
    config_checks.split_lists(config)
    config_checks.check_numbers(config)
    config_checks.check_devices(config)
    for metric in config.metrics:
        choose("metrics: metric", metric, EVALUATORS)
    _check_features(config)
    if not (config.generators or config.samples):
        raise ValueError("generators and samples are both empty; expected something to judge")
    if not 0 <= config.truncation_psi <= 1:
        raise ValueError(f"truncation_psi = {config.truncation_psi}; expected 0 to 1")
    if not 0 < config.keep <= 1:
        raise ValueError(f"keep = {config.keep}; expected a share above 0, at most 1")
    _check_sources(config)
    _check_samples_of(config)
    _check_sketch(config)
    _check_calibration(config, generator_specs(config))
    if config.generators and not compression_specs(config):
        raise ValueError(
            "compression.bits is empty and compression.full_precision is off; expected widths, or "
            "compression.full_precision=True"
        )
    if config.compression.layerwise and not config.compression.full_precision:
        raise ValueError("compression.layerwise compares with full precision; set full_precision")
    _check_layerwise(config)
    _check_search(config)
    _check_hash(config)
    if config.reference.num_images and not config.reference.sketch:
        config_checks.check_min_count(config, config.reference.num_images)
    return ml_collections.FrozenConfigDict(config)


def _check_layerwise(config: Any) -> None:
    fields = config.compression
    if not fields.layerwise:
        return
    expected = {"activation_bits": (0,), "correct_biases": False, "reestimate_batch_norms": False}
    for name, value in expected.items():
        if fields[name] != value:
            raise ValueError(
                f"compression.{name} = {fields[name]} changes all layers, and "
                f"compression.layerwise measures one at a time; expected {value} with it"
            )


def _check_features(config: Any) -> None:
    name, side = config.features.name, config.features.side
    choose("features.name: feature network", name, {**features.FEATURES, features.GIVEN: None})
    if name == features.GIVEN:
        reference = config.reference.features or config.reference.sketch
        if config.generators or not reference:
            raise ValueError(
                f"features.name = {name}: there is no network to embed images with; expected no "
                "generators, and reference.features or reference.sketch with samples of features"
            )
        return
    with _named("features."):
        features.check_side(name, side)


@contextmanager
def _named(prefix: str) -> Iterator[None]:
    """Errors inside of it begin with the prefix, which makes them name the field."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{prefix}{error}") from error


def _check_sources(config: Any) -> None:
    """Refuses reference images beside another reference; the shipped ones are but the default."""
    fields = config.reference
    kinds = ("images", "features", "samples_of", "sketch")
    if not any(fields[kind] for kind in kinds):
        raise ValueError(
            f"{', '.join(f'reference.{kind}' for kind in kinds)} are all empty; expected one of "
            "them, such as --config.reference.images=fashion_mnist"
        )
    for name in ("features", "samples_of"):
        if fields[name] and fields.images and fields.images not in datasets.NAMED:
            raise ValueError(
                f"reference.{name} and reference.images are both given; expected one of them: say "
                f"--config.reference.images= to take {fields[name]}"
            )


def _check_hash(config: Any) -> None:
    votes = config.hash.votes
    if isinstance(votes, bool) or not isinstance(votes, int | float | None):
        raise ValueError(f"hash.votes = {votes!r}; expected a share in (0, 1], or None")
    try:
        hash_spec(config)
        check_options(min_count=config.hash.min_count, votes=votes)
    except (TypeError, ValueError) as error:
        field = "hash." if " = " in str(error) else "hash.family: "
        raise ValueError(f"{field}{error}") from error
    if votes is None and "lsh_knn" in config.metrics:
        raise ValueError("hash.votes = None is for lsh alone; expected a share with lsh_knn")
    with _named("lsh_knn."):
        check_options(k=config.k, bucket_rows=config.lsh_knn.bucket_rows)


def _check_samples_of(config: Any) -> None:
    fields = config.reference
    if not fields.samples_of:
        return
    judged = {"seeds": config.seeds}
    if config.search.share:
        judged["search.seed"] = (config.search.seed,)
    for name, seeds in judged.items():
        if fields.seed in seeds:
            raise ValueError(
                f"reference.seed = {fields.seed} is in {name} too: samples would be judged against "
                "themselves"
            )
    if fields.features:
        raise ValueError(
            "reference.samples_of and reference.features are both given; expected one of them"
        )
    if fields.num_images == 0:
        raise ValueError("reference.num_images = 0; expected a number with reference.samples_of")


def _check_sketch(config: Any) -> None:
    if not config.reference.sketch:
        return
    if config.metrics != ("lsh",):
        raise ValueError(
            f"metrics = {','.join(config.metrics)} with reference.sketch; a sketch has no features "
            "to measure distances to: say --config.metrics=lsh, or give reference.images instead"
        )
    for name in ("features", "samples_of"):
        if config.reference[name]:
            raise ValueError(
                f"reference.sketch and reference.{name} are both given; expected one of them"
            )


def compression_specs(config: Any) -> list[CompressionSpec]:
    """The compressions that `config.compression` asks for, full precision first."""
    fields = config.compression
    for name, table in _CHOICES.items():
        for choice in fields[name]:
            choose(f"compression.{name}", choice, table)
    sized = fields.group_size or any("group_size" in rule for rule in fields.rules)
    if "per_group" in fields.granularity and not sized:
        raise ValueError(
            f"compression.group_size = {fields.group_size}; granularity per_group needs a positive "
            "one that divides the inputs of every layer, such as --config.compression.group_size=16"
        )
    shared = {
        "group_size": fields.group_size or None,
        "percentile": fields.percentile,
        "num_stds": fields.num_stds,
        "rules": tuple(_rule(rule) for rule in fields.rules),
    }
    specs = [CompressionSpec(bits=None)] if fields.full_precision else []
    choices = (fields.granularity, fields.scheme, fields.clipping, fields.bits)
    for granularity, scheme, clipping, bits in itertools.product(*choices):
        with _named("compression."):
            spec = CompressionSpec(
                bits=bits, clipping=clipping, granularity=granularity, scheme=scheme, **shared
            )
        specs.append(spec)
    return specs


def generator_specs(config: Any) -> list[GeneratorSpec]:
    """All that `config.compression` asks to be done to a generator, full precision first."""
    fields = config.compression
    choose("compression.activation_clipping", fields.activation_clipping, compression.METHODS)
    activations = [_activations(b, fields.activation_clipping) for b in fields.activation_bits]
    corrections = {
        "correct_biases": fields.correct_biases,
        "reestimate_batch_norms": fields.reestimate_batch_norms,
    }
    weights = compression_specs(config)
    full = [GeneratorSpec(weights=spec) for spec in weights if spec.bits is None]
    return full + [
        GeneratorSpec(weights=spec, activations=inputs, **corrections)
        for inputs in activations
        for spec in weights
        if spec.bits is not None
    ]


def _activations(bits: int, clipping: str) -> CompressionSpec | None:
    if bits == 0:
        return None
    return CompressionSpec(bits=bits, clipping=clipping, granularity="per_tensor", scheme="affine")


def _check_search(config: Any) -> None:
    fields = config.search
    if not 0 <= fields.share <= 1:
        raise ValueError(f"search.share = {fields.share}; expected 0 (no search) to 1")
    if not fields.share:
        return
    for name in ("clipping", "granularity", "scheme", "activation_bits"):
        if len(config.compression[name]) != 1:
            raise ValueError(
                f"compression.{name} = {config.compression[name]}: a search chooses widths; "
                "expected one value"
            )
    if len(set(config.compression.bits)) < 2:
        raise ValueError(f"compression.bits = {config.compression.bits}; expected widths to choose")
    config_checks.check_enough(config, ("search.num_samples",))
    if fields.seed in config.seeds or not config.generators:
        raise ValueError(
            f"search.seed = {fields.seed}, generators = {config.generators}: expected a seed that "
            "is not in seeds, and a generator"
        )
    if config.compression.layerwise or config.samples:
        raise ValueError("a search takes neither compression.layerwise nor samples")


def _check_calibration(config: Any, specs: list[GeneratorSpec]) -> None:
    if config.truncation_psi != 1 and any(spec.needs_latents for spec in specs):
        raise ValueError(
            f"truncation_psi = {config.truncation_psi}: activation_bits, correct_biases and "
            "reestimate_batch_norms are calibrated without truncation; expected 1.0 with them"
        )


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
            raise ValueError(
                f"compression.rules: {text!r} has no field {name!r}; did you mean "
                f"{nearest(name, known)!r}?"
            )
        if name in fields:
            raise ValueError(f"compression.rules: {text!r} gives {name} twice")
        if bool(equals) == (name == "skip"):
            expected = "skip" if name == "skip" else f"{name}=VALUE"
            raise ValueError(f"compression.rules: {text!r} has {assignment!r}; expected {expected}")
        fields[name] = int(value) if value.isdigit() else value or True
    with _named("compression.rules: "):
        return Rule(pattern=pattern.strip(), **fields)
