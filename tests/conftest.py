"""What holds for every test: marks that skip, state that may not leak, figures without a screen."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import strict_cupy
from hypothesis import settings
from strict_cupy.cublas import Library

from nanotorch import backend
from nanotorch.autograd.grad_mode import modes
from nanotorch.backend.cuda import cublas

os.environ.setdefault("MPLBACKEND", "Agg")

# The same examples in every run: a failure that comes and goes helps nobody.
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("repeatable")

cublas.libraries[strict_cupy] = cublas.declared(Library())


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("torch") is not None:
        pytest.importorskip("torch", reason="PyTorch is not installed")
    if item.get_closest_marker("gpu") is not None:
        reason = backend.cuda_unavailable_reason()
        if reason is not None:
            pytest.skip(reason)


@pytest.fixture(params=["look-alike", pytest.param("cupy", marks=pytest.mark.gpu)])
def cuda(request: pytest.FixtureRequest) -> Iterator[str]:
    """A device "cuda": imitated by the strict look-alike of CuPy, or real where there is one."""
    if request.param == "cupy":
        yield request.param
        return
    backend.register_cuda_module(strict_cupy)
    strict_cupy.counts.reset()
    yield request.param
    backend.register_cuda_module(None)


def process_state() -> dict[str, object]:
    """The default dtype and device, and this thread's modes of autograd, by name."""
    fields = [name for name in vars(type(modes)) if not name.startswith("_")]
    values = {name: getattr(modes, name) for name in fields}
    # Rings that are open in all threads stay so: one comes with the first CUDA module.
    values["rings"] = [ring for ring in modes.rings if ring not in type(modes).rings]
    places = {
        "default dtype": backend.get_default_dtype(),
        "default device": backend.get_default_device(),
        "precision of products": cublas.get_float32_matmul_precision(),
    }
    return {**places, **values}


@pytest.fixture(autouse=True)
def state_is_left_as_found() -> Iterator[None]:
    """Fails a test that leaves a default or a mode of autograd changed for the next one."""
    before = process_state()
    yield
    assert process_state() == before
