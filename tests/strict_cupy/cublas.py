"""An imitated libcublas: the functions that are called by ctypes, on the look-alike's memory.

They take what the real ones take (handles, flags, sizes, addresses of numbers and matrices, leading
dimensions and strides in elements) and do what https://docs.nvidia.com/cuda/cublas/ says: columns
are contiguous, only what the leading dimensions say is read and written, C is not read where beta
is 0, and what the real library refuses is refused with its status.
"""

from __future__ import annotations

import ctypes
import itertools
from typing import Any

import numpy

from strict_cupy import devices, graphs
from strict_cupy.contract import happened

NOT_INITIALIZED, INVALID_VALUE, NOT_SUPPORTED = 1, 7, 15

_pointer, _int, _long = "pointer", "int", "long"
_GEMM = [_pointer, _int, _int, "size", "size", "size", _pointer, *[_pointer, _int, "size"] * 2,
         _pointer, _pointer, _int, "size", _int, _int]  # fmt: skip
_STRIDED = [_pointer, _int, _int, "size", "size", "size", _pointer,
            *[_pointer, _int, "size", _long] * 2, _pointer, _pointer, _int, "size", _long, "size",
            _int, _int]  # fmt: skip
# What the header cublas_api.h declares; "size" is an int, or in the functions with _64 a long.
PARAMETERS = {
    "cublasCreate_v2": [_pointer],
    "cublasSetStream_v2": [_pointer, _pointer],
    "cublasSetWorkspace_v2": [_pointer, _pointer, "size_t"],
    "cublasSetMathMode": [_pointer, _int],
    "cublasGemmEx": _GEMM,
    "cublasGemmStridedBatchedEx": _STRIDED,
}
C_TYPES = {
    _pointer: ctypes.c_void_p,
    _int: ctypes.c_int,
    _long: ctypes.c_longlong,
    "size_t": ctypes.c_size_t,
}

COMPUTE_32F, COMPUTE_64F, COMPUTE_32F_FAST_TF32 = 68, 70, 77


def c_types(name: str) -> list[Any]:
    """The ctypes of a function's parameters."""
    size = ctypes.c_longlong if name.endswith("_64") else ctypes.c_int
    parameters = PARAMETERS[name.removesuffix("_64")]
    return [size if parameter == "size" else C_TYPES[parameter] for parameter in parameters]


def elements(code: int) -> numpy.dtype[Any] | None:
    """The dtype of a cudaDataType."""
    if code == 14:
        import ml_dtypes

        return numpy.dtype(ml_dtypes.bfloat16)
    return {0: numpy.dtype("f"), 1: numpy.dtype("d"), 2: numpy.dtype("e")}.get(code)


class Function:
    """A function of the library: converts its arguments as ctypes does, to the true parameters."""

    def __init__(self, library: Library, name: str) -> None:
        self.name, self.argtypes, self.restype = name, None, None
        self._library, self._run = library, getattr(library, f"_{name.removesuffix('_64')}")

    def __call__(self, *arguments: Any) -> int:
        assert self.argtypes == c_types(self.name), f"{self.name}: other parameters than the header"
        assert self.restype is ctypes.c_int
        assert len(arguments) == len(self.argtypes), self.name
        converted = []
        for kind, argument in zip(self.argtypes, arguments, strict=True):
            if kind is ctypes.c_void_p:
                converted.append(address(argument))
            else:
                value = kind(argument).value
                assert value == argument, f"{self.name}: {argument} does not fit {kind.__name__}"
                converted.append(value)
        self._library.calls.append((self.name, tuple(converted)))
        return self._run(*converted)  # type: ignore[no-any-return]


def address(argument: Any) -> int:
    """Where a pointer points to; 0 for null."""
    holder = ctypes.cast(argument, ctypes.c_void_p)
    return holder.value or 0


class Handle:
    """What cublasCreate made: on a device, with a stream and a workspace."""

    def __init__(self) -> None:
        self.device, self.stream, self.workspace, self.mode = devices.current(), 0, (0, 0), 0


