"""Reading and adding by index on a GPU: values, the order of sums, launches, indices out of range.

Runs the kernels of `indexing.cu` and `sums.cu` through g++ on the look-alike of CuPy; and, where
there is a device, on CuPy itself (`pytest -m gpu`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import pytest
import strict_cupy

import nanotorch as nt
import nanotorch.nn.functional as F
from nanotorch import backend
from nanotorch.backend.cuda import indexing, kernels

pytestmark = pytest.mark.skipif(strict_cupy.COMPILER is None, reason="there is no g++")

KINDS = ["float16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"]
KINDS += ["complex64", "complex128"]
ADDED = ["float16", "float32", "float64", "int8", "int64", "bool", "complex64"]
# How many positions a block sorts: one block has them all, or several have their share.
WAYS = {"one block": 4096, "several blocks": 32}


@pytest.fixture
def launched(cuda: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that are launched from now on, by their C++ names."""
    found: list[str] = []

    def launch(xp: Any, file: str, kernel: str, kinds: str, *rest: Any) -> None:
        found.append(kernels.expression(kernel, kinds))
        kernels.launch(xp, file, kernel, kinds, *rest)

    monkeypatch.setattr(indexing, "launch", launch)
    return found


def drawn(shape: tuple[int, ...], kind: str, seed: int = 0) -> Any:
    """Values of which sums depend on the order, in all of a dtype's range."""
    generator = numpy.random.default_rng(seed)
    if kind == "bool":
        return generator.random(shape) < 0.3
    if kind.startswith(("int", "uint")):
        limits = numpy.iinfo(kind)
        return generator.integers(limits.min, limits.max, shape, kind, endpoint=True)
    values = generator.standard_normal(shape) * 10.0 ** generator.integers(-2, 3, shape)
    return (values * (1 + 2j) if kind.startswith("complex") else values).astype(kind)


def wide(kind: Any) -> Any:
    """What sums of a dtype are taken in."""
    return numpy.dtype("float32" if kind == "float16" else kind)


def added(x: Any, place: tuple[Any, ...], values: Any) -> Any:
    """x with the values added at the places one after the other, as the batch has them; those of a
    place that is named more often than PIECE in pieces of so many."""
    out = x.astype(wide(x.dtype))
    values = values.astype(out.dtype)
    if len(place) > 1 or place[0].size <= indexing.PIECE:
        numpy.add.at(out, place, values)
        return out.astype(x.dtype)
    (index,) = place
    pieces = numpy.empty(index.size, int)
    for n in numpy.unique(index):
        pieces[index == n] = numpy.arange((index == n).sum()) // indexing.PIECE
    for number in range(pieces.max() + 1):
        chosen = pieces == number
        part = out if number == 0 else numpy.zeros_like(out)
        numpy.add.at(part, index[chosen], values[chosen])
        if number:
            named = numpy.unique(index[chosen])
            out[named] += part[named]
    return out.astype(x.dtype)


def same(found: Any, expected: Any) -> bool:
    """Whether a tensor holds the very bits of a NumPy array."""
    array = found.cpu().numpy()
    return (array.dtype, array.shape) == (expected.dtype, expected.shape) and (
        array.tobytes() == numpy.ascontiguousarray(expected).tobytes()
    )


# --- reading --------------------------------------------------------------------------------------

