"""Who may import what, read from the source: the package's rooms, layers, and its modules' shapes.

The rooms are those of `scripts/rooms.py`: the core names no ring, the stock stands on none, and a
ring stands on those alone that the table says.

A module imports only from the layers to its left, or from its own:

    backend <- node <- primitive <- ops <- autograd
      <- tensor, operators, sampling, creation, random, printing
      <- amp <- nn, optim, func, linalg, sym, utils, viz, cuda <- compile, distributed
      <- nanotorch (the public names) <- interop <- training <- train.py

Imports under `if TYPE_CHECKING:` are for annotations and are not counted.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import rooms  # noqa: E402 - found by the line above

LAYERS: tuple[tuple[str, ...], ...] = (
    ("datasets", "outside", "working_directory"),  # they stand on nothing
    ("backend",),
    ("node",),
    ("primitive",),
    ("ops",),
    ("autograd",),
    ("tensor", "operators", "sampling", "creation", "random", "printing"),
    ("amp", "spellings"),
    ("nn", "optim", "func", "linalg", "sym", "utils", "viz", "cuda", "backends"),
    (
        "averaging",
        "compile",
        "distributions",
        "distributed",
        "functional",
        "serialization",
        "special",
        "testing",
    ),
    ("",),  # nanotorch/__init__.py
    ("interop",),  # stands on the public names, as a user's program does
    ("training",),
    ("train", "__main__"),
)
# The parts that make up the Tensor's own layer may know each other; other neighbours may not.
ONE_UNIT = {"tensor", "operators", "sampling", "creation", "random", "printing"}

# Third-party packages that a function may import: optional ones, and ones slow to import.
LAZY = {
    *("cupy", "cupyx", "cupy_backends", "matplotlib", "pydantic", "safetensors", "tqdm"),
    *("polars", "sklearn", "tensorboardX", "onnx", "mpi4py", "ml_dtypes", "IPython"),
}

# Computing is the backend's. Elsewhere NumPy is named only where data come in or go out.
NUMPY_ALLOWED: dict[str, str] = {
    "nanotorch.datasets": "reads the bundled files, before there is any tensor",
    "nanotorch.tensor": "is handed arrays to wrap",
    "nanotorch.operators": "knows an array as an operand",
    "nanotorch.creation": "makes tensors of numbers and arrays",
    "nanotorch.nn.init": "draws initial values on the host, as PyTorch does",
    "nanotorch.compile.calls": "notes the calls of NumPy that a kernel makes",
    "nanotorch.serialization": "reads and writes the memory of arrays, and numbers of NumPy",
    "nanotorch.utils.data": "takes the arrays of a user's data set",
    "nanotorch.interop": "exchanges arrays with libraries that know NumPy's",
    "nanotorch.distributed": "hands arrays on the host to MPI",
    "nanotorch.training": "reads tables, measures outputs, writes files and draws, on the host",
}

# Modules whose name is known only when the program runs.
COMPUTED_ALLOWED = {
    "nanotorch.training.trust": "imports the classes that a configuration names",
    "nanotorch.backend.loading": "imports what a package loads when it is first asked for",
    "nanotorch.backend.devices": "imports, with CuPy, the modules that asked for it",
}

# Modules of ours that are imported inside a function, because most programs need them never.
LATER = {
    "nanotorch.outside": "nanotorch.backend.loading",
    "nanotorch.compile.modules": "nanotorch.compile",
    "nanotorch.compile.pure": "nanotorch.compile",
    "nanotorch.compile.steps": "nanotorch.compile",
    "nanotorch.interop.onnx": "nanotorch.training.exporting",
    "nanotorch.interop.onnx_graph": "nanotorch.training.exporting",
}

GRAB_BAGS = {"base", "common", "helper", "helpers", "misc", "tools", "util", "utils"}


COMPUTED = "(computed)"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


class Import(NamedTuple):
    """One import statement's target: the module it names, where, and whether it runs lazily."""

    module: str
    line: int
    in_function: bool
    for_types: bool


def imports_of(name: str, source: str, modules: set[str], package: bool = False) -> list[Import]:
    """Every import of a module's source; `from package import module` counts as that module."""
    found: list[Import] = []

    def add(module: str, line: int, in_function: bool, for_types: bool) -> None:
        found.append(Import(module, line, in_function, for_types))

    def visit(node: ast.AST, in_function: bool, for_types: bool) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                add(alias.name, node.lineno, in_function, for_types)
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                here = name.split(".") if package else name.split(".")[:-1]
                above = here[: len(here) - node.level + 1]
                start = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{start}.{alias.name}"
                target = inner if inner in modules else start
                add(target, node.lineno, in_function, for_types)
        elif isinstance(node, ast.Call):
            # importlib.import_module("x") and __import__("x") are imports as well.
            called = ast.unparse(node.func)
            if called.endswith(("import_module", "__import__")):
                literal = node.args and isinstance(node.args[0], ast.Constant)
                target = str(node.args[0].value) if literal else COMPUTED  # type: ignore[attr-defined]
                add(target, node.lineno, True, for_types)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                visit(child, in_function, True)
            for child in node.orelse:
                visit(child, in_function, for_types)
            return
        inside = in_function or isinstance(
            node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
        )
        for child in ast.iter_child_nodes(node):
            visit(child, inside, for_types)

    visit(ast.parse(source), False, False)
    return found


