"""What a machine with a GPU has to say of NanoTorch, told check by check.

    python scripts/gpu_check.py FOLDER                         everything, within 300 seconds
    python scripts/gpu_check.py FOLDER captures questions      some stages
    python scripts/gpu_check.py FOLDER --seconds 170 tests     within so many seconds
    python scripts/gpu_check.py FOLDER versions captures trial --look-alike     without a GPU

Every check runs in a process of its own with its own limit of time, so that one that hangs or
crashes costs that check alone. Each tells a line of JSON as soon as it is through: whether all was
well, what was seen or the traceback, and its seconds. FOLDER gets results.jsonl with these lines,
tests.jsonl with the report of each test that failed, figures.json and benchmark.md, and
kernels.tar.gz, the kernels as compiled: `--kernels FILE` gives them to a later run.

Needs CuPy and NumPy; the stages tests and training need pytest, and training needs pydantic, which
`--wheels FOLDER` installs for this run from wheels. Exit code 0 where all was well, 1 where
something was not, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import faulthandler
import importlib.metadata
import importlib.util
import itertools
import json
import os
import platform
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = Path(__file__).resolve()
sys.path[:0] = [str(ROOT), str(SCRIPT.parent)]

Answer = tuple[bool, Any]  # whether it is as it should be, and what was seen
MOST_KERNELS = 16 * 2**20  # bytes of kernels.tar.gz
AT_ONCE = 8  # checks side by side, unless they measure
# Errors after which a process can no longer use its device.
STICKY = ("IllegalAddress", "LaunchFailure", "MisalignedAddress", "IllegalInstruction",
          "LaunchTimeout", "HardwareStackError", "cudaErrorAssert", "ILLEGAL_ADDRESS",
          "LAUNCH_FAILED", "MISALIGNED_ADDRESS")  # fmt: skip


# --- versions and kernels -------------------------------------------------------------------------


def versions() -> Answer:
    """The device, its libraries, and whether cuBLAS can be called by name."""
    import numpy

    from nanotorch.backend import cuda_module
    from nanotorch.backend.cuda import cublas

    xp = cuda_module()
    found = {"python": platform.python_version(), "numpy": numpy.__version__}
    for package in (
        "cupy-cuda13x",
        "cupy-cuda12x",
        "ml_dtypes",
        "torch",
        "pydantic",
        "pytest-xdist",
    ):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    properties = xp.cuda.runtime.getDeviceProperties(0)
    found["device"] = properties["name"].decode()
    found["GiB"] = round(properties["totalGlobalMem"] / 2**30, 1)
    found["capability"] = f"{properties['major']}.{properties['minor']}"
    for name in ("driverGetVersion", "runtimeGetVersion"):
        if hasattr(xp.cuda.runtime, name):
            found[name] = getattr(xp.cuda.runtime, name)()
    if hasattr(xp.cuda, "nvrtc"):
        found["NVRTC"] = xp.cuda.nvrtc.getVersion()
    reason = cublas.unavailable_reason(xp)
    found["cuBLAS"] = reason or "called by name"
    return reason is None, found


def compiled(what: tuple[str, str]) -> dict[str, Any]:
    """Compiles the kernels of a file for some element types; what each of them takes."""
    from nanotorch.backend import cuda_module
    from nanotorch.backend.cuda import kernels

    file, kinds = what
    xp, names = cuda_module(), kernels.instances(file, kinds)
    source = kernels.source(file)
    module = xp.RawModule(code=source, options=kernels.OPTIONS, name_expressions=names)
    taken = {}
    for name in names:
        kernel = module.get_function(name)
        if hasattr(kernel, "num_regs"):
            taken[name] = [kernel.num_regs, kernel.max_threads_per_block, kernel.local_size_bytes]
    return taken


def compile_all() -> Answer:
    """Compiles every kernel, side by side; registers, most threads of a block, spilled bytes."""
    import re

    from nanotorch.backend.cuda import kernels

    work = sorted(
        {
            (file, kinds)
            for file in kernels.files()
            for _, types in re.findall(kernels._DECLARED, kernels.source(file))
            for kinds in types.split() or [""]
        }
    )
    import multiprocessing

    spawn = multiprocessing.get_context("spawn")
    processes = min(16, os.cpu_count() or 1)
    with concurrent.futures.ProcessPoolExecutor(processes, spawn, started) as pool:
        taken = {name: t for found in pool.map(compiled, work) for name, t in found.items()}
    spilled = {name: t for name, t in taken.items() if t[2]}
    few = {name: t for name, t in taken.items() if t[1] < 256}
    return not few, {"modules": len(work), "kernels": len(taken), "spilled": spilled, "few": few}


# --- captures -------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A training step: the model, its optimizer's step, and what it is given."""

    model: Any
    step: Callable[..., Any]
    batches: list[tuple[Any, ...]]


