"""PyTorch's older spellings, and what NumPy, TensorBoard and absent names answer."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

import nanotorch as nt
from nanotorch import outside

CASES: dict[str, Callable[[Any], Any]] = {
    "sizes": lambda t: t.FloatTensor(2, 3).shape,
    "no sizes": lambda t: t.FloatTensor(),
    "a list": lambda t: t.FloatTensor([1, 2]),
    "a tuple": lambda t: t.DoubleTensor((2, 3)),
    "a shape": lambda t: t.FloatTensor(t.ones(2, 3).shape).shape,
    "an array": lambda t: t.FloatTensor(numpy.array([1.5])),
    "cut to integers": lambda t: t.LongTensor([1.7, -1.7]),
    "nested": lambda t: t.IntTensor([[1, 2], [3, 4]]),
    "bytes": lambda t: t.ByteTensor([1, 255]),
    "booleans": lambda t: t.BoolTensor([1, 0]),
    "short": lambda t: (t.ShortTensor([1]), t.CharTensor([1]), t.HalfTensor([1])),
    "of a tensor": lambda t: t.FloatTensor(t.ones(2, requires_grad=True)),
    "name": lambda t: (repr(t.FloatTensor), t.FloatTensor.dtype == t.float32),
    "isinstance": lambda t: [
        isinstance(t.ones(1, dtype=kind), t.LongTensor) for kind in (t.int64, t.float32)
    ],
    "type": lambda t: t.tensor([1.5]).type(t.LongTensor),
    "type by name": lambda t: t.tensor([1]).type("torch.DoubleTensor"),
    "type of": lambda t: [t.ones(1, dtype=k).type() for k in (t.bool, t.int8, t.bfloat16)],
    "Python's types": lambda t: [
        t.ones(2, dtype=float),
        t.tensor([1.5], dtype=int),
        t.tensor([2], dtype=complex),
        t.as_tensor([0, 1], dtype=bool),
        t.ones(2).to(float),
        t.ones(2).to(dtype=int),
        t.ones(2).sum(dtype=float),
        t.ones(2).prod(dtype=int),
        t.arange(3).mean(dtype=float),
        t.arange(2).cumsum(0, dtype=float),
        t.ones(2).softmax(0, dtype=float),
        t.ones(1).new_zeros(2, dtype=int),
        t.ones(1).new_tensor([2.5], dtype=int),
        t.ones(2).view(int),
        t.zeros_like(t.ones(2), dtype=bool),
        t.eye(2, dtype=int),
        t.randint(0, 1, (2,), dtype=float),
        t.nn.Linear(1, 1).to(float).weight.dtype == t.float64,
        t.finfo(float).bits,
        t.iinfo(int).max,
        t.promote_types(float, t.int64) == t.float64,
    ],
    "exponents of NumPy": lambda t: [
        t.tensor([3.0]) ** numpy.int64(2),
        t.tensor([3]) ** numpy.int64(2),
        t.tensor([3]) ** numpy.float32(2),
        numpy.float64(2) ** t.tensor([3.0]),
        t.tensor(3.0).pow(numpy.float64(0.5)),
        t.pow(t.tensor([4.0]), numpy.int32(2)),
    ],
    "einsum by numbers": lambda t: [
        t.einsum(t.ones(2, 3), [0, 1], t.ones(3, 4), [1, 2], [2, 0]).shape,
        t.einsum(t.ones(2, 3), [1, 0], t.ones(3), [0]).shape,
        t.einsum(t.ones(5, 2, 3), [..., 0, 1], t.ones(3, 4), [1, 2], [..., 0, 2]).shape,
        t.einsum("ij,jk", [t.ones(2, 3), t.ones(3, 4)]).shape,
    ],
    "broadcast_shapes": lambda t: [t.broadcast_shapes((2, 1), (3,), 1), t.broadcast_shapes((0, 1))],
    "broadcast_shapes refused": lambda t: t.broadcast_shapes((2,), (3,)),
    "can_cast": lambda t: [
        t.can_cast(one, other)
        for one in (t.bool, t.uint8, t.int64, t.float16, t.float64, t.complex64)
        for other in (t.bool, t.uint8, t.int64, t.float16, t.float64, t.complex64)
    ],
    "functions beside the functional ones": lambda t: [
        t.selu(t.ones(1)),
        t.celu(-t.ones(1)),
        t.dropout(t.ones(2), 0.5, False),
        t.pairwise_distance(t.ones(1, 2), t.zeros(1, 2)),
        t.matrix_power(t.ones(2, 2), 3),
    ],
    "cudnn": lambda t: importlib.import_module(f"{t.__name__}.backends.cudnn").is_available(),
    "einsum of fewer terms": lambda t: t.einsum("ij", t.ones(2, 3), t.ones(2, 3)),
    "memory formats": lambda t: [
        t.ones(2).is_contiguous(memory_format=t.contiguous_format),
        t.ones(2).contiguous(memory_format=t.contiguous_format),
        t.ones(2).clone(memory_format=t.preserve_format),
    ],
    "only inputs": lambda t: t.autograd.grad(
        (x := t.ones(2, requires_grad=True)).prod(), x, None, True, False, True
    ),
    "variable": lambda t: t.autograd.Variable(t.ones(2), requires_grad=True),
    "variable of a result": lambda t: t.autograd.Variable(t.ones(2, requires_grad=True) * 2),
    "is variable": lambda t: isinstance(t.ones(1), t.autograd.Variable),
    "empty variable": lambda t: t.autograd.Variable(),
    "constants": lambda t: (t.inf, t.pi, t.e, t.nan != t.nan, t.newaxis),
    "is_tensor": lambda t: (t.is_tensor(t.ones(1)), t.is_tensor(1)),
    "numel": lambda t: (t.numel(t.ones(2, 3)), t.is_complex(t.ones(1)), t.is_nonzero(t.ones(1))),
    "is_floating_point": lambda t: t.is_floating_point(t.ones(1)),
    "range": lambda t: (t.range(0, 3), t.range(1, 2, 0.25), t.range(3, 1, -1), t.range(2, 2)),
    "range of integers": lambda t: t.range(0, 3, dtype=t.int64),
    "concatenate": lambda t: (t.concatenate([t.ones(1), t.ones(2)]), t.concat([t.ones(1)])),
    "functional": lambda t: t.functional.F.relu(t.tensor([-1.0, 1.0])),
    "numpy's function": lambda t: numpy.sin(t.tensor([1.0, 2.0])),
    "numpy's function of one number": lambda t: numpy.exp(t.tensor(1.0)),
    "numpy's question": lambda t: numpy.isfinite(t.tensor([1.0, t.inf])),
    "numpy's two operands": lambda t: numpy.maximum(t.tensor([1.0, 2.0]), 1.5),
    "numpy into an array": lambda t: numpy.sin(t.tensor([1.0, 2.0]), out=numpy.zeros(2)),
    "numpy's sum": lambda t: numpy.add.reduce(t.tensor([1.0, 2.0])),
    "numpy's cumsum": lambda t: numpy.cumsum(t.tensor([1.0, 2.0])),
    "numpy with a gradient": lambda t: numpy.sin(t.ones(1, requires_grad=True)),
    "array": lambda t: numpy.stack([t.ones(2), t.zeros(2)]),
    "axis": lambda t: [
        getattr(t.tensor([[1.0, 3.0], [2.0, 0.5]]), name)(axis=1, keepdims=True)
        for name in (
            *("sum", "mean", "prod", "max", "min", "amax", "amin", "argmax", "argmin", "all"),
            *("any", "std", "var", "median", "logsumexp", "nansum"),
        )
    ],
    "axis alone": lambda t: [
        getattr(t, name)(t.tensor([[1.0, 3.0], [2.0, 0.5]]), axis=0)
        for name in (
            *("sum", "argmax", "cumsum", "cumprod", "softmax", "log_softmax", "sort", "argsort"),
            *("unsqueeze", "squeeze", "count_nonzero", "logsumexp"),
        )
    ],
    "axis of several": lambda t: (
        t.stack([t.ones(2), t.zeros(2)], axis=1),
        t.concatenate([t.ones(1, 2), t.zeros(1, 2)], axis=1),
    ),
    "no dim": lambda t: t.softmax(t.ones(2)),
    "an unknown keyword": lambda t: t.sum(t.ones(2), axes=0),
    "out": lambda t: [
        getattr(t, name)(t.tensor([0.5, 2.0]), out=t.zeros(2))
        for name in ("exp", "sin", "neg", "sigmoid", "floor", "round", "frac")
    ],
    "out of two": lambda t: [
        getattr(t, name)(t.tensor([0.5, 2.0]), t.tensor([1.0, 3.0]), out=t.zeros(2))
        for name in ("add", "sub", "mul", "div", "pow", "maximum", "atan2", "hypot", "fmod", "lt")
    ],
    "out is the result": lambda t: (lambda y: t.add(t.ones(2), 1, out=y) is y and y)(t.empty(2)),
    "out of products": lambda t: (
        t.mm(t.ones(2, 2), t.ones(2, 2), out=t.zeros(2, 2)),
        t.matmul(t.ones(2, 2), t.ones(2), out=t.zeros(2)),
    ),
    "out along a dimension": lambda t: (
        t.sum(t.ones(2, 3), 1, out=t.zeros(2)),
        t.cat([t.ones(1), t.zeros(1)], out=t.zeros(2)),
        t.cumsum(t.ones(3), 0, out=t.zeros(3)),
    ),
    "out of two results": lambda t: t.sort(
        t.tensor([3.0, 1.0]), out=(t.zeros(2), t.zeros(2, dtype=t.int64))
    )[1],
    "out in a view": lambda t: (lambda y: (t.exp(t.ones(2), out=y[1]), y)[1])(t.zeros(2, 2)),
    "out of another dtype": lambda t: t.add(t.ones(2), 1, out=t.zeros(2, dtype=t.float64)),
    "out resized": lambda t: (
        t.add(t.ones(2), 1, out=t.zeros(3)),
        t.add(t.ones(2), 1, out=t.empty(0)),
    ),
    "out None": lambda t: t.add(t.ones(2), 1, out=None),
    "out of a lower category": lambda t: t.add(t.ones(1), 1, out=t.zeros(1, dtype=t.int64)),
    "out with a gradient": lambda t: t.add(t.ones(1, requires_grad=True), 1, out=t.zeros(1)),
    "out that requires grad": lambda t: t.exp(t.ones(1), out=t.zeros(1, requires_grad=True)),
    "out within no_grad": lambda t: t.no_grad()(t.exp)(
        t.ones(1, requires_grad=True), out=t.zeros(1)
    ),
    "out of a method": lambda t: t.ones(1).add(1, out=t.zeros(1)),
    "out of a view": lambda t: t.reshape(t.ones(1), (1,), out=t.zeros(1)),
    "PyTorch's names": lambda t: (
        t.add(input=t.ones(2), other=2.0),
        t.exp(input=t.ones(2)),
        t.mul(input=t.ones(2), other=3.0),
        t.mm(input=t.ones(1, 2), mat2=t.ones(2, 1)),
        t.addmm(input=t.ones(1), mat1=t.ones(1, 2), mat2=t.ones(2, 1)),
        t.where(t.tensor([True]), input=t.ones(1), other=t.zeros(1)),
        t.softmax(input=t.ones(2), dim=0),
        t.unsqueeze(input=t.ones(2), dim=0),
        t.split(tensor=t.ones(2), split_size_or_sections=1),
        t.bucketize(input=t.ones(1), boundaries=t.tensor([0.0, 2.0])),
        t.swapaxes(t.ones(1, 2), axis0=0, axis1=1),
        t.outer(t.ones(1), vec2=t.ones(2)),
        t.sort(input=t.tensor([2.0, 1.0]), descending=True)[1],
    ),
    "dims by name": lambda t: (
        t.flip(t.arange(3), dims=[0]),
        t.arange(4).reshape(2, 2).flip(dims=(0, 1)),
        t.ones(1, 2).permute(dims=(1, 0)),
        t.tile(t.ones(2), dims=(2,)),
    ),
    "a name twice": lambda t: t.add(t.ones(1), t.ones(1), input=t.ones(1)),
    "a wrong name": lambda t: t.exp(y=t.ones(1)),
    "casts": lambda t: [
        getattr(t.tensor([1.5, 0.0]), name)()
        for name in (
            *("byte", "char", "short", "int", "long", "bool", "half", "bfloat16", "double"),
            *("cfloat", "cdouble"),
        )
    ],
    "new": lambda t: (
        t.ones(2, dtype=t.int32).new(2, 3).shape,
        t.ones(2, dtype=t.int32).new([1, 2]),
        t.ones(2).new(t.ones(2, 3).size()).shape,
        t.ones(2).new(),
    ),
    "place": lambda t: (t.ones(1, 2).ndimension(), t.ones(1).get_device()),
    "out of makers": lambda t: (
        t.zeros(2, out=t.ones(2)),
        t.arange(3, out=t.empty(3)),
        t.full((2,), 7, out=t.empty(2)),
        t.eye(2, out=t.empty(0)),
        t.linspace(0, 1, 3, out=t.empty(3, dtype=t.float64)),
        t.ones(2, layout=t.strided),
        t.zeros_like(t.ones(2), memory_format=t.preserve_format),
    ),
    "out of draws": lambda t: (
        t.manual_seed(0),
        t.randn(2, 2, out=t.empty(2, 2)),
        t.rand(3, out=t.empty(3, dtype=t.float64)),
        t.randperm(4, out=t.empty(4, dtype=t.int64)),
    )[1:],
    "asarray": lambda t: (t.asarray([1, 2]), t.asarray(numpy.ones(2), dtype=t.float32)),
    "detach": lambda t: t.detach(t.ones(1, requires_grad=True) * 2),
    "row_stack": lambda t: t.row_stack([t.ones(2), t.zeros(2)]),
    "formats": lambda t: (t.strided, t.contiguous_format),
    "an unknown keyword of a maker": lambda t: t.zeros(2, dtyp=t.int64),
    "in place": lambda t: [
        getattr(t.tensor([[0.25, 0.5], [0.75, 0.5]]), f"{name}_")(*operands)
        for name, operands in {
            "clip": (0.4, 0.6),
            "clamp_min": (0.5,),
            "clamp_max": (0.5,),
            "cumsum": (0,),
            "cumprod": (1,),
            "eq": (0.5,),
            "gt": (0.3,),
            "frac": (),
            "logical_not": (),
            "logit": (),
            "nan_to_num": (),
            "ne": (0.5,),
            "tril": (),
            "triu": (1,),
            "xlogy": (2.0,),
            "multiply": (2.0,),
            "subtract": (1.0,),
            "arcsin": (),
            "fill_diagonal": (7.0,),
        }.items()
    ],
    "in place with options": lambda t: (
        t.tensor([1.25, 2.0]).round_(decimals=1),
        t.tensor([5.0, 3.0]).div_(2.0, rounding_mode="floor"),
        t.tensor([0.0, 0.5]).logit_(0.25),
        t.tensor([1.0]).subtract_(2.0, alpha=3.0),
    ),
    "in place of integers": lambda t: t.tensor([3, 5]).bitwise_and_(6),
    "in place of a lower category": lambda t: t.tensor([3, 5]).logit_(),
    "in place with a gradient": lambda t: (lambda x: ((x * 2).tril_().sum().backward(), x.grad)[1])(
        t.ones(2, 2, requires_grad=True)
    ),
    "histogram": lambda t: t.histc(t.arange(6.0).sqrt(), bins=4),
    "histogram of a range": lambda t: t.arange(6.0).double().histc(bins=3, min=1, max=4),
    "histogram of equal values": lambda t: t.histc(t.ones(3), 4),
    "histogram of nothing": lambda t: t.histc(t.ones(0), 2),
    "histogram refused": lambda t: t.histc(t.ones(2), 2, 3, 1),
    "windows": lambda t: t.arange(7.0).unfold(dimension=0, size=3, step=2),
    "windows of a number": lambda t: t.tensor(2.0).unfold(0, 1, 1),
    "windows refused": lambda t: t.arange(3.0).unfold(0, 4, 1),
    "scatter_ value": lambda t: t.zeros(2, 2).scatter_(1, t.tensor([[1], [0]]), value=2.0),
    "scatter_ add": lambda t: t.ones(2).scatter_(0, t.tensor([0, 0]), 2.0, reduce="add"),
    "scatter_ refused": lambda t: t.zeros(2).scatter_(0, t.tensor([0])),
    "where method": lambda t: t.ones(2).where(t.tensor([True, False]), 3.0),
    "gumbel": lambda t: (t.manual_seed(0), t.nn.functional.gumbel_softmax(t.zeros(2, 3)))[1],
    "hard gumbel": lambda t: (
        t.manual_seed(1),
        t.nn.functional.gumbel_softmax(t.zeros(9, 3), tau=0.5, hard=True, dim=0),
    )[1],
    "old initializer": lambda t: t.nn.init.constant(t.empty(2), 3.0),
    "refused variable": lambda t: t.autograd.Variable([1]),
    "refused element": lambda t: t.FloatTensor(3.0),
    "refused dtype": lambda t: t.FloatTensor(t.ones(1, dtype=t.int64)),
    "refused range": lambda t: t.range(3, 0),
}


def outcome(case: Callable[[Any], Any], library: Any) -> str:
    """What a case gives, as it is printed, or the kind of its error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return repr(case(library))
        except (TypeError, RuntimeError) as error:
            return type(error).__name__