def part_of(module: str) -> str:
    """`backend` for nanotorch.backend.dtypes, "" for nanotorch itself, `train` for train.py."""
    if module == "train":
        return "train"
    return module.removeprefix("nanotorch").removeprefix(".").split(".")[0]


def is_ours(module: str) -> bool:
    return module in ("nanotorch", "train") or module.startswith("nanotorch.")


def rank(part: str) -> int | None:
    return next((number for number, parts in enumerate(LAYERS) if part in parts), None)


def layering_faults(name: str, imports: list[Import]) -> Iterator[str]:
    """What a module imports from its right, or from a neighbour."""
    mine = rank(part_of(name))
    if mine is None:
        yield f"{name}: which layer is it in? Name it in LAYERS"
        return
    for target in imports:
        if target.for_types or not is_ours(target.module):
            continue
        ours, theirs = part_of(name), part_of(target.module)
        if ours == theirs or {ours, theirs} <= ONE_UNIT:
            continue
        other = rank(theirs)
        if other is None or other >= mine:
            yield f"{name}:{target.line}: imports {target.module}, which is not to its left"


def room_faults(path: str, imports: list[Import], paths: dict[str, str]) -> Iterator[str]:
    """What a file of the package imports from a room that its own does not stand on.

    Imports for types alone count in the core, which names no ring at all.
    """
    room = rooms.room_of(path)
    if not room:
        yield f"{path}: which room is it in? Name it in scripts/rooms.py"
        return
    allowed = {"core", "stock", room, *rooms.STANDS_ON.get(room, ())}
    for target in imports:
        if target.module not in paths or target.module in LATER:
            continue
        if target.for_types and room != "core":
            continue
        other = rooms.room_of(paths[target.module])
        if other not in allowed:
            yield f"{path}:{target.line}: {room} imports {target.module}, which is {other}"


def lazy_import_faults(name: str, imports: list[Import]) -> Iterator[str]:
    """Imports inside functions, except of optional or slow third-party packages."""
    for target in imports:
        if target.module == COMPUTED and name in COMPUTED_ALLOWED:
            continue
        if LATER.get(target.module) == name:
            continue
        if target.in_function and target.module.split(".")[0] not in LAZY:
            yield f"{name}:{target.line}: imports {target.module} inside a function"


def array_module_faults(name: str, imports: list[Import]) -> Iterator[str]:
    """NumPy or CuPy named outside the backend."""
    if part_of(name) == "backend":
        return
    for target in imports:
        top = target.module.split(".")[0]
        allowed = top == "numpy" and any(f"{name}.".startswith(f"{m}.") for m in NUMPY_ALLOWED)
        if top in ("numpy", "cupy", "cupyx") and not target.for_types and not allowed:
            yield f"{name}:{target.line}: names {top}; only the backend does"


def patching_faults(name: str, source: str, modules: set[str]) -> Iterator[str]:
    """Monkeypatching: attributes of an imported module or class that are assigned or deleted.

    An imported object that is there to be written to (the modes of a thread) may be, in functions.
    """
    tree = ast.parse(source)
    imported: dict[str, bool] = {}  # the name here: is it a module or a class?
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported.update({(a.asname or a.name).split(".")[0]: True for a in node.names})
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                is_module = f"{node.module}.{alias.name}" in modules
                imported[alias.asname or alias.name] = is_module or alias.name[:1].isupper()

    def owner(node: ast.expr) -> str:
        while isinstance(node, ast.Attribute):
            node = node.value
        return node.id if isinstance(node, ast.Name) else ""

    def visit(node: ast.AST, in_function: bool) -> Iterator[str]:
        changed: ast.expr | None = None
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            changed = node
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr"):
            changed = node.args[0]
        if changed is None or owner(changed) not in imported:
            pass
        elif imported[owner(changed)] or not in_function:
            yield f"{name}:{changed.lineno}: changes {ast.unparse(changed)}, which it imported"
        inside = in_function or isinstance(node, FUNCTIONS)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    yield from visit(tree, False)


