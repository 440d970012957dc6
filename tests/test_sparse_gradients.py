"""Row-sparse gradients of embeddings: what they are, what takes them, and that PyTorch agrees."""

from __future__ import annotations

import copy
import io
import math
import pickle
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nanotorch as nt
from nanotorch import nn, optim
from nanotorch.backend.row_sparse import put_rows
from nanotorch.distributed.gradients import GradientSum
from nanotorch.distributed.world import Alone, DistError
from nanotorch.serialization.tensors import sparse_tensor

NUMBERS = [[1, 2], [1, 3], [5, 1]]


def layer(module: Any, bag: str = "", padding: int | None = None, dtype: str = "float32") -> Any:
    """An embedding, or a bag, of 6 rows whose weights do not depend on a generator."""
    kind = getattr(module, dtype)
    weight = module.arange(12, dtype=module.float64).reshape(6, 2).sin().to(kind)
    if bag:
        return module.nn.EmbeddingBag(
            6, 2, mode=bag, sparse=True, padding_idx=padding, _weight=weight
        )
    return module.nn.Embedding(6, 2, sparse=True, padding_idx=padding, _weight=weight)


def backward(module: Any, model: Any, numbers: Any = NUMBERS) -> Any:
    """Adds the gradient of some loss; the weight."""
    y = model(module.tensor(numbers))
    factors = module.arange(y.numel(), dtype=module.float64).reshape(y.shape).cos().to(y.dtype)
    (y * y * factors).sum().backward()
    return model.weight


def gradient(**options: Any) -> Any:
    return backward(nt, layer(nt, **options)).grad


# --- what a row-sparse gradient is ----------------------------------------------------------------


def test_a_gradient_stores_the_rows_that_were_looked_up() -> None:
    g = gradient()
    assert g.is_sparse and g.layout is nt.sparse_coo and not nt.ones(2).is_sparse
    assert (g.shape, g.sparse_dim(), g.dense_dim(), g._nnz()) == (nt.Size([6, 2]), 1, 1, 6)
    assert g._indices().tolist() == [[1, 2, 1, 3, 5, 1]] and not g.is_coalesced()
    one = g.coalesce()
    assert one.is_coalesced() and one.coalesce() is one
    assert one.indices().tolist() == [[1, 2, 3, 5]] and one.values().shape == (4, 2)
    assert nt.equal(one.to_dense(), g.to_dense())
    assert g.detach().clone()._nnz() == 6


@pytest.mark.parametrize("name", ["indices", "values"])
def test_rows_are_shown_once_they_are_summed(name: str) -> None:
    with pytest.raises(RuntimeError, match=f"Cannot get {name} on an uncoalesced tensor"):
        getattr(gradient(), name)()
    with pytest.raises(RuntimeError, match=f"{name} expected sparse"):
        getattr(nt.ones(2), name)()


def test_what_needs_all_elements_is_refused_in_one_line() -> None:
    g = gradient()
    with pytest.raises(TypeError, match=r"Use Tensor\.to_dense\(\) first"):
        g.numpy()
    for call in (g.exp, g.tolist, g.max, g.t, lambda: g.view(-1), lambda: g[1], lambda: g + 1):
        with pytest.raises(NotImplementedError, match=r"call to_dense\(\) first") as error:
            call()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("padding", [None, 1, -1])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_its_values_are_those_of_the_dense_gradient_bit_by_bit(padding: Any, dtype: str) -> None:
    sparse, dense = (layer(nt, padding=padding, dtype=dtype) for _ in range(2))
    dense.sparse = False
    ours, theirs = backward(nt, sparse).grad, backward(nt, dense).grad
    assert ours.is_sparse and not theirs.is_sparse and ours.dtype is theirs.dtype
    assert nt.equal(ours.to_dense(), theirs)


@pytest.mark.parametrize("width", [1, 2, 7])
@pytest.mark.parametrize("count", [0, 1, 2, 9, 5000])
def test_rows_are_summed_in_the_order_of_a_dense_gradient(count: int, width: int) -> None:
    nt.manual_seed(count)
    numbers = nt.randint(0, 40, (count,))
    values = nt.randn(count, width)
    gradients = []
    for sparse in (True, False):
        table = nn.Embedding(40, width, sparse=sparse)
        (table(numbers) * values).sum().backward()
        gradients.append(table.weight.grad)
    ours, theirs = gradients
    assert nt.equal(ours.to_dense(), theirs)
    rows = ours.coalesce().indices().tolist()[0]
    assert rows == sorted(set(numbers.tolist()))


