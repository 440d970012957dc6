"""A module that looks like CuPy 14, on a machine without a GPU.

Its arrays are opaque and live on one of two devices; NumPy's arrays are refused wherever CuPy
refuses them; memory that nobody wrote holds NaN; only the names, the keywords and the ufunc loops
of real CuPy exist; and every copy between host and device, launch and wait is counted. Where CuPy
is lenient (a NumPy function of a device array, `cupy.sum(host)`), it is strict.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import numpy

from strict_cupy.arrays import (
    checked_index,
    computed,
    found,
    index,
    keeps_order_of_out,
    ndarray as ndarray,
    one_device,
    operand,
    poison,
    wrap,
)
from strict_cupy.contract import (
    VERSION,
    Counts as Counts,
    Crossing as Crossing,
    counts as counts,
    happened,
    kind_of,
    loops_of,
    no_synchronization as no_synchronization,
    no_transfers as no_transfers,
    signature_of,
)
from strict_cupy.devices import POOL, cuda as cuda, in_pinned_memory, queue
from strict_cupy.kernels import COMPILER, RawModule as _RawModule
from strict_cupy.order import OutOfOrder as OutOfOrder, copies_pinned, host_waited

__version__ = VERSION

# What makes CuPy wait for the device: the shape of the result, or an error, depends on values.
WAITS = {
    *("nonzero", "flatnonzero", "argwhere", "unique", "unique_values", "bincount", "histogram"),
    *("extract", "compress", "delete", "trim_zeros", "intersect1d", "setdiff1d", "union1d"),
}
SOLVERS = {
    "inv",
    "solve",
    "cholesky",
    "qr",
    "svd",
    "eigh",
    "eigvalsh",
    "lstsq",
    "pinv",
    "tensorsolve",
}
TRUTHS = {"allclose", "array_equal", "array_equiv"}
# What CuPy computes with cuBLAS, which it refuses to call while a stream captures.
PRODUCTS = {"dot", "einsum", "inner", "matmul", "tensordot", "vdot"}
ONE_ARRAY = {"a", "x", "m", "ary", "arr", "condition", "A", "v", "src"}
# Of more than so many arrays of one dtype CuPy copies the addresses from the host.
MOST_JOINED, COPIED_BY_ITSELF = 8, 2 * 1024 * 1024
JOINS = {"concatenate", "stack", "hstack", "vstack", "dstack", "column_stack", "block"}
WITHOUT_BFLOAT16 = {"cupy_divmod", "cupy_logical_not", "cupy_logical_xor"}
NO_SCATTER = "cupyx.scatter_add only supports int32, float16, float32, float64, uint32 and uint64"


def floored(x: Any, y: Any, **options: Any) -> Any:
    """The floor of x / y, which is rounded before; CuPy divides whole numbers exactly."""
    if numpy.add(x, y).dtype.kind in "biu":
        return numpy.floor_divide(x, y, **options)
    return numpy.floor(numpy.true_divide(x, y), **options)


def left(x: Any, y: Any, **options: Any) -> Any:
    return numpy.subtract(x, numpy.multiply(floored(x, y), y), **options)


def left_by_trunc(x: Any, y: Any, **options: Any) -> Any:
    """C's; of whole numbers it is that of float64, which has not all of them."""
    kind = numpy.add(x, y).dtype
    if kind.kind in "biu":
        rest = numpy.fmod(numpy.multiply(x, 1.0), numpy.multiply(y, 1.0))
        return numpy.positive(rest.astype(kind), **options)
    return numpy.fmod(x, y, **options)


def sorting_order(a: Any, axis: int = -1, kind: Any = None) -> Any:
    """The indices that sort; NaN comes last, but a negative one first."""
    if a.dtype.kind not in "fV":
        return numpy.argsort(a, axis, kind="stable")
    return numpy.lexsort((a, ~(numpy.isnan(a) & numpy.signbit(a))), axis)


def in_order(a: Any, axis: int = -1, kind: Any = None) -> Any:
    return numpy.take_along_axis(a, sorting_order(a, axis), axis)


def raised(x: Any, y: Any, **options: Any) -> Any:
    """Whole numbers are raised to negative powers, too."""
    kinds = numpy.add(x, y).dtype.kind
    if kinds in "iu" and (y < 0 if isinstance(y, int) else (y < 0).any()):
        return numpy.trunc(numpy.power(numpy.multiply(x, 1.0), y)).astype(numpy.add(x, y).dtype)
    return numpy.power(x, y, **options)


AS_IN_CUPY: dict[str, Callable[..., Any]] = {
    "floor_divide": floored, "power": raised, "remainder": left, "fmod": left_by_trunc,
    "argsort": sorting_order, "sort": in_order,
}  # fmt: skip


