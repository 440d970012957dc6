"""What `import nanotorch` brings, and what it leaves alone."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import nanotorch

ROOT = Path(__file__).resolve().parent.parent
# Public names that PyTorch keeps elsewhere.
NOT_IN_TORCH = {
    "fork_rng": "torch.random.fork_rng",
    "get_printoptions": "torch._tensor_str.get_printoptions",
    "printoptions": "torch._tensor_str.printoptions",
}
NOT_AT_IMPORT = {
    *("pydantic", "tqdm", "matplotlib", "cupy", "safetensors", "torch", "sklearn", "scipy"),
    "numpy.random",
    # Standard modules that take long, and parts of our own that load when they are asked for.
    *("pathlib", "dataclasses", "statistics", "decimal", "traceback", "numpy.typing", "urllib"),
    *("queue", "cmath", "copy", "nanotorch.backend.workers", "nanotorch.backend.allocator"),
    "nanotorch.backend.memory",
    *(
        "nanotorch.compile.steps",
        "nanotorch.compile.pure",
        "nanotorch.compile.plan",
        "nanotorch.compile.cuda_graph",
    ),
    *("nanotorch.func", "nanotorch.utils.data", "nanotorch.utils.checkpoint", "nanotorch.viz"),
    *("nanotorch.optim.lr_scheduler", "nanotorch.optim.lbfgs", "nanotorch.amp", "nanotorch.cuda"),
    *("nanotorch.compile.calls", "nanotorch.autograd.functional", "nanotorch.training"),
}


def run_python(program: str) -> str:
    """What a fresh interpreter prints; warnings are errors there too."""
    command = [sys.executable, "-W", "error", "-c", program]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_loads_none_of_the_slow_or_optional_packages() -> None:
    by_numpy = set(run_python("import sys, numpy; print(*sys.modules)").split())
    loaded = set(run_python("import sys, nanotorch; print(*sys.modules)").split())
    assert "nanotorch" in loaded
    assert (loaded - by_numpy) & NOT_AT_IMPORT == set()


def test_numpy_is_imported_from_few_frames() -> None:
    """Where a call needs more stack than is mapped, CPython maps 16 KB for it and unmaps them at
    its end: from far down NumPy's import did so 366 times, and took 8 ms longer."""
    program = """
import sys

class Watch:
    @staticmethod
    def find_spec(name, path=None, target=None):
        frame, count = sys._getframe(1), 0
        while frame is not None:
            frame, count = frame.f_back, count + 1
        if name == "numpy":
            print(count)

sys.meta_path.insert(0, Watch)
import {}
"""
    by_itself, with_ours = (
        int(run_python(program.format(module))) for module in ("numpy", "nanotorch")
    )
    assert with_ours <= by_itself + 4 * 6  # four modules of ours on the way, of six frames each


def test_a_function_stays_in_its_place_when_the_module_of_its_name_is_imported() -> None:
    program = """
from nanotorch.autograd.gradcheck import GradcheckError
import nanotorch
print(type(nanotorch.autograd.gradcheck).__name__, GradcheckError.__module__)
from nanotorch.autograd import gradcheck
print(callable(gradcheck))
"""
    assert run_python(program) == "function nanotorch.autograd.gradcheck\nTrue\n"


def test_a_function_is_made_when_it_is_first_asked_for() -> None:
    program = """
import nanotorch as nt
print("tanh" in vars(nt), "tanh" in dir(nt), hasattr(nt, "tanh"), "tanh" in vars(nt))
print(nt.tanh is nt.tanh is nt.ops.FUNCTIONS["tanh"], "tan" in vars(nt))
from nanotorch import *
print(tan.__name__, tan(zeros(1)), cumsum(ones(2), 0))
"""
    expected = "False True True True\nTrue False\ntan tensor([0.]) tensor([1., 2.])\n"
    assert run_python(program) == expected


def test_import_prints_nothing() -> None:
    assert run_python("import nanotorch") == ""


def test_version_is_the_installed_distributions() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", nanotorch.__version__)
    try:
        installed = importlib.metadata.version("nanotorch")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("nanotorch runs from its source tree, without having been installed")
    assert installed == nanotorch.__version__


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(nanotorch.__file__).parent / "py.typed").is_file()


