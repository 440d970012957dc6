"""A training keeps the memory that its steps free, where the C library lets it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from nanotorch.backend.allocator import SETTINGS

STEPS = """
import resource

import nanotorch as nt
from nanotorch import nn, optim

model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))
optimizer = optim.SGD(model.parameters(), lr=0.01)
x, y = nt.randn(128, 784), nt.randint(0, 10, (128,))


def steps(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


steps(50)
print(steps(50) / 50)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_steady_steps_do_not_ask_the_system_for_memory() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    run = subprocess.run(
        [sys.executable, "-c", STEPS], env=environment, capture_output=True, text=True, check=True
    )
    assert float(run.stdout) < 50, "page faults of a step, whose gradients take 200 pages"