# --- accumulation, hooks, copies ------------------------------------------------------------------


def test_gradients_add_up_sparse_and_dense_in_any_order() -> None:
    once = gradient().to_dense()
    model = layer(nt)
    g = backward(nt, model).grad
    assert backward(nt, model).grad is g and g.is_sparse and nt.equal(g.to_dense(), 2 * once)
    (2.0 * model.weight).sum().backward()
    assert not model.weight.grad.is_sparse and nt.equal(model.weight.grad, 2 * once + 2)
    assert g.is_sparse  # what was handed out before stays as it is
    backward(nt, model)
    assert nt.allclose(model.weight.grad, 3 * once + 2)


@pytest.mark.parametrize("order", [1, -1])
def test_one_backward_pass_may_send_both_kinds(order: int) -> None:
    model = layer(nt)
    terms = [model(nt.tensor(NUMBERS)).sum(), (model.weight * 3.0).sum(), model.weight[0].sum()]
    sum(terms[::order]).backward()  # type: ignore[attr-defined]
    counts = nt.tensor([4.0, 6.0, 4.0, 4.0, 3.0, 4.0])
    assert nt.equal(model.weight.grad, counts.unsqueeze(1).expand(6, 2))


def test_hooks_see_it_and_may_replace_it() -> None:
    model, seen = layer(nt), []
    model.weight.register_hook(lambda g: (seen.append(g.is_sparse), g * 2)[1])
    model.weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.is_sparse))
    backward(nt, model)
    assert seen == [True, True]
    assert nt.equal(model.weight.grad.to_dense(), 2 * gradient().to_dense())


def test_it_is_copied_cleared_and_assigned() -> None:
    model = layer(nt)
    g = backward(nt, model).grad
    twin = copy.deepcopy(g)
    optim.SGD(model.parameters(), lr=1.0).zero_grad(set_to_none=False)
    assert g._nnz() == 0 and not g.to_dense().any() and twin._nnz() == 6
    model.weight.grad = twin
    assert model.weight.grad is twin
    model.zero_grad()
    assert model.weight.grad is None
    (same,) = nt.autograd.grad(model(nt.tensor([1, 1])).sum(), model.weight)
    assert same.is_sparse and model.weight.grad is None


def test_a_table_that_is_computed_hands_its_gradient_on() -> None:
    table = nt.ones(6, 2, requires_grad=True)
    nn.functional.embedding(nt.tensor([1, 1]), table * 3, sparse=True).sum().backward()
    assert table.grad is not None and table.grad.to_dense().tolist()[1] == [6.0, 6.0]


def test_a_second_derivative_passes_through_it() -> None:
    model = layer(nt, padding=3)
    (g,) = nt.autograd.grad((model(nt.tensor(NUMBERS)) ** 3).sum(), model.weight, create_graph=True)
    g.to_dense().sum().backward()
    dense = layer(nt, padding=3)
    dense.sparse = False
    (h,) = nt.autograd.grad((dense(nt.tensor(NUMBERS)) ** 3).sum(), dense.weight, create_graph=True)
    h.sum().backward()
    assert nt.allclose(nt.zeros(6, 2) + model.weight.grad, dense.weight.grad)


def test_anomaly_detection_finds_its_nan() -> None:
    model = layer(nt)
    with nt.autograd.detect_anomaly():
        y = model(nt.tensor([1]))
        with pytest.raises(RuntimeError, match="returned nan values"):
            (y * nt.tensor(float("nan"))).sum().backward()


