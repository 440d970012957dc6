"""The primitives, by family, and the functions that apply them: the one list of their names.

Functions take tensors as well as raw arrays, so that the derivative rules, written with them, serve
both. A function imported here is public: `exp` becomes `nanotorch.exp(x)` and the method `x.exp()`,
unless one of the tables at the end says otherwise. What most programs do without is in the table
LATER, and loads when it is first called.
"""

from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any

from nanotorch.backend.loading import on_demand, when_called
from nanotorch.ops.activations import (
    elu as elu,
    gelu as gelu,
    leaky_relu as leaky_relu,
    log_softmax as log_softmax,
    logsigmoid as logsigmoid,
    relu as relu,
    sigmoid as sigmoid,
    silu as silu,
    softmax as softmax,
    softplus as softplus,
)
from nanotorch.ops.arithmetic import (
    add as add,
    mul as mul,
    rsub as rsub,
    sub as sub,
)
from nanotorch.ops.broadcasting import sum_to as sum_to
from nanotorch.ops.casting import (
    Copy as Copy,
    Fill as Fill,
    Zero as Zero,
    cast as cast,
    clone as clone,
    get_device as get_device,
    move as move,
    new as new,
    ones_like as ones_like,
    zeros_like as zeros_like,
)
from nanotorch.ops.comparisons import (
    allclose as allclose,
    bitwise_and as bitwise_and,
    bitwise_left_shift as bitwise_left_shift,
    bitwise_not as bitwise_not,
    bitwise_or as bitwise_or,
    bitwise_right_shift as bitwise_right_shift,
    bitwise_xor as bitwise_xor,
    eq as eq,
    equal as equal,
    ge as ge,
    gt as gt,
    isclose as isclose,
    isfinite as isfinite,
    isinf as isinf,
    isnan as isnan,
    le as le,
    logical_and as logical_and,
    logical_not as logical_not,
    logical_or as logical_or,
    logical_xor as logical_xor,
    lt as lt,
    masked_fill as masked_fill,
    ne as ne,
    nonzero as nonzero,
    where as where,
    where_else as where_else,
)
from nanotorch.ops.division import (
    div as div,
    floor_divide as floor_divide,
    fmod as fmod,
    remainder as remainder,
)
from nanotorch.ops.elementwise import (
    abs as abs,
    acos as acos,
    acosh as acosh,
    asin as asin,
    asinh as asinh,
    atan as atan,
    atanh as atanh,
    ceil as ceil,
    clamp as clamp,
    clamp_max as clamp_max,
    clamp_min as clamp_min,
    cos as cos,
    cosh as cosh,
    exp as exp,
    exp2 as exp2,
    expm1 as expm1,
    floor as floor,
    frac as frac,
    log as log,
    log1p as log1p,
    log2 as log2,
    log10 as log10,
    logit as logit,
    nan_to_num as nan_to_num,
    neg as neg,
    reciprocal as reciprocal,
    round as round,
    rsqrt as rsqrt,
    sgn as sgn,
    sign as sign,
    sin as sin,
    sinh as sinh,
    sqrt as sqrt,
    square as square,
    tan as tan,
    tanh as tanh,
    trunc as trunc,
)
from nanotorch.ops.error_function import erf as erf, erfc as erfc
from nanotorch.ops.indexing import (
    IndexPut as IndexPut,
    Scatter as Scatter,
    flip as flip,
    fliplr as fliplr,
    flipud as flipud,
    gather as gather,
    getitem as getitem,
    index_add as index_add,
    index_copy as index_copy,
    index_fill as index_fill,
    index_put as index_put,
    index_select as index_select,
    masked_select as masked_select,
    roll as roll,
    scatter as scatter,
    scatter_add as scatter_add,
    setitem as setitem,
    take as take,
    take_along_dim as take_along_dim,
)
from nanotorch.ops.joining import (
    broadcast_tensors as broadcast_tensors,
    cat as cat,
    column_stack as column_stack,
    hstack as hstack,
    meshgrid as meshgrid,
    pad as pad,
    repeat as repeat,
    repeat_interleave as repeat_interleave,
    stack as stack,
    tile as tile,
    tril as tril,
    triu as triu,
    vstack as vstack,
)
from nanotorch.ops.linalg import (
    addmm as addmm,
    baddbmm as baddbmm,
    bmm as bmm,
    det as det,
    diag as diag,
    dot as dot,
    einsum as einsum,
    inner as inner,
    inv as inv,
    logdet as logdet,
    matmul as matmul,
    mv as mv,
    outer as outer,
    solve as solve,
    tensordot as tensordot,
    trace as trace,
)
from nanotorch.ops.outputs import Functions, in_place as in_place, write as write
from nanotorch.ops.pairs import (
    addcdiv as addcdiv,
    addcmul as addcmul,
    atan2 as atan2,
    copysign as copysign,
    hypot as hypot,
    lerp as lerp,
    logaddexp as logaddexp,
    maximum as maximum,
    minimum as minimum,
    xlogy as xlogy,
)
from nanotorch.ops.powers import power as power
from nanotorch.ops.products import linear as linear, mm as mm
from nanotorch.ops.reductions import (
    ValuesAndIndices as ValuesAndIndices,
    all as all,
    amax as amax,
    amin as amin,
    any as any,
    argmax as argmax,
    argmin as argmin,
    count_nonzero as count_nonzero,
    logsumexp as logsumexp,
    max as max,
    min as min,
    nanmean as nanmean,
    nansum as nansum,
)
from nanotorch.ops.regions import (
    AsStrided as AsStrided,
    CopySlices as CopySlices,
    embed as embed,
)
from nanotorch.ops.shapes import (
    BasicIndex as BasicIndex,
    alias as alias,
    broadcast_to as broadcast_to,
    chunk as chunk,
    diag_embed as diag_embed,
    diagonal as diagonal,
    expand as expand,
    expand_as as expand_as,
    fill_diagonal_ as fill_diagonal_,
    flatten as flatten,
    movedim as movedim,
    narrow as narrow,
    ndimension as ndimension,
    permute as permute,
    ravel as ravel,
    reshape as reshape,
    reshape_as as reshape_as,
    select as select,
    split as split,
    squeeze as squeeze,
    t as t,
    transpose as transpose,
    unbind as unbind,
    unflatten as unflatten,
    unsqueeze as unsqueeze,
    view as view,
    view_as as view_as,
)
from nanotorch.ops.sums import mean as mean, sum as sum