@pytest.mark.torch
@pytest.mark.parametrize("name", CASES)
def test_old_spellings_give_what_pytorch_gives(name: str) -> None:
    torch = pytest.importorskip("torch")
    assert outcome(CASES[name], nt) == outcome(CASES[name], torch)


@pytest.mark.torch
@pytest.mark.parametrize("name", ["xavier_uniform", "kaiming_normal", "normal", "orthogonal"])
def test_an_old_initializer_warns_as_pytorchs_and_draws_its_numbers(name: str) -> None:
    torch = pytest.importorskip("torch")
    values = []
    for library in (nt, torch):
        library.manual_seed(3)
        with pytest.warns(FutureWarning, match=f"`nn.init.{name}` is now deprecated"):
            values.append(getattr(library.nn.init, name)(library.empty(3, 4)).numpy())
    numpy.testing.assert_allclose(*values, rtol=1e-5, atol=1e-6)


def test_set_default_tensor_type_sets_the_dtype_of_floats() -> None:
    try:
        for kind in ("torch.DoubleTensor", nt.FloatTensor, nt.DoubleTensor):
            with pytest.warns(UserWarning, match="set_default_dtype"):
                nt.set_default_tensor_type(kind)
            assert nt.ones(1).dtype is (nt.float32 if kind is nt.FloatTensor else nt.float64)
        with pytest.warns(UserWarning), pytest.raises(TypeError, match="floating type"):
            nt.set_default_tensor_type("torch.LongTensor")
    finally:
        nt.set_default_dtype(nt.float32)


