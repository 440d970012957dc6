# Written by scripts/stubs.py from the sources; not to be edited.
import builtins
import numpy
from numpy.typing import NDArray
from collections.abc import Iterator, Sequence
from typing import Any, Generic, Literal, NamedTuple, ParamSpec, Protocol, Self, SupportsIndex
from typing import TypeAlias, TypeVar, overload
from nanotorch.backend import device as Device, dtype as DType
from nanotorch import working_directory as _working_directory
from nanotorch.backend.loading import on_demand as _on_demand
from nanotorch import autograd as autograd
from nanotorch import ops as ops
from nanotorch.autograd import enable_grad as enable_grad
from nanotorch.autograd import inference_mode as inference_mode
from nanotorch.autograd import is_grad_enabled as is_grad_enabled
from nanotorch.autograd import is_inference_mode_enabled as is_inference_mode_enabled
from nanotorch.autograd import no_grad as no_grad
from nanotorch.autograd import set_grad_enabled as set_grad_enabled
from nanotorch.autograd.graph import is_anomaly_check_nan_enabled as is_anomaly_check_nan_enabled
from nanotorch.autograd.graph import is_anomaly_enabled as is_anomaly_enabled
from nanotorch.backend import LOADED_WITH_CUDA as _LOADED_WITH_CUDA
from nanotorch.backend import device as device
from nanotorch.backend import dtype as dtype
from nanotorch.backend import finfo as finfo
from nanotorch.backend import get_default_device as get_default_device
from nanotorch.backend import get_default_dtype as get_default_dtype
from nanotorch.backend import get_num_threads as get_num_threads
from nanotorch.backend import iinfo as iinfo
from nanotorch.backend import promote_types as promote_types
from nanotorch.backend import result_type as result_type
from nanotorch.backend import set_default_device as set_default_device
from nanotorch.backend import set_default_dtype as set_default_dtype
from nanotorch.backend import set_num_threads as set_num_threads
from nanotorch.backend.dtypes import bfloat16 as bfloat16
from nanotorch.backend.dtypes import bool_ as bool
from nanotorch.backend.dtypes import cdouble as cdouble
from nanotorch.backend.dtypes import cfloat as cfloat
from nanotorch.backend.dtypes import complex64 as complex64
from nanotorch.backend.dtypes import complex128 as complex128
from nanotorch.backend.dtypes import double as double
from nanotorch.backend.dtypes import float16 as float16
from nanotorch.backend.dtypes import float32 as float32
from nanotorch.backend.dtypes import float64 as float64
from nanotorch.backend.dtypes import float_ as float
from nanotorch.backend.dtypes import half as half
from nanotorch.backend.dtypes import int8 as int8
from nanotorch.backend.dtypes import int16 as int16
from nanotorch.backend.dtypes import int32 as int32
from nanotorch.backend.dtypes import int64 as int64
from nanotorch.backend.dtypes import int_ as int
from nanotorch.backend.dtypes import long as long
from nanotorch.backend.dtypes import short as short
from nanotorch.backend.dtypes import uint8 as uint8
from nanotorch.compile import compile as compile
from nanotorch.creation import arange as arange
from nanotorch.creation import as_tensor as as_tensor
from nanotorch.creation import empty as empty
from nanotorch.creation import empty_like as empty_like
from nanotorch.creation import eye as eye
from nanotorch.creation import from_dlpack as from_dlpack
from nanotorch.creation import from_numpy as from_numpy
from nanotorch.creation import frombuffer as frombuffer
from nanotorch.creation import full as full
from nanotorch.creation import full_like as full_like
from nanotorch.creation import linspace as linspace
from nanotorch.creation import logspace as logspace
from nanotorch.creation import ones as ones
from nanotorch.creation import ones_like as ones_like
from nanotorch.creation import tensor as tensor
from nanotorch.creation import tril_indices as tril_indices
from nanotorch.creation import triu_indices as triu_indices
from nanotorch.creation import zeros as zeros
from nanotorch.creation import zeros_like as zeros_like
from nanotorch.tensor import Size as Size
from nanotorch.tensor import Tensor as Tensor
from nanotorch import amp as amp
from nanotorch import backends as backends
from nanotorch import cuda as cuda
from nanotorch import distributed as distributed
from nanotorch import distributions as distributions
from nanotorch import func as func
from nanotorch import functional as functional
from nanotorch import linalg as linalg
from nanotorch import nn as nn
from nanotorch import optim as optim
from nanotorch import serialization as serialization
from nanotorch import special as special
from nanotorch import testing as testing
from nanotorch import utils as utils
from nanotorch.amp.autocast_mode import autocast as autocast
from nanotorch.amp.autocast_mode import clear_autocast_cache as clear_autocast_cache
from nanotorch.amp.autocast_mode import get_autocast_dtype as get_autocast_dtype
from nanotorch.amp.autocast_mode import is_autocast_cache_enabled as is_autocast_cache_enabled
from nanotorch.amp.autocast_mode import is_autocast_enabled as is_autocast_enabled
from nanotorch.backends import get_float32_matmul_precision as get_float32_matmul_precision
from nanotorch.backends import set_float32_matmul_precision as set_float32_matmul_precision
from nanotorch.func import vmap as vmap
from nanotorch.nn.functional import celu as celu
from nanotorch.nn.functional import dropout as dropout
from nanotorch.nn.functional import pairwise_distance as pairwise_distance
from nanotorch.nn.functional import selu as selu
from nanotorch.printing import get_printoptions as get_printoptions
from nanotorch.printing import printoptions as printoptions
from nanotorch.printing import set_printoptions as set_printoptions
from nanotorch.random import Generator as Generator
from nanotorch.random import default_generator as default_generator
from nanotorch.random import fork_rng as fork_rng
from nanotorch.random import get_rng_state as get_rng_state
from nanotorch.random import initial_seed as initial_seed
from nanotorch.random import manual_seed as manual_seed
from nanotorch.random import normal as normal
from nanotorch.random import rand as rand
from nanotorch.random import rand_like as rand_like
from nanotorch.random import randint as randint
from nanotorch.random import randint_like as randint_like
from nanotorch.random import randn as randn
from nanotorch.random import randn_like as randn_like
from nanotorch.random import randperm as randperm
from nanotorch.random import seed as seed
from nanotorch.random import set_rng_state as set_rng_state
from nanotorch.serialization import load as load
from nanotorch.serialization import save as save
from nanotorch.spellings import BFloat16Tensor as BFloat16Tensor
from nanotorch.spellings import BoolTensor as BoolTensor
from nanotorch.spellings import ByteTensor as ByteTensor
from nanotorch.spellings import CharTensor as CharTensor
from nanotorch.spellings import DoubleTensor as DoubleTensor
from nanotorch.spellings import FloatTensor as FloatTensor
from nanotorch.spellings import HalfTensor as HalfTensor
from nanotorch.spellings import IntTensor as IntTensor
from nanotorch.spellings import LongTensor as LongTensor
from nanotorch.spellings import ShortTensor as ShortTensor
from nanotorch.spellings import are_deterministic_algorithms_enabled as are_deterministic_algorithms_enabled
from nanotorch.spellings import asarray as asarray
from nanotorch.spellings import broadcast_shapes as broadcast_shapes
from nanotorch.spellings import can_cast as can_cast
from nanotorch.spellings import contiguous_format as contiguous_format
from nanotorch.spellings import detach as detach
from nanotorch.spellings import e as e
from nanotorch.spellings import inf as inf
from nanotorch.spellings import is_complex as is_complex
from nanotorch.spellings import is_floating_point as is_floating_point
from nanotorch.spellings import is_nonzero as is_nonzero
from nanotorch.spellings import is_tensor as is_tensor
from nanotorch.spellings import layout as layout
from nanotorch.spellings import nan as nan
from nanotorch.spellings import newaxis as newaxis
from nanotorch.spellings import numel as numel
from nanotorch.spellings import pi as pi
from nanotorch.spellings import preserve_format as preserve_format
from nanotorch.spellings import range as range
from nanotorch.spellings import set_default_tensor_type as set_default_tensor_type
from nanotorch.spellings import sparse_coo as sparse_coo
from nanotorch.spellings import strided as strided
from nanotorch.spellings import use_deterministic_algorithms as use_deterministic_algorithms
from nanotorch.operators import Operand, ValuesAndIndices