class ufunc:  # noqa: N801 - CuPy's name
    """An elementwise function, with the parameters and loops that CuPy's has."""

    def __init__(self, name: str) -> None:
        self.name = f"cupy_{name}"
        self._host = AS_IN_CUPY.get(name) or getattr(numpy, name)
        self._signature, self._loops = signature_of("cupy", name), loops_of(name)
        self.nin = len(self._loops[0][0])

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self._signature.bind(*arguments, **options)
        if len(arguments) > self.nin:
            options["out"] = arguments[self.nin]
            arguments = arguments[: self.nin]
        inputs = found(list(arguments)) + found(options.get("out"))
        one_device(inputs, self.name)
        operands = [operand(a) for a in arguments]
        plain = {k: v for k, v in options.items() if v is not None}
        if "out" in plain and not isinstance(plain["out"], ndarray):
            raise TypeError(f"{self.name}: return arrays must be of ArrayType")
        kinds = None if "dtype" in plain else self.result_kinds(operands)
        if self.name == "cupy_matmul":
            happened("products", self.name)

        def run(*given: Any, **named: Any) -> Any:
            with numpy.errstate(all="ignore"):
                try:
                    result = self._host(*given, **named)
                except TypeError as error:  # in CuPy's words, which do not name the function
                    message = str(error).replace(
                        f"ufunc {self.name[5:]!r} output", "output operand"
                    )
                    raise TypeError(message) from None
            if "out" in named or kinds is None:
                return result
            several = isinstance(result, tuple)
            made = tuple(
                numpy.asarray(r, order="C").astype(k, copy=False)  # CuPy's results are C-ordered
                for r, k in zip(result if several else (result,), kinds, strict=True)
            )
            return made if several else made[0]

        result = computed(run, arguments, plain)
        if "out" in plain:
            happened("launches", self.name)
            return options["out"]
        return wrap(result, [])

    def result_kinds(self, operands: list[Any]) -> Any:
        """The dtypes of CuPy's first loop that takes the operands; None where they are mixed."""
        brain = next(
            (o.dtype for o in operands if isinstance(o, numpy.ndarray) and o.dtype.char == "E"),
            None,
        )
        if brain is not None and not any(type(o) is float for o in operands):
            common = numpy.result_type(*operands)
            if common == brain:  # with ml_dtypes, CuPy has a loop of bfloat16 beside each float16's
                loop = next(((i, o) for i, o in self._loops if set(i) == {"e"}), None)
                if loop is not None and self.name not in WITHOUT_BFLOAT16:
                    return [brain if kind == "e" else kind for kind in loop[1]]
        common = numpy.result_type(
            *(numpy.float32 if brain is not None and type(o) is float else o for o in operands)
        )
        for inputs, outputs in self._loops:
            if len(set(inputs)) > 1 and set(inputs) != {"q", "Q"}:
                return None
            if all(numpy.can_cast(common, kind) for kind in inputs):
                return outputs
        kinds = ", ".join(str(numpy.asarray(o).dtype) for o in operands)
        raise TypeError(f"Wrong type ({kinds}) of arguments for {self.name}")

    def at(self, a: ndarray, indices: Any, b: Any = None) -> None:
        if self.name not in ("cupy_add", "cupy_maximum", "cupy_minimum"):  # seen on an H100
            raise NotImplementedError(f"`{self.name}.at` is not supported yet")
        if a.dtype.char not in "iefdFDILQ" and self.name == "cupy_add":
            raise TypeError(NO_SCATTER)
        if a.dtype.char not in "ILQ" and self.name != "cupy_add":
            raise TypeError(
                f"{self.name}.at rounds float64 to float32, passes NaN over, or refuses"
            )
        one_device([a, *found(indices), *found(b)], self.name)
        happened("launches", f"{self.name}.at")
        indices = indices if isinstance(indices, tuple) else (indices,)
        indices = checked_index(indices, write=True)
        operand(b)
        computed(lambda x, key, y: self._host.at(x, index(x, key), y), (a, indices, b), {})

    def reduce(
        self,
        array: ndarray,
        axis: Any = 0,
        dtype: Any = None,
        out: Any = None,
        keepdims: bool = False,
    ) -> Any:
        if self.name not in ("cupy_add", "cupy_multiply"):
            raise NotImplementedError(f"`{self.name}.reduce` is not supported yet")
        total = array.sum if self.name == "cupy_add" else array.prod  # type: ignore[attr-defined]
        return total(axis=axis, dtype=dtype, out=out, keepdims=keepdims)

    def outer(self, a: ndarray, b: ndarray, **options: Any) -> Any:
        return self(a.reshape(a.shape + (1,) * b.ndim), b, **options)  # type: ignore[attr-defined]


