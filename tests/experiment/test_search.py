"""The search on a generator whose damages are known in closed form."""

import dataclasses
import itertools
import re
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from configured import changed, scored_row, tiny

from configs import search as search_config
from lsh_gan import compression, generators
from lsh_gan.compression import CompressionSpec, GeneratorSpec
from lsh_gan.experiment import search, settings
from lsh_gan.experiment.search import WidthEvaluator, find
from lsh_gan.results import report, search_report
from lsh_gan.results.answer import retention
from lsh_gan.results.search_report import FULL, MIXED, SAME_SIZE, WITHIN

SIZES = {"a": 1000, "b": 4000, "c": 200}  # parameters of the layers
COSTS = {"a": 0.2, "b": 0.02, "c": 1.0}  # damage at b bits: cost · 4 / 4^b
OPTIONS = (2, 3, 4, 5, 6, 7, 8)


def bits_of(spec):
    """Width of each layer as rules say."""
    widths = {}
    for layer in SIZES:
        rule = next((r for r in spec.weights.rules if r.pattern in (layer, ".*")), None)
        skip = rule is not None and rule.skip
        widths[layer] = None if skip else rule.bits if rule else spec.weights.bits
    return widths


def row(spec):
    """What such a generator would score: damages add up, precision suffers half as much."""
    widths = {layer: b for layer, b in bits_of(spec).items() if b is not None}
    damage = sum(4 * COSTS[layer] / 4**b for layer, b in widths.items())
    return {
        "generator": "known",
        "row_hash": str(spec),
        "seed": 0,
        "lsh_precision": 0.8 * max(0.0, 1 - damage / 2),
        "lsh_recall": 0.6 * max(0.0, 1 - damage),
        "lsh_precision_stderr": 0.01,
        "lsh_recall_stderr": 0.01,
    }


