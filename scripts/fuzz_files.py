"""Reads files that are damaged at random, over all readers: only plain one-line errors are allowed.

    python scripts/fuzz_files.py [--count 20000] [--seed 0]

Prints a line for each file that ended in anything else, took more than ten seconds, or more memory
than all readers may take together; the exit status is 1 then.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import damage


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    wrong = damage.run(options.count, options.seed, seconds=10.0)
    print(f"{options.count:,} damaged files, seed {options.seed}: {len(wrong)} wrong")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
