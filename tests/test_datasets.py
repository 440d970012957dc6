"""The bundled data sets hold what they say, and exactly scikit-learn's values."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from nanotorch import datasets

# name: rows, columns, classes (None: a regression)
EXPECTED = {
    "breast_cancer": (569, 30, 2),
    "diabetes": (442, 10, None),
    "digits": (1797, 64, 10),
    "iris": (150, 4, 3),
    "wine": (178, 13, 3),
}
# SHA-256 of the uncompressed text
CHECKSUMS = {
    "breast_cancer": "7dd8e4f78b55cb5fa3cba00b0e61fa6046cbadcdaaa60ca5e48827b536723906",
    "diabetes": "3b271426c1bd56aebb217e16eb31a4b0f5a5669fe59258d6c6c65411a115cd22",
    "digits": "9f7fca3251c178a06039990b75e3023f8b888151d2e2d4579c3ba0d2744a1d00",
    "iris": "b9455ef311be450e7800226dd6993280bedd0ddb522d912b97bba6b535be6b37",
    "wine": "546a846b5fce7a9b41bcfc524abdb869bdf964b3a958ddcb4e8be5e30057702f",
}
every_name = pytest.mark.parametrize("name", EXPECTED)


def test_names_are_exactly_these() -> None:
    assert datasets.names() == tuple(EXPECTED)


@every_name
def test_shapes_dtypes_and_names_fit_together(name: str) -> None:
    rows, columns, classes = EXPECTED[name]
    table = datasets.load(name)
    assert table.name == name
    assert table.features.shape == (rows, columns)
    assert table.features.dtype == np.float64
    assert table.features.flags.c_contiguous
    assert np.isfinite(table.features).all()
    assert table.target.shape == (rows,)
    assert len(set(table.feature_names)) == columns
    if classes is None:
        assert table.target_names == ()
        assert table.target.dtype == np.float64
    else:
        assert len(table.target_names) == classes
        assert table.target.dtype == np.int64
        assert np.array_equal(np.unique(table.target), np.arange(classes))


@every_name
def test_source_and_licence_are_stated_and_stand_in_the_readme(name: str) -> None:
    table = datasets.load(name)
    readme = (Path(datasets.__file__).parent / "README.md").read_text(encoding="utf-8")
    (row,) = [line for line in readme.splitlines() if line.startswith(f"| `{name}` |")]
    assert table.description
    assert table.source.split(":")[0] in row
    assert table.licence.split(" (")[0].split(",")[0] in row


@every_name
def test_file_is_unchanged(name: str) -> None:
    content = gzip.decompress((Path(datasets.__file__).parent / f"{name}.csv.gz").read_bytes())
    assert hashlib.sha256(content).hexdigest() == CHECKSUMS[name]


@every_name
def test_values_are_those_of_scikit_learn(name: str) -> None:
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    arguments = {"scaled": False} if name == "diabetes" else {}
    theirs = getattr(sklearn_datasets, f"load_{name}")(**arguments)
    ours = datasets.load(name)
    # Older releases of scikit-learn have some values of diabetes one last bit away.
    maxulp = 1 if name == "diabetes" else 0
    np.testing.assert_array_max_ulp(ours.features, theirs.data, maxulp=maxulp)
    assert np.array_equal(ours.target, theirs.target)
    assert ours.feature_names == tuple(map(str, theirs.feature_names))
    if ours.target_names:
        assert ours.target_names == tuple(map(str, theirs.target_names))


def test_each_load_gives_arrays_of_its_own() -> None:
    first = datasets.load("iris")
    first.features[:] = 0.0
    assert datasets.load("iris").features.min() > 0.0


def test_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'brest_cancer'; there are breast_cancer, diabetes, dig"):
        datasets.load("brest_cancer")