@pytest.mark.parametrize("name", outside.OUTSIDE)
def test_what_stays_out_says_what_to_use_instead(name: str) -> None:
    package: Any = nt
    *path, last = name.split(".")[1:]
    for part in path:
        package = getattr(package, part)
    with pytest.raises(AttributeError, match="is not part of NanoTorch; ") as error:
        getattr(package, last)
    assert "\n" not in str(error.value) and not hasattr(package, last)


def test_a_misspelled_name_is_an_ordinary_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'nanotorch' has no attribute 'zerros'"):
        nt.zerros  # noqa: B018


def test_a_summary_writer_takes_tensors(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    from nanotorch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("loss", nt.tensor(0.5, requires_grad=True), 1)
        writer.add_scalars("both", {"a": nt.tensor(1.0), "b": 2.0}, 1)
        writer.add_histogram("weights", nt.arange(10.0), 1)
        writer.add_image("image", nt.zeros(3, 4, 4), 1)
        writer.add_text("note", "text")
        writer.flush()
        assert writer.log_dir == str(tmp_path)
        with pytest.raises(AttributeError, match="viz"):
            writer.add_graph(None)
    assert sum(path.stat().st_size for path in tmp_path.glob("events*")) > 300


def test_a_variable_warns_of_volatile_alone() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert nt.autograd.Variable(nt.ones(1)).tolist() == [1]
    with pytest.warns(UserWarning, match="volatile was removed"):
        nt.autograd.Variable(nt.ones(1), volatile=True)


def test_a_writer_of_events_names_the_extra_that_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from nanotorch.utils.tensorboard import SummaryWriter

    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(RuntimeError, match=r"nanotorch\[tensorboard\]"):
        SummaryWriter()
