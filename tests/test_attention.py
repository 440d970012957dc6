"""Attention and Transformers: PyTorch's numbers, names and errors; how memory grows."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import pytest

import nanotorch as nt
from nanotorch import nn
from nanotorch.backend import threads
from nanotorch.nn import functional as F, scaled_dot_product as blocks

attention = F.scaled_dot_product_attention
QUERY, KEY, VALUE = (2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 6)
LONG = ((1, 2, 300, 8), (1, 2, 500, 8), (1, 2, 500, 8))


def keys_that_count(length: int = 5, count: int = 7, nothing_for: Any = 2) -> Any:
    """A boolean mask without any key for one of the queries."""
    mask = nt.arange(length * count).reshape(length, count) % 3 > 0
    mask[nothing_for] = False
    return mask


# Shapes of query, key and value, options, and what makes a mask.
ATTENTION: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "plain": ((QUERY, KEY, VALUE), {}, None),
    "causal": ((QUERY, KEY, VALUE), {"is_causal": True}, None),
    "causal, more queries": (((2, 3, 9, 4), KEY, VALUE), {"is_causal": True}, None),
    "scale": ((QUERY, KEY, VALUE), {"scale": -0.3}, None),
    "two dimensions": ((QUERY[2:], KEY[2:], VALUE[2:]), {}, None),
    "three dimensions": ((QUERY[1:], KEY[1:], VALUE[1:]), {"is_causal": True}, None),
    "five dimensions": (((2, *QUERY), (2, *KEY), (2, *VALUE)), {}, None),
    "broadcast batch": ((QUERY, (1, *KEY[1:]), (1, *VALUE[1:])), {}, None),
    "grouped heads": (((2, 4, 5, 4), (2, 2, 7, 4), (2, 2, 7, 6)), {"enable_gqa": True}, None),
    "boolean mask": ((QUERY, KEY, VALUE), {}, keys_that_count),
    "padding": ((QUERY, KEY, VALUE), {}, lambda: nt.rand(2, 1, 1, 7) > 0.3),
    "bias per head": ((QUERY, KEY, VALUE), {}, lambda: nt.randn(3, 5, 7, dtype=nt.float64)),
    "bias, three dimensions": (
        (QUERY[1:], KEY[1:], VALUE[1:]), {}, lambda: nt.randn(3, 5, 7, dtype=nt.float64)
    ),
    "bias, five dimensions": (
        ((2, *QUERY), (2, *KEY), (2, *VALUE)), {}, lambda: nt.randn(2, 1, 5, 7, dtype=nt.float64)
    ),
    "trained bias": (
        (QUERY, KEY, VALUE), {}, lambda: nt.randn(5, 7, dtype=nt.float64).requires_grad_()
    ),
    "long": (LONG, {}, None),
    "long, causal": (LONG, {"is_causal": True}, None),
    "long, masked": (LONG, {}, lambda: keys_that_count(300, 500)),
    "no keys": ((QUERY, (2, 3, 0, 4), (2, 3, 0, 6)), {}, None),
    "no queries": (((2, 3, 0, 4), KEY, VALUE), {}, None),
    "no features": (((2, 3, 5, 0), (2, 3, 7, 0), VALUE), {}, None),
}  # fmt: skip


def pair(torch: Any, shape: Any, dtype: str = "float64") -> tuple[Any, Any]:
    """The same numbers as PyTorch's tensor and as ours, to differentiate by."""
    ours = nt.randn(*shape, dtype=nt.float64).to(getattr(nt, dtype))
    theirs = torch.tensor(ours.numpy())
    return theirs.requires_grad_(), ours.requires_grad_()


def theirs_of(torch: Any, x: Any) -> Any:
    """Our tensor, or anything else, as PyTorch's."""
    if not isinstance(x, nt.Tensor):
        return x
    return torch.tensor(x.detach().numpy()).requires_grad_(x.requires_grad)


