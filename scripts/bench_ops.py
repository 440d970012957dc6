"""Times 47 common operations on small float32 tensors beside PyTorch's, 63 on tensors of 1 MB, and
whole eager steps.

    python scripts/bench_ops.py                    all, sorted by ratio, and their geometric mean
    python scripts/bench_ops.py softmax cat        only those whose names contain one of the words
    python scripts/bench_ops.py --turns 30         more turns, for a busy machine
    python scripts/bench_ops.py --device cuda --turns 5     the large ones on a GPU, on 64 MB

Each library runs in a process of its own, on one thread; they take turns, and the least time of all
turns counts. "forward" and "large" are within `no_grad`; "recorded" has inputs that require
gradients, and only where the op has a gradient.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PEERS = ("nanotorch", "torch")
SECONDS = 0.004  # of one turn
Op = Callable[[Any, Any], Any]

# What each op computes from the library `t` and the operands `v` of `operands`.
OPS: dict[str, Op] = {
    "a + b": lambda t, v: v.a + v.b,
    "a * 2": lambda t, v: v.a * 2,
    "a - row": lambda t, v: v.a - v.row,
    "a / b": lambda t, v: v.a / v.b,
    "-a": lambda t, v: -v.a,
    "a ** 2": lambda t, v: v.a**2,
    "exp": lambda t, v: v.a.exp(),
    "sqrt": lambda t, v: v.b.sqrt(),
    "relu": lambda t, v: t.relu(v.a),
    "sigmoid": lambda t, v: t.sigmoid(v.a),
    "gelu": lambda t, v: t.nn.functional.gelu(v.a),
    "clamp": lambda t, v: v.a.clamp(-1, 1),
    "where": lambda t, v: t.where(v.mask, v.a, v.b),
    "maximum": lambda t, v: t.maximum(v.a, v.b),
    "sum": lambda t, v: v.a.sum(),
    "sum(1)": lambda t, v: v.a.sum(1),
    "mean": lambda t, v: v.a.mean(),
    "mean(1)": lambda t, v: v.a.mean(1),
    "max(1)": lambda t, v: v.a.max(1)[0],
    "softmax": lambda t, v: v.a.softmax(1),
    "log_softmax": lambda t, v: t.log_softmax(v.a, 1),
    "cross_entropy": lambda t, v: t.nn.functional.cross_entropy(v.a, v.classes),
    "mse_loss": lambda t, v: t.nn.functional.mse_loss(v.a, v.b),
    "layer_norm": lambda t, v: t.nn.functional.layer_norm(v.a, (32,), v.row, v.bias),
    "linear": lambda t, v: t.nn.functional.linear(v.a, v.weight, v.bias),
    "a @ b": lambda t, v: v.a @ v.weight,
    "view": lambda t, v: v.a.view(-1),
    "reshape": lambda t, v: v.a.reshape(16, 64),
    "transpose": lambda t, v: v.a.transpose(0, 1),
    "unsqueeze": lambda t, v: v.a.unsqueeze(0),
    "a[3]": lambda t, v: v.a[3],
    "a[2:7]": lambda t, v: v.a[2:7],
    "a[:, 1]": lambda t, v: v.a[:, 1],
    "a[index]": lambda t, v: v.a[v.index],
    "embedding": lambda t, v: t.nn.functional.embedding(v.index, v.a),
    "cat of 2": lambda t, v: t.cat([v.a, v.b], 1),
    "stack of 32": lambda t, v: t.stack(v.rows),
}
# These have no gradient.
WITHOUT: dict[str, Op] = {
    "a > b": lambda t, v: v.a > v.b,
    "a == 0": lambda t, v: v.a == 0,
    "argmax(1)": lambda t, v: v.a.argmax(1),
    "a += b": lambda t, v: v.c.__iadd__(v.b),
    "mul_": lambda t, v: v.c.mul_(1.0),
    "to(float64)": lambda t, v: v.a.to(t.float64),
    "item": lambda t, v: v.number.item(),
    "randn(8)": lambda t, v: t.randn(8),
    "zeros(8, 8)": lambda t, v: t.zeros(8, 8),
    "detach": lambda t, v: v.a.detach(),
}
# On tensors of 1 MB, where kernels decide and not Python.
LARGE: dict[str, Op] = {
    "x + y": lambda t, v: v.x + v.y,
    "exp": lambda t, v: v.x.exp(),
    "tanh": lambda t, v: v.x.tanh(),
    "sigmoid": lambda t, v: v.x.sigmoid(),
    "gelu": lambda t, v: t.nn.functional.gelu(v.x),
    "silu": lambda t, v: t.nn.functional.silu(v.x),
    "leaky_relu": lambda t, v: t.nn.functional.leaky_relu(v.x),
    "where": lambda t, v: t.where(v.mask, v.x, v.y),
    "x[mask]": lambda t, v: v.x[v.mask],
    "x[index]": lambda t, v: v.x[v.index],
    "x[:, index]": lambda t, v: v.x[:, v.index],
    "gather": lambda t, v: v.x.gather(1, v.places),
    "scatter_add": lambda t, v: v.x.scatter_add(1, v.places, v.y),
    "sum": lambda t, v: v.x.sum(),
    "sum(0)": lambda t, v: v.x.sum(0),
    "sum(1)": lambda t, v: v.x.sum(1),
    "mean(-1) of short rows": lambda t, v: v.short.mean(-1),
    "var(1)": lambda t, v: v.x.var(1),
    "norm(dim=1)": lambda t, v: v.x.norm(dim=1),
    "max(1)": lambda t, v: v.x.max(1)[0],
    "cumsum(1)": lambda t, v: v.x.cumsum(1),
    "softmax": lambda t, v: v.x.softmax(1),
    "layer_norm": lambda t, v: t.nn.functional.layer_norm(v.x, (512,)),
    "cross_entropy": lambda t, v: t.nn.functional.cross_entropy(v.x, v.classes),
    "sort": lambda t, v: v.x.sort()[0],
    "topk(5)": lambda t, v: v.x.topk(5)[0],
    "median(1)": lambda t, v: v.x.median(1)[0],
    "quantile": lambda t, v: v.x.quantile(0.5, 1),
    "unique": lambda t, v: v.places.unique(),
    "one_hot": lambda t, v: t.nn.functional.one_hot(v.classes, 512),
    "x @ y": lambda t, v: v.x @ v.y,
    "bmm": lambda t, v: v.batch @ v.batch.transpose(1, 2),
    "einsum": lambda t, v: t.einsum("bqhd,bkhd->bhqk", v.heads, v.heads),
    "cdist": lambda t, v: t.cdist(v.points, v.points),
    "x.T.reshape(-1)": lambda t, v: v.x.t().reshape(-1),
    "cat": lambda t, v: t.cat([v.x, v.y], 1),
    "x % y": lambda t, v: v.x % v.y,
    "logaddexp": lambda t, v: t.logaddexp(v.x, v.y),
    "erfinv": lambda t, v: v.share.erfinv(),
    "lgamma": lambda t, v: v.x.lgamma(),
    "softplus": lambda t, v: t.nn.functional.softplus(v.x),
    "cummax(1)": lambda t, v: v.x.cummax(1)[0],
    "index_add": lambda t, v: v.nodes.index_add(0, v.ends, v.messages),
    "scatter_reduce mean": lambda t, v: v.nodes.scatter_reduce(
        0, v.ends[:, None].expand(v.messages.shape), v.messages, "mean"
    ),
    "sum(1) of columns": lambda t, v: v.short.t().sum(1),
    "batch_norm of rows": lambda t, v: t.nn.functional.batch_norm(
        v.short, None, None, training=True
    ),
    "mean of images": lambda t, v: t.nn.functional.adaptive_avg_pool2d(v.images, 1),
    "attention": lambda t, v: t.nn.functional.scaled_dot_product_attention(
        v.heads, v.heads, v.heads, is_causal=True
    ),
    "conv2d": lambda t, v: t.nn.functional.conv2d(v.images, v.filters, padding=1),
    "max_pool2d": lambda t, v: t.nn.functional.max_pool2d(v.images, 2),
    "randn": lambda t, v: t.randn(512, 512),
    "to(float16)": lambda t, v: v.x.half(),
    "float() of float16": lambda t, v: v.half.float(),
    "x.T.contiguous()": lambda t, v: v.x.t().contiguous(),
    "unfold": lambda t, v: v.x.unfold(1, 64, 32).contiguous(),
    "prod": lambda t, v: v.x.prod(),
    "cumsum(0)": lambda t, v: v.x.cumsum(0),
    "topk(5) of integers": lambda t, v: v.places.topk(5)[0],
    "prelu": lambda t, v: t.nn.functional.prelu(v.x, v.x[0, :1]),
    "amax(1) of short rows": lambda t, v: v.short.amax(1),
    "bilinear": lambda t, v: t.nn.functional.interpolate(v.images, scale_factor=2, mode="bilinear"),
    "reflect": lambda t, v: t.nn.functional.pad(v.images, (1, 1, 1, 1), mode="reflect"),
    "gradient of embedding": lambda t, v: v.gradient(t),
}
PASSES = {"forward": OPS | WITHOUT, "recorded": OPS, "large": LARGE}


class operands:  # noqa: N801 - the letters of the table
    """The operands of the ops: a, b (32, 32), a row, …"""

    def __init__(self, t: Any, recorded: bool) -> None:
        t.manual_seed(0)
        self.a = t.randn(32, 32).requires_grad_(recorded)
        self.b = (t.rand(32, 32) + 0.5).requires_grad_(recorded)
        self.c = t.ones(32, 32)
        self.row, self.bias = t.randn(32).requires_grad_(recorded), t.randn(32)
        self.weight = t.randn(32, 32).requires_grad_(recorded)
        self.mask, self.number = t.randn(32, 32) > 0, t.tensor(1.5)
        self.index, self.classes = t.arange(8), t.arange(32)
        self.rows = [t.randn(16).requires_grad_(recorded) for _ in range(32)]


class large_operands:  # noqa: N801 - the letters of the table
    """The operands of LARGE: x, y (n, n), …; n is 512, and 4096 on a GPU."""

    def __init__(self, t: Any, device: str) -> None:
        t.manual_seed(0)
        n, times = (512, 1) if device == "cpu" else (4096, 64)
        self.x, self.y = t.randn(n, n), t.randn(n, n)
        self.share = self.x.sigmoid() * 1.8 - 0.9
        self.mask, self.short = self.y > 0, t.randn(20_000 * times, 10)
        self.half = self.x.half()
        self.index, self.classes = t.randint(0, n, (1000,)), t.randint(0, n, (n,))
        self.places, self.points = t.randint(0, n, (n, n)), t.randn(n, 64)
        self.nodes, self.messages = t.randn(10_000, 32), t.randn(8_000 * times, 32)
        self.ends = t.randint(0, 10_000, (8_000 * times,))
        self.batch, self.heads = t.randn(32 * times, 64, 128), t.randn(8, 8 * times, 64, 64)
        self.images, self.filters = t.randn(8 * times, 16, 32, 32), t.randn(32, 16, 3, 3)
        self.table = t.randn(100, 64).requires_grad_()
        self.words, self.g = t.randint(0, 100, (8, 512)), t.ones(8, 512, 64)

    def gradient(self, t: Any) -> Any:
        """Of a table of 100 rows that are read 4,096 times."""
        with t.enable_grad():
            y = t.nn.functional.embedding(self.words, self.table)
        return t.autograd.grad(y, self.table, self.g)


def many_tensors(t: Any, make: Any) -> Callable[[], Any]:
    """A step of 100 tensors: a loss whose graph uses each, backward, and the optimizer's step."""
    weights = [t.randn(10, 10).requires_grad_() for _ in range(100)]
    optimizer = make(t, weights)

    def step() -> Any:
        optimizer.zero_grad()
        x = weights[0]
        for w in weights[1:]:
            x = x + w
        x.sum().backward()
        optimizer.step()

    return step


