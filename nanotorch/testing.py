"""`assert_close`: whether results are those that were expected, and how far they are off.

Source: https://docs.pytorch.org/docs/stable/testing.html
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nanotorch import ops
from nanotorch.backend import dtypes, promote_types
from nanotorch.creation import tensor
from nanotorch.tensor import Tensor

# (rtol, atol) by the dtype; those of integers are 0.
TOLERANCES = {
    dtypes.float16: (1e-3, 1e-5),
    dtypes.bfloat16: (1.6e-2, 1e-5),
    dtypes.float32: (1.3e-6, 1e-5),
    dtypes.float64: (1e-7, 1e-7),
    dtypes.complex64: (1.3e-6, 1e-5),
    dtypes.complex128: (1e-7, 1e-7),
}
_NUMBERS = (bool, int, float, complex)
Message = str | Callable[[str], str] | None


def assert_close(
    actual: Any, expected: Any, *, allow_subclasses: bool = True, rtol: float | None = None,
    atol: float | None = None, equal_nan: bool = False, check_device: bool = True,
    check_dtype: bool = True, check_layout: bool = True, check_stride: bool = False,
    msg: Message = None,
) -> None:  # fmt: skip
    """AssertionError unless |actual - expected| <= atol + rtol · |expected| for every element.

    Tensors, numbers, and sequences and mappings of them. The tolerances follow from the dtype
    unless both are given; `equal_nan` lets NaN equal NaN. `msg` is the error's message, or makes it
    from the one that it would have.

    TypeError for two values of kinds that cannot be compared, ValueError for one tolerance alone.
    """
    if (rtol is None) != (atol is None):
        missing = "rtol" if rtol is None else "atol"
        raise ValueError(
            f"Both 'rtol' and 'atol' must be either specified or omitted, but got no {missing}."
        )
    tolerances = None if rtol is None or atol is None else (rtol, atol)

    def compared(a: Any, b: Any, place: str) -> str:
        """What is wrong with a, which is to be b; "" where nothing is."""
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            pairs: list[tuple[str, Any, Any]] = [("shape", a.shape, b.shape)]
            pairs += [("device", a.device, b.device)] * check_device
            pairs += [("dtype", a.dtype, b.dtype)] * check_dtype
            pairs += [("stride()", a.stride(), b.stride())] * check_stride
            for name, one, other in pairs:
                if one != other:
                    return f"The values for attribute '{name}' do not match: {one} != {other}."
            return _difference(a, b.to(a.device), tolerances, equal_nan, "Tensor-likes")
        if isinstance(a, _NUMBERS) and isinstance(b, _NUMBERS):
            if check_dtype and type(a) is not type(b):
                return f"The (d)types do not match: {type(a)} != {type(b)}."
            x, y = (tensor(value, dtype=dtypes.dtype_of(type(value))) for value in (a, b))
            return _difference(x, y, tolerances, equal_nan, "Scalars")
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            missing, more = [k for k in b if k not in a], [k for k in a if k not in b]
            if missing or more:
                return (
                    "The keys of the mappings do not match:\n"
                    f"Missing keys in the actual mapping: {sorted(missing)}\n"
                    f"Additional keys in the actual mapping: {sorted(more)}"
                )
            return first((compared(a[k], b[k], f"{place}[{k!r}]"), f"{place}[{k!r}]") for k in a)
        if _is_sequence(a) and _is_sequence(b):
            if len(a) != len(b):
                return f"The length of the sequences mismatch: {len(a)} != {len(b)}"
            return first(
                (compared(x, y, f"{place}[{i}]"), f"{place}[{i}]")
                for i, (x, y) in enumerate(zip(a, b))
            )
        raise TypeError(
            f"No comparison pair was able to handle inputs of type {type(a)} and {type(b)}."
        )

    def first(answers: Any) -> str:
        for answer, place in answers:
            if answer:
                named = "The failure occurred for item" in answer
                return answer if named else f"{answer}\n\nThe failure occurred for item {place}"
        return ""

    words = compared(actual, expected, "")
    if words:
        raise AssertionError(msg(words) if callable(msg) else msg or words)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _difference(
    actual: Tensor, expected: Tensor, tolerances: tuple[float, float] | None, equal_nan: bool,
    what: str,
) -> str:  # fmt: skip
    """How far a tensor is from the expected one; "" where it is close enough."""
    kind = promote_types(actual.dtype, expected.dtype)
    rtol, atol = tolerances or max(
        TOLERANCES.get(actual.dtype, (0.0, 0.0)), TOLERANCES.get(expected.dtype, (0.0, 0.0))
    )
    a, b = actual.detach().to(kind), expected.detach().to(kind)
    if kind.category == dtypes.BOOL:
        a, b = a.to(dtypes.int64), b.to(dtypes.int64)
    wrong = ops.logical_not(ops.isclose(a, b, rtol=rtol, atol=atol, equal_nan=equal_nan))
    count = int(wrong.sum())
    if not count:
        return ""
    absolute = ops.abs(a - b)
    relative = absolute / ops.abs(b)
    exact = rtol == atol == 0
    title = f"{what} are not {'equal' if exact else 'close'}!\n\n"
    if what == "Scalars":
        first = f"Expected {expected.item()} but got {actual.item()}.\n"
        return title + first + "\n".join(
            f"{name} difference: {value.item()}" + ("" if exact else f" (up to {limit} allowed)")
            for name, value, limit in (
                ("Absolute", absolute, atol), ("Relative", relative, rtol)
            )
        )  # fmt: skip
    lines = [f"Mismatched elements: {count} / {wrong.numel()} ({count / wrong.numel():.1%})"]
    for name, value, limit in (("absolute", absolute, atol), ("relative", relative, rtol)):
        value = ops.where(wrong, value, ops.zeros_like(value)).reshape(-1)
        place = int(value.argmax())
        index = []
        for size in reversed(wrong.shape):
            index.append(place % size)
            place //= size
        largest = value.max().item()
        allowed = "" if exact else f" (up to {limit} allowed)"
        at = f" at index {tuple(reversed(index))}" if wrong.ndim else ""
        lines.append(f"Greatest {name} difference: {largest}{at}{allowed}")
    return title + "\n".join(lines)
