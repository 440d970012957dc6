"""Turns what bench.py measured into Markdown tables and a figure, in docs/performance.md, in short
in README.md and, what was measured on a GPU, in docs/gpu.md.

    python scripts/bench_page.py figures.json            rewrites the pages' tables and the figure

In a page, what stands between <!-- measured: PART --> and <!-- end --> is replaced.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"
GPU_PAGE = ROOT / "docs" / "gpu.md"
README = ROOT / "README.md"
FIGURE = ROOT / "docs" / "images" / "performance.png"

LABELS = {
    "nanotorch": "NanoTorch",
    "nanotorch-compile": "NanoTorch compiled",
    "nanotorch-matched": "NanoTorch matched",
    "nanotorch-steps": "NanoTorch, 16 steps a launch",
    "torch": "PyTorch",
    "torch-compile": "torch.compile",
    "torch-graph": "PyTorch, step as CUDA graph",
    "cupy": "CuPy by hand",
    "numpy": "NumPy by hand",
    "jax": "JAX jit",
    "jax-ahead": "JAX jit, not waited for",
    "mygrad": "MyGrad",
    "autograd": "HIPS autograd",
    "scikit-learn": "scikit-learn",
    "read": "reading X once",
    "gemms": "bare products",
}
OURS, COMPILED, MATCHED = "nanotorch", "nanotorch-compile", "nanotorch-matched"
FLOORS = ("read", "gemms")
AHEAD = "jax-ahead"  # does not stand for a step: it returns before its result is there
# What we hold ourselves to: eager / PyTorch, compiled / PyTorch, compiled / best other peer.
LIMITS = {
    "S": (0.30, 0.13, 0.85),
    "M": (0.75, 0.53, 1.0),
    "L": (0.80, 0.50, 0.9),
    "XL": (0.90, 0.60, 0.6),
    "MLP": (1.1, 0.9, 1.0),
}
MATCHED_LIMIT = 1.3  # S by default, where Python runs at each call / NumPy by hand
# Of jobs: compiled / best other peer, compiled / PyTorch.
JOB_LIMITS: dict[str, tuple[float | None, float]] = {
    "AdamW-100": (1.2, 0.9),
    "LN-GELU": (1.3, 0.9),
    "BN": (0.9, 0.9),
    "embedding-10k": (1.1, 0.9),
    "elementwise-1e6": (0.8, 0.9),
    "pos_weight": (None, 0.9),
    "tiny-100": (None, 0.9),
    "predict-1": (None, 0.7),
    "evaluate-1e6": (1.1, 0.7),
    "LSTM": (None, 1.2),
    "LeNet": (None, 2.0),
    "GPT": (None, 1.2),
}
COMPILE_LIMIT = 1.5  # seconds for 10,000 operations
CUDA_LIMITS = (0.10, 1.2, 1.3)  # S / PyTorch, S / its CUDA graph, XL / one reading of X
READ_LIMIT = 1.45  # compiled XL / one reading of X
IMPORT_LIMIT = 1.3  # import nanotorch / import numpy, without the interpreter's own start
RUN_LIMIT = 0.8  # the run of configs/breast_cancer.toml / `import torch`

CASES = {
    "S": "logistic, 32 x 30",
    "M": "softmax, 128 x 784, 10 classes",
    "L": "logistic, 8192 x 1024",
    "XL": "logistic, 200,000 x 256",
    "MLP": "784-256-10, batch 128",
}

COLORS = {
    "nanotorch": "#e08a2c",
    "nanotorch-compile": "#c2410c",
    "nanotorch-matched": "#e8954a",
    "torch": "#4b5563",
    "torch-compile": "#9ca3af",
    "numpy": "#2563eb",
    "jax": "#0d9488",
    "jax-ahead": "#99f6e4",
    "mygrad": "#a855f7",
    "autograd": "#d8b4fe",
    "read": "#000000",
    "gemms": "#000000",
}

Times = dict[str, list[float]]


def medians(times: Times) -> dict[str, float]:
    return {peer: statistics.median(values) for peer, values in times.items()}


def digits(value: float) -> str:
    """Three significant digits, without exponents."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table whose first column is text and whose others are numbers."""
    head = list(head)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def peers_in(found: Iterable[dict[str, Any]]) -> list[str]:
    """Every peer that occurs, in the order of the labels."""
    there = {peer for each in found for peer in each}
    return [peer for peer in LABELS if peer in there]