def same(ours: Any, theirs: Any, tolerance: float = 1e-12) -> None:
    assert tuple(ours.shape) == tuple(theirs.shape)
    there = nt.tensor(theirs.detach().numpy())
    assert nt.allclose(ours.detach(), there, rtol=0, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_on_a_gpu_is_that_of_the_cpu(cuda: str, name: str) -> None:
    shapes, options, mask = ATTENTION[name]
    nt.manual_seed(0)
    inputs = [nt.randn(*shape, dtype=nt.float64) for shape in shapes]
    shown = None if mask is None else mask()
    results = []
    for device in ("cpu", "cuda"):
        given = [x.to(device).detach().requires_grad_() for x in inputs]
        there = None if shown is None else shown.detach().to(device)
        y = attention(*given, attn_mask=there, **options)
        (y * y.detach().cos()).sum().backward()
        results.append([y.detach(), *(x.grad for x in given)])
    for host, device in zip(*results, strict=True):
        assert device is not None and device.device.type == "cuda"
        assert nt.allclose(device.cpu(), host, rtol=0, atol=1e-12, equal_nan=True)


def walk_back(y: Any, module: Any) -> None:
    """Backward from a sum with weights that are the same for all libraries."""
    weights = nt.arange(y.numel()).reshape(y.shape).sin().to(nt.float64).numpy()
    (y * module.tensor(weights).to(y.dtype)).sum().backward()


@pytest.mark.torch
@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-5)])
def test_attention_has_pytorchs_numbers_and_gradients(
    name: str, dtype: str, tolerance: float
) -> None:
    torch = pytest.importorskip("torch")
    shapes, options, make_mask = ATTENTION[name]
    nt.manual_seed(0)
    pairs = [pair(torch, shape, dtype) for shape in shapes]
    mask = make_mask() if make_mask else None
    if mask is not None and mask.is_floating_point():
        mask = mask.detach().to(pairs[0][1].dtype).requires_grad_(mask.requires_grad)
    other = theirs_of(torch, mask)
    there = torch.nn.functional.scaled_dot_product_attention
    expected = there(*(x for x, _ in pairs), attn_mask=other, **options)
    y = attention(*(x for _, x in pairs), attn_mask=mask, **options)
    same(y, expected, tolerance)
    walk_back(expected, torch)
    walk_back(y, nt)
    for x, ours in [*pairs, *([(other, mask)] if name == "trained bias" else [])]:
        same(ours.grad, x.grad, tolerance)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("shapes", "options"),
    [
        (((4,), KEY, VALUE), {}),
        ((QUERY, (2, 3, 7, 3), VALUE), {}),
        ((QUERY, (2, 3, 6, 4), VALUE), {}),
        (((2, 4, 5, 4), (2, 2, 7, 4), (2, 2, 7, 4)), {}),
        (((2, 4, 5, 4), (2, 3, 7, 4), (2, 3, 7, 4)), {"enable_gqa": True}),
        ((QUERY, KEY, VALUE), {"attn_mask": nt.ones(5, 7), "is_causal": True}),
        ((QUERY, KEY, VALUE), {"attn_mask": nt.ones(5, 7, dtype=nt.int64)}),
        ((QUERY, KEY, VALUE), {"attn_mask": nt.ones(5, 7, dtype=nt.float64)}),
        ((QUERY, KEY, VALUE), {"attn_mask": nt.ones(5, 6)}),
        ((QUERY, KEY, VALUE), {"attn_mask": nt.ones(7)}),
        ((QUERY, KEY, VALUE), {"dropout_p": 1.5}),
    ],
    ids=str,
)
def test_what_pytorch_refuses_is_refused_with_the_same_error(shapes: Any, options: Any) -> None:
    torch = pytest.importorskip("torch")
    there = {name: theirs_of(torch, x) for name, x in options.items()}
    with pytest.raises((RuntimeError, IndexError)) as refused:
        torch.nn.functional.scaled_dot_product_attention(*map(torch.ones, shapes), **there)
    with pytest.raises(refused.type) as error:
        attention(*map(nt.ones, shapes), **options)
    assert "\n" not in str(error.value)