def function(owner: str, name: str, host: Callable[..., Any]) -> Callable[..., Any]:
    """A function of NumPy's name, with the parameters that CuPy's has."""
    signature = signature_of(owner, name)
    first = next(iter(signature.parameters), "")

    def call(*arguments: Any, **options: Any) -> Any:
        signature.bind(*arguments, **options)
        if arguments and first in ONE_ARRAY and isinstance(arguments[0], list | tuple):
            raise TypeError(f"cupy.{name}: expected an array, got {type(arguments[0])}")
        inputs = found(arguments) + found(list(options.values()))
        one_device(inputs, name)
        if name in WAITS or (owner == "cupy.linalg" and name in SOLVERS):
            happened("synchronizations", name)
        if name == "solve" and inputs[1].ndim > 1 and inputs[0].shape[:-1] != inputs[1].shape[:-1]:
            raise ValueError("a must have (..., M, M) shape and b must have (..., M, K)")
        if name in ("sort", "argsort") and not inputs[0].ndim:
            raise ValueError("Sorting arrays with the rank of zero is not supported")
        if name == "where" and len(arguments) == 1:
            happened("synchronizations", "where")
        if name in PRODUCTS or owner == "cupy.linalg":
            happened("products", name)
        if name in JOINS and len(found(arguments)) > MOST_JOINED:
            total = sum(a.nbytes for a in inputs)
            if len({a.dtype for a in inputs}) == 1 and total < COPIED_BY_ITSELF * len(inputs):
                happened("h2d", f"{name}: the addresses of more than {MOST_JOINED} arrays")
        keeps_order_of_out(name, inputs[:1], options.get("out"))

        def run(*given: Any, **named: Any) -> Any:
            with numpy.errstate(all="ignore"):
                result = AS_IN_CUPY.get(name, host)(*given, **named)
            return numpy.asarray(result) if name in TRUTHS else result

        result = computed(run, arguments, {k: v for k, v in options.items() if v is not None})
        if result is None or options.get("out") is not None:
            happened("launches", name)
        return wrap(result, inputs)

    call.__name__ = name
    return call


# --- what crosses, and what NumPy does otherwise ----------------------------------------------


def array(
    object: Any, dtype: Any = None, copy: bool | None = True, order: str = "K", subok: bool = False,
    ndmin: int = 0, *, blocking: bool = False,
) -> ndarray:  # fmt: skip
    """A new array on the current device: of one of the host (a copy across), of one of a device, of
    numbers."""
    if isinstance(object, ndarray):
        one_device([object] if copy is None else [], "asarray")
        if not copy and (dtype is None or object.dtype == dtype):  # NumPy: float64 == None
            return object
        made = computed(lambda host: numpy.array(host, dtype, order="C"), (object,), {})
        return wrap(made, [])  # type: ignore[no-any-return]
    if isinstance(object, list | tuple) and found(object):
        if len(found(object)) != len(object):
            raise TypeError("Implicit conversion to a NumPy array is not allowed.")
        made = computed(lambda *hosts: numpy.array(hosts, dtype), object, {})
        return wrap(made, [])  # type: ignore[no-any-return]
    host = numpy.array(object, dtype, ndmin=ndmin)
    if host.dtype.kind not in "biufc" and host.dtype.char != "E":
        raise ValueError(f"Unsupported dtype {host.dtype}")
    if host.ndim:
        happened("h2d", "asarray")
        if in_pinned_memory(object):
            copies_pinned(object, queue())
        if blocking:
            happened("synchronizations", "asarray")
            host_waited(queue().seen)
    elif host == 0:  # it fills, for zeros byte by byte
        host = numpy.zeros_like(host)
    return wrap(computed(lambda: host.copy(), (), {}), [])  # type: ignore[no-any-return]


def asarray(
    a: Any, dtype: Any = None, order: str | None = None, *, copy: bool | None = None,
    blocking: bool = False,
) -> ndarray:  # fmt: skip
    return array(a, dtype, copy, blocking=blocking)


def ascontiguousarray(a: ndarray, dtype: Any = None) -> ndarray:
    """The array itself where its rows lie one after the other, otherwise a copy; of a 0-dim array
    one of shape (1,), as in NumPy."""
    array = asarray(a, dtype)
    if not array.shape:
        return array.reshape(1)  # type: ignore[attr-defined, no-any-return]
    return array if array.flags.c_contiguous else array.copy()  # type: ignore[attr-defined, no-any-return]


def asnumpy(
    a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True
) -> Any:
    """The array on the host."""
    return a.get(stream, order, out, blocking) if isinstance(a, ndarray) else numpy.asarray(a)


