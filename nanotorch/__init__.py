"""A small neural-network training framework with PyTorch's names, on NumPy and CuPy."""

from nanotorch import working_directory as _working_directory  # isort: skip

# It imports NumPy, which takes longer below many open calls: CPython then maps memory at each one.
from nanotorch.backend.loading import on_demand as _on_demand  # isort: skip

from typing import TYPE_CHECKING

from nanotorch import autograd, ops
from nanotorch.autograd import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)
from nanotorch.autograd.graph import is_anomaly_check_nan_enabled, is_anomaly_enabled
from nanotorch.backend import (
    LOADED_WITH_CUDA as _LOADED_WITH_CUDA,
    device,
    dtype,
    finfo,
    get_default_device,
    get_default_dtype,
    get_num_threads,
    iinfo,
    promote_types,
    result_type,
    set_default_device,
    set_default_dtype,
    set_num_threads,
)
from nanotorch.backend.dtypes import (
    bfloat16,
    bool_ as bool,
    cdouble,
    cfloat,
    complex64,
    complex128,
    double,
    float16,
    float32,
    float64,
    float_ as float,
    half,
    int8,
    int16,
    int32,
    int64,
    int_ as int,
    long,
    short,
    uint8,
)
from nanotorch.compile import compile
from nanotorch.creation import (
    arange,
    as_tensor,
    empty,
    empty_like,
    eye,
    from_dlpack,
    from_numpy,
    frombuffer,
    full,
    full_like,
    linspace,
    logspace,
    ones,
    ones_like,
    tensor,
    tril_indices,
    triu_indices,
    zeros,
    zeros_like,
)
from nanotorch.tensor import Size, Tensor

_LOADED_WITH_CUDA += ["nanotorch.cuda.kernel_table", "nanotorch.cuda.placement"]

if TYPE_CHECKING:
    from nanotorch import (
        amp,
        backends,
        cuda,
        distributed,
        distributions,
        func,
        functional,
        linalg,
        nn,
        optim,
        serialization,
        special,
        testing,
        utils,
    )
    from nanotorch.amp.autocast_mode import (
        autocast,
        clear_autocast_cache,
        get_autocast_dtype,
        is_autocast_cache_enabled,
        is_autocast_enabled,
    )
    from nanotorch.backends import get_float32_matmul_precision, set_float32_matmul_precision
    from nanotorch.func import vmap
    from nanotorch.linalg import matrix_power
    from nanotorch.nn.functional import celu, dropout, pairwise_distance, selu
    from nanotorch.printing import get_printoptions, printoptions, set_printoptions
    from nanotorch.random import (
        Generator,
        bernoulli,
        default_generator,
        fork_rng,
        get_rng_state,
        initial_seed,
        manual_seed,
        multinomial,
        normal,
        rand,
        rand_like,
        randint,
        randint_like,
        randn,
        randn_like,
        randperm,
        seed,
        set_rng_state,
    )
    from nanotorch.serialization import load, save
    from nanotorch.spellings import (
        BFloat16Tensor,
        BoolTensor,
        ByteTensor,
        CharTensor,
        DoubleTensor,
        FloatTensor,
        HalfTensor,
        IntTensor,
        LongTensor,
        ShortTensor,
        are_deterministic_algorithms_enabled,
        asarray,
        broadcast_shapes,
        can_cast,
        contiguous_format,
        detach,
        e,
        inf,
        is_complex,
        is_floating_point,
        is_nonzero,
        is_tensor,
        layout,
        nan,
        newaxis,
        numel,
        pi,
        preserve_format,
        range,
        set_default_tensor_type,
        sparse_coo,
        strided,
        use_deterministic_algorithms,
    )
else:
    __getattr__, __dir__ = _on_demand(__name__, ops.FUNCTIONS)  # exp, sum, matmul, …

__version__ = "0.1.0"
