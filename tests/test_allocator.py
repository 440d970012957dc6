"""A model keeps the memory that its calls free, where the C library lets it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from nanotorch.backend.allocator import SETTINGS

PROGRAM = """
import resource

import nanotorch as nt
from nanotorch import nn, optim

{}


def page_faults(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        call()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


page_faults(50)
print(page_faults(50) / 50)
"""
TRAINING = """
model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))
optimizer = optim.SGD(model.parameters(), lr=0.01)
x, y = nt.randn(128, 784), nt.randint(0, 10, (128,))


def call():
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
"""
WITHOUT_OPTIMIZER = """
layer, x = nn.GroupNorm(4, 16), nt.randn(32, 16, 32, 32)


def call():
    layer(x).sum().backward()
    layer.zero_grad()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
@pytest.mark.parametrize("calls", [TRAINING, WITHOUT_OPTIMIZER], ids=["training", "model alone"])
def test_steady_calls_do_not_ask_the_system_for_memory(calls: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    command = [sys.executable, "-c", PROGRAM.format(calls)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert float(run.stdout) < 50, "page faults of a call, whose arrays take 200 pages or more"
