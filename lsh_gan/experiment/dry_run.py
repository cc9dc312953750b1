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
from lsh_gan.compression import GeneratorSpec
from lsh_gan.compression.activations import COLLECTION, RANGE_FIELDS
from lsh_gan.compression.files import file_bytes
from lsh_gan.compression.packing import Layout, empty_subtrees
from lsh_gan.compression.pipeline import check_corrections
from lsh_gan.compression.quantization import fan_in
from lsh_gan.compression.rules import TensorPlan, isolate, path_of, plan_tensors
from lsh_gan.experiment import image_sizes, recipes, settings
from lsh_gan.experiment.reference import open_reference, open_samples
from lsh_gan.generators import Generator, sampling
from lsh_gan.results.labels import distinct, print_table


class Judged(NamedTuple):
    """One generator of a dry run.

    Attributes:
        path: As the configuration names it.
        generator: Without weights where there is no file.
        found: Whether its file is there.
        parameters: Number of parameters.
        values: Number of parameters, statistics and buffers, all of which are stored.
        sizes: For each setting its bytes on disk.
        images: Shape of a batch, `(batch_size, h, w, c)`.
        features: Shape of its features, `(batch_size, d)`.
    """

    path: str
    generator: Generator
    found: bool
    parameters: int
    values: int
    sizes: list[tuple[GeneratorSpec, int]]
    images: tuple[int, ...]
    features: tuple[int, ...]


def run(config: Any) -> None:
    """Prints what `config` would measure.

    Raises:
        ValueError, TypeError, FileNotFoundError: As `sweep.run`, but for missing files of
            generators with a recipe, of feature networks and of reference images.
    """
    config = settings.resolve(config)
    judged = describe(config)
    _check_sizes(config, judged)
    print_table(_generator_table(judged))
    print_table(_size_table(judged))
    for line in _summary(config, judged):
        Console().print(line, soft_wrap=True, highlight=False, markup=False)


def _check_sizes(config: Any, judged: list[Judged]) -> None:
    """Compares the sizes of images, as far as they are there."""
    samples = [open_samples(config, path) for path in config.samples if _is_there(path)]
    if _is_there(config.reference.features or config.reference.images):
        opened = open_reference(config)
        shape = opened and opened.image_shape
        image_sizes.check(config, shape, [item.generator for item in judged], samples)


def describe(config: Any) -> list[Judged]:
    """Evaluates generators abstractly: from their files if they are there, else from recipes."""
    described = [recipes.describe(config, path) for path in config.generators]
    # As a run names them, before sizes are counted: packed files hold the name.
    given = [*(g.name for g, _ in described), *(Path(path).stem for path in config.samples)]
    names = distinct(given, [*config.generators, *config.samples])
    return [
        _judged(config, path, dataclasses.replace(generator, name=name), found=found)
        for path, name, (generator, found) in zip(config.generators, names, described, strict=False)
    ]


def _judged(config: Any, path: str, generator: Generator, *, found: bool) -> Judged:
    shape = sampling.image_shape(generator, config.batch_size, truncation_psi=config.truncation_psi)
    embedded = features.feature_shape(config.features.name, config.features.side, shape)
    specs = settings.generator_specs(config)
    sizes = [(spec, packed_size(generator, spec)) for spec in specs]
    variables = isinstance(generator.params, dict) and "params" in generator.params
    parameters = generator.params["params"] if variables else generator.params
    parameters, values = (
        sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (parameters, generator.params)
    )
    return Judged(path, generator, found, parameters, values, sizes, shape, embedded)


def packed_size(generator: Generator, spec: GeneratorSpec) -> int:
    """Bytes of the packed file of a generator, from the shapes of its parameters.

    A generator that was read from a packed file has that one as long as nothing is done to it.

    Raises:
        ValueError: As `compression.compress`, for rules and sizes of groups.
    """
    if generator.packed_file and spec.weights.bits is None:
        return generator.packed_file.stat().st_size
    metadata = {
        "name": generator.name,
        "family": generator.family,
        "options": generator.provenance["options"],
    }
    leaves = _leaves(generator)
    plans = plan_tensors(leaves, spec.weights, generator.channel_axes)
    check_corrections(generator.module, plans, spec)
    layouts = [_layout(plan, leaf.shape) for plan, (_, leaf) in zip(plans, leaves, strict=True)]
    if spec.activations:
        layouts += [
            Layout((COLLECTION, *path[1:-1], field), (), None)
            for path, _ in leaves
            if path[0] == "params" and path[-1] == "kernel"
            for field in RANGE_FIELDS
        ]
    return file_bytes(layouts, empty_subtrees(generator.params), metadata)


def _leaves(generator: Generator) -> list[tuple[tuple[str, ...], Any]]:
    """Paths and arrays, or their shapes where there are no weights."""
    return [
        (path_of(keys), leaf)
        for keys, leaf in jax.tree_util.tree_leaves_with_path(generator.params)
        if path_of(keys)[0] != COLLECTION
    ]


def num_settings(config: Any, generator: Generator) -> int:
    """How often a sweep measures a generator with one seed."""
    specs = settings.generator_specs(config)
    if not config.compression.layerwise:
        return len(specs)
    leaves, axes = _leaves(generator), generator.channel_axes
    return sum(
        1 if spec.weights.bits is None else len(isolate(plan_tensors(leaves, spec.weights, axes)))
        for spec in specs
    )