ROWS, COLUMNS = numpy.array([2, 0, 2, -1, 1]), numpy.array([[0], [3]])
NONNEGATIVE = numpy.array([2, 0, 2, 1, 1])
ALONG = numpy.array([[0, 3, 2, 2, 0, 1], [1, 1, 1, 3, 2, 0], [2, 0, 3, 3, 0, 1]])
READS: dict[str, tuple[tuple[int, ...], Callable[[Any, Any], Any], Any]] = {
    "rows of 16 bytes": ((3, 8), lambda x, i: x[i(ROWS)], lambda x: x[ROWS]),
    "odd rows": ((3, 5), lambda x, i: x[i(ROWS)], lambda x: x[ROWS]),
    "elements": ((3,), lambda x, i: x[i(ROWS)], lambda x: x[ROWS]),
    "columns": ((2, 3, 4), lambda x, i: x[:, i(ROWS)], lambda x: x[:, ROWS]),
    "last": ((4, 3), lambda x, i: x[..., i(ROWS)], lambda x: x[..., ROWS]),
    "an index of two dimensions": ((4, 3), lambda x, i: x[i(COLUMNS)], lambda x: x[COLUMNS]),
    "two indices": ((3, 4, 2), lambda x, i: x[i(ROWS), i(COLUMNS)], lambda x: x[ROWS, COLUMNS]),
    "two later": ((2, 3, 4), lambda x, i: x[:, i(ROWS), i(COLUMNS)], lambda x: x[:, ROWS, COLUMNS]),
    "two apart": ((3, 2, 4), lambda x, i: x[i(ROWS), :, i(COLUMNS)], lambda x: x[ROWS, :, COLUMNS]),
    "of a view": ((4, 3), lambda x, i: x.T[i(ROWS)], lambda x: x.T[ROWS]),
    "of nothing": ((3, 0), lambda x, i: x[i(ROWS)], lambda x: x[ROWS]),
    "index_select": (
        (2, 3, 4), lambda x, i: x.index_select(1, i(NONNEGATIVE)), lambda x: x[:, NONNEGATIVE],
    ),
    "take": ((3, 4), lambda x, i: x.take(i(COLUMNS)), lambda x: x.reshape(-1)[COLUMNS]),
    "gather": (
        (4, 6), lambda x, i: x.gather(0, i(ALONG)),
        lambda x: numpy.take_along_axis(x, ALONG, 0),
    ),
    "gather of the beginning": (
        (5, 4, 2), lambda x, i: x.gather(1, i(ALONG[:, :, None])),
        lambda x: numpy.take_along_axis(x[:3, :, :1], ALONG[:, :, None], 1),
    ),
    "take_along_dim": (
        (4, 6), lambda x, i: nt.take_along_dim(x, i(ALONG - 4), 0),
        lambda x: numpy.take_along_axis(x, ALONG, 0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", READS)
def test_reading_gives_the_elements(name: str, kind: str, cuda: str) -> None:
    shape, read, expected = READS[name]
    x = drawn(shape, kind)
    for integers in ("int64", "int32"):
        y = read(
            nt.from_numpy(x).to("cuda"),
            lambda i, to=integers: nt.tensor(i.astype(to), device="cuda"),
        )
        assert same(y, expected(x))


def test_a_thread_that_copies_several_elements_finds_them_all(
    cuda: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "MOST_BLOCKS", 1)
    x, places = drawn((5, 7, 3), "float32"), numpy.arange(120) % 7
    rows, along = nt.tensor(places, device="cuda"), numpy.arange(5 * 90 * 3).reshape(5, 90, 3) % 7
    on_device = nt.from_numpy(x).to("cuda")
    assert same(on_device[:, rows], x[:, places])
    assert same(on_device[rows % 5, rows], x[places % 5, places])
    found = on_device.gather(1, nt.tensor(along, device="cuda"))
    assert same(found, numpy.take_along_axis(x, along, 1))


# --- adding ---------------------------------------------------------------------------------------

MANY_PLACES = numpy.random.default_rng(1).integers(0, 7, 90)
# Some of them more often than a piece has positions, one exactly as often.
FEW_PLACES = numpy.random.default_rng(4).permutation(
    numpy.repeat([0, 1, 2, 4], [3, indexing.PIECE, indexing.PIECE + 1, 1584])
)
APART = numpy.random.default_rng(2).integers(0, 3, 90)
LONG = numpy.random.default_rng(3).integers(0, 5, (70, 3))
# x's shape, the values' shape, the op, and the places that it adds to.
SUMS: dict[str, tuple[Any, Any, Callable[[Any, Any, Any], Any], Callable[[], Any]]] = {
    "index_add": (
        (7, 3), (90, 3), lambda x, v, i: x.index_add(0, i(MANY_PLACES), v),
        lambda: (MANY_PLACES,),
    ),
    "index_add along columns": (
        (2, 7, 20), (2, 90, 20), lambda x, v, i: x.index_add(1, i(MANY_PLACES), v),
        lambda: (slice(None), MANY_PLACES),
    ),
    "index_add of few places": (
        (5,), (2612,), lambda x, v, i: x.index_add(0, i(FEW_PLACES), v), lambda: (FEW_PLACES,),
    ),
    "index_put": (
        (3, 7, 2), (90, 2), lambda x, v, i: x.index_put((i(APART), i(MANY_PLACES)), v, True),
        lambda: (APART, MANY_PLACES),
    ),
    "index_put of negative indices": (
        (7,), (90,), lambda x, v, i: x.index_put((i(MANY_PLACES - 7),), v, True),
        lambda: (MANY_PLACES,),
    ),
    "scatter_add": (
        (5, 4), (70, 3), lambda x, v, i: x.scatter_add(0, i(LONG), v),
        lambda: (LONG, numpy.arange(3)),
    ),
    "scatter_add of few": (
        (4, 5), (3, 70), lambda x, v, i: x.scatter_add(1, i(LONG.T), v),
        lambda: (numpy.arange(3)[:, None], LONG.T),
    ),
    "scatter_add of a short index": (
        (5, 3), (2, 3), lambda x, v, i: x.scatter_add(0, i(LONG[:2]), v),
        lambda: (LONG[:2], numpy.arange(3)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ADDED)
@pytest.mark.parametrize("name", SUMS)
def test_each_place_is_added_up_in_the_order_of_the_batch(
    name: str, kind: str, way: str, cuda: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "SORTED", WAYS[way])
    shape, of_values, op, place = SUMS[name]
    x, values = drawn(shape, kind), drawn(of_values, kind, 1)
    tensors = [nt.from_numpy(a).to("cuda") for a in (x, values)]
    results = [op(*tensors, lambda i: nt.tensor(i, device="cuda")) for _ in range(5)]
    expected = added(x, place(), values)
    assert [same(y, expected) for y in results] == [True] * 5


GRADIENTS: dict[str, tuple[tuple[int, ...], Callable[[Any, Any], Any], Any]] = {
    "x[i]": ((7, 3), lambda x, i: x[i(MANY_PLACES)], (MANY_PLACES,)),
    "embedding": (
        (7, 3), lambda x, i: F.embedding(i(MANY_PLACES), x), (MANY_PLACES,),
    ),
    "index_select": (
        (3, 7), lambda x, i: x.index_select(1, i(MANY_PLACES)), (slice(None), MANY_PLACES),
    ),
    "take": ((7, 3), lambda x, i: x.take(i(LONG)), (LONG // 3, LONG % 3)),
    "gather": ((5, 4), lambda x, i: x.gather(0, i(LONG)), (LONG, numpy.arange(3))),
    "two apart": (
        (3, 2, 7), lambda x, i: x[i(APART), :, i(MANY_PLACES)], (APART, slice(None), MANY_PLACES),
    ),
    "a mask and an index": (
        (3, 7), lambda x, i: x[i(numpy.array([True, False, True])), i(numpy.array([4, 4]))],
        (numpy.array([0, 2]), numpy.array([4, 4])),
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", GRADIENTS)
def test_the_gradient_of_reading_is_the_same_in_every_run(
    name: str, kind: str, way: str, cuda: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "SORTED", WAYS[way])
    shape, read, place = GRADIENTS[name]
    gradients = []
    for _ in range(5):
        x = nt.from_numpy(drawn(shape, kind)).to("cuda").requires_grad_()
        y = read(x, lambda i: nt.tensor(i, device="cuda"))
        g = drawn(tuple(y.shape), kind, 1)
        y.backward(nt.from_numpy(g).to("cuda"))
        gradients.append(x.grad)
    expected = added(numpy.zeros(shape, kind), place, g)
    assert [same(found, expected) for found in gradients] == [True] * 5


@pytest.mark.parametrize("rows", [2, 255, 256, 300, 70_000])
@pytest.mark.parametrize("count", [1, 255, 257, 5000])
@pytest.mark.parametrize("way", WAYS)
def test_positions_are_sorted_by_place_and_else_stay_in_order(
    way: str, count: int, rows: int, cuda: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "SORTED", WAYS[way])
    xp = backend.cuda_module()
    index = numpy.random.default_rng(count + rows).integers(-rows, rows + 2, count)
    found = indexing._sorted(xp, xp.asarray(index), None, True, count, rows)
    places = numpy.where(index < 0, index + rows, index)
    places = numpy.where(places < rows, places, rows)  # outside
    order = numpy.argsort(places, kind="stable")
    for array, expected in zip(found, (places[order], order), strict=True):
        numpy.testing.assert_array_equal(array.get(), expected)


def test_weights_are_counted_in_order(cuda: str) -> None:
    weights = drawn((90,), "float32")
    found = nt.bincount(
        nt.tensor(MANY_PLACES, device="cuda"), nt.from_numpy(weights).to("cuda"), minlength=9
    )
    expected = added(numpy.zeros(9), (MANY_PLACES,), weights.astype("float64"))
    assert same(found, expected.astype("float32"))


def test_every_kernel_is_among_those_tried(
    launched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def index(i: Any) -> Any:
        return nt.tensor(i, device="cuda")

    for kind in ("uint8", "float16", "float32", "float64", "int64"):
        for shape, read, _ in READS.values():
            read(nt.from_numpy(drawn(shape, kind)).to("cuda"), index)
        for way in WAYS.values():
            monkeypatch.setattr(indexing, "SORTED", way)
            for shape, of_values, op, _ in SUMS.values():
                op(*(nt.from_numpy(drawn(s, kind)).to("cuda") for s in (shape, of_values)), index)
    assert set(launched) == {*kernels.instances("indexing"), *kernels.instances("sums")}


# --- launches -------------------------------------------------------------------------------------


def test_a_lookup_is_one_launch_and_its_gradient_a_fill_and_two(launched: list[str]) -> None:
    table = nt.randn(50, 8, device="cuda").requires_grad_()
    places = nt.tensor([[1, 4], [4, 0]], device="cuda")
    F.embedding(places, table)  # makes the word that notes indices out of range
    launched.clear()
    before = strict_cupy.counts.launches
    y = F.embedding(places, table)
    assert (launched, strict_cupy.counts.launches - before <= 1) == (["take_rows<Sixteen>"], True)
    y.backward(nt.ones_like(y))
    assert launched == ["take_rows<Sixteen>", "sort_by_digit", "add_sorted<float>"]


def test_large_sums_take_launches_whose_number_depends_on_shapes_alone(
    launched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "SORTED", 100)
    names = ["sort_by_digit", "sort_by_digit", "add_sorted<float>", "add_pieces<float>"]
    for places in (FEW_PLACES, FEW_PLACES * 0):
        nt.zeros(7, device="cuda").index_add(
            0, nt.tensor(places, device="cuda"), nt.ones(len(places), device="cuda")
        )
        assert launched == names
        launched.clear()


def test_a_step_with_lookups_and_sums_neither_copies_nor_waits(cuda: str) -> None:
    if cuda == "cupy":
        pytest.skip("only the look-alike counts")
    table = nt.nn.Embedding(20, 4, padding_idx=0).to("cuda")
    optimizer = nt.optim.SGD(table.parameters(), lr=0.1)
    places = nt.tensor([[1, 4, 0], [4, 0, 19]], device="cuda")
    target = nt.tensor([[0], [1]], device="cuda")
    table(places)
    with strict_cupy.no_transfers(), strict_cupy.no_synchronization():
        for _ in range(3):
            optimizer.zero_grad()
            y = table(places).sum(1)
            loss = y.log_softmax(1).gather(1, target).sum() + y[target[:, 0]].mean()
            (-loss).backward()
            optimizer.step()


# --- indices out of range -------------------------------------------------------------------------


def beyond(*indices: int) -> Any:
    return nt.tensor(list(indices), device="cuda")


OUTSIDE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "x[i]": (lambda x: x[beyond(0, 12)], "index: index 12 .* a dimension of size 3"),
    "x[:, i]": (lambda x: x[:, beyond(-5)], "index: index -5 .* a dimension of size 4"),
    "x[i, j]": (lambda x: x[beyond(0), beyond(4)], "index: index 4 .* a dimension of size 4"),
    "x.T[i]": (lambda x: x.T[beyond(4)], "index: index 4 .* a dimension of size 4"),
    "x[i] = v": (lambda x: write(x, beyond(3), 1.0), "index: index 3 .* a dimension of size 3"),
    "index_select": (
        lambda x: x.index_select(0, beyond(1, -1)), "index_select: index -1 .* of size 3",
    ),
    "embedding": (
        lambda x: F.embedding(beyond(3), x), "embedding: index 3 .* a table of 3 rows",
    ),
    "one_hot": (lambda x: F.one_hot(beyond(5), 5), "one_hot: class 5 .* for 5 classes"),
    "nll_loss": (lambda x: F.nll_loss(x, beyond(0, 4, 1)), "nll_loss: target 4 .* for 4 classes"),
    "nll_loss of uint8": (
        lambda x: F.nll_loss(x, beyond(0, 9, 1).byte(), reduction="none"),
        "nll_loss: target 9 .* for 4 classes",
    ),
    "take": (lambda x: x.take(beyond(12)), "take: index 12 .* a tensor of 12 elements"),
    "gather": (lambda x: x.gather(1, beyond(-1)[None]), "gather: index -1 .* of size 4"),
    "scatter": (lambda x: x.scatter(1, beyond(7)[None], 1.0), "scatter: index 7 .* of size 4"),
    "scatter_add": (
        lambda x: x.scatter_add(1, beyond(7)[None], x), "scatter_add: index 7 .* of size 4",
    ),
    "index_put": (
        lambda x: x.index_put((beyond(-4),), x[0], True), "index_put: index -4 .* of size 3",
    ),
    "index_add": (lambda x: x.index_add(0, beyond(-1), x[:1]), "index_add: index -1 .* of size 3"),
    "index_copy": (lambda x: x.index_copy(0, beyond(3), x[:1]), "index_copy: index 3 .* of size 3"),
    "index_fill": (lambda x: x.index_fill(0, beyond(3), 1.0), "index_fill: index 3 .* of size 3"),
}  # fmt: skip


def write(x: Any, key: Any, value: Any) -> Any:
    x[key] = value
    return x


WAITS: dict[str, Callable[[Any], Any]] = {
    "cpu": lambda y: y.cpu(),
    "tolist": lambda y: y.tolist(),
    "item": lambda y: y.sum().item(),
    "bool": lambda y: bool(y.sum() > 0),
    "print": lambda y: repr(y),
    "format": lambda y: f"{y.sum():.1f}",
    "synchronize": lambda y: nt.cuda.synchronize(),
    "another tensor": lambda y: nt.ones(2, device="cuda").tolist(),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_index_out_of_range_is_an_error_when_the_host_waits(name: str, cuda: str) -> None:
    op, message = OUTSIDE[name]
    x = nt.arange(12.0, device="cuda").reshape(3, 4)
    y = op(x)
    with pytest.raises(IndexError, match=f"^{message}.*found on cuda:0 after the fact"):
        y.tolist()
    numbers = abs(numpy.nan_to_num(y.cpu().numpy()))
    assert numpy.isin(numbers, range(24)).all()  # nothing from elsewhere


@pytest.mark.parametrize("name", WAITS)
def test_whatever_waits_tells_of_it_once(name: str, cuda: str) -> None:
    y = nt.ones(3, device="cuda")[beyond(3)]
    with pytest.raises(IndexError, match=r"^index: index 3 is out of range"):
        WAITS[name](y)
    WAITS[name](y)


def test_the_cpu_tells_of_the_same_in_the_same_words(cuda: str) -> None:
    host = nt.arange(12.0).reshape(3, 4)
    with pytest.raises(IndexError) as on_cpu:
        host.index_select(0, nt.tensor([1, -1]))
    with pytest.raises(IndexError) as on_gpu:
        host.cuda().index_select(0, beyond(1, -1)).cpu()
    assert str(on_gpu.value).startswith(f"{on_cpu.value} (found on cuda:0")


def test_an_index_into_nothing_is_refused_at_once(cuda: str) -> None:
    with pytest.raises(IndexError, match="embedding: every index is out of range for a table of 0"):
        F.embedding(beyond(0), nt.ones(0, 4, device="cuda"))


def test_the_first_of_two_ops_is_told_of(cuda: str) -> None:
    x = nt.ones(3, device="cuda")
    x.index_select(0, beyond(7))
    x.take(beyond(9))
    with pytest.raises(IndexError, match=r"^index_select: index 7"):
        x.tolist()


def test_a_read_copies_one_thing_more_only_after_a_check(cuda: str) -> None:
    if cuda == "cupy":
        pytest.skip("only the look-alike counts")
    x = nt.ones(3, device="cuda")
    copies = []
    for read in (lambda: x, lambda: x[beyond(1)], lambda: x):
        y = read()
        before = strict_cupy.counts.d2h, strict_cupy.counts.synchronizations
        y.tolist()
        after = strict_cupy.counts.d2h, strict_cupy.counts.synchronizations
        copies.append((after[0] - before[0], after[1] - before[1]))
    assert copies == [(1, 1), (2, 1), (1, 1)]


def test_each_gpu_tells_of_its_own(cuda: str) -> None:
    if nt.cuda.device_count() < 2:
        pytest.skip("there is only one GPU")
    other = nt.ones(3, device="cuda:1")
    y = other[nt.tensor([5], device="cuda:1")]
    assert nt.ones(1, device="cuda:0").tolist() == [1.0]
    with pytest.raises(IndexError, match=r"index 5 .*found on cuda:1"):
        y.tolist()


def test_a_captured_step_notes_them_as_well(cuda: str) -> None:
    nt.manual_seed(0)
    table, target = nt.nn.Embedding(20, 4).to("cuda"), nt.tensor([0, 3, 1], device="cuda")

    def step(places: Any) -> Any:
        table.zero_grad()
        loss = F.cross_entropy(table(places), target)
        loss.backward()
        return loss.detach()

    compiled, losses = nt.compile(step, pure=True), []
    for places in ([1, 4, 1], [0, 19, 2], [5, 5, 5], [1, 4, 1]):
        losses.append(compiled(beyond(*places)).item())
    assert losses[0] == losses[3] != losses[2]
    assert cuda == "cupy" or strict_cupy.counts.graph_launches >= 2
    compiled(beyond(1, 20, 4))
    with pytest.raises(IndexError, match=r"^embedding: index 20 is out of range for a table of 20"):
        table.weight.grad.tolist()
    assert compiled(beyond(1, 4, 1)).item() == losses[0]


# --- devices --------------------------------------------------------------------------------------


def test_an_index_of_the_cpu_may_index_a_gpu_as_in_pytorch(cuda: str) -> None:
    x = nt.arange(3.0, device="cuda")
    y = x[nt.tensor([2, 0])]
    assert (y.is_cuda, y.tolist()) == (True, [2.0, 0.0])
    x[nt.tensor([True, False, True])] = 7.0
    assert x.tolist() == [7.0, 1.0, 7.0]


MIXED: dict[str, Callable[[Any, Any], Any]] = {
    "index": lambda x, i: x[i],
    "index_select": lambda x, i: x.index_select(0, i),
    "gather": lambda x, i: x.gather(0, i),
    "scatter_add": lambda x, i: x.scatter_add(0, i, x),
    "index_add": lambda x, i: x.index_add(0, i, x),
}


@pytest.mark.parametrize("name", MIXED)
def test_an_index_of_a_gpu_may_not_index_the_cpu(name: str, cuda: str) -> None:
    with pytest.raises(RuntimeError, match=r"^\w+: expected all tensors .* cpu and cuda:0$"):
        MIXED[name](nt.arange(3.0), nt.tensor([2, 0, 1], device="cuda"))


@pytest.mark.parametrize("name", [name for name in MIXED if name != "index"])
def test_an_index_of_the_cpu_is_refused_by_other_ops_than_brackets(name: str, cuda: str) -> None:
    with pytest.raises(RuntimeError, match=r"^\w+: expected all tensors .* cuda:0 and cpu$"):
        MIXED[name](nt.arange(3.0, device="cuda"), nt.tensor([2, 0, 1]))


# --- extremes -------------------------------------------------------------------------------------

EXTREMES = ["float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64"]


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("reduce", ["amax", "amin"])
@pytest.mark.parametrize("kind", EXTREMES)
def test_extremes_at_repeated_places_are_the_cpus(
    cuda: str, kind: str, reduce: str, include_self: bool
) -> None:
    dtype = getattr(nt, kind)
    x, source = (
        nt.from_numpy(drawn((6, 40), "float64" if "float" in kind else kind, i)).to(dtype)
        for i in range(2)
    )
    if dtype.is_floating_point:
        source[0, :3] = nt.tensor([float("nan"), float("inf"), -float("inf")])
        x[0, 3:5], source[0, 3:5] = -0.0, 0.0
    index = nt.randint(0, 4, (6, 40))
    expected = x.scatter_reduce(0, index, source, reduce, include_self=include_self)
    there = [t.to("cuda") for t in (x, index, source)]
    y = there[0].scatter_reduce(0, there[1], there[2], reduce, include_self=include_self)
    assert y.dtype == dtype
    nt.testing.assert_close(y.cpu(), expected, rtol=0, atol=0, equal_nan=True)
