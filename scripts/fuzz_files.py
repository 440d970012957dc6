"""Reads files that are damaged at random, over all readers: only plain one-line errors are allowed.

    python scripts/fuzz_files.py [--count 20000] [--seed 0]

Prints a line for each file that ended in anything else or took more than five seconds, for a
reader that ended its process, and where all readers of a process took more than half a gigabyte;
the exit status is 1 then. A process that reads files may take four gigabytes of addresses.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

SHARE = 1000  # files for each process
ADDRESSES = 4 * 2**30
SECONDS = 5.0
WRONG = 3  # the exit status of a process that has read all its files, and not all well


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.share:
        import damage

        resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
        return WRONG * bool(damage.run(options.count, options.seed, seconds=SECONDS))
    wrong = 0
    for at in range(0, options.count, SHARE):
        seed, count = options.seed + at // SHARE, min(SHARE, options.count - at)
        place = tempfile.mkdtemp()
        command = [sys.executable, __file__, "--share", "--seed", str(seed), "--count", str(count)]
        code = subprocess.run(command, env=os.environ | {"TMPDIR": place}, check=False).returncode
        if code not in (0, WRONG):  # the file that is newest has ended its reader
            files = [path for path in Path(place).glob("*/files/**/*") if path.is_file()]
            newest = max(files, key=lambda path: path.stat().st_mtime, default="before any file")
            print(f"a reader ended with {code}: {newest}")
        if code:
            wrong += 1
        else:
            shutil.rmtree(place)
        print(
            f"{at + count:,} damaged files, {wrong} of {at // SHARE + 1} shares wrong", flush=True
        )
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
