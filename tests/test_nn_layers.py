"""Layers and functions of nn: the values, gradients and errors of PyTorch's."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest

import nanotorch as nt
from nanotorch import nn
from nanotorch.nn import functional as F

Make = Callable[[Any], Any]  # from the nn module to a layer


def values(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


LAYERS: dict[str, tuple[Make, list[Any]]] = {
    "Linear": (lambda nn: nn.Linear(4, 3), [values(5, 4)]),
    "Linear without bias": (lambda nn: nn.Linear(4, 3, bias=False), [values(5, 4)]),
    "Linear on a vector": (lambda nn: nn.Linear(4, 3), [values(4)]),
    "Linear on 3 dimensions": (lambda nn: nn.Linear(4, 3), [values(2, 5, 4)]),
    "Linear without inputs": (lambda nn: nn.Linear(4, 3), [values(0, 4)]),
    "Bilinear": (lambda nn: nn.Bilinear(3, 2, 4), [values(5, 3), values(5, 2, seed=1)]),
    "Bilinear without bias": (
        lambda nn: nn.Bilinear(3, 2, 4, bias=False),
        [values(2, 5, 3), values(2, 5, 2, seed=1)],
    ),
    "Identity": (lambda nn: nn.Identity(3, unused=True), [values(2, 3)]),
    "Flatten": (lambda nn: nn.Flatten(), [values(2, 3, 4)]),
    "Flatten in the middle": (lambda nn: nn.Flatten(1, 2), [values(2, 3, 4, 5)]),
    "Unflatten": (lambda nn: nn.Unflatten(1, (2, -1)), [values(3, 8)]),
    "PixelShuffle": (lambda nn: nn.PixelShuffle(2), [values(2, 8, 3, 4)]),
    "PixelShuffle of one image": (lambda nn: nn.PixelShuffle(3), [values(18, 1, 2)]),
    "PixelUnshuffle": (lambda nn: nn.PixelUnshuffle(2), [values(2, 3, 4, 6)]),
    "ChannelShuffle": (lambda nn: nn.ChannelShuffle(3), [values(2, 6, 3, 2)]),
    "GLU": (lambda nn: nn.GLU(), [values(3, 4)]),
    "GLU of dimension 0": (lambda nn: nn.GLU(0), [values(6, 3)]),
    "Softmax2d": (lambda nn: nn.Softmax2d(), [values(2, 3, 4, 2)]),
    "AlphaDropout": (lambda nn: nn.AlphaDropout(0.3), [values(5, 4)]),
    "AlphaDropout in evaluation": (lambda nn: nn.AlphaDropout(0.3).eval(), [values(5, 4)]),
    "Sigmoid": (lambda nn: nn.Sigmoid(), [values(3, 4) * 10]),
    "Tanh": (lambda nn: nn.Tanh(), [values(3, 4)]),
    "LogSigmoid": (lambda nn: nn.LogSigmoid(), [values(3, 4) * 30]),
    "ReLU": (lambda nn: nn.ReLU(), [values(3, 4)]),
    "ReLU6": (lambda nn: nn.ReLU6(), [values(3, 4) * 10]),
    "SiLU": (lambda nn: nn.SiLU(), [values(3, 4)]),
    "LeakyReLU": (lambda nn: nn.LeakyReLU(0.2), [values(3, 4)]),
    "ELU": (lambda nn: nn.ELU(1.5), [values(3, 4)]),
    "PReLU": (lambda nn: nn.PReLU(), [values(3, 4)]),
    "PReLU per channel": (lambda nn: nn.PReLU(3), [values(2, 3, 4)]),
    "GELU": (lambda nn: nn.GELU(), [values(3, 4)]),
    "GELU by tanh": (lambda nn: nn.GELU("tanh"), [values(3, 4)]),
    "Softplus": (lambda nn: nn.Softplus(beta=2.0, threshold=3.0), [values(3, 4) * 4]),
    "Hardtanh": (lambda nn: nn.Hardtanh(-0.5, 0.75), [values(3, 4)]),
    "SELU": (lambda nn: nn.SELU(), [values(3, 4)]),
    "CELU": (lambda nn: nn.CELU(1.5), [values(3, 4)]),
    "Mish": (lambda nn: nn.Mish(), [values(3, 4) * 5]),
    "Softsign": (lambda nn: nn.Softsign(), [values(3, 4)]),
    "Hardsigmoid": (lambda nn: nn.Hardsigmoid(), [values(3, 4) * 4]),
    "Hardswish": (lambda nn: nn.Hardswish(), [values(3, 4) * 4]),
    "Tanhshrink": (lambda nn: nn.Tanhshrink(), [values(3, 4)]),
    "Hardshrink": (lambda nn: nn.Hardshrink(), [values(3, 4)]),
    "Softshrink": (lambda nn: nn.Softshrink(0.3), [values(3, 4)]),
    "Threshold": (lambda nn: nn.Threshold(0.2, -1.5), [values(3, 4)]),
    "Softmax": (lambda nn: nn.Softmax(dim=1), [values(3, 4)]),
    "Softmax of dimension 0": (lambda nn: nn.Softmax(0), [values(3, 4)]),
    "LogSoftmax": (lambda nn: nn.LogSoftmax(-1), [values(3, 4) * 50]),
    "Softmin": (lambda nn: nn.Softmin(1), [values(3, 4)]),
    "LayerNorm": (lambda nn: nn.LayerNorm(4), [values(2, 3, 4)]),
    "LayerNorm of 2 dimensions": (lambda nn: nn.LayerNorm((3, 4), eps=1e-3), [values(2, 3, 4)]),
    "LayerNorm without bias": (lambda nn: nn.LayerNorm(4, bias=False), [values(2, 4)]),
    "LayerNorm without weights": (
        lambda nn: nn.LayerNorm(4, elementwise_affine=False),
        [values(2, 4)],
    ),
    "BatchNorm1d": (lambda nn: nn.BatchNorm1d(4), [values(6, 4)]),
    "BatchNorm1d of sequences": (lambda nn: nn.BatchNorm1d(4, momentum=None), [values(6, 4, 3)]),
    "BatchNorm1d without weights": (lambda nn: nn.BatchNorm1d(4, affine=False), [values(6, 4)]),
    "BatchNorm1d without memory": (
        lambda nn: nn.BatchNorm1d(4, track_running_stats=False),
        [values(6, 4)],
    ),
    "BatchNorm1d in evaluation": (lambda nn: nn.BatchNorm1d(4).eval(), [values(6, 4)]),
    "RMSNorm": (lambda nn: nn.RMSNorm(4), [values(2, 3, 4)]),
    "RMSNorm of 2 dimensions": (
        lambda nn: nn.RMSNorm((3, 4), eps=0.1, elementwise_affine=False),
        [values(2, 3, 4)],
    ),
    "GroupNorm": (lambda nn: nn.GroupNorm(2, 4), [values(3, 4, 5)]),
    "GroupNorm without bias": (lambda nn: nn.GroupNorm(2, 4, bias=False), [values(3, 4)]),
    "GroupNorm without weights": (lambda nn: nn.GroupNorm(1, 4, affine=False), [values(3, 4)]),
    "LocalResponseNorm": (lambda nn: nn.LocalResponseNorm(3, 0.1, k=2.0), [values(2, 5, 3)]),
    "LocalResponseNorm of images": (lambda nn: nn.LocalResponseNorm(4), [values(2, 3, 4, 2) * 9]),
    "LazyLinear": (lambda nn: nn.LazyLinear(3), [values(5, 4)]),
    "LazyConv1d": (lambda nn: nn.LazyConv1d(4, 2, groups=2, bias=False), [values(3, 2, 5)]),
    "LazyConv2d": (lambda nn: nn.LazyConv2d(3, kernel_size=2, padding=1), [values(2, 3, 4)]),
    "LazyConvTranspose2d": (lambda nn: nn.LazyConvTranspose2d(3, 2), [values(2, 2, 3, 3)]),
    "LazyConvTranspose1d": (lambda nn: nn.LazyConvTranspose1d(3, 2), [values(2, 2, 3)]),
    "LazyBatchNorm1d": (lambda nn: nn.LazyBatchNorm1d(momentum=0.3), [values(6, 4)]),
    "LazyBatchNorm2d": (lambda nn: nn.LazyBatchNorm2d(affine=False), [values(3, 4, 2, 2)]),
    "PairwiseDistance": (
        lambda nn: nn.PairwiseDistance(keepdim=True),
        [values(5, 3), values(5, 3, seed=1)],
    ),
    "CosineSimilarity": (lambda nn: nn.CosineSimilarity(), [values(5, 3), values(5, 3, seed=1)]),
    "Embedding": (lambda nn: nn.Embedding(6, 3), [np.array([[0, 5, 2], [2, 2, 1]])]),
    "Embedding with padding": (
        lambda nn: nn.Embedding(6, 3, padding_idx=-4),
        [np.array([0, 2, 2, 5])],
    ),
    "Sequential": (
        lambda nn: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 2)),
        [values(5, 4)],
    ),
}


@pytest.mark.parametrize("name", [name for name in LAYERS if "evaluation" not in name])
def test_a_layer_begins_in_training_mode_and_can_leave_it(name: str) -> None:
    layer = LAYERS[name][0](nn)
    assert vars(layer)["training"] is True
    assert not layer.eval().training


@pytest.mark.torch
@pytest.mark.parametrize("name", LAYERS)
def test_values_gradients_and_print_are_pytorchs(name: str) -> None:
    torch = pytest.importorskip("torch")
    make, inputs = LAYERS[name]
    nt.manual_seed(3)
    torch.manual_seed(3)
    ours, theirs = make(nn), make(torch.nn)
    assert repr(ours) == repr(theirs)
    for key, value in theirs.state_dict().items() if "Lazy" not in name else ():  # the same draws
        np.testing.assert_allclose(
            ours.state_dict()[key].numpy(), value.numpy(), rtol=1e-6, atol=1e-7
        )

    def run(module: Any, layer: Any) -> tuple[Any, list[Any], dict[str, Any]]:
        xs = [module.tensor(x) for x in inputs]
        for x in xs:
            x.requires_grad_(x.is_floating_point())
        for _ in range(2):  # twice, so that running statistics are seen to move
            y = layer(*xs)
        weights = module.tensor(values(*y.shape, seed=9))
        if y.requires_grad:
            (y * weights).sum().backward()
        gradients = [x.grad for x in xs if x.requires_grad] + [p.grad for p in layer.parameters()]
        return y.detach().numpy(), gradients, layer.state_dict()

    (y, gradients, state), (wanted, wanted_gradients, wanted_state) = (
        run(nt, ours),
        run(torch, theirs),
    )
    np.testing.assert_allclose(y, wanted, rtol=2e-5, atol=2e-6)
    assert len(gradients) == len(wanted_gradients)
    for a, b in zip(gradients, wanted_gradients):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=2e-5)
    assert list(state) == list(wanted_state)
    for key, value in wanted_state.items():
        assert str(state[key].dtype) == str(value.dtype)
        np.testing.assert_allclose(state[key].numpy(), value.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        nn.ReLU,
        nn.SiLU,
        nn.LeakyReLU,
        nn.ELU,
        nn.Hardtanh,
        nn.ReLU6,
        nn.SELU,
        nn.CELU,
        nn.Mish,
        lambda inplace=False: nn.Threshold(0.1, 2.0, inplace),
    ],
)
def test_an_activation_in_place_overwrites_its_input_with_the_same_gradient(make: Any) -> None:
    plain, inplace = make(), make(inplace=True)
    x, z = (nt.tensor(values(3, 4), requires_grad=True) for _ in range(2))
    y = plain(x * 2)
    held = z * 2
    assert inplace(held) is held
    assert held.tolist() == y.tolist()
    (y**2).sum().backward()
    (held**2).sum().backward()
    np.testing.assert_allclose(z.grad.numpy(), x.grad.numpy(), rtol=1e-6)
    assert "inplace=True" in repr(inplace)


def test_parameters_are_set_to_where_they_started() -> None:
    layers = [nn.LayerNorm(3), nn.BatchNorm1d(3), nn.RMSNorm(3), nn.GroupNorm(1, 3)]
    for layer in layers:
        started = {name: value.tolist() for name, value in layer.state_dict().items()}
        with nt.no_grad():
            for value in layer.state_dict().values():
                value.fill_(7)
        layer.reset_parameters()
        assert {name: value.tolist() for name, value in layer.state_dict().items()} == started


# Dropout


def test_dropout_keeps_the_mean_in_training_and_everything_in_evaluation() -> None:
    nt.manual_seed(0)
    layer, x = nn.Dropout(0.25), nt.ones(4000, requires_grad=True)
    y = layer(x)
    kept = y.detach().numpy() != 0
    assert set(y.detach().numpy()[kept]) == {np.float32(1 / 0.75)}
    assert abs(kept.mean() - 0.75) < 0.03
    y.sum().backward()
    assert x.grad.tolist() == y.tolist()
    assert layer.eval()(x) is x
    assert nn.Dropout(0.0)(x) is x
    assert nn.Dropout(1.0)(x).abs().sum().item() == 0


def test_dropout_in_place_overwrites_its_input() -> None:
    nt.manual_seed(0)
    x = nt.ones(8)
    y = F.dropout(x, 0.5, inplace=True)
    assert y is x and 0 in x.tolist()
    assert F.dropout(x, 1.0, inplace=True) is x and x.abs().sum().item() == 0


# Functions without a layer


def test_a_lazy_layer_becomes_an_ordinary_one_with_the_parameters_that_it_has() -> None:
    net = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d()).double().eval()
    parameters = list(net.parameters())
    assert net[0].has_uninitialized_params() and [p.numel() for p in parameters] == [0, 3, 0, 0]
    assert net(nt.ones(2, 5, dtype=nt.float64)).dtype is nt.float64
    assert [type(layer) for layer in net] == [nn.Linear, nn.BatchNorm1d]
    assert all(p is q for p, q in zip(parameters, net.parameters(), strict=True))
    assert net[0].in_features == 5 and net[1].num_features == 3 and not net[1].training


@pytest.mark.torch
def test_normalize_and_one_hot_are_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    x = values(3, 4)
    for p, dim in ((2.0, 1), (1.0, 0)):
        ours = F.normalize(nt.tensor(x), p, dim).numpy()
        theirs = torch.nn.functional.normalize(torch.tensor(x), p, dim).numpy()
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    classes = np.array([[0, 2], [1, 1]])
    for count in (-1, 5):
        ours = F.one_hot(nt.tensor(classes), count)
        theirs = torch.nn.functional.one_hot(torch.tensor(classes), count)
        assert ours.tolist() == theirs.tolist()
        assert str(ours.dtype) == str(theirs.dtype)


@pytest.mark.torch
@pytest.mark.parametrize("shape", [(3,), (3, 4), (2, 3, 4), (2, 3, 4, 5)])
def test_softmax_without_a_dimension_guesses_as_pytorch_and_warns(shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = torch.nn.functional.softmax(torch.tensor(values(*shape))).numpy()
    with pytest.warns(UserWarning, match="no dim was given"):
        got = F.softmax(nt.tensor(values(*shape))).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_an_embedding_around_a_given_table() -> None:
    table = nt.tensor(values(3, 2))
    layer = nn.Embedding.from_pretrained(table)
    assert not layer.weight.requires_grad
    assert layer(nt.tensor([2])).tolist() == [table[2].tolist()]
    trained = nn.Embedding.from_pretrained(table, freeze=False)
    assert trained.weight.requires_grad


ERRORS: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    ("dropout", lambda: nn.Dropout(1.5), ValueError, "between 0 and 1, but got 1.5"),
    ("F.dropout", lambda: F.dropout(nt.ones(1), -0.5), ValueError, "between 0 and 1"),
    ("hardtanh", lambda: nn.Hardtanh(1.0, 0.0), ValueError, "min_val < max_val"),
    ("unflatten", lambda: nn.Unflatten(1, 3.5), TypeError, "tuple of ints"),  # type: ignore[arg-type]
    ("prelu", lambda: nn.PReLU(2)(nt.ones(2, 3)), RuntimeError, "expected 3 weights"),
    ("bilinear", lambda: nn.Bilinear(0, 1, 1), ValueError, "in1_features must be > 0"),
    ("padding", lambda: nn.Embedding(3, 1, padding_idx=3), ValueError, "num_embeddings"),
    (
        "row",
        lambda: nn.Embedding(3, 1)(nt.tensor([0, 3])),
        IndexError,
        "embedding: index 3 is out of range for a table of 3 rows",
    ),
    ("negative row", lambda: nn.Embedding(3, 1)(nt.tensor([-1])), IndexError, "out of range"),
    ("float row", lambda: nn.Embedding(3, 1)(nt.ones(1)), RuntimeError, "integer dtype"),
    (
        "table",
        lambda: nn.Embedding(3, 2, _weight=nt.ones(2, 3)),
        ValueError,
        r"expected a weight of shape \(3, 2\), got \(2, 3\)",
    ),
    ("pretrained", lambda: nn.Embedding.from_pretrained(nt.ones(2)), ValueError, "2 dimensions"),
    (
        "layer norm",
        lambda: nn.LayerNorm(3)(nt.ones(2, 4)),
        RuntimeError,
        r"\(\*, 3\), got \(2, 4\)",
    ),
    ("rms norm", lambda: nn.RMSNorm(3)(nt.ones(2, 4)), RuntimeError, r"rms_norm: .*\(2, 4\)"),
    ("groups", lambda: nn.GroupNorm(3, 4), ValueError, "divisible by num_groups"),
    ("channels", lambda: F.group_norm(nt.ones(2, 4), 3), RuntimeError, "divisible by 3"),
    ("batch of one", lambda: nn.BatchNorm1d(3)(nt.ones(1, 3)), ValueError, "more than 1 value"),
    ("batch norm rank", lambda: nn.BatchNorm1d(3)(nt.ones(3)), ValueError, "got 1D input"),
    (
        "batch norm statistics",
        lambda: F.batch_norm(nt.ones(2, 3), None, None),
        RuntimeError,
        "needs running_mean",
    ),
    ("one_hot dtype", lambda: F.one_hot(nt.ones(1)), RuntimeError, "index tensors"),
    ("one_hot class", lambda: F.one_hot(nt.tensor([3]), 2), RuntimeError, "from 0 to 1"),
    ("one_hot empty", lambda: F.one_hot(nt.tensor([]).long()), RuntimeError, "empty tensor"),
    ("linear", lambda: nn.Linear(3, 2)(nt.ones(2, 4)), RuntimeError, r"\(2, 4\)"),
]


@pytest.mark.parametrize(
    "make, error, message", [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS]
)
def test_what_does_not_fit_is_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gelu_is_exact_to_the_dtype_everywhere(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    near = nt.linspace(-9, 9, 20001, dtype=nt.float64)
    far = nt.tensor([10.0, 1e4, 1e10, 1e30, math.inf], dtype=nt.float64)
    x = nt.cat([near, far, -far[:-1]]).to(getattr(nt, dtype)).requires_grad_()
    y = nn.functional.gelu(x)
    y.sum().backward()
    exact = torch.tensor(x.detach().numpy()).double().requires_grad_()
    there = torch.nn.functional.gelu(exact)
    there.sum().backward()
    tolerance = 1e-6 if dtype == "float32" else 1e-14
    for ours, theirs in ((y.detach(), there.detach()), (x.grad, exact.grad)):
        expected = nt.tensor(theirs.numpy())
        assert nt.allclose(ours.double(), expected, tolerance, tolerance, equal_nan=True)
    assert nn.functional.gelu(nt.tensor([-10.0, -1e30])).abs().max() == 0
    assert nn.functional.gelu(nt.tensor([nt.nan, -math.inf])).isnan().all()


@pytest.mark.parametrize("training", [True, False])
def test_a_batch_of_no_rows_leaves_running_statistics_alone(training: bool) -> None:
    norm = nn.BatchNorm1d(3).train(training)
    y = norm(nt.zeros(0, 3))
    y.sum().backward()
    assert y.shape == (0, 3)
    assert norm.running_mean.tolist() == [0, 0, 0]
    assert norm.running_var.tolist() == [1, 1, 1]
    assert norm.weight.grad.tolist() == [0, 0, 0]


NORMS: dict[str, tuple[Any, tuple[int, ...], tuple[int, ...]]] = {
    "layer_norm": (lambda F, x, w, b: F.layer_norm(x, x.shape[1:], w, b), (6, 8), (8,)),
    "layer_norm of 2 dimensions": (
        lambda F, x, w, b: F.layer_norm(x, x.shape[1:], w, b), (6, 4, 3), (4, 3),
    ),
    "layer_norm that ends with 1": (
        lambda F, x, w, b: F.layer_norm(x, x.shape[2:], w, b), (2, 3, 4, 1), (4, 1),
    ),
    "group_norm": (lambda F, x, w, b: F.group_norm(x, 2, w, b), (3, 4, 5), (4,)),
    "group_norm of images": (lambda F, x, w, b: F.group_norm(x, 2, w, b), (3, 4, 2, 5), (4,)),
    "group_norm of channels": (lambda F, x, w, b: F.group_norm(x, 2, w, b), (3, 4), (4,)),
    "group_norm of 20 pixels": (lambda F, x, w, b: F.group_norm(x, 2, w, b), (3, 4, 4, 5), (4,)),
    "instance_norm of images": (
        lambda F, x, w, b: F.instance_norm(x, None, None, w, b), (3, 4, 4, 5), (4,),
    ),
    "instance_norm": (
        lambda F, x, w, b: F.instance_norm(x, None, None, w, b), (3, 4, 5), (4,),
    ),
    "batch_norm": (lambda F, x, w, b: F.batch_norm(x, None, None, w, b, True), (6, 4), (4,)),
    "batch_norm of images": (
        lambda F, x, w, b: F.batch_norm(x, None, None, w, b, True), (3, 4, 2, 5), (4,),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_gives_each_gradient_alone_as_it_does_with_the_others(name: str) -> None:
    norm, shape, few = NORMS[name]

    def gradients(wanted: tuple[int, ...]) -> dict[int, list[Any]]:
        nt.manual_seed(0)
        inputs = [nt.randn(*size) for size in (shape, few, few)]
        for place in wanted:
            inputs[place].requires_grad_()
        (norm(F, *inputs) * nt.randn(*shape)).sum().backward()
        assert all(x.grad is None for i, x in enumerate(inputs) if i not in wanted)
        return {place: inputs[place].grad.tolist() for place in wanted}

    everything = gradients((0, 1, 2))
    for wanted in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2)):
        for place, g in gradients(wanted).items():
            assert np.allclose(g, everything[place], 1e-5, 1e-6), (wanted, place)


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_is_the_same_with_and_without_gradients(name: str) -> None:
    norm, shape, few = NORMS[name]
    inputs = [nt.randn(*size, requires_grad=True) for size in (shape, few, few)]
    with nt.no_grad():
        without = norm(F, *inputs)
    assert without.tolist() == norm(F, *inputs).tolist()


@pytest.mark.parametrize("name", NORMS)
def test_what_a_norm_without_weights_gives_may_be_written_to(name: str) -> None:
    """It shares no memory with what the gradient needs."""
    norm, shape, _ = NORMS[name]
    x, g = nt.randn(*shape, requires_grad=True), nt.randn(*shape)
    expected = nt.autograd.grad(norm(F, x, None, None), x, g)[0]
    y = norm(F, x, None, None).mul_(3.0)
    assert nt.allclose(nt.autograd.grad(y, x, g / 3)[0], expected, 1e-5, 1e-6)


@pytest.mark.parametrize("shape", [(7,), (5, 7), (4, 3, 6), (2, 5000)])
def test_layer_norm_has_the_same_bits_whether_a_gradient_is_wanted_or_not(
    shape: tuple[int, ...],
) -> None:
    x, weight, bias = nt.randn(*shape), nt.randn(*shape[1:] or shape), nt.randn(shape[-1])
    expected = F.layer_norm(x, weight.shape, weight, bias)
    assert expected.grad_fn is None
    for wanted in ((x,), (weight,), (bias,), (x, weight, bias)):
        copies = [t.clone().requires_grad_(any(t is w for w in wanted)) for t in (x, weight, bias)]
        y = F.layer_norm(copies[0], weight.shape, copies[1], copies[2])
        assert y.requires_grad and (y.detach() == expected).all()


@pytest.mark.parametrize("size", [64, 4095, 4096, 50_000])
@pytest.mark.parametrize("norm", ["layer_norm", "batch_norm"])
def test_the_mean_of_many_numbers_far_from_0_is_exact_to_the_dtype(norm: str, size: int) -> None:
    x = nt.randn(2, 3, size) + 100
    if norm == "layer_norm":
        y = F.layer_norm(x.requires_grad_(), (size,))
        exact = F.layer_norm(x.detach().double(), (size,))
    else:
        y = F.batch_norm(x, None, None, None, None, True)
        exact = F.batch_norm(x.double(), None, None, None, None, True)
    assert (y.detach().double() - exact).abs().max() < 6e-5  # 100 has a resolution of 8e-6


@pytest.mark.parametrize("length", [4095, 4096, 5000, 6144, 65536])
@pytest.mark.parametrize("name", ["layer_norm", "group_norm"])
def test_a_norm_of_long_rows_is_right_to_float32(name: str, length: int) -> None:
    """Rows of 4,096 elements and more are summed in parts where these divide them."""
    results = []
    for dtype in (nt.float32, nt.float64):
        nt.manual_seed(0)
        x = (nt.randn(2, 3, length).double() + 3).float().to(dtype).requires_grad_()
        g = nt.randn(2, 3, length).to(dtype)
        y = F.layer_norm(x, (length,)) if name == "layer_norm" else F.group_norm(x, 3)
        (y * g).sum().backward()
        results.append((y.detach().double(), x.grad.double()))
    for short, exact in zip(*results, strict=True):
        assert (short - exact).abs().max() < 4e-6


NORM_LAYERS = ("BatchNorm1d", "BatchNorm2d", "InstanceNorm1d", "InstanceNorm2d")
NORM_OPTIONS: tuple[dict[str, bool], ...] = (
    {}, {"affine": False}, {"track_running_stats": False},
    {"track_running_stats": True, "affine": True},
)  # fmt: skip


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:.*input's size")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NORM_LAYERS)
def test_another_number_of_channels_is_refused_before_anything_changes(
    name: str, training: bool
) -> None:
    torch = pytest.importorskip("torch")
    for channels, options in product((1, 2, 3, 4), NORM_OPTIONS):
        results: list[Any] = []
        for t in (nt, torch):
            layer = getattr(t.nn, name)(channels, **options).train(training)
            try:
                shape = (2, 3, 4, 4)[: 4 if name.endswith("2d") else 3]
                results.append(tuple(layer(t.ones(shape)).shape))
            except (RuntimeError, ValueError) as error:
                results.append(type(error))
                if layer.running_mean is not None:
                    assert layer.running_mean.tolist() == [0.0] * channels
        assert results[0] == results[1], (channels, options)


NOTHING = ((0, 3), (0, 3, 4), (2, 3, 0), (0, 3, 2, 2))


@pytest.mark.torch
@pytest.mark.parametrize("shape", NOTHING, ids=str)
@pytest.mark.parametrize(
    "call",
    [
        lambda F, x, w: F.batch_norm(x, None, None, training=True),
        lambda F, x, w: F.batch_norm(x, None, None, w, w, training=True),
        lambda F, x, w: F.batch_norm(x, w.detach() * 0, w.detach(), w, None),
        lambda F, x, w: F.group_norm(x, 3, w, w),
        lambda F, x, w: F.group_norm(x, 1),
        lambda F, x, w: F.layer_norm(x, x.shape[1:]),
        lambda F, x, w: F.rms_norm(x, x.shape[-1:]),
    ],
    ids=["batch", "weighted", "evaluation", "group", "one group", "layer", "rms"],
)
def test_nothing_is_normalized_as_by_pytorch(shape: tuple[int, ...], call: Any) -> None:
    torch = pytest.importorskip("torch")
    results = []
    for t in (nt, torch):
        x, w = t.ones(shape, requires_grad=True), t.ones(3, requires_grad=True)
        y = call(t.nn.functional, x, w)
        assert y is not x
        y.sum().backward()
        results.append(
            (tuple(y.shape), y.is_leaf, w.grad is not None and w.grad.nan_to_num().tolist())
        )
    assert results[0] == results[1]


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize(
    "layer",
    [
        lambda nn: nn.Conv1d(0, 3, 2),
        lambda nn: nn.Conv2d(0, 3, 1),
        lambda nn: nn.ConvTranspose1d(0, 3, 2),
        lambda nn: nn.Linear(0, 3),
        lambda nn: nn.Linear(3, 0),
        lambda nn: nn.Embedding(0, 3),
    ],
)
def test_layers_of_no_channels_draw_what_pytorchs_do(layer: Any) -> None:
    torch = pytest.importorskip("torch")
    left = []
    for t in (nt, torch):
        t.manual_seed(0)
        layer(t.nn)
        left.append(t.rand(3).tolist())
    assert left[0] == left[1]


@pytest.mark.torch
@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize(
    "stride, padding, output_padding, dilation", [(1, 0, 1, 2), (1, 1, 2, 3), (2, 1, 2, 3)]
)
def test_output_padding_beyond_the_windows_is_pytorchs(
    dims: int, stride: int, padding: int, output_padding: int, dilation: int
) -> None:
    torch = pytest.importorskip("torch")
    results: list[Any] = []
    for t in (nt, torch):
        t.manual_seed(0)
        layer = getattr(t.nn, f"ConvTranspose{dims}d")(
            2, 4, 2, stride, padding, output_padding, 2, dilation=dilation
        )
        x = t.randn(2, 2, *(4,) * dims, requires_grad=True)
        y = layer(x)
        (y * y).sum().backward()
        results.append(
            [a.detach().numpy() for a in (y, x.grad, layer.weight.grad, layer.bias.grad)]
        )
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, 1e-4, 1e-5)


MOVES: list[Any] = [
    lambda F, x: F.channel_shuffle(x, 1),
    lambda F, x: F.channel_shuffle(x, 4),
    lambda F, x: F.pixel_shuffle(x, 1),
    lambda F, x: F.pixel_unshuffle(x, 1),
    lambda F, x: F.pixel_shuffle(x[:, :, :1, :1], 2),
    lambda F, x: F.interpolate(x, size=3),
    lambda F, x: F.interpolate(x, scale_factor=1),
    lambda F, x: F.interpolate(x, size=3, mode="bilinear"),
    lambda F, x: F.avg_pool2d(x, 1),
    lambda F, x: F.max_pool2d(x, 1),
    lambda F, x: F.pad(x, (0, 0)),
    lambda F, x: F.pad(x, (0, 0, 0, 0), mode="reflect"),
    lambda F, x: F.dropout2d(x, 0.5, False),
    lambda F, x: F.dropout(x, 0.5, False),
    lambda F, x: F.batch_norm(x[:0], None, None, training=True),
    lambda F, x: F.unfold(x, 1),
]


@pytest.mark.torch
@pytest.mark.parametrize("move", MOVES, ids=range(len(MOVES)))
def test_memory_is_shared_where_pytorch_shares_it(move: Any) -> None:
    torch = pytest.importorskip("torch")
    shared = []
    for t in (nt, torch):
        x = t.ones(2, 4, 3, 3)
        y = move(t.nn.functional, x)
        y.fill_(7.0)
        shared.append((bool((x == 7).any()), y is x))
    assert shared[0] == shared[1]


# Layers whose output PyTorch's rules have no need of: it may be written to before backward.
OUTPUTS: dict[str, Any] = {
    "MaxPool1d": lambda nn, x: nn.MaxPool1d(2)(x),
    "MaxPool2d": lambda nn, x: nn.MaxPool2d(2)(x[None]),
    "AdaptiveMaxPool1d": lambda nn, x: nn.AdaptiveMaxPool1d(2)(x),
    "RNN": lambda nn, x: nn.RNN(4, 4)(x)[0],
    "GRU": lambda nn, x: nn.GRU(4, 4, batch_first=True)(x)[0],
    "GRU, both ways": lambda nn, x: nn.GRU(4, 2, 2, bidirectional=True)(x)[0],
    "state of an LSTM": lambda nn, x: nn.LSTM(4, 4)(x)[1][1],
    "GRUCell": lambda nn, x: nn.GRUCell(4, 4)(x[0]),
    "hidden state of an LSTMCell": lambda nn, x: nn.LSTMCell(4, 4)(x[0])[0],
    "state of an LSTMCell": lambda nn, x: nn.LSTMCell(4, 4)(x[0])[1],
    "attention": lambda nn, x: nn.functional.scaled_dot_product_attention(x, x, x),
    "MultiheadAttention": lambda nn, x: nn.MultiheadAttention(4, 2)(x, x, x)[0],
}


@pytest.mark.torch
@pytest.mark.parametrize(
    "write", [lambda y: y.relu_(), lambda y: y.mul_(2), lambda y: y.add_(y.detach())]
)
@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_may_be_written_to_before_backward(name: str, write: Any) -> None:
    torch = pytest.importorskip("torch")
    gradients = []
    for t in (nt, torch):
        t.manual_seed(0)
        x = t.randn(3, 2, 4, requires_grad=True)
        y = OUTPUTS[name](t.nn, x * 1)
        write(y)
        (y * y).sum().backward()
        gradients.append(x.grad.numpy())
    np.testing.assert_allclose(*gradients, 1e-4, 1e-5)


@pytest.mark.parametrize("name", [*OUTPUTS, "LSTM"])
def test_a_written_output_has_derivatives_of_second_order(name: str) -> None:
    gradients = []
    for written in (False, True):
        nt.manual_seed(0)
        x = nt.randn(3, 2, 4, requires_grad=True)
        y = nn.LSTM(4, 4)(x)[0] if name == "LSTM" else OUTPUTS[name](nn, x * 1)
        y = y.mul_(2) if written else y * 2
        (g,) = nt.autograd.grad((y * y).sum(), x, create_graph=True)
        (g * g).sum().backward()
        gradients.append(x.grad.numpy())
    np.testing.assert_allclose(*gradients, 1e-4, 1e-5)


@pytest.mark.torch
@pytest.mark.parametrize(
    "options", [{}, {"padding": 1}, {"padding": 1, "count_include_pad": False}], ids=str
)
def test_means_of_integers_are_rounded_towards_0(options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    results = []
    for t in (nt, torch):
        x = t.arange(-10, 14).reshape(1, 2, 3, 4)
        F = t.nn.functional
        results.append([F.avg_pool2d(x, 2, **options).tolist(), F.avg_pool1d(x[0], 3).tolist()])
    assert results[0] == results[1]


@pytest.mark.torch
@pytest.mark.parametrize(
    "call",
    [
        lambda t, F: F.embedding(t.tensor([0]), t.ones(3)),
        lambda t, F: F.embedding(t.tensor([0]), t.ones(3, 2, 2), padding_idx=0),
        lambda t, F: F.embedding(t.tensor([3]), t.ones(3, 2)),
        lambda t, F: F.embedding_bag(t.tensor([0, 3]), t.ones(3, 2), t.tensor([0])),
        lambda t, F: t.nn.MultiheadAttention(4, 2)(t.ones(2, 3, 4), *[t.ones(5, 1, 4)] * 2),
        lambda t, F: t.nn.MultiheadAttention(4, 2, batch_first=True)(
            t.ones(3, 2, 4), *[t.ones(1, 5, 4)] * 2
        ),
        lambda t, F: t.nn.InstanceNorm1d(3, affine=True)(t.ones(1, 2, 4)),
        lambda t, F: t.nn.ParameterDict()[0],
        lambda t, F: t.nn.Linear(2, 2, bias=False).get_parameter("bias"),
    ],
)
def test_what_does_not_fit_is_refused_as_by_pytorch(call: Any) -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(Exception) as theirs:
        call(torch, torch.nn.functional)
    with pytest.raises(theirs.type):
        call(nt, F)


@pytest.mark.torch
@pytest.mark.parametrize("pad", [(1, 1), (0, 2), (-1, 0), (1, -1, 2, 0)], ids=str)
def test_a_padded_tensor_may_be_walked_back_twice(pad: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    seen = []
    for t in (nt, torch):
        x = t.ones(2, 3, 4, requires_grad=True)
        y = t.nn.functional.pad(x, pad, value=0.5)
        y.sum().backward()
        (y * y).sum().backward()
        seen.append((y.tolist(), x.grad.tolist(), y.grad_fn.name()))
    assert seen[0] == seen[1]


RESETS: dict[str, Any] = {
    "PReLU": lambda nn: nn.PReLU(3, init=0.1), "Linear": lambda nn: nn.Linear(3, 2),
    "Conv1d": lambda nn: nn.Conv1d(2, 3, 2), "BatchNorm1d": lambda nn: nn.BatchNorm1d(3),
    "LayerNorm": lambda nn: nn.LayerNorm(3), "RMSNorm": lambda nn: nn.RMSNorm(3),
    "GroupNorm": lambda nn: nn.GroupNorm(1, 3), "Embedding": lambda nn: nn.Embedding(3, 2),
    "EmbeddingBag": lambda nn: nn.EmbeddingBag(3, 2), "GRU": lambda nn: nn.GRU(3, 2),
    "LSTMCell": lambda nn: nn.LSTMCell(3, 2), "Bilinear": lambda nn: nn.Bilinear(2, 2, 3),
    "ConvTranspose2d": lambda nn: nn.ConvTranspose2d(2, 3, 2),
}  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize("name", RESETS)
def test_a_layer_that_is_reset_draws_what_pytorchs_does(name: str) -> None:
    torch = pytest.importorskip("torch")
    seen = []
    for t in (nt, torch):
        layer = RESETS[name](t.nn)
        for p in layer.parameters():
            p.data.fill_(7.0)
        t.manual_seed(5)
        layer.reset_parameters()
        seen.append([p.tolist() for p in layer.parameters()] + [t.rand(2).tolist()])
    assert seen[0] == seen[1]


LAYERS_OF_TURNED_INPUTS = {
    "Linear(4, 3)": (2, 5, 4), "Conv1d(3, 4, 2)": (2, 3, 6), "Conv2d(3, 4, 2)": (2, 3, 6, 5),
    "ConvTranspose2d(3, 4, 2)": (2, 3, 4, 5), "MaxPool2d(2)": (2, 3, 6, 4),
    "AdaptiveAvgPool2d(2)": (2, 3, 6, 4), "BatchNorm1d(3)": (4, 3), "BatchNorm2d(3)": (2, 3, 4, 5),
    "GroupNorm(1, 3)": (2, 3, 4, 5), "InstanceNorm2d(3)": (2, 3, 4, 5), "LayerNorm(5)": (2, 3, 5),
    "RMSNorm(5)": (2, 3, 5), "Softmax(1)": (2, 3, 5), "GLU()": (2, 3, 4), "Flatten()": (2, 3, 4),
    "PixelShuffle(2)": (2, 4, 3, 3), "ChannelShuffle(3)": (2, 3, 4, 5),
    "ZeroPad2d(1)": (2, 3, 4, 5), "Upsample(scale_factor=2)": (2, 3, 4, 5),
    "CosineSimilarity()": (2, 3, 4), "LSTM(4, 3)": (5, 2, 4), "LogSigmoid()": (2, 3, 4),
    "TransformerEncoderLayer(4, 2, 8)": (5, 2, 4),
}  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize("text", LAYERS_OF_TURNED_INPUTS)
def test_results_and_gradients_are_contiguous_where_those_of_pytorch_are(text: str) -> None:
    torch, shape = pytest.importorskip("torch"), LAYERS_OF_TURNED_INPUTS[text]
    order = np.random.default_rng(len(text)).permutation(len(shape))
    for training in (True, False):
        found: list[list[bool]] = []
        for library in (nt, torch):
            layer = eval(f"nn.{text}", {"nn": library.nn}).train(training)
            inner = np.random.default_rng(0).standard_normal([shape[d] for d in order]).astype("f")
            x = library.tensor(inner).permute(*np.argsort(order).tolist()).requires_grad_()
            y = layer(x, x) if text.startswith("Cosine") else layer(x)
            y = y[0] if isinstance(y, tuple) else y
            y.square().sum().backward()
            found.append([y.is_contiguous(), *(p.grad.is_contiguous() for p in layer.parameters())])
        ours, theirs = found
        assert [mine or not its for mine, its in zip(ours, theirs, strict=True)] == [True] * len(
            ours
        )
