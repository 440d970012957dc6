"""What the package asks of CuPy exists there; and the look-alike refuses what CuPy refuses.

The names, parameters and loops of CuPy are those of `tests/cupy_names.json`, which
`scripts/cupy_names.py` reads off an installed CuPy, without a GPU.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pytest
import strict_cupy as cp
from strict_cupy import contract

from nanotorch.ops import shapes

ROOT = Path(__file__).parent.parent
MODULE_MAKERS = {"array_module", "cuda_module", "module_of"}


class Use(NamedTuple):
    """A name of CuPy that the package uses: where, and the call if it is called."""

    where: str
    path: str  # such as cupy.linalg.inv
    call: ast.Call | None


def path_of(node: ast.expr, modules: set[str]) -> str | None:
    """The dotted path of an expression that starts at the array module."""
    if isinstance(node, ast.Name):
        return "cupy" if node.id in modules else None
    if isinstance(node, ast.Attribute):
        start = path_of(node.value, modules)
        return None if start is None else f"{start}.{node.attr}"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id == "_runtime":
            return "cupy.cuda.runtime"
        return "cupy" if node.func.id in MODULE_MAKERS else None
    return None


def modules_in(function: ast.AST) -> set[str]:
    """The names that stand for the array module in a function: `xp`, and what is assigned one."""
    found = {"xp"}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if path_of(node.value, set()) == "cupy":
                found.add(node.targets[0].id)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
            values = getattr(node.value, "elts", [])
            for target, value in zip(node.targets[0].elts, values, strict=False):
                if isinstance(target, ast.Name) and path_of(value, set()) == "cupy":
                    found.add(target.id)
    return found


def uses_in(where: str, tree: ast.AST) -> Iterator[Use]:
    """What a function or module takes from the array module."""
    modules = modules_in(tree)
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            path = path_of(node, modules)
            if path is not None:
                yield Use(f"{where}:{node.lineno}", path, calls.get(id(node)))
        elif isinstance(node, ast.ClassDef):
            for statement in node.body:
                if (
                    isinstance(statement, ast.Assign)
                    and ast.unparse(statement.targets[0]) == "ufunc"
                ):
                    name = ast.literal_eval(statement.value)
                    if name:
                        yield Use(f"{where}:{statement.lineno}", f"cupy.{name}", None)


@functools.cache
def sources() -> dict[str, ast.Module]:
    """The package's files, parsed."""
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted((ROOT / "nanotorch").rglob("*.py"))
    }


@functools.cache
def uses() -> list[Use]:
    """What the whole package takes from the array module."""
    return [use for where, tree in sources().items() for use in uses_in(where, tree)]


def problem(use: Use, names: dict[str, Any]) -> str | None:
    """What is wrong with a use, where something is."""
    owner, _, name = use.path.rpartition(".")
    if owner in names:
        described = names[owner].get(name)
        if described is None:
            return f"{use.where}: CuPy has no {use.path}"
        if use.call is None or not described.startswith(("function", "ufunc")):
            return None
        return unfit(use, contract.signature_of(owner, name))
    parent, _, ufunc = owner.rpartition(".")
    if parent == "cupy" and names["cupy"].get(ufunc, "").startswith("ufunc"):
        if name not in names["cupy.ufunc"]:
            return f"{use.where}: CuPy's ufuncs have no {name}"
        return use.call and unfit(use, contract.signature_of("cupy.ufunc", name))
    return None  # an attribute of what CuPy returned


def unfit(use: Use, signature: inspect.Signature) -> str | None:
    """Why the arguments of a call cannot be bound to CuPy's parameters."""
    assert use.call is not None
    if any(isinstance(a, ast.Starred) for a in use.call.args):
        return None
    keywords = {k.arg: None for k in use.call.keywords if k.arg is not None}
    try:
        signature.bind_partial(*use.call.args, **keywords)
    except TypeError as error:
        return f"{use.where}: {use.path}: {error}"
    return None


