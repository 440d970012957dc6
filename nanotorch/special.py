"""Functions of mathematics and statistics under the names of `torch.special`.

Source: https://docs.pytorch.org/docs/stable/special.html
"""

from nanotorch.ops import (
    erf as erf,
    erfc as erfc,
    exp2 as exp2,
    expm1 as expm1,
    log1p as log1p,
    log_softmax as log_softmax,
    logit as logit,
    logsumexp as logsumexp,
    round as round,
    sigmoid,
    softmax as softmax,
    xlogy as xlogy,
)
from nanotorch.ops.gamma import (
    digamma as digamma,
    lgamma,
    mvlgamma,
    polygamma as polygamma,
)
from nanotorch.ops.normal_distribution import (
    entr as entr,
    erfcx as erfcx,
    erfinv as erfinv,
    log_ndtr as log_ndtr,
    ndtr as ndtr,
    ndtri as ndtri,
    xlog1py as xlog1py,
)
from nanotorch.ops.numbers import sinc as sinc

expit = sigmoid
psi = digamma
gammaln = lgamma
multigammaln = mvlgamma
