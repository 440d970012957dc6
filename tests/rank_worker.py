"""What the tests of several ranks run under mpiexec: python rank_worker.py FUNCTION [ARGUMENTS].

Every function runs on all ranks of one job, so that a job that takes a second to start serves many
cases. What is wrong raises, which ends the job with an exit code that is not 0.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

import nanotorch as nt
from nanotorch import distributed as dist
from nanotorch.distributed.gradients import GradientSum
from nanotorch.distributed.group import the_world
from nanotorch.training import fit
from nanotorch.training.callbacks import Checkpoints
from nanotorch.training.errors import Interrupted

QUICK = {"curves": False, "report": False}


def configuration(folder: str, tables: dict[str, Any]) -> dict[str, Any]:
    """Tables of a configuration that trains iris on the CPU, without pictures."""
    whole: dict[str, Any] = {
        "output": {**QUICK, "folder": folder},
        "data": {"source": "iris"},
        "device": "cpu",
    }
    for key, value in tables.items():
        whole[key] = {**whole.get(key, {}), **value} if isinstance(value, dict) else value
    return whole


def train(cases: str, folder: str) -> None:
    """Trains each of several configurations in a folder of its own."""
    for name, tables in json.loads(Path(cases).read_text()).items():
        fit(configuration(f"{folder}/{name}", tables), quiet=True)


def go_on(case: str, folder: str, stop: str) -> None:
    """Begins or goes on with a run, up to a signal to the last rank after `stop` steps; 0: none."""
    ordinary, steps = Checkpoints.on_step, [0]

    def on_step(self: Checkpoints, run: Any) -> None:
        ordinary(self, run)
        steps[0] += 1
        if steps[0] == int(stop) and run.ranks.world.rank == run.ranks.world.size - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    Checkpoints.on_step = on_step  # type: ignore[method-assign]
    try:
        fit(configuration(folder, json.loads(Path(case).read_text())), "newest", quiet=True)
    except Interrupted as stopped:
        assert stopped.signal_name == "SIGTERM"
    else:
        assert stop == "0"


def collectives() -> None:
    """Every operation against what NumPy makes of all ranks' values, which each rank knows."""
    rank, size = dist.get_rank(), dist.get_world_size()
    draw = np.random.default_rng(0)
    numpy_of = {"SUM": np.sum, "PRODUCT": np.prod, "MIN": np.min, "MAX": np.max, "AVG": np.mean}
    for dtype in ("float32", "float64", "float16", "int32", "int64", "uint8", "complex64"):
        everyone = draw.integers(1, 4, (size, 3, 2)).astype(dtype)
        for op, expected in numpy_of.items():
            kind = getattr(nt, dtype)
            if (op == "AVG" and not (kind.is_floating_point or kind.is_complex)) or (
                op in ("MIN", "MAX") and kind.is_complex
            ):
                continue
            tensor = nt.tensor(everyone[rank])
            version = tensor._version
            assert dist.all_reduce(tensor, getattr(dist.ReduceOp, op)) is None
            assert tensor._version > version
            wide = np.complex128 if kind.is_complex else np.float64
            wanted = expected(everyone.astype(wide), axis=0)
            np.testing.assert_allclose(tensor.numpy(), wanted.astype(dtype), rtol=1e-6)
    flags = nt.tensor([rank == 0, False, True])
    dist.all_reduce(flags)
    assert flags.tolist() == [True, False, True]
    bits = nt.tensor([1 << rank, 3])
    dist.all_reduce(bits, dist.ReduceOp.BOR)
    assert bits.tolist() == [(1 << size) - 1, 3]
    columns = nt.arange(6.0).reshape(2, 3).t()  # not in the order of its memory
    dist.all_reduce(columns)
    assert columns.tolist() == [[0.0, 3.0 * size], [size, 4.0 * size], [2.0 * size, 5.0 * size]]
    leaf = nt.full((2,), float(rank), requires_grad=True)
    dist.broadcast(leaf, size - 1)
    assert leaf.tolist() == [size - 1.0] * 2 and leaf.is_leaf
    gathered = [nt.empty((), dtype=nt.int64) for _ in range(size)]
    dist.all_gather(gathered, nt.tensor(rank))
    assert [int(x) for x in gathered] == list(range(size))
    dist.barrier()
    for wrong, error in (
        (lambda: dist.all_reduce(3), TypeError),
        (lambda: dist.all_reduce(nt.ones(1), dist.ReduceOp.BAND), RuntimeError),
        (lambda: dist.broadcast(nt.ones(1), size), RuntimeError),
        (lambda: dist.all_gather([nt.ones(1)], nt.ones(1)), RuntimeError),
        (lambda: dist.init_process_group(), ValueError),
    ):
        try:
            wrong()
        except error:
            continue
        raise AssertionError(f"expected {error}")


