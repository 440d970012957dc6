"""Everything that a machine with a GPU has to say of NanoTorch, in one command of under 10 minutes.

    python scripts/gpu_check.py FOLDER              all of it
    python scripts/gpu_check.py FOLDER questions    some of: questions, tests, benchmark

Prints the device and its versions, answers what a machine without a GPU leaves open, runs
`pytest -m gpu` and a short benchmark of steps, and leaves device.json, questions.json, tests.txt,
figures.json and benchmark.md in FOLDER. `python scripts/bench_page.py FOLDER/figures.json` puts
the figures into docs/gpu.md. Exit code 0 where all went well, 1 where not, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import bench_cuda
import numpy as np

import nanotorch as nt
from nanotorch.backend import cuda_module, cuda_unavailable_reason
from nanotorch.training.data.batches import Batches
from nanotorch.training.data.prepare import FeatureRows, Part

PARTS = ("questions", "tests", "benchmark")
SECONDS = {"tests": 300, "benchmark": 220}  # after which a part is ended
CASES = "S,MLP,XL,XXL,WIDE,WIDE-tf32,WIDE-bfloat16"

Answer = tuple[bool, Any]  # whether it is as it should be, and what was seen


# --- the open questions ---------------------------------------------------------------------------


def half_sums() -> Answer:
    """Sums of 2^20 times 0.01 in float16, which is 10488 where they are accumulated in float32."""
    seen = {}
    xp = cuda_module()
    for name in ("float16", "bfloat16"):
        if not hasattr(nt, name):
            continue
        x = nt.full((1 << 20,), 0.01, device="cuda").to(getattr(nt, name))
        exact = float(x.to(nt.float64).sum().item())
        seen[name] = {"ours": float(x.sum().item()), "exact": exact}
    seen["cupy float16"] = {"ours": float(xp.full(1 << 20, 0.01, "e").sum()), "exact": 10488.0}
    ours = [figures for name, figures in seen.items() if not name.startswith("cupy")]
    return all(abs(f["ours"] / f["exact"] - 1) < 5e-3 for f in ours), seen


def stable_sorting() -> Answer:
    """Whether equal keys keep their order: in our argsort, and in CuPy's own."""
    xp = cuda_module()
    seen = {}
    for count in (1000, 1 << 20):
        keys = np.random.default_rng(0).integers(0, 10, count).astype("f")
        expected = np.argsort(keys, kind="stable")
        ours = nt.argsort(nt.from_numpy(keys).to("cuda"), stable=True).cpu().numpy()
        theirs = xp.argsort(xp.asarray(keys)).get()
        seen[count] = {
            "ours": bool((ours == expected).all()), "cupy": bool((theirs == expected).all()),
        }  # fmt: skip
    return all(found["ours"] for found in seen.values()), seen


def training() -> tuple[Any, Callable[..., Any], tuple[Any, Any]]:
    """A model with an embedding, normalization and dropout, a step of it, and a batch."""
    nt.manual_seed(0)
    nn = nt.nn
    model = nn.Sequential(
        nn.Embedding(50, 16), nn.Flatten(), nn.Linear(128, 64), nn.LayerNorm(64), nn.GELU(),
        nn.Dropout(0.1), nn.Linear(64, 5),
    ).to("cuda")  # fmt: skip
    optimizer = nt.optim.AdamW(model.parameters(), lr=0.01)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    x = nt.randint(0, 50, (256, 8)).to("cuda")
    return model, step, (x, x[:, 0] % 5)


def bits(model: Any) -> bytes:
    return b"".join(p.detach().cpu().numpy().tobytes() for p in model.parameters())


def determinism() -> Answer:
    """How many different results five trainings of 50 steps have, eager and compiled."""
    seen = {}
    for name in ("eager", "compiled"):
        found = set()
        for _ in range(5):
            model, step, batch = training()
            call = nt.compile(step, pure=True) if name == "compiled" else step
            for _ in range(50):
                call(*batch)
            found.add(bits(model))
        seen[name] = len(found)
    return set(seen.values()) == {1}, seen


def capturing() -> Answer:
    """Whether a step becomes a CUDA graph, and has the bits of an eager one."""
    model, step, batch = training()
    for _ in range(10):
        step(*batch)
    expected = bits(model)
    model, step, batch = training()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compiled = nt.compile(step, pure=True)
        for _ in range(10):
            compiled(*batch)
    told = [str(warning.message) for warning in caught]
    equal = bits(model) == expected
    return equal and not told, {"bits of an eager step": equal, "told": told}


def milliseconds(work: Callable[[], Any]) -> float:
    """The least of three times, from one wait for the device to the next."""
    times = []
    for _ in range(3):
        nt.cuda.synchronize()
        start = time.perf_counter()
        work()
        nt.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e3)
    return min(times)


def overlapping() -> Answer:
    """How long an epoch takes whose rows travel: copies alone, steps alone, and both."""
    draw = np.random.default_rng(0)
    part = Part(
        FeatureRows(draw.standard_normal((200_000, 512), dtype="f")), np.zeros((200_000, 1))
    )
    sent = Batches(part, None, 4000, device="cuda", on_device=False)
    kept = Batches(part, None, 4000, device="cuda", on_device=True)
    weights = nt.randn(512, 4096).to("cuda")

    def epoch(batches: Batches, rounds: int) -> None:
        for x, _, _ in batches.epoch(0):
            for _ in range(rounds):
                x @ weights

    epoch(sent, 1), epoch(kept, 1)
    copies = milliseconds(lambda: epoch(sent, 0))
    one = milliseconds(lambda: epoch(kept, 1))
    rounds = max(1, round(copies / one))  # as long as the copies
    steps, both = (
        milliseconds(lambda: epoch(kept, rounds)),
        milliseconds(lambda: epoch(sent, rounds)),
    )
    seen = {"copies": copies, "steps": steps, "both": both, "of their sum": both / (copies + steps)}
    return both < 0.9 * (copies + steps), {name: round(value, 3) for name, value in seen.items()}