def grab_bag_faults(path: str) -> Iterator[str]:
    """Modules named after nothing. The packages `utils` and `nn.utils` are PyTorch's names."""
    parts = Path(path).with_suffix("").parts
    for number, part in enumerate(parts):
        known_package = parts[:number] in (("nanotorch",), ("nanotorch", "nn")) and part == "utils"
        if part in GRAB_BAGS and not (known_package and len(parts) > number + 1):
            yield f"{path}: says nothing of what is in it"


def cycle_in(imports: dict[str, list[Import]]) -> str:
    """The first cycle of imports, as text; empty where there is none."""
    graph = {
        name: {target.module for target in targets if not target.for_types} - {name}
        for name, targets in imports.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " <- ".join(error.args[1])
    return ""


# --- the tree -------------------------------------------------------------------------------------

PATHS = [*sorted((ROOT / "nanotorch").rglob("*.py")), *ROOT.glob("train.py")]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path.read_text(encoding="utf-8") for path in PATHS}
PACKAGES = {module_name(path) for path in PATHS if path.name == "__init__.py"}
MODULES = {*SOURCES, *(name.rpartition(".")[0] for name in SOURCES)} - {""}


Table = dict[str, list[Import]]


@functools.cache
def import_table() -> Table:
    """What every module imports."""
    return {
        name: imports_of(name, source, MODULES, name in PACKAGES)
        for name, source in SOURCES.items()
    }


@pytest.fixture(name="imports")
def _imports() -> Table:
    return import_table()


def report(faults: Iterable[str]) -> str:
    return "\n".join(faults)


def test_every_module_imports_only_from_its_left(imports: Table) -> None:
    assert report(f for name in imports for f in layering_faults(name, imports[name])) == ""


FILES = {
    name: path.relative_to(ROOT / "nanotorch").as_posix()
    for name, path in zip(SOURCES, PATHS)
    if name != "train"
}


def test_rooms_stand_on_what_the_table_says(imports: Table) -> None:
    assert report(f for name in FILES for f in room_faults(FILES[name], imports[name], FILES)) == ""


def test_the_table_of_rooms_names_what_is_there() -> None:
    listed = [
        *rooms.CORE,
        *rooms.STOCK,
        *(path for paths in rooms.RINGS.values() for path in paths),
    ]
    assert [path for path in listed if not (ROOT / "nanotorch" / path).exists()] == []
    assert {*rooms.STANDS_ON, *(ring for on in rooms.STANDS_ON.values() for ring in on)} <= {
        *rooms.RINGS
    }


def test_nothing_of_ours_is_imported_inside_a_function(imports: Table) -> None:
    assert report(f for name in imports for f in lazy_import_faults(name, imports[name])) == ""


def test_only_the_backend_names_numpy_and_cupy(imports: Table) -> None:
    assert report(f for name in imports for f in array_module_faults(name, imports[name])) == ""


@pytest.mark.parametrize("allowed", NUMPY_ALLOWED)
def test_every_exception_for_numpy_is_needed(allowed: str, imports: Table) -> None:
    inside = [name for name in imports if f"{name}.".startswith(f"{allowed}.")]
    assert any(target.module == "numpy" for name in inside for target in imports[name])


def test_nothing_imported_is_patched() -> None:
    assert (
        report(f for name in SOURCES for f in patching_faults(name, SOURCES[name], MODULES)) == ""
    )


def test_no_module_is_a_grab_bag() -> None:
    paths = [path.relative_to(ROOT).as_posix() for path in PATHS]
    assert report(fault for path in paths for fault in grab_bag_faults(path)) == ""


def test_imports_form_no_cycle(imports: Table) -> None:
    assert cycle_in(imports) == ""


# --- the rules themselves can fail ----------------------------------------------------------------

SOME_MODULES = {
    "nanotorch.ops.shapes",
    "nanotorch.tensor",
    "nanotorch.nn.linear",
    "nanotorch.optim",
}


