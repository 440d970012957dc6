"""Matrix products of CUDA arrays through cuBLAS itself, called by ctypes.

CuPy refuses cuBLAS while a stream is capturing, copies transposed batches and widens float16. Here
transposed views are flags, leading dimensions and batch strides are read off the views, batches
broadcast by a stride of 0, and a product may be added to what `out` holds. float16 and bfloat16 are
summed in float32, and float32 uses TF32 only where `set_float32_matmul_precision` allows it.

Each pair of thread and stream has a handle of its own with a workspace of its own, so that a
captured graph holds no memory but ours and a product is the same from run to run. Copies of views
may take another of cuBLAS's kernels than the views: equal only up to rounding.

Constants: https://docs.nvidia.com/cuda/cublas/
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from threading import get_ident
from typing import Any

from nanotorch.backend.devices import broadcast_shapes

Array = Any

# cudaDataType and cublasComputeType_t by NumPy's dtype letter; ml_dtypes gives bfloat16 the "E".
_TYPES = {"f": 0, "d": 1, "e": 2, "E": 14}
_COMPUTE = {"f": 68, "d": 70, "e": 68, "E": 68}
_COMPUTE_TF32 = 77
_DEFAULT_ALGORITHM = -1
# Partial sums of float16 and bfloat16 stay in float32.
_DISALLOW_REDUCED_PRECISION_REDUCTION = 16

_int, _long, _pointer = ctypes.c_int, ctypes.c_longlong, ctypes.c_void_p


def _signature(integer: Any, batched: bool = False) -> list[Any]:
    operand = [_pointer, _int, integer, *([_long] if batched else [])]
    return [_pointer, _int, _int, *[integer] * 3, _pointer, *operand * 2, _pointer, *operand,
            *([integer] if batched else []), _int, _int]  # fmt: skip


# The functions of libcublas and their parameters; each returns a status.
SIGNATURES: dict[str, list[Any]] = {
    "cublasCreate_v2": [_pointer],
    "cublasSetStream_v2": [_pointer, _pointer],
    "cublasSetWorkspace_v2": [_pointer, _pointer, ctypes.c_size_t],
    "cublasSetMathMode": [_pointer, _int],
    "cublasGemmEx": _signature(_int),
    "cublasGemmEx_64": _signature(_long),
    "cublasGemmStridedBatchedEx": _signature(_int, True),
    "cublasGemmStridedBatchedEx_64": _signature(_long, True),
}

# What is wrong, by the status that a function returned.
STATUSES = {
    1: "CUBLAS_STATUS_NOT_INITIALIZED: cuBLAS could not start on this device; is its memory full?",
    3: "CUBLAS_STATUS_ALLOC_FAILED: no device memory left for cuBLAS",
    7: "CUBLAS_STATUS_INVALID_VALUE: a size or leading dimension that cuBLAS refuses",
    8: "CUBLAS_STATUS_ARCH_MISMATCH: this device cannot compute with this dtype",
    11: "CUBLAS_STATUS_MAPPING_ERROR: the device's memory could not be reached",
    13: "CUBLAS_STATUS_EXECUTION_FAILED: the kernel failed; an earlier one may have broken the "
    "device's state",
    14: "CUBLAS_STATUS_INTERNAL_ERROR: cuBLAS failed inside",
    15: "CUBLAS_STATUS_NOT_SUPPORTED: not supported on this device",
    16: "CUBLAS_STATUS_LICENSE_ERROR: a licence is missing",
}

PRECISIONS = ("highest", "high", "medium")
_precision = "highest"


def get_float32_matmul_precision() -> str:
    """How float32 products are computed: "highest" (float32), "high" or "medium" (TF32)."""
    return _precision


def set_float32_matmul_precision(precision: str) -> None:
    """Allows TF32 (10 bits of mantissa) in float32 products, unless "highest"."""
    global _precision
    if precision not in PRECISIONS:
        raise ValueError(
            f"set_float32_matmul_precision: expected 'highest', 'high' or 'medium', got "
            f"{precision!r}"
        )
    _precision = precision


# --- the library ----------------------------------------------------------------------------------

# The library of each array module; None where there is none. Tests put an imitation in.
libraries: dict[Any, Any] = {}
_reasons: dict[Any, str] = {}


def library(xp: Any) -> Any:
    """The libcublas that the array module uses, with its functions declared; None without one."""
    if xp not in libraries:
        try:
            libraries[xp] = declared(_loaded_by_cupy())
        except (ImportError, OSError, AttributeError) as error:
            libraries[xp] = None
            _reasons[xp] = f"cuBLAS: {error}"
    return libraries[xp]


def unavailable_reason(xp: Any) -> str | None:
    """Why products go through CuPy's own matmul, which no CUDA graph can hold; None: they do
    not."""
    return None if library(xp) is not None else _reasons[xp]


def _loaded_by_cupy() -> Any:
    """The very library that CuPy's own cuBLAS module has loaded into this process."""
    # Through the package: its `__getattr__` loads NVIDIA's wheels, which `import` of the module
    # would not find.
    from cupy_backends.cuda.libs import cublas  # noqa: F401

    with open("/proc/self/maps", encoding="utf-8") as maps:
        paths = {line.split(maxsplit=5)[-1].strip() for line in maps}
    libraries = [path for path in sorted(paths) if "libcublas.so" in path]
    if not libraries:
        raise OSError("CuPy is there, but the libcublas.so that it uses is not mapped")
    return ctypes.CDLL(libraries[0])