@pytest.mark.parametrize("options", [{}, {"pure": True, "warn": False}], ids=str)
def test_a_compiled_step_gives_what_an_eager_step_gives(options: Any) -> None:
    weights = []
    for compiled in (False, True):
        model = layer(nt)
        optimizer = optim.SGD(model.parameters(), lr=0.1)

        def step(x: Any, model: Any = model, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            loss = (model(x) ** 2).sum()
            loss.backward()
            optimizer.step()
            return loss

        call = nt.compile(step, **options) if compiled else step
        for n in range(6):
            call(nt.tensor([[n % 6, 2], [1, 3]]))
        assert model.weight.grad.is_sparse
        weights.append(model.weight.detach())
    assert nt.equal(*weights)


# --- the optimizers -------------------------------------------------------------------------------


def trained(module: Any, name: str, options: Any, steps: int = 5, **kind: Any) -> Any:
    model = layer(module, **kind)
    optimizer = getattr(module.optim, name)(model.parameters(), **options)
    for n in range(steps):
        optimizer.zero_grad()
        backward(module, model, [[(n + row) % 6 for row in pair] for pair in NUMBERS[: 1 + n % 3]])
        optimizer.step()
    return model.weight, optimizer


STEPS: dict[str, tuple[str, dict[str, Any]]] = {
    "SGD": ("SGD", {"lr": 0.1}),
    "SGD, maximize": ("SGD", {"lr": 0.01, "maximize": True}),
    "momentum": ("SGD", {"lr": 0.05, "momentum": 0.9}),
    "momentum and dampening": ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.5}),
    "nesterov": ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "Adagrad": ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.2}),
    "SparseAdam": ("SparseAdam", {"lr": 0.05, "betas": (0.8, 0.9), "eps": 1e-4}),
    "SparseAdam, maximize": ("SparseAdam", {"maximize": True}),
}


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("bag", ["", "sum", "mean"])
def test_steps_are_pytorchs(name: str, bag: str) -> None:
    torch: Any = pytest.importorskip("torch")
    ours, optimizer = trained(nt, *STEPS[name], dtype="float64", bag=bag)
    theirs, reference = trained(torch, *STEPS[name], dtype="float64", bag=bag)
    assert nt.allclose(ours, nt.tensor(theirs.tolist(), dtype=nt.float64), rtol=0, atol=1e-9)
    state = optimizer.state[ours]
    assert state.keys() == reference.state[theirs].keys()
    for key, value in reference.state[theirs].items():
        if key != "step":
            assert state[key].is_sparse == value.is_sparse, key
            expected = nt.tensor(value.to_dense().tolist(), dtype=nt.float64)
            assert nt.allclose(state[key].to_dense(), expected, rtol=0, atol=1e-9), key


@pytest.mark.parametrize("name", ["SGD", "SGD, maximize", "momentum", "nesterov", "Adagrad"])
def test_a_sparse_step_is_the_dense_step(name: str) -> None:
    kind, options = STEPS[name]
    results = []
    for sparse in (True, False):
        model = layer(nt)
        model.sparse = sparse
        optimizer: Any = getattr(optim, kind)(model.parameters(), **options)
        for n in range(5):
            optimizer.zero_grad()
            backward(nt, model, [[n, n + 1, n]])
            optimizer.step()
        results.append(model.weight.detach())
    if "momentum" in options:
        assert nt.allclose(*results, atol=1e-6)
    else:
        assert nt.equal(*results)


@pytest.mark.parametrize("name", STEPS)
def test_state_is_saved_and_a_step_goes_on_from_it(name: str) -> None:
    kind, options = STEPS[name]
    weight, optimizer = trained(nt, kind, options)
    twin = nn.Parameter(weight.detach().clone())
    other: Any = getattr(optim, kind)([twin], **options)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for parameter, each in ((weight, optimizer), (twin, other)):
        each.zero_grad()
        nn.functional.embedding(nt.tensor([4, 1]), parameter, sparse=True).sum().backward()
        each.step()
    assert nt.equal(weight, twin)


@pytest.mark.torch
def test_momentum_of_dense_gradients_goes_on_with_sparse_ones() -> None:
    torch: Any = pytest.importorskip("torch")
    weights = []
    for module in (nt, torch):
        model = layer(module, dtype="float64")
        optimizer = module.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for n in range(4):
            optimizer.zero_grad()
            backward(module, model) if n else (model.weight**2).sum().backward()
            optimizer.step()
        weights.append(nt.tensor(model.weight.tolist(), dtype=nt.float64))
    assert nt.allclose(*weights, rtol=0, atol=1e-12)


