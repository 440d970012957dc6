"""Writes the stubs (.pyi) that tell type checkers and editors what NanoTorch's names take and give.

    python scripts/stubs.py [--check | --sources]

The ops take tensors and raw arrays alike, so their signatures say `Any`; a user's program has
tensors. The stubs say so, made from those signatures by three rules: what is `Any` is a Tensor
unless a table below names it; a function with several results has its lines in OVERLOADS; a method
that ends in `_` takes what the one without it takes. The stubs of other modules are their sources
without bodies, by the same tables.

With --check nothing is written, and the exit status is 1 when a stub is not what it should be. With
--sources it prints the sources that have stubs: a checker reads the stub in place of its source, so
.ci/run has mypy check each of these by its path.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent / "nanotorch"
sys.path.insert(0, str(PACKAGE.parent))

import nanotorch
from nanotorch import ops
from nanotorch.backend import loading
from nanotorch.node import Traced
from nanotorch.operators import Operators

WIDTH = 100
HEADER = "# Written by scripts/stubs.py from the sources; not to be edited.\n"
# The modules with a stub of their own, and whether what is `Any` there is a Tensor.
STUBBED = {
    "tensor.py": True, "linalg.py": True, "nn/module.py": False,
    "compile/__init__.py": False, "autograd/grad_mode.py": False,
    "autograd/backward.py": False,
}  # fmt: skip

INTS = "int | Sequence[int]"
OPTIONAL_INTS = f"{INTS} | None"
# What a parameter of type Any is, by its name, where it is no Tensor.
PARAMETERS = {
    "args": "Any", "attributes": "Any", "axis": OPTIONAL_INTS,
    "atol": "Tensor | float | None", "rtol": "Tensor | float | None", "spacing": "Any",
    "aweights": "Tensor | None", "fweights": "Tensor | None", "stride": INTS,
    "elements": "Operand", "test_elements": "Operand", "indices_or_sections": "Any",
    "memory_format": "Any", "bias": "Tensor | None", "correction": "float | None", "counts": INTS,
    "data": "Any", "destination": INTS, "device": "Device | str | int | None",
    "dim": OPTIONAL_INTS, "dims": INTS, "dtype": "DType | None", "exponent": "Operand",
    "fill_value": "Operand", "generator": "Any", "idx": "Any", "input": "Tensor",
    "inputs": "Tensor | Sequence[Tensor] | None",
    "key": "Any", "kind": "DType | str | type | None", "kwargs": "Any", "max": "Operand | None",
    "min": "Operand | None", "named": "Any", "options": "Any", "ord": "float | str | None",
    "other": "Operand", "p": "float | str",
    "places": INTS, "q": "Tensor | float", "repeats": "Tensor | int",
    "shape": INTS, "shifts": INTS, "size": INTS, "source": INTS, "split_size": INTS,
    "src": "Operand", "target": "DType | Device | str | int | Tensor", "value": "Operand",
    "values": "Operand", "wanted": "Any", "weight": "Operand", "weights": "Tensor | None",
}  # fmt: skip
# The families whose operands a and b may be numbers and arrays as well.
MADE = "nanotorch.primitive"  # the module of the ops that its `function` makes
WITH_NUMBERS = {"arithmetic", "comparisons", "division", "pairs", "powers"}
NUMBERS = dict.fromkeys(("a", "b", "input", "other"), "Operand")
# What methods and functions give, by name, where their signature does not say it.
RESULTS = {
    "item": "float", "tolist": "list[Any]", "numpy": "NDArray[Any]",
    "__array__": "NDArray[Any]", "__dlpack__": "Any", "__reduce__": "Any",
    "__iter__": "Iterator[Tensor]", "_on_host": "Any", "_wrap": "Tensor", "nbytes": "int",
    "itemsize": "int", "is_cuda": "bool", "retains_grad": "bool", "meshgrid": "tuple[Tensor, ...]",
    **dict.fromkeys(  # named tuples, one or several tensors
        ("aminmax", "atleast_1d", "atleast_2d", "atleast_3d", "frexp", "qr", "slogdet", "svd",
         "triangular_solve", "unique_consecutive"), "Any",
    ),
    "std_mean": "tuple[Tensor, Tensor]", "var_mean": "tuple[Tensor, Tensor]", "forward": "Any",
}  # fmt: skip

PAIR = "ValuesAndIndices"
ALONG = (
    ("x: Tensor, dim: None = None, keepdim: bool = False", "Tensor"),
    ("x: Tensor, dim: int, keepdim: bool = False", PAIR),
    ("x: Tensor, *, axis: int, keepdims: bool = False", PAIR),
)
EXTREME = (*ALONG, ("x: Tensor, dim: Tensor", "Tensor"))
DECORATES = (("cls, function: Function", "Function"), ("cls", "Self"))
# Functions whose result depends on their arguments: (parameters, result) of each case.
OVERLOADS: dict[str, tuple[tuple[str, str], ...]] = {
    "max": EXTREME, "min": EXTREME, "median": ALONG,
    "nonzero": (
        ("x: Tensor, *, as_tuple: Literal[False] = False", "Tensor"),
        ("x: Tensor, *, as_tuple: Literal[True]", "tuple[Tensor, ...]"),
    ),
    "where": (
        ("condition: Tensor", "tuple[Tensor, ...]"),
        ("condition: Tensor, a: Operand, b: Operand", "Tensor"),
    ),
    "unique": (
        ("x: Tensor, sorted: bool = True, *, dim: int | None = None", "Tensor"),
        (
            "x: Tensor, sorted: bool = True, return_inverse: bool = False, "
            "return_counts: bool = False, dim: int | None = None",
            "Any",
        ),
    ),
    "Size.__add__": (("self, other: Any", "Size"),),
    "Tensor.size": (("self, dim: None = None", "Size"), ("self, dim: int", "int")),
    "Tensor.stride": (("self, dim: None = None", "tuple[int, ...]"), ("self, dim: int", "int")),
    "Tensor.type": (
        ("self, kind: None = None", "str"), ("self, kind: DType | str | type", "Tensor"),
    ),
    "Size.__getitem__": (("self, key: SupportsIndex", "int"), ("self, key: slice", "Size")),
    "Module.__call__": (  # the first serves a plain `Module` as well
        ("self: _Forward[P, Tensor], *args: P.args, **kwargs: P.kwargs", "Tensor"),
        ("self: _Forward[P, R], *args: P.args, **kwargs: P.kwargs", "R"),
    ),
    "no_grad.__new__": DECORATES, "enable_grad.__new__": DECORATES,
    "inference_mode.__new__": (DECORATES[0], ("cls, mode: bool = True", "Self")),
    # `...` stands for the other parameters
    "grad": (("outputs: Tensors, inputs: Tensors, ...", "tuple[Tensor, ...]"),),
    "compile": (
        ("function: M, ...", "M"),
        ("function: Callable[P, R], ...", "_Compiled[P, R]"),
        ("function: None = None, ...", "Callable[[Callable[P, R]], _Compiled[P, R]]"),
    ),
}  # fmt: skip


IMPORTS = """import builtins
import numpy
from numpy.typing import NDArray
from collections.abc import Iterator, Sequence
from typing import Any, Generic, Literal, NamedTuple, ParamSpec, Protocol, Self, SupportsIndex
from typing import TypeAlias, TypeVar, overload
from nanotorch.backend import device as Device, dtype as DType
"""
# Beside the modules' own names.
PARTS = {
    "operators.py": """from typing_extensions import TypeVar as TypeVarWithDefault
