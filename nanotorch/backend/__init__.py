"""Where arrays live and what they hold: devices, dtypes, and the choice between NumPy and CuPy."""

from nanotorch.backend.allocator import keep_freed_memory as keep_freed_memory
from nanotorch.backend.devices import (
    CPU as CPU,
    HERE as HERE,
    HOST as HOST,
    LOADED_WITH_CUDA as LOADED_WITH_CUDA,
    MODULES as MODULES,
    RAW as RAW,
    AxisError as AxisError,
    add_into as add_into,
    array_module as array_module,
    as_array as as_array,
    broadcast_shapes as broadcast_shapes,
    constant as constant,
    copy_of as copy_of,
    counting as counting,
    cuda_is_absent as cuda_is_absent,
    cuda_module as cuda_module,
    cuda_parts as cuda_parts,
    cuda_unavailable_reason as cuda_unavailable_reason,
    device as device,
    device_of as device_of,
    get_default_device as get_default_device,
    is_array as is_array,
    is_pinned as is_pinned,
    module_of as module_of,
    on_device as on_device,
    on_device_of as on_device_of,
    pinned as pinned,
    plus as plus,
    register_cuda_module as register_cuda_module,
    set_default_device as set_default_device,
    to_device as to_device,
)
from nanotorch.backend.dtypes import (
    Array as Array,
    as_dtype as as_dtype,
    dtype as dtype,
    dtype_of as dtype_of,
    get_default_dtype as get_default_dtype,
    promote as promote,
    promote_types as promote_types,
    result_type as result_type,
    set_default_dtype as set_default_dtype,
)
from nanotorch.backend.limits import finfo as finfo, iinfo as iinfo
from nanotorch.backend.threads import (
    blas_threads as blas_threads,
    get_num_threads as get_num_threads,
    set_num_threads as set_num_threads,
    side_by_side as side_by_side,
)