def test_every_name_and_keyword_that_is_used_exists_in_cupy() -> None:
    assert len({use.path for use in uses()}) > 100
    assert [found for use in uses() if (found := problem(use, contract.NAMES))] == []


def methods_in_kernels() -> Iterator[Use]:
    """Calls of array methods in functions that take `xp`, which are those of CUDA arrays too."""
    known = {name for name in dir(numpy.ndarray) if not name.startswith("_")}
    for where, tree in sources().items():
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef):
                continue
            if not function.args.args or function.args.args[0].arg != "xp":
                continue
            calls = {id(n.func): n for n in ast.walk(function) if isinstance(n, ast.Call)}
            for node in ast.walk(function):
                method = isinstance(node, ast.Attribute) and node.attr in known
                method = method and ast.unparse(node.value) != "HOST"  # which is NumPy
                if method and path_of(node.value, modules_in(function)) is None:
                    path = f"cupy.ndarray.{node.attr}"
                    yield Use(f"{where}:{node.lineno}", path, calls.get(id(node)))


def test_every_array_method_in_a_kernel_exists_in_cupy() -> None:
    uses = list(methods_in_kernels())
    assert len(uses) > 50
    assert [found for use in uses if (found := problem(use, contract.NAMES))] == []


def test_the_check_sees_what_cupy_lacks() -> None:
    source = (
        "def kernel(xp, x):\n    xp.softmax(x)\n    xp.einsum('ij->i', x, out=x)\n"
        "    xp.sum(x, where=x)\n    xp.linalg.inv(x, 1)\n    xp.add.identity\n"
        "    xp.exp(x, out=x)\n"
    )
    found = [problem(use, contract.NAMES) for use in uses_in("file", ast.parse(source))]
    assert sorted(p for p in found if p) == [
        "file:2: CuPy has no cupy.softmax",
        "file:3: cupy.einsum: got an unexpected keyword argument 'out'",
        "file:4: cupy.sum: got an unexpected keyword argument 'where'",
        "file:5: cupy.linalg.inv: too many positional arguments",
        "file:6: CuPy's ufuncs have no identity",
    ]


def test_the_names_are_those_of_the_installed_cupy() -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed; no GPU would be needed")
    path = ROOT / "scripts" / "cupy_names.py"
    specification = importlib.util.spec_from_file_location("cupy_names", path)
    assert specification is not None and specification.loader is not None
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    names = script.contents()
    if cupy.__version__ == contract.VERSION:
        assert names == contract.NAMES
    assert [found for use in uses() if (found := problem(use, names))] == []


# --- the look-alike -------------------------------------------------------------------------------

X = "x = cp.asarray(numpy.arange(6, dtype='f').reshape(2, 3)); h = numpy.ones((2, 3), 'f'); "
REFUSED = {
    "x + h": "Unsupported type",
    "h + x": "Unsupported type",
    "x += h": "Unsupported type",
    "x == h": "Unsupported type",
    "x + numpy.array(1.0)": "Unsupported type",
    "cp.maximum(x, h)": "Unsupported type",
    "cp.where(x > 0, h, x)": "Unsupported type",
    "cp.exp(h)": "Unsupported type",
    "x @ h.T": "Unsupported type",
    "cp.stack([h, h])": "Unsupported type",
    "cp.broadcast_to(h, (2, 3))": "incorrect type",
    "cp.sum(h)": "Unsupported type",
    "cp.einsum('ij,ij', x, h)": "Unsupported type",
    "cp.zeros_like(h)": "Unsupported type",
    "numpy.exp(x)": "does not support ufuncs",
    "numpy.sum(x)": "was given an array of the device",
    "numpy.asarray(x)": "Implicit conversion",
    "numpy.array([x.sum()])": "Implicit conversion",
    "h[0] = x[0]": "Implicit conversion",
    "x[...] = h": "cannot be used for fill",
    "x[0] = [1, 2, 3]": "cannot be used for fill",
    "cp.sum(x, where=True)": "unexpected keyword",
    "x.sum(initial=0)": "unexpected keyword",
    "cp.add(x, x, where=True)": "unexpected keyword",
    "cp.einsum('ij->ji', x, out=x)": "unexpected keyword",
    "cp.erf(x)": "no attribute",
    "cp.argsort(x.sum())": "rank of zero",
    "cp.bitwise_and(x, x)": "Wrong type",
    "cp.maximum.reduce(x)": "not supported",
    "cp.add.at(x.astype(int), (0,), 1)": "scatter_add only supports",
    "x + cp.from_second(x)": "same as the current device",
}


