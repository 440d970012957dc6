"""DLPack both ways: the same memory in two libraries, in the order of their streams."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import strict_cupy

import nanotorch as nt
from nanotorch import backend


class Producer:
    """An object of another library, with memory of a device type of its own choice."""

    def __init__(self, tensor: Any, kind: int) -> None:
        self.tensor, self.kind = tensor, kind
        self.asked: list[dict[str, Any]] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, 0

    def __dlpack__(self, **wanted: Any) -> Any:
        self.asked.append(wanted)
        return self.tensor.__dlpack__(**wanted)


# --- on the CPU -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", [nt.float32, nt.float64, nt.float16, nt.int64, nt.int32, nt.uint8, nt.bool]
)
def test_the_memory_is_the_same_on_the_cpu(dtype: Any) -> None:
    x = nt.tensor([[1, 0, 1], [0, 1, 1]], dtype=dtype)
    for source in (x, x.T, x[:, 1:]):
        y, theirs = nt.from_dlpack(source), numpy.from_dlpack(source)
        assert y.dtype is dtype
        assert y.tolist() == theirs.tolist() == source.tolist()
        assert y.data_ptr() == theirs.ctypes.data == source.data_ptr()
    z = nt.from_dlpack(x)
    x.zero_()
    assert not z.any()


@pytest.mark.torch
def test_pytorch_and_we_share_memory() -> None:
    torch = pytest.importorskip("torch")
    x = nt.arange(6.0).reshape(2, 3)
    theirs = torch.from_dlpack(x)
    theirs += 1
    assert x.tolist() == theirs.tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    back = nt.from_dlpack(theirs)
    back.mul_(2)
    assert theirs[1, 2] == 12
    assert x.__dlpack_device__() == tuple(map(int, theirs.__dlpack_device__()))


def test_a_copy_is_made_when_asked_for_and_refused_where_it_is_not_allowed(cuda: str) -> None:
    x = nt.tensor([1.0, 2.0])
    y = nt.from_dlpack(x, copy=True)
    y.zero_()
    assert x.tolist() == [1.0, 2.0]
    assert nt.from_dlpack(x, copy=False).data_ptr() == x.data_ptr()
    moved = nt.from_dlpack(x, device="cuda")
    assert (str(moved.device), moved.tolist()) == ("cuda:0", [1.0, 2.0])
    assert nt.from_dlpack(moved, device="cpu").tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="cannot move from cpu to cuda:0 without a copy"):
        nt.from_dlpack(x, device="cuda:0", copy=False)


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "no __dlpack__": (lambda x: nt.from_dlpack([1.0]), TypeError, "__dlpack__.*got list"),
    "another device": (
        lambda x: nt.from_dlpack(Producer(x, 8)), BufferError, "got device type 8",
    ),
    "a gradient": (lambda x: x.requires_grad_().__dlpack__(), BufferError, "use tensor.detach"),
    "a stream of the CPU": (lambda x: x.__dlpack__(stream=5), BufferError, "got stream=5"),
    "a stream that is no number": (
        lambda x: x.__dlpack__(stream="main"), TypeError, "expected an int as stream, got str",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_shared_is_refused(name: str) -> None:
    call, kind, words = REFUSED[name]
    with pytest.raises(kind, match=words):
        call(nt.tensor([1.0]))


# --- on a device ----------------------------------------------------------------------------------


def test_the_memory_is_the_same_on_a_device(cuda: str) -> None:
    x = nt.arange(6.0, device="cuda").reshape(2, 3)
    before = nt.cuda.memory_allocated()
    y = nt.from_dlpack(x)
    part = nt.from_dlpack(x[:, 1:].T)
    assert nt.cuda.memory_allocated() == before
    assert y.data_ptr() == x.data_ptr()
    x += 1
    assert y.tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    assert part.tolist() == [[2.0, 5.0], [3.0, 6.0]]
    assert x.__dlpack_device__() == (2, 0)
    copied = nt.from_dlpack(x, copy=True)
    copied.zero_()
    assert x.sum().item() == 21


def test_pinned_memory_says_what_it_is(cuda: str) -> None:
    pinned = nt.tensor([1.0, 2.0]).pin_memory()
    assert pinned.__dlpack_device__() == (3, 0)
    shared = nt.from_dlpack(pinned)
    assert shared.data_ptr() == pinned.data_ptr()
    assert numpy.from_dlpack(pinned).tolist() == [1.0, 2.0]


@pytest.mark.parametrize("stream", [0, -2])
def test_a_stream_that_dlpack_does_not_know_is_refused(stream: int, cuda: str) -> None:
    with pytest.raises(BufferError, match=f"the address of a CUDA stream, got {stream}"):
        nt.ones(2, device="cuda").__dlpack__(stream=stream)


def test_the_consumer_names_its_stream_and_the_producer_orders_it(cuda: str) -> None:
    x = nt.ones(3, device="cuda")
    producer = Producer(x, 2)
    nt.from_dlpack(producer)
    assert producer.asked[-1]["stream"] == 1  # CUDA's name for the default stream
    stream = nt.cuda.Stream()
    with nt.cuda.stream(stream):
        nt.from_dlpack(producer)
    assert producer.asked[-1]["stream"] == stream.cuda_stream
    stream.synchronize()


@pytest.mark.parametrize("given", ["none", "one", "address"])
def test_work_of_the_consumer_comes_after_that_of_the_producer(given: str, cuda: str) -> None:
    ours, theirs = nt.cuda.Stream(), nt.cuda.Stream()
    consumer = theirs if given == "address" else nt.cuda.default_stream()
    with nt.cuda.stream(ours):
        x = nt.ones(1000, device="cuda")
        for _ in range(20):
            x = x + 1
        x.__dlpack__(stream={"none": None, "one": 1}.get(given, consumer.cuda_stream))
    with nt.cuda.stream(consumer):
        assert x.sum().item() == 21_000  # out of order, the look-alike would raise
    nt.cuda.synchronize()


def test_without_an_order_none_is_made() -> None:
    backend.register_cuda_module(strict_cupy)
    try:
        ours, theirs = nt.cuda.Stream(), nt.cuda.Stream()
        with nt.cuda.stream(ours):
            x = nt.ones(3, device="cuda")
            x.__dlpack__(stream=-1)
        with nt.cuda.stream(theirs), pytest.raises(strict_cupy.OutOfOrder):
            x + 1
        nt.cuda.synchronize()
    finally:
        backend.register_cuda_module(None)


def test_memory_of_another_device_is_shared_on_that_device(cuda: str) -> None:
    if nt.cuda.device_count() < 2:
        pytest.skip("there is only one GPU")
    x = nt.ones(3, device="cuda:1")
    y = nt.from_dlpack(x)
    assert (str(y.device), y.data_ptr()) == ("cuda:1", x.data_ptr())
    assert x.__dlpack_device__() == (2, 1)


@pytest.mark.gpu
@pytest.mark.torch
def test_pytorch_and_we_share_memory_of_a_device() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch was built without CUDA")
    x = nt.arange(6.0, device="cuda").reshape(2, 3)
    theirs = torch.from_dlpack(x)
    assert theirs.data_ptr() == x.data_ptr()
    theirs += 1
    torch.cuda.synchronize()
    assert x.tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    back = nt.from_dlpack(theirs.T)
    assert back.data_ptr() == x.data_ptr()
    back.mul_(2)
    nt.cuda.synchronize()
    assert theirs.tolist() == [[2.0, 4.0, 6.0], [8.0, 10.0, 12.0]]


@pytest.mark.gpu
@pytest.mark.torch
def test_streams_of_pytorch_and_ours_are_in_order() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch was built without CUDA")
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        made = torch.zeros(1 << 22, device="cuda")
        for _ in range(50):
            made += 1
        ours = nt.from_dlpack(made)
    total = ours.sum()  # on our default stream, after what PyTorch's own stream was given
    assert total.item() == 50 * (1 << 22)
    x = nt.zeros(1 << 22, device="cuda")
    for _ in range(50):
        x += 1
    with torch.cuda.stream(side):
        assert torch.from_dlpack(x).sum().item() == 50 * (1 << 22)
    torch.cuda.synchronize()
