"""Mixed precision of a run: which ops compute in 16 bits, and the scale of the loss."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import nanotorch as nt
from nanotorch.training.config.sections import Training
from nanotorch.training.errors import InputError


class MixedPrecision:
    """The casts of the forward pass and, for float16, whose range is small, the loss scale."""

    def __init__(self, short: nt.dtype, device: nt.device) -> None:
        self.short, self.device_type = short, device.type
        self.scaler = nt.amp.GradScaler(device.type) if short is nt.float16 else None

    def casts(self) -> contextlib.AbstractContextManager[object]:
        """The context of a forward pass."""
        return nt.autocast(self.device_type, self.short)

    def scaled(self, loss: nt.Tensor) -> nt.Tensor:
        """What backward starts from."""
        scaled: nt.Tensor = loss if self.scaler is None else self.scaler.scale(loss)
        return scaled


def mixed_precision(
    config: Training, optimizer: nt.optim.Optimizer, device: nt.device
) -> MixedPrecision | None:
    """What `training.precision` asks for; None for float32.

    InputError where it does not go with the dtype or the optimizer, or bfloat16 is not installed.
    """
    if config.precision == "float32":
        return None
    if config.dtype != "float32":
        raise InputError(
            f"training.precision: {config.precision} needs training.dtype float32, "
            f"given {config.dtype}"
        )
    if isinstance(optimizer, nt.optim.LBFGS):
        raise InputError("training.precision: optimizer lbfgs searches in float32 alone")
    short = getattr(nt, config.precision)
    try:
        nt.zeros(1, dtype=short)
    except RuntimeError as error:
        raise InputError(f"training.precision: {error}") from None
    return MixedPrecision(short, device)


def take_step(
    optimizer: nt.optim.Optimizer,
    adjust: Callable[[], None] | None,
    scaler: nt.amp.GradScaler | None,
) -> None:
    """A step of the optimizer, after `adjust` has changed the gradients; with a scaler, of
    unscaled gradients, and none if they are not finite."""
    if scaler is None:
        if adjust is not None:
            adjust()
        optimizer.step()
        return
    if adjust is not None:
        scaler.unscale_(optimizer)
        adjust()
    scaler.step(optimizer)
    scaler.update()