def from_second(x: Any) -> Any:
    """The array on the other device."""
    with cp.cuda.Device(1):
        return x.copy()


@pytest.mark.parametrize("statement", REFUSED)
def test_the_look_alike_refuses(statement: str) -> None:
    space = {"cp": cp, "numpy": numpy, "from_second": from_second}
    statement = statement.replace("cp.from_second", "from_second")
    with pytest.raises((TypeError, ValueError, AttributeError, NotImplementedError)) as caught:
        exec(X + statement, space)
    assert REFUSED.get(statement, "same as the current device") in str(caught.value)


# Where CuPy copies silently, or lets NumPy call back into it, the look-alike refuses.
STRICTER = {
    *("cp.sum(h)", "cp.einsum('ij,ij', x, h)", "cp.zeros_like(h)"),
    *("numpy.exp(x)", "numpy.sum(x)", "x + cp.from_second(x)"),
}


def real_array(cupy: Any) -> Any:
    """An array of the real CuPy; without a GPU over the host's memory, which no kernel can read."""
    host = numpy.arange(6, dtype="f").reshape(2, 3)
    if cupy.cuda.is_available():
        return cupy.asarray(host)
    memory = cupy.cuda.memory.UnownedMemory(host.ctypes.data, host.nbytes, host, 0)
    pointer = cupy.cuda.memory.MemoryPointer(memory, 0)
    return cupy.ndarray(host.shape, host.dtype, memptr=pointer)


@pytest.mark.parametrize("statement", sorted(set(REFUSED) - STRICTER))
def test_cupy_refuses_what_the_look_alike_refuses(statement: str) -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed; no GPU would be needed")
    raised = []
    for module in (cp, cupy):
        x = cp.asarray(numpy.ones((2, 3), "f")) if module is cp else real_array(cupy)
        space = {"cp": module, "numpy": numpy, "x": x, "h": numpy.ones((2, 3), "f")}
        with pytest.raises(Exception) as caught:
            exec(statement, space)
        raised.append(caught.type)
    # What CuPy asks the driver for first, it cannot decide where there is none.
    undecided = not cupy.cuda.is_available() and raised[1].__name__ == "CUDARuntimeError"
    assert undecided or raised[1] is raised[0]


VIEWS: list[tuple[str, dict[str, Any]]] = [
    ("View", {"shape": (3, 2)}),
    ("Permute", {"order": (1, 0)}),
    ("Transpose", {"dim0": 0, "dim1": 1}),
    ("Expand", {"shape": (4, 2, 3)}),
    ("Unsqueeze", {"dim": 1}),
    ("Squeeze", {"dims": (0,), "origin": 1}),
    ("BasicIndex", {"key": (slice(None), 1, None)}),
    ("BasicIndex", {"key": (Ellipsis, slice(0, 3, 2))}),
    ("Diagonal", {"offset": 1, "dim1": 0, "dim2": 1}),
    ("Diagonal", {"offset": -1, "dim1": -1, "dim2": -2}),
    ("Alias", {}),
]


@pytest.mark.parametrize("name, attributes", VIEWS, ids=str)
def test_views_of_cupys_arrays_show_the_memory_that_numpys_show(
    name: str, attributes: dict[str, Any]
) -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed; no GPU would be needed")
    kernel = getattr(shapes, name).kernel
    x, h = real_array(cupy), numpy.zeros((2, 3), "f")
    view, expected = kernel(cupy, x, **attributes), kernel(numpy, h, **attributes)
    assert type(view) is cupy.ndarray
    assert (view.shape, view.strides) == (expected.shape, expected.strides)
    assert view.data.ptr - x.data.ptr == expected.ctypes.data - h.ctypes.data
    assert view.base is x