if TYPE_CHECKING:  # what the package itself takes of the files in LATER, and of those of layers
    from nanotorch.ops.binary_losses import (
        binary_cross_entropy_with_logits as binary_cross_entropy_with_logits,
    )
    from nanotorch.ops.class_losses import cross_entropy as cross_entropy
    from nanotorch.ops.cumulative import cumprod as cumprod, cumsum as cumsum, prod as prod
    from nanotorch.ops.distances import cdist as cdist
    from nanotorch.ops.losses import (
        binary_cross_entropy as binary_cross_entropy,
        huber_loss as huber_loss,
        kl_div as kl_div,
        l1_loss as l1_loss,
        mse_loss as mse_loss,
        nll_loss as nll_loss,
        smooth_l1_loss as smooth_l1_loss,
    )
    from nanotorch.ops.normalization import (
        affine as affine,
        batch_norm as batch_norm,
        group_norm as group_norm,
        layer_norm as layer_norm,
        mean_square as mean_square,
        scores_of as scores_of,
        standardize as standardize,
        takes_scores as takes_scores,
    )
    from nanotorch.ops.sorting import (
        argsort as argsort,
        bincount as bincount,
        bucketize as bucketize,
        histc as histc,
        median as median,
        quantile as quantile,
        searchsorted as searchsorted,
        sort as sort,
        topk as topk,
        unique as unique,
    )
    from nanotorch.ops.statistics import (
        cosine_similarity as cosine_similarity,
        diff as diff,
        norm as norm,
        std as std,
        std_mean as std_mean,
        var as var,
        var_mean as var_mean,
    )
    from nanotorch.ops.windows import unfold as unfold