from nanotorch.node import Traced
from nanotorch.primitive import Primitive
from nanotorch.tensor import Tensor

Operand: TypeAlias = Tensor | complex | NDArray[Any] | numpy.generic
Value = TypeVarWithDefault("Value", default=Tensor)  # what computing gives: a Tensor, or a Symbol

class ValuesAndIndices(NamedTuple):
    values: Tensor
    indices: Tensor
""",
    "nn/module.py": """
P = ParamSpec("P")
R = TypeVar("R", covariant=True)

class _Forward(Protocol[P, R]):
    def forward(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
""",
    "autograd/backward.py": """
Tensors: TypeAlias = Tensor | Sequence[Tensor]
""",
    "compile/__init__.py": """from nanotorch.compile.explanation import Explanation
from nanotorch.nn.module import Module

P = ParamSpec("P")
R = TypeVar("R", covariant=True)
M = TypeVar("M", bound=Module)

class _Compiled(Protocol[P, R]):
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def steps(self, *stacked: Tensor) -> R: ...
    def plan(self) -> Explanation: ...
""",
}
USES = "from nanotorch.operators import Operand, ValuesAndIndices\n"
IGNORED = {
    ("__eq__", "Value"): "  # type: ignore[override]",
    ("__ne__", "Value"): "  # type: ignore[override]",
    ("__new__", "Function"): "  # type: ignore[misc]",
    ("compile", "M"): "  # type: ignore[overload-overlap]",
}
BUILTIN = re.compile(r"(?<![\w.])(bool|complex|float|int|list|tuple|type)\b")


def qualified(text: str) -> str:
    """A type that names of the package, such as `float`, cannot hide."""
    return BUILTIN.sub(r"builtins.\1", text)


def annotated(node: ast.expr | None, otherwise: str) -> str:
    """The text of an annotation; `otherwise` where it says nothing or Any."""
    text = "Any" if node is None else ast.unparse(node).strip("'")
    if text in ("Any", "Value", "object", "builtins.object"):
        return otherwise
    return text.replace("[Any]", "[Tensor]").replace("tuple[Any, ", "tuple[Tensor, ")


def parameters(node: ast.arguments, method: bool, types: dict[str, str] | None) -> list[str]:
    """Each parameter with its type and default, and the marks `/` and `*` between them.

    types: what is `Any` is Tensor unless this says otherwise; None leaves it.
    """

    def one(arg: ast.arg, default: ast.expr | None = None, stars: str = "") -> str:
        if method and arg is (node.posonlyargs + node.args + [None])[0]:
            text = arg.annotation and ast.unparse(arg.annotation)
            name = "cls" if arg.arg == "cls" else "self"
            return name if text in (None, "Any", "Tensor") else f"{name}: {text}"
        kind = annotated(arg.annotation, "Any" if types is None else types.get(arg.arg, "Tensor"))
        if default is None:
            return f"{stars}{arg.arg}: {kind}"
        value = ast.unparse(default)
        return f"{arg.arg}: {kind}{' | None' * (value == 'None' and 'None' not in kind)} = {value}"

    positional = node.posonlyargs + node.args
    defaults = [None] * (len(positional) - len(node.defaults)) + node.defaults
    texts = [one(arg, default) for arg, default in zip(positional, defaults)]
    if node.posonlyargs:
        texts.insert(len(node.posonlyargs), "/")
    if node.vararg:
        texts.append(one(node.vararg, stars="*"))
    elif node.kwonlyargs:
        texts.append("*")
    texts += [one(arg, default) for arg, default in zip(node.kwonlyargs, node.kw_defaults)]
    return texts + ([one(node.kwarg, stars="**")] if node.kwarg else [])


def definition(
    node: ast.FunctionDef, indent: str, method: bool, result: str = "Tensor",
    types: dict[str, str] | None = PARAMETERS, decorators: tuple[str, ...] = (),
) -> str:  # fmt: skip
    """One function without its body; `result` stands where it gives a Tensor."""
    hidden = node.name.startswith("_") or types is None
    gives = RESULTS.get(node.name, "Any" if hidden else "Tensor")
    gives = annotated(node.returns, gives)
    gives = result if gives == "Tensor" else gives.replace("Tensor", result)
    inputs = parameters(node.args, method, types)
    inputs = [re.sub(r":[^=]*", lambda m: qualified(m[0]), i) for i in inputs]
    gives = qualified(gives)
    comment = IGNORED.get((node.name, gives), "")
    head, tail = f"{indent}def {node.name}(", f") -> {gives}: ..."
    line = head + ", ".join(inputs) + tail + comment
    if len(line) > WIDTH:
        lines = [f"{head}{comment}", *(f"{indent}    {text}," for text in inputs)]
        line = "\n".join([*lines, f"{indent}{tail}"])
    return "".join(f"{indent}@{mark}\n" for mark in decorators) + line + "\n"


def parsed(name: str, inputs: str, result: str) -> ast.FunctionDef:
    """A function's signature as a syntax tree."""
    node = ast.parse(f"def {name}({inputs}) -> {result}: ...").body[0]
    assert isinstance(node, ast.FunctionDef)
    return node


def signature(name: str, function: Callable[..., Any]) -> ast.FunctionDef:
    """The signature of a function of the running program."""
    shown = inspect.signature(target(function))
    inputs = str(shown.replace(return_annotation=inspect.Signature.empty))[1:-1]
    inputs = re.sub(r": '([^']*)'", r": \1", inputs)
    node = parsed(name, inputs, str(shown.return_annotation).strip("'"))
    if function is ops.FUNCTIONS.get(name):  # which ops.outputs.public wraps
        first = (node.args.posonlyargs + node.args.args + [ast.arg("")])[0]
        if first.arg in ops.outputs.OPERANDS["input"]:
            first.arg = "input"
        for arg in node.args.args if inspect.unwrap(function).__module__ == MADE else ():
            arg.arg = "other" if arg.arg == "b" else arg.arg
        if name not in ops.WITHOUT_OUT:
            node.args.kwonlyargs.append(ast.arg("out"))
            node.args.kw_defaults.append(ast.Constant(None))
    return node


def target(function: Callable[..., Any]) -> Callable[..., Any]:
    """The op that a function of the package, or a method, calls."""
    return loading.loaded(inspect.unwrap(function))


def cases(name: str, owner: str = "") -> tuple[tuple[str, str], ...]:
    return OVERLOADS.get(f"{owner}.{name}" if owner else name, ())


def op(name: str, function: Callable[..., Any], indent: str, result: str) -> Iterator[str]:
    """An op as a function or, where indented, as a method."""
    called = target(function)
    families = {
        module.rsplit(".", 1)[1]
        for module, loaded in sys.modules.items()
        if module.startswith("nanotorch.ops.")
        and any(value is called for value in vars(loaded).values())
    }
    pair = called.__code__.co_varnames[:1] == ("a",)
    types: dict[str, str] | None = PARAMETERS | (
        NUMBERS if pair and families & WITH_NUMBERS else {}
    )
    if name.startswith("_"):
        types = None
    elif name.startswith("index_"):
        types = PARAMETERS | {"source": "Tensor"}
    several = cases(function.__name__)
    for inputs, gives in several:
        node = parsed(name, inputs, gives)
        yield definition(node, indent, bool(indent), result, {}, ("overload",))
    if not several:
        yield definition(signature(name, function), indent, bool(indent), result, types)


# What methods written for operands of any number take.
IN_PLACE = {"copy_": "self, src: Operand", "fill_": "self, value: Operand", "zero_": "self"}


def operators() -> Iterator[str]:
    """The class of operators and methods."""
    yield "\nclass Operators(Traced, Generic[Value]):\n"
    indent = "    "
    for name, value in vars(Operators).items():
        if isinstance(value, property):
            node = parsed(name, "self", "Any")
            yield definition(node, indent, True, "Value", decorators=("property",))
        elif name == "__hash__":
            yield f"{indent}def __hash__(self) -> builtins.int: ...\n"
        elif name.startswith("_") and not name.startswith("__"):
            if not hasattr(Traced, name):
                yield f"{indent}def {name}(self, *args: Any, **options: Any) -> Any: ...\n"
        elif callable(value):
            writes = re.fullmatch(r"__i(?!nvert)\w+__|[a-z]\w*_", name)
            result = "Self" if writes else "Value"
            if "operands" in inspect.signature(value).parameters:
                if name[:-1] in ops.METHODS:
                    yield from op(name, ops.METHODS[name[:-1]], indent, result)
                else:
                    inputs = IN_PLACE.get(name, "self, other: Operand")
                    yield definition(parsed(name, inputs, "Any"), indent, True, result)
            elif name.startswith("__"):
                node = signature(name, value)
                node.returns = node.returns and ast.Name("Tensor" if result else "")
                if name == "__setitem__":
                    node.returns = ast.Constant(None)
                yield definition(node, indent, True, result)
            else:
                yield from op(name, value, indent, result)


def names() -> Iterator[str]:
    """The public names of the package."""
    functions = dict(ops.FUNCTIONS)
    for node in ast.parse((PACKAGE / "__init__.py").read_text()).body:
        for part in node.body if isinstance(node, ast.If) else [node]:
            if not isinstance(part, ast.ImportFrom) or part.module == "typing":
                continue
            for alias in part.names:
                name = alias.asname or alias.name
                value = getattr(nanotorch, name)
                returned = getattr(value, "__annotations__", {}).get("return")
                if returned == "Any" and part.module != "nanotorch.serialization":
                    functions[name] = value
                else:
                    yield f"from {part.module} import {alias.name} as {name}\n"
    yield USES + "\n\n__version__: builtins.str\n"
    for name, function in functions.items():
        yield from op(name, function, "", "Tensor")


def module(
    body: list[ast.stmt], types: dict[str, str] | None, indent: str = "", owner: str = ""
) -> Iterator[str]:
    """The statements of a module or a class without what is done when they run."""
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.module == "nanotorch.ops":
            for alias in node.names:
                yield from op(alias.name, getattr(ops, alias.name), indent, "Tensor")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            if getattr(node, "module", "") != "__future__":
                yield f"{indent}{ast.unparse(node)}\n"
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from module(node.body, types, indent, owner)
        elif isinstance(node, ast.AnnAssign):
            yield f"{indent}{ast.unparse(node.target)}: {ast.unparse(node.annotation)}\n"
        elif isinstance(node, ast.Assign):
            yield from assigned(node, indent)
        elif isinstance(node, ast.FunctionDef):
            marks = tuple(ast.unparse(mark) for mark in node.decorator_list)
            several = cases(node.name, owner)
            for inputs, gives in several:
                options = parameters(node.args, False, None)[inputs.count(": ") :]
                case = parsed(node.name, inputs.replace("...", ", ".join(options)), gives)
                marks = ("overload",) * (len(several) > 1)
                yield definition(case, indent, bool(owner), types=None, decorators=marks)
            if not several:
                method = bool(owner) and "staticmethod" not in marks
                yield definition(node, indent, method, types=types, decorators=marks)
        elif isinstance(node, ast.ClassDef):
            bases = ", ".join(ast.unparse(base) for base in [*node.bases, *node.keywords])
            inside = "".join(attributes(node, indent + "    "))
            inside += "".join(module(node.body, types, indent + "    ", node.name))
            yield f"\n{indent}class {node.name}{f'({bases})' * bool(bases)}:"
            yield f"\n{inside}" if inside else " ...\n"


def attributes(node: ast.ClassDef, indent: str) -> Iterator[str]:
    """What `__init__` puts on the instance, where the class does not name it itself."""
    declared = {getattr(part, "name", "") for part in node.body}
    declared |= {ast.unparse(p.target) for p in node.body if isinstance(p, ast.AnnAssign)}
    for method in node.body:
        for part in ast.walk(method) if getattr(method, "name", "") == "__init__" else ():
            if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
                if ast.unparse(part.value) == "self" and part.attr not in declared:
                    declared.add(part.attr)
                    yield f"{indent}{part.attr}: Any\n"


def assigned(node: ast.Assign, indent: str) -> Iterator[str]:
    """A name with the type of its value."""
    for target in map(ast.unparse, node.targets):
        if isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "property":
            getter = parsed(target, "self", "Any")
            yield definition(getter, indent, True, decorators=("property",))
        elif isinstance(node.value, ast.Constant):
            kind = type(node.value.value).__name__.replace("NoneType", "None")
            yield f"{indent}{target}: {qualified(kind)}\n"
        elif ast.unparse(node.value).startswith("TypeVar(") or isinstance(
            node.value, ast.Name | ast.Attribute | ast.BinOp | ast.Subscript
        ):
            yield f"{indent}{target} = {ast.unparse(node.value)}\n"


def stubs() -> Iterator[tuple[Path, str]]:
    """Each stub with its text."""
    yield PACKAGE / "__init__.pyi", HEADER + IMPORTS + "".join(names())
    yield PACKAGE / "operators.pyi", HEADER + IMPORTS + PARTS["operators.py"] + "".join(operators())
    for name, tensors in STUBBED.items():
        if (PACKAGE / name).exists():
            body = ast.parse((PACKAGE / name).read_text(encoding="utf-8")).body[1:]
            text = HEADER + IMPORTS + USES + PARTS.get(name, "")
            if name != "tensor.py":
                text += "from nanotorch.tensor import Tensor\n"
            text += "".join(module(body, PARAMETERS if tensors else None))
            yield (PACKAGE / name).with_suffix(".pyi"), text


def main() -> int:
    check, old = "--check" in sys.argv[1:], []
    if "--sources" in sys.argv[1:]:
        print(*(path.with_suffix(".py").relative_to(PACKAGE.parent) for path, _ in stubs()))
        return 0
    for path, text in stubs():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            old.append(path.relative_to(PACKAGE.parent).as_posix())
            if not check:
                path.write_text(text, encoding="utf-8")
    if old:
        print(f"{'not up to date; run python scripts/stubs.py' if check else 'wrote'}:", *old)
    return 1 if check and old else 0


if __name__ == "__main__":
    sys.exit(main())
