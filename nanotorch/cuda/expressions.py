"""Functions of elements as kernels: what a primitive's Python says of arrays, said of one element.

A kernel or a rule such as `lambda g, y: g * (1 - y * y)` is run once on expressions in place of
arrays. Each operation adds a line of C, and what comes of it is one launch that reads the operands
and writes the result, where CuPy's functions would each read and write memory. Each operation is
rounded by itself (`-fmad=false`), so that the bits are those of one launch after the other.

What cannot be said so is left to CuPy: bodies that ask for values or shapes, views of bits,
functions that no table here names; operands that are not C-contiguous.
"""

from __future__ import annotations

import collections
import functools
import math
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

from nanotorch.backend.cuda.fused import THREADS, WIDE, grid_for, output, written
from nanotorch.backend.cuda.kernels import C_TYPES, OPTIONS, included
from nanotorch.backend.devices import HOST, RAW, broadcast_shapes
from nanotorch.backend.halves import HALVES, rounded_number

Array = Any
MOST_TEXTS = 32  # of one function, with other numbers in its text: beyond them CuPy computes it
FEW = 2**16  # elements, below which CuPy's own functions take no longer
MOST_PLANS = 4096
MOST = 2**31  # elements, where operands are broadcast

# The C text of NumPy's functions. Of floats alone:
FLOATS = {
    **{name: f"{name}({{0}})" for name in (
        "exp", "expm1", "log", "log2", "log10", "log1p", "sqrt", "sin", "cos", "tan",
        "sinh", "cosh", "tanh", "floor", "ceil", "trunc", "rint",
    )},
    **{f"arc{name}": f"a{name}({{0}})" for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    "arctan2": "atan2({0}, {1})", "copysign": "copysign({0}, {1})", "hypot": "hypot({0}, {1})",
    "fmod": "fmod({0}, {1})", "fmax": "fmax({0}, {1})", "fmin": "fmin({0}, {1})",
    "power": "pow({0}, {1})", "exp2": "pow(({kind})2, {0})", "true_divide": "{0} / {1}",
    "reciprocal": "1 / {0}", "isnan": "{0} != {0}", "isfinite": "{0} - {0} == 0",
    "isinf": "{0} == {0} && {0} - {0} != 0", "sign": "{0} != {0} ? {0} : ({0} > 0) - ({0} < 0)",
}  # fmt: skip
NUMBERS = {
    "add": "{0} + {1}", "subtract": "{0} - {1}", "multiply": "{0} * {1}", "negative": "-{0}",
    "square": "{0} * {0}", "absolute": "{0} < 0 ? -{0} : {0} + 0",
    "maximum": "{0} >= {1} || {0} != {0} ? {0} : {1}",
    "minimum": "{0} <= {1} || {0} != {0} ? {0} : {1}",
}  # fmt: skip
ANY = {
    **{name: f"{{0}} {sign} {{1}}" for name, sign in {
        "equal": "==", "not_equal": "!=", "less": "<", "less_equal": "<=", "greater": ">",
        "greater_equal": ">=", "logical_and": "&&", "logical_or": "||",
    }.items()},
    "logical_not": "!{0}", "logical_xor": "!{0} != !{1}",
}  # fmt: skip
BITS = {
    "bitwise_and": "{0} & {1}", "bitwise_or": "{0} | {1}", "bitwise_xor": "{0} ^ {1}",
    "invert": "~{0}",
}  # fmt: skip
TEXTS = {**FLOATS, **NUMBERS, **ANY, **BITS}
KINDS = {
    **dict.fromkeys(FLOATS, "f"),
    **dict.fromkeys(NUMBERS, "fiu"),
    **dict.fromkeys(BITS, "iub"),
}

_lines = threading.local()  # `of`: the lines of the kernel that this thread writes
_kernels: dict[str, Any] = {}
_texts: collections.Counter[Any] = collections.Counter()  # of each function


class Number(float):
    """A number that the kernel is given at each launch: `name` is its parameter."""

    name = ""


class WholeNumber(int):
    """The same, of an integer."""

    name = ""


class Expression:
    """The value that an array has at one place: a constant of the kernel, `name`."""

    __slots__ = ("dtype", "name")
    # As of an array that is contiguous and no single number.
    ndim, shape, strides, size = 1, (2,), (1,), 2
    flags = SimpleNamespace(c_contiguous=True)

    def __init__(self, dtype: Any, text: str) -> None:
        self.dtype, self.name = HOST.dtype(dtype), f"v{len(_lines.of)}"
        _lines.of.append(f"const {C_TYPES[self.dtype.char]} {self.name} = {text};")

    @property
    def itemsize(self) -> int:
        return int(self.dtype.itemsize)

    def astype(self, dtype: Any, **how: Any) -> Expression:
        return Expression(dtype, said(self, HOST.dtype(dtype)))

    def copy(self, order: str = "C") -> Expression:
        return Expression(self.dtype, self.name)

    def become(self, other: Expression) -> Expression:
        """What writing into an array does to it."""
        self.name = said(other, self.dtype)
        return self

    def __bool__(self) -> bool:
        raise TypeError("the value of an element is not known when its kernel is written")

    def __hash__(self) -> int:  # == is an operation, so that no table can find an expression
        raise TypeError("an expression stands for values that are not known")


def said(x: Any, dtype: Any) -> str:
    """An expression or a number in C, in this dtype."""
    kind = C_TYPES[dtype.char]
    if isinstance(x, Expression):
        return x.name if x.dtype == dtype else f"({kind}){x.name}"
    if isinstance(x, Number | WholeNumber):
        return f"({kind}){x.name}"
    if dtype.kind != "f":
        return f"({kind}){int(x)}LL"
    x = float(dtype.type(x))
    if math.isfinite(x):
        return f"({kind}){x.hex()}"
    return f"({kind}){'' if x > 0 else '-'}__longlong_as_double(0x7ff{8 * (x != x)}000000000000LL)"


def kind_of(x: Any) -> Any:
    """What NumPy asks of an operand to tell the dtype of a result: a number decides little."""
    if isinstance(x, Expression):
        return x.dtype
    if isinstance(x, bool | HOST.generic | HOST.ndarray):
        return HOST.asarray(x).dtype
    return float if isinstance(x, float) else int


def operation(name: str) -> Callable[..., Expression]:
    """NumPy's function of that name, of expressions and numbers."""
    function, text, kinds = getattr(HOST, name), TEXTS[name], KINDS.get(name)

    def run(*operands: Any, out: Any = None, dtype: Any = None) -> Expression:
        if len(operands) > function.nin:
            operands, out = operands[:-1], operands[-1]
        if dtype is None:
            *loop, result = function.resolve_dtypes((*map(kind_of, operands), None))
        else:
            loop, result = [HOST.dtype(dtype)] * len(operands), HOST.dtype(dtype)
        if kinds is not None and loop[0].kind not in kinds:
            raise TypeError(f"{name} of {loop[0]}")
        own = "!{0}" if name == "invert" and result.kind == "b" else text
        y = Expression(result, own.format(*map(said, operands, loop), kind=C_TYPES[loop[0].char]))
        return y if out is None else out.become(y)

    return run


class Functions:
    """What stands for the array module while a kernel is written."""

    inf, nan, pi = math.inf, math.nan, math.pi
    float32, float64 = HOST.float32, HOST.float64
    dtype, finfo, iinfo = HOST.dtype, HOST.finfo, HOST.iinfo

    @property
    def RawModule(self) -> Any:
        """What a kernel of ours asks for: what has one, such as GELU's slope, is left to it."""
        raise TypeError("this primitive has a kernel of its own")

    def __getattr__(self, name: str) -> Any:
        if name not in TEXTS:
            raise AttributeError(name)
        made = operation(name)
        setattr(self, name, made)
        return made

    def where(self, condition: Any, a: Any, b: Any) -> Expression:
        kind, test = self.result_type(a, b), said(condition, HOST.dtype(bool))
        return Expression(kind, f"{test} ? {said(a, kind)} : {said(b, kind)}")

    def clip(self, x: Any, low: Any, high: Any, out: Any = None) -> Any:
        return self.minimum(self.maximum(x, low), high, out=out)

    def full(self, shape: Any, value: Any, dtype: Any) -> Expression:
        return Expression(dtype, said(value, HOST.dtype(dtype)))

    def full_like(self, x: Any, value: Any) -> Expression:
        return self.full(None, value, x.dtype)

    def zeros_like(self, x: Any) -> Expression:
        return self.full(None, 0, x.dtype)

    def asarray(self, x: Expression) -> Expression:
        return x

    def copyto(self, out: Expression, y: Any, casting: str = "") -> None:
        out.become(Expression(out.dtype, said(y, out.dtype)))

    def result_type(self, *operands: Any) -> Any:
        weak: dict[Any, Any] = {int: 0, float: 0.0}
        return HOST.result_type(*(weak.get(kind, kind) for kind in map(kind_of, operands)))


FUNCTIONS = Functions()
RAW[Expression] = FUNCTIONS


def operator(name: str, turned: bool = False) -> Callable[..., Any]:
    """Python's operator that NumPy calls by this name; `turned`: of a number on the left."""

    def run(self: Expression, *other: Any) -> Any:
        operands = (*other, self) if turned else (self, *other)
        return getattr(FUNCTIONS, name)(*operands)

    return run


for _short, _name in {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide", "pow": "power",
    "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor",
}.items():  # fmt: skip
    setattr(Expression, f"__{_short}__", operator(_name))
    setattr(Expression, f"__r{_short}__", operator(_name, turned=True))
for _short, _name in {
    "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal",
    "ne": "not_equal", "neg": "negative", "abs": "absolute", "invert": "invert",
}.items():  # fmt: skip
    setattr(Expression, f"__{_short}__", operator(_name))


class Kernel(NamedTuple):
    """A function in C, the letter of its result's dtype, how many elements a thread takes at once;
    or which operand it returns."""

    text: str
    letter: str
    width: int
    returned: int | None = None


HEAD = included('#include "numbers.cuh"\n#include "packs.cuh"\n')
TEMPLATE = """
extern "C" __global__ void elements({parameters}{kind}* y, long long n) {{
    constexpr int N = {count};
    const bool aligned = {begin};
    {numbers}
    const long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    for (long long i = N * thread; i < n; i += (long long)N * gridDim.x * blockDim.x) {{
        const bool whole = aligned && i + N <= n;
        {packs}
        Pack<{kind}, N> z;
#pragma unroll
        for (int k = 0; k < N; k++) {{
            if (!whole && i + k >= n) break;
            {lines}
            z.at[k] = narrow<{kind}>({name});
        }}
        z.write(y + i, whole, n - i);
    }}
}}
"""


def given(place: int, kind: Any, value: Any) -> Any:
    """An operand that is no array, as the function gets it."""
    if kind is None:
        return value
    number = WholeNumber(value) if kind is int else Number.fromhex(value)
    number.name = f"n{place}"
    return number


@functools.lru_cache(maxsize=4096)
def write(
    function: Any, is_rule: bool, forms: tuple[Any, ...], names: tuple[str, ...], half: str
) -> Kernel | None:
    """The kernel of function(xp, *operands, **attributes), or of a rule, which takes no xp; None
    where it cannot be written.

    forms: of an array, the letter of its dtype and how its place is found (=: where that of the
    result is; .: it has one element; %: broadcast); of a number, its type and value; of anything
    else None and itself. names: of the last operands, which are attributes. half: the letter that a
    float32 result is rounded to, or "".
    """
    lines: list[str] = []
    _lines.of = lines
    operands: list[Any] = []
    parameters, numbers, packs, read = [], [], [], {}
    for place, form in enumerate(forms):
        if type(form) is not str:
            operands.append(given(place, *form))
            if form[0] is not None:
                parameters.append(f"double n{place}")
            continue
        letter, where = form[0], form[1]
        kind, at = C_TYPES[letter], f"q{place}.at[k]"
        parameters.append(f"const {kind}* p{place}")
        if where == "=":
            packs.append((place, kind))
        elif where == ".":
            numbers.append(f"const {kind} s{place} = *p{place};")
            at = f"s{place}"
        else:
            parameters.append(f"unsigned inner{place}, unsigned size{place}")
            at = f"p{place}[(unsigned)(i + k) / inner{place} % size{place}]"
        operands.append(Expression(WIDE.get(letter, letter), f"wide({at})"))
        read[place] = operands[-1].name
    first = len(operands) - len(names)
    attributes = dict(zip(names, operands[first:], strict=True))
    try:
        y = function(*(() if is_rule else (FUNCTIONS,)), *operands[:first], **attributes)
    except Exception:  # whatever it is: run on CuPy's arrays, the function says it to the user
        return None
    if not isinstance(y, Expression):
        return None
    for place, operand in enumerate(operands):
        if y is operand and y.name == read[place]:
            return Kernel("", "", 0, place)
    result = half if half and y.dtype.char == "f" else y.dtype.char
    count = 8 if any(form[0] in HALVES for form in forms if type(form) is str) else 4
    kind = C_TYPES[result]
    begins = [*(f"Pack<{k}, N>::begins(p{p})" for p, k in packs), f"Pack<{kind}, N>::begins(y)"]
    text = TEMPLATE.format(
        parameters="".join(f"{p}, " for p in parameters), kind=kind, count=count,
        begin=" && ".join(begins), numbers="\n    ".join(numbers), name=y.name,
        packs="\n        ".join(
            f"Pack<{k}, N> q{p}; q{p}.read(p{p} + i, whole, n - i);" for p, k in packs
        ),
        lines="\n            ".join(lines),
    )  # fmt: skip
    if text not in _kernels:
        _texts[function] += 1
    return None if _texts[function] > MOST_TEXTS else Kernel(text, result, count)


def place_in(shape: tuple[int, ...], part: tuple[int, ...]) -> tuple[int, int] | None:
    """How an array that is broadcast to `shape` is read: element (i // inner) % size at place i;
    None where its axes do not lie together."""
    sizes = (1,) * (len(shape) - len(part)) + part
    own = [axis for axis, n in enumerate(sizes) if n != 1]
    if own and tuple(sizes[own[0] : own[-1] + 1]) != shape[own[0] : own[-1] + 1]:
        return None
    return math.prod(shape[own[-1] + 1 :]) if own else 1, math.prod(part)


class Plan(NamedTuple):
    """How a function of operands in these shapes and orders of memory is launched."""

    kernel: Kernel
    launch: Any
    # Of each argument, the operand; what is read of it, where that is expanded; and how it is
    # broadcast. An operand that is a number becomes one of float64.
    arguments: tuple[tuple[int, Any, tuple[Any, ...]], ...]
    shape: tuple[int, ...]
    dtype: Any
    grid: tuple[int]
    n: Any


_plans: dict[tuple[Any, ...], Plan | None] = {}


def evaluate(
    xp: Any, function: Any, operands: Any, out: Array | None = None, *, is_rule: bool = False,
    attributes: dict[str, Any] | None = None, half: str = "",
) -> Any:  # fmt: skip
    """What a function of elements gives, at one launch; NotImplemented for what is CuPy's."""
    values = (*operands, *attributes.values()) if attributes else operands
    key: list[Any] = [function, half, *attributes] if attributes else [function, half]
    for x in values:
        kind = type(x)
        if kind is xp.ndarray:
            key += (x.dtype.char, x.shape, x.strides)
        elif kind in RAW:
            return NotImplemented
        else:  # zeros are told apart by their signs, numbers by their types
            key += (kind, x or repr(x))
    found = tuple(key)
    plan = _plans.get(found, NotImplemented)
    if plan is NotImplemented:
        if len(_plans) >= MOST_PLANS:
            _plans.clear()
        plan = planned(xp, function, values, is_rule, tuple(attributes or ()), half)
        _plans[found] = plan
    if plan is None:
        return NotImplemented
    if plan.kernel.returned is not None:
        return values[plan.kernel.returned] if out is None else NotImplemented
    arguments: list[Any] = []
    for place, part, broadcast in plan.arguments:
        x = values[place]
        if type(x) is not xp.ndarray:
            x = HOST.float64(x)
        arguments.append(x if part is None else x[part])
        arguments += broadcast
    y = output(xp, out, plan.shape, plan.dtype)
    plan.launch(plan.grid, (THREADS,), (*arguments, y, plan.n))
    return written(xp, y, out)


def planned(
    xp: Any, function: Any, values: Any, is_rule: bool, names: tuple[str, ...], half: str
) -> Plan | None:
    """The plan of a launch; None where CuPy is to compute the function."""
    arrays = [x for x in values if type(x) is xp.ndarray]
    shape = broadcast_shapes(*(x.shape for x in arrays))
    n, forms, arguments = math.prod(shape), [], []
    for place, x in enumerate(values):
        kind, part = type(x), None
        broadcast: tuple[Any, ...] = ()
        if kind is xp.ndarray:
            if not x.flags.c_contiguous:  # what is expanded is read where it lies
                part = tuple(slice(None if step else 1) for step in x.strides)
                x = x[part]
            lies = place_in(shape, x.shape)
            if not x.flags.c_contiguous or x.dtype.char not in C_TYPES or lies is None:
                return None
            how = "=" if x.shape == shape else "." if x.size == 1 else "%"
            if how == "%":
                broadcast = tuple(map(HOST.uint32, lies))
            forms.append(x.dtype.char + how)
        elif kind is float:
            forms.append((float, x.hex()))
        elif kind is int and -(2**53) <= x <= 2**53:
            forms.append((int, x))
        else:
            forms.append((None, x))
            continue
        arguments.append((place, part, broadcast))
    if not n or (n >= MOST and any(form[1] == "%" for form in forms)):
        return None
    kernel = write(function, is_rule, tuple(forms), names, half)
    if kernel is None:
        return None
    launch = _kernels.get(kernel.text)
    if launch is None and kernel.text:
        options = (*OPTIONS, "-fmad=false")
        launch = xp.RawKernel(HEAD + kernel.text, "elements", options)
        _kernels[kernel.text] = launch
    of_halves = [x.dtype for x in arrays if x.dtype.char == kernel.letter]
    dtype = of_halves[0] if of_halves else HOST.dtype(kernel.letter or "f")
    grid = grid_for(-(-n // (kernel.width or 1)))
    return Plan(kernel, launch, tuple(arguments), shape, dtype, grid, HOST.int64(n))


def kernel_of_elements(primitive: Any) -> Callable[..., Any]:
    """What computes an elementwise primitive at one launch, where its kernel can be written."""
    is_one = hasattr(primitive, "ufunc")

    def run(xp: Any, *inputs: Any, out: Array | None = None, **attributes: Any) -> Any:
        if not hasattr(xp, "RawKernel"):
            return NotImplemented
        arrays = [x for x in inputs if type(x) is xp.ndarray]
        if is_one and max(x.size for x in arrays) < FEW:
            return NotImplemented
        halves = [x.dtype for x in arrays if x.itemsize == 2 and x.dtype.char in HALVES]
        half = ""
        if halves:  # computed in float32 and rounded once, as `backend.halves` says
            with_float = any(x.dtype.char == "f" for x in arrays)
            half = halves[0].char if primitive.promotes or not with_float else ""
            if primitive.promotes:
                exact = primitive.exact_numbers
                inputs = tuple(
                    x if i and exact else rounded_number(x, halves[0]) for i, x in enumerate(inputs)
                )
        return evaluate(xp, primitive.kernel, inputs, out, attributes=attributes, half=half)

    return run


def rules_of_elements(rules: tuple[Any, ...]) -> tuple[Any, ...]:
    """The rules of an elementwise primitive, each at one launch where it can be written."""

    def on_device(rule: Any) -> Any:
        def run(g: Array, *values: Any) -> Any:
            y: Any = NotImplemented
            xp = RAW[type(g)]
            if hasattr(xp, "RawKernel") and g.itemsize != 2:  # halves are rounded step by step
                y = evaluate(xp, rule, (g, *values), is_rule=True)  # the walk is on g's device
            return rule(g, *values) if y is NotImplemented else y

        return rule and run

    return tuple(map(on_device, rules))