def declared(loaded: Any) -> Any:
    """The library with the parameters of the functions that are called here."""
    for name, parameters in SIGNATURES.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = parameters, _int
    return loaded


def check(status: int, what: str) -> None:
    """RuntimeError in one line where a function of cuBLAS did not succeed."""
    if status:
        raise RuntimeError(f"{what}: {STATUSES.get(status, f'cuBLAS returned status {status}')}")


class _Handle:
    """cuBLAS's state for one stream: nothing else uses its workspace."""

    def __init__(self, pointer: Any, workspace: Any, device: int) -> None:
        self.pointer, self.workspace, self.device = pointer, workspace, device


# Never destroyed: captured graphs go on using the workspaces.
_handles: dict[tuple[Any, int, int, int], _Handle] = {}


def _handle(xp: Any, cublas: Any) -> Any:
    """The handle of this thread for the current stream of the current device."""
    cuda = xp.cuda
    device, stream = cuda.get_device_id(), cuda.get_current_stream().ptr
    held = _handles.get((xp, device, stream, get_ident()))
    if held is not None:
        return held.pointer
    pointer = _pointer()
    check(cublas.cublasCreate_v2(ctypes.byref(pointer)), "cublasCreate")
    # NVIDIA's advice: 32 MiB from Hopper on, else a little over 8. Beside the pool, whose figures
    # tell of tensors.
    mebibytes = 32 if cuda.runtime.getDeviceProperties(device)["major"] >= 9 else 9
    workspace = cuda.Memory(mebibytes << 20)
    check(cublas.cublasSetMathMode(pointer, _DISALLOW_REDUCED_PRECISION_REDUCTION), "cublasSetMath")
    check(cublas.cublasSetStream_v2(pointer, stream), "cublasSetStream")  # forgets the workspace
    check(
        cublas.cublasSetWorkspace_v2(pointer, workspace.ptr, workspace.size), "cublasSetWorkspace"
    )
    held = _Handle(pointer, workspace, device)
    _handles[xp, device, stream, get_ident()] = held
    return pointer


# --- operands as cuBLAS sees them -----------------------------------------------------------------


class _Matrices:
    """Matrices (rows, columns) in memory, `step` bytes from one to the next.

    `flag` 0: rows lie `leading` elements apart, each contiguous; 1: columns do.
    """

    def __init__(self, pointer: int, flag: int, leading: int, step: int) -> None:
        self.pointer, self.flag, self.leading, self.step = pointer, flag, leading, step

    @property
    def transposed(self) -> _Matrices:
        return _Matrices(self.pointer, 1 - self.flag, self.leading, self.step)