REFUSALS = {
    "Adam": ({}, "Adam does not support sparse gradients, please consider SparseAdam instead"),
    "AdamW": ({}, "Adam does not support sparse gradients, please consider SparseAdam instead"),
    **{
        name: ({}, f"{name} does not support sparse gradients")
        for name in ("Adamax", "NAdam", "RAdam", "RMSprop", "Adadelta")
    },
    "SGD": ({"lr": 0.1, "weight_decay": 0.1}, "weight_decay option is not compatible with sparse"),
    "Adagrad": (
        {"weight_decay": 0.1},
        "weight_decay option is not compatible with sparse gradient",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_an_optimizer_that_needs_the_whole_gradient_refuses(name: str) -> None:
    options, words = REFUSALS[name]
    model = layer(nt)
    optimizer = getattr(optim, name)(model.parameters(), **options)
    before = backward(nt, model).detach().clone()
    with pytest.raises(RuntimeError, match=re.escape(words)):
        optimizer.step()
    assert nt.equal(model.weight, before)


@pytest.mark.torch
@pytest.mark.parametrize("name", [name for name in REFUSALS if name not in ("SGD", "Adagrad")])
def test_it_refuses_in_pytorchs_words(name: str) -> None:
    torch: Any = pytest.importorskip("torch")
    with pytest.raises(RuntimeError, match=re.escape(REFUSALS[name][1])):
        trained(torch, name, {})


def test_sparse_adam_refuses_dense_gradients_and_changes_nothing() -> None:
    model, weight = layer(nt), nn.Parameter(nt.ones(2))
    optimizer = optim.SparseAdam([*model.parameters(), weight])
    before = backward(nt, model).detach().clone()
    weight.sum().backward()
    with pytest.raises(
        RuntimeError, match="does not support dense gradients, please consider Adam"
    ):
        optimizer.step()
    assert nt.equal(model.weight, before)


def test_lbfgs_takes_it_as_a_dense_gradient() -> None:
    weights = []
    for sparse in (True, False):
        model = layer(nt)
        model.sparse = sparse
        optimizer = optim.LBFGS(model.parameters(), max_iter=3)

        def closure(model: Any = model, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            loss = ((model(nt.tensor(NUMBERS)) - 1) ** 2).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        weights.append(model.weight.detach())
    assert nt.equal(*weights)


def test_an_optimizer_of_ones_own_is_refused() -> None:
    class Plain(optim.Optimizer):
        @staticmethod
        def kernel(xp: Any, parameter: Any, gradient: Any, scratch: Any) -> None:
            xp.subtract(parameter, gradient, parameter)

    model = layer(nt)
    backward(nt, model)
    with pytest.raises(RuntimeError, match="Plain does not support sparse gradients"):
        Plain(model.parameters(), {}).step()


def test_a_step_and_its_backward_pass_make_no_array_of_the_tables_size() -> None:
    table = nn.Embedding(1 << 18, 4, sparse=True)
    optimizer = optim.SGD(table.parameters(), lr=0.1)
    numbers = nt.arange(64)
    for _ in range(2):
        tracemalloc.start()
        optimizer.zero_grad()
        table(numbers).sum().backward()
        optimizer.step()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < table.weight.nbytes / 20


# --- clipping and scaling -------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1.0, 2.0, float("inf")])
def test_clipping_knows_the_norm_of_the_whole_gradient(p: float) -> None:
    sparse, dense = layer(nt), layer(nt)
    dense.sparse = False
    for model in (sparse, dense):
        backward(nt, model)
        model.norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5, p)
    assert nt.allclose(sparse.norm, dense.norm) and sparse.weight.grad.is_sparse
    assert nt.allclose(sparse.weight.grad.to_dense(), dense.weight.grad)
    for model in (sparse, dense):
        nn.utils.clip_grad_value_(model.parameters(), 0.05)
    assert nt.allclose(sparse.weight.grad.to_dense(), dense.weight.grad)


def test_a_loss_scale_is_taken_out_of_it_and_infinities_are_seen() -> None:
    model = layer(nt)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    scaler = nt.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale((model(nt.tensor(NUMBERS)) ** 2).sum()).backward()
    scaler.unscale_(optimizer)
    expected = layer(nt)
    (expected(nt.tensor(NUMBERS)) ** 2).sum().backward()
    assert nt.allclose(model.weight.grad.to_dense(), expected.weight.grad.to_dense())
    scaler.step(optimizer)
    scaler.update()
    before = model.weight.detach().clone()
    optimizer.zero_grad()
    scaler.scale((model(nt.tensor([1])) * float("inf")).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert nt.equal(model.weight, before) and scaler.get_scale() == 4.0


def test_autocast_leaves_the_table_in_its_dtype() -> None:
    model = layer(nt)
    with nt.autocast("cpu", dtype=nt.float16):
        loss = model(nt.tensor(NUMBERS)) @ nt.ones(2, 1)
    loss.sum().backward()
    assert model.weight.grad.is_sparse and model.weight.grad.dtype is nt.float32


# --- beside PyTorch -------------------------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize("options", [{}, {"padding": 1}, {"bag": "sum"}, {"bag": "mean"}], ids=str)
def test_gradients_and_their_texts_are_pytorchs(options: Any) -> None:
    torch: Any = pytest.importorskip("torch")
    ours, theirs = (backward(m, layer(m, **options)).grad for m in (nt, torch))
    assert repr(ours) == repr(theirs)
    assert repr(ours.coalesce()) == repr(theirs.coalesce())
    for change in (
        lambda g: g * 2, lambda g: g / 4, lambda g: -g, lambda g: g.double(), lambda g: g.abs(),
        lambda g: g + g, lambda g: g * 0, lambda g: g.clone().zero_(), lambda g: g.sum(),
    ):  # fmt: skip
        assert repr(change(ours)) == repr(change(theirs))
    expected = theirs.to_dense().flatten().tolist()
    assert ours.to_dense().flatten().tolist() == pytest.approx(expected)


@pytest.mark.torch
def test_the_layers_print_as_pytorchs() -> None:
    torch: Any = pytest.importorskip("torch")
    for options in ({}, {"padding": 2}, {"bag": "sum"}):
        assert repr(layer(nt, **options)) == repr(layer(torch, **options))  # type: ignore[arg-type]


def test_a_bags_maximum_has_no_sparse_gradient() -> None:
    with pytest.raises(ValueError, match="max mode does not support sparse weights"):
        layer(nt, bag="max")(nt.tensor(NUMBERS))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("shape", [(9,), (9, 1), (9, 3), (9, 2, 2), (9, 0)], ids=str)
@pytest.mark.parametrize("order", "CF")
def test_rows_are_put_where_an_index_puts_them(shape: Any, dtype: str, order: str) -> None:
    values = np.arange(3 * math.prod(shape[1:]), dtype=dtype).reshape(3, *shape[1:])
    array, expected = (np.zeros(shape, dtype, order=order) for _ in range(2))
    rows = np.array([4, 0, 8])
    put_rows(array, rows, values)
    expected[rows] = values
    assert (array == expected).all()
    put_rows(array, rows[:0], values[:0])
    assert (array == expected).all()


# --- files and ranks -----------------------------------------------------------------------------


@pytest.mark.parametrize("coalesced", [False, True])
def test_it_is_pickled_and_saved(coalesced: bool) -> None:
    g = gradient().coalesce() if coalesced else gradient()
    file = io.BytesIO()
    nt.save({"g": g}, file)
    file.seek(0)
    for twin in (pickle.loads(pickle.dumps(g)), nt.load(file)["g"]):
        assert twin.is_sparse and twin.is_coalesced() == coalesced
        assert repr(twin) == repr(g) and nt.equal(twin.to_dense(), g.to_dense())


@pytest.mark.torch
def test_files_are_pytorchs_in_both_directions(tmp_path: Path) -> None:
    torch: Any = pytest.importorskip("torch")
    ours, theirs = (backward(m, layer(m)).grad for m in (nt, torch))
    nt.save(ours, tmp_path / "ours.pt")
    torch.save(theirs, tmp_path / "theirs.pt")
    assert repr(torch.load(tmp_path / "ours.pt", weights_only=True)) == repr(theirs)
    assert repr(nt.load(tmp_path / "theirs.pt")) == repr(ours)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ((nt.tensor([[7]]), nt.ones(1, 2), (6, 2), True), "outside of 6 rows"),
        ((nt.tensor([[-1]]), nt.ones(1, 2), (6, 2), True), "outside of 6 rows"),
        ((nt.tensor([[1], [1]]), nt.ones(1), (6, 2), True), "one sparse dimension"),
        ((nt.tensor([[1]]), nt.ones(1, 3), (6, 2), True), "do not fill 1 rows"),
        ((nt.tensor([[1]]), nt.ones(1, 2), (), True), "one sparse dimension"),
        ((nt.tensor([[1.0]]), nt.ones(1, 2), (6, 2)), "one sparse dimension"),
        ((nt.tensor([[1]]), nt.ones(1, 2)), "expected a tensor of layout"),
    ],
    ids=str,
)
def test_a_file_that_holds_no_sparse_tensor_is_refused(data: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sparse_tensor(nt.sparse_coo, data)


def test_rows_that_a_file_calls_coalesced_are_looked_at() -> None:
    x = sparse_tensor(nt.sparse_coo, (nt.tensor([[2, 1]]), nt.ones(2, 2), (6, 2), True))
    assert not x.is_coalesced() and x.coalesce().indices().tolist() == [[1, 2]]


def test_ranks_refuse_it_in_a_line() -> None:
    model = layer(nt)
    backward(nt, model)
    total = GradientSum(model.parameters(), Alone(), 2)
    with pytest.raises(
        DistError, match=r"row-sparse gradients are not added up over ranks"
    ) as error:
        total.add(0, 0.5, 1.0)
    assert "\n" not in str(error.value)