def beside_torch(found: dict[str, Times], first: str, scale: float = 1.0) -> str:
    """A row for each case, a column for each peer: the median, and its ratio to PyTorch's."""
    peers = peers_in(found.values())
    rows = []
    for name, times in found.items():
        median = medians(times)
        cells = []
        for peer in peers:
            if peer not in median:
                cells.append("–")
                continue
            text = digits(median[peer] * scale)
            with_ratio = "torch" in median and peer not in ("torch", *FLOORS)
            cells.append(f"{text} ({median[peer] / median['torch']:.2f})" if with_ratio else text)
        rows.append([name, *cells])
    return table([first, *(LABELS[peer] for peer in peers)], rows)


def verdict(ratio: float, limit: float) -> str:
    if ratio <= limit:
        return f"{ratio:.2f} (limit {limit:g})"
    return f"**{ratio:.2f}** (limit {limit:g}, missed)"


def short(found: dict[str, Times]) -> str:
    """Microseconds per step of the libraries that most people would otherwise use."""
    peers = (OURS, COMPILED, "torch", "numpy", "jax")
    rows = {name: {p: t for p, t in times.items() if p in peers} for name, times in found.items()}
    return beside_torch(
        {CASES.get(name, name): times for name, times in rows.items()}, "µs per step"
    )


def steps(found: dict[str, Times]) -> str:
    """Microseconds per step, and where they stand against the limits."""
    text = beside_torch(found, "µs per step")
    head = ["ratio of medians", "eager / PyTorch", "compiled / PyTorch", "compiled / best other"]
    rows = []
    for name, times in found.items():
        median = medians(times)
        others = [p for p in median if p not in (OURS, COMPILED, MATCHED, AHEAD, *FLOORS)]
        if not {OURS, COMPILED, "torch"} <= set(median) or name not in LIMITS:
            continue
        best = min(others, key=lambda p: median[p])
        ratios = (
            median[OURS] / median["torch"],
            median[COMPILED] / median["torch"],
            median[COMPILED] / median[best],
        )
        cells = [verdict(r, limit) for r, limit in zip(ratios, LIMITS[name], strict=True)]
        rows.append([name, *cells[:2], f"{cells[2]}, {LABELS[best]}"])
    if rows:
        text += "\n" + table(head, rows)
    if "XL" in found and {COMPILED, "read"} <= set(found["XL"]):
        median = medians(found["XL"])
        reading = verdict(median[COMPILED] / median["read"], READ_LIMIT)
        text += f"\nXL compiled / one reading of X: {reading}.\n"
    if "S" in found and {MATCHED, "numpy"} <= set(found["S"]):
        median = medians(found["S"])
        by_hand = verdict(median[MATCHED] / median["numpy"], MATCHED_LIMIT)
        text += f"S matched, as it is by default / NumPy by hand: {by_hand}.\n"
    return text


def jobs(found: dict[str, Times]) -> str:
    """Microseconds of each job, and where they stand against the limits."""
    text = beside_torch(found, "µs")
    rows = []
    for name, times in found.items():
        median = medians(times)
        ours = COMPILED if COMPILED in median else MATCHED
        others = [peer for peer in median if not peer.startswith(OURS)]
        if ours not in median or "torch" not in median:
            continue
        best = min(others, key=lambda peer: median[peer])
        beside_best, beside_pytorch = JOB_LIMITS[name]
        ratio = median[ours] / median[best]
        cell = f"{ratio:.2f}" if beside_best is None else verdict(ratio, beside_best)
        pytorch = verdict(median[ours] / median["torch"], beside_pytorch)
        rows.append([name, LABELS[ours], pytorch, f"{cell}, {LABELS[best]}"])
    head = ["ratio of medians", "ours", "ours / PyTorch", "ours / best other"]
    return text + ("\n" + table(head, rows) if rows else "")


def growth(found: dict[str, Any]) -> str:
    """Milliseconds to compile and microseconds of a later call, over what grows."""
    head = ["growth in", "number", *(f"{LABELS[m]}, µs" for m in (OURS, MATCHED, COMPILED))]
    head += [f"{LABELS[m]}, ms to compile" for m in (MATCHED, COMPILED)]
    rows = []
    for name, modes in found.items():
        for count in modes[OURS]:
            calls = [digits(modes[m][count]["call"]) for m in (OURS, MATCHED, COMPILED)]
            compiling = [digits(modes[m][count]["compiling"] * 1e3) for m in (MATCHED, COMPILED)]
            rows.append([name, f"{int(count):,}", *calls, *compiling])
    text = table(head, rows)
    if "operations" in found:
        for mode in (MATCHED, COMPILED):
            took = verdict(found["operations"][mode]["10000"]["compiling"], COMPILE_LIMIT)
            text += f"\n{LABELS[mode]}, seconds to compile 10,000 operations: {took}.\n"
    return text