def case_of(
    model: Any, batches: list[tuple[Any, ...]], loss_of: Any, optimizer: Any = None,
    clip: float | None = None, half: bool = False,
) -> Case:  # fmt: skip
    import nanotorch as nt

    used = optimizer(model.parameters()) if optimizer else nt.optim.SGD(model.parameters(), lr=0.1)
    scaler = nt.amp.GradScaler("cuda", enabled=half)

    def step(*batch: Any) -> Any:
        used.zero_grad()
        with nt.autocast("cuda", dtype=nt.float16, enabled=half):
            loss = loss_of(model, *batch)
        scaler.scale(loss).backward()
        if clip is not None:
            nt.nn.utils.clip_grad_norm_(model.parameters(), clip)
        scaler.step(used)
        scaler.update()
        return loss

    return Case(model, step, batches)


def layers(*sizes: int, between: Callable[[], list[Any]] | None = None) -> Any:
    from nanotorch import nn

    made: list[Any] = []
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        made += [*((between or (lambda: [nn.ReLU()]))() if i else []), nn.Linear(a, b)]
    return nn.Sequential(*made).to("cuda")


def dense(rows: int, *sizes: int, between: Any = None, **how: Any) -> Case:
    """A multilayer perceptron, with one output by logistic regression."""
    import nanotorch as nt

    functional = nt.nn.functional
    nt.manual_seed(0)
    model = layers(*sizes, between=between)
    batches = []
    for _ in range(16):
        x = nt.randn(rows, sizes[0], device="cuda")
        y = (x[:, :1] > 0).float() if sizes[-1] == 1 else (x[:, 0] > 0).long()
        batches.append((x, y))
    loss = (
        functional.binary_cross_entropy_with_logits if sizes[-1] == 1 else functional.cross_entropy
    )
    return case_of(model, batches, lambda m, x, y: loss(m(x), y), **how)


def with_embedding(**how: Any) -> Case:
    """An embedding, layer normalization, GELU and dropout."""
    import nanotorch as nt

    nn = nt.nn
    nt.manual_seed(0)
    model = nn.Sequential(
        nn.Embedding(50, 16), nn.Flatten(), nn.Linear(128, 64), nn.LayerNorm(64), nn.GELU(),
        nn.Dropout(0.1), nn.Linear(64, 5),
    ).to("cuda")  # fmt: skip
    xs = [nt.randint(0, 50, (64, 8)).to("cuda") for _ in range(16)]
    batches = [(x, x[:, 0] % 5) for x in xs]
    return case_of(model, batches, lambda m, x, y: nn.functional.cross_entropy(m(x), y), **how)


def many_parts() -> Case:
    """A cat and a stack of twelve parts of the batch."""
    import nanotorch as nt

    nt.manual_seed(0)
    model = layers(24, 1)
    batches = [(nt.randn(16, 24, device="cuda"),) for _ in range(16)]

    def loss_of(model: Any, x: Any) -> Any:
        parts = x.split(2, dim=1)
        return model(nt.cat(parts[::-1], 1)).square().mean() + nt.stack(parts).mean()

    return case_of(model, batches, loss_of)


