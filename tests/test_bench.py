"""The benchmarks run, compare the same work, and tell wrong names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import strict_cupy

from nanotorch import backends

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


def run(*arguments: str, script: str = "bench.py") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["step"], "unknown part 'step'; there are steps, jobs, growth, epochs"),
        (["fits", "--device", "cuda"], "unknown part 'fits'; there are steps, memory"),
        (["--cases", "S,XXL"], "unknown case 'XXL'; there are S, M, L, XL, MLP, AdamW-100, "),
        (["--peers", "numpi"], "unknown peer 'numpi'"),
        (["--turns", "0"], "--turns expects a positive number, got 0"),
        (["--seconds", "-1"], "--seconds expects a positive number, got -1.0"),
    ],
)
def test_a_wrong_option_is_told_in_one_line(arguments: list[str], words: str) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith(f"bench.py: {words}")
    assert result.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_quick_run_gives_a_table_and_times_that_make_a_page(tmp_path: Path) -> None:
    results, page = tmp_path / "figures.json", tmp_path / "page.md"
    peers = "nanotorch,nanotorch-compile,numpy"
    result = run(
        *("steps", "--cases", "S,MLP", "--peers", peers, "--quick", "--turns", "2"),
        *("--seconds", "0.01", "--results", str(results)),
    )
    assert result.returncode == 0, result.stderr
    header, _, first, second = result.stdout.strip().splitlines()
    assert "| NanoTorch | NanoTorch compiled | NumPy by hand | reading X once |" in header
    assert first.startswith("| S |") and second.startswith("| MLP |")
    times = json.loads(results.read_text())["steps"]["S"]
    assert {len(values) for values in times.values()} == {2}
    assert all(value > 0 for values in times.values() for value in values)

    page.write_text(
        "before\n<!-- measured: steps -->\nold\n<!-- end -->\n"
        "<!-- measured: short -->\nold\n<!-- end -->\nafter\n"
    )
    result = run(str(results), "--page", str(page), script="bench_page.py")
    assert result.returncode == 0, result.stderr
    written = page.read_text()
    assert first in written and "| logistic, 32 x 30 |" in written and "old" not in written
    assert written.startswith("before\n") and written.endswith("after\n")


@pytest.mark.slow
def test_jobs_are_timed_beside_numpy_and_their_results_agree(tmp_path: Path) -> None:
    results, page = tmp_path / "figures.json", tmp_path / "page.md"
    peers = "nanotorch,nanotorch-matched,nanotorch-compile,numpy"
    result = run(
        *("jobs", "--cases", "predict-1,pos_weight", "--peers", peers, "--quick", "--turns", "2"),
        *("--seconds", "0.01", "--results", str(results)),
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("| pos_weight |") == 1
    page.write_text("<!-- measured: jobs -->\nold\n<!-- end -->\n")
    assert run(str(results), "--page", str(page), script="bench_page.py").returncode == 0
    assert "| predict-1 |" in page.read_text() and "old" not in page.read_text()


@pytest.mark.slow
def test_the_hand_written_step_and_ours_find_the_same_losses() -> None:
    program = """
import sys; sys.path.insert(0, sys.argv[1])
from bench_peers import Case, build, data
for text in ("32x30-1", "16x20-5", "16x12-8-1", "16x12-8-7-3"):
    case = Case.parse(text)
    losses = []
    for peer in ("numpy", "nanotorch", "nanotorch-compile"):
        program = build(peer, case)
        x, y = map(program.convert, data(case))
        losses.append([program.loss(program.step(x, y)) for _ in range(5)])
    assert losses[1] == losses[2], text
    assert max(abs(a - b) for a, b in zip(*losses[:2])) < 1e-5, text
    assert losses[0][0] > losses[0][-1], text
