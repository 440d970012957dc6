"""Writes nanotorch/datasets/*.csv.gz anew from the copies that scikit-learn carries.

    python scripts/build_datasets.py

Needs scikit-learn (`pip install -e ".[sklearn]"`). The text inside comes out the same each time;
tests/test_datasets.py holds its checksums and compares the values with scikit-learn's.
"""

from __future__ import annotations

import gzip
from pathlib import Path

from sklearn import datasets as sklearn_datasets

FOLDER = Path(__file__).resolve().parent.parent / "nanotorch" / "datasets"
SOURCES = {
    "breast_cancer": sklearn_datasets.load_breast_cancer,
    "diabetes": lambda: sklearn_datasets.load_diabetes(scaled=False),
    "digits": sklearn_datasets.load_digits,
    "iris": sklearn_datasets.load_iris,
    "wine": sklearn_datasets.load_wine,
}


def decimal(value: float) -> str:
    """The shortest text that reads back as the same float64; whole numbers without a point."""
    return str(int(value)) if value == int(value) else repr(float(value))


def main() -> None:
    for name, source in SOURCES.items():
        bunch = source()
        lines = [",".join([*map(str, bunch.feature_names), "target"])]
        for row, target in zip(bunch.data, bunch.target, strict=True):
            lines.append(",".join(decimal(value) for value in [*row, target]))
        content = ("\n".join(lines) + "\n").encode("ascii")
        path = FOLDER / f"{name}.csv.gz"
        # mtime=0: a time stamp would change the bytes with every build.
        path.write_bytes(gzip.compress(content, compresslevel=9, mtime=0))
        print(f"{path.relative_to(FOLDER.parent.parent)}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