def adamw(parameters: Any) -> Any:
    import nanotorch as nt

    return nt.optim.AdamW(parameters, lr=0.01)


def dropout() -> list[Any]:
    from nanotorch import nn

    return [nn.ReLU(), nn.Dropout(0.3)]


def many(rows: int) -> int:
    """So many rows; fewer on the look-alike."""
    return min(rows, 260) if os.environ.get("GPU_CHECK_LOOK_ALIKE") else rows


CAPTURES: dict[str, Callable[[], Case]] = {
    "S": lambda: dense(32, 30, 1),
    "M": lambda: dense(128, 784, 10),
    "MLP": lambda: dense(128, 784, 256, 10),
    "L": lambda: dense(many(8192), 1024, 1),
    "rows of 255, 7 left over": lambda: dense(many(1031), 255, 1),
    "200,000 rows of 5": lambda: dense(many(200_000), 5, 1),
    "softmax of 3000": lambda: dense(many(3000), 20, 7),
    "AdamW with clipping": lambda: dense(64, 32, 16, 3, optimizer=adamw, clip=1.0),
    "dropout": lambda: dense(64, 32, 16, 3, between=dropout),
    "autocast with a scaler": lambda: dense(64, 32, 16, 3, half=True),
    "embedding": lambda: with_embedding(optimizer=adamw),
    "cat of 12": many_parts,
    "16 steps a launch": lambda: dense(32, 30, 1),
    "7 x 13, 16 steps a launch": lambda: dense(7, 13, 5, 3),
}


def bits(model: Any) -> bytes:
    return b"".join(p.detach().cpu().numpy().tobytes() for p in model.parameters())


def capture(name: str) -> Answer:
    """Whether a step becomes one CUDA graph, has the bits of an eager one, and what is in it."""
    import nanotorch as nt

    results, seen = {}, {}
    for way in ("eager", "compiled"):
        case = CAPTURES[name]()
        nt.manual_seed(1)  # what dropout draws
        step = case.step if way == "eager" else nt.compile(case.step, pure=True)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            if way == "compiled" and "16 steps" in name:
                stacks = [nt.stack(some) for some in zip(*case.batches, strict=True)]
                losses = [loss for _ in range(3) for loss in step.steps(*stacks).tolist()]
            else:
                losses = [step(*batch).item() for _ in range(3) for batch in case.batches]
        results[way] = losses, bits(case.model)
    ((replay,),) = step._replays.values()
    plan = replay.plan
    seen["told"] = [str(warning.message) for warning in told]
    seen["why not"] = plan.why_not
    same = [a == b for a, b in zip(*(results[way][0] for way in results), strict=True)]
    seen["losses"] = [results["eager"][0][0], results["eager"][0][-1]]
    if not all(same):
        first = same.index(False)
        seen["other losses from step"] = first, *(results[way][0][first] for way in results)
    equal = results["eager"] == results["compiled"]
    seen["bits of eager steps"] = equal
    for count, launch in plan.launches.items():
        dot = launch.graph.debug_dot_str()
        seen[f"nodes of {count or 1}"] = nodes_of(dot)
    return equal and plan.why_not is None and not told, seen


def nodes_of(dot: str) -> list[str] | int:
    """The kernels of a graph as its description in DOT names them."""
    import re

    names = re.findall(r'label="[^"]*?(?:KERNEL|kernel)?\\n?([A-Za-z_]\w*)', dot)
    labels = re.findall(r'label\s*=\s*"\{?([^"]{1,120})', dot)
    return (
        [label.replace("\n", " ")[:80] for label in labels][:24] or len(names) or dot.count("node")
    )


# --- times ----------------------------------------------------------------------------------------