def one_step(t: Any, make: Any) -> Callable[[], Any]:
    """The optimizer's own step over 100 tensors."""
    weights = [t.randn(10, 10).requires_grad_() for _ in range(100)]
    for w in weights:
        w.grad = t.ones(10, 10)
    return make(t, weights).step  # type: ignore[no-any-return]


def predict(t: Any) -> Callable[[], Any]:
    """One row through a network of two layers."""
    model = t.nn.Sequential(t.nn.Linear(30, 16), t.nn.ReLU(), t.nn.Linear(16, 1)).eval()
    row = t.randn(1, 30)

    def call() -> Any:
        with t.no_grad():
            return model(row)

    return call


def evaluate(t: Any) -> Callable[[], Any]:
    """A million rows of 30 features through a linear model, and how many are on the right side."""
    x, y = t.rand(1_000_000, 30), t.rand(1_000_000, 1) > 0.5
    model = t.nn.Linear(30, 1)

    def call() -> Any:
        with t.no_grad():
            return ((model(x) > 0) == y).float().mean().item()

    return call


JOBS: dict[str, Callable[[Any], Callable[[], Any]]] = {
    "100 tensors, SGD": lambda t: many_tensors(t, lambda t, w: t.optim.SGD(w, 1e-3)),
    "100 tensors, AdamW": lambda t: many_tensors(t, lambda t, w: t.optim.AdamW(w, 1e-3)),
    "AdamW.step of 100": lambda t: one_step(t, lambda t, w: t.optim.AdamW(w, 1e-3)),
    "SGD.step of 100": lambda t: one_step(t, lambda t, w: t.optim.SGD(w, 1e-3, momentum=0.9)),
    "predict a row": predict,
    "evaluate 1e6 rows": evaluate,
}


