"""Command lines of benchmarks that ask for the impossible: one line, no traceback."""

import pytest

from benchmarks import options, validity


def test_a_missing_package_is_named_with_the_way_to_get_it():
    with pytest.raises(SystemExit) as end:
        options.need("no_such_package")
    assert str(end.value) == (
        "error: the package 'no_such_package' is not installed; "
        "pip install -r benchmarks/requirements.txt"
    )
    options.need("json")


def test_an_unknown_metric_names_the_nearest(tmp_path, monkeypatch):
    out = tmp_path / "results" / "validity"
    monkeypatch.setattr("sys.argv", ["validity", "--metrics=KNN,KN", f"--out={out}"])
    with pytest.raises(SystemExit, match="error: --metrics 'KN' is unknown; did you mean 'KNN'"):
        validity.main()
    monkeypatch.setattr("sys.argv", ["validity", "--data=gaus", f"--out={out}"])
    with pytest.raises(SystemExit, match="error: --data 'gaus' is unknown; did you mean 'gauss'"):
        validity.main()
    assert not out.parent.exists()


def test_names_are_split():
    assert options.names("--metrics", "b,a", {"a": 1, "b": 2}) == ["b", "a"]