def gradients() -> None:
    """average_gradients and shards against the weighted mean, small and large, whole and absent."""
    rank, size = dist.get_rank(), dist.get_world_size()
    for count in (3, 100_003):  # small ones travel as one message, large ones in slices
        draw = np.random.default_rng(count)
        everyone = draw.standard_normal((size, count))
        weights = np.arange(size, dtype=np.float64)  # that of rank 0 is 0
        parameter = nt.zeros(count, dtype=nt.float64, requires_grad=True)
        absent = nt.zeros(2, requires_grad=True)
        partly = nt.zeros(2, requires_grad=True)
        frozen = nt.zeros(2)
        for _ in range(2):
            parameter.grad = nt.tensor(everyone[rank])
            partly.grad = nt.ones(2) if rank == size - 1 else None
            loss = nt.tensor(float(rank), dtype=nt.float64)
            mean = dist.average_gradients(
                [parameter, absent, partly, frozen], loss, float(weights[rank])
            )
            wanted = (weights[:, None] * everyone).sum(axis=0) / weights.sum()
            np.testing.assert_allclose(parameter.grad.numpy(), wanted, rtol=1e-12, atol=1e-12)
            assert absent.grad is None and frozen.grad is None
            np.testing.assert_allclose(partly.grad.numpy(), weights[-1] / weights.sum())
            np.testing.assert_allclose(float(mean), (weights**2).sum() / weights.sum())
        every_shard = draw.standard_normal((8, count)).astype(np.float32)
        for world in (the_world(), nt.distributed.world.Alone()):
            parameter = nt.zeros(count, requires_grad=True)
            total = GradientSum([parameter], world, 8)
            for shard in range(*total.own):
                if shard == 5:
                    total.add_nothing(shard)
                    continue
                parameter.grad = nt.tensor(every_shard[shard])
                total.add(shard, 1.0, shard + 1.0)
            mean, notes = total.finish("a test", np.array([float(world.rank)]))
            assert notes.ravel().tolist() == list(range(world.size)) and mean == 1.0
            if world.size > 1:
                shared = parameter.grad.numpy().tobytes()
        assert shared == parameter.grad.numpy().tobytes()


def compiled() -> None:
    """A compiled step is replayed between averages, and stays right when all_reduce is in it."""
    rank, size = dist.get_rank(), dist.get_world_size()
    w = nt.ones(4, requires_grad=True)

    def step(x: nt.Tensor) -> nt.Tensor:
        loss = (x * w).sum()
        loss.backward()
        return loss

    def shared(x: nt.Tensor) -> nt.Tensor:
        total = x * 2
        dist.all_reduce(total)
        return total + 1

    for pure in (False, True):
        replayed, with_sum = nt.compile(step, pure=pure), nt.compile(shared, pure=pure, warn=False)
        for number in range(4):
            w.grad = None
            x = nt.full((4,), float(rank + number))
            loss = dist.average_gradients([w], replayed(x), 1)
            mean = (size - 1) / 2 + number
            assert loss.item() == 4 * mean and w.grad.tolist() == [mean] * 4
            assert with_sum(x).tolist() == [2 * size * mean + 1] * 4


def compute() -> None:
    """All of these in one job."""
    collectives()
    gradients()
    compiled()


if __name__ == "__main__":
    if sys.argv[1] not in ("train", "go_on"):
        dist.init_process_group()
    globals()[sys.argv[1]](*sys.argv[2:])
    print("ok", flush=True)