def steps_on_gpu(found: dict[str, Times]) -> str:
    """Microseconds per step on a GPU, and where S and XL stand against the limits."""
    text = beside_torch(found, "µs per step")
    lines = []
    for case, peer, limit in zip(("S", "S", "XL"), ("torch", "torch-graph", "read"), CUDA_LIMITS):
        median = medians(found.get(case, {}))
        if {COMPILED, peer} <= set(median):
            ratio = verdict(median[COMPILED] / median[peer], limit)
            lines.append(f"{case} compiled / {LABELS[peer]}: {ratio}.")
    return text + ("\n" + "  \n".join(lines) + "\n" if lines else "")


def device_memory(found: dict[str, dict[str, Any]]) -> str:
    """MB that a process takes of the GPU, and the batch among them."""
    peers = peers_in(found.values())
    rows = []
    for name, each in found.items():
        batch = next((digits(e["batch"] / 1e6) for e in each.values()), "–")
        cells = (digits(each[p]["taken"] / 1e6) if p in each else "–" for p in peers)
        rows.append([name, batch, *cells])
    return table(["MB of the GPU", "the batch", *(LABELS[p] for p in peers)], rows)


def epochs(found: dict[str, Times]) -> str:
    return beside_torch(found, "ms per epoch", 1e3)


def fits(found: dict[str, Any]) -> str:
    """Milliseconds of each fit, its ratio to scikit-learn's, and how far it is from the best."""
    peers = peers_in(each["seconds"] for each in found.values())
    rows = []
    for name, each in found.items():
        median, best = medians(each["seconds"]), min(each["objective"].values())
        cells = []
        for peer in peers:
            text = digits(median[peer] * 1e3)
            if "scikit-learn" in median and peer != "scikit-learn":
                text += f" ({median[peer] / median['scikit-learn']:.2f})"
            cells.append(f"{text}, +{each['objective'][peer] - best:.0e}")
        rows.append([name, *cells])
    return table(["ms per fit, excess of the loss", *(LABELS[peer] for peer in peers)], rows)


def processes(times: Times) -> str:
    """Milliseconds of whole processes, and the two ratios that have limits."""
    median = medians(times)
    empty = median["(nothing)"]
    rows = [
        [name, digits(value * 1e3), digits((value - empty) * 1e3)] for name, value in median.items()
    ]
    text = table(["process", "ms", "ms without the interpreter"], rows)
    ratio = (median["import nanotorch"] - empty) / (median["import numpy"] - empty)
    text += f"\n`import nanotorch` / `import numpy`: {verdict(ratio, IMPORT_LIMIT)}.\n"
    run = "train.py configs/breast_cancer.toml"
    if "import torch" in median and run in median:
        ratio = median[run] / median["import torch"]
        text += f"`{run}` / `import torch`: {verdict(ratio, RUN_LIMIT)}.\n"
    return text


def memory(found: dict[str, dict[str, Any]]) -> str:
    """KB at the highest during a step, KB of them that are new in it, calls of the allocator."""
    peers = peers_in(found.values())
    text = ""
    for key, title in (
        ("step", "KB that a step needs"),
        ("fresh", "KB allocated and given back in a step"),
        ("calls", "calls of the allocator in a step"),
        ("process", "MB of the whole process"),
    ):
        scale = {"calls": 1, "process": 1e-6}.get(key, 1e-3)
        rows = [
            [name, *(digits(each[p][key] * scale) if p in each else "–" for p in peers)]
            for name, each in found.items()
        ]
        text += ("\n" if text else "") + table([title, *(LABELS[p] for p in peers)], rows)
    return text


def layers(found: dict[str, Any]) -> str:
    """Microseconds of each layer, and KB of its step."""
    text = beside_torch(found["times"], "µs")
    if found["memory"]:
        peers = peers_in(found["memory"].values())
        rows = [
            [name, *(digits(each[p]["step"] / 1e3) if p in each else "–" for p in peers)]
            for name, each in found["memory"].items()
        ]
        text += "\n" + table(["KB that a step needs", *(LABELS[p] for p in peers)], rows)
    return text


def curves(found: dict[str, dict[str, Times]]) -> str:
    picture = f"![Time of a step over batch, features and depth](images/{FIGURE.name})\n"
    tables = (beside_torch(points, f"{name}: µs per step") for name, points in found.items())
    return "\n".join([picture, *tables])


SECTIONS: dict[str, Callable[[Any], str]] = {
    "steps": steps,
    "jobs": jobs,
    "growth": growth,
    "epochs": epochs,
    "fits": fits,
    "layers": layers,
    "processes": processes,
    "memory": memory,
    "curves": curves,
    "cuda-steps": steps_on_gpu,
    "cuda-memory": device_memory,
}


# --- the figure and the page ----------------------------------------------------------------------


def abscissa(curve: str, case: str) -> int:
    """Where a case stands on the axis of its curve."""
    rows, widths = case.split("x")
    layers = widths.split("-")
    return {"batch": int(rows), "features": int(layers[0]), "depth": len(layers) - 2}[curve]


