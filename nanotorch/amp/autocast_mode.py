"""autocast: a ring that casts what an op reads to the dtype that suits the op.

Products compute in a dtype of 16 bits, which is fast; what sums many values or grows quickly in
float32, which is exact enough; everything else in what it is given. The casts are recorded like any
other op: gradients come back in the dtype of the parameters.
Source: https://docs.pytorch.org/docs/stable/amp.html#autocast-op-reference
"""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, TypeVar

from nanotorch import ops
from nanotorch.autograd.engine import go_on
from nanotorch.autograd.inplace import go_on_writing
from nanotorch.autograd.rings import Ring, Rings, closed, modes, with_ring, without_ring
from nanotorch.backend import CPU, HOST, cuda_unavailable_reason, dtype as DType
from nanotorch.backend.dtypes import bfloat16, float16, float32, float64
from nanotorch.node import Traced
from nanotorch.primitive import Primitive
from nanotorch.tensor import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])

LOW, FULL, WIDEST = "in 16 bits", "in float32", "in the widest dtype of its operands"
REFUSED = "not within autocast"

# How the primitives compute, by their names; those not named, in the dtype of their operands.
PRODUCTS = dict.fromkeys(
    (
        "Mm",
        "Mv",
        "Bmm",
        "BatchedMatMul",
        "LinearLayer",
        "EinSum",
        "Convolution",
        "ConvolutionInput",
        "Attention",
    ),
    LOW,
)
LOSSES = dict.fromkeys(("MseLoss", "NllLoss", "BinaryCrossEntropyWithLogits"), FULL)
JOINED = dict.fromkeys(("Cat", "Stack"), WIDEST)
POLICIES: dict[str, dict[str, str]] = {
    "cpu": PRODUCTS | LOSSES | JOINED
    | dict.fromkeys(("BinaryCrossEntropy", "Prod", "Inv", "Solve"), FULL),
    "cuda": PRODUCTS | LOSSES | JOINED
    | dict.fromkeys(
        ("Acos", "Asin", "Cosh", "Exp", "Expm1", "Log", "Log10", "Log2", "Log1p", "Reciprocal",
         "Rsqrt", "Sinh", "Tan", "Pow", "PowTensor", "PowBase", "Softplus", "Softmax", "LogSoftmax",
         "LogSumExp", "Standardize", "LayerNorm", "Norm", "Sum", "Prod", "Cumsum", "Cumprod"), FULL)
    | dict.fromkeys(("Dot", "Atan2", "IndexPut", "IndexAdd"), WIDEST)
    | {"BinaryCrossEntropy": REFUSED},
}  # fmt: skip
DEFAULTS: dict[str, DType] = {"cuda": float16, "cpu": bfloat16}
SHORT = (float16, bfloat16)


