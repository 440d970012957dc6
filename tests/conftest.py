"""What holds for every test: what cannot run is left out, no state leaks, no screen is needed."""

from __future__ import annotations

import functools
import gc
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers have the cores already
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from nanotorch import backend
from nanotorch.autograd.grad_mode import modes

# The files of the core's own tests, which need core and stock alone, but for tests marked `ring`.
CORE = {
    *("test_engine.py", "test_tensor.py", "test_ops.py", "test_updates_in_place.py"),
    *("test_promotion.py", "test_printing.py", "test_random.py"),
    *("test_nn_module.py", "test_nn_init.py"),
}

# The same examples in every run: a failure that comes and goes helps nobody.
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--core", action="store_true", help="only the core's own tests")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --core, files of CORE alone."""
    name = collection_path.name
    others = name.startswith("test_") and name not in CORE
    return True if others and config.getoption("--core") else None


@functools.cache
def missing() -> dict[str, str]:
    """The marks of tests that cannot run here, and why."""
    reasons = {"gpu": backend.cuda_unavailable_reason()}
    if importlib.util.find_spec("torch") is None:
        reasons["torch"] = "PyTorch is not installed"
    return {mark: reason for mark, reason in reasons.items() if reason is not None}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what cannot run here, as to skip 20,000 tests one by one takes half a minute; with
    --core also what stands on a ring, and what compares with PyTorch."""
    core = ("ring", "torch") if config.getoption("--core") else ()
    marks = {*missing(), *core}
    kept: list[pytest.Item] = []
    others: list[pytest.Item] = []
    for item in items:
        fits = marks.isdisjoint(mark.name for mark in item.iter_markers())
        (kept if fits else others).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = kept


def pytest_collection_finish() -> None:
    """Spares the garbage collector what pytest holds for 30,000 tests: half a second each time."""
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says what was left out."""
    for mark, reason in missing().items():
        terminalreporter.write_line(f"left out: tests marked {mark}, as {reason}")


@pytest.fixture(scope="session")
def look_alike() -> ModuleType:
    """The strict look-alike of CuPy, with its cuBLAS."""
    import strict_cupy
    from strict_cupy.cublas import Library

    from nanotorch.backend.cuda import cublas

    cublas.libraries[strict_cupy] = cublas.declared(Library())
    return strict_cupy


@pytest.fixture
def written(look_alike: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look-alike launches kernels that are written from Python, too, as a device does; each
    takes g++ some tenths of a second."""
    from strict_cupy.kernels import raw_kernel

    monkeypatch.setattr(look_alike, "RawKernel", raw_kernel, raising=False)


@pytest.fixture(params=["look-alike", pytest.param("cupy", marks=pytest.mark.gpu)])
def cuda(request: pytest.FixtureRequest) -> Iterator[str]:
    """A device "cuda": imitated by the strict look-alike of CuPy, or real where there is one."""
    if request.param == "cupy":
        yield request.param
        return
    module = request.getfixturevalue("look_alike")
    backend.register_cuda_module(module)
    module.counts.reset()
    yield request.param
    backend.register_cuda_module(None)


def process_state() -> dict[str, object]:
    """The default dtype and device, and this thread's modes of autograd, by name."""
    fields = [name for name in vars(type(modes)) if not name.startswith("_")]
    products = sys.modules.get("nanotorch.backend.cuda.cublas")
    return {
        **{name: getattr(modes, name) for name in fields},
        # Rings that are open in all threads stay so: one comes with the first CUDA module.
        "rings": [ring for ring in modes.rings if ring not in type(modes).rings],
        "default dtype": backend.get_default_dtype(),
        "default device": backend.get_default_device(),
        "precision of products": (
            products.get_float32_matmul_precision() if products else "highest"
        ),
    }


@pytest.fixture(autouse=True)
def state_is_left_as_found() -> Iterator[None]:
    """Fails a test that leaves a default or a mode of autograd changed for the next one."""
    before = process_state()
    yield
    assert process_state() == before