def draw(results: dict[str, Any], path: Path) -> None:
    """Bars of the steps beside PyTorch's, and the curves over batch, features and depth."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(11, 8), layout="constrained")
    bars = axes[0, 0]
    found = results["steps"]
    peers = [p for p in peers_in(found.values()) if p not in ("torch", "autograd", *FLOORS)]
    for place, peer in enumerate(peers):
        there = [
            (i + (place - len(peers) / 2 + 0.5) * 0.8 / len(peers), medians(times))
            for i, times in enumerate(found.values())
            if peer in times
        ]
        heights = [median[peer] / median["torch"] for _, median in there]
        bars.bar(
            [x for x, _ in there],
            heights,
            0.8 / len(peers),
            color=COLORS[peer],
            label=LABELS[peer],
        )
    bars.axhline(1, color=COLORS["torch"], linewidth=1.2)
    bars.text(len(found) - 0.5, 1.02, "PyTorch", ha="right", va="bottom", color=COLORS["torch"])
    bars.set_xticks(range(len(found)), found)
    bars.set_yscale("log")
    bars.set_yticks([0.1, 0.2, 0.5, 1, 2], ["0.1", "0.2", "0.5", "1", "2"])
    bars.set_ylim(0.05, 6)
    bars.set_title("time of a step, PyTorch's = 1")
    bars.legend(fontsize=8, frameon=False, ncols=3, loc="upper left")

    labels = {
        "batch": "rows in a batch (256 features, 1 output)",
        "features": "features (1024 rows, 1 output)",
        "depth": "hidden layers of 256 (batch of 128)",
    }
    for axis, (curve, points) in zip(axes.flat[1:], results["curves"].items(), strict=True):
        for peer in peers_in(points.values()):
            if (curve, peer) == ("depth", "read"):  # one reading of the inputs says nothing there
                continue
            line = [(abscissa(curve, case), times) for case, times in points.items()]
            xs = [x for x, times in line if peer in times]
            ys = [statistics.median(times[peer]) for _, times in line if peer in times]
            style = {"read": ":", "gemms": "--"}.get(peer, "-")
            width = 2.2 if peer == COMPILED else 1.3
            marker = None if peer in FLOORS else "."
            axis.plot(
                xs, ys, style, marker=marker, lw=width, color=COLORS[peer], label=LABELS[peer]
            )
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xlabel(labels[curve])
        axis.set_title("µs per step")
        axis.grid(alpha=0.25)
    axes[0, 1].legend(fontsize=8, frameon=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def machine(found: dict[str, Any]) -> str:
    """One sentence on where and when the figures were taken."""
    if "device" in found:
        device = found["device"]
        there = {**found["versions"], **device["versions"]}
        versions = ", ".join(f"{name} {version}" for name, version in there.items())
        return (
            f"{found['date']}, {device['name']} with {device['memory'] / 2**30:.0f} GiB, "
            f"{found['processor']}, {found['cores']} cores, {found['system']}; {versions}. "
            f"Medians of {found['turns']} turns.\n"
        )
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return (
        f"{found['date']}, {found['processor']}, {found['cores']} cores, {found['system']}; "
        f"{versions}. Medians of {found['turns']} turns.\n"
    )


def rewrite(page: str, results: dict[str, Any]) -> str:
    """The page with what was measured anew between its marks."""

    def measured(match: re.Match[str]) -> str:
        part = match[1]
        steps = part.replace("machine", "steps")
        if part == "short" and "steps" in results:
            text = short(results["steps"])
        elif part in ("machine", "cuda-machine") and steps in results.get("machines", {}):
            text = machine(results["machines"][steps])
        elif part in results:
            text = SECTIONS[part](results[part])
        else:
            return match[0]
        return f"<!-- measured: {part} -->\n\n{text}\n<!-- end -->"

    return re.sub(r"<!-- measured: ([\w-]+) -->.*?<!-- end -->", measured, page, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes what bench.py measured into the page.")
    parser.add_argument("results", type=Path, help="the file of `bench.py --results`")
    parser.add_argument("--page", type=Path, help="the one page to rewrite")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    options = parser.parse_args()
    try:
        results = json.loads(options.results.read_text())
        pages = [options.page] if options.page else [PAGE, GPU_PAGE, README]
        texts = {path: path.read_text(encoding="utf-8") for path in pages}
    except (OSError, ValueError) as error:
        sys.exit(f"bench_page.py: {error}")
    for path, text in texts.items():
        path.write_text(rewrite(text, results), encoding="utf-8")
    if {"steps", "curves"} <= set(results):
        draw(results, options.figure)


if __name__ == "__main__":
    main()