def kernel_times() -> Answer:
    """Microseconds of ops within replays of a CUDA graph of twenty, and GB/s of what they touch."""
    import nanotorch as nt
    from nanotorch.backend import cuda_module
    from nanotorch.backend.cuda import fused, graphs
    from nanotorch.backend.devices import device

    functional, xp = nt.nn.functional, cuda_module()
    share = 2048 if os.environ.get("GPU_CHECK_LOOK_ALIKE") else 1  # of the rows

    def randn(rows: int, *shape: int, dtype: Any = nt.float32) -> Any:
        return nt.randn(max(rows // share, 2), *shape, device="cuda", dtype=dtype)

    def places(count: int, rows: int) -> Any:
        return nt.randint(0, rows, (max(count // share, 2),)).to("cuda")

    x = randn(1 << 20)
    y = (x > 0).float()
    wide, classes = randn(8192, 1024), places(8192, 1024)
    model, logits, ten_classes = layers(256, 1), randn(128 * share, 10), places(128 * share, 10)
    rows_of_x, labels = randn(200_000, 256), (randn(200_000, 1) > 0).float()
    gradients = [nt.empty_like(p)._array for p in model.parameters()]
    found, one = nt.empty((), device="cuda")._array, nt.ones((), device="cuda")._array
    found_slopes = nt.empty_like(logits)._array

    def one_pass() -> None:
        weight, bias = (p._array for p in model.parameters())
        fused.rows_to_one(
            xp, rows_of_x._array, weight=weight, bias=bias, target=labels._array, g=one, loss=found,
            gradient=gradients[0], bias_gradient=gradients[1], divisor=len(labels),
        )  # fmt: skip

    def class_loss() -> None:
        fused.class_loss(
            xp, x=logits._array, target=ten_classes._array, g=one, loss=found, slopes=found_slopes,
            ignore_index=-100, reduction="mean",
        )  # fmt: skip

    long, norm = randn(64, 20_000, dtype=nt.float64), nt.nn.LayerNorm(1024).to("cuda")
    values, few, many = randn(200_000, 16), places(200_000, 10), places(200_000, 50_000)
    rows = {n: nt.zeros(n, 16, device="cuda") for n in (10, 50_000)}
    column, ten, big, other = randn(1 << 20, 1), randn(1 << 20, 10), randn(1 << 26), randn(1 << 26)
    work: dict[str, tuple[int, Callable[[], Any]]] = {
        "copy of 268 MB": (2 * big.nbytes, lambda: other.copy_(big)),
        "bce of 1M": (
            2 * x.nbytes, lambda: functional.binary_cross_entropy_with_logits(x, y),
        ),
        "relu of 1M": (2 * x.nbytes, lambda: x.relu()),
        "gelu of 1M": (2 * x.nbytes, lambda: functional.gelu(x)),
        "dropout of 1M": (3 * x.nbytes, lambda: functional.dropout(x, 0.1)),
        "sum of 1M": (x.nbytes, lambda: x.sum()),
        "sum of 1M rows of 1": (column.nbytes, lambda: column.sum(0)),
        "sum of 1M rows of 10": (ten.nbytes, lambda: ten.sum(0)),
        "softmax 8192 x 1024": (2 * wide.nbytes, lambda: wide.softmax(1)),
        "softmax 64 x 20,000 float64": (2 * long.nbytes, lambda: long.softmax(1)),
        "one pass over 200,000 x 256": (rows_of_x.nbytes, one_pass),
        "loss of 128 x 10 and slopes": (0, class_loss),
        "cross-entropy 8192 x 1024": (wide.nbytes, lambda: functional.cross_entropy(wide, classes)),
        "layer norm 8192 x 1024": (2 * wide.nbytes, lambda: norm(wide)),
        "200,000 into 10 rows": (values.nbytes, lambda: rows[10].index_add(0, few, values)),
        "200,000 into 50,000 rows": (
            values.nbytes, lambda: rows[50_000].index_add(0, many, values),
        ),
        "embedding 200,000": (2 * values.nbytes, lambda: functional.embedding(many, rows[50_000])),
        "product 1024": (0, lambda: wide[:1024] @ wide[1024:2048].T),
    }  # fmt: skip
    stage, seen, well = graphs.stage_of(xp, device("cuda", 0)), {}, True
    for name, (touched, run) in work.items():
        try:
            pool = graphs.pool_of_graphs(xp)
            with nt.no_grad():
                with stage.aside(pool):
                    run()
                graph, _ = stage.captured(lambda run=run: [run() for _ in range(20)] and None, pool)
            stream = xp.cuda.get_current_stream()
            took = []
            for _ in range(5):
                start, end = stream.record(xp.cuda.Event()), xp.cuda.Event()
                graph.launch(stream)
                stream.record(end)
                end.synchronize()
                took.append(xp.cuda.get_elapsed_time(start, end) * 1e3 / 20)
            seen[name] = {"us": round(min(took), 2)}
            if touched and min(took):
                seen[name]["GB/s"] = round(touched / min(took) / 1e3, 1)
        except Exception as error:
            seen[name], well = {"error": f"{type(error).__name__}: {error}"}, False
        print(json.dumps({"part of": "kernel times", name: seen[name]}), flush=True)
    return well, seen


# --- the open questions ---------------------------------------------------------------------------


def half_sums() -> Answer:
    """Sums of 2^20 times 0.01 in float16, which is 10488 where they are accumulated in float32."""
    import nanotorch as nt
    from nanotorch.backend import cuda_module

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
    import numpy as np

    import nanotorch as nt
    from nanotorch.backend import cuda_module

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


def determinism() -> Answer:
    """How many different results five trainings of 50 steps have, eager and compiled."""
    import nanotorch as nt

    seen = {}
    for name in ("eager", "compiled"):
        found = set()
        for _ in range(5):
            case = with_embedding(optimizer=adamw)
            nt.manual_seed(1)
            call = nt.compile(case.step, pure=True) if name == "compiled" else case.step
            for i in range(50):
                call(*case.batches[i % 16])
            found.add(bits(case.model))
        seen[name] = len(found)
    return set(seen.values()) == {1}, seen


def milliseconds(work: Callable[[], Any]) -> float:
    """The least of three times, from one wait for the device to the next."""
    import nanotorch as nt

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
    import numpy as np

    import nanotorch as nt
    from nanotorch.training.data.batches import Batches
    from nanotorch.training.data.parts import FeatureRows, Part

    draw = np.random.default_rng(0)
    part = Part(
        FeatureRows(draw.standard_normal((200_000, 512), dtype="f")), np.zeros((200_000, 1))
    )
    sent = Batches(part, None, 4000, device="cuda", on_device=False)
    kept = Batches(part, None, 4000, device="cuda", on_device=True)
    weights = nt.randn(512, 4096).to("cuda")

    def epoch(batches: Any, rounds: int) -> None:
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
    import nanotorch as nt

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
    import nanotorch as nt

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


# --- the checks -----------------------------------------------------------------------------------


def hang() -> Answer:
    """What never ends, to try that it is ended."""
    while True:
        time.sleep(1)


def crash() -> Answer:
    """What takes its process down, to try that the others go on."""
    os.kill(os.getpid(), signal.SIGSEGV)
    return True, None


def fail() -> Answer:
    """What raises, to try that the traceback is told."""
    raise ValueError("this check fails on purpose")


class Check(NamedTuple):
    """One check of a stage: its limit in seconds, and what it calls or the command that it is."""

    stage: str
    seconds: float
    call: Callable[[], Answer] | None = None
    command: Callable[[Path], list[str]] | None = None


def tests(*files: str, workers: int = 12) -> Callable[[Path], list[str]]:
    """The command that runs the GPU's tests of some files, of all where none is named."""

    def command(folder: Path) -> list[str]:
        named = [str(ROOT / "tests" / file) for file in files]
        options = ["-m", "gpu", "-q", "-p", "gpu_check", "-o", "filterwarnings=default"]
        options += ["--maxfail=400", "-p", "no:cacheprovider", "-p", "no:benchmark", "--tb=short"]
        if importlib.util.find_spec("xdist") is not None and workers > 1:
            options += ["-n", str(workers), "--dist", "worksteal"]
        return [sys.executable, "-m", "pytest", *options, *named]

    return command


def benchmark(cases: str, peers: str) -> Callable[[Path], list[str]]:
    def command(folder: Path) -> list[str]:
        script = str(ROOT / "scripts" / "bench.py")
        return [
            sys.executable, script, "steps", "--device", "cuda", "--cases", cases, "--peers", peers,
            "--turns", "3", "--seconds", "0.05", "--results", str(folder / "figures.json"),
        ]  # fmt: skip

    return command


def sanitizer(tool: str, words: str) -> Callable[[Path], list[str]]:
    """The command that runs some of the tests of kernels under compute-sanitizer; each array has
    memory of its own meanwhile, whose end the tool knows."""

    def command(folder: Path) -> list[str]:
        some = tests("test_one_pass.py", "test_gpu_rules.py", workers=1)(folder)
        return ["env", "GPU_CHECK_WITHOUT_POOL=1", "compute-sanitizer", "--tool", tool,
                "--error-exitcode", "3", *some, "-k", words]  # fmt: skip

    return command


PEERS = "nanotorch,nanotorch-compile,nanotorch-steps,torch,torch-graph,cupy"
CHECKS: dict[str, Check] = {
    "versions": Check("versions", 20, versions),
    "every kernel compiles": Check("kernels", 60, compile_all),
    **{
        f"capture of {name}": Check("captures", 45, lambda name=name: capture(name))
        for name in CAPTURES
    },
    "kernel times": Check("times", 40, kernel_times),
    "benchmark": Check("benchmark", 75, command=benchmark("S,L,XL,MLP,WIDE-bfloat16", PEERS)),
    "sums of half precision are accumulated in float32": Check("questions", 20, half_sums),
    "a stable sort keeps the order of equal keys": Check("questions", 20, stable_sorting),
    "five trainings end in the same bits": Check("questions", 40, determinism),
    "copies run beside steps": Check("questions", 40, overlapping),
    "pinned memory is copied faster": Check("questions", 20, transfers),
    "the losses are the CPU's": Check("questions", 30, agreement),
    "whole runs": Check("training", 60, command=tests("test_gpu_device.py")),
    "first tests": Check(
        "tests", 90,
        command=tests(
            "test_one_pass.py", "test_gpu_rules.py", "test_cuda_kernels.py",
            "test_cuda_products.py", "test_cuda_graph.py", "test_cuda_optimizers.py",
            "test_cuda_indexing.py", "test_cuda_order.py", "test_attention.py", "test_philox.py",
        ),
    ),
    "other tests": Check(
        "tests", 80,
        command=tests(
            "test_amp.py", "test_transfer.py", "test_gpu_seam.py", "test_cuda.py",
            "test_dlpack.py", "test_ops_on_cuda.py", "test_optim_rules.py", "test_nn_on_cuda.py",
            "test_half_precision.py", "test_training_on_cuda.py",
        ),
    ),
    "memory errors": Check(
        "sanitizer", 60, command=sanitizer("memcheck", "one_by_one or sum_of_rows")
    ),
    "races": Check(
        "sanitizer", 60, command=sanitizer("racecheck", "one_by_one and mean and float32")
    ),
    "a check that hangs": Check("trial", 4, hang),
    "a check that crashes": Check("trial", 20, crash),
    "a check that fails": Check("trial", 20, fail),
}  # fmt: skip
DEFAULT = (
    "versions",
    "kernels",
    "captures",
    "times",
    "tests",
    "benchmark",
    "questions",
    "training",
)
OTHERS = ("sanitizer", "trial")
STAGES = (*DEFAULT, *OTHERS)
ALONE = ("kernels", "times", "benchmark", "tests", "training", "sanitizer")


# --- a check in its own process -------------------------------------------------------------------


def started() -> None:
    """Makes ready a process that checks: the look-alike in CuPy's place where it is asked for."""
    if os.environ.get("GPU_CHECK_LOOK_ALIKE"):
        sys.path.insert(0, str(ROOT / "tests"))
        import strict_cupy
        from strict_cupy.cublas import Library

        from nanotorch import backend
        from nanotorch.backend.cuda import cublas

        cublas.libraries[strict_cupy] = cublas.declared(Library())
        backend.register_cuda_module(strict_cupy)


def answer(name: str) -> int:
    """Runs one check and prints its line."""
    check, start = CHECKS[name], time.perf_counter()
    faulthandler.enable()
    faulthandler.dump_traceback_later(max(check.seconds - 1, 1), exit=False)
    line: dict[str, Any] = {"check": name}
    try:
        started()
        assert check.call is not None
        line["well"], line["seen"] = check.call()
    except BaseException as error:
        line["well"], line["error"] = False, f"{type(error).__name__}: {error}"
        line["traceback"] = traceback.format_exc().splitlines()[-30:]
    line["seconds"] = round(time.perf_counter() - start, 2)
    faulthandler.cancel_dump_traceback_later()
    print(json.dumps(line, default=str), flush=True)
    return 0


class Report:
    """Where lines go: to the screen and to results.jsonl, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.file = (folder / "results.jsonl").open("a", encoding="utf-8")
        self.lock = threading.Lock()
        self.bad = 0

    def tell(self, line: dict[str, Any]) -> None:
        text = json.dumps(line, default=str)
        with self.lock:
            self.bad += line.get("well") is False
            print(text, flush=True)
            self.file.write(text + "\n")
            self.file.flush()


def run(name: str, folder: Path, report: Report, end: float, environment: dict[str, str]) -> None:
    """Runs one check in a process of its own, and ends it with all its children when it is late."""
    check, start = CHECKS[name], time.perf_counter()
    limit = min(check.seconds, end - time.time())
    if limit < 3:
        report.tell({"check": name, "left out": "no time was left"})
        return
    if check.command is None:
        command = [sys.executable, str(SCRIPT), str(folder), "--child", name]
    else:
        command = check.command(folder)
    errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed below)
    try:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True,
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        report.tell({"check": name, "well": False, "error": str(error), "seconds": 0})
        return
    late = threading.Timer(limit, lambda: os.killpg(process.pid, signal.SIGKILL))
    late.start()
    told, words = False, []
    assert process.stdout is not None
    for text in process.stdout:
        if text.startswith("{"):
            with contextlib.suppress(ValueError):
                line = json.loads(text)
                told = told or line.get("check") == name
                report.tell(line)
                continue
        words.append(text.rstrip())
    code, ended = process.wait(), late.finished.is_set() and late.is_alive() is False
    late.cancel()
    errors.seek(0)
    words += errors.read().splitlines()
    errors.close()
    if not told:
        line = {"check": name, "well": code == 0, "code": code}
        if code == -signal.SIGKILL and ended:
            line["error"] = f"ended after {limit:.0f} seconds"
        line["seconds"] = round(time.perf_counter() - start, 2)
        report.tell({**line, "said": words[-25:]})
    if check.stage == "benchmark":
        (folder / "benchmark.md").write_text("\n".join(words) + "\n", encoding="utf-8")


# --- pytest's part: `-p gpu_check` ----------------------------------------------------------------


def pytest_runtest_logreport(report: Any) -> None:
    """Tells of a failure as soon as it is known, into the file that the environment names."""
    file = os.environ.get("GPU_CHECK_TESTS")
    if file and report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        text = str(report.longrepr)
        line = {"test": report.nodeid, "when": report.when, "failure": text[-1500:]}
        with open(file, "a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")


def pytest_configure() -> None:
    """Does without CuPy's pool where a memory checker is to see the end of each array."""
    if os.environ.get("GPU_CHECK_WITHOUT_POOL"):
        from nanotorch.backend import cuda_module

        cuda_module().cuda.set_allocator(None)


_broken: list[str] = []


def pytest_exception_interact(call: Any) -> None:
    """Notes an error after which this process can no longer use the device."""
    words = f"{type(call.excinfo.value).__name__}: {call.excinfo.value}"
    if any(sticky.lower() in words.lower().replace(" ", "") for sticky in STICKY):
        _broken.append(words)


def pytest_runtest_logfinish() -> None:
    """Leaves such a process, once its report is out: another worker takes the rest."""
    if _broken and "PYTEST_XDIST_WORKER" in os.environ:
        os._exit(70)


# --- all of it ------------------------------------------------------------------------------------


@contextlib.contextmanager
def kernels_kept(folder: Path, given: Path | None) -> Iterator[str]:
    """A folder for CuPy's compiled kernels, which go to kernels.tar.gz in the end."""
    with tempfile.TemporaryDirectory() as cache:
        if given is not None:
            with tarfile.open(given) as archive:
                archive.extractall(cache, filter="data")
        try:
            yield cache
        finally:
            file = folder / "kernels.tar.gz"
            with tarfile.open(file, "w:gz", compresslevel=1) as archive:
                archive.add(cache, ".")
            if file.stat().st_size > MOST_KERNELS:
                file.unlink()


def installed(wheels: Path) -> str:
    """Installs the wheels of a folder beside this run; where."""
    place = tempfile.mkdtemp(prefix="wheels-")
    found = [str(wheel) for wheel in sorted(wheels.glob("*.whl"))]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", place,
         *found],
        check=True,
    )  # fmt: skip
    return place


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the results go")
    stages = ", ".join(STAGES)
    parser.add_argument("stages", nargs="*", help=f"some of {stages}, or checks by their names")
    parser.add_argument("--seconds", type=float, default=300, help="for all of it; default 300")
    parser.add_argument("--look-alike", action="store_true", help="without a GPU: try the checks")
    parser.add_argument("--kernels", type=Path, help="kernels.tar.gz of an earlier run")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels that this run needs")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return answer(options.child)
    end = time.time() + options.seconds
    work = {stage: [n for n, check in CHECKS.items() if check.stage == stage] for stage in STAGES}
    work.update({name: [name] for name in CHECKS})
    for stage in options.stages:
        if stage not in work:
            parser.exit(2, f"gpu_check.py: unknown stage {stage!r}; there are {stages}\n")
    if not options.look_alike:
        from nanotorch.backend import cuda_unavailable_reason

        if (reason := cuda_unavailable_reason()) is not None:
            parser.exit(2, f"gpu_check.py: {reason}\n")
    options.folder.mkdir(parents=True, exist_ok=True)
    paths = [str(ROOT), str(SCRIPT.parent)]
    if options.wheels is not None:
        paths.append(installed(options.wheels))
    folder, report = options.folder.resolve(), Report(options.folder)
    with kernels_kept(folder, options.kernels) as cache:
        environment = {
            **os.environ, "CUPY_CACHE_DIR": cache, "GPU_CHECK_TESTS": str(folder / "tests.jsonl"),
            "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
            "GPU_CHECK_LOOK_ALIKE": "1" if options.look_alike else "",
        }  # fmt: skip
        for stage in options.stages or DEFAULT:
            start = time.perf_counter()
            with concurrent.futures.ThreadPoolExecutor(1 if stage in ALONE else AT_ONCE) as pool:
                list(pool.map(lambda n: run(n, folder, report, end, environment), work[stage]))
            report.tell({"stage": stage, "seconds": round(time.perf_counter() - start, 1)})
    return 1 if report.bad else 0


if __name__ == "__main__":
    sys.exit(main())
