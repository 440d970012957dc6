"""Layers that take the number of their inputs from the first one that they are called with."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

from nanotorch.nn.convolution import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d
from nanotorch.nn.linear import Linear
from nanotorch.nn.module import Module
from nanotorch.nn.normalization import BatchNorm1d, BatchNorm2d
from nanotorch.random import fork_rng


class _Lazy(Module):
    """A layer without inputs, which the first call makes an ordinary one, with the same parameters:
    an optimizer may hold them already."""

    cls_to_become: ClassVar[type[Module]]
    _dim = 1  # of the input, which says how many

    def __init__(self, *args: Any, **options: Any) -> None:
        with fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # which says that nothing is drawn
            super().__init__(0, *args, **options)  # type: ignore[call-arg]
        self._arguments = args, options

    def forward(self, *inputs: Any) -> Any:
        args, options = self._arguments
        kind: Any = self.cls_to_become
        with fork_rng():
            layer = kind(inputs[0].shape[self._dim], *args, **options)
        parts = [dict(m.named_parameters()) | dict(m.named_buffers()) for m in (self, layer)]
        for name, part in parts[0].items():
            parts[1][name].data = parts[1][name].to(part.device, part.dtype)
        layer.reset_parameters()  # which draws in the dtype that there is by now
        for name, part in parts[0].items():
            part.data = parts[1][name].data
        del self._arguments
        mine = {*parts[0], *vars(Module()), "training"}
        vars(self).update({k: v for k, v in vars(layer).items() if k not in mine})
        self.__class__ = kind
        return self.forward(*inputs)

    def has_uninitialized_params(self) -> bool:
        """True: the first call has not been."""
        return True


class LazyLinear(_Lazy, Linear):
    """`Linear` whose `in_features` is the last size of its first input."""

    cls_to_become, _dim = Linear, -1


class LazyConv1d(_Lazy, Conv1d):
    """`Conv1d` whose `in_channels` is that of its first input."""

    cls_to_become, _dim = Conv1d, -2


class LazyConv2d(_Lazy, Conv2d):
    """`Conv2d` whose `in_channels` is that of its first input."""

    cls_to_become, _dim = Conv2d, -3


class LazyConvTranspose1d(_Lazy, ConvTranspose1d):
    """`ConvTranspose1d` whose `in_channels` is that of its first input."""

    cls_to_become, _dim = ConvTranspose1d, -2


class LazyConvTranspose2d(_Lazy, ConvTranspose2d):
    """`ConvTranspose2d` whose `in_channels` is that of its first input."""

    cls_to_become, _dim = ConvTranspose2d, -3


class LazyBatchNorm1d(_Lazy, BatchNorm1d):
    """`BatchNorm1d` whose `num_features` is that of its first input."""

    cls_to_become = BatchNorm1d


class LazyBatchNorm2d(_Lazy, BatchNorm2d):
    """`BatchNorm2d` whose `num_features` is that of its first input."""

    cls_to_become = BatchNorm2d