def numbers(*shapes: Any, dtype: Any = None) -> list[Any]:
    nt.manual_seed(0)
    return [nt.randn(*s, dtype=dtype or nt.float64).requires_grad_() for s in shapes]


@pytest.mark.parametrize(
    "options",
    [{}, {"is_causal": True}, {"attn_mask": keys_that_count()}, {"dropout_p": 0.4}],
    ids=lambda options: "".join(options),
)
def test_derivatives_of_first_and_second_order_are_those_of_differences(options: Any) -> None:
    inputs = numbers(QUERY[1:], KEY[1:], VALUE[1:])

    def function(*x: Any) -> Any:
        nt.manual_seed(3)  # the same noise each time
        return attention(*x, **options)

    assert nt.autograd.gradcheck(function, inputs, check_forward_ad="dropout_p" not in options)
    assert nt.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"dropout_p": 0.5}], ids=str)
@pytest.mark.parametrize("room", [64, 512, 4096, 1 << 20])
def test_blocks_of_any_size_give_what_all_weights_at_once_give(
    options: Any, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "HOST_BYTES", room)
    monkeypatch.setattr(blocks, "CAUSAL_ROWS", 16)
    monkeypatch.setattr(blocks, "THREADED", 0)
    inputs = numbers((2, 3, 40, 4), (2, 3, 50, 4), (2, 3, 50, 6))
    nt.manual_seed(1)
    y = attention(*inputs, **options)
    first = nt.autograd.grad(y.square().sum(), inputs)
    nt.manual_seed(1)
    y = attention(*inputs, **options)
    second = nt.autograd.grad(y.square().sum(), inputs, create_graph=True)
    for a, b in zip(first, second, strict=True):
        assert nt.allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("dtype", [nt.float32, nt.float64])
def test_scores_of_any_size_give_finite_weights_that_sum_to_1(size: float, dtype: Any) -> None:
    query, key, value = numbers(QUERY, KEY, VALUE, dtype=dtype)
    for mask in (None, keys_that_count(nothing_for=[])):
        y = attention(query * size, key * size, nt.ones_like(value), attn_mask=mask)
        assert (y - 1).abs().max() < 1e-5
        weights = blocks.weights_of(query * size, key * size, mask, False, 0.5)
        assert nt.allclose(
            attention(query * size, key * size, value, attn_mask=mask), weights @ value, atol=1e-4
        )


def test_a_query_that_no_key_counts_for_gives_zeros() -> None:
    for mask in (keys_that_count(), nt.where(keys_that_count(), 0.0, -math.inf).double()):
        inputs = numbers(QUERY, KEY, VALUE)
        y = attention(*inputs, attn_mask=mask)
        y.sum().backward()
        assert not y[:, :, 2].any()
        assert not inputs[0].grad[:, :, 2].any()
        assert all(x.grad.isfinite().all() for x in inputs)


def test_dropout_keeps_the_mean_repeats_with_the_seed_and_draws_anew_without() -> None:
    query, key, value = numbers((4, 4, 64, 8), (4, 4, 64, 8), (4, 4, 64, 8), dtype=nt.float32)
    ones = nt.ones_like(value)
    draws = []
    for seed in (1, 1, 2):
        nt.manual_seed(seed)
        draws.append(attention(query, key, ones, dropout_p=0.25))
    assert draws[0].tolist() == draws[1].tolist() != draws[2].tolist()
    assert abs(draws[0].mean().item() - 1) < 0.02
    assert attention(query, key, ones, dropout_p=1.0).abs().max() == 0


def test_a_frozen_input_gets_no_gradient_and_the_others_theirs() -> None:
    expected = numbers(QUERY, KEY, VALUE)
    attention(*expected).sum().backward()
    for frozen in range(3):
        inputs = numbers(QUERY, KEY, VALUE)
        inputs[frozen].requires_grad_(False)
        attention(*inputs).sum().backward()
        for place, (x, y) in enumerate(zip(inputs, expected, strict=True)):
            assert (x.grad is None) if place == frozen else nt.equal(x.grad, y.grad)


