"""Small real data sets that ship with the package: `load("breast_cancer")`, `names()`.

They are the tables that scikit-learn bundles, value for value, as gzip-compressed CSV files beside
this module. README.md in this folder names their origins and licences.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Table", "load", "names"]

_FOLDER = Path(__file__).parent
_CREATIVE_COMMONS = "CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/)"
_SCIKIT_LEARN = "BSD-3-Clause, as distributed by scikit-learn (LICENSE-scikit-learn.txt)"


@dataclass(frozen=True, eq=False)
class Table:
    """One data set in memory.

    - `features`: float64, shape (rows, columns), in the units of the source, not standardized
    - `target`: shape (rows,); int64 class numbers 0 … classes - 1, or float64 for a regression
    - `feature_names`: one per column; `target_names`: one per class, empty for a regression
    """

    name: str
    features: NDArray[np.float64]
    target: NDArray[Any]
    feature_names: tuple[str, ...]
    target_names: tuple[str, ...]
    description: str
    source: str
    licence: str


@dataclass(frozen=True)
class _Entry:
    """What the catalogue knows of a data set before its file is read."""

    target_names: tuple[str, ...]
    description: str
    source: str
    licence: str


_CATALOGUE = {
    "breast_cancer": _Entry(
        target_names=("malignant", "benign"),
        description=(
            "569 biopsies (fine needle aspirates) of a breast mass: 30 measurements of the cell "
            "nuclei in a digitized image, and whether the mass was malignant (0) or benign (1)."
        ),
        source=(
            "W. Wolberg, O. Mangasarian, N. Street, W. Street: Breast Cancer Wisconsin "
            "(Diagnostic), UCI Machine Learning Repository, 1995, "
            "https://doi.org/10.24432/C5DW2B"
        ),
        licence=_CREATIVE_COMMONS,
    ),
    "diabetes": _Entry(
        target_names=(),
        description=(
            "442 diabetes patients: age, sex, body mass index, mean blood pressure and six blood "
            "serum measurements; the target is the progression of the disease after one year "
            "(25 to 346). The raw values, not scikit-learn's scaled ones."
        ),
        source=(
            "B. Efron, T. Hastie, I. Johnstone, R. Tibshirani: Least Angle Regression, "
            "Annals of Statistics 32 (2004) 407-499"
        ),
        licence=_SCIKIT_LEARN,
    ),
    "digits": _Entry(
        target_names=tuple("0123456789"),
        description=(
            "1,797 handwritten digits as 8 x 8 images, row by row; each pixel is a whole number "
            "0 … 16 (the inked dots in a block of 4 x 4). The target is the digit."
        ),
        source=(
            "E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits (its test part), "
            "UCI Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49"
        ),
        licence=_CREATIVE_COMMONS,
    ),
    "iris": _Entry(
        target_names=("setosa", "versicolor", "virginica"),
        description=(
            "150 iris flowers, 50 of each of three species: length and width of sepal and petal "
            "in centimetres; the target is the species."
        ),
        source=(
            "R. A. Fisher: The use of multiple measurements in taxonomic problems, Annals of "
            "Eugenics 7 (1936) 179-188; UCI Machine Learning Repository, "
            "https://doi.org/10.24432/C56C76 (two of whose rows differ from Fisher's)"
        ),
        licence=_CREATIVE_COMMONS,
    ),
    "wine": _Entry(
        target_names=("class_0", "class_1", "class_2"),
        description=(
            "178 wines from one region of Italy: 13 chemical measurements; the target is which "
            "of three cultivars the wine was made from."
        ),
        source=(
            "S. Aeberhard, M. Forina: Wine, UCI Machine Learning Repository, 1992, "
            "https://doi.org/10.24432/C5PC7J"
        ),
        licence=_CREATIVE_COMMONS,
    ),
}


def names() -> tuple[str, ...]:
    """The names that `load` knows, in alphabetical order."""
    return tuple(_CATALOGUE)


def load(name: str) -> Table:
    """Reads one bundled data set; nothing is read before this call, and nothing is kept after it.

    Raises ValueError for a name that is not among `names()`.

    >>> table = load("breast_cancer")
    >>> table.features.shape, table.target.shape, table.target_names
    ((569, 30), (569,), ('malignant', 'benign'))
    """
    entry = _CATALOGUE.get(name)
    if entry is None:
        known = ", ".join(_CATALOGUE)
        raise ValueError(f"datasets.load: no data set is called {name!r}; there are {known}")
    with gzip.open(_FOLDER / f"{name}.csv.gz", "rt", encoding="ascii") as file:
        feature_names = tuple(file.readline().rstrip("\n").split(",")[:-1])
        values = np.loadtxt(file, delimiter=",", dtype=np.float64)
    target = values[:, -1]
    return Table(
        name=name,
        features=np.ascontiguousarray(values[:, :-1]),
        target=target.astype(np.int64) if entry.target_names else target.copy(),
        feature_names=feature_names,
        target_names=entry.target_names,
        description=entry.description,
        source=entry.source,
        licence=entry.licence,
    )
