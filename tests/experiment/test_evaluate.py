"""`lsh_gan.evaluate`: folders, arrays and iterables score as a run of the same samples does."""

import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
from configured import save_images, tiny
from tiny_network import projected

import lsh_gan
from configs import smoke
from lsh_gan import FeatureNetwork, evaluate, features
from lsh_gan.experiment import reference, sweep
from lsh_gan.results import store

RNG = np.random.default_rng(0)
REAL, MADE = (RNG.integers(0, 256, (n, 32, 32, 1), np.uint8) for n in (24, 12))
X, Y = (RNG.normal(size=(n, 8)).astype(np.float32) for n in (40, 20))


def batches(array):
    return (array[start : start + 5] for start in range(0, len(array), 5))


@pytest.mark.usefixtures("without_pictures")
def test_folders_arrays_and_iterables_score_as_a_run_does(tmp_path, monkeypatch):
    load = reference.load_network  # the name and d of the network, which compiles in no time
    monkeypatch.setattr(reference, "load_network", lambda *given: projected(load(*given)))
    for name, images in (("real", REAL), ("made", MADE)):
        save_images(tmp_path / name, images[..., 0])
    config = tiny(
        12, generators=(), samples=(str(tmp_path / "made"),), metrics=("knn", "kid"),
        reference__images=str(tmp_path / "real"),
    )  # fmt: skip
    sweep.run(config, tmp_path / "run")
    (row,) = store.read(tmp_path / "run")
    options = {"features_side": 32, "metrics": ("knn", "kid")}
    folders = evaluate(tmp_path / "real", tmp_path / "made", **options)
    arrays = evaluate(REAL, MADE[..., 0], **options)
    streams = evaluate(batches(REAL), batches(MADE), **options)
    for result in (folders, arrays, streams):
        assert (result.n, result.m, result.d) == (12, 12, 1280)
        assert row["features"]["name"] == "efficientnet_lite0"
        for part in ("precision", "recall", "precision_stderr", "recall_ceiling"):
            assert getattr(result["knn"], part) == pytest.approx(row[f"knn_{part}"])
        assert result["kid"].distance == pytest.approx(row["kid_distance"], rel=1e-3)
    text, page = repr(folders), folders._repr_html_()
    assert f"{row['knn_precision']:.3f} ± {row['knn_precision_stderr']:.3f}" in text
    assert "n = 12 real (24 image files), m = 12 generated (12 image files)" in text
    assert "<caption>n = 12 real" in page


def test_a_network_of_the_users_own(monkeypatch):
    def f(params, x):
        return x.reshape(len(x), -1) - params["mean"]

    network = FeatureNetwork.from_function(f, {"mean": np.ones(768) / 2}, side=16, on_host=True)
    given = (np.asarray(features.embed(network, x)) for x in (REAL, MADE))
    options = {"metrics": "knn", "num_images": 12}
    by_name = evaluate(REAL, MADE, features=network, **options)
    by_features = evaluate(*given, **options)
    assert by_name.features == "f at 16 px"
    with pytest.raises(TypeError, match="name is a function; expected a name or a FeatureNetwork"):
        evaluate(REAL, MADE, features=f, **options)
    assert repr(by_name["knn"]) == repr(by_features["knn"])
    networks = [network, FeatureNetwork.from_function(f, {"mean": np.ones(768)}, side=16, name="g")]
    module = types.SimpleNamespace(make=lambda: networks[0])  # may change between two runs
    monkeypatch.setitem(sys.modules, "own_networks", module)
    for name in ("f", "g"):
        found = evaluate(REAL, MADE, features="own_networks:make", **options)
        assert found.features == f"{name} at 16 px"
        networks.pop(0)


def test_features_of_any_d_are_taken_as_they_are(tmp_path):
    np.save(tmp_path / "real.npy", X)
    result = evaluate(tmp_path / "real.npy", batches(Y), metrics=("lsh",))
    assert (result.features, result.n, result.m, result.d) == ("given", 20, 20, 8)
    assert result["lsh"].precision_ceiling is not None
    assert set(lsh_gan.__all__) <= set(dir(lsh_gan))  # a notebook completes the names
    assert "collapsed" not in repr(result)
    config = smoke.get_config()
    config.k, config.metrics = 4, ("knn",)
    everything = evaluate(X, jnp.asarray(Y, jnp.bfloat16), config=config, num_images=40)
    assert everything.n == 40
    assert everything["knn"].k == config.k == 4
    options = {"config": {"k": 4}, "metrics": "knn", "num_images": 40, "seed": np.int64(1)}
    assert evaluate(X, Y, **options)["knn"].k == 4
    assert [*evaluate(X, Y, config=config, metrics=("kid",)).scores] == ["kid"]
    real, made = np.random.default_rng(0).normal(size=(2, 100, 8))
    middle = repr(evaluate(real, made / 9, metrics="knn"))
    assert "1.000 ± 0.010!" in middle  # of 100 that agree
    assert "; ! collapsed: diversity is lost" in middle


@pytest.mark.parametrize(
    ("real", "made", "options", "error", "message"),
    [
        (REAL, MADE[:, :16, :16], {}, ValueError, "have 16×16 pixels, but the reference real has"),
        (REAL, MADE / 255.0, {}, ValueError, r"generated: images are float64 .*: save np"),
        (X, np.full((20, 8), np.nan), {}, ValueError, "generated: row 0 holds NaN or Inf"),
        (X, Y[:, :5], {}, ValueError, "generated: d = 5; the other side has d = 8"),
        (X, Y[:4], {}, ValueError, "generated: 4 samples; k = 3 needs at least 5"),
        (X, Y, {"num_images": 50}, ValueError, "num_images = 50: real has 40"),
        (X, Y, {"metrics": "kn"}, ValueError, "did you mean 'knn'"),
        (X, [], {}, ValueError, "generated: there are no batches"),
        (REAL, [*MADE[..., 0]], {}, ValueError, r"generated: images have shape \(32, 32\); exp"),
        (REAL, [*MADE], {}, ValueError, r"generated: images have shape \(32, 32, 1\); exp"),
        (X, ["a.png"], {}, TypeError, "a batch is a str; expected arrays: .* files their folder"),
        (X, Y, {"k": "3"}, ValueError, "k = '3' is not a whole number from 1 to 1024"),
        (X, Y, {"config": {"hash": {"bits": 3}}}, ValueError, "no field 'hash.bits'; did you mean"),
        (X, None, {}, TypeError, "generated is a NoneType; expected a path"),
        (X, [[Y, 0]], {}, TypeError, r"generated: a batch is a list; .* \(batch\[0\] for"),
        (X, [Y, Y[:, :3]], {}, ValueError, r"generated: a batch of \[3\] after one of \[8\]"),
        (REAL * np.uint8([1, 2, 3]), MADE, {}, ValueError, "samples generated are grey images"),
        (X, Y, {"k": 30}, ValueError, "bucket_rows = 24; expected a .* from 32 to 1024, as k = 30"),
        (X, Y, {"k": 30, "metrics": "knn"}, ValueError, "k = 30 needs at least 32"),
        ("no/such", Y, {}, FileNotFoundError, "no/such"),
        (REAL, MADE, {"features": "vgg16"}, FileNotFoundError, "the weights of vgg16"),
    ],
)
def test_unfit_samples(real, made, options, error, message):
    with pytest.raises(error, match=message):
        evaluate(real, made, **options)