def layout(shape: Sequence[int], strides: Sequence[int], itemsize: int) -> tuple[int, int] | None:
    """(flag, leading dimension) of a matrix of some elements; None for a view that cuBLAS cannot
    read."""
    (rows, columns), (down, across) = shape, strides
    for flag, inner, inner_step, outer, outer_step in (
        (0, columns, across, rows, down),
        (1, rows, down, columns, across),
    ):
        if inner > 1 and inner_step != itemsize:
            continue
        if outer == 1:
            return flag, inner
        leading, rest = divmod(outer_step, itemsize)
        if leading >= inner and not rest:
            return flag, leading
    return None


def batch_step(batch: Sequence[int], shape: Sequence[int], strides: Sequence[int]) -> int | None:
    """Bytes from one matrix to the next through all batch dimensions; 0 where all are the same.

    None where that is no single number. `shape` and `strides` are the operand's own batch
    dimensions, which broadcast to `batch`.
    """
    missing = len(batch) - len(shape)
    step, expected = None, 0
    for i in reversed(range(len(batch))):
        if batch[i] == 1:
            continue
        own = 0 if i < missing or shape[i - missing] == 1 else strides[i - missing]
        if step is None:
            step = own
        elif own != expected:
            return None
        expected = own * batch[i]
    return step or 0


def _matrices(x: Array, vector: int, batch: Sequence[int]) -> _Matrices | None:
    """The matrices of an array as they lie in memory; None where cuBLAS cannot read them so.

    `vector`: where an array of one dimension fewer has its missing one, -2 (a row) or -1 (a
    column); 0: it has all.
    """
    shape, strides, itemsize = x.shape, x.strides, x.itemsize
    if vector == -2:
        shape, strides = (*shape[:-1], 1, shape[-1]), (*strides[:-1], 0, strides[-1])
    elif vector == -1:
        shape, strides = (*shape, 1), (*strides, 0)
    form = layout(shape[-2:], strides[-2:], itemsize)
    if form is None:
        return None
    step = batch_step(batch, shape[:-2], strides[:-2]) if batch else 0
    if step is None or step < 0 or step % itemsize:
        return None
    return _Matrices(x.data.ptr, *form, step)


def _operand(
    xp: Any, x: Array, vector: int, batch: Sequence[int], own: Sequence[int]
) -> tuple[_Matrices, Array]:
    """The matrices of an operand, and the array that holds them: a copy where they must move."""
    matrices = _matrices(x, vector, batch)
    if matrices is None:
        if vector == 0 and _spreads(batch, x.shape[:-2]):
            x = xp.broadcast_to(x, (*batch, *own))
        x = x.copy()
        matrices = _matrices(x, vector, batch)
    assert matrices is not None
    return matrices, x


def _spreads(batch: Sequence[int], own: Sequence[int]) -> bool:
    """Whether an operand broadcasts along some of the batch dimensions and not along others."""
    sizes = (*[1] * (len(batch) - len(own)), *own)
    return len({size == 1 for size, n in zip(sizes, batch, strict=True) if n > 1}) > 1


def _as_one(x: _Matrices, rows: int, columns: int, itemsize: int) -> int:
    """The leading dimension if the matrices of a batch, one below the other, are one matrix; else
    0."""
    if x.flag:
        return 0
    if rows == 1:
        leading = x.step // itemsize
        return leading if leading >= columns else 0
    return x.leading if x.step == rows * x.leading * itemsize else 0


# --- the product ----------------------------------------------------------------------------------


def _scalars(value: float) -> dict[str, Any]:
    single, double = ctypes.byref(ctypes.c_float(value)), ctypes.byref(ctypes.c_double(value))
    return {"f": single, "d": double, "e": single, "E": single}


_ONE, _ZERO = _scalars(1), _scalars(0)


