"""RNN, LSTM and GRU, their cells and packed sequences: PyTorch's numbers, names and errors."""

from __future__ import annotations

from typing import Any

import pytest

import nanotorch as nt
from nanotorch import nn
from nanotorch.nn.recurrence import GATES, Recurrence, composed
from nanotorch.nn.utils import rnn
from nanotorch.primitive import apply

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
KINDS = ["RNN", "LSTM", "GRU"]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two layers": {"num_layers": 2},
    "both directions": {"bidirectional": True},
    "two layers in both directions": {"num_layers": 2, "bidirectional": True},
    "batch first": {"batch_first": True},
    "no bias": {"bias": False, "num_layers": 2},
    "dropout": {"num_layers": 3, "dropout": 0.4},
}
CASES = [(kind, name, options) for kind in KINDS for name, options in OPTIONS.items()]
CASES += [
    ("RNN", "relu", {"nonlinearity": "relu", "bidirectional": True}),
    ("LSTM", "projection", {"proj_size": 2}),
    ("LSTM", "all", {"proj_size": 2, "num_layers": 2, "bidirectional": True, "batch_first": True}),
]


def both(kind: str, options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """(PyTorch, its layer, ours), both made after the same seed."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(3)
    theirs = getattr(torch.nn, kind)(4, 5, **options)
    nt.manual_seed(3)
    return torch, theirs, getattr(nn, kind)(4, 5, **options)


def numbers(torch: Any, shape: tuple[int, ...], grad: bool = True) -> tuple[Any, Any]:
    """The same random numbers as PyTorch's tensor and as ours."""
    theirs = torch.randn(shape)
    ours = nt.tensor(theirs.numpy())
    return theirs.requires_grad_(grad), ours.requires_grad_(grad)


def flat(result: Any) -> list[Any]:
    """The tensors of a nested tuple."""
    if isinstance(result, tuple):
        return [x for part in result for x in flat(part)]
    return [] if result is None else [result]


def same(ours: Any, theirs: Any, tolerance: float = 2e-6) -> None:
    for a, b in zip(flat(ours), flat(theirs), strict=True):
        assert tuple(a.shape) == tuple(b.shape)
        if b.is_floating_point():
            assert (nt.tensor(b.detach().numpy()) - a.detach()).abs().max() <= tolerance
        else:
            assert a.tolist() == b.tolist()


def walk_back(result: Any, seed: int, module: Any) -> None:
    """Backward from a weighted sum of all results."""
    module.manual_seed(seed)
    parts = [x for x in flat(result) if x.requires_grad]
    sum((x * module.randn(x.shape)).sum() for x in parts).backward()


@pytest.mark.torch
@pytest.mark.parametrize(("kind", "name", "options"), CASES, ids=lambda x: str(x)[:40])
def test_a_layer_has_pytorchs_weights_names_numbers_and_gradients(
    kind: str, name: str, options: dict[str, Any]
) -> None:
    torch, theirs, ours = both(kind, options)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    same(tuple(ours.state_dict().values()), tuple(theirs.state_dict().values()), 0)
    x, a = numbers(torch, (3, 6, 4) if options.get("batch_first") else (6, 3, 4))
    torch.manual_seed(8)
    expected = theirs(x)
    nt.manual_seed(8)
    result = ours(a)
    same(result, expected)
    walk_back(expected, 1, torch)
    walk_back(result, 1, nt)
    same(a.grad, x.grad, 1e-5)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        same(p.grad, q.grad, 2e-5)


@pytest.mark.torch
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("single", [False, True], ids=["batch", "single"])
def test_a_layer_starts_from_the_state_it_is_called_with(kind: str, single: bool) -> None:
    torch, theirs, ours = both(kind, {"num_layers": 2, "bidirectional": True})
    x, a = numbers(torch, (6, 4) if single else (6, 3, 4))
    pairs = [numbers(torch, (4, 5) if single else (4, 3, 5)) for _ in range(2)]
    h, c = ([p[0] for p in pairs], [p[1] for p in pairs])
    expected = theirs(x, tuple(h) if kind == "LSTM" else h[0])
    result = ours(a, tuple(c) if kind == "LSTM" else c[0])
    same(result, expected)
    walk_back(expected, 1, torch)
    walk_back(result, 1, nt)
    for q, p in pairs[: 2 if kind == "LSTM" else 1]:
        same(p.grad, q.grad, 1e-5)


@pytest.mark.torch
@pytest.mark.parametrize("enforce_sorted", [True, False])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *((kind, {"num_layers": 2, "bidirectional": True}) for kind in KINDS),
        ("LSTM", {"proj_size": 3, "bidirectional": True}),
    ],
)
def test_packed_sequences_give_what_they_give_in_pytorch(
    kind: str, options: dict[str, Any], enforce_sorted: bool
) -> None:
    torch, theirs, ours = both(kind, options)
    lengths = [5, 3, 3, 1] if enforce_sorted else [3, 1, 5, 3]
    x, a = numbers(torch, (5, 4, 4))
    pack = torch.nn.utils.rnn.pack_padded_sequence
    packed = pack(x, torch.tensor(lengths), enforce_sorted=enforce_sorted)
    mine = rnn.pack_padded_sequence(a, nt.tensor(lengths), enforce_sorted=enforce_sorted)
    same(tuple(mine), tuple(packed))
    start = numbers(torch, (packed_layers := 4 if options.get("num_layers") else 2, 4, 5))
    projected = numbers(torch, (packed_layers, 4, options.get("proj_size", 5)))
    hx = [(projected[i], start[i]) if kind == "LSTM" else start[i] for i in range(2)]
    (output, last), (result, end) = theirs(packed, hx[0]), ours(mine, hx[1])
    assert isinstance(result, rnn.PackedSequence)
    same((tuple(result), end), (tuple(output), last))
    unpacked = torch.nn.utils.rnn.pad_packed_sequence(output, total_length=7, padding_value=2.0)
    padded = rnn.pad_packed_sequence(result, total_length=7, padding_value=2.0)
    same(padded, unpacked)
    walk_back((unpacked, last), 1, torch)
    walk_back((padded, end), 1, nt)
    same(a.grad, x.grad, 1e-5)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        same(p.grad, q.grad, 2e-5)


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["RNNCell", "LSTMCell", "GRUCell"])
@pytest.mark.parametrize("single", [False, True], ids=["batch", "single"])
@pytest.mark.parametrize("options", [{}, {"bias": False}], ids=str)
def test_a_cell_is_one_step_of_pytorchs(kind: str, single: bool, options: Any) -> None:
    torch, theirs, ours = both(kind, options)
    assert repr(ours) == repr(theirs) and list(ours.state_dict()) == list(theirs.state_dict())
    x, a = numbers(torch, (4,) if single else (3, 4))
    state, mine = None, None
    for _ in range(3):
        state, mine = theirs(x, state), ours(a, mine)
    same(mine, state)
    walk_back(state, 1, torch)
    walk_back(mine, 1, nt)
    same(a.grad, x.grad, 1e-5)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        same(p.grad, q.grad, 1e-5)