def serve(peer: str, device: str) -> None:
    """Answers each line "NAME, PASS" with the microseconds of a call in one turn."""
    t = importlib.import_module(peer)
    t.set_default_device(device)
    wait = t.cuda.synchronize if device == "cuda" else lambda: None
    if peer == "torch":
        t.set_num_threads(1)
    calls: dict[str, Any] = {}

    def ready(what: str) -> tuple[Callable[[], Any], int]:
        name, passes = what.rsplit(", ", 1)
        if passes == "job":
            call = JOBS[name](t)
        else:
            op = PASSES[passes][name]
            values: Any = operands(t, passes == "recorded")
            if passes == "large":
                values = large_operands(t, device)
            call = lambda: op(t, values)
        for _ in range(3):
            call()
        wait()
        start = time.perf_counter()
        call()
        wait()
        return call, max(1, int(SECONDS / (time.perf_counter() - start)))

    for what in map(str.strip, sys.stdin):
        if what not in calls:
            calls.clear()
            calls[what] = ready(what)
        call, count = calls[what]
        with t.set_grad_enabled(not what.endswith((", forward", ", large"))):
            start = time.perf_counter()
            for _ in range(count):
                call()
            wait()
            print((time.perf_counter() - start) / count * 1e6, flush=True)


def compare(words: list[str], turns: int, device: str) -> None:
    """Prints the tables."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, __file__, "--device", device, "--serve"]
    workers = {
        peer: subprocess.Popen(
            [*command, peer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for peer in PEERS
    }

    def least(what: str) -> dict[str, float]:
        times = dict.fromkeys(PEERS, math.inf)
        for _ in range(turns):
            for peer, worker in workers.items():
                print(what, file=worker.stdin, flush=True)
                times[peer] = min(times[peer], float(worker.stdout.readline()))  # type: ignore[union-attr]
        return times

    lists: dict[str, Any] = {**PASSES, "job": JOBS} if device == "cpu" else {"large": LARGE}
    for passes, names in lists.items():
        rows = []
        for name in names:
            if not words or any(word in name for word in words):
                times = least(f"{name}, {passes}")
                ours, theirs = (times[peer] for peer in PEERS)
                rows.append((ours / theirs, name, ours, theirs))
        if not rows:
            continue
        print(f"\n| {passes} | NanoTorch us | PyTorch us | ratio |\n|---|---|---|---|")
        for ratio, name, ours, theirs in sorted(rows, reverse=True):
            print(f"| {name} | {ours:.2f} | {theirs:.2f} | {ratio:.2f} |")
        mean = math.exp(sum(math.log(row[0]) for row in rows) / len(rows))
        print(f"\n{passes}: geometric mean {mean:.2f} of {len(rows)}", flush=True)
    for worker in workers.values():
        worker.stdin.close()  # type: ignore[union-attr]
        worker.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("words", nargs="*", help="parts of the names to time; all if none")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--serve", choices=PEERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.device)
    else:
        compare(options.words, options.turns, options.device)