def _layout(plan: TensorPlan, shape: tuple[int, ...]) -> Layout:
    spec = plan.spec
    if spec.bits is None:
        return Layout(plan.path, shape, None)
    grid = (1, 1, 1)
    if spec.granularity != "per_tensor":
        grouped = spec.granularity == "per_group"
        groups = fan_in(shape, plan.channel_axis) // spec.group_size if grouped else 1
        grid = (groups, 1, shape[plan.channel_axis])
    return Layout(plan.path, shape, spec.bits, plan.channel_axis, spec.scheme, grid)


def _generator_table(judged: list[Judged]) -> Table:
    table = Table(title="generators", box=box.SIMPLE_HEAVY)
    for column in ("generator", "file", "family"):
        table.add_column(column, overflow="fold")
    for column in ("parameters", "images", "latent", "classes", "features", "float32 bytes"):
        table.add_column(column, justify="right", no_wrap=True)
    for item in judged:
        generator = item.generator
        table.add_row(
            generator.name,
            f"{item.path}: {'found' if item.found else 'not there'}",
            generator.family,
            f"{item.parameters:,}",
            "×".join(map(str, item.images[1:])),
            str(generator.latent_size),
            str(generator.num_classes or "–"),
            str(item.features[1]),
            f"{4 * item.values:,}",
        )
    return table


def _size_table(judged: list[Judged]) -> Table:
    """Packed bytes and their ratio to float32: a line a width and grid, a column a generator."""
    table = Table(title="bytes on disk, and times smaller than float32", box=box.SIMPLE_HEAVY)
    for column in ("bits", "grid"):
        table.add_column(column)
    for item in judged:
        table.add_column(item.generator.name, justify="right", overflow="fold")
    lines: dict[tuple[str, str], list[str]] = {}
    for item in judged:
        mine = {}
        for spec, size in item.sizes:
            bits, weights = spec.weights.bits, spec.weights
            grid = f"{weights.granularity}, {weights.scheme}" if bits else ""
            cell = f"{size:,}  {4 * item.values / size:5.1f}"
            as_read = bits is None and item.generator.packed_file
            label = f"W{bits}A{spec.activations.bits}" if spec.activations else str(bits or "full")
            mine[label, grid] = f"packed {cell}" if as_read else cell
        for key, cell in mine.items():
            lines.setdefault(key, []).append(cell)
    for key, cells in lines.items():
        table.add_row(*key, *cells)
    return table


def _summary(config: Any, judged: list[Judged]) -> list[str]:
    lines = [
        _features(config),
        _reference(config),
        *(f"samples: {path}: {_found(path)}" for path in config.samples),
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


def _is_there(source: str) -> bool:
    file = datasets.named_file(source) if datasets.is_named(source) else Path(source)
    return source != "" and file.exists()


def _found(source: str) -> str:
    return "found" if _is_there(source) else "not there"


def _reference(config: Any) -> str:
    fields = config.reference
    n = f"{fields.num_images:,}" if fields.num_images else "all"
    if fields.samples_of:
        return f"reference: n = {n} uncompressed samples of {fields.samples_of} itself"
    if fields.sketch:
        return f"reference: the sketch {fields.sketch}: {_found(fields.sketch)}"
    source = fields.features or fields.images
    return f"reference: n = {n} of {source}: {_found(source)}"


def _rows(config: Any, judged: list[Judged]) -> str:
    counts = [num_settings(config, item.generator) for item in judged]
    rows = sum(counts) * len(config.seeds) + len(config.samples)
    return (
        f"rows: {rows} = ({' + '.join(map(str, counts)) or 0}) settings × {len(config.seeds)} "
        f"seeds + {len(config.samples)} given samples; m = "
        f"{config.num_samples:,} images each, batches of {config.batch_size}, truncation_psi = "
        f"{config.truncation_psi}"
    )


def _search(config: Any, judged: list[Judged]) -> list[str]:
    """What a search does; it judges most settings only when others have turned out well."""
    fields, bits = config.search, config.compression.bits
    *_, spec = settings.compression_specs(config)
    n = "n as in the sketch," if config.reference.sketch else "n ="
    layers = {
        item.generator.name: len(
            isolate(plan_tensors(_leaves(item.generator), spec, item.generator.channel_axes))
        )
        for item in judged
    }
    return [
        f"search: the smallest widths out of {', '.join(map(str, bits))} bits, one a tensor, that "
        f"keep {fields.share:.0%} of precision and of recall by LSH; {n} m = "
        f"{fields.num_samples:,}, seed {fields.seed}",
        *(
            f"search of {name}: full precision, {len(bits)} uniform widths, at most {len(bits)} "
            f"widths of each of {count} tensors alone, then mixed widths"
            for name, count in layers.items()
        ),
        f"rows: at most 4 a generator (full precision, the mixed widths found, two uniform widths) "
        f"× {len(config.seeds)} seeds, by {', '.join(config.metrics)}; m = "
        f"{config.num_samples:,} images each, batches of {config.batch_size}",
    ]