def matmul(
    xp: Any, a: Array, b: Array, out: Array | None = None, accumulate: bool = False
) -> Array:
    """y = a @ b of CUDA arrays, or y = out + a @ b where `accumulate`, written to `out` if given.

    Shapes as NumPy's matmul: vectors, matrices, and leading dimensions that broadcast. float16,
    bfloat16, float32, float64; `out` may be any view. One launch, and one more for each operand or
    `out` that cuBLAS cannot reach by strides (a step between elements in both dimensions, a partial
    broadcast, an `out` that overlaps an operand). NotImplemented for other dtypes, for shapes that
    do not fit, and where there is no cuBLAS: CuPy's own matmul takes those, or says why not.
    """
    kind = a.dtype.char
    if kind not in _TYPES or b.dtype.char != kind or not a.ndim or not b.ndim:
        return NotImplemented
    cublas = library(xp)
    if cublas is None:
        return NotImplemented
    of_a, of_b = a.shape, b.shape
    row, column = len(of_a) == 1, len(of_b) == 1
    m, k = (1, of_a[0]) if row else of_a[-2:]
    inner, n = (of_b[0], 1) if column else of_b[-2:]
    batch = of_a[:-2]
    if batch != of_b[:-2]:
        try:
            batch = broadcast_shapes(batch, of_b[:-2])
        except ValueError:
            return NotImplemented
    shape = (*batch, *(() if row else (m,)), *(() if column else (n,)))
    if inner != k or (out is not None and out.shape != shape):
        return NotImplemented
    y = xp.empty(shape, a.dtype) if out is None else out
    if not y.size:
        return y
    if not k:
        if not accumulate:
            y.fill(0)
        return y

    place = None
    missing = -2 if row else -1 if column else 0
    apart = out is None or not (xp.may_share_memory(a, out) or xp.may_share_memory(b, out))
    if y.dtype == a.dtype and apart:
        # Vectors give a number, which is a matrix of one element wherever it lies.
        place = _Matrices(y.data.ptr, 0, 1, 0) if row and column else _matrices(y, missing, batch)
    if place is not None and math.prod(batch) > 1:
        inner, outer = (m, n) if place.flag else (n, m)
        if place.step < (place.leading * (outer - 1) + inner) * a.itemsize:
            place = None  # the same memory for all, or one matrix between the rows of another
    if place is None:
        fresh = matmul(xp, a, b)
        if accumulate:
            xp.add(y, fresh, out=y)
        else:
            xp.copyto(y, fresh)
        return y
    left, a = _operand(xp, a, -2 if row else 0, batch, (m, k))
    right, b = _operand(xp, b, -1 if column else 0, batch, (k, n))
    if place.flag:  # y.T = b.T @ a.T
        left, right, place = right.transposed, left.transposed, place.transposed
        m, n = n, m
    itemsize, count = a.itemsize, math.prod(batch)
    if count > 1 and not right.step:
        above = _as_one(left, m, k, itemsize), _as_one(place, m, n, itemsize)
        if all(above):
            left.leading, place.leading = above
            m, count = m * count, 1
    _multiply(xp, cublas, kind, (m, n, k), left, right, place, count, itemsize, accumulate)
    return y


def _multiply(
    xp: Any, cublas: Any, kind: str, sizes: tuple[int, int, int], a: _Matrices, b: _Matrices,
    y: _Matrices, count: int, itemsize: int, accumulate: bool,
) -> None:  # fmt: skip
    """Launches y = a @ b: cuBLAS, for which columns are contiguous, sees y.T = b.T @ a.T."""
    m, n, k = sizes
    name = "cublasGemmEx" if count == 1 else "cublasGemmStridedBatchedEx"
    large = max(m, n, k, a.leading, b.leading, y.leading, count) > 2**31 - 1
    compute = _COMPUTE[kind]
    if kind == "f" and _precision != "highest":
        compute = _COMPUTE_TF32
    of_type, alpha, beta = _TYPES[kind], _ONE[kind], (_ONE if accumulate else _ZERO)[kind]
    first: list[Any] = [b.pointer, of_type, b.leading]
    second: list[Any] = [a.pointer, of_type, a.leading]
    third: list[Any] = [y.pointer, of_type, y.leading]
    last = [compute, _DEFAULT_ALGORITHM]
    if count > 1:
        for operand, matrices in ((first, b), (second, a), (third, y)):
            operand.append(matrices.step // itemsize)
        last = [count, *last]
    status = getattr(cublas, f"{name}_64" if large else name)(
        _handle(xp, cublas), b.flag, a.flag, n, m, k, alpha, *first, *second, beta, *third, *last
    )
    if status:
        check(status, f"matmul: {name} of {m} x {k} and {k} x {n}, {count} times")