@pytest.mark.torch
@pytest.mark.parametrize("how", ["plain", "packed", "projection", "cell"])
@pytest.mark.parametrize("kind", KINDS)
def test_autocast_on_the_cpu_gives_pytorchs_dtypes_and_about_its_numbers(
    kind: str, how: str
) -> None:
    torch = pytest.importorskip("torch")
    if how == "projection" and kind != "LSTM":
        pytest.skip("only an LSTM has projections")

    def run(m: Any) -> list[Any]:
        m.manual_seed(3)
        options = {"proj_size": 2} if how == "projection" else {}
        layer = getattr(m.nn, kind + ("Cell" if how == "cell" else ""))(4, 5, **options)
        x: Any = m.randn(6, 4) if how == "cell" else m.randn(6, 3, 4)
        with m.autocast("cpu", dtype=m.bfloat16):
            pack = m.nn.utils.rnn.pack_padded_sequence
            result = layer(pack(x, m.tensor([6, 4, 2])) if how == "packed" else x)
        tensors = [x for x in flat(result) if x.is_floating_point()]
        tensors[0].float().square().sum().backward()
        gradients = [p.grad for p in layer.parameters()]
        return [(str(x.dtype), x.float().tolist()) for x in (*tensors, *gradients)]

    for (dtype, ours), (expected, theirs) in zip(run(nt), run(torch), strict=True):
        assert dtype.split(".")[-1] == expected.split(".")[-1]
        wanted = nt.tensor(theirs)  # bfloat16 has eight bits
        assert (nt.tensor(ours) - wanted).abs().max() <= 0.03 * wanted.abs().max()


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_derivatives_of_any_order_and_in_both_modes_are_right(kind: str) -> None:
    nt.manual_seed(0)
    layer = getattr(nn, kind)(2, 2, bidirectional=True).double()
    weights = [p.detach().requires_grad_() for p in layer.parameters()]
    names = [name for name, _ in layer.named_parameters()]
    packed = rnn.pack_padded_sequence(nt.randn(3, 2, 2).double(), [3, 2])

    def run(x: Any, *parameters: Any) -> Any:
        values = dict(zip(names, parameters, strict=True))
        inner = rnn.PackedSequence(x, packed.batch_sizes)
        return nt.func.functional_call(layer, values, (inner,))[0].data

    inputs = (packed.data.requires_grad_(), *weights)
    assert nt.autograd.gradcheck(run, inputs, check_forward_ad=True)
    some = (inputs[0], *(w.detach() for w in weights[:-1]), weights[-1])
    assert nt.autograd.gradgradcheck(run, some)


