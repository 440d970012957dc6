"""What this machine has, and what is wrong with it: `nanotorch doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import nanotorch as nt
from nanotorch.distributed.launcher import INSTALL
from nanotorch.training.exits import say

CORE = ("numpy", "pydantic", "safetensors", "tqdm", "matplotlib")
EXTRAS = {
    "data": "polars",
    "sklearn": "scikit-learn",
    "onnx": "onnx",
    "tensorboard": "tensorboardX",
    "bfloat16": "ml_dtypes",
}


def findings() -> Iterator[tuple[str, str]]:
    """Pairs of a mark ("ok", "note", "wrong") and a line."""
    yield "ok", f"nanotorch {nt.__version__} in {Path(nt.__file__).parent}"
    yield from _python()
    for name in CORE:
        version = _version(name)
        yield ("ok", f"{name} {version}") if version else ("wrong", f"{name} is missing")
    for extra, name in EXTRAS.items():
        version = _version(name)
        words = f'{name} is not installed: pip install "nanotorch[{extra}]"'
        yield ("ok", f"{name} {version}") if version else ("note", words)
    yield from _mpi()
    yield from _memory_and_disk()
    yield from _gpu()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _python() -> Iterator[tuple[str, str]]:
    words = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    yield ("ok" if sys.version_info >= (3, 11) else "wrong"), words
    cores = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    yield "ok", f"{usable} of {cores} CPU cores may be used"
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        if name in os.environ:
            yield "note", f"{name}={os.environ[name]} limits the threads of matrix products"
    single = np.float32(1e-40) * np.float32(1)
    if single == 0:
        yield "wrong", "tiny float32 values are flushed to zero in this process"


def _mpi() -> Iterator[tuple[str, str]]:
    """Whether several processes can train together, tried with two for a second."""
    if _version("mpi4py") is None:
        yield "note", f"mpi4py is not installed, by which processes join: {INSTALL}"
        return
    beside = Path(sys.executable).with_name("mpiexec")
    mpiexec = str(beside) if beside.exists() else shutil.which("mpiexec")
    if mpiexec is None:
        yield "wrong", f"mpi4py is installed, and mpiexec is not: {INSTALL}"
        return
    # Open MPI refuses more ranks than cores, and the root of a container, unless it is told.
    allowed = {
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
    trial = [mpiexec, "-n", "2", sys.executable, "-m", "nanotorch.distributed"]
    try:
        done = subprocess.run(
            trial, env={**os.environ, **allowed}, capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError) as error:
        yield "wrong", f"{mpiexec}: {error}"
        return
    said = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    words = next((line for line in said if line.strip("- ")), "it says nothing")
    mark = "ok" if done.returncode == 0 else "wrong"
    yield mark, f"mpi4py {_version('mpi4py')}, {mpiexec}: {words.strip()}"


def _memory_and_disk() -> Iterator[tuple[str, str]]:
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        yield "ok", f"{memory / 2**30:.1f} GiB of memory"
    free = shutil.disk_usage(Path.cwd()).free
    words = f"{free / 2**30:.1f} GiB free where runs would be written ({Path.cwd()})"
    yield ("ok" if free > 2**30 else "wrong"), words
    if not os.access(Path.cwd(), os.W_OK):
        yield "wrong", f"{Path.cwd()} cannot be written to: give output.folder"


def _gpu() -> Iterator[tuple[str, str]]:
    wheels = [
        dist.metadata["Name"]
        for dist in importlib.metadata.distributions()
        if (dist.metadata["Name"] or "").lower().startswith("cupy")
    ]
    if len(wheels) > 1:
        names = " and ".join(sorted(wheels))
        yield "wrong", f"{names} are both installed and break each other: pip uninstall all but one"
    elif wheels and _version(wheels[0]) in ("14.0.0", "14.1.0"):
        yield "wrong", f"{wheels[0]} {_version(wheels[0])} has known faults: take another release"
    driver = _driver()
    yield ("ok", f"GPU: {driver}") if driver else ("note", "nvidia-smi finds no GPU")
    reason = nt.backend.cuda_unavailable_reason()
    if reason is None:
        yield "ok", "device cuda can be used"
    else:
        yield ("wrong" if driver else "note"), reason


def _driver() -> str | None:
    """Name and driver of the GPUs, as nvidia-smi tells them."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return "; ".join(answer.stdout.strip().splitlines()) or None


def print_findings() -> int:
    """Print a line per finding; how many of them are wrong."""
    marks = {"ok": "  ok   ", "note": "  note ", "wrong": "  WRONG"}
    wrong = 0
    for mark, line in findings():
        say(f"{marks[mark]} {line}")
        wrong += mark == "wrong"
    if not wrong:
        say("nothing is wrong")
    return wrong
