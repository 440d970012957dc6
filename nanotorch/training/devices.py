"""Which device a run trains on."""

from __future__ import annotations

import nanotorch as nt
from nanotorch.training.errors import InputError


def choose_device(wanted: str) -> tuple[nt.device, str]:
    """The device for `auto`, `cpu` or `cuda[:n]`, and words for the terminal.

    Raises InputError with what is missing and what to install where a GPU is asked for in vain.
    """
    if wanted == "cpu":
        return nt.device("cpu"), "cpu"
    reason = nt.backend.cuda_unavailable_reason()
    if wanted == "auto":
        if reason is None:
            return nt.device("cuda:0"), "cuda:0 (auto)"
        return nt.device("cpu"), "cpu (auto: no GPU can be used; --device cuda says why)"
    if reason is not None:
        raise InputError(f"device: {reason}")
    device = nt.device(wanted)
    count = nt.backend.cuda_module().cuda.runtime.getDeviceCount()
    if device.index is not None and device.index >= count:
        raise InputError(f"device: {wanted}: there are {count} GPUs, counted from cuda:0")
    return device, wanted