else:
    __getattr__, __dir__ = on_demand(__name__)

# The file of each op that loads when it is first called.
LATER = {
    name: file
    for file, names in {
        "complex_numbers": "complex imag polar real view_as_complex view_as_real",
        "cumulative": "cumprod cumsum prod",
        "decompositions": "cholesky_inverse cholesky_solve matrix_exp",
        "distances": "cdist",
        "gamma": "digamma lgamma mvlgamma polygamma",
        "matrices": "addbmm addmv addr block_diag corrcoef cov kron vdot",
        "normal_distribution": "erfinv",
        "numbers": "angle conj conj_physical deg2rad float_power fmax fmin frexp heaviside "
        "isneginf isposinf isreal ldexp logaddexp2 nextafter positive rad2deg resolve_conj "
        "resolve_neg signbit sinc",
        "old_linalg": "cholesky cross pinverse qr slogdet svd triangular_solve",
        "ordering": "aminmax argwhere dist isin kthvalue mode msort nanmedian nanquantile renorm "
        "unique_consecutive",
        "pieces": "as_strided atleast_1d atleast_2d atleast_3d cartesian_prod combinations "
        "diagflat dsplit dstack fill hsplit narrow_copy rot90 split_with_sizes sum_to_size "
        "tensor_split unsafe_chunk unsafe_split vsplit",
        "scans": "cummax cummin cumulative_trapezoid gradient logcumsumexp trapezoid trapz",
        "scattering": "diagonal_scatter index_reduce masked_scatter put scatter_reduce "
        "select_scatter slice_scatter",
        "sorting": "argsort bincount bucketize histc median quantile searchsorted sort topk unique",
        "statistics": "cosine_similarity diff norm std std_mean var var_mean",
        "windows": "unfold",
    }.items()
    for name in names.split()
}

# Neither functions of the package nor methods: they serve rules, layers and `nanotorch.linalg`.
INTERNAL = {
    *("__dir__", "__getattr__", "in_place", "on_demand", "when_called", "write"),
    "where_else",
    *("alias", "cast", "embed", "getitem", "inv", "move", "ones_like", "power", "setitem"),
    *("solve", "sum_to", "zeros_like", "elu", "gelu", "leaky_relu", "logsigmoid"),
    *("silu", "softplus", "linear", "pad"),
}
# Functions alone, since their first argument is no tensor or PyTorch has no such method.
FUNCTIONS_ONLY = {
    *("broadcast_tensors", "bucketize", "cat", "cdist", "column_stack", "concat", "concatenate"),
    "cosine_similarity",
    *(
        "einsum",
        "hstack",
        "meshgrid",
        "row_stack",
        "rsub",
        "searchsorted",
        "stack",
        "std_mean",
        "tensordot",
    ),
    *("var_mean", "vstack", "where"),
    *("atleast_1d", "atleast_2d", "atleast_3d", "block_diag", "cartesian_prod", "combinations"),
    *("cumulative_trapezoid", "dstack", "fill", "gradient", "isin", "trapezoid", "trapz"),
    *("complex", "imag", "polar", "real", "view_as_complex", "view_as_real"),
}
METHODS_ONLY = {
    *("expand", "expand_as", "fill_diagonal_", "ndimension", "new", "repeat", "reshape_as"),
    *("sum_to_size", "unfold", "view", "view_as"),
}
# Further names.
ALIASES: dict[str, Callable[..., Any]] = {
    "absolute": abs, "arccos": acos, "arccosh": acosh, "arcsin": asin, "arcsinh": asinh,
    "arctan": atan, "arctan2": atan2, "arctanh": atanh, "clip": clamp, "concat": cat,
    "concatenate": cat, "divide": div, "fix": trunc, "ger": outer, "greater": gt,
    "greater_equal": ge, "inverse": inv, "less": lt, "less_equal": le, "moveaxis": movedim,
    "multiply": mul, "negative": neg, "not_equal": ne, "pow": power, "row_stack": vstack,
    "subtract": sub,
    "swapaxes": transpose, "swapdims": transpose, "true_divide": div,
}  # fmt: skip

