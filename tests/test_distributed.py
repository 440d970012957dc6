"""Several ranks on MPI: collectives, the mean of gradients, runs of the same bits, and no hang."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import fault_trials
import scaling_model
from rank_worker import configuration, train as train_all

import nanotorch as nt
from nanotorch import distributed as dist
from nanotorch.distributed import launcher
from nanotorch.distributed.shards import even_parts, subtrees, tree_sum
from nanotorch.training import fit
from nanotorch.training.doctor import _mpi

ROOT = Path(__file__).parent.parent
WORKER = Path(__file__).parent / "rank_worker.py"
MPIEXEC = Path(sys.executable).with_name("mpiexec")
COMPARED = ("model.safetensors", "metrics.jsonl", "summary.json")


@pytest.fixture(scope="module")
def mpiexec() -> list[str]:
    """The command that starts ranks; CI installs it, and does not skip what needs it."""
    found = str(MPIEXEC) if MPIEXEC.exists() else shutil.which("mpiexec")
    if not (dist.is_available() and found):
        if os.environ.get("NANOTORCH_NEEDS_MPI"):
            pytest.fail('the extra is not installed: pip install "nanotorch[mpi]"')
        pytest.skip("mpi4py or mpiexec is not installed")
    return [found, "--oversubscribe"]


def environment(**more: str) -> dict[str, str]:
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return {**os.environ, **root, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg", **more}


def on_ranks(mpiexec: list[str], count: int, *command: object) -> str:
    """What a command prints on so many ranks, all of which must succeed."""
    words = [*mpiexec, "-n", str(count), sys.executable, *map(str, command)]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


# --- without MPI -------------------------------------------------------------------------------


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A group of one."""
    dist.init_process_group()
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def test_a_group_of_one_does_nothing_and_loads_no_mpi(alone: None) -> None:
    x = nt.tensor([1.0, 2.0])
    copy = nt.empty(2)
    assert dist.all_reduce(x) is None and dist.barrier() is None
    dist.broadcast(x, 0)
    dist.all_gather([copy], x)
    w = nt.ones(2, requires_grad=True)
    w.grad = nt.tensor([3.0, 4.0])
    loss = nt.tensor(2.0)
    assert dist.average_gradients([w], loss, 7) is loss
    assert (x.tolist(), copy.tolist(), w.grad.tolist()) == ([1, 2], [1, 2], [3, 4])
    assert (dist.get_rank(), dist.get_world_size()) == (0, 1)
    assert "mpi4py" not in sys.modules


class TwoRanks:
    """A world in which the other rank has twice what this one has."""

    rank, size = 0, 2
    operations: ClassVar[dict[str, Callable[[Any], Any]]] = {
        "SUM": lambda both: both.sum(0), "PROD": lambda both: both.prod(0),
        "MIN": lambda both: both.min(0), "MAX": lambda both: both.max(0),
    }  # fmt: skip

    def reduce(self, values: Any, operation: str, what: str) -> Any:
        return self.operations[operation](np.stack([values, 2 * values]))


@pytest.mark.parametrize(
    ("name", "expected"), [("SUM", 3), ("PRODUCT", 2), ("MIN", 1), ("MAX", 2), ("AVG", 1.5)]
)
@pytest.mark.parametrize("dtype", [nt.float32, nt.float16])
def test_each_operation_is_asked_of_mpi_by_its_name(
    name: str, expected: float, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanotorch.distributed.group._world", TwoRanks())
    x = nt.ones(3, dtype=dtype)
    dist.all_reduce(x, getattr(dist.ReduceOp, name))
    assert x.tolist() == [expected] * 3
    assert x.dtype is dtype


def test_before_and_after_the_group_there_is_none() -> None:
    calls: list[Callable[[], Any]] = [
        dist.get_rank, dist.get_world_size, dist.barrier, dist.destroy_process_group,
        lambda: dist.all_reduce(nt.ones(1)), lambda: dist.average_gradients([], 1.0),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(ValueError, match="make sure to call init_process_group"):
            call()
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    "options", [{"backend": "nccl"}, {"world_size": 2}, {"rank": 1}, {"init_method": "env://"}]
)
def test_a_group_that_cannot_be_had_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="init_process_group"):
        dist.init_process_group(**options)
    assert not dist.is_initialized()


