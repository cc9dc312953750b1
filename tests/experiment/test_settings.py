"""Bad configurations: one line that names the field, the value and the nearest valid choice."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from configured import changed

from configs import default
from lsh_gan.compression import Rule
from lsh_gan.experiment import evaluators, settings
from lsh_gan.metrics import HashSpec


def resolve(**changes):
    return settings.resolve(changed(default.get_config(), **changes))


def test_the_default_is_valid_and_asks_for_15_compressions():
    specs = [spec.weights for spec in settings.generator_specs(resolve())]
    assert len(specs) == 15
    assert specs[0].bits is None
    assert {(s.bits, s.clipping) for s in specs[1:]} == {
        (bits, clipping) for bits in range(2, 9) for clipping in ("none", "mse")
    }


def test_names_with_commas_are_split():
    config = resolve(metrics=("knn, lsh",), compression__clipping=("none,mse",))
    assert config.metrics == ("knn", "lsh")
    assert config.compression.clipping == ("none", "mse")


BAD_VALUES = [
    ("metrics", ("lpips",), r"^metrics: metric 'lpips' is unknown. Valid: fid, kid, knn"),
    ("features__name", "vgg19", r"^features.name: feature network 'vgg19' is unknown. Valid: dino"),
    ("features__name", "vgg16", r"defined for 224 only: say --config.features.side=224"),
    ("metrics", ("kn",), r"^metrics: metric 'kn' is unknown; did you mean 'knn'"),
    ("features__name", "efficientnet", "network 'efficientnet' is unknown; did you mean"),
    ("compression__clipping", ("msee",), r"^compression.clipping method 'msee' is unknown.*'mse'"),
    ("compression__granularity", ("channel",), r"^compression.granularity 'channel' is unk"),
    ("compression__scheme", ("afine",), r"^compression.scheme 'afine' is .* 'affine'"),
    ("compression__bits", (0,), r"bits = 0 is not .* from 1 to 16; the nearest valid .* is 1"),
    ("compression__bits", (17,), r"bits = 17 is not .*; the nearest valid .* is 16"),
    ("compression__bits", (4.5,), r"bits = 4.5 is not a whole number"),
    ("compression__activation_bits", (17,), r"activation_bits = 17 is not a .* 0 to 16"),
    ("compression__activation_bits", ("",), r"compression.activation_bits is empty"),
    ("compression__bits", ("a",), r"compression.bits = 'a' is not a whole number"),
    ("compression__clipping", ("",), r"compression.clipping is empty; expected at least one"),
    ("metrics", ("",), r"metrics is empty; expected at least one entry"),
    ("metrics", ("knn,knn",), r"metrics: 'knn' is given twice"),
    ("generators", ("dcgan", "dcgan"), r"generators: 'dcgan' is given twice"),
    ("seeds", ("",), r"seeds is empty; expected at least one entry"),
    ("seeds", ("a",), r"seeds = 'a' is not a whole number from 0 to 4294967295"),
    ("seeds", (1, 1), r"seeds: 1 is given twice"),
    ("hash__votes", "foo", r"hash.votes = 'foo'; expected a share in \(0, 1\]"),
    ("hash__min_level", "foo", r"hash.min_level = 'foo'; expected a number, or None"),
    ("hash__votes", 2, r"hash.votes = 2; expected a share in \(0, 1\]"),
    ("hash__votes", None, r"hash.votes = None is for lsh alone; expected a share with lsh_knn"),
    ("lsh_knn__bucket_rows", 4, r"lsh_knn.bucket_rows = 4; expected a .* from 5 to 1024"),
    ("lsh_knn__num_tables", 0, r"lsh_knn.num_tables = 0 is not .* 1 to 65535; .* is 1"),
    ("hash__ceiling_target", 1.5, r"hash.ceiling_target = 1.5; expected it in \(0, 1\)"),
    ("hash__width", 0.0, r"hash.width = 0.0; expected a positive number"),
    ("hash__num_directions", -1, r"hash.num_directions = -1; expected a .* from 1 to"),
    ("hash__num_bits", 99, r"hash.num_bits = 99; expected a .* from 0 to 10 \(or 'auto'\)"),
    ("compression__activation_bits", (), r"compression.activation_bits is empty"),
    ("compression__activation_clipping", "msee", r"activation_clipping 'msee' is unknown"),
    ("compression__num_calibration", 0, r"num_calibration = 0 is not .* from 1 up; .* is 1"),
    ("search__share", 1.5, r"search.share = 1.5; expected 0 .* to 1"),
    ("search__share", 0.95, r"compression.clipping = .*; expected one value"),
    ("hash__family", "afine", "^hash.family: hash family 'afine' is unknown; did you mean 'af"),
    ("num_samples", 4, r"^num_samples = 4; k = 3 needs at least 5 images"),
    ("num_samples", -5, r"^num_samples = -5; k = 3 needs at least 5 images"),
    ("reference__num_images", -5, r"reference.num_images = -5 is not .* from 0 up; .* is 0"),
    ("compression__percentile", 0.0, r"^compression.percentile = 0.0 is outside \(0, 100\]"),
    ("compression__num_stds", 0.0, r"^compression.num_stds = 0.0 is not positive"),
    ("features__side", 16, r"^features.side of efficientnet_lite0 is 16; expected at least 32"),
    ("hash__min_count", 4_999, r"^hash.min_count = 4999 is not .* from 1 to 1024; .* is 1024"),
    ("reference__num_images", 4, r"reference.num_images = 4; k = 3 needs at least 5"),
    ("batch_size", 0, r"batch_size = 0 is not .* from 1 up; the near.* is 1"),
    ("k", 2_000, r"^k = 2000 is not a whole number from 1 to 1024; the near.* is 1024"),
    ("k", 0, r"k = 0 is not a whole number from 1 to 1024; the near.* is 1"),
    ("seeds", (0, 2**32), r"seeds = 4294967296 is not .* 0 to 4294967295; .* is 4294967295"),
    ("seeds", (-1,), r"seeds = -1 is not a whole number from 0 to .* is 0"),
    ("reference__seed", 2**32, r"reference.seed = 4294967296 is not .* is 4294967295"),
    ("search__seed", -1, r"search.seed = -1 is not a whole number from 0 to 4294967295"),
    ("hash__seed", 2**32, r"hash.seed = 4294967296 is not a whole number from 0 to"),
    ("keep", 1.5, r"keep = 1.5; expected a share above 0, at most 1"),
    ("truncation_psi", 1.5, r"truncation_psi = 1.5; expected 0 to 1"),
    ("truncation_psi", float("nan"), r"truncation_psi = nan; expected 0 to 1"),
    ("generators", (), r"generators and samples are both empty"),
    ("compression__rules", ("a: bit=4",), "'a: bit=4' has no field 'bit'; did you mean 'bits'"),
    ("compression__rules", ("a: skip=maybe",), r"'a: .*' has 'skip=maybe'; expected skip"),
    ("compression__rules", ("a: skip bits=3",), r"rule 'a': skip and bits; expected one or"),
    ("compression__rules", ("a: bits",), r"'a: bits' has 'bits'; expected bits=VALUE"),
    ("compression__rules", ("a: bits=3 bits=4",), r"'a: .*' has bits twice"),
    ("reference__side", 10_000, r"reference.side = 10000 is not .* 0 to 4096; .* is 4096"),
    ("compression__rules", ("a",), r"'a' is no rule; expected 'PATTERN: skip'"),
    ("compression__rules", ("a: bits=17",), r"^compression.rules: rule 'a': bits = 17"),
    ("compression__rules", ("(: skip",), r"^compression.rules: rule '\('.*unterminated"),
]


LAYERWISE = {"compression__layerwise": True, "compression__bits": (4,)}
OWN = {"reference__samples_of": "dcgan", "reference__seed": 7}
SEARCH = {"search__share": 0.9, "compression__clipping": ("mse",), "search__seed": 7}
# What fields mean together.
BAD_PAIRS = [
    ({"compression__bits": (), "compression__full_precision": False}, "bits is empty and compr"),
    (LAYERWISE | {"compression__activation_bits": (8,)}, "activation_bits = .* all layers"),
    (
        {"compression__percentile": 0.0, "compression__activation_bits": (8,)},
        r"^compression.percentile = 0.0 is outside",
    ),
    ({"compression__bits": (), "compression__activation_bits": (8,)}, "without compression.bits"),
    (LAYERWISE | {"metrics": ("kid", "fid")}, "metrics = kid,fid: .* expected knn, lsh_knn or lsh"),
    (LAYERWISE | {"compression__correct_biases": True}, "correct_biases = .* all layers"),
    (LAYERWISE | {"compression__reestimate_batch_norms": True}, "norms = .* all layers"),
    (OWN | {"reference__images": "data/mine"},
     "^reference.samples_of and reference.images are both given; .* --config.reference.images="),
    (OWN | {"reference__features": "x.npy"}, "samples_of and reference.features are both"),
    ({"reference__images": ""}, r"reference\.images, .* reference\.sketch are all empty; "),
    (OWN | {"reference__seed": 0}, "reference.seed = 0 is in seeds too"),
    (OWN | {"reference__num_images": 0}, "reference.num_images = 0; expected a number"),
    (OWN | SEARCH, "reference.seed = 7 is in search.seed too"),
    ({"compression__bits": (), "compression__clipping": ("msee",)}, "'msee' is unknown"),
    ({"compression__granularity": ("per_group",)}, "group_size = 0; granularity per_group needs"),
    ({"compression__group_size": 16}, "group_size = 16 has no effect without granularity per_gr"),
    ({"truncation_psi": 0.5, "compression__correct_biases": True},
     "truncation_psi = 0.5: activation_bits.*expected 1.0"),
]  # fmt: skip


def test_bad_values():
    for changes, message in [*BAD_PAIRS, *(({field: x}, said) for field, x, said in BAD_VALUES)]:
        with pytest.raises(ValueError, match=message):
            resolve(**changes)
    with pytest.raises(TypeError, match=r"^generators: an entry is a function; .*'__main__:make'"):
        resolve(generators=(resolve,))


@pytest.mark.parametrize("name", ["features", "samples_of"])
def test_a_shipped_reference_is_but_the_default(name):
    for images in ("", "fashion_mnist"):
        changes = {f"reference__{name}": "dcgan", "reference__seed": 7}
        assert resolve(reference__images=images, **changes).reference[name] == "dcgan"


def test_batches_are_spread_over_all_devices(monkeypatch):
    monkeypatch.setattr(jax, "local_device_count", lambda: 4)
    config = resolve(batch_size=250, features__batch_size=0)
    assert (config.batch_size, config.features.batch_size) == (252, 0)


def test_rules_keep_their_order():
    rules = ("params/to_image/kernel: skip", "params/.*: bits=8 clipping=none")
    spec = settings.generator_specs(resolve(compression__rules=rules))[1]
    assert spec.weights.rules == (
        Rule(pattern="params/to_image/kernel", skip=True),
        Rule(pattern="params/.*", bits=8, clipping="none"),
    )


def test_every_field_of_the_hash_can_be_configured():
    fields = {"family": "affine", "num_tables": 4, "num_bits": "auto", "radius_bins": 2}
    fields |= {"width": 2.0, "num_directions": 16, "ceiling_target": 0.5}
    config = resolve(**{f"hash__{name}": value for name, value in fields.items()})
    assert dataclasses.asdict(evaluators.hash_spec(config)) == fields


def test_the_default_hash_is_that_of_the_library():
    assert evaluators.hash_spec(resolve()) == HashSpec()


def test_w4a8_is_one_field():
    widths = {
        "compression__bits": np.arange(4, 5),
        "compression__activation_bits": np.int32([0, 8]),
    }
    config = resolve(**{name: tuple(numbers) for name, numbers in widths.items()})
    assert json.dumps(config.to_dict())  # for which numbers of NumPy become Python's
    specs = settings.generator_specs(config)
    full, first, second, third, fourth = specs
    assert not full.needs_latents
    assert (first.activations, second.activations) == (None, None)
    assert {third.activations.bits, fourth.activations.bits} == {8}
    assert third.activations.scheme == "affine"
    assert third.weights.bits == 4


def test_options_of_clipping_hold_for_activations_too():
    config = resolve(
        compression__activation_bits=(8,),
        compression__activation_clipping="percentile",
        compression__percentile=99.0,
        compression__num_stds=2.0,
    )
    inputs = settings.generator_specs(config)[-1].activations
    assert (inputs.percentile, inputs.num_stds) == (99.0, 2.0)