def transfers() -> Answer:
    """GB/s from pinned and from ordinary memory, and on the device (bytes read and written)."""
    x = nt.empty(1 << 26)
    pinned, there = x.pin_memory(), nt.empty(1 << 26, device="cuda")
    other = nt.empty(1 << 26, device="cuda")
    times = {
        "pinned": milliseconds(lambda: pinned.to("cuda", non_blocking=True)),
        "ordinary": milliseconds(lambda: x.to("cuda")),
        "on the device": milliseconds(lambda: other.copy_(there)) / 2,
    }
    seen = {name: round((x.numel() * 4) / (took * 1e6), 1) for name, took in times.items()}
    return seen["pinned"] > seen["ordinary"], seen


def agreement() -> Answer:
    """The largest difference of CPU and GPU over 30 steps of float64, in the loss."""
    found = []
    for device in ("cpu", "cuda"):
        nt.manual_seed(0)
        nn = nt.nn
        layers = [nn.Linear(20, 32), nn.Tanh(), nn.LayerNorm(32), nn.Linear(32, 4)]
        model = nn.Sequential(*layers).double().to(device)
        optimizer = nt.optim.Adam(model.parameters(), lr=0.01)
        x = nt.randn(64, 20, dtype=nt.float64)
        y = (x[:, 0] > 0).long().to(device)
        x = x.to(device)
        losses = []
        for _ in range(30):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        found.append([loss.item() for loss in losses])
    worst = max(abs(a - b) for a, b in zip(*found, strict=True))
    return worst < 1e-10, worst


QUESTIONS: dict[str, Callable[[], Answer]] = {
    "sums of half precision are accumulated in float32": half_sums,
    "a stable sort keeps the order of equal keys": stable_sorting,
    "five trainings end in the same bits": determinism,
    "a step becomes a CUDA graph with the bits of an eager one": capturing,
    "copies run beside steps": overlapping,
    "pinned memory is copied faster": transfers,
    "the losses are the CPU's": agreement,
}


def ask(folder: Path) -> bool:
    """Answers every question; one that fails does not keep the others from being asked."""
    found, well = {}, True
    for question, answer in QUESTIONS.items():
        try:
            good, seen = answer()
        except Exception as error:
            good, seen = False, f"{type(error).__name__}: {error}"
        found[question] = {"yes": good, "seen": seen}
        print(f"{'yes' if good else 'NO '} {question}: {seen}", flush=True)
        well &= good
    (folder / "questions.json").write_text(json.dumps(found, indent=1))
    return well


# --- tests and benchmark --------------------------------------------------------------------------


def run(command: list[str], output: Path, seconds: int) -> bool:
    """Runs a command, shows and keeps what it prints; False where it failed or took too long."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    late = threading.Timer(seconds, process.kill)
    late.start()
    with output.open("w") as file:
        for line in process.stdout:
            print(line, end="", flush=True)
            file.write(line)
        code = process.wait()
        late.cancel()
        if late.finished.is_set() and code < 0:
            file.write(f"ended after {seconds} seconds\n")
            print(f"gpu_check.py: ended after {seconds} seconds: {' '.join(command)}")
    return code == 0


def tests(folder: Path) -> bool:
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "--durations=10"]
    if importlib.util.find_spec("xdist") is not None:
        command += ["-n", "6"]
    return run(command, folder / "tests.txt", SECONDS["tests"])


def benchmark(folder: Path) -> bool:
    script = str(ROOT / "scripts" / "bench.py")
    command = [sys.executable, script, "steps", "--device", "cuda", "--cases", CASES]
    command += ["--turns", "5", "--seconds", "0.1", "--results", str(folder / "figures.json")]
    return run(command, folder / "benchmark.md", SECONDS["benchmark"])


WORK: dict[str, Callable[[Path], bool]] = {
    "questions": ask,
    "tests": tests,
    "benchmark": benchmark,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the results go")
    parser.add_argument(
        "parts", nargs="*", help=f"some of {', '.join(PARTS)}; all if none is named"
    )
    options = parser.parse_args()
    for part in options.parts:
        if part not in PARTS:
            parser.exit(2, f"gpu_check.py: unknown part {part!r}; there are {', '.join(PARTS)}\n")
    if (reason := cuda_unavailable_reason()) is not None:
        parser.exit(2, f"gpu_check.py: {reason}\n")
    options.folder.mkdir(parents=True, exist_ok=True)
    device = bench_cuda.describe_device()
    (options.folder / "device.json").write_text(json.dumps(device, indent=1))
    versions = ", ".join(f"{name} {version}" for name, version in device["versions"].items())
    print(f"{device['name']}, {device['memory'] / 2**30:.0f} GiB; {versions}", flush=True)
    well = {part: WORK[part](options.folder) for part in options.parts or PARTS}
    print("; ".join(f"{part}: {'well' if good else 'NOT WELL'}" for part, good in well.items()))
    return 0 if all(well.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
