"""References that are kept: sketches in place of images, and features found again."""

import dataclasses
import hashlib
import logging

import configured
import jax
import numpy as np
import pytest
from children import draw_nothing
from configured import changed, save_images
from PIL import Image
from safetensors.numpy import load_file, save_file
from tiny_network import projected

from lsh_gan import datasets, features, metrics
from lsh_gan.experiment import evaluators, reference, settings, sweep
from lsh_gan.results import store

pytestmark = pytest.mark.usefixtures("without_pictures")
N = 40  # rows of most sets, also of made features: all share their programs
SCORES = metrics.PrecisionRecall._fields


def tiny(**changes):
    """Two rows that embed little, by all metrics."""
    metrics = ("knn", "lsh_knn", "lsh")
    return configured.tiny(N, **{"compression__bits": (4,), "metrics": metrics} | changes)


def load_network(side=32):
    return projected(features.load("efficientnet_lite0", side=side))


@pytest.fixture(scope="module", autouse=True)
def projecting():
    """Networks keep their names and d, and compile in no time."""
    load = reference.load_network

    def load_projected(*given):
        network = load(*given)
        return network if network.name == features.GIVEN else projected(network)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "load_network", load_projected)
        yield


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, projecting):
    """The work folder of a finished run by LSH."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch.setattr)
        sweep.run(tiny(metrics=("lsh",)), folder)
    return folder


def sketched(workdir, **changes):
    file = str(workdir / "reference.sketch")
    return tiny(reference__sketch=file, reference__images="", metrics=("lsh",), **changes)


def scores(row, metric):
    names = [f"{metric}_{field}" for field in SCORES if f"{metric}_{field}" in row]
    assert len(names) > 6
    return {k: row[k] for k in (*names, "n", "m", "d", "bits", "generator")}


def test_a_sketch_scores_as_the_images_do(workdir, tmp_path):
    sweep.run(sketched(workdir), tmp_path / "run")
    by_images, by_sketch = store.read(workdir), store.read(tmp_path / "run")
    assert len(by_sketch) == 2
    for a, b in zip(by_images, by_sketch, strict=True):
        assert scores(a, "lsh") == scores(b, "lsh")
        assert b["reference"] == metrics.file_hash(workdir / "reference.sketch")
        assert a["row_hash"] != b["row_hash"]
        assert "knn_precision" not in b
    assert not (tmp_path / "run" / "reference.sketch").exists()


def test_rows_know_the_content_of_the_sketch(workdir, tmp_path):
    """The same name and configuration, another content: the rows are measured again."""
    file = tmp_path / "reference.sketch"
    fitted = metrics.load(workdir / "reference.sketch")
    metrics.save(file, fitted)
    fake = np.random.default_rng(0).standard_normal((N, 1280)).astype(np.float32)
    np.save(tmp_path / "fake.npy", fake)
    config = sketched(tmp_path, generators=(), samples=(str(tmp_path / "fake.npy"),))
    sweep.run(config, tmp_path / "run")
    sweep.run(config, tmp_path / "run")
    assert len(store.read(tmp_path / "run")) == 1
    both = metrics.merge(fitted.sketch, fitted.sketch)
    metrics.save(file, fitted._replace(sketch=both, second=None))
    sweep.run(config, tmp_path / "run")
    first, second = store.read(tmp_path / "run")
    assert first["row_hash"] != second["row_hash"]
    assert (first["n"], second["n"]) == (40, 80)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features__side": 40}, r"made of 'effici.* at 32 px .*; expected '.* at 40 px"),
        ({"reference__side": 16}, "; expected .*images cropped and resized to 16 px"),
        ({"hash__num_tables": 16}, r"hash\.num_tables = 32, not 16; say --config\.hash\.num_t"),
        ({"hash__num_bits": 4}, r"with hash\.num_bits = auto, not 4; say --config\.hash\.num_"),
        ({"hash__seed": 1}, r"reference\.sketch: made with another hash\.seed than 1; expected"),
        ({"hash__votes": None}, r"with hash\.votes = 0\.5, not None; say --config\.hash\.vo"),
        ({"metrics": ("knn", "lsh")}, r"metrics = knn,lsh with reference\.sketch; .*metrics=lsh"),
        ({"reference__features": "x.npy"}, r"reference\.sketch and reference\.features are both"),
    ],
)  # fmt: skip
def test_a_sketch_made_otherwise_is_refused(workdir, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        sweep.run(changed(sketched(workdir), **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_sketch_of_images_of_another_size_is_refused(workdir, tmp_path, caplog):
    np.save(tmp_path / "fake.npy", np.zeros((9, 28, 28), np.uint8))
    config = sketched(workdir, samples=(str(tmp_path / "fake.npy"),))
    message = (
        r"samples .*fake\.npy have 28×28 pixels, but the reference reference\.sketch has 32×32"
    )
    with pytest.raises(ValueError, match=message):
        sweep.run(config, tmp_path / "run")
    # Sketches of former versions name no size: they are taken, and the log says what is unknown.
    network = load_network()
    fitted = metrics.load(workdir / "reference.sketch")
    source = evaluators.feature_source(config, network)
    assert fitted.sketch.hasher.source == evaluators.feature_source(config, network, (32, 32, 1))
    hasher = fitted.sketch.hasher._replace(source=source)
    former = fitted._replace(sketch=fitted.sketch._replace(hasher=hasher), second=None)
    metrics.save(tmp_path / "reference.sketch", former)
    with caplog.at_level(logging.WARNING, "absl"):
        loaded, shape = evaluators.load_sketch(settings.resolve(sketched(tmp_path)), network)
    assert (loaded.sketch.rows, shape) == (40, None)
    assert "does not say of which size" in warnings_of(caplog)[0]


def test_files_that_are_no_sketch(workdir, tmp_path):
    config = sketched(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"reference\.sketch: no such file"):
        sweep.run(config, tmp_path / "run")
    file = tmp_path / "reference.sketch"
    whole = (workdir / "reference.sketch").read_bytes()
    for content in (whole[:-100], b"sketch", b""):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"reference\.sketch: no sketch, or a damaged one"):
            sweep.run(config, tmp_path / "run")
    save_file({"features": np.zeros((3, 2), np.float32)}, file)
    with pytest.raises(ValueError, match=r"reference\.sketch: layout none; expected \d+: make it"):
        sweep.run(config, tmp_path / "run")
    file.unlink()
    file.mkdir()
    with pytest.raises(ValueError, match=r"reference\.sketch: is a folder; expected the file"):
        sweep.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_own_sketches_score_too(workdir, tmp_path):
    """Made with the library: no second sample, and other rows."""
    config = settings.resolve(tiny())
    network = load_network()
    source = evaluators.feature_source(config, network)
    x = np.random.default_rng(0).standard_normal((N, network.dim)).astype(np.float32)
    hasher = metrics.fit_hash(jax.random.key(0), x, evaluators.hash_spec(config), source=source)
    file = tmp_path / "reference.sketch"
    metrics.save(file, metrics.build(hasher, x))
    fitted, shape = evaluators.load_sketch(settings.resolve(sketched(tmp_path)), network)
    assert fitted.sketch.rows == N
    assert shape is None  # the text that it was given names no size
    assert (fitted.min_count, fitted.votes, fitted.second) == (1, 0.5, None)
    metrics.save(file, metrics.build(hasher, x, keep_addresses=False))
    with pytest.raises(ValueError, match=r"holds counts alone, .*keep_addresses=True"):
        evaluators.load_sketch(settings.resolve(sketched(tmp_path)), network)


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_features_are_kept_and_computed_again_where_they_are_damaged(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv(datasets.FOLDER_VARIABLE, str(tmp_path / "cache"))
    network = load_network()
    config = settings.resolve(tiny(metrics=("knn",)))
    held = reference.load_reference(config, network, reference.open_reference(config))
    fake = np.random.default_rng(0).standard_normal((N, 1280)).astype(np.float32)

    def scored():
        return held.fit(config, network, lambda count: None)["knn"](fake)[:2]

    first = scored()
    with monkeypatch.context() as patch:
        patch.setattr(features, "stream", None)  # nothing is computed again
        assert scored() == first
    files = sorted((tmp_path / "cache").glob("*.features"))
    cut, other = (file.read_bytes() for file in files)
    for damaged in ((cut[:-40], bytes(40) + other[40:]), (other, other)):
        for file, content in zip(files, damaged, strict=True):
            file.write_bytes(content)
        with caplog.at_level(logging.WARNING, "absl"):
            assert scored() == first
    said = warnings_of(caplog)
    assert ["computed again" in text for text in said] == [True] * 3
    assert "holds features of {" in said[-1]
    assert [load_file(file)["features"].shape for file in files] == [(40, 1280)] * 2


@pytest.mark.parametrize(
    "change",
    [{"inclusive": False, "k": 2, "extended": True, "hash__votes": 0.9}, {"hash__votes": None}],
    ids=str,
)
def test_every_metric_does_what_the_configuration_says(change):
    """As the library called directly; half on a lattice, where spheres hold points."""
    rng = np.random.default_rng(0)
    pair = reference, generated = [
        rng.integers(0, 3, (300, 4)).astype(np.float32) + np.float32(shift) for shift in (0, 1)
    ]
    for side in pair:  # points of which not all tables say the same
        side[150:] = rng.normal(1.5, 1, (150, 4))
    names = ["knn", "lsh_knn", "lsh", "kid", "fid"]
    if None in change.values():
        names.remove("lsh_knn")
    config = settings.resolve(tiny(metrics=tuple(names), lsh_knn__num_tables=6, **change))
    found = evaluators.ReferenceFeatures(reference, None, "a network")
    fitted = evaluators.fit(config, found)
    key, votes = jax.random.key(config.hash.seed), config.hash.votes
    balls, spec = {"k": config.k, "inclusive": config.inclusive}, evaluators.hash_spec(config)
    hits = {"membership": True}
    six = dataclasses.replace(spec, num_tables=6)
    expected = {
        "knn": lambda: metrics.knn_precision_recall(
            *pair, **balls, **hits, extended=config.extended
        ),
        "lsh_knn": lambda: metrics.lsh_knn_precision_recall(
            key, *pair, spec=six, votes=votes, **balls, **hits
        ),
        "lsh": lambda: metrics.lsh_precision_recall(key, *pair, spec=spec, votes=votes, **hits),
        "kid": lambda: metrics.kid(*pair),
        "fid": lambda: (metrics.frechet_distance(*pair), None),
    }
    assert list(fitted) == names
    for name, score in fitted.items():
        for found, value in zip(score(generated), expected[name](), strict=True):
            np.testing.assert_array_equal(found, value, name)


def given(folder, d=24, fake_d=None, n=60, **changes):
    """Features of no network known here, on both sides."""
    rng = np.random.default_rng(0)
    for name, shape in (("real", (n, d)), ("fake", (N, fake_d or d))):
        np.save(folder / f"{name}.npy", rng.standard_normal(shape).astype(np.float32))
    changes = {"features__name": "given", "metrics": ("knn",), **changes}
    return tiny(
        generators=(), samples=(str(folder / "fake.npy"),), reference__images="",
        reference__features=str(folder / "real.npy"),
        **{"reference__num_images": 0, **changes},
    )  # fmt: skip


@pytest.mark.parametrize("name", ["given", "efficientnet_lite0"])
def test_features_of_any_d_on_both_sides(name, tmp_path):
    config = given(tmp_path, features__name=name)
    sweep.run(config, tmp_path / "run")
    (row,) = store.read(tmp_path / "run")
    real, fake = (np.load(tmp_path / f"{side}.npy") for side in ("real", "fake"))
    expected = metrics.knn_precision_recall(real, fake, k=config.k)
    assert (row["knn_precision"], row["knn_recall"]) == (expected.precision, expected.recall)
    assert (row["n"], row["m"], row["d"]) == (60, 40, 24)
    assert row["features"]["name"] == "given"
    assert "float32 (60, 24)" in row["reference_taken"]
    assert "float32 (40, 24)" in row["samples_taken"]
    np.save(tmp_path / "fake.npy", fake + np.float32(0.01))  # other content, another row
    sweep.run(config, tmp_path / "run")
    first, second = store.read(tmp_path / "run")
    assert first["samples"] != second["samples"]
    assert first["reference"] == second["reference"]


def test_a_sketch_of_given_features_takes_given_features(tmp_path):
    config = given(tmp_path, 1280, n=2 * N, metrics=("lsh",), reference__num_images=N)
    sweep.run(config, tmp_path / "run")
    config.reference.features, config.reference.sketch = "", str(tmp_path / "run/reference.sketch")
    sweep.run(config, tmp_path / "again")
    (a,), (b,) = store.read(tmp_path / "run"), store.read(tmp_path / "again")
    assert scores(a, "lsh") == scores(b, "lsh")
    np.save(tmp_path / "fake.npy", np.zeros((40, 12), np.float32))
    with pytest.raises(ValueError, match=r"d = 1280.*d = 12"):
        sweep.run(config, tmp_path / "third")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fake_d": 12}, r"fake\.npy: d = 12; the other side has d = 24"),
        ({"generators": ("dcgan",)}, r"^features\.name = given: there is no network to embed"),
        ({"reference__features": ""}, r"^features\.name = given: .*expected no generators, and"),
        ({"samples": ("fashion_mnist",)}, r"fashion_mnist: holds images \(.*; expected float f"),
        ({"features__name": "efficientnet_lite0", "generators": ("dcgan",)},
         r"real\.npy: d = 24; the feature network has d = 1280\. Features of any d are"),
    ],
)  # fmt: skip
def test_features_that_cannot_be_compared(changes, message, tmp_path):
    fake_d = changes.pop("fake_d", None)
    config = changed(given(tmp_path, fake_d=fake_d), **changes)
    if not config.reference.features:
        config.reference.images = "fashion_mnist"
    with pytest.raises(ValueError, match=message):
        sweep.run(config, tmp_path / "run")


@pytest.mark.parametrize("held", [reference.HELD, 0])
def test_n_images_are_drawn_before_they_are_decoded(held, tmp_path, monkeypatch):
    """The draw is one of all files in order of path, whether or not pixels are kept."""
    monkeypatch.setattr(reference, "HELD", held)
    pixels = np.random.default_rng(0).integers(0, 256, (90, 32, 32), np.uint8)
    save_images(tmp_path, pixels)
    config = settings.resolve(tiny(reference__images=str(tmp_path), reference__seed=3))
    opened = reference.open_reference(config)
    network = load_network()
    decoded = []
    monkeypatch.setattr(Image.Image, "convert", lambda image, mode: decoded.append(1) or image)
    found = reference.load_reference(config, network, opened)
    assert len(decoded) == 80
    order = np.random.default_rng(3).permutation(90)
    for part, rows_of_part in ((found.first, order[:40]), (found.second, order[40:80])):
        expected = pixels[np.sort(rows_of_part), ..., None]
        for _ in range(2):  # may be gone through again
            np.testing.assert_array_equal(np.concatenate(list(part.images())), expected)
        digest = hashlib.sha256(f"uint8{expected.shape}".encode())
        for batch in datasets.cut(expected):
            digest.update(hashlib.sha256(batch.tobytes()).digest())
        assert part.content_hash == digest.hexdigest()
        assert len(part) == 40
    embedded = found.first.embed(network, batch_size=16)
    expected = features.embed(network, pixels[np.sort(order[:40]), ..., None], batch_size=16)
    np.testing.assert_array_equal(embedded, expected)


def test_extended_scores_are_rows_of_their_own(projected):
    config = configured.tiny(metrics=("knn", "lsh_knn", "lsh"))
    setup = sweep.prepare(settings.resolve(config))
    config.extended = True
    both = (setup, setup._replace(config=settings.resolve(config)))
    assert len({each.row_hash for part in both for each in sweep.measurements(part)}) == 2
