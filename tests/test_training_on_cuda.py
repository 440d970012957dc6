"""A run on a GPU: the numbers of the CPU, and steps that neither copy nor wait."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import strict_cupy

import nanotorch as nt
from nanotorch.backend.cuda import kernels
from nanotorch.training import fit, read_request
from nanotorch.training.errors import Interrupted
from nanotorch.training.model_file import read_model_file
from nanotorch.training.models import freeze
from nanotorch.training.results import Finished
from nanotorch.training.run import Run
from nanotorch.training.run_folder import read_log

KINDS: dict[str, list[str]] = {
    "binary": ["--data.source", "breast_cancer", "--optimizer.momentum", "0.9"],
    "classes": ["--data.source", "iris", "--optimizer.name", "adamw"],
    "mlp": ["--data.source", "iris", "--model.name", "mlp", "--training.clip_norm", "0.5"],
    "weights and penalty": [
        *("--data.source", "iris", "--loss.class_weight", "balanced", "--penalty.l2", "0.01"),
        *("--penalty.l1", "0.001", "--training.accumulate", "2"),
    ],
    "frozen": ["--data.source", "iris", "--model.freeze", '["weight"]'],
}
MIXED = ["--data.source", "iris", "--training.precision", "float16", "--training.clip_norm", "0.5"]
DROPOUT = ["--data.source", "iris", "--model.name", "mlp", "--model.dropout", "0.3"]


def train(folder: Path, device: str, *flags: str, resume: str | None = None) -> Finished:
    config = folder / "a.toml"
    config.write_text('[data]\nsource = ""\n[training]\nepochs = 3\n')
    place = ["--output.folder", str(folder / device.replace(":", "")), "--device", device]
    quiet = ["--output.curves", "false", "--output.report", "false"]
    return fit(read_request([str(config), *place, *quiet, *flags]).configs[0], resume, quiet=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_gives_the_cpus_numbers(cuda: str, kind: str, tmp_path: Path) -> None:
    runs = [train(tmp_path, device, *KINDS[kind]) for device in ("cpu", "cuda:0")]
    losses = [
        [record["train/loss"] for record in read_log(run.folder / "metrics.jsonl")] for run in runs
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    weights = [read_model_file(run.folder / "model.safetensors").weights for run in runs]
    for name in weights[0]:
        np.testing.assert_allclose(weights[0][name], weights[1][name], atol=1e-5)


@pytest.mark.parametrize("kind", ["binary", "classes", "mlp", "frozen", "dropout", "mixed"])
def test_a_step_neither_copies_nor_waits(
    cuda: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cuda == "cupy":
        pytest.skip("crossings are counted on the look-alike alone")
    if kind in ("dropout", "mixed") and not kernels.available(strict_cupy):
        pytest.skip("the look-alike needs g++ to run CUDA kernels")
    ordinary, steps = Run._update, []

    def update(self: Run, *batch: Any) -> None:
        if self.at.epoch == 0:  # makes the optimizer's state, and a graph for each size of a batch
            ordinary(self, *batch)
            return
        with strict_cupy.no_synchronization(), strict_cupy.no_transfers():
            ordinary(self, *batch)
        steps.append(1)

    monkeypatch.setattr(Run, "_update", update)
    train(tmp_path, "cuda:0", *(KINDS | {"dropout": DROPOUT, "mixed": MIXED})[kind])
    assert len(steps) > 5


@pytest.mark.parametrize("kind", ["binary", "mlp", "travelling", "in order", "weighted"])
def test_a_step_gathers_the_rows_that_lie_there_within_its_graph(
    cuda: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cuda == "cupy" or not kernels.available(strict_cupy):
        pytest.skip("launches are counted by name on the look-alike, with g++")
    ordinary, seen = Run._update, []

    def update(self: Run, inputs: Any, *rest: Any) -> None:
        strict_cupy.counts.reset()
        ordinary(self, inputs, *rest)
        graphs, copies = strict_cupy.counts.graph_launches, strict_cupy.counts.device_copies
        seen.append((inputs.dtype is nt.int64, graphs, copies))

    monkeypatch.setattr(Run, "_update", update)
    others = {"travelling": ["--data.on_device", "no"], "in order": ["--training.shuffle", "false"],
              "weighted": ["--loss.class_weight", "[1.0, 2.0, 3.0]"]}  # fmt: skip
    flags = KINDS.get(kind) or ["--data.source", "iris", *others[kind]]
    train(tmp_path, "cuda:0", *flags)
    within = kind in ("binary", "mlp")
    # The places of the rows, or the rows, their target and weights; and the loss.
    copies = {True: 2, False: 3}[within] + (kind == "weighted")
    assert seen[-2] == (within, 1, copies)


@pytest.mark.parametrize("model", [KINDS["mlp"], DROPOUT, MIXED])
def test_a_run_of_a_gpu_goes_on_to_the_same_bytes(
    cuda: str, model: list[str], tmp_path: Path
) -> None:
    flags = [*model, "--optimizer.name", "adam"]
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    whole = train(tmp_path / "one", "cuda:0", *flags)
    train(tmp_path / "other", "cuda:0", *flags, "--training.epochs", "2")
    resumed = train(tmp_path / "other", "cuda:0", *flags, resume="newest")
    for name in ("metrics.jsonl", "model.safetensors", "summary.json"):
        assert (whole.folder / name).read_bytes() == (resumed.folder / name).read_bytes()


@pytest.mark.parametrize("devices", [("cpu", "cuda:0"), ("cuda:0", "cpu")])
def test_a_run_goes_on_on_another_device(
    cuda: str, devices: tuple[str, str], tmp_path: Path
) -> None:
    before, after = devices
    folder = train(tmp_path, before, *DROPOUT, "--training.epochs", "2").folder
    resumed = train(tmp_path, after, *DROPOUT, resume=str(folder))
    losses = [record["train/loss"] for record in read_log(resumed.folder / "metrics.jsonl")]
    assert len(losses) == 3
    assert losses[2] < losses[0]


def test_no_gradient_kernel_runs_for_a_frozen_parameter(cuda: str) -> None:
    if cuda == "cupy":
        pytest.skip("launches are counted on the look-alike alone")

    def launches(frozen: list[str]) -> int:
        model = nt.nn.Linear(5, 1).to("cuda:0")
        freeze(model, frozen, {}, 0)
        inputs, target = nt.ones(8, 5, device="cuda:0"), nt.ones(8, 1, device="cuda:0")
        loss = nt.nn.functional.binary_cross_entropy_with_logits(model(inputs), target)
        before = strict_cupy.counts.launches
        loss.backward()
        return int(strict_cupy.counts.launches - before)

    trained = launches([])
    assert launches(["weight"]) < trained
    assert launches(["bias"]) < trained


@pytest.mark.parametrize("kind", ["binary", "mlp", "dropout", "weighted", "travelling"])
def test_several_steps_at_a_launch_leave_the_bytes_of_single_ones(
    cuda: str, kind: str, tmp_path: Path
) -> None:
    if cuda == "look-alike" and not kernels.available(strict_cupy):
        pytest.skip("the look-alike needs g++ to run CUDA kernels")
    flags = {
        **KINDS,
        "dropout": DROPOUT,
        "weighted": ["--data.source", "iris", "--loss.class_weight", "[1.0, 2.0, 3.0]"],
        "travelling": ["--data.source", "iris", "--data.on_device", "no"],
    }[kind]
    flags = [*flags, "--training.batch_size", "7", "--training.epochs", "4"]
    runs, launches = [], []
    for count in ("1", "3"):
        (tmp_path / count).mkdir()
        strict_cupy.counts.reset()
        extra = ["--training.steps_per_launch", count]
        runs.append(train(tmp_path / count, "cuda:0", *flags, *extra).folder)
        launches.append(strict_cupy.counts.graph_launches)
    for name in ("metrics.jsonl", "model.safetensors"):
        assert (runs[0] / name).read_bytes() == (runs[1] / name).read_bytes()
    if cuda != "cupy":
        assert launches[1] < launches[0] / 2


def test_a_run_goes_on_from_within_what_was_one_launch(
    cuda: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*DROPOUT, "--training.batch_size", "8", "--training.steps_per_launch", "4"]
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    whole = train(tmp_path / "one", "cuda:0", *flags, "--training.steps_per_launch", "1")
    ordinary = Run._several_updates

    def interrupted(self: Run, *given: Any) -> None:
        ordinary(self, *given)
        if self.at.epoch == 1:
            self.signals.caught = "SIGTERM"

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Run, "_several_updates", interrupted)
        train(tmp_path / "other", "cuda:0", *flags)
    resumed = train(
        tmp_path / "other", "cuda:0", *flags, "--training.steps_per_launch", "3", resume="newest"
    )
    for name in ("metrics.jsonl", "model.safetensors"):
        assert (whole.folder / name).read_bytes() == (resumed.folder / name).read_bytes()