"""
    command = [sys.executable, "-c", program, str(SCRIPTS)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


# --- on a GPU -------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["bench.py --device cuda", "gpu_check.py never-made"])
def test_without_a_gpu_one_line_says_so(command: str) -> None:
    script, *arguments = command.split()
    program = "import runpy, sys; sys.modules['cupy'] = None; sys.argv = sys.argv[1:]; "
    program += "sys.path.insert(0, sys.argv.pop(1)); "
    program += "runpy.run_path(sys.argv[0], run_name='__main__')"
    call = [sys.executable, "-c", program, str(SCRIPTS / script), str(SCRIPTS), *arguments]
    result = subprocess.run(call, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"{script}: device 'cuda' needs CuPy")
    assert result.stderr.count("\n") == 1
    assert not Path("never-made").exists()


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module with the programs of the peers."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import bench_peers

    yield bench_peers
    backends.cuda.matmul.allow_tf32 = False


@pytest.mark.parametrize("text", ["32x30-1", "16x12-8-1", "16x12-8-7-3"])
def test_all_that_runs_on_a_gpu_finds_the_losses_of_the_cpu(
    text: str, peers: Any, cuda: str
) -> None:
    case = peers.Case.parse(text)

    def losses(peer: str, device: str) -> list[float]:
        program = peers.build(peer, case, device)
        x, y = map(program.convert, peers.data(case))
        return [program.loss(program.step(x, y)) for _ in range(5)]

    expected = losses("numpy", "cpu")
    for peer in ("nanotorch", "nanotorch-compile", "cupy"):
        assert losses(peer, "cuda") == pytest.approx(expected, abs=1e-5), peer
    program = peers.build("nanotorch-steps", case, "cuda")
    x, y = map(program.convert, peers.data(case))
    for _ in range(3):
        program.step(x, y)
    count, several = program.many
    single = peers.build("nanotorch", case, "cuda")
    for _ in range(3 + count):
        last = single.step(x, y)
    assert program.loss(several(x, y)) == pytest.approx(single.loss(last), abs=1e-5)


@pytest.mark.parametrize("precision", ["tf32", "float16", "bfloat16"])
def test_coarser_products_find_about_the_same_losses(precision: str, peers: Any, cuda: str) -> None:
    if precision == "bfloat16":
        pytest.importorskip("ml_dtypes")

    def losses(peer: str, case: Any, device: str) -> list[float]:
        program = peers.build(peer, case, device)
        x, y = map(program.convert, peers.data(case))
        return [program.loss(program.step(x, y)) for _ in range(4)]

    expected = losses("numpy", peers.Case.parse("16x12-8-7-3"), "cpu")
    case = peers.Case.parse(f"16x12-8-7-3:{precision}")
    found = [losses(peer, case, "cuda") for peer in ("nanotorch", "nanotorch-compile")]
    assert found[0] == found[1] == pytest.approx(expected, rel=2e-3)
    assert found[0] != expected


@pytest.mark.parametrize("precision", ["float32", "tf32", "float16", "bfloat16"])
def test_the_floors_on_a_gpu_compute_what_a_step_cannot_do_without(
    precision: str, peers: Any, cuda: str
) -> None:
    if precision == "bfloat16":
        pytest.importorskip("ml_dtypes")
    case = peers.Case.parse(f"64x32-16-4:{precision}")
    assert str(case) == ("64x32-16-4" if precision == "float32" else f"64x32-16-4:{precision}")
    for floor in ("read", "gemms"):
        program = peers.build(floor, case, "cuda")
        x, y = map(program.convert, peers.data(case))
        before = strict_cupy.counts.graph_launches
        for _ in range(3):
            program.step(x, y)
        program.wait()
        if cuda == "look-alike":
            launches = strict_cupy.counts.graph_launches - before
            assert launches == (3 if floor == "gemms" else 0)


RESULTS: dict[str, Any] = {
    "machines": {
        "cuda-steps": {
            "date": "2026-11-22", "processor": "P", "cores": 16, "system": "Linux", "turns": 9,
            "versions": {"Python": "3.12.3"},
            "device": {"name": "NVIDIA H200", "memory": 139 * 2**30, "versions": {"cupy": "14.2"}},
        },
    },
    "cuda-steps": {
        "S": {"nanotorch-compile": [9.0], "torch": [100.0], "torch-graph": [6.0]},
        "XL": {"nanotorch-compile": [60.0], "read": [50.0]},
    },
    "cuda-memory": {"XL": {"torch": {"taken": 5e8, "batch": 2e8}}},
}  # fmt: skip


def test_what_was_measured_on_a_gpu_goes_to_its_page(tmp_path: Path) -> None:
    results, page = tmp_path / "figures.json", tmp_path / "page.md"
    results.write_text(json.dumps(RESULTS))
    marks = [f"<!-- measured: cuda-{part} -->\n<!-- end -->" for part in
             ("machine", "steps", "memory")]  # fmt: skip
    page.write_text("\n".join(["<!-- measured: steps -->\nkept\n<!-- end -->", *marks]))
    result = run(str(results), "--page", str(page), script="bench_page.py")
    assert result.returncode == 0, result.stderr
    written = page.read_text()
    assert "kept" in written
    assert "NVIDIA H200 with 139 GiB" in written
    assert "S compiled / PyTorch: 0.09 (limit 0.1)." in written
    assert "S compiled / PyTorch, step as CUDA graph: **1.50** (limit 1.2, missed)." in written
    assert "XL compiled / reading X once: 1.20 (limit 1.3)." in written
    assert "| XL | 200 | 500 |" in written