def test_a_step_of_an_lstm_is_at_most_four_primitives_forward() -> None:
    layer = nn.LSTM(3, 4)
    count = []
    for length in (4, 9):
        loss = layer(nt.randn(length, 2, 3))[0].sum()
        seen: set[Any] = set()
        stack = [loss.grad_fn]
        while stack:
            node = stack.pop()
            if node is not None and node not in seen:
                seen.add(node)
                stack += [below for below, _ in node.next_functions]
        count.append(len(seen))
    assert count[1] - count[0] <= 4 * 5


@pytest.mark.torch
def test_sequences_are_padded_and_packed_as_in_pytorch() -> None:
    torch = pytest.importorskip("torch")
    parts = [torch.arange(float(n)).reshape(n, 1) + n for n in (2, 4, 1)]
    ours = [nt.tensor(p.numpy()) for p in parts]
    theirs = torch.nn.utils.rnn
    for options in ({}, {"batch_first": True}, {"padding_value": -1.0, "padding_side": "left"}):
        same(rnn.pad_sequence(ours, **options), theirs.pad_sequence(parts, **options), 0)
    packed = theirs.pack_sequence(parts, enforce_sorted=False)
    mine = rnn.pack_sequence(ours, enforce_sorted=False)
    same(tuple(mine), tuple(packed), 0)
    same(rnn.pad_packed_sequence(mine), theirs.pad_packed_sequence(packed), 0)
    same(
        rnn.pad_packed_sequence(mine, batch_first=True),
        theirs.pad_packed_sequence(packed, batch_first=True),
        0,
    )
    padded = rnn.pad_sequence(ours)
    same(tuple(rnn.unpad_sequence(padded, nt.tensor([2, 4, 1]))), tuple(parts), 0)


def lstm(**options: Any) -> Any:
    return nn.LSTM(3, 4, **options)


