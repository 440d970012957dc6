"""Tries a release up to the upload: builds, checks, and installs the wheel in fresh environments.

    python scripts/check_release.py [--keep FOLDER]

Needs `pip install build twine "readme_renderer[md]" uv`. Every environment trains breast_cancer in
an empty folder, far from the sources. Exits with 1 if anything failed, after trying the rest.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
EXTRAS = ("data", "sklearn", "onnx", "tensorboard", "bfloat16")
NUMPY = "numpy==2.0.*"
PROGRAM = "import nanotorch, numpy; print(nanotorch.__version__, 'on numpy', numpy.__version__)"


def call(*command: str | Path, cwd: Path = ROOT) -> tuple[bool, str]:
    """Whether a command succeeded, and the end of what it said."""
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    result = subprocess.run(
        [*map(str, command)], cwd=cwd, env=variables, capture_output=True, text=True
    )
    said = (result.stdout + result.stderr).strip().splitlines()
    return result.returncode == 0, "\n".join(said[-8:])


class Check:
    """The list of what was tried."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.passed = 0

    def step(self, name: str, *command: str | Path, cwd: Path = ROOT) -> bool:
        good, said = call(*command, cwd=cwd)
        print(f"{'ok  ' if good else 'FAIL'} {name}: {said.splitlines()[-1] if said else ''}")
        if good:
            self.passed += 1
        else:
            self.failed.append(name)
            print(said)
        return good


def trains(
    check: Check, name: str, wheel: str, python: str, folder: Path, first: tuple[str, ...] = ()
) -> None:
    """An environment of its own, with the wheel and what it needs, trains in an empty folder.

    `first`: what is installed before the wheel, which then takes no other versions.
    """
    environment, empty = folder / f"env-{name}", folder / f"empty-{name}"
    empty.mkdir()
    uv = [sys.executable, "-m", "uv"]
    here = environment / "bin" / "python"
    good, said = call(*uv, "venv", "-q", "--python", python, environment)
    if not good:
        print(f"--   {name}: no Python {python} here ({said.splitlines()[-1] if said else ''})")
        return
    install = [*uv, "pip", "install", "-q", "--python", str(here)]
    if first and not check.step(f"{name}: versions", *install, *first):
        return
    install += [wheel]
    if check.step(f"{name}: install", *install):
        check.step(f"{name}: import", here, "-W", "error", "-c", PROGRAM, cwd=empty)
        check.step(
            f"{name}: train", environment / "bin" / "nanotorch", "train", "breast_cancer", cwd=empty
        )
    shutil.rmtree(environment, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="folder for the two files")
    options = parser.parse_args()
    check = Check()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dist = folder / "dist"
        if not check.step("build", sys.executable, "-m", "build", "-o", dist, ROOT):
            return 1
        files = sorted(dist.iterdir())
        wheel = next(str(path) for path in files if path.suffix == ".whl")
        check.step("twine check", sys.executable, "-m", "twine", "check", "--strict", *files)
        readme = folder / "README.md"
        code = "import sys, zipfile; z = zipfile.ZipFile(sys.argv[1]); " \
            "m = next(n for n in z.namelist() if n.endswith('METADATA')); " \
            "open(sys.argv[2], 'w').write(z.read(m).decode().split('\\n\\n', 1)[1])"  # fmt: skip
        check.step("description", sys.executable, "-c", code, wheel, readme)
        check.step(
            "description rendered", sys.executable, "-m", "readme_renderer", readme, "-o",
            folder / "README.html",
        )  # fmt: skip
        for version in PYTHONS:
            trains(check, f"Python {version}", wheel, version, folder)
        newest = f"{sys.version_info.major}.{sys.version_info.minor}"
        for extra in EXTRAS:
            trains(check, f"extra {extra}", f"{wheel}[{extra}]", newest, folder)
        trains(check, "NumPy 2.0", wheel, newest, folder, (NUMPY,))
        oldest = ("--resolution", "lowest-direct", "-r", str(ROOT / "pyproject.toml"))
        trains(check, "oldest", wheel, "3.11", folder, oldest)
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            for path in files:
                shutil.copy(path, options.keep)
    print(f"{check.passed} passed, {len(check.failed)} failed")
    return bool(check.failed)


if __name__ == "__main__":
    sys.exit(main())
