"""Do the standard errors of scores and losses agree with the spread over fresh samples?

    python -m benchmarks.errors [--rows=1000] [--generated=1000] [--bits=5,3]
                                [--out=benchmarks/results]

The test images of Fashion-MNIST are split into disjoint references of ROWS rows. For each of them
every shipped generator draws GENERATED samples, at full precision and at each width (mse clipping),
from the same latents; every such draw has its own hash. The table gives a ratio: the stated error
of the metrics (root mean square over draws), divided by the standard deviation over draws, for
scores and for their kept shares. Ten draws determine it to a quarter. Writes
`errors_ROWS_GENERATED.md`; takes a few minutes on two cores.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import machine, options
from benchmarks.written import markdown
from configs import default
from lsh_gan import compression, metrics
from lsh_gan.compression import CompressionSpec, GeneratorSpec
from lsh_gan.experiment import settings, sweep
from lsh_gan.experiment.step import GeneratedSamples
from lsh_gan.results.answer import Kept, retention
from lsh_gan.results.labels import SCORES, TITLES

IMAGES, SEED = 10_000, 77  # images of the test set; seed of the latents
METRICS = {
    "knn": lambda _, *sets: metrics.knn_precision_recall(*sets, ceiling=False, membership=True),
    "lsh_knn": lambda *given: metrics.lsh_knn_precision_recall(
        *given, ceiling=False, membership=True
    ),
    "lsh": lambda *given: metrics.lsh_precision_recall(*given, ceiling=False, membership=True),
}


def kept(after: Any, before: Any, metric: str, score: str) -> Kept:
    """Computes the kept share of a score and its paired error."""
    field = f"{metric}_{score}"
    rows = [
        {
            "seed": 0,
            "n": scores.n,
            field: getattr(scores, score),
            **({f"{metric}_num_tables": scores.num_tables} if scores.num_tables else {}),
            "hits": {
                f"{field}_hits": getattr(scores, f"{score}_membership"),
                f"{field}_deviations": np.array(getattr(scores, f"{score}_deviations")),
            },
        }
        for scores in (after, before)
    ]
    return retention(rows[:1], rows[1:], metric, score)


def ratio(found: list[Any]) -> str:
    """Divides the stated error by the spread of values, given (value, error) of each draw."""
    values, errors = np.transpose(found)
    return f"{np.sqrt(np.mean(errors**2)) / np.std(values, ddof=1):.2f}"


def compare(
    reference: np.ndarray, samples: dict[int | None, np.ndarray], rows: int, generated: int
) -> list[list[str]]:
    """Returns a line per metric and score: ratios of full precision and of the kept shares.

    `samples` are features by width; None is full precision.
    """
    draws = min(len(reference) // rows, *(len(x) // generated for x in samples.values()))
    lines = []
    for metric, score_of in METRICS.items():
        scores = [
            {
                bits: score_of(
                    jax.random.key(i), reference[i * rows :][:rows], x[i * generated :][:generated]
                )
                for bits, x in samples.items()
            }
            for i in range(draws)
        ]
        for score in SCORES:
            full = [(getattr(x[None], score), getattr(x[None], f"{score}_stderr")) for x in scores]
            losses = [
                ratio([kept(x[bits], x[None], metric, score) for x in scores])
                for bits in samples
                if bits is not None
            ]
            lines.append([TITLES[metric], score, ratio(full), *losses])
    return lines


def main() -> None:
    """Draws samples, scores them and writes the table."""
    results = Path("benchmarks/results")
    args = options.parse(__doc__, rows=1_000, generated=1_000, bits="5,3", out=results)
    widths = [None, *map(int, args.bits.split(","))]
    config = default.get_config()
    config.metrics, config.reference.num_images = ("knn",), IMAGES // 2
    config.num_samples = args.generated * (IMAGES // args.rows)
    setup = sweep.prepare(settings.resolve(config))
    args.out.mkdir(parents=True, exist_ok=True)
    network, rest = setup.network, (setup.config.batch_size, setup.config.truncation_psi)
    parts = setup.reference.first, setup.reference.second
    reference = np.concatenate([np.asarray(x.embed(network)) for x in parts])
    lines = []
    for generator in setup.generators:
        samples = {}
        for bits in widths:
            weights = CompressionSpec(bits=bits, clipping="mse" if bits else "none")
            packed, _ = compression.pack_generator(
                generator.module, generator.params, GeneratorSpec(weights=weights),
                channel_axes=generator.channel_axes,
            )  # fmt: skip
            given = generator, generator.unpack(packed), SEED, setup.config.num_samples, *rest
            samples[bits] = np.asarray(GeneratedSamples(*given).embed(network))
        found = compare(reference, samples, args.rows, args.generated)
        lines += [[generator.name, *line] for line in found]
    head = ["generator", "metric", "score", "full precision"]
    text = (
        f"`python -m benchmarks.errors --rows={args.rows} --generated={args.generated}`, "
        f"{IMAGES // args.rows} draws, {machine.describe()}. Stated error divided by the spread "
        "over draws, for scores at full precision and for the shares that widths keep of them.\n\n"
    ) + markdown([*head, *(f"{bits} bits" for bits in widths[1:])], lines)
    print(text)
    (args.out / f"errors_{args.rows}_{args.generated}.md").write_text(text)


if __name__ == "__main__":
    main()
