"""Kills training runs with SIGKILL at random moments, resumes them, and compares every byte.

    python scripts/kill_resume.py [--kills 200] [--seed 0]

Several kinds of runs take turns. Each is trained once without a stop, and once killed again and
again until it is through; half of the kills come while a checkpoint is being written. The exit
status is 1 if the weights, metrics.jsonl or summary.json of a pair differ.
"""

from __future__ import annotations

import argparse
import itertools
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMPARED = ("model.safetensors", "metrics.jsonl", "summary.json")

KILLS_OF_ONE_RUN = 20

KINDS = {
    "momentum": ["--data.source", "breast_cancer", "--optimizer.momentum", "0.9"],
    "adamw, accumulation, cosine": [
        *("--data.source", "digits", "--optimizer.name", "adamw", "--optimizer.lr", "0.01"),
        *("--training.accumulate", "3", "--schedule.name", "cosine", "--schedule.unit", "step"),
    ],
    "dropout, plateau, early stopping": [
        *("--data.source", "digits", "--model.name", "mlp", "--model.hidden", "[32]"),
        *("--model.dropout", "0.2", "--schedule.name", "plateau", "--schedule.patience", "2"),
        *("--stopping.patience", "400", "--metrics.each_epoch", '["f1_macro"]'),
    ],
    "released parameters": [
        *("--data.source", "iris", "--model.freeze", '["weight"]', "--optimizer.name", "adam"),
        *("--model.unfreeze_at", "{weight = 20}", "--penalty.l1", "0.001"),
    ],
    "lbfgs": [
        *("--data.source", "breast_cancer", "--optimizer.name", "lbfgs", "--penalty.l2", "0.001"),
        *("--training.batch_size", "0", "--optimizer.max_iter", "2"),
    ],
}
EPOCHS = {"momentum": 600, "dropout, plateau, early stopping": 90, "released parameters": 600}


def command(kind: str, folder: Path, seed: int) -> list[str]:
    """A call of train.py that starts the run or goes on with it."""
    config = folder / "run.toml"
    if not config.exists():
        config.write_text('[data]\nsource = ""\n')
    quiet = ["--quiet", "--output.curves", "false", "--output.report", "false"]
    often = ["--checkpoint.every_steps", "25", "--device", "cpu"]
    epochs = ["--training.epochs", str(EPOCHS.get(kind, 150)), "--seed", str(seed)]
    return [
        *(sys.executable, str(ROOT / "train.py"), str(config), "--resume"),
        *("--output.folder", str(folder), *quiet, *often, *epochs, *KINDS[kind]),
    ]


def kill_somewhere(process: subprocess.Popen[bytes], folder: Path, chance: random.Random) -> bool:
    """Kill the process at a random moment, or while it saves; False if it ended before."""
    deadline = time.monotonic() + chance.uniform(0.6, 2.5)
    in_save = chance.random() < 0.5
    while process.poll() is None:
        now = time.monotonic()
        saving = in_save and (folder / f"run-1/checkpoints/.writing-{process.pid}").exists()
        if saving or now > deadline + (1.0 if in_save else 0.0):
            process.kill()
            process.wait()
            return True
        time.sleep(0.0002 if in_save else 0.002)
    if process.returncode != 0:
        assert process.stderr is not None
        raise SystemExit(f"a run failed: {process.stderr.read().decode()}")
    return False


def trial(kind: str, seed: int, kills_left: int, chance: random.Random) -> tuple[int, list[str]]:
    """One run with and one without kills: how often it was killed, and the files that differ."""
    with tempfile.TemporaryDirectory() as place:
        whole, killed = Path(place, "whole"), Path(place, "killed")
        whole.mkdir()
        killed.mkdir()
        subprocess.run(command(kind, whole, seed), check=True, capture_output=True)
        kills = 0
        while True:
            process = subprocess.Popen(
                command(kind, killed, seed), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            if kills >= min(kills_left, KILLS_OF_ONE_RUN):
                process.communicate()
                break
            if not kill_somewhere(process, killed, chance):
                process.communicate()
                break
            process.communicate()
            kills += 1
        pairs = [(whole / "run-1" / name, killed / "run-1" / name) for name in COMPARED]
        return kills, [a.name for a, b in pairs if a.read_bytes() != b.read_bytes()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    total, wrong = 0, 0
    for seed, kind in enumerate(itertools.cycle(KINDS)):
        kills, different = trial(kind, seed, given.kills - total, chance)
        total += kills
        wrong += bool(different)
        words = f"differ: {', '.join(different)}" if different else "equal to the byte"
        print(f"{total:>4} kills  {kind}, seed {seed}: {kills} kills, {words}", flush=True)
        if total >= given.kills:
            break
    print("every run came out as if never killed" if not wrong else f"{wrong} runs came out wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
