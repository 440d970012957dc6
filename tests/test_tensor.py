"""Tensors as values: making them, asking them, indexing and writing, and the errors they raise."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as arrays

import nanotorch as nt
from nanotorch.ops.indexing import add_at

# --- making ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "dtype", "shape"),
    [
        (1, nt.int64, ()),
        (1.5, nt.float32, ()),
        (True, nt.bool, ()),
        (2j, nt.complex64, ()),
        ([1, 2.5], nt.float32, (2,)),
        ([], nt.float32, (0,)),
        ([[], []], nt.float32, (2, 0)),
        ([[True, False]], nt.bool, (1, 2)),
        (range(3), nt.int64, (3,)),
        (numpy.float64(2), nt.float64, ()),
        (numpy.ones(2, "int8"), nt.int8, (2,)),
        ([nt.tensor(1.0), 2], nt.float32, (2,)),
    ],
)
def test_tensor_infers_dtype_and_shape(data: Any, dtype: nt.dtype, shape: tuple[int, ...]) -> None:
    x = nt.tensor(data)
    assert x.dtype is dtype and x.shape == shape


def test_tensor_copies_and_from_numpy_shares() -> None:
    array = numpy.zeros(3, "float32")
    copied, shared, as_it_is = nt.tensor(array), nt.from_numpy(array), nt.as_tensor(array)
    array[0] = 1
    assert copied[0] == 0 and shared[0] == 1 and as_it_is[0] == 1
    assert shared.numpy() is not None and numpy.shares_memory(shared.numpy(), array)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nt.tensor([[1, 2], [3]]), ValueError, "rectangular"),
        (lambda: nt.tensor("text"), TypeError, "expected numbers .* got str 'text'"),
        (lambda: nt.from_numpy([1]), TypeError, r"expected np.ndarray \(got list\)"),
        (lambda: nt.zeros(-1), RuntimeError, "negative dimension"),
        (lambda: nt.arange(1, 0), RuntimeError, "inconsistent with step sign"),
        (lambda: nt.arange(0, 1, 0), RuntimeError, "step must be nonzero"),
        (lambda: nt.ones(2, 3) @ nt.ones(2, 3), RuntimeError, r"mm: a \(2, 3\) and b \(2, 3\)"),
        (lambda: nt.ones(2) + nt.ones(3), RuntimeError, r"add: a \(2,\) and b \(3,\)"),
        (lambda: nt.ones(2) + "x", TypeError, "unsupported operand"),
        (lambda: nt.ones(2).view(3), RuntimeError, r"shape \[3\] is invalid for input of size 2"),
        (lambda: nt.ones(2, 3).t().view(6), RuntimeError, "use .reshape"),
        (lambda: nt.ones(2).sum(1), IndexError, "Dimension out of range"),
        (lambda: nt.ones(2)[2], IndexError, "out of bounds"),
        (lambda: nt.ones(())[0], IndexError, "0-dim tensor"),
        (lambda: nt.ones(2)[0.5], IndexError, "must be long, int, byte or bool"),
        (lambda: nt.ones(2)[::-1], ValueError, "step must be greater than zero"),
        (lambda: nt.ones(2).item(), RuntimeError, "2 elements cannot be converted"),
        (lambda: bool(nt.ones(2)), RuntimeError, "more than one value is ambiguous"),
        (lambda: len(nt.ones(())), TypeError, "0-d tensor"),
        (lambda: int(nt.ones(2)), RuntimeError, "cannot be converted"),
        (lambda: range(nt.ones(1)), TypeError, "only integer tensors"),
        (lambda: nt.ones(1, requires_grad=True).numpy(), RuntimeError, "detach"),
        (lambda: nt.cat([]), ValueError, "non-empty list"),
        (lambda: nt.stack([nt.ones(1), nt.ones(2)]), RuntimeError, "equal size"),
        (lambda: nt.tensor([1]).mean(), RuntimeError, "could not infer output dtype"),
        (lambda: nt.tensor([2]) ** -1, RuntimeError, "negative integer powers"),
        (lambda: nt.linalg.inv(nt.zeros(2, 2)), RuntimeError, r"inv: x \(2, 2\): .*[Ss]ingular"),
        (lambda: nt.ones(3).topk(4), RuntimeError, "k must be between 0 and the size 3"),
        (lambda: nt.ones(2).to("tpu"), RuntimeError, "expected 'cpu', 'cuda'"),
        (lambda: nt.ones(2).to(1.5), TypeError, "expected a dtype, a device or a Tensor"),
        (lambda: nt.exp("x"), TypeError, "exp: expected a Tensor among the operands, got str"),
        (lambda: nt.zeros(0).max(), RuntimeError, "zero-size"),
        (lambda: nt.zeros(0).argmax(), IndexError, "argmax"),
    ],
)
def test_errors_say_what_came_and_what_was_expected(
    make: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


def assigned(x: Any, value: Any) -> None:
    x[0] = value


REFUSED: dict[str, Callable[[Any], Any]] = {
    "float of several": lambda t: float(t.ones(2)),
    "int of none": lambda t: int(t.ones(0)),
    "item of several": lambda t: t.ones(2).item(),
    "None assigned": lambda t: assigned(t.ones(2), None),
    "a text assigned": lambda t: assigned(t.ones(2), "a"),
    "an index of floats": lambda t: t.ones(2)[t.ones(2)],
    "a matrix times a number": lambda t: t.ones(2, 2) @ 2,
    "a number times a matrix": lambda t: 2 @ t.ones(2, 2),
    "a matrix times a list": lambda t: t.ones(2, 2) @ [1, 2],
    "mm of a vector": lambda t: t.mm(t.ones(2, 2), t.ones(2)),
    "mm of a stack": lambda t: t.mm(t.ones(1, 2, 2), t.ones(2, 2)),
    "mv of a matrix": lambda t: t.mv(t.ones(2, 2), t.ones(2, 2)),
    "where of floats": lambda t: t.where(t.ones(2), t.ones(2), t.ones(2)),
    "a module in a parameter's place": lambda t: setattr(
        t.nn.Linear(1, 1), "weight", t.nn.Linear(1, 1)
    ),
    "a buffer in a parameter's place": lambda t: setattr(
        t.nn.Linear(1, 1), "weight", t.nn.Buffer(t.ones(1))
    ),
}


@pytest.mark.torch
@pytest.mark.parametrize("name", REFUSED)
def test_what_pytorch_refuses_is_refused_as_the_same_kind_of_error(name: str) -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(Exception) as theirs:
        REFUSED[name](torch)
    with pytest.raises(theirs.type):
        REFUSED[name](nt)


CREATION: dict[str, Callable[[Any], Any]] = {
    "zeros": lambda t: t.zeros(2, 3),
    "ones": lambda t: t.ones((2, 3), dtype=t.int32),
    "full": lambda t: (t.full((2,), 7), t.full((2,), 0.5), t.full((), True)),
    "eye": lambda t: (t.eye(3), t.eye(2, 3)),
    "arange": lambda t: (t.arange(5), t.arange(1, 2, 0.25), t.arange(5, 0, -2), t.arange(3.0)),
    "linspace": lambda t: (t.linspace(0, 1, 5), t.linspace(3, -1, 3, dtype=t.float64)),
    "logspace": lambda t: t.logspace(0, 2, 3),
    "like": lambda t: [
        getattr(t, name)(t.ones(2, 1, dtype=t.float64)) for name in ("zeros_like", "ones_like")
    ],
    "full_like": lambda t: t.full_like(t.ones(2), 3.5),
    "tril_indices": lambda t: (t.tril_indices(3, 4), t.triu_indices(3, 3, 1)),
    "new": lambda t: [
        t.ones(1, dtype=t.float64).new_zeros(2, 3),
        t.ones(1, dtype=t.int32).new_ones((2,)),
        t.ones(1).new_full((2,), 3.0, dtype=t.float64),
        t.ones(1, dtype=t.float64).new_tensor([1, 2]),
    ],
}


@pytest.mark.torch
@pytest.mark.parametrize("name", CREATION)
def test_creation_functions_give_what_pytorch_gives(name: str) -> None:
    torch = pytest.importorskip("torch")
    found, expected = (CREATION[name](library) for library in (nt, torch))
    single = not isinstance(expected, tuple | list)
    for ours, theirs in zip([found] if single else found, [expected] if single else expected):
        assert repr(ours.dtype) == repr(theirs.dtype)
        numpy.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-6)


# --- asking ---------------------------------------------------------------------------------------


def test_a_tensor_tells_its_form() -> None:
    x = nt.zeros(2, 3, dtype=nt.float64)
    assert x.shape == nt.Size([2, 3]) == (2, 3) and repr(x.shape) == "torch.Size([2, 3])"
    assert x.size() == (2, 3) and x.size(-1) == 3 and x.shape.numel() == x.numel() == 6
    assert x.ndim == x.dim() == 2 and len(x) == 2
    assert x.element_size() == 8 and x.nbytes == 48
    assert x.stride() == (3, 1) and x.t().stride() == (1, 3) and x.stride(0) == 3
    assert x.is_contiguous() and not x.t().is_contiguous() and x.contiguous() is x
    assert x.device == nt.device("cpu") and not x.is_cuda and x.is_floating_point()
    assert x.type() == "torch.DoubleTensor"
    assert isinstance(x.shape[:1], nt.Size)


def test_a_tensor_gives_python_numbers() -> None:
    x = nt.tensor([2.5])
    assert (x.item(), float(x), int(x), bool(x)) == (2.5, 2.5, 2, True)
    assert [10, 20, 30][nt.tensor(1)] == 20
    assert nt.tensor([[1, 2]]).tolist() == [[1, 2]]
    assert [int(row) for row in nt.arange(3)] == [0, 1, 2]
    assert 2 in nt.tensor([1, 2]) and 3 not in nt.tensor([1, 2])


def test_casts_and_copies() -> None:
    x = nt.tensor([1.7, 0.0])
    assert x.int().tolist() == [1, 0] and x.bool().tolist() == [True, False]
    assert x.double().dtype is nt.float64 and x.half().dtype is nt.float16
    assert x.to(nt.float32) is x and x.to(nt.float32, copy=True) is not x
    assert x.long().type_as(x).dtype is nt.float32
    y = x.clone()
    y.zero_()
    assert x[0] != 0


def test_deepcopy_and_pickle_keep_values_and_requires_grad() -> None:
    x = nt.ones(2, requires_grad=True)
    x.grad = nt.ones(2)
    for twin in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert twin.tolist() == x.tolist() and twin.requires_grad and twin is not x
    assert copy.deepcopy([x, x])[0] is not x
    with pytest.raises(RuntimeError, match="graph leaves"):
        copy.deepcopy(x * 2)


VIEWS: list[Callable[[nt.Tensor], nt.Tensor]] = [
    lambda x: x[1],
    lambda x: x.t(),
    lambda x: x[:, 1::2],
    lambda x: x.reshape(-1)[2:5],
    lambda x: x.detach(),
    lambda x: x.expand(2, 3, 4)[0],
]
DUPLICATES = [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("duplicate", DUPLICATES, ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("dtype", [nt.float32, nt.bfloat16, nt.int64, nt.bool])
def test_copies_share_memory_where_their_originals_do(
    view: Callable[[nt.Tensor], nt.Tensor], duplicate: Callable[[Any], Any], dtype: nt.dtype
) -> None:
    x = nt.zeros(3, 4, dtype=dtype)
    whole, part = duplicate([x, view(x)])
    assert part.shape == view(x).shape and part.stride() == view(x).stride()
    whole.fill_(1)
    assert bool((part == 1).all()) and not bool((x == 1).any())


LAYOUTS: dict[str, Callable[[], nt.Tensor]] = {
    "permuted memory": lambda: nt.arange(24.0).reshape(2, 3, 4).movedim(0, -1) * 1,
    "a view of permuted memory": lambda: (nt.arange(24.0).reshape(2, 3, 4).movedim(0, 1) * 1)[1:],
    "columns first": lambda: nt.arange(6.0).reshape(2, 3).T * 1,
    "every second": lambda: nt.arange(8.0)[::2],
    "backwards": lambda: nt.from_numpy(numpy.arange(8.0)[:2]).flip(0),
    "expanded": lambda: nt.arange(3.0)[:, None].expand(3, 4),
    "bytes": lambda: nt.from_numpy(numpy.frombuffer(bytes(range(24)), "u1").copy()),
    "every third of bytes": lambda: nt.from_numpy(
        numpy.frombuffer(bytearray(range(24)), "u1").reshape(2, 4, 3)[:, ::2, 1]
    ),
    "a number": lambda: nt.arange(3.0)[1],
    "nothing": lambda: nt.zeros(2, 0, 3).movedim(0, -1),
}


@pytest.mark.parametrize("duplicate", DUPLICATES, ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_copies_have_the_values_of_every_layout(
    layout: str, duplicate: Callable[[Any], Any]
) -> None:
    x = LAYOUTS[layout]()
    twin = duplicate(x)
    assert twin.tolist() == x.tolist() and twin.dtype is x.dtype and twin.shape == x.shape
    if x.numel():
        part = twin[:, 0] if layout == "expanded" else twin
        part += 1
        assert twin.tolist() != x.tolist()


def test_a_parameters_copy_has_no_gradient_and_a_tensors_has() -> None:
    for make, has in ((nt.nn.Parameter, False), (lambda x: x.requires_grad_(), True)):
        x = make(nt.ones(2))
        (x * 2).sum().backward()
        twin = copy.deepcopy(x)
        assert type(twin) is type(x) and twin.requires_grad and (twin.grad is not None) is has
    layer = nt.nn.Linear(2, 2)
    layer.tied = layer.weight
    assert copy.deepcopy(layer).tied is not layer.weight
    twin = copy.deepcopy(layer)
    assert twin.tied is twin.weight


@pytest.mark.parametrize("duplicate", DUPLICATES, ids=["deepcopy", "pickle"])
def test_copies_have_what_was_set_on_their_originals(duplicate: Callable[[Any], Any]) -> None:
    x = nt.ones(2)
    x.name = ["a"]  # type: ignore[attr-defined]
    twin = duplicate(x)
    assert twin.name == ["a"] and twin.name is not x.name  # type: ignore[attr-defined]
    assert not duplicate(nt.nn.Buffer(nt.ones(2), persistent=False)).persistent


def test_numpy_meets_tensors() -> None:
    x = nt.ones(2, dtype=nt.float64)
    assert isinstance(numpy.ones(2) * x, nt.Tensor)
    assert numpy.asarray(x) is x.numpy()
    assert numpy.from_dlpack(x).tolist() == [1.0, 1.0]
    assert nt.from_dlpack(numpy.ones(2)).dtype is nt.float64
    assert x.numpy().sum() == 2


def test_reductions_along_a_dimension_are_named_tuples() -> None:
    values, indices = result = nt.tensor([[1.0, 5.0], [7.0, 2.0]]).max(1)
    assert result.values is values and result.indices is indices
    assert repr(result).startswith("torch.return_types.max(\nvalues=tensor([5., 7.]),\nindices=")


def test_comparisons_are_elementwise_and_hash_is_by_identity() -> None:
    x, y = nt.tensor([1, 2]), nt.tensor([1, 3])
    assert (x == y).tolist() == [True, False] and (x != y).tolist() == [False, True]
    assert len({x, y, x}) == 2
    assert nt.equal(x, x.clone()) and not nt.equal(x, y)


# --- indexing -------------------------------------------------------------------------------------

SHAPES = arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)


@st.composite
def indexed(draw: Any) -> tuple[tuple[int, ...], tuple[Any, ...]]:
    """A shape, and a key that fits it: ints, slices forward, `...`, None, lists and masks."""
    shape = draw(SHAPES)
    key: list[Any] = []
    for size in shape[: draw(st.integers(0, len(shape)))]:
        kinds = ["slice", "slice"] + ["int", "list"] * (size > 0)
        kind = draw(st.sampled_from(kinds))
        if kind == "int":
            key.append(draw(st.integers(-size, size - 1)))
        elif kind == "list":
            key.append(draw(st.lists(st.integers(-size, size - 1), min_size=2, max_size=2)))
        else:
            bound = st.none() | st.integers(-size - 1, size + 1)
            key.append(slice(draw(bound), draw(bound), draw(st.sampled_from([None, 1, 2]))))
    if draw(st.booleans()):
        key.insert(draw(st.integers(0, len(key))), None)
    if draw(st.booleans()):
        key.append(Ellipsis)
    return shape, tuple(key)


def plain(key: tuple[Any, ...]) -> bool:
    """Whether NumPy reads the key as PyTorch does: it takes ints beside lists for index arrays."""
    lists = [isinstance(k, list) for k in key]
    return not (any(lists) and any(isinstance(k, int) for k in key))


@given(indexed())
def test_indexing_reads_what_numpy_reads(case: tuple[tuple[int, ...], tuple[Any, ...]]) -> None:
    shape, key = case
    array = numpy.arange(numpy.prod(shape, dtype=int)).reshape(shape)
    x = nt.tensor(array)
    if plain(key):
        numpy.testing.assert_array_equal(x[key].numpy(), array[key])
    if not any(isinstance(k, list) for k in key):
        assert x[key].numel() == 0 or numpy.shares_memory(x[key].numpy(), x.numpy())


@given(indexed())
def test_index_assignment_writes_what_numpy_writes(
    case: tuple[tuple[int, ...], tuple[Any, ...]],
) -> None:
    shape, key = case
    if plain(key):
        array = numpy.zeros(shape)
        x = nt.tensor(array)
        value = numpy.arange(array[key].size, dtype="float64").reshape(array[key].shape)
        x[key] = nt.tensor(value)
        array[key] = value
        numpy.testing.assert_array_equal(x.numpy(), array)


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("size", [3, 32], ids=["small slices", "large slices"])
@pytest.mark.parametrize("places", [[0, 2, 1, 2, 0], [-1, 1, -3], [], [1]], ids=str)
def test_what_is_added_at_indices_has_the_bits_of_numpys_at(
    places: list[int], size: int, dim: int, dtype: str
) -> None:
    draw = numpy.random.default_rng(0)
    shape = [size] * 3
    shape[dim] = 3
    ours = (draw.standard_normal(shape) * 50).astype(dtype)
    theirs = ours.copy()
    shape[dim] = len(places)
    values = (draw.standard_normal(shape) * 50).astype(dtype)
    key = (*(slice(None),) * dim, numpy.array(places, numpy.int64))
    add_at(numpy, ours, key, values)
    numpy.add.at(theirs, key, values)
    assert ours.tobytes() == theirs.tobytes()


def test_adding_at_an_index_outside_leaves_a_tensor_as_it_was() -> None:
    x = nt.zeros(3, 300)
    with pytest.raises(IndexError):
        x.index_put_((nt.tensor([0, 3]),), nt.ones(2, 300), accumulate=True)
    assert x.sum() == 0


@given(indexed())
def test_indexing_reads_what_pytorch_reads(case: tuple[tuple[int, ...], tuple[Any, ...]]) -> None:
    torch = pytest.importorskip("torch")
    shape, key = case
    array = numpy.arange(numpy.prod(shape, dtype=int)).reshape(shape)
    numpy.testing.assert_array_equal(
        nt.tensor(array)[key].numpy(), torch.tensor(array)[key].numpy()
    )


def test_masks_select_and_write() -> None:
    x = nt.tensor([[1.0, -2.0], [-3.0, 4.0]])
    assert x[x > 0].tolist() == [1.0, 4.0]
    x[x < 0] = 0
    assert x.tolist() == [[1.0, 0.0], [0.0, 4.0]]
    x[nt.tensor([True, False])] = nt.tensor([7.0, 8.0])
    assert x.tolist() == [[7.0, 8.0], [0.0, 4.0]]
    x[0] += 1
    assert x[0].tolist() == [8.0, 9.0]


def test_nan_and_infinity_raise_no_warnings() -> None:
    x = nt.tensor([0.0, -1.0, 1e30])
    assert nt.isinf(nt.log(x)[0]) and nt.isnan(nt.log(x)[1])
    assert nt.isinf((x * 1e30)[2]) and nt.isnan((x / x)[0])


def test_a_view_in_another_dtype_shows_the_bits_of_the_same_memory() -> None:
    x = nt.tensor([[1.0, -2.0], [0.5, 0.0]], requires_grad=True)
    bits = x.view(nt.int32)
    assert bits.tolist() == [[0x3F800000, -0x40000000], [0x3F000000, 0]]
    assert not bits.requires_grad and bits.view(nt.float32).tolist() == x.tolist()
    bits[0, 0] = 0x40400000
    assert x[0, 0].item() == 3.0 and x._version == 1
    assert x.view(nt.int16).shape == (2, 4) and x.view(nt.float64).shape == (2, 1)
    assert x.view(nt.float32).requires_grad
    for wrong, kind in ((nt.ones(3), nt.float64), (nt.ones(2, 3).t(), nt.int16)):
        with pytest.raises(RuntimeError, match=r"view: torch\.float32 of shape \(.*\) as torch\."):
            wrong.view(kind)


def test_a_tensor_over_the_memory_of_a_buffer() -> None:
    memory = bytearray(b"\x00\x00\x01\x00\x02\x00")
    x = nt.frombuffer(memory, dtype=nt.int16)
    assert x.tolist() == [0, 1, 2] and nt.frombuffer(memory, dtype=nt.uint8, offset=4)[0] == 2
    memory[0] = 7
    assert x[0] == 7 and nt.frombuffer(memory, dtype=nt.int16, count=1).shape == (1,)
    assert nt.frombuffer(b"abc", dtype=nt.uint8).tolist() == [97, 98, 99]
    with pytest.raises(ValueError):
        nt.frombuffer(memory, dtype=nt.int32)


@pytest.mark.parametrize("data", [2**63, [2**63, 1], [True, 2**63], -(2**63) - 1, [[1, 2**64]]])
def test_ints_beyond_int64_are_refused(data: Any) -> None:
    with pytest.raises(ValueError, match="overflow"):
        nt.tensor(data)


def test_large_ints_beside_floats_are_floats() -> None:
    assert nt.tensor([1.0, 2**70]).tolist() == [1.0, 2.0**70]
    assert nt.tensor([2**63 - 1, -(2**63)]).dtype is nt.int64


def test_a_range_beyond_int64_is_refused() -> None:
    with pytest.raises(RuntimeError, match="overflow"):
        nt.arange(2**63, 2**63 + 2)


@pytest.mark.torch
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 2, 1)])
@pytest.mark.parametrize("rows", [[0], [1, -1], [[0, 1], [1, 1]]])
def test_rows_by_number_lie_in_memory_as_those_of_pytorch(
    order: tuple[int, ...], rows: list[Any]
) -> None:
    torch = pytest.importorskip("torch")
    strides = []
    for library in (torch, nt):
        x = library.arange(24).reshape(2, 3, 4).permute(*order)
        y = x[library.tensor(rows, dtype=library.int64)]
        strides.append((tuple(y.shape), y.stride(), y.tolist()))
    assert strides[0] == strides[1]