@pytest.mark.parametrize("options", [{"is_causal": True}, {"dropout_p": 0.1}], ids=str)
def test_memory_grows_with_the_length_and_not_with_its_square(options: Any) -> None:
    peaks = []
    for length in (512, 2048):
        inputs = numbers(*[(1, 1, length, 16)] * 3, dtype=nt.float32)
        tracemalloc.start()
        attention(*inputs, **options).sum().backward()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 5 * peaks[0]
    assert peaks[1] < 2048 * 2048 * 4 / 4


@pytest.mark.parametrize("pure", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_compiled_step_has_the_same_bits(pure: bool, dropout: float) -> None:
    inputs = numbers(QUERY, KEY, VALUE, dtype=nt.float32)

    def step() -> Any:
        for each in inputs:
            each.grad = None
        y = attention(*inputs, dropout_p=dropout, is_causal=True)
        y.square().sum().backward()
        return y

    def results(call: Any) -> Any:
        nt.manual_seed(2)
        return [(call().tolist(), [x.grad.tolist() for x in inputs]) for _ in range(4)]

    expected = results(step)
    assert (expected[0] == expected[1]) == (not dropout)
    got = results(nt.compile(step, pure=pure))
    assert got == expected


def test_autocast_computes_attention_in_16_bits() -> None:
    inputs = numbers(QUERY, KEY, VALUE, dtype=nt.float32)
    with nt.autocast("cpu"):
        y = attention(*inputs, attn_mask=nt.randn(5, 7))
    assert y.dtype is nt.bfloat16
    y.float().sum().backward()
    assert all(x.grad.dtype is nt.float32 for x in inputs)
    assert (y.float() - attention(*inputs)).isfinite().all()


def test_vmap_over_the_batch_gives_what_the_batch_gives() -> None:
    inputs = numbers(QUERY, KEY, VALUE)
    y = nt.vmap(attention)(*inputs)
    assert nt.allclose(y, attention(*inputs), rtol=0, atol=1e-14)


# --- layers ---------------------------------------------------------------------------------------

HEADS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no bias": {"bias": False},
    "trained key": {"add_bias_kv": True},
    "zero key": {"add_zero_attn": True},
    "sizes": {"kdim": 6, "vdim": 5},
    "batch first": {"batch_first": True},
    "all": {"add_bias_kv": True, "add_zero_attn": True, "batch_first": True, "kdim": 6},
}
PADDING = nt.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] * 4 + [True]])
CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no weights": {"need_weights": False},
    "weights of each head": {"average_attn_weights": False},
    "mask": {"attn_mask": ~keys_that_count(4, 5, 0).logical_or(nt.arange(4)[:, None] == 0)},
    "mask of each head": {"attn_mask": nt.randn(6, 4, 5, dtype=nt.float64), "need_weights": False},
    "padding": {"key_padding_mask": PADDING},
    "padding and mask": {
        "key_padding_mask": PADDING,
        "attn_mask": nt.tensor([[False, True, False, False, False]] * 4),
        "need_weights": False,
    },
}