@pytest.mark.torch
def test_errors_are_of_the_kinds_that_pytorch_raises(alone: None) -> None:
    import torch
    import torch.distributed as theirs

    theirs.init_process_group("gloo", rank=0, world_size=1, store=theirs.HashStore())
    cases: list[Callable[[Any, Any], Any]] = [
        lambda t, d: d.all_reduce(3),
        lambda t, d: d.all_reduce(t.ones(1), op=d.ReduceOp.BAND),
        lambda t, d: d.all_reduce(t.ones(1, dtype=t.complex64), op=d.ReduceOp.MAX),
        lambda t, d: d.broadcast(t.ones(1), 1),
        lambda t, d: d.all_gather([t.ones(1), t.ones(1)], t.ones(1)),
        lambda t, d: d.all_gather([t.ones(2)], t.ones(1)),
        lambda t, d: d.all_gather([t.ones(1, dtype=t.int64)], t.ones(1)),
        lambda t, d: d.all_gather(t.ones(1), t.ones(1)),
        lambda t, d: d.init_process_group(),
    ]
    try:
        for case in cases:
            with pytest.raises(Exception) as wanted:
                case(torch, theirs)
            with pytest.raises(wanted.type):
                case(nt, dist)
    finally:
        theirs.destroy_process_group()


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13])
def test_a_tree_has_one_order_whichever_ranks_add(count: int) -> None:
    def leaf(part: tuple[int, int]) -> str | None:
        return str(part[0]) if part[1] - part[0] == 1 else None

    def whole(tree: tuple[int, int], known: Callable[[tuple[int, int]], str | None]) -> str:
        return tree_sum(tree, known, "({}+{})".format)

    for ranks in range(1, count + 1):
        sums = {
            tree: whole(tree, leaf)
            for own in even_parts(count, ranks)
            for tree in subtrees(0, count, own)
        }
        assert whole((0, count), sums.get) == whole((0, count), leaf)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ("", 1, 0)),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"}, ("mpiexec", 4, 3)),
        ({"PMI_SIZE": "2", "PMI_RANK": "1"}, ("mpiexec", 2, 1)),
        ({"SLURM_NTASKS": "3", "SLURM_PROCID": "2"}, ("Slurm", 3, 2)),
        ({"SLURM_NTASKS": "8", "OMPI_COMM_WORLD_SIZE": "1"}, ("mpiexec", 1, 0)),
    ],
)
def test_the_launcher_is_read_from_the_environment(
    variables: dict[str, str], expected: tuple[str, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for pair in itertools.chain(*launcher.VARIABLES.values()):
        for name in pair:
            monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launcher.launched() == expected


def train_py(folder: Path, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    words = [
        sys.executable,
        str(ROOT / "train.py"),
        "breast_cancer",
        "--output.folder",
        str(folder),
    ]
    return subprocess.run(
        [*words, *flags], env=environment(**variables), capture_output=True, text=True, timeout=60
    )


def test_several_processes_that_cannot_join_are_refused(tmp_path: Path) -> None:
    no_mpi = tmp_path / "mpi4py.py"
    no_mpi.write_text("raise ImportError('not here')")
    started = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}
    done = train_py(tmp_path / "runs", **started, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.returncode == 2
    assert "mpiexec started 2 processes, and mpi4py, which joins them, is missing" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_srun_that_starts_separate_worlds_is_refused(tmp_path: Path, mpiexec: list[str]) -> None:
    done = train_py(tmp_path / "runs", SLURM_NTASKS="2", SLURM_PROCID="0")
    assert done.returncode == 2 and "srun --mpi=pmix" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_shards_refuse_what_depends_on_the_whole_batch(tmp_path: Path) -> None:
    (tmp_path / "normalized.py").write_text(
        "from nanotorch import nn\n"
        "class Model(nn.Sequential):\n"
        "    def __init__(self, inputs, outputs):\n"
        "        super().__init__(nn.BatchNorm1d(inputs), nn.Linear(inputs, outputs))\n"
    )
    tables = {"model": {"name": "module", "module": "normalized:Model"}, "training": {"shards": 2}}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.syspath_prepend(str(tmp_path))
        with pytest.raises(ValueError, match="BatchNorm1d, whose statistics are of a whole batch"):
            fit(configuration(str(tmp_path / "runs"), tables), quiet=True)


def test_the_page_holds_the_table_that_the_model_prints() -> None:
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert scaling_model.table([1, 2, 4, 16], scaling_model.Machine()) in page


@pytest.mark.parametrize("alone", ["compute", "sums", "reading"])
def test_the_model_of_the_cost_has_a_limit_in_each_of_its_parts(alone: str) -> None:
    nothing = scaling_model.Machine(
        value=0, memory=1e30, local_alpha=0, local_beta=1e30, alpha=0, beta=1e30, disk=1e30
    )
    parts = {"compute": {"memory": 1e9}, "sums": {"alpha": 1e-3}, "reading": {"disk": 1e6}}
    epoch = scaling_model.epoch(2, 40, 65_536, nothing._replace(**parts[alone]))
    assert epoch.total == pytest.approx(getattr(epoch, alone)) and epoch.total > 1


def test_the_doctor_tries_two_ranks(mpiexec: list[str]) -> None:
    ((mark, words),) = _mpi()
    assert mark == "ok" and "2 ranks sum 31 floats in" in words


# --- on ranks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3])
def test_ranks_compute_together(count: int, mpiexec: list[str]) -> None:
    assert on_ranks(mpiexec, count, WORKER, "compute").split() == ["ok"] * count


MLP = {"name": "mlp", "hidden": [16]}
CASES: dict[str, dict[str, Any]] = {
    "breast_cancer": {"data": {"source": "breast_cancer"}},
    "digits": {"data": {"source": "digits"}, "training": {"batch_size": 64}},
    "dropout": {"model": {**MLP, "dropout": 0.3}, "training": {"batch_size": 50, "accumulate": 2}},
    "adam": {"model": MLP, "optimizer": {"name": "adam"}, "metrics": {"training_part": True}},
    "penalties": {
        "loss": {"class_weight": [1.0, 2.0, 0.0]},
        "penalty": {"l1": 0.001, "l2": 0.01},
        "training": {"batch_size": 5, "clip_norm": 0.1},
    },
    "lbfgs": {
        "optimizer": {"name": "lbfgs", "max_iter": 3},
        "training": {"batch_size": 0},
        "penalty": {"l2": 0.01},
    },
    "in order": {
        "data": {"source": "diabetes"},
        "model": {"name": "linear"},
        "training": {"shuffle": False, "dtype": "float64", "drop_last": True},
        "schedule": {"name": "plateau", "patience": 0},
        "optimizer": {"lr": 0.01},
    },
    "threshold": {"data": {"source": "breast_cancer"}, "metrics": {"threshold": "f1"}},
    "sparse": {"data": {"source": "sparse.svm"}, "training": {"batch_size": 3}},
    "streamed": {"data": {"source": "rows.npy", "memory": "15 kB"}},
    "streamed in order": {
        "data": {"source": "rows.npy", "memory": "15 kB"},
        "training": {"shuffle": False, "batch_size": 45},
    },
}
RANDOM = {"dropout", "streamed"}  # whose draws are others without shards


def write_cases(folder: Path, shards: int | None) -> Path:
    """The cases as a file, each for three epochs, and tables beside it."""
    draw = np.random.default_rng(0)
    lines = []
    for row in range(60):
        columns = np.sort(draw.choice(40, 5, replace=False)) + 1
        values = " ".join(f"{column}:{draw.standard_normal():.3f}" for column in columns)
        lines.append(f"{row % 2} {values}\n")
    (folder / "sparse.svm").write_text("".join(lines))
    x = draw.standard_normal((700, 5))
    np.save(folder / "rows.npy", np.column_stack([x, x.sum(axis=1) > 0]).astype("f4"))
    cases = {}
    for name, tables in CASES.items():
        training = {"epochs": 3, **tables.get("training", {})}
        if shards is not None:
            training["shards"] = shards
        data = dict(tables.get("data", {"source": "iris"}))
        if "." in data["source"]:
            data["source"] = str(folder / data["source"])
        cases[name] = {**tables, "training": training, "data": data, "seed": 3}
    path = folder / f"cases-{shards}.json"
    path.write_text(json.dumps(cases))
    return path


def results(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "run-1" / name).read_bytes() for name in COMPARED}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of one process, in `1` with shards and in `plain` without."""
    folder = tmp_path_factory.mktemp("ranks")
    train_all(str(write_cases(folder, 8)), str(folder / "1"))
    train_all(str(write_cases(folder, None)), str(folder / "plain"))
    return folder


@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_runs_have_the_same_bytes_on_any_number_of_ranks(
    count: int, trained: Path, mpiexec: list[str]
) -> None:
    on_ranks(mpiexec, count, WORKER, "train", trained / "cases-8.json", trained / str(count))
    for name in CASES:
        assert results(trained / str(count) / name) == results(trained / "1" / name), name


def test_runs_on_ranks_are_those_of_one_process_but_for_rounding(
    trained: Path, mpiexec: list[str]
) -> None:
    on_ranks(mpiexec, 3, WORKER, "train", trained / "cases-None.json", trained / "unsharded")
    for name in set(CASES) - RANDOM:
        plain = trained / "plain" / name / "run-1"
        for other in ("1", "unsharded"):
            one = (plain / "metrics.jsonl").read_text().splitlines()
            two = (trained / other / name / "run-1" / "metrics.jsonl").read_text().splitlines()
            for a, b in zip(one, two, strict=True):
                assert json.loads(a) == pytest.approx(json.loads(b), abs=1e-6, rel=1e-5), name


def test_a_run_goes_on_to_the_same_bytes_on_other_numbers_of_ranks(
    tmp_path: Path, mpiexec: list[str]
) -> None:
    tables = {**CASES["dropout"], "training": {"epochs": 6, "shards": 4, "accumulate": 2}}
    case = tmp_path / "case.json"
    case.write_text(json.dumps(tables))
    fit(configuration(str(tmp_path / "whole"), tables), quiet=True)
    for count, stop in ((1, 4), (2, 5), (4, 3), (3, 0)):
        on_ranks(mpiexec, count, WORKER, "go_on", case, tmp_path / "parts", stop)
    assert results(tmp_path / "parts") == results(tmp_path / "whole")


# --- nothing hangs -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trial", "words"),
    [
        (fault_trials.Trial("raise", "evaluation", 1, 2), "train.py: rank 1: RuntimeError in"),
        (fault_trials.Trial("exit", "epoch", 0, 3), "rank 0: the program ended itself with 3"),
        (fault_trials.Trial("leave", "epoch", 1, 0), "has ended, and the others are in epoch 1"),
        (fault_trials.Trial("kill", "checkpoint", 0, 9), "rank 0 with PID"),
        (fault_trials.Trial("stop", "epoch", 1, 1), "no answer from rank 1 (stopped, process"),
        (fault_trials.Trial("stop", "start", 0, 0), "no answer from rank 0 (stopped, process"),
    ],
    ids=lambda case: "-".join(map(str, case)) if isinstance(case, tuple) else "",
)
def test_a_fault_of_one_rank_ends_the_job_and_names_it(
    trial: fault_trials.Trial, words: str, tmp_path: Path, mpiexec: list[str]
) -> None:
    outcome = fault_trials.run(trial, 2, tmp_path)
    assert not outcome.wrong and words in outcome.errors, outcome
    assert outcome.seconds < fault_trials.PROMISED[trial.kind] + 5  # on a busy machine


def test_only_ranks_that_do_not_answer_are_named(tmp_path: Path, mpiexec: list[str]) -> None:
    outcome = fault_trials.run(fault_trials.Trial("stop", "epoch", 1, 1), 3, tmp_path)
    names = re.findall(r"no answer from (.*)", outcome.errors)
    assert names and not any("rank 0" in some or "rank 2" in some for some in names), outcome


def test_ranks_with_different_configurations_are_told(tmp_path: Path, mpiexec: list[str]) -> None:
    train = [sys.executable, str(ROOT / "train.py"), "breast_cancer", "--output.folder",
             str(tmp_path / "runs")]  # fmt: skip
    words = [*mpiexec, "-n", "1", *train, ":", "-n", "1", *train, "--training.batch_size", "7"]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and not (tmp_path / "runs").exists()
    assert "rank 1: this rank has another configuration than rank 0: training.batch_size: 7, " in (
        done.stderr
    )


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_to_one_rank_saves_and_ends_all(
    name: str, tmp_path: Path, mpiexec: list[str]
) -> None:
    words = [*mpiexec, "-n", "2", sys.executable, str(ROOT / "train.py"), "breast_cancer"]
    words += ["--output.folder", str(tmp_path), "--training.epochs", "1000000"]
    job = subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, text=True)  # fmt: skip
    assert job.stdout is not None
    for line in job.stdout:
        if line.startswith("epoch"):
            break
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    os.kill(int(children[1]), getattr(signal, name))
    _, errors = job.communicate(timeout=30)
    assert f"stopped by {name} in epoch" in errors and job.returncode != 0
    assert list((tmp_path / "breast_cancer-1" / "checkpoints").glob("*-step-*"))