def make_width_evaluator(measured):
    def measure(spec):
        measured.append(spec)
        return row(spec)

    base = GeneratorSpec(weights=CompressionSpec(bits=8))
    layers = {layer: {} for layer in SIZES}
    sizes = {b: {layer: size * b // 8 for layer, size in SIZES.items()} for b in OPTIONS}
    return WidthEvaluator("lsh", base, OPTIONS, layers, (), sizes, measure, Path("none"))


@pytest.mark.parametrize("share", [0.9, 0.95, 0.99])
def test_it_keeps_the_share_and_is_close_to_the_best_of_all_settings(share):
    evaluator = make_width_evaluator([])
    found = find(evaluator, evaluator, share)
    assert evaluator.kept(found[MIXED]).share >= share
    everything = [
        dict(zip(SIZES, widths, strict=True))
        for widths in itertools.product(OPTIONS, repeat=len(SIZES))
    ]
    best = min(
        evaluator.size(widths) for widths in everything if evaluator.kept(widths).share >= share
    )
    assert evaluator.size(found[MIXED]) <= 1.1 * best
    assert evaluator.size(found[MIXED]) < evaluator.size(found[WITHIN])
    assert evaluator.kept(found[SAME_SIZE]).share < share
    assert evaluator.size(found[SAME_SIZE]) <= evaluator.size(found[MIXED])


def test_it_judges_far_fewer_settings_than_there_are():
    measured, confirmed = [], []
    find(make_width_evaluator(measured), make_width_evaluator(confirmed), 0.95)
    assert len(set(measured)) < 45  # 10 here, of 7^3 = 343
    assert len(set(confirmed)) < 12


def test_a_tensor_of_few_values_takes_the_same_bytes_at_several_widths(monkeypatch):
    monkeypatch.setitem(SIZES, "c", 2)  # one byte at 4 to 7 bits
    monkeypatch.setitem(COSTS, "c", 2.5)  # 4 bits lose more than its part of the budget
    evaluator = make_width_evaluator([])
    found = find(evaluator, evaluator, 0.95)[MIXED]
    assert evaluator.kept(found).share >= 0.95
    assert evaluator.sizes[found["c"]]["c"] == 1


def test_nothing_keeps_an_impossible_share():
    evaluator = make_width_evaluator([])
    assert set(find(evaluator, evaluator, 1.0).values()) == {None}


def test_other_samples_take_back_what_the_search_was_flattered_by():
    evaluator = make_width_evaluator([])

    def flatter(spec):
        return row(spec) | {"lsh_recall": (0.6 * row(spec)["lsh_recall"]) ** 0.5}

    flattered = dataclasses.replace(evaluator, measure=flatter)
    found = find(flattered, evaluator, 0.95)[MIXED]
    alone = find(flattered, flattered, 0.95)[MIXED]
    assert evaluator.kept(alone).share < 0.95 <= evaluator.kept(found).share
    assert evaluator.size(found) < evaluator.size(find(evaluator, evaluator, 0.95)[WITHIN])


def test_scores_that_may_be_0_are_nothing_to_keep():
    few = {"lsh_recall": 0.0025, "lsh_recall_stderr": 0.0039}  # one hit of 400
    evaluator = make_width_evaluator([])
    evaluator = dataclasses.replace(evaluator, measure=lambda spec: row(spec) | few)
    with pytest.raises(ValueError, match=r"lsh_recall is 0\.0025 ± 0\.0039 at full"):
        find(evaluator, evaluator, 0.95)


def test_equal_widths_are_equal_settings():
    evaluator = make_width_evaluator([])
    assert evaluator.spec({"a": 4, "b": 4, "c": 4}).weights == CompressionSpec(bits=4)
    mixed = {"a": 4, "b": 3, "c": 4}
    assert bits_of(evaluator.spec(mixed)) == mixed
    assert bits_of(evaluator.isolated("b", 3)) == {"a": None, "b": 3, "c": None}


def evaluator_of(generator, *rules):
    """The evaluator of a generator and the rules of a configuration; it measures nothing."""
    config = settings.resolve(changed(search_config.get_config(), compression__rules=rules))
    session = SimpleNamespace(workdir=Path("none"))
    return search.make_width_evaluator(SimpleNamespace(config=config), generator, session)


def test_widths_that_rules_set_stay():
    fixed = ("params/to_image/kernel: skip", "params/up_0/.*: bits=3")
    found = evaluator_of(generators.load("dcgan"), *fixed, "params/project/.*: clipping=none")
    assert found.layers == {"params/project/kernel": {"clipping": "none"}, "params/up_1/kernel": {}}
    assert [rule.pattern for rule in found.fixed] == [rule.split(":")[0] for rule in fixed]


def test_a_generator_of_one_array_is_searched_too():
    params = {"w": np.random.default_rng(0).standard_normal((8, 16), np.float32)}
    images = lambda params, z: jnp.tanh(z @ params["w"]).reshape(-1, 4, 4, 1)  # noqa: E731
    own = generators.Generator.from_function(images, params, latent=8, name="own")
    alone = evaluator_of(own).isolated("w", 4)
    assert compression.compress(own.params, alone.weights)[1].tensors[0].bits == 4


def scored(role, seed, precision, recall=0.8):
    scores = {"lsh_precision": precision, "lsh_recall": recall}
    return scored_row(4, seed=seed, row_hash=role, roles=[role], **scores)


def test_kept_shares_are_of_the_seeds_that_both_have():
    full = [scored(FULL, 0, 0.8), scored(FULL, 1, 0.4)]
    kept = retention([scored(MIXED, 0, 0.6)], full, "lsh", "precision")
    assert kept.share == pytest.approx(0.75)
    both = [scored(MIXED, 0, 0.6), scored(MIXED, 1, 0.4)]
    assert retention(both, full, "lsh", "precision").share == pytest.approx(1.0 / 1.2)


def test_nothing_is_kept_of_a_score_of_0(tmp_path, capsys):
    measured = [scored(FULL, 0, 0.8, 0.0) | {"bits": None}, scored(MIXED, 0, 0.8, 0.0)]
    search_report.write(tmp_path, report.summarise(measured, ["lsh"]), ["lsh"], 0.9)
    printed = capsys.readouterr().out
    assert "0.800/0.000 (100/– %)" in printed
    assert "keeps less than 90% of precision and recall by LSH on generated samples " in printed
    assert "(precision +0 %, recall was 0): known.packed, " in printed


def test_a_share_that_is_kept_within_the_error_is_called_so(tmp_path, capsys):
    hits = np.arange(100) < 80
    kept = [
        scored(role, 0, x.mean()) | {"n": 100, "hits": {"lsh_precision_hits": x}}
        for role, x in ((FULL, hits), (MIXED, np.arange(100) < 71))
    ]
    measured = [kept[0] | {"bits": None}, kept[1]]  # 89 ± 4 %
    search_report.write(tmp_path, report.summarise(measured, ["lsh"]), ["lsh"], 0.9)
    assert "keeps 90% of precision and recall by LSH within the error on" in capsys.readouterr().out


def test_a_uniform_width_that_loses_more_on_unseen_samples_is_called_so(tmp_path, capsys):
    for precision, less in ((0.6, True), (0.8, False)):
        measured = [scored(FULL, 0, 0.8) | {"bits": None}, scored(MIXED, 0, 0.8)]
        measured.append(scored(WITHIN, 0, precision))
        search_report.write(tmp_path, report.summarise(measured, ["lsh"]), ["lsh"], 0.9)
        printed = capsys.readouterr().out
        assert ("), which keep less than 90% on these samples." in printed) == less


def test_full_precision_is_called_so_beside_quantized_activations(tmp_path):
    measured = [scored(FULL, 0, 0.8) | {"bits": None}, scored(MIXED, 0, 0.8)]
    measured[1] |= {"activation_bits": 8}
    search_report.write(tmp_path, report.summarise(measured, ["lsh"]), ["lsh"], 0.9, "n = 12")
    text = (tmp_path / "search.md").read_text()
    assert re.search("full precision *. full ", text)
    assert "\nn = 12\n" in text


@pytest.mark.parametrize("command", [search.run, search.compress])
def test_a_reference_that_is_smaller_than_the_loop_needs(command, tmp_path):
    np.save(tmp_path / "real.npy", np.zeros((12, 1280), np.float32))
    config = tiny(reference__features=str(tmp_path / "real.npy"), compression__bits=(4, 2))
    changed(config, metrics=("lsh",), search__share=0.9)
    with pytest.raises(ValueError, match=r"^search\.num_samples = 2000: .* has 12, .* is 12$"):
        command(config, tmp_path / "run")
