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

_CHOICES = {"clipping": compression.METHODS, "granularity": GRANULARITIES, "scheme": SCHEMES}


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
    for metric in config.metrics:
        choose("metrics: metric", metric, EVALUATORS)
    known = {**features.FEATURES, features.GIVEN: None}
    choose("features.name: feature network", config.features.name, known)
    if config.features.name != features.GIVEN:
        with _named("features."):
            features.check_side(config.features.name, config.features.side)
    specs = generator_specs(config)
    checks = (_judged, _references, _compressions, _searches)
    for message in itertools.chain.from_iterable(check(config, specs) for check in checks):
        raise ValueError(message)
    _check_hash(config)
    if config.reference.num_images and not config.reference.sketch:
        config_checks.check_min_count(config, config.reference.num_images)
    return ml_collections.FrozenConfigDict(config)


@contextmanager
def _named(prefix: str) -> Iterator[None]:
    """Errors inside of it begin with the prefix, which makes them name the field."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{prefix}{error}") from error


# What fields mean together: each of these yields what is wrong.


def _judged(config: Any, specs: list[GeneratorSpec]) -> Iterator[str]:
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


def _references(config: Any, specs: list[GeneratorSpec]) -> Iterator[str]:
    fields = config.reference
    if fields.on_error not in ("fail", "skip"):
        yield f"reference.on_error = {fields.on_error!r}; expected 'fail' or 'skip'"
    kinds = ("images", "features", "samples_of", "sketch")
    if not any(fields[kind] for kind in kinds):
        yield (
            f"{', '.join(f'reference.{kind}' for kind in kinds)} are all empty; expected one of "
            "them, such as --config.reference.images=fashion_mnist"
        )
    if fields.images not in ("", *datasets.NAMED):  # a named one is but the default
        for name in ("features", "samples_of"):
            if fields[name]:
                yield (
                    f"reference.{name} and reference.images are both given; expected one of them: "
                    f"say --config.reference.images= to take {fields[name]}"
                )
    others = [("samples_of", "features"), ("sketch", "features"), ("sketch", "samples_of")]
    for name, other in others:
        if fields[name] and fields[other]:
            yield f"reference.{name} and reference.{other} are both given; expected one of them"
    if fields.sketch and config.metrics != ("lsh",):
        yield (
            f"metrics = {','.join(config.metrics)} with reference.sketch; a sketch has no features "
            "to measure distances to: say --config.metrics=lsh, or give reference.images instead"
        )
    if fields.samples_of:
        drawn = {"seeds": config.seeds}
        if config.search.share:
            drawn["search.seed"] = (config.search.seed,)
        for name, seeds in drawn.items():
            if fields.seed in seeds:
                yield (
                    f"reference.seed = {fields.seed} is in {name} too: samples would be judged "
                    "against themselves"
                )
        if fields.num_images == 0:
            yield "reference.num_images = 0; expected a number with reference.samples_of"


def _compressions(config: Any, specs: list[GeneratorSpec]) -> Iterator[str]:
    fields = config.compression
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
    if not fields.layerwise:
        return
    if not fields.full_precision:
        yield "compression.layerwise compares with full precision; set full_precision"
    alone = {"activation_bits": (0,), "correct_biases": False, "reestimate_batch_norms": False}
    for name, value in alone.items():
        if fields[name] != value:
            yield (
                f"compression.{name} = {fields[name]} changes all layers, and "
                f"compression.layerwise measures one at a time; expected {value} with it"
            )


def _searches(config: Any, specs: list[GeneratorSpec]) -> Iterator[str]:
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
    config_checks.check_enough(config, ("search.num_samples",))
    if fields.seed in config.seeds or not config.generators:
        yield (
            f"search.seed = {fields.seed}, generators = {config.generators}: expected a seed that "
            "is not in seeds, and a generator"
        )
    if config.compression.layerwise or config.samples:
        yield "a search takes neither compression.layerwise nor samples"


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
    names = ("granularity", "scheme", "clipping", "bits")
    for choices in itertools.product(*(fields[name] for name in names)):
        with _named("compression."):
            specs.append(CompressionSpec(**dict(zip(names, choices, strict=True)), **shared))
    return specs


def generator_specs(config: Any) -> list[GeneratorSpec]:
    """All that `config.compression` asks to be done to a generator, full precision first."""
    fields = config.compression
    choose("compression.activation_clipping", fields.activation_clipping, compression.METHODS)
    ranges = {"clipping": fields.activation_clipping, "granularity": "per_tensor"}
    activations = [
        CompressionSpec(bits=bits, scheme="affine", **ranges) if bits else None
        for bits in fields.activation_bits
    ]
    corrections = {name: fields[name] for name in ("correct_biases", "reestimate_batch_norms")}
    weights = compression_specs(config)
    full = [GeneratorSpec(weights=spec) for spec in weights if spec.bits is None]
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
        said = ""
        if name not in known:
            said = f"no field {name!r}; did you mean {nearest(name, known)!r}?"
        elif name in fields:
            said = f"{name} twice; expected it once"
        elif bool(equals) == (name == "skip"):
            expected = "skip" if name == "skip" else f"{name}=VALUE"
            said = f"{assignment!r}; expected {expected}"
        if said:
            raise ValueError(f"compression.rules: {text!r} has {said}")
        fields[name] = int(value) if value.isdigit() else value or True
    with _named("compression.rules: "):
        return Rule(pattern=pattern.strip(), **fields)