MISTAKES: dict[str, tuple[Any, type[Exception], str]] = {
    "hidden size": (lambda: nn.LSTM(3, 0), ValueError, "hidden_size must be greater than zero"),
    "bias": (lambda: lstm(bias=1), TypeError, "bias should be of type bool, got: int"),
    "dropout": (lambda: lstm(dropout=2), ValueError, r"number in range \[0, 1\]"),
    "projection": (lambda: lstm(proj_size=4), ValueError, "smaller than hidden_size"),
    "projection of a GRU": (lambda: nn.GRU(3, 4, proj_size=2), ValueError, "only supported"),
    "nonlinearity": (lambda: nn.RNN(3, 4, nonlinearity="x"), ValueError, "Unknown nonlinearity"),
    "dimensions": (lambda: lstm()(nt.ones(3)), ValueError, "2D or 3D, got 1D"),
    "features": (lambda: lstm()(nt.ones(2, 2, 5)), RuntimeError, "Expected 3, got 5"),
    "dtype": (lambda: lstm()(nt.ones(2, 2, 3).double()), ValueError, "does not match weight"),
    "state": (
        lambda: lstm()(nt.ones(2, 2, 3), (nt.ones(1, 2, 4), nt.ones(1, 3, 4))),
        RuntimeError,
        r"Expected hidden\[1\] size \(1, 2, 4\), got \[1, 3, 4\]",
    ),
    "state of a single": (
        lambda: nn.GRU(3, 4)(nt.ones(2, 3), nt.ones(1, 1, 4)),
        RuntimeError,
        "unbatched 2-D",
    ),
    "order": (
        lambda: rnn.pack_padded_sequence(nt.ones(3, 2), [1, 3]),
        RuntimeError,
        "decreasing order",
    ),
    "empty": (lambda: rnn.pack_padded_sequence(nt.ones(3, 2), [1, 0]), RuntimeError, "than 0"),
    "count": (lambda: rnn.pack_padded_sequence(nt.ones(3, 2), [1]), RuntimeError, "batch_size"),
    "too long": (lambda: rnn.pack_padded_sequence(nt.ones(3, 1), [4]), RuntimeError, "at most 3"),
    "total length": (
        lambda: rnn.pad_packed_sequence(rnn.pack_sequence([nt.ones(3)]), total_length=2),
        ValueError,
        "at least the length",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_refused_by_name(name: str) -> None:
    call, error, message = MISTAKES[name]
    with pytest.raises(error, match=message):
        call()


def test_dropout_in_one_layer_warns() -> None:
    with pytest.warns(UserWarning, match="num_layers greater than 1"):
        lstm(dropout=0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_sequences_has_an_output_and_gradients_of_0(kind: str) -> None:
    layer = getattr(nn, kind)(3, 4, bidirectional=True)
    x = nt.randn(5, 0, 3, requires_grad=True)
    output, _ = layer(x)
    output.sum().backward()
    assert output.shape == (5, 0, 8) and x.grad.shape == (5, 0, 3)
    assert all((p.grad == 0).all() for p in layer.parameters())


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("mode", GATES)
@pytest.mark.parametrize(
    ("sizes", "width"),
    [((3,) * 4, 5), ((4, 4, 3, 1), 5), ((32,) * 12, 128), ((32, 32, 32, 9), 128)],
    ids=["equal", "packed", "in blocks of columns", "packed, in blocks of columns"],
)
def test_the_kernels_of_a_layer_compute_what_small_ops_do(
    sizes: tuple[int, ...], width: int, mode: str, backwards: bool
) -> None:
    def results(fused: bool) -> list[Any]:
        nt.manual_seed(0)
        shapes = [(sum(sizes), GATES[mode] * width), (sizes[0], width)]
        shapes += [(sizes[0], width)] if mode == "LSTM" else []
        shapes += [(GATES[mode] * width, width)] + ([(3 * width,)] if mode == "GRU" else [])
        made = [nt.randn(shape).div(width**0.5).requires_grad_() for shape in shapes]
        inputs: list[Any] = [*made]
        if mode != "LSTM":
            inputs.insert(2, None)
        inputs += [None] * (5 - len(inputs))
        options = {"mode": mode, "batch_sizes": sizes, "backwards": backwards}
        y = (
            apply(Recurrence, *inputs, **options, with_gates=True)
            if fused
            else composed(inputs, (mode, sizes, backwards), mode == "LSTM")
        )
        states = y[:2]
        (states * nt.randn(states.shape)).sum().backward()
        return [y.detach(), *(x.grad for x in made)]

    for fused, composition in zip(results(True), results(False), strict=True):
        assert fused.shape == composition.shape
        assert (fused - composition).abs().max() <= 2e-5 * composition.abs().max()


def test_a_compiled_step_of_an_lstm_has_the_bits_of_an_eager_one() -> None:
    def trained(compiled: bool) -> list[Any]:
        nt.manual_seed(0)
        layer = lstm(num_layers=2)
        optimizer = nt.optim.SGD(layer.parameters(), lr=0.1)

        def step(x: Any) -> Any:
            optimizer.zero_grad()
            loss = (layer(x)[0] ** 2).mean()
            loss.backward()
            optimizer.step()
            return loss

        run = nt.compile(step) if compiled else step
        losses = [run(nt.full((5, 2, 3), 0.5)).item() for _ in range(4)]
        return [losses, *(p.tolist() for p in layer.parameters())]

    assert trained(True) == trained(False)