class Casts(Ring):
    """What the open autocast contexts make of the inputs of a primitive, for each device type."""

    rank = 10
    closed_in_backward = True  # rules compute in what their values are of
    casts = True

    def __init__(self, dtypes: Mapping[str, DType], keeps: bool) -> None:
        self.dtypes, self.keeps = dict(dtypes), keeps

    def __call__(
        self, primitive: Any, inputs: tuple[Any, ...], attributes: dict[str, Any], rest: Rings
    ) -> Any:
        return go_on(primitive, self.cast(primitive, inputs), attributes, rest)

    def write(
        self, primitive: Any, inputs: tuple[Any, ...], attributes: dict[str, Any], rest: Rings
    ) -> Any:
        return go_on_writing(primitive, inputs, attributes, rest)  # in the dtype of the target

    def call(self, how: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        args, kwargs = self.arguments(how, args, kwargs)
        if how != "own":
            return function(*args, **kwargs)
        with closed(self):
            return function(*args, **kwargs)

    def cast(self, primitive: type[Primitive], inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """The inputs in the dtype that suits the primitive."""
        place = self._place(inputs)
        if place is None:
            return inputs
        policy = POLICIES[place].get(primitive.__name__)
        if policy is None:
            if place == "cpu" or primitive.__name__ != "Div" or isinstance(inputs[0], Traced):
                return inputs
            policy = FULL  # of a number by a tensor: a reciprocal
        if policy is REFUSED:
            raise RuntimeError(
                "binary_cross_entropy and BCELoss are unsafe to autocast: a probability of 16 bits "
                "rounds to 0 or 1; use binary_cross_entropy_with_logits or BCEWithLogitsLoss"
            )
        if policy is LOW:
            short = self.dtypes[place]
            return tuple(self._shortened(x, short) for x in inputs)
        dtype = float32 if policy is FULL else self._widest(inputs, self.dtypes[place])
        return tuple(cast(x, dtype) for x in inputs)

    def arguments(self, how: str, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments of a function that computes in "full", "short" or its "own" precision."""
        place = self._place((*args, *kwargs.values()))
        if place is None or how == "own":
            return args, kwargs
        change = self._shortened if how == "short" else cast
        dtype = self.dtypes[place] if how == "short" else float32
        changed = {name: change(x, dtype) for name, x in kwargs.items()}
        return tuple(change(x, dtype) for x in args), changed

    def _place(self, inputs: tuple[Any, ...]) -> str | None:
        """The type of the inputs' device, where autocast is on for it."""
        for x in inputs:
            array = getattr(x, "_array", None)
            if array is not None:
                place = "cpu" if type(array) is HOST.ndarray else "cuda"
                return place if place in self.dtypes else None
        return None

    @staticmethod
    def _widest(inputs: tuple[Any, ...], short: DType) -> DType:
        kinds = {x.dtype for x in inputs if castable(x)}
        return float32 if kinds - {short} else short

    def _shortened(self, x: Any, short: DType) -> Any:
        """x in 16 bits; a parameter is cast once within the outermost context."""
        if not castable(x) or x.dtype is short:
            return x
        copies, leaf = thread.copies, x._requires_grad and x._node is None and x._base is None
        listened = any(ring.reads_rules for ring in modes.rings)  # each use is to be read anew
        if copies is None or not (self.keeps and leaf and modes.grad) or listened:
            return ops.cast(x, short.numpy)
        key = (x._array, 0 if x._cell is None else x._cell[0], short)
        copy = copies.get(id(x))
        if copy is None or copy[1][0] is not key[0] or copy[1][1:] != key[1:]:
            copy = copies[id(x)] = (x, key, ops.cast(x, short.numpy))
        return copy[2]


class Thread(threading.local):
    """The parameters that were cast in the outermost context of this thread, by their identity."""

    copies: dict[int, Any] | None = None


thread = Thread()


def open_casts() -> Casts | None:
    """The ring of the open autocast contexts of this thread."""
    return next((ring for ring in modes.rings if isinstance(ring, Casts)), None)


def replace_casts(casts: Casts | None) -> None:
    """Opens other casts in place of those that are open."""
    outer = open_casts()
    rings = modes.rings if outer is None else without_ring(modes.rings, outer)
    modes.rings = rings if casts is None else with_ring(rings, casts)


def cast(x: Any, dtype: DType) -> Any:
    """An operand in another dtype; what autocast may not change as it is."""
    return ops.cast(x, dtype.numpy) if castable(x) else x


def castable(x: Any) -> bool:
    """Whether autocast may change the dtype of an operand: a floating tensor below float64."""
    return isinstance(x, Tensor) and x.dtype.is_floating_point and x.dtype is not float64


@functools.cache
def _casts(dtypes: tuple[tuple[str, DType], ...], keeps: bool) -> Casts:
    """One object for each state, so that a recording can tell states apart by identity."""
    return Casts(dict(dtypes), keeps)


class autocast:  # noqa: N801 - PyTorch's name
    """Within the context, or the calls of a decorated function, ops compute in mixed precision.

    device_type: "cuda" or "cpu". dtype: float16 (the default for cuda) or bfloat16 (for cpu).
    enabled: False switches an outer autocast off. cache_enabled: whether parameters are cast once
    in the outermost context instead of at each use.
    RuntimeError for another device type; a UserWarning where the dtype or CUDA cannot be used,
    which disables it.
    """

    def __init__(
        self,
        device_type: str,
        dtype: DType | None = None,
        enabled: bool = True,
        cache_enabled: bool | None = None,
    ) -> None:
        _check_type(device_type)
        self.device, self.fast_dtype = device_type, dtype or get_autocast_dtype(device_type)
        self._enabled = enabled
        self._cache_enabled = cache_enabled
        self._outer: list[Any] = []
        if enabled and device_type == "cuda" and cuda_unavailable_reason() is not None:
            warnings.warn(
                "autocast: device_type 'cuda' was asked for, but CUDA is not available; disabling",
                stacklevel=2,
            )
            self._enabled = False
        elif enabled and self.fast_dtype not in SHORT:
            warnings.warn(
                f"autocast: expected dtype float16 or bfloat16, got {self.fast_dtype}; disabling",
                stacklevel=2,
            )
            self._enabled = False

    def __enter__(self) -> autocast:
        outer = open_casts()
        self._outer.append((outer, thread.copies))
        dtypes = {} if outer is None else dict(outer.dtypes)
        dtypes.pop(self.device, None)
        if self._enabled:
            dtypes[self.device] = self.fast_dtype
        keeps = self._cache_enabled
        if keeps is None:
            keeps = True if outer is None else outer.keeps
        replace_casts(_casts(tuple(sorted(dtypes.items())), keeps) if dtypes else None)
        if thread.copies is None:
            thread.copies = {}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        casts, thread.copies = self._outer.pop()
        replace_casts(casts)

    def __call__(self, function: Function) -> Function:
        @functools.wraps(function)
        def with_casts(*args: Any, **kwargs: Any) -> Any:
            with autocast(self.device, self.fast_dtype, self._enabled, self._cache_enabled):
                return function(*args, **kwargs)

        return with_casts  # type: ignore[return-value]


@contextlib.contextmanager
def autocast_as(casts: Casts | None) -> Iterator[None]:
    """Within it autocast is as it was when `open_casts` gave this: for a second forward."""
    outer, copies = open_casts(), thread.copies
    replace_casts(casts)
    thread.copies = {}
    try:
        yield
    finally:
        replace_casts(outer)
        thread.copies = copies


def _check_type(device_type: str) -> None:
    if not isinstance(device_type, str):
        raise ValueError(
            f"autocast: expected device_type as a str, got {type(device_type).__name__}"
        )
    if device_type not in POLICIES:
        raise RuntimeError(f"autocast: expected device_type 'cuda' or 'cpu', got {device_type!r}")


def is_autocast_available(device_type: str) -> bool:
    """Whether autocast knows a type of device."""
    return device_type in POLICIES


def is_autocast_enabled(device_type: str = "cuda") -> bool:
    """Whether ops on a type of device compute in mixed precision here."""
    _check_type(device_type)
    casts = open_casts()
    return casts is not None and device_type in casts.dtypes


def get_autocast_dtype(device_type: str) -> DType:
    """The dtype of 16 bits that products on a type of device compute in within autocast."""
    _check_type(device_type)
    casts = open_casts()
    return (
        DEFAULTS[device_type]
        if casts is None
        else casts.dtypes.get(device_type, DEFAULTS[device_type])
    )


def is_autocast_cache_enabled() -> bool:
    """Whether parameters are cast once within the outermost context."""
    casts = open_casts()
    return casts is None or casts.keeps


def clear_autocast_cache() -> None:
    """Forgets the parameters that have been cast in the outermost context."""
    if thread.copies:
        thread.copies.clear()


# --- for functions with a gradient of their own ---------------------------------------------------


def custom_fwd(
    fwd: Callable[..., Any] | None = None, *, device_type: str, cast_inputs: DType | None = None
) -> Any:
    """Decorates the `forward` of an `autograd.Function` that is to work within autocast.

    With `cast_inputs`, floating tensors below float64 on that device are cast to it, and autocast
    is off inside. `custom_bwd` is for the `backward` of the same function.
    """
    if fwd is None:
        return functools.partial(custom_fwd, device_type=device_type, cast_inputs=cast_inputs)
    _check_type(device_type)

    @functools.wraps(fwd)
    def forward(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        enabled = is_autocast_enabled(device_type)
        ctx._dtype = get_autocast_dtype(device_type)
        ctx._fwd_used_autocast = enabled and cast_inputs is None
        if cast_inputs is None or not enabled:
            return fwd(ctx, *args, **kwargs)

        def given(x: Any) -> Any:
            return cast(x, cast_inputs) if getattr(x, "device", CPU).type == device_type else x

        named = {name: given(x) for name, x in kwargs.items()}
        with autocast(device_type, enabled=False):
            return fwd(ctx, *map(given, args), **named)

    return forward


def custom_bwd(bwd: Callable[..., Any] | None = None, *, device_type: str) -> Any:
    """Decorates the `backward` of an `autograd.Function`: autocast is as it was in `forward`."""
    if bwd is None:
        return functools.partial(custom_bwd, device_type=device_type)
    _check_type(device_type)

    @functools.wraps(bwd)
    def backward(ctx: Any, *args: Any) -> Any:
        with autocast(device_type, ctx._dtype, ctx._fwd_used_autocast):
            return bwd(ctx, *args)

    return backward