def faults_in(name: str, source: str) -> list[str]:
    imports = imports_of(name, source, SOME_MODULES)
    return [
        *layering_faults(name, imports),
        *lazy_import_faults(name, imports),
        *array_module_faults(name, imports),
        *patching_faults(name, source, SOME_MODULES),
    ]


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("nanotorch.ops.shapes", "from nanotorch.tensor import Tensor", "not to its left"),
        ("nanotorch.ops.shapes", "from nanotorch import tensor", "imports nanotorch.tensor"),
        ("nanotorch.ops.shapes", "from ..tensor import Tensor", "imports nanotorch.tensor"),
        ("nanotorch.ops.shapes", "from .. import tensor", "imports nanotorch.tensor"),
        ("nanotorch.nn.linear", "import nanotorch.optim", "imports nanotorch.optim"),
        ("nanotorch.nn.linear", "import nanotorch", "imports nanotorch,"),
        ("nanotorch.nn.linear", "import train", "imports train"),
        ("nanotorch.surprise", "", "which layer is it in"),
        ("nanotorch.nn.linear", "def f():\n    import json", "inside a function"),
        ("nanotorch.nn.linear", "f = lambda: __import__('json')", "inside a function"),
        ("nanotorch.training.a", "importlib.import_module(name)", "(computed) inside"),
        ("nanotorch.nn.linear", "import numpy as np", "names numpy"),
        ("nanotorch.nn.linear", "def f():\n    import cupy", "names cupy"),
        ("nanotorch.nn.linear", "from nanotorch.tensor import Tensor\nTensor.x = 1", "changes"),
        ("nanotorch.nn.linear", "from nanotorch import tensor\ntensor.x = 1", "changes"),
        ("nanotorch.nn.linear", "from math import tau\ntau.x = 1", "changes tau.x"),
        ("nanotorch.nn.linear", "import math\nmath.pi = 3", "changes math.pi"),
        ("nanotorch.nn.linear", "import math\ndel math.pi", "changes math.pi"),
        ("nanotorch.nn.linear", "import math as m\nsetattr(m, 'pi', 3)", "changes m"),
        ("nanotorch.nn.linear", "import math\nmath.a.b += 3", "changes math.a.b"),
    ],
)
def test_a_broken_rule_is_found(name: str, source: str, words: str) -> None:
    faults = faults_in(name, source)
    assert len(faults) == 1
    assert words in faults[0]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("nanotorch.tensor", "from nanotorch.ops.shapes import reshape\nimport nanotorch.printing"),
        ("nanotorch.nn.linear", "from nanotorch.nn.module import Module\nfrom . import init"),
        ("nanotorch.ops.shapes", "if TYPE_CHECKING:\n    from nanotorch.tensor import Tensor"),
        ("nanotorch.nn.linear", "if TYPE_CHECKING:\n    import numpy"),
        ("nanotorch.backend.cuda", "import numpy\ndef f():\n    import cupy"),
        ("nanotorch.training.curves", "def f():\n    import matplotlib.pyplot as plt"),
        ("nanotorch.training.runner", "import nanotorch as nt\nresult.value = 1"),
        ("nanotorch.nn.linear", "from a import modes\ndef f():\n    modes.grad = True"),
        ("train", "from nanotorch.training.commands import main"),
    ],
)
def test_a_kept_rule_is_not(name: str, source: str) -> None:
    assert faults_in(name, source) == []


@pytest.mark.parametrize(
    ("path", "source", "faults"),
    [
        ("autograd/engine.py", "from nanotorch.amp import autocast", 1),
        ("autograd/engine.py", "if TYPE_CHECKING:\n    from nanotorch.amp import autocast", 1),
        ("autograd/engine.py", "def f():\n    from nanotorch.amp import autocast", 1),
        ("ops/shapes.py", "from nanotorch.amp import autocast", 1),
        ("sym/symbol.py", "from nanotorch.amp import autocast", 1),
        ("optim/__init__.py", "from nanotorch.amp import autocast", 1),
        ("optim/__init__.py", "if TYPE_CHECKING:\n    from nanotorch.amp import autocast", 0),
        ("utils/checkpoint.py", "from nanotorch.amp import autocast", 0),
        ("amp/casts.py", "from nanotorch.amp import autocast\nimport nanotorch.tensor", 0),
        ("surprise.py", "", 1),
    ],
)
def test_rooms_are_kept_apart(path: str, source: str, faults: int) -> None:
    name = "nanotorch." + path.removesuffix(".py").replace("/", ".")
    imports = imports_of(name, source, set(FILES))
    assert len(list(room_faults(path, imports, FILES))) == faults


@pytest.mark.parametrize(
    ("path", "faults"),
    [
        ("nanotorch/nn/utils.py", 1),
        ("nanotorch/utils.py", 1),
        ("nanotorch/base.py", 1),
        ("nanotorch/helpers/x.py", 1),
        ("nanotorch/utils/__init__.py", 0),
        ("nanotorch/utils/data/loader.py", 0),
        ("nanotorch/nn/utils/clip_grad.py", 0),
        ("nanotorch/nn/module.py", 0),
    ],
)
def test_grab_bags_are_known_by_their_names(path: str, faults: int) -> None:
    assert len(list(grab_bag_faults(path))) == faults


def test_a_cycle_is_found_and_named() -> None:
    sources = {"nanotorch.tensor": "import nanotorch.printing"}
    sources["nanotorch.printing"] = "import nanotorch.tensor"
    imports = {name: imports_of(name, source, set(sources)) for name, source in sources.items()}
    assert "nanotorch.tensor <- nanotorch.printing" in cycle_in(imports)
