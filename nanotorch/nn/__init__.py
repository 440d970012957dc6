"""Layers, losses and containers, as `torch.nn` names them; most load when first asked for."""

from typing import TYPE_CHECKING

from nanotorch.backend.loading import on_demand
from nanotorch.nn import functional as functional, init as init, utils as utils
from nanotorch.nn.linear import Linear as Linear
from nanotorch.nn.module import Module as Module
from nanotorch.nn.parameter import Buffer as Buffer, Parameter as Parameter

if TYPE_CHECKING:
    from nanotorch.nn.activations import (
        CELU as CELU,
        ELU as ELU,
        GELU as GELU,
        SELU as SELU,
        Hardshrink as Hardshrink,
        Hardsigmoid as Hardsigmoid,
        Hardswish as Hardswish,
        Hardtanh as Hardtanh,
        LeakyReLU as LeakyReLU,
        LogSigmoid as LogSigmoid,
        LogSoftmax as LogSoftmax,
        Mish as Mish,
        PReLU as PReLU,
        ReLU as ReLU,
        ReLU6 as ReLU6,
        Sigmoid as Sigmoid,
        SiLU as SiLU,
        Softmax as Softmax,
        Softmin as Softmin,
        Softplus as Softplus,
        Softshrink as Softshrink,
        Softsign as Softsign,
        Tanh as Tanh,
        Tanhshrink as Tanhshrink,
        Threshold as Threshold,
    )
    from nanotorch.nn.bilinear import (
        Bilinear as Bilinear,
    )
    from nanotorch.nn.containers import (
        ModuleDict as ModuleDict,
        ModuleList as ModuleList,
        ParameterDict as ParameterDict,
        ParameterList as ParameterList,
        Sequential as Sequential,
    )
    from nanotorch.nn.dropout import (
        Dropout as Dropout,
    )
    from nanotorch.nn.embedding import (
        Embedding as Embedding,
    )
    from nanotorch.nn.losses import (
        BCELoss as BCELoss,
        BCEWithLogitsLoss as BCEWithLogitsLoss,
        CosineEmbeddingLoss as CosineEmbeddingLoss,
        CosineSimilarity as CosineSimilarity,
        CrossEntropyLoss as CrossEntropyLoss,
        GaussianNLLLoss as GaussianNLLLoss,
        HingeEmbeddingLoss as HingeEmbeddingLoss,
        HuberLoss as HuberLoss,
        KLDivLoss as KLDivLoss,
        L1Loss as L1Loss,
        MarginRankingLoss as MarginRankingLoss,
        MSELoss as MSELoss,
        MultiLabelSoftMarginLoss as MultiLabelSoftMarginLoss,
        MultiMarginLoss as MultiMarginLoss,
        NLLLoss as NLLLoss,
        PairwiseDistance as PairwiseDistance,
        PoissonNLLLoss as PoissonNLLLoss,
        SmoothL1Loss as SmoothL1Loss,
        SoftMarginLoss as SoftMarginLoss,
        TripletMarginLoss as TripletMarginLoss,
    )
    from nanotorch.nn.normalization import (
        BatchNorm1d as BatchNorm1d,
        GroupNorm as GroupNorm,
        LayerNorm as LayerNorm,
        RMSNorm as RMSNorm,
    )
    from nanotorch.nn.recurrent import (
        GRU as GRU,
        LSTM as LSTM,
        RNN as RNN,
        GRUCell as GRUCell,
        LSTMCell as LSTMCell,
        RNNBase as RNNBase,
        RNNCell as RNNCell,
        RNNCellBase as RNNCellBase,
    )
    from nanotorch.nn.reshaping import (
        Flatten as Flatten,
        Identity as Identity,
        Unflatten as Unflatten,
    )
else:
    __getattr__, __dir__ = on_demand(__name__)
