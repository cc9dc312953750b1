"""What a configuration would measure, and how large everything is, from shapes alone.

`python main.py --config=FILE --dry_run` goes through everything up to sampling by abstract
evaluation. Generators and weight files that are not there yet are taken from the configuration.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pandas as pd
from rich.table import Table

from lsh_gan import datasets, features
from lsh_gan.compression import CompressionSpec, GeneratorSpec
from lsh_gan.compression.activations import COLLECTION, RANGE_FIELDS
from lsh_gan.compression.packing import Layout, file_bytes
from lsh_gan.compression.pipeline import check_corrections
from lsh_gan.compression.rules import isolate, path_of, plan_tensors
from lsh_gan.compression.tree import empty_subtrees, layout_of
from lsh_gan.experiment import recipes, settings
from lsh_gan.experiment.reference import open_reference, open_samples
from lsh_gan.generators import Generator, sampling
from lsh_gan.results.labels import make_rich, print_table


class Sized(NamedTuple):
    """One generator of a dry run."""

    path: str
    generator: Generator
    instructions: str  # how to get its file; "" where it is there
    sizes: list[tuple[GeneratorSpec, int]]  # bytes on disk of every setting


def run(config: Any) -> None:
    """Prints what `config` would measure.

    Raises as `sweep.run`, but for missing files of generators with a recipe, of feature networks
    and of reference images.
    """
    config = settings.resolve(config)
    sized = measure_sizes(config)
    if _is_there(config.reference.features or config.reference.images):
        opened = open_reference(config)
        samples = [open_samples(config, path) for path in config.samples if _is_there(path)]
        generators = [item.generator for item in sized]
        shape = opened.image_shape if opened else None
        settings.check_image_sizes(config, shape, generators, samples)
    print_table(_generator_table(config, sized))
    print_table(_size_table(sized))
    sys.stdout.writelines(f"{line}\n" for line in _summary(config, sized))


def measure_sizes(config: Any) -> list[Sized]:
    """Evaluates generators abstractly: from their files if they are there, else from recipes."""
    found = [recipes.load_or_abstract(config, path) for path in config.generators]
    specs = settings.generator_specs(config)
    # Named as in a run, before sizes are counted: packed files hold the name.
    renamed, _ = recipes.rename(config, [generator for generator, _ in found])
    return [
        Sized(path, generator, text, [(spec, packed_size(generator, spec)) for spec in specs])
        for path, generator, (_, text) in zip(config.generators, renamed, found, strict=True)
    ]


def packed_size(generator: Generator, spec: GeneratorSpec) -> int:
    """Bytes of the packed file of a generator, from the shapes of its parameters.

    A generator that was read from a packed file has that one as long as nothing is done to it.
    Raises as `compression.compress`, for rules and sizes of groups.
    """
    if generator.packed_file and spec.weights.bits is None:
        return generator.packed_file.stat().st_size
    leaves = _leaves(generator)
    plans = plan_tensors(leaves, spec.weights, generator.channel_axes)
    check_corrections(generator.module, plans, spec)
    layouts = [layout_of(plan, leaf.shape) for plan, (_, leaf) in zip(plans, leaves, strict=True)]
    if spec.activations:
        kernels = [path for path, _ in leaves if path[0] == "params" and path[-1] == "kernel"]
        layouts += [
            Layout((COLLECTION, *path[1:-1], field), (), None)
            for path in kernels
            for field in RANGE_FIELDS
        ]
    return file_bytes(layouts, empty_subtrees(generator.params), generator.packed_metadata)


def _leaves(generator: Generator) -> list[tuple[tuple[str, ...], Any]]:
    """Paths and arrays, or their shapes where there are no weights."""
    leaves = [(path_of(k), x) for k, x in jax.tree_util.tree_leaves_with_path(generator.params)]
    return [(path, leaf) for path, leaf in leaves if path[0] != COLLECTION]


def _tensors(generator: Generator, weights: CompressionSpec) -> dict[str, CompressionSpec]:
    """What is compressed of a generator, tensor by tensor."""
    return isolate(plan_tensors(_leaves(generator), weights, generator.channel_axes))


def _count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _generator_table(config: Any, sized: list[Sized]) -> Table:
    lines = []
    for path, generator, instructions, _ in sized:
        images = sampling.image_shape(
            generator, config.batch_size, truncation_psi=config.truncation_psi
        )
        shape = features.feature_shape(config.features.name, config.features.side, images)
        lines.append({
            "generator": generator.name,
            "file": f"{path}: {'not there' if instructions else 'found'}",
            "family": generator.family,
            "parameters": f"{_count(generator.params['params']):,}",
            "images": "×".join(map(str, images[1:])),
            "latent": str(generator.latent_size),
            "classes": str(generator.num_classes or "–"),
            "features": str(shape[1]),
            "float32 bytes": f"{4 * _count(generator.params):,}",
        })  # fmt: skip
    return make_rich(pd.DataFrame(lines), text=3, title="generators")


def _size_table(sized: list[Sized]) -> Table:
    """Packed bytes and their ratio to float32: a line a width and grid, a column a generator."""
    lines: dict[tuple[str, str], dict[str, str]] = {}  # of several clippings the last
    for _, generator, _, sizes in sized:
        for spec, size in sizes:
            bits, weights = spec.weights.bits, spec.weights
            grid = f"{weights.granularity}, {weights.scheme}" if bits else ""
            label = f"W{bits}A{spec.activations.bits}" if spec.activations else str(bits or "full")
            as_read = "packed " if bits is None and generator.packed_file else ""
            cell = f"{as_read}{size:,}  {4 * _count(generator.params) / size:5.1f}"
            lines.setdefault((label, grid), {"bits": label, "grid": grid})[generator.name] = cell
    title = "bytes on disk, and times smaller than float32"
    return make_rich(pd.DataFrame(lines.values()), text=2, title=title)


def _is_there(source: str) -> bool:
    file = datasets.named_file(source) if datasets.is_named(source) else Path(source)
    return source != "" and file.exists()


def _found(source: str) -> str:
    return f"{source}: {'found' if _is_there(source) else 'not there'}"


def _summary(config: Any, sized: list[Sized]) -> Iterator[str]:
    """Yields lines on the features, on both sides, and on the rows."""
    fields, network = config.reference, features.FEATURES.get(config.features.name)
    if network is None:
        yield "features: as given"
    else:
        weights = features.weight_file(network, config.features.weights or None)
        there = "found" if weights is not None and weights.is_file() else "not there"
        yield (
            f"features: {network.name}, d = {network.dim}, at {config.features.side} pixels; "
            f"weights {weights or 'of an installed package'}: {there}"
        )
    n = f"n = {fields.num_images:,}" if fields.num_images else "n = all"
    if fields.samples_of:
        yield f"reference: {n} uncompressed samples of {fields.samples_of} itself"
    elif fields.sketch:
        yield f"reference: the sketch {_found(fields.sketch)}"
    else:
        yield f"reference: {n} of {_found(fields.features or fields.images)}"
    for path in config.samples:
        yield f"samples: {_found(path)}"
    images = f"m = {config.num_samples:,} images each, batches of {config.batch_size}"
    yield from (_search if config.search.share else _rows)(config, sized, images)
    for item in sized:
        if item.instructions:
            yield f"{item.path} is not there; {item.instructions}"


def _rows(config: Any, sized: list[Sized], images: str) -> Iterator[str]:
    alone = config.compression.layerwise
    counts = [
        sum(len(_tensors(g, s.weights)) if alone and s.weights.bits else 1 for s, _ in sizes)
        for _, g, _, sizes in sized
    ]
    rows = sum(counts) * len(config.seeds) + len(config.samples)
    yield (
        f"rows: {rows} = ({' + '.join(map(str, counts)) or 0}) settings × {len(config.seeds)} "
        f"seeds + {len(config.samples)} given samples; {images}, truncation_psi = "
        f"{config.truncation_psi}"
    )


def _search(config: Any, sized: list[Sized], images: str) -> Iterator[str]:
    """What a search does; it scores most settings only when others have turned out well."""
    fields, bits = config.search, config.compression.bits
    *_, spec = settings.compression_specs(config)
    n = "n as in the sketch," if config.reference.sketch else "n ="
    yield (
        f"search: the smallest widths out of {', '.join(map(str, bits))} bits, one a tensor, that "
        f"keep {fields.share:.0%} of precision and of recall by LSH; {n} m = "
        f"{fields.num_samples:,}, seed {fields.seed}"
    )
    for item in sized:
        yield (
            f"search of {item.generator.name}: full precision, {len(bits)} uniform widths, at most "
            f"{len(bits)} widths of each of {len(_tensors(item.generator, spec))} tensors alone, "
            "then mixed widths"
        )
    yield (
        f"rows: at most 4 a generator (full precision, the mixed widths found, two uniform widths) "
        f"× {len(config.seeds)} seeds, by {', '.join(config.metrics)}; {images}"
    )
