"""Layers, losses and containers, as `torch.nn` names them."""

from nanotorch.nn import functional as functional, init as init, utils as utils
from nanotorch.nn.activations import (
    ELU as ELU,
    GELU as GELU,
    Hardtanh as Hardtanh,
    LeakyReLU as LeakyReLU,
    LogSigmoid as LogSigmoid,
    LogSoftmax as LogSoftmax,
    PReLU as PReLU,
    ReLU as ReLU,
    ReLU6 as ReLU6,
    Sigmoid as Sigmoid,
    SiLU as SiLU,
    Softmax as Softmax,
    Softmin as Softmin,
    Softplus as Softplus,
    Tanh as Tanh,
)
from nanotorch.nn.containers import (
    ModuleDict as ModuleDict,
    ModuleList as ModuleList,
    ParameterDict as ParameterDict,
    ParameterList as ParameterList,
    Sequential as Sequential,
)
from nanotorch.nn.dropout import Dropout as Dropout
from nanotorch.nn.embedding import Embedding as Embedding
from nanotorch.nn.linear import Bilinear as Bilinear, Identity as Identity, Linear as Linear
from nanotorch.nn.losses import (
    BCELoss as BCELoss,
    BCEWithLogitsLoss as BCEWithLogitsLoss,
    CrossEntropyLoss as CrossEntropyLoss,
    HuberLoss as HuberLoss,
    KLDivLoss as KLDivLoss,
    L1Loss as L1Loss,
    MSELoss as MSELoss,
    NLLLoss as NLLLoss,
    SmoothL1Loss as SmoothL1Loss,
)
from nanotorch.nn.module import Module as Module
from nanotorch.nn.normalization import BatchNorm1d as BatchNorm1d, LayerNorm as LayerNorm
from nanotorch.nn.parameter import Buffer as Buffer, Parameter as Parameter
from nanotorch.nn.reshaping import Flatten as Flatten, Unflatten as Unflatten