# Functions without the keyword `out`: what they give is a view, several tensors, or none.
WITHOUT_OUT = {
    *("get_device", "imag", "real", "view_as_complex", "view_as_real"),
    *("allclose", "broadcast_tensors", "broadcast_to", "chunk", "diagonal", "equal", "flatten"),
    *("meshgrid", "moveaxis", "movedim", "narrow", "permute", "ravel", "reshape", "select"),
    *("slogdet", "split", "squeeze", "swapaxes", "swapdims", "t", "transpose", "unbind"),
    *("unflatten", "unique", "unsqueeze"),
    *("as_strided", "atleast_1d", "atleast_2d", "atleast_3d", "block_diag", "cartesian_prod"),
    *("combinations", "conj", "dsplit", "gradient", "hsplit", "isreal", "masked_scatter"),
    *("positive", "resolve_conj", "resolve_neg", "split_with_sizes", "tensor_split"),
    *("unique_consecutive", "unsafe_chunk", "unsafe_split", "vsplit"),
}

_public: dict[str, Callable[..., Any]] = {
    name: value
    for name, value in vars().items()
    if isinstance(value, FunctionType) and name not in INTERNAL
}
_public |= ALIASES
_public |= {name: when_called(f"{__name__}.{file}", name) for name, file in LATER.items()}
FUNCTIONS = Functions(
    {name: f for name, f in _public.items() if name not in METHODS_ONLY}, WITHOUT_OUT
)
METHODS = {name: f for name, f in _public.items() if name not in FUNCTIONS_ONLY}
METHODS["where"] = where_else  # whose condition comes second
# Draws into a tensor, which load the generators of random numbers when first called.
_DRAWS = "bernoulli bernoulli_ exponential_ multinomial normal_ random_ uniform_"
METHODS |= {name: when_called("nanotorch.sampling", name) for name in _DRAWS.split()}
METHODS["polygamma"] = when_called(f"{__name__}.gamma", "polygamma_method")
METHODS |= {
    name: when_called(f"{__name__}.sparse", name)  # a ring: no other op stands on it
    for name in (
        *("_indices", "_nnz", "_values", "coalesce", "dense_dim", "indices", "is_coalesced"),
        *("sparse_dim", "to_dense", "values"),
    )
}
# Methods that write what others give over the tensor. Those of elementwise primitives, such as
# `exp_`, are made in operators.py, which write without a copy.
_WRITING = (
    *("addmm", "baddbmm", "bitwise_and", "bitwise_left_shift", "bitwise_not", "bitwise_or"),
    *("bitwise_right_shift", "bitwise_xor", "clamp_max", "clamp_min", "clip", "cumprod"),
    *("cumsum", "eq", "frac", "ge", "greater", "greater_equal", "gt", "index_copy", "le", "less"),
    *("less_equal", "logical_and", "logical_not", "logical_or", "logical_xor", "lt"),
    *("nan_to_num", "ne", "not_equal", "tril", "triu"),
    *("addbmm", "addmv", "addr", "conj_physical", "deg2rad", "digamma", "erfinv", "float_power"),
    *("heaviside", "index_reduce", "ldexp", "lgamma", "masked_scatter", "mvlgamma", "nextafter"),
    *("polygamma", "put", "rad2deg", "renorm", "scatter_reduce", "sgn", "sinc"),
)
METHODS |= {f"{name}_": in_place(METHODS[name]) for name in _WRITING}
