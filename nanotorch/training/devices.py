"""Which device a run trains on, and whether its rows lie there."""

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


SHARE = 0.75  # of the memory that is free, for rows; the rest is for the model and its steps


def choose_place(wanted: str, needed: int, device: nt.device) -> tuple[bool, str | None]:
    """Whether `needed` bytes of rows are kept on the GPU, and words for the terminal.

    `wanted` is data.on_device; None for words on the CPU. Raises InputError where the rows are
    wanted on a GPU that has no room for them.
    """
    if device.type == "cpu":
        return True, None
    size = _size(needed)
    if wanted == "no":
        return False, f"{size} of rows stay on the host and are copied to {device} block by block"
    free = nt.cuda.mem_get_info(device)[0]
    free += nt.cuda.memory_reserved(device) - nt.cuda.memory_allocated(device)
    if needed <= free * SHARE:
        return True, f"{size} of rows lie on {device}"
    room = f"{_size(int(free * SHARE))} is what they may take of {_size(free)} that are free"
    if wanted == "yes":
        raise InputError(
            f'data.on_device: "yes", but {size} of rows do not fit on {device}: {room}; '
            'use "auto" or "no"'
        )
    return False, (
        f"{size} of rows do not fit on {device} ({room}): "
        "they stay on the host and are copied block by block"
    )


def _size(count: int) -> str:
    """Bytes in a unit that is read easily."""
    for unit, step in (("GB", 10**9), ("MB", 10**6)):
        if count >= step:
            return f"{count / step:.1f} {unit}"
    return f"{count / 1e3:.1f} KB"
