"""Messages between processes: pickles over a socket, with what is large in a file in memory.

Such a file has no name, only the descriptors of the two processes, so the system takes its memory
back whenever both are closed, also where a process is killed.
"""

from __future__ import annotations

import io
import os
import pickle
import socket
import struct
import tempfile
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

import numpy

from nanotorch.tensor import Tensor

HEADER = struct.Struct("<QQ?")  # bytes of the pickle, number of buffers, whether a file follows
SMALL = 1 << 14  # bytes up to which a message goes through the socket itself
PASSES_FILES = hasattr(socket, "send_fds")


class _Pickler(ForkingPickler):
    """Pickles a tensor with the elements that it shows, not with the memory it is a view of."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        if value.is_cuda:
            raise RuntimeError(
                "DataLoader: a worker can only send tensors of the CPU, got one on "
                f"{value.device}; move the batch to the GPU in the training loop"
            )
        if value.requires_grad and not value.is_leaf:
            raise RuntimeError(
                "DataLoader: a worker cannot send a tensor with a graph (requires_grad=True, not a "
                "leaf), since autograd ends at the process; call detach() on it"
            )
        make, (kind, memory, required, place, attributes) = value.__reduce__()
        if memory.size > value.numel():
            memory, place = value._array.copy(), None
        return make, (kind, memory, required, place, attributes)


class Message(NamedTuple):
    """A message as it is sent: what goes through the socket, and the file with the rest, if any."""

    data: bytes
    file: Any


def packed(value: Any) -> Message:
    """A value as a message; an error for what no pickle holds, or where memory is used up."""
    stream = io.BytesIO()
    buffers: list[pickle.PickleBuffer] = []
    _Pickler(stream, pickle.HIGHEST_PROTOCOL, True, buffers.append).dump(value)
    parts = [stream.getbuffer(), *(buffer.raw() for buffer in buffers)]
    size, *sizes = (part.nbytes for part in parts)
    in_file = PASSES_FILES and size + sum(sizes) > SMALL
    head = HEADER.pack(size, len(sizes), in_file) + struct.pack(f"<{len(sizes)}Q", *sizes)
    if not in_file:
        return Message(b"".join([head, *parts]), None)
    file = _memory_file()
    for part in parts:
        while part.nbytes:  # the system writes at most 2 GB at once
            part = part[file.write(part) :]
    file.seek(0)
    return Message(head, file)


def send(channel: socket.socket, message: Message) -> None:
    """Sends a message, once; OSError where the other process is gone."""
    channel.sendall(message.data)
    if message.file is not None:
        with message.file as file:
            # A byte of its own carries the descriptor: what is sent in parts could lose it.
            socket.send_fds(channel, [b"f"], [file.fileno()])


def receive(channel: socket.socket) -> Any:
    """The next message; EOFError where the other process has closed its end or is gone."""
    size, count, in_file = HEADER.unpack(_read(channel, HEADER.size))
    sizes = struct.unpack(f"<{count}Q", _read(channel, 8 * count))
    parts: list[Any] = [numpy.empty(n, numpy.uint8) for n in (size, *sizes)]
    if not in_file:
        for part in parts:
            _fill(memoryview(part), channel.recv_into)
    else:
        with _file_from(channel) as file:
            for part in parts:
                _fill(memoryview(part), file.readinto)
    return pickle.loads(parts[0], buffers=parts[1:])


def _read(channel: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    _fill(memoryview(data), channel.recv_into)
    return bytes(data)


def _fill(memory: memoryview, read_into: Callable[[memoryview], int | None]) -> None:
    """Reads until the memory is full; EOFError where there is no more."""
    while memory.nbytes:
        count = read_into(memory)
        if not count:
            raise EOFError
        memory = memory[count:]


def _memory_file() -> Any:
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("nanotorch batch"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _file_from(channel: socket.socket) -> Any:
    """The file whose descriptor comes next."""
    byte, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
    if not byte:
        raise EOFError
    if not descriptors:  # the system drops it where this process may not open another one
        raise RuntimeError(
            "DataLoader: too many open files to receive a batch; close some, or raise `ulimit -n`"
        )
    return open(descriptors[0], "rb", buffering=0)