class Library:
    """What `ctypes.CDLL("libcublas.so")` is; `calls` lists what was called, with which numbers."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[int, ...]]] = []
        self.handles: dict[int, Handle] = {}
        self._numbers = itertools.count(0x1000, 0x10)
        for name in PARAMETERS:
            setattr(self, name, Function(self, name))
            if "Gemm" in name:
                setattr(self, f"{name}_64", Function(self, f"{name}_64"))

    def _cublasCreate_v2(self, place: int) -> int:
        number = next(self._numbers)
        self.handles[number] = Handle()
        ctypes.c_void_p.from_address(place).value = number
        return 0

    def _cublasSetStream_v2(self, handle: int, stream: int) -> int:
        if handle not in self.handles:
            return NOT_INITIALIZED
        self.handles[handle].stream = stream
        self.handles[handle].workspace = (0, 0)
        return 0

    def _cublasSetWorkspace_v2(self, handle: int, workspace: int, size: int) -> int:
        if handle not in self.handles:
            return NOT_INITIALIZED
        if workspace % 256:
            return INVALID_VALUE
        self.handles[handle].workspace = (workspace, size)
        return 0

    def _cublasSetMathMode(self, handle: int, mode: int) -> int:
        if handle not in self.handles:
            return NOT_INITIALIZED
        self.handles[handle].mode = mode
        return 0

    def _cublasGemmEx(self, *arguments: int) -> int:
        first, a, b, beta, c, last = (
            arguments[:7], arguments[7:10], arguments[10:13], arguments[13], arguments[14:17],
            arguments[17:],
        )  # fmt: skip
        return self._product(*first, (*a, 0), (*b, 0), beta, (*c, 0), 1, *last)

    def _cublasGemmStridedBatchedEx(self, *arguments: int) -> int:
        first, a, b, beta, c, last = (
            arguments[:7], arguments[7:11], arguments[11:15], arguments[15], arguments[16:20],
            arguments[20:],
        )  # fmt: skip
        return self._product(*first, a, b, beta, c, *last)

    def _product(
        self, handle: int, of_a: int, of_b: int, m: int, n: int, k: int, alpha: int, a: Any, b: Any,
        beta: int, c: Any, count: int, compute: int, algorithm: int,
    ) -> int:  # fmt: skip
        """C = alpha * op(A) @ op(B) + beta * C, count times."""
        if handle not in self.handles:
            return NOT_INITIALIZED
        state = self.handles[handle]
        assert state.device == devices.current(), "the handle is another device's"
        assert state.stream == devices.cuda.get_current_stream().ptr, "the handle's stream is stale"
        assert state.workspace[1], "SetStream forgot the workspace: a capture would allocate"
        if of_a not in (0, 1) or of_b not in (0, 1) or min(m, n, k, count) < 0:
            return INVALID_VALUE
        if a[2] < max(1, k if of_a else m) or b[2] < max(1, n if of_b else k) or c[2] < max(1, m):
            return INVALID_VALUE
        if count > 1 and abs(c[3]) < c[2] * (n - 1) + m:
            return INVALID_VALUE  # the matrices of C overlap
        if not (a[0] and b[0] and c[0] and alpha and beta):
            return INVALID_VALUE
        kind = elements(a[1])
        single = compute == COMPUTE_32F or (compute == COMPUTE_32F_FAST_TF32 and a[1] == 0)
        fits = a[1] != 1 if single else compute == COMPUTE_64F and a[1] == 1
        if kind is None or not a[1] == b[1] == c[1] or not fits or algorithm != -1:
            return NOT_SUPPORTED
        happened("launches", "cublas")
        scale = ctypes.c_float if single else ctypes.c_double
        scales = scale.from_address(alpha).value, scale.from_address(beta).value

        # Other kernels, which add up in another order, where addresses are aligned otherwise.
        order = 1 if all(operand[0] % 16 == 0 for operand in (a, b, c)) else -1

        def work() -> None:
            for i in range(count):
                left = matrix(a, kind, i, *((k, m) if of_a else (m, k)))
                right = matrix(b, kind, i, *((n, k) if of_b else (k, n)))
                left, right = left.T if of_a else left, right.T if of_b else right
                if single:
                    left, right = left.astype("f"), right.astype("f")
                if compute == COMPUTE_32F_FAST_TF32:
                    left, right = tf32(left), tf32(right)
                out = matrix(c, kind, i, m, n)
                with numpy.errstate(all="ignore"):
                    y = scales[0] * numpy.matmul(left[:, ::order], right[::order])
                    out[...] = y if not scales[1] else y + scales[1] * out.astype(y.dtype)

        graphs.launched(work, [])
        return 0


def matrix(operand: Any, kind: numpy.dtype[Any], number: int, rows: int, columns: int) -> Any:
    """A matrix of the batch in memory: its columns lie `leading` elements apart."""
    pointer, _, leading, stride = operand
    size = kind.itemsize
    extent = (leading * (columns - 1) + rows) * size if rows and columns else 0
    memory = (ctypes.c_char * extent).from_address(pointer + number * stride * size)
    return numpy.ndarray((rows, columns), kind, memory, strides=(size, leading * size))


def tf32(x: Any) -> Any:
    """Numbers with the 10 bits of mantissa that TF32 keeps, rounded to nearest."""
    bits = x.view(numpy.uint32) if x.flags.c_contiguous else x.copy().view(numpy.uint32)
    return ((bits + numpy.uint32(0x1000)) & numpy.uint32(0xFFFFE000)).view(numpy.float32)