def layers(kind: str, *arguments: Any, **options: Any) -> tuple[Any, Any, Any]:
    """(PyTorch, its layer, ours) from the same seed, after a comparison, in float64."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(3)
    theirs = getattr(torch.nn, kind)(*arguments, **options)
    nt.manual_seed(3)
    ours = getattr(nn, kind)(*arguments, **options)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        same(a, b, 0)
    return torch, theirs.double(), ours.double()


def compare(torch: Any, theirs: Any, ours: Any, pairs: Any, options: dict[str, Any]) -> None:
    """Outputs, and where they have any the gradients of inputs and parameters."""
    there = {name: theirs_of(torch, x) for name, x in options.items()}
    expected = theirs(*(x for x, _ in pairs), **there)
    result = ours(*(x for _, x in pairs), **options)
    if not isinstance(expected, tuple):
        expected, result = (expected, None), (result, None)
    for a, b in zip(result, expected, strict=True):
        if b is None:
            assert a is None
            continue
        same(a, b)
    if not expected[0].requires_grad:
        return
    for module, y in ((theirs, expected[0]), (ours, result[0])):
        module.zero_grad()
        walk_back(y, torch if module is theirs else nt)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        same(a.grad, b.grad, 1e-11)
    for b, a in pairs:
        same(a.grad, b.grad)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:Support for mismatched:UserWarning")
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", HEADS)
def test_multihead_attention_has_pytorchs_weights_names_and_numbers(name: str, call: str) -> None:
    options = HEADS[name]
    torch, theirs, ours = layers("MultiheadAttention", 8, 2, **options)
    first = options.get("batch_first")
    sizes = [(4, 8), (5, options.get("kdim", 8)), (5, options.get("vdim", 8))]
    pairs = [pair(torch, (3, n, e) if first else (n, 3, e)) for n, e in sizes]
    compare(torch, theirs, ours, pairs, CALLS[call])


@pytest.mark.torch
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("same_inputs", ["self", "memory", "single"])
def test_multihead_attention_of_one_tensor_and_of_one_sequence(
    same_inputs: str, first: bool
) -> None:
    torch, theirs, ours = layers("MultiheadAttention", 8, 2, batch_first=first)
    shape = (5, 8) if same_inputs == "single" else (5, 3, 8)
    x, memory = pair(torch, shape), pair(torch, shape)
    pairs = [x] * 3 if same_inputs == "self" else [x, memory, memory]
    later = nt.ones(5, 5, dtype=nt.bool).triu(1)
    calls: list[dict[str, Any]] = [{}]
    if not first or same_inputs == "single":
        calls.append({"attn_mask": later, "is_causal": True, "need_weights": False})
    if same_inputs == "single":
        calls.append({"key_padding_mask": nt.tensor([False, False, True, False, True])})
    for options in calls:
        compare(torch, theirs, ours, pairs, options)
        for a, b in {id(p): p for p in pairs}.values():
            a.grad = b.grad = None


TRANSFORMERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "norm first": {"norm_first": True},
    "batch first, gelu": {"batch_first": True, "activation": "gelu"},
    "no bias": {"bias": False},
    "wide norm": {"layer_norm_eps": 0.1},
}


@pytest.mark.torch
@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize("kind", ["TransformerEncoderLayer", "TransformerDecoderLayer"])
def test_a_transformers_layer_has_pytorchs_weights_names_and_numbers(kind: str, name: str) -> None:
    torch, theirs, ours = layers(kind, 8, 2, 16, dropout=0.0, **TRANSFORMERS[name])
    first = "batch_first" in TRANSFORMERS[name]
    own, shapes = ("src", [4]) if "Encoder" in kind else ("tgt", [4, 5])
    later = nn.Transformer.generate_square_subsequent_mask(4, dtype=nt.float64)
    padding = nt.tensor([[False, False, False, True]] * 3)
    for options in (
        {},
        {f"{own}_mask": later},
        {f"{own}_mask": later, "is_causal" if own == "src" else "tgt_is_causal": True},
        {f"{own}_key_padding_mask": padding},
    ):
        pairs = [pair(torch, (3, n, 8) if first else (n, 3, 8)) for n in shapes]
        compare(torch, theirs, ours, pairs, options)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("with_norm", [False, True])
def test_an_encoder_in_evaluation_has_zeros_where_pytorch_has_them(
    traced: bool, with_norm: bool
) -> None:
    torch, theirs, ours = layers("TransformerEncoderLayer", 8, 2, 16, batch_first=True)
    norms = [x.nn.LayerNorm(8).double() if with_norm else None for x in (torch, nt)]
    there = torch.nn.TransformerEncoder(theirs, 2, norms[0]).eval()
    here = nn.TransformerEncoder(ours, 2, norms[1]).eval()
    assert repr(here) == repr(there)
    assert list(here.state_dict()) == list(there.state_dict())
    at_the_end = nt.tensor([[0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 0, 0]]).bool()
    for padding in (at_the_end, at_the_end.flip(1)):
        with torch.set_grad_enabled(traced), nt.set_grad_enabled(traced):
            pairs = [pair(torch, (3, 4, 8))]
            compare(torch, there, here, pairs, {"src_key_padding_mask": padding})


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True:UserWarning")
@pytest.mark.parametrize("first", [False, True])
def test_a_whole_transformer_has_pytorchs_weights_names_and_numbers(first: bool) -> None:
    torch, theirs, ours = layers(
        *("Transformer", 8, 2, 2, 2, 16), dropout=0.0, batch_first=first, activation="gelu"
    )
    pairs = [pair(torch, (3, n, 8) if first else (n, 3, 8)) for n in (5, 4)]
    padding = nt.tensor([[False] * 4 + [True]] * 3)
    later = nn.Transformer.generate_square_subsequent_mask(4, dtype=nt.float64)
    assert later.dtype is nt.float64
    masks = {"tgt_mask": later, "memory_mask": nt.zeros(4, 5, dtype=nt.float64)}
    compare(torch, theirs, ours, pairs, {"src_key_padding_mask": padding, **masks})


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: nn.MultiheadAttention(7, 2), AssertionError, "divisible by num_heads"),
        (lambda: nn.MultiheadAttention(0, 2), ValueError, "greater than 0"),
        (
            lambda: nn.TransformerEncoderLayer(8, 2, activation="tanh"),
            RuntimeError,
            "activation should be relu/gelu, not tanh",
        ),
        (
            lambda: nn.Transformer(8, 2)(nt.ones(3, 2, 8), nt.ones(3, 1, 8)),
            RuntimeError,
            "batch number of src and tgt must be equal",
        ),
        (
            lambda: nn.MultiheadAttention(8, 2)(*[nt.ones(3, 2, 8)] * 3, is_causal=True),
            RuntimeError,
            "Need attn_mask",
        ),
        (
            lambda: nn.MultiheadAttention(8, 2)(*[nt.ones(3, 2, 8)] * 3, attn_mask=nt.ones(2, 3)),
            RuntimeError,
            r"should be \(3, 3\)",
        ),
        (
            lambda: nn.MultiheadAttention(8, 2)(*[nt.ones(3, 2, 6)] * 3),
            AssertionError,
            "embedding dimension of 8, but got 6",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(make: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words) as refusal:
        make()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("pure", [False, True])
def test_a_transformer_trains_and_a_compiled_one_alike(pure: bool) -> None:
    losses = []
    for compiled in (False, True):
        nt.manual_seed(0)
        model = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)  # with dropout
        optimizer = nt.optim.Adam(model.parameters(), lr=1e-2)
        x, y = nt.randn(4, 5, 8), nt.randn(4, 5, 8)

        def step(x: Any, y: Any, model: Any = model, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            loss = (model(x, y) - x).square().mean()
            loss.backward()
            optimizer.step()
            return loss

        call = nt.compile(step, pure=pure) if compiled else step
        losses.append([call(x, y).item() for _ in range(8)])
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]


def test_overlapping_blocks_of_one_blas_thread_put_the_number_of_threads_back() -> None:
    functions = threads._blas_functions()
    if functions is None:
        pytest.skip("needs the OpenBLAS of NumPy's wheels")
    setter, getter = functions
    before = getter()
    setter(2)
    try:
        first, second = threads.one_blas_thread(), threads.one_blas_thread()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)  # as another thread would
        assert getter() == 1
        second.__exit__(None, None, None)
        assert getter() == 2
    finally:
        setter(before)
