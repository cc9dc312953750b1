"""What a configuration would measure, and how large everything is, from shapes alone.

`python main.py --config=FILE --dry_run` goes through everything up to sampling by abstract
evaluation. Generators and weight files that are not there yet are taken from the configuration.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich import box
from rich.console import Console
from rich.table import Table

from lsh_gan import datasets, features
from lsh_gan.compression import CompressionSpec, GeneratorSpec
from lsh_gan.compression.activations import COLLECTION, RANGE_FIELDS
from lsh_gan.compression.files import file_bytes
from lsh_gan.compression.packing import Layout, empty_subtrees
from lsh_gan.compression.pipeline import check_corrections
from lsh_gan.compression.quantization import fan_in
from lsh_gan.compression.rules import TensorPlan, isolate, path_of, plan_tensors
from lsh_gan.experiment import recipes, settings
from lsh_gan.experiment.reference import open_reference, open_samples
from lsh_gan.generators import Generator, sampling
from lsh_gan.results.labels import distinct, print_table


class Judged(NamedTuple):
    """One generator of a dry run, without weights where `found` is false: there is no file."""

    path: str
    generator: Generator
    found: bool
    sizes: list[tuple[GeneratorSpec, int]]  # bytes on disk


def run(config: Any) -> None:
    """Prints what `config` would measure.

    Raises:
        ValueError, TypeError, FileNotFoundError: As `sweep.run`, but for missing files of
            generators with a recipe, of feature networks and of reference images.
    """
    config = settings.resolve(config)
    judged = describe(config)
    if _is_there(config.reference.features or config.reference.images):
        opened = open_reference(config)
        samples = [open_samples(config, path) for path in config.samples if _is_there(path)]
        generators = [item.generator for item in judged]
        settings.check_image_sizes(config, opened and opened.image_shape, generators, samples)
    print_table(_generator_table(config, judged))
    print_table(_size_table(judged))
    for line in _summary(config, judged):
        Console().print(line, soft_wrap=True, highlight=False, markup=False)


def describe(config: Any) -> list[Judged]:
    """Evaluates generators abstractly: from their files if they are there, else from recipes."""
    described = [recipes.describe(config, path) for path in config.generators]
    # As a run names them, before sizes are counted: packed files hold the name.
    given = [*(g.name for g, _ in described), *(Path(path).stem for path in config.samples)]
    names = distinct(given, [*config.generators, *config.samples])
    judged = []
    for path, name, (generator, found) in zip(config.generators, names, described, strict=False):
        generator = dataclasses.replace(generator, name=name)
        specs = settings.generator_specs(config)
        sizes = [(spec, packed_size(generator, spec)) for spec in specs]
        judged.append(Judged(path, generator, found, sizes))
    return judged


def packed_size(generator: Generator, spec: GeneratorSpec) -> int:
    """Bytes of the packed file of a generator, from the shapes of its parameters.

    A generator that was read from a packed file has that one as long as nothing is done to it.

    Raises:
        ValueError: As `compression.compress`, for rules and sizes of groups.
    """
    if generator.packed_file and spec.weights.bits is None:
        return generator.packed_file.stat().st_size
    shapes = {path: leaf.shape for path, leaf in _leaves(generator)}
    plans = _plans(generator, spec.weights)
    check_corrections(generator.module, plans, spec)
    layouts = [_layout(plan, shapes[plan.path]) for plan in plans]
    if spec.activations:
        kernels = [path for path in shapes if path[0] == "params" and path[-1] == "kernel"]
        layouts += [
            Layout((COLLECTION, *path[1:-1], field), (), None)
            for path in kernels
            for field in RANGE_FIELDS
        ]
    metadata = {"name": generator.name, "family": generator.family}
    metadata["options"] = generator.provenance["options"]
    return file_bytes(layouts, empty_subtrees(generator.params), metadata)


def _leaves(generator: Generator) -> list[tuple[tuple[str, ...], Any]]:
    """Paths and arrays, or their shapes where there are no weights."""
    return [
        (path_of(keys), leaf)
        for keys, leaf in jax.tree_util.tree_leaves_with_path(generator.params)
        if path_of(keys)[0] != COLLECTION
    ]


def _plans(generator: Generator, weights: CompressionSpec) -> list[TensorPlan]:
    return plan_tensors(_leaves(generator), weights, generator.channel_axes)


def _layout(plan: TensorPlan, shape: tuple[int, ...]) -> Layout:
    spec = plan.spec
    if spec.bits is None:
        return Layout(plan.path, shape, None)
    grouped = spec.granularity == "per_group"
    groups = fan_in(shape, plan.channel_axis) // spec.group_size if grouped else 1
    channels = 1 if spec.granularity == "per_tensor" else shape[plan.channel_axis]
    grid = (groups, 1, channels)
    return Layout(plan.path, shape, spec.bits, plan.channel_axis, spec.scheme, grid)


def _count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _generator_table(config: Any, judged: list[Judged]) -> Table:
    table = Table(title="generators", box=box.SIMPLE_HEAVY)
    for column in ("generator", "file", "family"):
        table.add_column(column, overflow="fold")
    for column in ("parameters", "images", "latent", "classes", "features", "float32 bytes"):
        table.add_column(column, justify="right", no_wrap=True)
    psi, (name, side) = config.truncation_psi, (config.features.name, config.features.side)
    for path, generator, found, _ in judged:
        images = sampling.image_shape(generator, config.batch_size, truncation_psi=psi)
        table.add_row(
            generator.name,
            f"{path}: {'found' if found else 'not there'}",
            generator.family,
            f"{_count(generator.params['params']):,}",
            "×".join(map(str, images[1:])),
            str(generator.latent_size),
            str(generator.num_classes or "–"),
            str(features.feature_shape(name, side, images)[1]),
            f"{4 * _count(generator.params):,}",
        )
    return table


def _size_table(judged: list[Judged]) -> Table:
    """Packed bytes and their ratio to float32: a line a width and grid, a column a generator."""
    table = Table("bits", "grid", box=box.SIMPLE_HEAVY)
    table.title = "bytes on disk, and times smaller than float32"
    lines: dict[tuple[str, str], dict[str, str]] = {}  # of several clippings the last
    for _, generator, _, sizes in judged:
        table.add_column(generator.name, justify="right", overflow="fold")
        for spec, size in sizes:
            bits, weights = spec.weights.bits, spec.weights
            grid = f"{weights.granularity}, {weights.scheme}" if bits else ""
            label = f"W{bits}A{spec.activations.bits}" if spec.activations else str(bits or "full")
            as_read = "packed " if bits is None and generator.packed_file else ""
            cell = f"{as_read}{size:,}  {4 * _count(generator.params) / size:5.1f}"
            lines.setdefault((label, grid), {})[generator.name] = cell
    for key, cells in lines.items():
        table.add_row(*key, *cells.values())
    return table


def _is_there(source: str) -> bool:
    file = datasets.named_file(source) if datasets.is_named(source) else Path(source)
    return source != "" and file.exists()


def _found(source: str) -> str:
    return f"{source}: {'found' if _is_there(source) else 'not there'}"


def _summary(config: Any, judged: list[Judged]) -> list[str]:
    lines = [
        _features(config),
        f"reference: {_reference(config.reference)}",
        *(f"samples: {_found(path)}" for path in config.samples),
        *(_search(config, judged) if config.search.share else [_rows(config, judged)]),
    ]
    for item in judged:
        if not item.found:
            recipe = recipes.recipe(config, item.path)
            lines.append(f"{item.path} is not there; {recipes.how(recipe, item.path)}")
    return lines


def _features(config: Any) -> str:
    fields = config.features
    if fields.name == features.GIVEN:
        return "features: as given"
    spec = features.FEATURES[fields.name]
    weights = features.weight_file(spec, fields.weights or None)
    there = "found" if weights is not None and weights.is_file() else "not there"
    return (
        f"features: {spec.name}, d = {spec.dim}, at {fields.side} pixels; weights "
        f"{weights or 'of an installed package'}: {there}"
    )


def _reference(fields: Any) -> str:
    n = f"n = {fields.num_images:,}" if fields.num_images else "n = all"
    if fields.samples_of:
        return f"{n} uncompressed samples of {fields.samples_of} itself"
    if fields.sketch:
        return f"the sketch {_found(fields.sketch)}"
    return f"{n} of {_found(fields.features or fields.images)}"


def _images(config: Any) -> str:
    return f"m = {config.num_samples:,} images each, batches of {config.batch_size}"


def _rows(config: Any, judged: list[Judged]) -> str:
    counts = []
    for item in judged:
        weights = [spec.weights for spec, _ in item.sizes]
        layers = [
            isolate(_plans(item.generator, spec)) if spec.bits else [spec] for spec in weights
        ]
        counts.append(sum(map(len, layers)) if config.compression.layerwise else len(weights))
    rows = sum(counts) * len(config.seeds) + len(config.samples)
    return (
        f"rows: {rows} = ({' + '.join(map(str, counts)) or 0}) settings × {len(config.seeds)} "
        f"seeds + {len(config.samples)} given samples; {_images(config)}, truncation_psi = "
        f"{config.truncation_psi}"
    )


def _search(config: Any, judged: list[Judged]) -> list[str]:
    """What a search does; it judges most settings only when others have turned out well."""
    fields, bits = config.search, config.compression.bits
    *_, spec = settings.compression_specs(config)
    n = "n as in the sketch," if config.reference.sketch else "n ="
    return [
        f"search: the smallest widths out of {', '.join(map(str, bits))} bits, one a tensor, that "
        f"keep {fields.share:.0%} of precision and of recall by LSH; {n} m = "
        f"{fields.num_samples:,}, seed {fields.seed}",
        *(
            f"search of {item.generator.name}: full precision, {len(bits)} uniform widths, at most "
            f"{len(bits)} widths of each of {len(isolate(_plans(item.generator, spec)))} tensors "
            "alone, then mixed widths"
            for item in judged
        ),
        f"rows: at most 4 a generator (full precision, the mixed widths found, two uniform widths) "
        f"× {len(config.seeds)} seeds, by {', '.join(config.metrics)}; {_images(config)}",
    ]