def from_dlpack(array: Any, **options: Any) -> ndarray:
    kind, number = array.__dlpack_device__()
    if kind not in (2, 13):
        raise TypeError("CPU arrays cannot be directly imported to CuPy.")
    with cuda.Device(number):
        stream = cuda.get_current_stream().ptr or 1
        made = array.__dlpack__(stream=stream, max_version=(1, 0), copy=options.get("copy"))
        return wrap(made._host.view(), [made])  # type: ignore[no-any-return]


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return ndarray(shape, dtype)


def empty_like(
    prototype: ndarray, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None
) -> ndarray:
    host = numpy.empty_like(operand(prototype), dtype, "K", shape=shape)
    poison(host)
    return wrap(host, [])  # type: ignore[no-any-return]


def copyto(dst: ndarray, src: Any, casting: str = "same_kind", where: Any = None) -> None:
    one_device([dst, *found(src), *found(where)], "copyto")
    happened("launches", "copyto")
    if where is not None:
        operand(where)
    operand(src)
    if not isinstance(dst, ndarray):
        raise TypeError(f"Unsupported type {type(dst)}")
    if isinstance(src, ndarray) and not numpy.can_cast(src.dtype, dst.dtype, casting):
        raise TypeError(f"Cannot cast {src.dtype} to {dst.dtype} in {casting} casting mode")
    options = {} if where is None else {"where": where}

    def run(to: Any, source: Any, **mask: Any) -> None:
        numpy.copyto(to, source, casting="unsafe", **mask)

    computed(run, (dst, src), options)


def broadcast_to(array: ndarray, shape: Any) -> ndarray:
    if not isinstance(array, ndarray):
        raise TypeError(f"Argument 'array' has incorrect type (got {type(array).__name__})")
    y = numpy.broadcast_to(array._host, shape)
    return wrap(numpy.lib.stride_tricks.as_strided(array._host, y.shape, y.strides), [array])  # type: ignore[no-any-return]


class Grid:
    """`ogrid` and `mgrid`, made on the device."""

    def __init__(self, host: Any) -> None:
        self._host = host

    def __getitem__(self, key: Any) -> Any:
        made = computed(lambda: self._host[key], (), {})
        return [wrap(g, []) for g in made] if isinstance(key, tuple) else wrap(made, [])


ogrid, mgrid = Grid(numpy.ogrid), Grid(numpy.mgrid)
asanyarray = asarray


def get_array_module(*arguments: Any) -> Any:
    import strict_cupy

    return strict_cupy if found(arguments) else numpy


def get_default_memory_pool() -> Any:
    return POOL


def _names(owner: str, host: Any) -> dict[str, Any]:
    """What CuPy and NumPy both have, in CuPy's manner."""
    made: dict[str, Any] = {}
    for name in dir(host):
        kind = kind_of(owner, name)
        value = getattr(host, name)
        if kind == "ufunc":
            made[name] = ufunc(name)
        elif kind == "function" and callable(value):
            made[name] = function(owner, name, value)
        elif kind in ("type", "attribute") and not isinstance(value, type(numpy)):
            made[name] = value
    return made


def _operators() -> None:
    """The operators of the array, as calls of the ufuncs."""
    table = {
        "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide",
        "floordiv": "floor_divide", "mod": "remainder", "pow": "power", "and": "bitwise_and",
        "or": "bitwise_or", "xor": "bitwise_xor", "lshift": "left_shift",
        "rshift": "right_shift", "matmul": "matmul",
    }  # fmt: skip
    for name, called in table.items():
        f = _SURFACE[called]
        setattr(ndarray, f"__{name}__", lambda a, b, f=f: f(a, b))
        setattr(ndarray, f"__r{name}__", lambda a, b, f=f: f(b, a))
        setattr(ndarray, f"__i{name}__", lambda a, b, f=f: f(a, b, out=a))
    for name, called in {
        "eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater",
        "ge": "greater_equal",
    }.items():  # fmt: skip
        setattr(ndarray, f"__{name}__", lambda a, b, f=_SURFACE[called]: f(a, b))
    for name, called in {
        "neg": "negative",
        "pos": "positive",
        "abs": "absolute",
        "invert": "invert",
    }.items():
        setattr(ndarray, f"__{name}__", lambda a, f=_SURFACE[called]: f(a))


_SURFACE = _names("cupy", numpy)
linalg = types.SimpleNamespace(**_names("cupy.linalg", numpy.linalg))
_operators()


def __getattr__(name: str) -> Any:
    """The names that CuPy and NumPy share; as globals they would hide Python's own."""
    if name == "RawModule" and COMPILER:
        return _RawModule
    try:
        return _SURFACE[name]
    except KeyError:
        raise AttributeError(f"module 'cupy' has no attribute {name!r}") from None