SHAPES_OF_0_DIM = {
    "cp.ascontiguousarray(x)": (1,),
    "x.ravel()": (1,),
    "x.astype('f', order='C', copy=False)": (),
    "cp.squeeze(x)": (),
    "cp.expand_dims(x, 0)": (1,),
}


@pytest.mark.parametrize("expression", SHAPES_OF_0_DIM)
def test_a_0_dim_array_has_the_same_shape_afterwards_in_both(expression: str) -> None:
    expected = SHAPES_OF_0_DIM[expression]
    assert eval(expression, {"cp": cp, "x": cp.asarray(numpy.float32(1))}).shape == expected
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed; no GPU would be needed")
    assert eval(expression, {"cp": cupy, "x": real_array(cupy)[0, 0]}).shape == expected


COUNTED = {  # copies to the device, copies from it, waits
    "x + 1.0": (0, 0, 0),
    "x[0, 1]": (0, 0, 0),
    "x.sum()": (0, 0, 0),
    "cp.asarray(2.0)": (0, 0, 0),
    "x[i]": (0, 0, 0),
    "cp.asarray(h)": (1, 0, 0),
    "x[[0, 1]]": (1, 0, 0),
    "x[numpy.array([0])]": (1, 0, 0),
    "x.set(h)": (1, 0, 0),
    "x[x > 0]": (0, 0, 1),
    "x.nonzero()": (0, 0, 1),
    "cp.unique(x)": (0, 0, 1),
    "cp.cuda.Device().synchronize()": (0, 0, 1),
    "cp.cuda.get_current_stream().synchronize()": (0, 0, 1),
    "x.get()": (0, 1, 1),
    "cp.asnumpy(x)": (0, 1, 1),
    "float(x.sum())": (0, 1, 1),
    "bool((x > 0).any())": (0, 1, 1),
    "x.tolist()": (0, 1, 1),
    "repr(x)": (0, 1, 1),
    "min(x.sum(), 1)": (0, 1, 1),
}


@pytest.mark.parametrize("expression", COUNTED)
def test_the_look_alike_counts_what_crosses(expression: str) -> None:
    space: dict[str, Any] = {"cp": cp, "numpy": numpy}
    exec(X + "i = cp.asarray(numpy.array([0, 1]))", space)
    cp.counts.reset()
    eval(expression, space)
    assert (cp.counts.h2d, cp.counts.d2h, cp.counts.synchronizations) == COUNTED[expression]


def test_the_look_alike_gives_the_dtypes_and_arrays_of_cupy() -> None:
    x = cp.asarray(numpy.ones((2, 3), "f"))
    assert (x + 1.0).dtype == (x + numpy.float32(1)).dtype == numpy.float32
    assert (x + numpy.float64(1)).dtype == numpy.float64
    for made in (x.sum(), x[0, 0], cp.asarray(1.0), cp.allclose(x, x), x.max()):
        assert type(made) is cp.ndarray
        assert made.shape == ()
    assert x.T.base is x
    assert x.copy().base is None
    assert x.diagonal().base is x


def test_unwritten_memory_of_the_look_alike_shows() -> None:
    assert numpy.isnan(cp.asnumpy(cp.empty(3))).all()
    assert numpy.isnan(cp.asnumpy(cp.empty_like(cp.zeros(3, "f")))).all()
    assert (cp.asnumpy(cp.empty(3, int)) != 0).all()


def test_crossings_can_be_forbidden() -> None:
    x = cp.zeros(3)
    with cp.no_transfers():
        (x + 1).sum()
        with pytest.raises(cp.Crossing, match="d2h by get"):
            x.get()
        with pytest.raises(cp.Crossing, match="h2d by asarray"):
            cp.asarray(numpy.ones(3))
    with cp.no_synchronization(), pytest.raises(cp.Crossing, match="synchronizations by nonzero"):
        x.nonzero()
    x.get()