__version__: builtins.str
def log_softmax(
    input: Tensor,
    dim: builtins.int | Sequence[builtins.int] | None = None,
    dtype: DType | None = None,
    *,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    out: Tensor | None = None,
) -> Tensor: ...
def relu(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def sigmoid(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def softmax(
    input: Tensor,
    dim: builtins.int | Sequence[builtins.int] | None = None,
    dtype: DType | None = None,
    *,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    out: Tensor | None = None,
) -> Tensor: ...
def add(
    input: Operand,
    b: Operand,
    *,
    alpha: builtins.float = 1,
    out: Tensor | None = None,
) -> Tensor: ...
def mul(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def rsub(
    input: Operand,
    b: Operand,
    *,
    alpha: builtins.float = 1,
    out: Tensor | None = None,
) -> Tensor: ...
def sub(
    input: Operand,
    b: Operand,
    *,
    alpha: builtins.float = 1,
    out: Tensor | None = None,
) -> Tensor: ...
def clone(
    input: Tensor,
    *,
    memory_format: Any | None = None,
    out: Tensor | None = None,
) -> Tensor: ...
def get_device(input: Tensor) -> builtins.int: ...
def allclose(
    input: Operand,
    b: Operand,
    rtol: builtins.float = 1e-05,
    atol: builtins.float = 1e-08,
    equal_nan: builtins.bool = False,
) -> builtins.bool: ...
def bitwise_and(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def bitwise_left_shift(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def bitwise_not(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def bitwise_or(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def bitwise_right_shift(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def bitwise_xor(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def eq(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def equal(input: Operand, b: Operand) -> builtins.bool: ...
def ge(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def gt(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def isclose(
    input: Operand,
    b: Operand,
    rtol: builtins.float = 1e-05,
    atol: builtins.float = 1e-08,
    equal_nan: builtins.bool = False,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def isfinite(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def isinf(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def isnan(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def le(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def logical_and(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def logical_not(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def logical_or(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def logical_xor(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def lt(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def masked_fill(
    input: Tensor,
    mask: Tensor,
    value: Operand,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def ne(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
@overload
def nonzero(x: Tensor, *, as_tuple: Literal[False] = False) -> Tensor: ...
@overload
def nonzero(x: Tensor, *, as_tuple: Literal[True]) -> builtins.tuple[Tensor, ...]: ...
@overload
def where(condition: Tensor) -> builtins.tuple[Tensor, ...]: ...
@overload
def where(condition: Tensor, a: Operand, b: Operand) -> Tensor: ...
def div(
    input: Operand,
    b: Operand,
    *,
    rounding_mode: str | None = None,
    out: Tensor | None = None,
) -> Tensor: ...
def floor_divide(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def fmod(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def remainder(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def abs(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def acos(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def acosh(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def asin(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def asinh(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def atan(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def atanh(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def ceil(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def clamp(
    input: Tensor,
    min: Operand | None = None,
    max: Operand | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def clamp_max(input: Tensor, max: Operand | None, *, out: Tensor | None = None) -> Tensor: ...
def clamp_min(input: Tensor, min: Operand | None, *, out: Tensor | None = None) -> Tensor: ...
def cos(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def cosh(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def exp(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def exp2(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def expm1(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def floor(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def frac(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def log(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def log1p(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def log2(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def log10(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def logit(
    input: Tensor,
    eps: builtins.float | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def nan_to_num(
    input: Tensor,
    nan: builtins.float = 0.0,
    posinf: builtins.float | None = None,
    neginf: builtins.float | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def neg(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def reciprocal(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def round(input: Tensor, *, decimals: builtins.int = 0, out: Tensor | None = None) -> Tensor: ...
def rsqrt(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def sgn(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def sign(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def sin(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def sinh(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def sqrt(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def square(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def tan(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def tanh(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def trunc(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def erf(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def erfc(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def flip(
    input: Tensor,
    *places: builtins.int | Sequence[builtins.int],
    dims: builtins.int | Sequence[builtins.int] | None = None,
    out: Tensor | None = None,
) -> Tensor: ...
def fliplr(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def flipud(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def gather(
    input: Tensor,
    dim: builtins.int,
    index: Tensor,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def index_add(
    input: Tensor,
    dim: builtins.int,
    index: Tensor,
    source: Tensor,
    *,
    alpha: builtins.float = 1,
    out: Tensor | None = None,
) -> Tensor: ...
def index_copy(
    input: Tensor,
    dim: builtins.int,
    index: Tensor,
    source: Tensor,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def index_fill(
    input: Tensor,
    dim: builtins.int,
    index: Tensor,
    value: Operand,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def index_put(
    input: Tensor,
    indices: builtins.tuple[Tensor, ...],
    values: Operand,
    accumulate: builtins.bool = False,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def index_select(
    input: Tensor,
    dim: builtins.int,
    index: Tensor,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def masked_select(input: Tensor, mask: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def roll(
    input: Tensor,
    shifts: builtins.int | Sequence[builtins.int],
    dims: builtins.int | Sequence[builtins.int] | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def scatter(
    input: Tensor,
    dim: builtins.int,
    index: Tensor,
    src: Operand | None = None,
    *,
    value: Operand | None = None,
    reduce: str | None = None,
    out: Tensor | None = None,
) -> Tensor: ...
def scatter_add(
    input: Tensor,
    dim: builtins.int,
    index: Tensor,
    src: Operand,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def take(input: Tensor, index: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def take_along_dim(
    input: Tensor,
    indices: Tensor,
    dim: builtins.int | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def broadcast_tensors(*tensors: Tensor) -> builtins.tuple[Tensor, ...]: ...
def cat(
    tensors: Sequence[Tensor],
    dim: builtins.int = 0,
    *,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    out: Tensor | None = None,
) -> Tensor: ...
def column_stack(tensors: Sequence[Tensor], *, out: Tensor | None = None) -> Tensor: ...
def hstack(tensors: Sequence[Tensor], *, out: Tensor | None = None) -> Tensor: ...
def meshgrid(*tensors: Tensor, indexing: str = 'ij') -> builtins.tuple[Tensor, ...]: ...
def repeat_interleave(
    input: Tensor,
    repeats: Tensor | builtins.int,
    dim: builtins.int | None = None,
    *,
    output_size: builtins.int | None = None,
    out: Tensor | None = None,
) -> Tensor: ...
def stack(
    tensors: Sequence[Tensor],
    dim: builtins.int = 0,
    *,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    out: Tensor | None = None,
) -> Tensor: ...
def tile(
    input: Tensor,
    *counts: builtins.int | Sequence[builtins.int],
    dims: builtins.int | Sequence[builtins.int] | None = None,
    out: Tensor | None = None,
) -> Tensor: ...
def tril(input: Tensor, diagonal: builtins.int = 0, *, out: Tensor | None = None) -> Tensor: ...
def triu(input: Tensor, diagonal: builtins.int = 0, *, out: Tensor | None = None) -> Tensor: ...
def vstack(tensors: Sequence[Tensor], *, out: Tensor | None = None) -> Tensor: ...
def addmm(
    input: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    beta: builtins.float = 1,
    alpha: builtins.float = 1,
    out: Tensor | None = None,
) -> Tensor: ...
def baddbmm(
    input: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    beta: builtins.float = 1,
    alpha: builtins.float = 1,
    out: Tensor | None = None,
) -> Tensor: ...
def bmm(input: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def det(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def diag(input: Tensor, diagonal: builtins.int = 0, *, out: Tensor | None = None) -> Tensor: ...
def dot(input: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def einsum(equation: Tensor, *operands: Tensor, out: Tensor | None = None) -> Tensor: ...
def inner(input: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def logdet(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def matmul(input: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def mv(input: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def outer(input: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def tensordot(
    input: Tensor,
    b: Tensor,
    dims: builtins.int | Sequence[builtins.int] = 2,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def trace(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def addcdiv(
    input: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    value: builtins.float = 1,
    out: Tensor | None = None,
) -> Tensor: ...
def addcmul(
    input: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    value: builtins.float = 1,
    out: Tensor | None = None,
) -> Tensor: ...
def atan2(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def copysign(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def hypot(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def lerp(input: Tensor, end: Tensor, weight: Operand, *, out: Tensor | None = None) -> Tensor: ...
def logaddexp(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def maximum(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def minimum(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def xlogy(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def mm(input: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def all(
    input: Tensor,
    dim: builtins.int | Sequence[builtins.int] | None = None,
    keepdim: builtins.bool = False,
    *,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    keepdims: builtins.bool = False,
    out: Tensor | None = None,
) -> Tensor: ...
def amax(
    input: Tensor,
    dim: builtins.int | Sequence[builtins.int] | None = None,
    keepdim: builtins.bool = False,
    *,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    keepdims: builtins.bool = False,
    out: Tensor | None = None,
) -> Tensor: ...
def amin(
    input: Tensor,
    dim: builtins.int | Sequence[builtins.int] | None = None,
    keepdim: builtins.bool = False,
    *,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    keepdims: builtins.bool = False,
    out: Tensor | None = None,
) -> Tensor: ...
def any(
    input: Tensor,
    dim: builtins.int | Sequence[builtins.int] | None = None,
    keepdim: builtins.bool = False,
    *,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    keepdims: builtins.bool = False,
    out: Tensor | None = None,
) -> Tensor: ...
def argmax(
    input: Tensor,
    dim: builtins.int | None = None,
    keepdim: builtins.bool = False,
    *,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    keepdims: builtins.bool = False,
    out: Tensor | None = None,
) -> Tensor: ...
def argmin(
    input: Tensor,
    dim: builtins.int | None = None,
    keepdim: builtins.bool = False,
    *,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    keepdims: builtins.bool = False,
    out: Tensor | None = None,
) -> Tensor: ...
def count_nonzero(
    input: Tensor,
    dim: builtins.int | Sequence[builtins.int] | None = None,
    *,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    out: Tensor | None = None,
) -> Tensor: ...
def logsumexp(
    input: Tensor,
    dim: builtins.int | Sequence[builtins.int] | None = None,
    keepdim: builtins.bool = False,
    *,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    keepdims: builtins.bool = False,
    out: Tensor | None = None,
) -> Tensor: ...
@overload
def max(x: Tensor, dim: None = None, keepdim: builtins.bool = False) -> Tensor: ...
@overload
def max(x: Tensor, dim: builtins.int, keepdim: builtins.bool = False) -> ValuesAndIndices: ...
@overload
def max(x: Tensor, *, axis: builtins.int, keepdims: builtins.bool = False) -> ValuesAndIndices: ...
@overload
def max(x: Tensor, dim: Tensor) -> Tensor: ...
@overload
def min(x: Tensor, dim: None = None, keepdim: builtins.bool = False) -> Tensor: ...
@overload
def min(x: Tensor, dim: builtins.int, keepdim: builtins.bool = False) -> ValuesAndIndices: ...
@overload
def min(x: Tensor, *, axis: builtins.int, keepdims: builtins.bool = False) -> ValuesAndIndices: ...
@overload
def min(x: Tensor, dim: Tensor) -> Tensor: ...
def nanmean(
    input: Tensor,
    dim: builtins.int | Sequence[builtins.int] | None = None,
    keepdim: builtins.bool = False,
    *,
    dtype: DType | None = None,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    keepdims: builtins.bool = False,
    out: Tensor | None = None,
) -> Tensor: ...
def nansum(
    input: Tensor,
    dim: builtins.int | Sequence[builtins.int] | None = None,
    keepdim: builtins.bool = False,
    *,
    dtype: DType | None = None,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    keepdims: builtins.bool = False,
    out: Tensor | None = None,
) -> Tensor: ...
def broadcast_to(input: Tensor, shape: Sequence[builtins.int]) -> Tensor: ...
def chunk(
    input: Tensor,
    chunks: builtins.int,
    dim: builtins.int = 0,
) -> builtins.tuple[Tensor, ...]: ...
def diag_embed(
    input: Tensor,
    offset: builtins.int = 0,
    dim1: builtins.int = -2,
    dim2: builtins.int = -1,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def diagonal(
    input: Tensor,
    offset: builtins.int = 0,
    dim1: builtins.int = 0,
    dim2: builtins.int = 1,
) -> Tensor: ...
def flatten(input: Tensor, start_dim: builtins.int = 0, end_dim: builtins.int = -1) -> Tensor: ...
def movedim(
    input: Tensor,
    source: builtins.int | Sequence[builtins.int],
    destination: builtins.int | Sequence[builtins.int],
) -> Tensor: ...
def narrow(
    input: Tensor,
    dim: builtins.int,
    start: builtins.int,
    length: builtins.int,
) -> Tensor: ...
def permute(
    input: Tensor,
    *places: builtins.int | Sequence[builtins.int],
    dims: builtins.int | Sequence[builtins.int] | None = None,
) -> Tensor: ...
def ravel(input: Tensor) -> Tensor: ...
def reshape(input: Tensor, *shape: builtins.int | Sequence[builtins.int]) -> Tensor: ...
def select(input: Tensor, dim: builtins.int, index: builtins.int) -> Tensor: ...
def split(
    input: Tensor,
    split_size: builtins.int | Sequence[builtins.int],
    dim: builtins.int = 0,
) -> builtins.tuple[Tensor, ...]: ...
def squeeze(
    input: Tensor,
    dim: builtins.int | Sequence[builtins.int] | None = None,
    *,
    axis: builtins.int | Sequence[builtins.int] | None = None,
) -> Tensor: ...
def t(input: Tensor) -> Tensor: ...
def transpose(input: Tensor, dim0: builtins.int, dim1: builtins.int) -> Tensor: ...
def unbind(input: Tensor, dim: builtins.int = 0) -> builtins.tuple[Tensor, ...]: ...
def unflatten(input: Tensor, dim: builtins.int, sizes: Sequence[builtins.int]) -> Tensor: ...
def unsqueeze(
    input: Tensor,
    dim: builtins.int | Sequence[builtins.int] | None = None,
    *,
    axis: builtins.int | Sequence[builtins.int] | None = None,
) -> Tensor: ...
def mean(
    input: Tensor,
    dim: builtins.int | Sequence[builtins.int] | None = None,
    keepdim: builtins.bool = False,
    *,
    dtype: DType | None = None,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    keepdims: builtins.bool = False,
    out: Tensor | None = None,
) -> Tensor: ...
def sum(
    input: Tensor,
    dim: builtins.int | Sequence[builtins.int] | None = None,
    keepdim: builtins.bool = False,
    *,
    dtype: DType | None = None,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    keepdims: builtins.bool = False,
    out: Tensor | None = None,
) -> Tensor: ...
def absolute(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def arccos(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def arccosh(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def arcsin(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def arcsinh(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def arctan(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def arctan2(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def arctanh(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def clip(
    input: Tensor,
    min: Operand | None = None,
    max: Operand | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def concat(
    tensors: Sequence[Tensor],
    dim: builtins.int = 0,
    *,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    out: Tensor | None = None,
) -> Tensor: ...
def concatenate(
    tensors: Sequence[Tensor],
    dim: builtins.int = 0,
    *,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    out: Tensor | None = None,
) -> Tensor: ...
def divide(
    input: Operand,
    b: Operand,
    *,
    rounding_mode: str | None = None,
    out: Tensor | None = None,
) -> Tensor: ...
def fix(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def ger(input: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def greater(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def greater_equal(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def inverse(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def less(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def less_equal(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def moveaxis(
    input: Tensor,
    source: builtins.int | Sequence[builtins.int],
    destination: builtins.int | Sequence[builtins.int],
) -> Tensor: ...
def multiply(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def negative(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def not_equal(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def pow(input: Operand, exponent: Operand, *, out: Tensor | None = None) -> Tensor: ...
def row_stack(tensors: Sequence[Tensor], *, out: Tensor | None = None) -> Tensor: ...
def subtract(
    input: Operand,
    b: Operand,
    *,
    alpha: builtins.float = 1,
    out: Tensor | None = None,
) -> Tensor: ...
def swapaxes(input: Tensor, dim0: builtins.int, dim1: builtins.int) -> Tensor: ...
def swapdims(input: Tensor, dim0: builtins.int, dim1: builtins.int) -> Tensor: ...
def true_divide(
    input: Operand,
    b: Operand,
    *,
    rounding_mode: str | None = None,
    out: Tensor | None = None,
) -> Tensor: ...
def complex(real: Tensor, imag: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def imag(input: Tensor) -> Tensor: ...
def polar(abs: Tensor, angle: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def real(input: Tensor) -> Tensor: ...
def view_as_complex(input: Tensor) -> Tensor: ...
def view_as_real(input: Tensor) -> Tensor: ...
def cumprod(
    input: Tensor,
    dim: builtins.int | Sequence[builtins.int] | None = None,
    *,
    dtype: DType | None = None,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    out: Tensor | None = None,
) -> Tensor: ...
def cumsum(
    input: Tensor,
    dim: builtins.int | Sequence[builtins.int] | None = None,
    *,
    dtype: DType | None = None,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    out: Tensor | None = None,
) -> Tensor: ...
def prod(
    input: Tensor,
    dim: builtins.int | None = None,
    keepdim: builtins.bool = False,
    *,
    dtype: DType | None = None,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    keepdims: builtins.bool = False,
    out: Tensor | None = None,
) -> Tensor: ...
def cholesky_inverse(
    input: Tensor,
    upper: builtins.bool = False,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def cholesky_solve(
    b: Tensor,
    factor: Tensor,
    upper: builtins.bool = False,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def matrix_exp(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def cdist(
    input: Tensor,
    b: Tensor,
    p: builtins.float = 2.0,
    compute_mode: str | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def digamma(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def lgamma(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def mvlgamma(input: Tensor, p: builtins.int, *, out: Tensor | None = None) -> Tensor: ...
def polygamma(n: builtins.int, x: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def addbmm(
    input: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    beta: builtins.float = 1,
    alpha: builtins.float = 1,
    out: Tensor | None = None,
) -> Tensor: ...
def addmv(
    input: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    beta: builtins.float = 1,
    alpha: builtins.float = 1,
    out: Tensor | None = None,
) -> Tensor: ...
def addr(
    input: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    beta: builtins.float = 1,
    alpha: builtins.float = 1,
    out: Tensor | None = None,
) -> Tensor: ...
def block_diag(*tensors: Tensor) -> Tensor: ...
def corrcoef(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def cov(
    input: Tensor,
    *,
    correction: builtins.int = 1,
    fweights: Tensor | None = None,
    aweights: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor: ...
def kron(input: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def vdot(input: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def erfinv(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def angle(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def conj(input: Tensor) -> Tensor: ...
def conj_physical(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def deg2rad(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def float_power(input: Tensor, exponent: Operand, *, out: Tensor | None = None) -> Tensor: ...
def fmax(input: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def fmin(input: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def frexp(input: Tensor, *, out: Tensor | None = None) -> Any: ...
def heaviside(input: Tensor, values: Operand, *, out: Tensor | None = None) -> Tensor: ...
def isneginf(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def isposinf(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def isreal(input: Tensor) -> Tensor: ...
def ldexp(input: Tensor, other: Operand, *, out: Tensor | None = None) -> Tensor: ...
def logaddexp2(input: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def nextafter(input: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def positive(input: Tensor) -> Tensor: ...
def rad2deg(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def resolve_conj(input: Tensor) -> Tensor: ...
def resolve_neg(input: Tensor) -> Tensor: ...
def signbit(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def sinc(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def cholesky(
    input: Tensor,
    upper: builtins.bool = False,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def cross(
    input: Tensor,
    b: Tensor,
    dim: builtins.int | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def pinverse(
    input: Tensor,
    rcond: builtins.float = 1e-15,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def qr(input: Tensor, some: builtins.bool = True, *, out: Tensor | None = None) -> Any: ...
def slogdet(input: Tensor) -> Any: ...
def svd(
    input: Tensor,
    some: builtins.bool = True,
    compute_uv: builtins.bool = True,
    *,
    out: Tensor | None = None,
) -> Any: ...
def triangular_solve(
    b: Tensor,
    a: Tensor,
    upper: builtins.bool = True,
    transpose: builtins.bool = False,
    unitriangular: builtins.bool = False,
    *,
    out: Tensor | None = None,
) -> Any: ...
def aminmax(
    input: Tensor,
    *,
    dim: builtins.int | None = None,
    keepdim: builtins.bool = False,
    out: Tensor | None = None,
) -> Any: ...
def argwhere(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def dist(
    input: Tensor,
    b: Tensor,
    p: builtins.float = 2,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def isin(
    elements: Operand,
    test_elements: Operand,
    *,
    assume_unique: builtins.bool = False,
    invert: builtins.bool = False,
    out: Tensor | None = None,
) -> Tensor: ...
def kthvalue(
    input: Tensor,
    k: builtins.int,
    dim: builtins.int = -1,
    keepdim: builtins.bool = False,
    *,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    out: Tensor | None = None,
) -> ValuesAndIndices: ...
def mode(
    input: Tensor,
    dim: builtins.int = -1,
    keepdim: builtins.bool = False,
    *,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    out: Tensor | None = None,
) -> ValuesAndIndices: ...
def msort(input: Tensor, *, out: Tensor | None = None) -> Tensor: ...
def nanmedian(
    input: Tensor,
    dim: builtins.int | None = None,
    keepdim: builtins.bool = False,
    *,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    out: Tensor | None = None,
) -> Tensor: ...
def nanquantile(
    input: Tensor,
    q: Tensor | builtins.float,
    dim: builtins.int | None = None,
    keepdim: builtins.bool = False,
    *,
    interpolation: str = 'linear',
    out: Tensor | None = None,
) -> Tensor: ...
def renorm(
    input: Tensor,
    p: builtins.float,
    dim: builtins.int,
    maxnorm: builtins.float,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def unique_consecutive(
    input: Tensor,
    return_inverse: builtins.bool = False,
    return_counts: builtins.bool = False,
    dim: builtins.int | None = None,
) -> Any: ...
def as_strided(
    input: Tensor,
    size: builtins.int | Sequence[builtins.int],
    stride: builtins.int | Sequence[builtins.int],
    storage_offset: builtins.int | None = None,
) -> Tensor: ...
def atleast_1d(*tensors: Tensor) -> Any: ...
def atleast_2d(*tensors: Tensor) -> Any: ...
def atleast_3d(*tensors: Tensor) -> Any: ...
def cartesian_prod(*tensors: Tensor) -> Tensor: ...
def combinations(
    input: Tensor,
    r: builtins.int = 2,
    with_replacement: builtins.bool = False,
) -> Tensor: ...
def diagflat(input: Tensor, offset: builtins.int = 0, *, out: Tensor | None = None) -> Tensor: ...
def dsplit(input: Tensor, indices_or_sections: Any) -> builtins.tuple[Tensor, ...]: ...
def dstack(tensors: Sequence[Tensor], *, out: Tensor | None = None) -> Tensor: ...
def fill(input: Tensor, value: Operand, *, out: Tensor | None = None) -> Tensor: ...
def hsplit(input: Tensor, indices_or_sections: Any) -> builtins.tuple[Tensor, ...]: ...
def narrow_copy(
    input: Tensor,
    dim: builtins.int,
    start: builtins.int,
    length: builtins.int,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def rot90(
    input: Tensor,
    k: builtins.int = 1,
    dims: Sequence[builtins.int] = (0, 1),
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def split_with_sizes(
    input: Tensor,
    split_sizes: Sequence[builtins.int],
    dim: builtins.int = 0,
) -> builtins.tuple[Tensor, ...]: ...
def tensor_split(
    input: Tensor,
    indices_or_sections: Any,
    dim: builtins.int = 0,
) -> builtins.tuple[Tensor, ...]: ...
def unsafe_chunk(
    input: Tensor,
    chunks: builtins.int,
    dim: builtins.int = 0,
) -> builtins.tuple[Tensor, ...]: ...
def unsafe_split(
    input: Tensor,
    split_size: builtins.int | Sequence[builtins.int],
    dim: builtins.int = 0,
) -> builtins.tuple[Tensor, ...]: ...
def vsplit(input: Tensor, indices_or_sections: Any) -> builtins.tuple[Tensor, ...]: ...
def cummax(
    input: Tensor,
    dim: builtins.int | Sequence[builtins.int] | None = None,
    *,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    out: Tensor | None = None,
) -> ValuesAndIndices: ...
def cummin(
    input: Tensor,
    dim: builtins.int | Sequence[builtins.int] | None = None,
    *,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    out: Tensor | None = None,
) -> ValuesAndIndices: ...
def cumulative_trapezoid(
    y: Tensor,
    x: Tensor | None = None,
    *,
    dx: builtins.float = 1,
    dim: builtins.int = -1,
    out: Tensor | None = None,
) -> Tensor: ...
def gradient(
    input: Tensor,
    *,
    spacing: Any = 1,
    dim: builtins.int | Sequence[builtins.int] | None = None,
    edge_order: builtins.int = 1,
) -> builtins.tuple[Tensor, ...]: ...
def logcumsumexp(
    input: Tensor,
    dim: builtins.int | Sequence[builtins.int] | None = None,
    *,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    out: Tensor | None = None,
) -> Tensor: ...
def trapezoid(
    y: Tensor,
    x: Tensor | None = None,
    *,
    dx: builtins.float = 1,
    dim: builtins.int = -1,
    out: Tensor | None = None,
) -> Tensor: ...
def trapz(
    y: Tensor,
    x: Tensor | None = None,
    *,
    dx: builtins.float = 1,
    dim: builtins.int = -1,
    out: Tensor | None = None,
) -> Tensor: ...
def diagonal_scatter(
    input: Tensor,
    src: Operand,
    offset: builtins.int = 0,
    dim1: builtins.int = 0,
    dim2: builtins.int = 1,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def index_reduce(
    input: Tensor,
    dim: builtins.int,
    index: Tensor,
    source: Tensor,
    reduce: str,
    *,
    include_self: builtins.bool = True,
    out: Tensor | None = None,
) -> Tensor: ...
def masked_scatter(
    input: Tensor,
    mask: Tensor,
    source: builtins.int | Sequence[builtins.int],
) -> Tensor: ...
def put(
    input: Tensor,
    index: Tensor,
    source: builtins.int | Sequence[builtins.int],
    accumulate: builtins.bool = False,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def scatter_reduce(
    input: Tensor,
    dim: builtins.int,
    index: Tensor,
    src: Operand,
    reduce: str,
    *,
    include_self: builtins.bool = True,
    out: Tensor | None = None,
) -> Tensor: ...
def select_scatter(
    input: Tensor,
    src: Operand,
    dim: builtins.int,
    index: builtins.int,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def slice_scatter(
    input: Tensor,
    src: Operand,
    dim: builtins.int = 0,
    start: builtins.int | None = None,
    end: builtins.int | None = None,
    step: builtins.int = 1,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def argsort(
    input: Tensor,
    dim: builtins.int = -1,
    descending: builtins.bool = False,
    stable: builtins.bool = True,
    *,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    out: Tensor | None = None,
) -> Tensor: ...
def bincount(
    input: Tensor,
    weights: Tensor | None = None,
    minlength: builtins.int = 0,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def bucketize(
    input: Tensor,
    boundaries: Tensor,
    *,
    out_int32: builtins.bool = False,
    right: builtins.bool = False,
    out: Tensor | None = None,
) -> Tensor: ...
def histc(
    input: Tensor,
    bins: builtins.int = 100,
    min: builtins.float = 0,
    max: builtins.float = 0,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
@overload
def median(x: Tensor, dim: None = None, keepdim: builtins.bool = False) -> Tensor: ...
@overload
def median(x: Tensor, dim: builtins.int, keepdim: builtins.bool = False) -> ValuesAndIndices: ...
@overload
def median(
    x: Tensor,
    *,
    axis: builtins.int,
    keepdims: builtins.bool = False,
) -> ValuesAndIndices: ...
def quantile(
    input: Tensor,
    q: Tensor | builtins.float,
    dim: builtins.int | None = None,
    keepdim: builtins.bool = False,
    *,
    interpolation: str = 'linear',
    out: Tensor | None = None,
) -> Tensor: ...
def searchsorted(
    sequence: Tensor,
    values: Operand,
    *,
    out_int32: builtins.bool = False,
    right: builtins.bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor: ...
def sort(
    input: Tensor,
    dim: builtins.int = -1,
    descending: builtins.bool = False,
    stable: builtins.bool = True,
    *,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    out: Tensor | None = None,
) -> ValuesAndIndices: ...
def topk(
    input: Tensor,
    k: builtins.int,
    dim: builtins.int = -1,
    largest: builtins.bool = True,
    sorted: builtins.bool = True,
    *,
    out: Tensor | None = None,
) -> ValuesAndIndices: ...
@overload
def unique(
    x: Tensor,
    sorted: builtins.bool = True,
    *,
    dim: builtins.int | None = None,
) -> Tensor: ...
@overload
def unique(
    x: Tensor,
    sorted: builtins.bool = True,
    return_inverse: builtins.bool = False,
    return_counts: builtins.bool = False,
    dim: builtins.int | None = None,
) -> Tensor: ...
def cosine_similarity(
    input: Tensor,
    b: Tensor,
    dim: builtins.int = 1,
    eps: builtins.float = 1e-08,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def diff(
    input: Tensor,
    n: builtins.int = 1,
    dim: builtins.int = -1,
    prepend: Tensor | None = None,
    append: Tensor | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def norm(
    input: Tensor,
    p: builtins.float | str = 2,
    dim: builtins.int | Sequence[builtins.int] | None = None,
    keepdim: builtins.bool = False,
    *,
    out: Tensor | None = None,
) -> Tensor: ...
def std(
    input: Tensor,
    dim: builtins.int | Sequence[builtins.int] | None = None,
    unbiased: builtins.bool | None = None,
    keepdim: builtins.bool = False,
    *,
    correction: builtins.float | None = None,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    keepdims: builtins.bool = False,
    out: Tensor | None = None,
) -> Tensor: ...
def std_mean(
    input: Tensor,
    dim: builtins.int | Sequence[builtins.int] | None = None,
    unbiased: builtins.bool | None = None,
    keepdim: builtins.bool = False,
    *,
    correction: builtins.float | None = None,
    out: Tensor | None = None,
) -> builtins.tuple[Tensor, Tensor]: ...
def var(
    input: Tensor,
    dim: builtins.int | Sequence[builtins.int] | None = None,
    unbiased: builtins.bool | None = None,
    keepdim: builtins.bool = False,
    *,
    correction: builtins.float | None = None,
    axis: builtins.int | Sequence[builtins.int] | None = None,
    keepdims: builtins.bool = False,
    out: Tensor | None = None,
) -> Tensor: ...
def var_mean(
    input: Tensor,
    dim: builtins.int | Sequence[builtins.int] | None = None,
    unbiased: builtins.bool | None = None,
    keepdim: builtins.bool = False,
    *,
    correction: builtins.float | None = None,
    out: Tensor | None = None,
) -> builtins.tuple[Tensor, Tensor]: ...
def matrix_power(x: Tensor, n: builtins.int) -> Tensor: ...
def bernoulli(
    input: Tensor,
    p: builtins.float | None = None,
    *,
    generator: Any | None = None,
) -> Tensor: ...
def multinomial(
    input: Tensor,
    num_samples: builtins.int,
    replacement: builtins.bool = False,
    *,
    generator: Any | None = None,
) -> Tensor: ...