def test_the_package_file_only_hands_on_names() -> None:
    tree = ast.parse(Path(nanotorch.__file__).read_text(encoding="utf-8"))
    later: set[str] = set()
    other = []
    for node in tree.body[1:]:
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] in ("nanotorch", "typing")
        elif isinstance(node, ast.If):  # what type checkers know of it, and what loads on demand
            assert ast.unparse(node.test) == "TYPE_CHECKING"
            later |= {alias.name for part in node.body for alias in part.names}  # type: ignore[attr-defined]
        elif isinstance(node, ast.AugAssign):  # what joins the package with CuPy, by name
            assert ast.unparse(node.target) == "_LOADED_WITH_CUDA"
        else:
            other.append(ast.unparse(node))
    version = f"__version__ = {nanotorch.__version__!r}"
    assert other == [version]
    assert {"cuda", "func", "vmap", "autocast"} <= later <= set(dir(nanotorch))
    assert all(hasattr(nanotorch, name) for name in later)


def test_parts_that_load_later_are_found_where_pytorch_has_them() -> None:
    program = """
import nanotorch as nt
nt.func.grad, nt.vmap, nt.amp.GradScaler, nt.autocast("cpu"), nt.cuda.is_available()
nt.linalg.norm, nt.backends.cuda.matmul.allow_tf32, nt.autograd.functional.jacobian, nt.optim.LBFGS
nt.optim.lr_scheduler.StepLR, nt.utils.data.DataLoader, nt.utils.checkpoint.checkpoint
assert "lr_scheduler" in dir(nt.optim)
import nanotorch.compile.steps
assert nt.compile(len) is not None
try:
    nt.optim.lr_schedule
except AttributeError as error:
    print(error)
"""
    assert run_python(program) == "module 'nanotorch.optim' has no attribute 'lr_schedule'\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process for each call is by fork")
def test_the_first_call_of_a_process_may_be_any_layer_or_loss() -> None:
    """What a function takes of a module that loads on demand must be there in the first."""
    program = """
import os
import nanotorch as nt
nn, F, x = nt.nn, nt.nn.functional, nt.ones(2, 4, 3)
calls = {
    **{name: getattr(nn, name) for name in ("Tanh", "GELU", "SiLU", "Flatten")},
    "Softmax": lambda: nn.Softmax(1),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
    "LayerNorm": lambda: nn.LayerNorm(3),
    "RMSNorm": lambda: nn.RMSNorm(3),
    "BatchNorm1d": lambda: nn.BatchNorm1d(4),
    "BatchNorm1d evaluating": lambda: nn.BatchNorm1d(4).eval(),
    "InstanceNorm1d": lambda: nn.InstanceNorm1d(4),
    "Linear": lambda: nn.Linear(3, 2),
    "Conv1d": lambda: nn.Conv1d(4, 2, 2),
    "MaxPool1d": lambda: nn.MaxPool1d(2),
    "AvgPool1d": lambda: nn.AvgPool1d(2),
    "LSTM": lambda: nn.LSTM(3, 2, batch_first=True),
}
losses, weighted = ("smooth_l1_loss", "poisson_nll_loss"), ("mse_loss", "l1_loss", "huber_loss")
for name in (*losses, *weighted):
    calls[name] = lambda loss=getattr(F, name): lambda x: loss(x, x)
for name in weighted:
    calls[f"{name} by weight"] = lambda loss=getattr(F, name): lambda x: loss(x, x, weight=x)
for name, make in calls.items():
    child = os.fork()
    if not child:
        status = 1
        try:
            make()(x)
            status = 0
        finally:
            os._exit(status)
    if os.waitpid(child, 0)[1]:
        print(name)
"""
    assert run_python(program) == ""


@pytest.mark.torch
def test_every_public_name_is_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    public = {
        name
        for name in dir(nanotorch)
        if not name.startswith("_") and not isinstance(getattr(nanotorch, name), ModuleType)
    }
    assert {name for name in public if not hasattr(torch, name)} == set(NOT_IN_TORCH)
