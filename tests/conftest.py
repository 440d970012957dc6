"""What holds for every test: marks that skip, state that may not leak, figures without a screen."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from nanotorch import backend
from nanotorch.autograd.grad_mode import modes

os.environ.setdefault("MPLBACKEND", "Agg")

# The same examples in every run: a failure that comes and goes helps nobody.
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("repeatable")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("torch") is not None:
        pytest.importorskip("torch", reason="PyTorch is not installed")
    if item.get_closest_marker("gpu") is not None:
        reason = backend.cuda_unavailable_reason()
        if reason is not None:
            pytest.skip(reason)


def process_state() -> dict[str, object]:
    """The default dtype and this thread's modes of autograd, by name."""
    fields = [name for name in vars(type(modes)) if not name.startswith("_")]
    found = {name: getattr(modes, name) for name in fields}
    return {"default dtype": backend.get_default_dtype(), **found}


@pytest.fixture(autouse=True)
def state_is_left_as_found() -> Iterator[None]:
    """Fails a test that leaves the default dtype or a mode of autograd changed for the next one."""
    before = process_state()
    yield
    assert process_state() == before
