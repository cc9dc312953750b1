"""Prints what a configuration would measure, and the size of everything, from shapes alone.

`python main.py --config=FILE --dry_run` runs everything up to sampling by abstract evaluation. A
generator without a file is built as the configuration expects it.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pandas as pd

from lsh_gan import datasets, devices, features
from lsh_gan.compression import GeneratorSpec
from lsh_gan.compression.pipeline import packed_size
from lsh_gan.experiment import recipes, settings
from lsh_gan.experiment.measurement import spec_fields
from lsh_gan.experiment.reference import choose_network, open_reference, open_samples
from lsh_gan.generators import Generator
from lsh_gan.generators.functions import FAMILY
from lsh_gan.results.labels import TITLES, bits_label, deciding, grid_label, make_rich, print_table


class Sized(NamedTuple):
    """One generator of a dry run."""

    path: str
    generator: Generator
    instructions: str  # how to get its file; "" if it exists
    # Each setting, its bytes on disk, and the number of tensors that it quantizes.
    sizes: list[tuple[GeneratorSpec, int, int]]


def run(config: Any) -> None:
    """Prints what `config` would measure; raises as `sweep.run`, except for files to be fetched."""
    config = settings.resolve(config)
    sized = measure_sizes(config)
    if _is_there(config.reference.features or config.reference.images):
        opened = open_reference(config)
        samples = [open_samples(config, path) for path in config.samples if _is_there(path)]
        shape = opened.image_shape if opened else None
        settings.check_image_sizes(config, shape, [item.generator for item in sized], samples)
        choose_network(config, [opened, *samples] if opened else samples)
    if not devices.is_first():
        return
    if sized:
        lines = [_generator_line(config, item) for item in sized]
        print_table(make_rich(pd.DataFrame(lines), text=3, title="generators"))
        title = "bytes on disk, and times smaller than float32"
        print_table(make_rich(pd.DataFrame(_size_lines(sized)), text=2, title=title))
    sys.stdout.writelines(f"{line}\n" for line in _summary(config, sized))


def measure_sizes(config: Any) -> list[Sized]:
    """Evaluates generators abstractly: from their files if these exist, else from `recipes`."""
    found = [recipes.load_or_abstract(config, path) for path in config.generators]
    specs = settings.generator_specs(config)
    # Renamed as in a run before sizes are counted, since packed files hold the name.
    renamed, _ = recipes.rename(config, [generator for generator, _ in found])
    return [
        Sized(path, generator, text, [(spec, *_size(generator, spec)) for spec in specs])
        for path, generator, (_, text) in zip(config.generators, renamed, found, strict=True)
    ]


def _size(generator: Generator, spec: GeneratorSpec) -> tuple[int, int]:
    """Returns the result of `packed_size`, or for a packed file as it is, the size of this file."""
    if generator.packed_file and spec.weights.bits is None:
        return generator.packed_file.stat().st_size, 0
    options: Any = {"channel_axes": generator.channel_axes, "metadata": generator.packed_metadata}
    return packed_size(generator.module, generator.params, spec, **options)


def _num_values(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _generator_line(config: Any, item: Sized) -> dict[str, str]:
    generator = item.generator
    params = generator.params if generator.family == FAMILY else generator.params["params"]
    return {
        "generator": generator.name,
        "file": f"{item.path}: {'not there' if item.instructions else 'found'}",
        "family": generator.family,
        "parameters": f"{_num_values(params):,}",
        "images": "×".join(map(str, generator.image_shape)),
        "latent": str(generator.latent_size),
        "classes": str(generator.num_classes or "–"),
        "features": str(features.dim_of(config.features.name)),
        "float32 bytes": f"{4 * _num_values(generator.params):,}",
    }


def _size_lines(sized: list[Sized]) -> Iterable[dict[str, str]]:
    """Returns packed bytes and ratios: a line per width and grid, a column per generator."""
    lines: dict[tuple[str, str], dict[str, str]] = {}  # the last one of several clippings
    for item in sized:
        num_bytes = 4 * _num_values(item.generator.params)
        for spec, size, _ in item.sizes:
            row = spec_fields(spec)
            label, grid = bits_label(row), grid_label(row)
            line = lines.setdefault((label, grid), {"bits": label, "grid": grid})
            as_read = "packed " if label == "full" and item.generator.packed_file else ""
            line[item.generator.name] = f"{as_read}{size:,}  {num_bytes / size:5.1f}"
    return lines.values()


def _is_there(source: str) -> bool:
    file = datasets.named_file(source) if datasets.is_named(source) else Path(source)
    return source != "" and file.exists()


def _found(source: str) -> str:
    return f"{source}: {'found' if _is_there(source) else 'not there'}"


def _summary(config: Any, sized: list[Sized]) -> Iterator[str]:
    """Yields lines about the features, both sides and the rows."""
    fields, network = config.reference, features.FEATURES.get(config.features.name)
    if own := features.own(config.features.name):
        yield f"features: {own.name}, d = {own.dim}, at {own.side} pixels; {config.features.name}"
    elif network is None:
        yield "features: as given"
    else:
        weights = features.weight_file(network, config.features.weights or None)
        yield (
            f"features: {network.name}, d = {network.dim}, at {config.features.side} pixels; "
            f"weights {_found(str(weights or 'of an installed package'))}"
        )
    n = f"n = {fields.num_images:,}" if fields.num_images else "n = all"
    if fields.samples_of:
        yield f"reference: {n} uncompressed samples of {fields.samples_of} itself"
    elif fields.sketch:
        yield f"reference: the sketch {_found(fields.sketch)}"
    else:
        yield f"reference: {n} of {_found(fields.features or fields.images)}"
    yield from (f"samples: {_found(path)}" for path in config.samples)
    search, bits, seeds = config.search, config.compression.bits, f"{len(config.seeds)} seeds"
    m = f"m = {config.num_samples:,} images each" if sized else "m = all that are given"
    images = f"{m}, batches of {config.batch_size}"
    if search.share:  # which settings are scored depends on earlier scores
        title = TITLES[deciding(config.metrics)]
        yield (
            f"search: the smallest widths out of {', '.join(map(str, bits))} bits, one a tensor, "
            f"that keep {100 * search.share:g}% of precision and of recall by {title}; "
            f"{'' if fields.sketch else 'n = '}m = {search.num_samples:,}, seed {search.seed}"
        )
        for item in sized:
            yield (
                f"search of {item.generator.name}: full precision, at most {len(bits)} uniform "
                f"widths and {len(bits)} of each of {item.sizes[-1][2]} tensors alone, then mixed "
                "widths"
            )
        yield (
            f"rows: at most 4 a generator × {seeds}, by {', '.join(config.metrics)}, and those of "
            f"seed {search.seed} that confirm them; {images}"
        )
    else:
        alone, given = config.compression.layerwise, len(config.samples)
        counts = [
            sum(tensors if alone and spec.weights.bits else 1 for spec, _, tensors in item.sizes)
            for item in sized
        ]
        rows, each = sum(counts) * len(config.seeds) + given, " + ".join(map(str, counts)) or "0"
        yield (
            f"rows: {rows} = ({each}) settings × {seeds} + {given} given samples; {images}, "
            f"truncation_psi = {config.truncation_psi}"
        )
    yield from (f"{x.path} is not there; {x.instructions}" for x in sized if x.instructions)
