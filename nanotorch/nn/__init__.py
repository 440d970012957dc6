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
        GLU as GLU,
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
        Softmax2d as Softmax2d,
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
    from nanotorch.nn.convolution import (
        Conv1d as Conv1d,
        Conv2d as Conv2d,
        ConvTranspose1d as ConvTranspose1d,
        ConvTranspose2d as ConvTranspose2d,
    )
    from nanotorch.nn.dropout import (
        AlphaDropout as AlphaDropout,
        Dropout as Dropout,
        Dropout1d as Dropout1d,
        Dropout2d as Dropout2d,
    )
    from nanotorch.nn.embedding import (
        Embedding as Embedding,
        EmbeddingBag as EmbeddingBag,
    )
    from nanotorch.nn.folding import Fold as Fold, Unfold as Unfold
    from nanotorch.nn.lazy import (
        LazyBatchNorm1d as LazyBatchNorm1d,
        LazyBatchNorm2d as LazyBatchNorm2d,
        LazyConv1d as LazyConv1d,
        LazyConv2d as LazyConv2d,
        LazyConvTranspose1d as LazyConvTranspose1d,
        LazyConvTranspose2d as LazyConvTranspose2d,
        LazyLinear as LazyLinear,
    )
    from nanotorch.nn.losses import (
        BCELoss as BCELoss,
        BCEWithLogitsLoss as BCEWithLogitsLoss,
        CosineEmbeddingLoss as CosineEmbeddingLoss,
        CosineSimilarity as CosineSimilarity,
        CrossEntropyLoss as CrossEntropyLoss,
        CTCLoss as CTCLoss,
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
    from nanotorch.nn.multihead import MultiheadAttention as MultiheadAttention
    from nanotorch.nn.normalization import (
        BatchNorm1d as BatchNorm1d,
        BatchNorm2d as BatchNorm2d,
        GroupNorm as GroupNorm,
        InstanceNorm1d as InstanceNorm1d,
        InstanceNorm2d as InstanceNorm2d,
        LayerNorm as LayerNorm,
        LocalResponseNorm as LocalResponseNorm,
        RMSNorm as RMSNorm,
    )
    from nanotorch.nn.padding import (
        CircularPad1d as CircularPad1d,
        CircularPad2d as CircularPad2d,
        ConstantPad1d as ConstantPad1d,
        ConstantPad2d as ConstantPad2d,
        ReflectionPad1d as ReflectionPad1d,
        ReflectionPad2d as ReflectionPad2d,
        ReplicationPad1d as ReplicationPad1d,
        ReplicationPad2d as ReplicationPad2d,
        ZeroPad1d as ZeroPad1d,
        ZeroPad2d as ZeroPad2d,
    )
    from nanotorch.nn.pooling import (
        AdaptiveAvgPool1d as AdaptiveAvgPool1d,
        AdaptiveAvgPool2d as AdaptiveAvgPool2d,
        AdaptiveMaxPool1d as AdaptiveMaxPool1d,
        AdaptiveMaxPool2d as AdaptiveMaxPool2d,
        AvgPool1d as AvgPool1d,
        AvgPool2d as AvgPool2d,
        MaxPool1d as MaxPool1d,
        MaxPool2d as MaxPool2d,
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
        ChannelShuffle as ChannelShuffle,
        Flatten as Flatten,
        Identity as Identity,
        PixelShuffle as PixelShuffle,
        PixelUnshuffle as PixelUnshuffle,
        Unflatten as Unflatten,
    )
    from nanotorch.nn.resizing import (
        Upsample as Upsample,
        UpsamplingBilinear2d as UpsamplingBilinear2d,
        UpsamplingNearest2d as UpsamplingNearest2d,
    )
    from nanotorch.nn.transformer import (
        Transformer as Transformer,
        TransformerDecoder as TransformerDecoder,
        TransformerDecoderLayer as TransformerDecoderLayer,
        TransformerEncoder as TransformerEncoder,
        TransformerEncoderLayer as TransformerEncoderLayer,
    )
else:
    __getattr__, __dir__ = on_demand(__name__)
