"""Lets a rank of a training run fail in every way and phase: the job must end and name it.

    python scripts/fault_trials.py [--trials 60] [--ranks 3] [--seed 0]

Needs the extra `mpi`. Each trial starts a run on several ranks, of which one raises, ends itself
(with 3 or with 0), is killed by SIGKILL or is stopped by SIGSTOP: at the start, in an epoch, in a
checkpoint or in an evaluation. The job must end with an exit code that is not 0, within a second or
two, or for a stopped rank after `training.rank_timeout`; its words must name the rank; and every
checkpoint must be whole. The exit status is 1 if a trial comes out otherwise.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from nanotorch.training.checkpoint import checkpoints_in, load_checkpoint
from nanotorch.training.errors import InputError

KINDS = ("raise", "exit", "leave", "kill", "stop")
PHASES = ("start", "epoch", "checkpoint", "evaluation")
TIMEOUT = 6.0  # training.rank_timeout of the trials
# Seconds from the fault to the end of the job: what is promised, and starting Python for a launcher
# that ends the ranks. A stopped rank is called by name for a second before it is given up.
PROMISED = {"raise": 1.0, "exit": 1.0, "leave": 1.0, "kill": 2.0, "stop": TIMEOUT + 2.0}

MODEL = '''
import os, signal, sys, time
from pathlib import Path
from nanotorch import nn

KIND, PHASE, RANK, AFTER = os.environ["FAULT"].split(",")
count = int(AFTER) if os.environ.get("OMPI_COMM_WORLD_RANK") == RANK else -1

def within(function):
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != function:
        frame = frame.f_back
    return frame is not None

def pass_through(phase):
    """Counts down how often the phase is met, and then fails."""
    global count
    if phase != PHASE or count < 0:
        return
    count -= 1
    if count >= 0:
        return
    Path("fault").write_text(str(time.time()))
    if KIND == "raise":
        raise RuntimeError("a fault")
    if KIND in ("exit", "leave"):
        sys.exit(3 if KIND == "exit" else 0)
    os.kill(os.getpid(), signal.SIGKILL if KIND == "kill" else signal.SIGSTOP)

ordinary_fsync = os.fsync
def fsync(handle):
    if within("save_checkpoint"):
        pass_through("checkpoint")
    ordinary_fsync(handle)
os.fsync = fsync

class Model(nn.Linear):
    def __init__(self, inputs, outputs):
        pass_through("start")
        super().__init__(inputs, outputs)

    def forward(self, x):
        pass_through("epoch" if self.training else "evaluation")
        return super().forward(x)

    def state_dict(self, *args, **kwargs):
        if RANK != "0" and within("save_state"):  # ranks after the first write nothing
            pass_through("checkpoint")
        return super().state_dict(*args, **kwargs)
'''
CONFIG = """
[data]
source = "breast_cancer"
[model]
name = "module"
module = "faulty:Model"
[training]
epochs = 1000000
compile = "off"
[checkpoint]
every_steps = 10
[output]
folder = "runs"
curves = false
"""


class Trial(NamedTuple):
    kind: str
    phase: str
    rank: int
    after: int  # how often the phase is met before


class Outcome(NamedTuple):
    code: int
    errors: str
    seconds: float  # from the fault to the end of the job
    wrong: list[str]


def mpiexec() -> list[str]:
    """The command that starts ranks, beside this Python or in the path."""
    beside = Path(sys.executable).with_name("mpiexec")
    command = str(beside) if beside.exists() else shutil.which("mpiexec")
    if command is None:
        raise SystemExit('mpiexec is not installed: pip install "nanotorch[mpi]"')
    return [command, "--oversubscribe"]


def run(trial: Trial, ranks: int, folder: Path) -> Outcome:
    """One job with one fault, in an empty folder, and what is wrong with how it ended."""
    (folder / "faulty.py").write_text(MODEL)
    (folder / "run.toml").write_text(CONFIG)
    words = [*mpiexec(), "-n", str(ranks), sys.executable, str(ROOT / "train.py"), "run.toml"]
    words += ["--training.rank_timeout", str(TIMEOUT), "--quiet"]
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environment = {**os.environ, **root, "FAULT": ",".join(map(str, trial))}
    job = subprocess.Popen(
        words, cwd=folder, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        _, stderr = job.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        job.terminate()
        job.communicate()
        return Outcome(0, "", 90.0, ["it hangs"])
    end, errors = time.time(), stderr.decode(errors="replace")
    if not (folder / "fault").exists():
        return Outcome(job.returncode, errors, 0.0, [f"the phase was not met: {errors[-500:]}"])
    wrong = []
    if job.returncode == 0:
        wrong.append("the exit code is 0")
    if f"rank {trial.rank}" not in errors and f",{trial.rank}]" not in errors:
        wrong.append(f"the rank is not named: {errors[-500:]}")
    for run_folder in (folder / "runs").glob("run-*"):
        for checkpoint in checkpoints_in(run_folder):
            try:
                load_checkpoint(checkpoint)
            except InputError as error:
                wrong.append(str(error))
    return Outcome(job.returncode, errors, end - float((folder / "fault").read_text()), wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--ranks", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    every = itertools.cycle(itertools.product(KINDS, PHASES))
    longest: dict[str, float] = {}
    failed = 0
    for number, (kind, phase) in enumerate(itertools.islice(every, options.trials), start=1):
        after = 0 if phase == "start" else chance.randrange(30)
        trial = Trial(kind, phase, chance.randrange(options.ranks), after)
        with tempfile.TemporaryDirectory() as folder:
            outcome = run(trial, options.ranks, Path(folder))
        late = outcome.seconds > PROMISED[kind]
        wrong = outcome.wrong + ["late"] * late
        failed += bool(wrong)
        longest[kind] = max(longest.get(kind, 0.0), outcome.seconds)
        words = "; ".join(wrong) or "named, and the checkpoints are whole"
        print(
            f"{number:>3} {kind:<6} {phase:<11} rank {trial.rank}: "
            f"{outcome.seconds:5.2f} s, code {outcome.code}: {words}",
            flush=True,
        )
    print("longest: " + ", ".join(f"{kind} {seconds:.2f} s" for kind, seconds in longest.items()))
    print(f"{failed} of {options.trials} trials went wrong" if failed else "every trial went well")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
