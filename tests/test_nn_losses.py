"""Losses: values and gradients of PyTorch's for every option, and its errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest

import nanotorch as nt
from nanotorch import nn

RNG = np.random.default_rng(0)


def reals(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def probabilities(*shape: int) -> Any:
    return RNG.uniform(0.05, 0.95, shape).astype(np.float32)


def distributions(*shape: int) -> Any:
    p = probabilities(*shape)
    return p / p.sum(1 if len(shape) > 1 else 0, keepdims=True)


def classes(count: int, *shape: int) -> Any:
    return RNG.integers(0, count, shape)


LOGITS, BINARY = reals(6, 3) * 3, (reals(6, 3) > 0).astype(np.float32)
WEIGHTS = probabilities(3) + 0.5

# name, options, input, target. Arrays among the options become tensors.
Case = tuple[str, dict[str, Any], Any, Any]
CASES: list[Case] = [
    *[(name, {}, reals(4, 3), reals(4, 3)) for name in ("L1Loss", "MSELoss")],
    ("HuberLoss", {"delta": 0.7}, reals(4, 3) * 2, reals(4, 3)),
    ("SmoothL1Loss", {"beta": 0.7}, reals(4, 3) * 2, reals(4, 3)),
    ("SmoothL1Loss", {"beta": 0.0}, reals(4, 3), reals(4, 3)),
    ("BCELoss", {}, probabilities(4, 3), probabilities(4, 3)),
    ("BCELoss", {"weight": WEIGHTS}, probabilities(4, 3), BINARY[:4]),
    ("BCELoss", {}, np.array([0.0, 1.0, 1.0], "f4"), np.array([0.0, 1.0, 0.0], "f4")),
    *[
        ("BCEWithLogitsLoss", {"weight": weight, "pos_weight": pos_weight}, LOGITS, target)
        for weight, pos_weight, target in product(
            (None, WEIGHTS), (None, WEIGHTS * 3), (BINARY, probabilities(6, 3))
        )
    ],
    (
        "BCEWithLogitsLoss",
        {},
        np.array([-200.0, 200.0, 0.0], "f4"),
        np.array([0.0, 1.0, 0.5], "f4"),
    ),
    ("NLLLoss", {}, np.log(distributions(5, 3)), classes(3, 5)),
    ("NLLLoss", {"weight": WEIGHTS}, np.log(distributions(5, 3)), classes(3, 5)),
    ("NLLLoss", {"ignore_index": 1}, np.log(distributions(5, 3)), np.array([0, 1, 2, 1, 0])),
    ("NLLLoss", {"weight": WEIGHTS}, np.log(distributions(2, 3, 4)), classes(3, 2, 4)),
    ("NLLLoss", {}, np.log(distributions(3)), np.array(2)),
    *[
        ("CrossEntropyLoss", {"weight": weight, "label_smoothing": smoothing}, logits, target)
        for weight, smoothing, (logits, target) in product(
            (None, WEIGHTS),
            (0.0, 0.2),
            (
                (LOGITS, classes(3, 6)),
                (reals(2, 3, 4), classes(3, 2, 4)),
                (reals(3), np.array(1)),
                (LOGITS, distributions(6, 3)),
                (reals(2, 3, 4), distributions(2, 3, 4)),
            ),
        )
    ],
    *[
        (
            "CrossEntropyLoss",
            {"ignore_index": 2, "label_smoothing": smoothing, "weight": weight},
            LOGITS,
            np.array([0, 2, 1, 2, 0, 1]),
        )
        for smoothing, weight in product((0.0, 0.3), (None, WEIGHTS))
    ],
    ("CrossEntropyLoss", {}, np.array([[1e4, 0.0], [-1e4, 0.0]], "f4"), np.array([1, 1])),
    ("KLDivLoss", {}, np.log(distributions(4, 3)), distributions(4, 3)),
    ("KLDivLoss", {"log_target": True}, np.log(distributions(4, 3)), np.log(distributions(4, 3))),
]


SIGNS = np.sign(reals(6)).astype(np.float32)

# Losses of other signatures: name, options, inputs. Integer inputs and signs get no gradient.
OTHERS: list[tuple[str, dict[str, Any], list[Any]]] = [
    ("SoftMarginLoss", {}, [reals(6), SIGNS]),
    ("MultiLabelSoftMarginLoss", {}, [LOGITS, BINARY]),
    ("MultiLabelSoftMarginLoss", {"weight": WEIGHTS}, [LOGITS, BINARY]),
    ("HingeEmbeddingLoss", {}, [reals(6), SIGNS]),
    ("HingeEmbeddingLoss", {"margin": 0.3}, [reals(6), SIGNS]),
    ("MarginRankingLoss", {"margin": 0.2}, [reals(6), reals(6), SIGNS]),
    ("CosineEmbeddingLoss", {"margin": -0.2}, [reals(6, 3), reals(6, 3), SIGNS]),
    ("TripletMarginLoss", {}, [reals(6, 3), reals(6, 3), reals(6, 3)]),
    ("TripletMarginLoss", {"margin": 0.5, "p": 1.0}, [reals(6, 3), reals(6, 3), reals(6, 3)]),
    ("MultiMarginLoss", {}, [LOGITS, classes(3, 6)]),
    ("MultiMarginLoss", {"p": 2, "margin": 2.0, "weight": WEIGHTS}, [LOGITS, classes(3, 6)]),
    ("MultiMarginLoss", {}, [reals(3), np.array(1)]),
    ("PoissonNLLLoss", {}, [reals(6), probabilities(6) * 5]),
    (
        "PoissonNLLLoss",
        {"log_input": False, "full": True},
        [probabilities(6), probabilities(6) * 5],
    ),
    ("GaussianNLLLoss", {}, [reals(6), reals(6), probabilities(6)]),
    ("GaussianNLLLoss", {"full": True, "eps": 0.5}, [reals(6), reals(6), probabilities(6)]),
]


@pytest.mark.torch
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("case", OTHERS, ids=lambda c: f"{c[0]}{sorted(c[1])}")
def test_losses_of_other_signatures_are_pytorchs(
    case: tuple[str, dict[str, Any], list[Any]], reduction: str
) -> None:
    torch = pytest.importorskip("torch")
    name, options, arrays = case

    def run(module: Any) -> tuple[Any, list[Any]]:
        inputs = [module.tensor(array) for array in arrays]
        for x, array in zip(inputs, arrays):
            x.requires_grad_(x.is_floating_point() and array is not SIGNS and array is not BINARY)
        loss = built(module, name, options, reduction)(*inputs)
        (loss * loss).sum().backward()
        return loss.detach().numpy(), [x.grad.numpy() for x in inputs if x.requires_grad]

    loss, gradients = run(nt)
    expected, expected_gradients = run(torch)
    np.testing.assert_allclose(loss, expected, rtol=2e-5, atol=1e-6)
    for a, b in zip(gradients, expected_gradients):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


ALIGNED: dict[str, tuple[tuple[int, ...], Any, Any, Any, dict[str, Any]]] = {
    "rows": ((6, 3, 5), [[1, 2, 2], [3, 3, 3], [4, 1, 0]], [6, 5, 4], [3, 3, 2], {}),
    "behind": ((6, 3, 5), [1, 2, 2, 3, 4, 1], [6, 5, 4], [3, 1, 2], {}),
    "impossible": ((6, 2, 5), [[1] * 4, [1, 2, 3, 1]], [6, 6], [4, 4], {"zero_infinity": True}),
    "no targets": ((6, 2, 5), [[1, 2], [3, 4]], [6, 6], [0, 2], {}),
    "another blank": ((6, 2, 5), [[0, 2], [0, 0]], [6, 6], [1, 2], {"blank": 4}),
    "one sample": ((6, 5), [1, 2], 6, 2, {}),
    "long": ((40, 2, 5), [[1, 1, 2] * 4, [3] * 12], [40, 31], [12, 9], {}),
}


@pytest.mark.torch
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", ALIGNED)
def test_the_loss_over_alignments_is_pytorchs(name: str, reduction: str) -> None:
    torch = pytest.importorskip("torch")
    shape, targets, *lengths, options = ALIGNED[name]
    values, results = reals(*shape), []
    for t in (nt, torch):
        x = t.tensor(values, requires_grad=True)
        loss = t.nn.CTCLoss(reduction=reduction, **options)(
            x.log_softmax(-1), t.tensor(targets), *map(t.tensor, lengths)
        )
        loss.sum().backward()
        results.append([loss.detach().numpy(), x.grad.numpy()])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)


MISALIGNED: dict[str, tuple[Any, dict[str, Any]]] = {
    "lengths of another batch": (((5,), (2, 2)), {}),
    "more inputs than there are": (((5, 6), (2, 2)), {}),
    "more targets than there are": (((5, 5), (2, 3)), {}),
    "no such class": (((5, 5), (2, 2)), {"blank": 4}),
}


@pytest.mark.parametrize("name", MISALIGNED)
def test_lengths_of_alignments_that_do_not_fit_are_refused(name: str) -> None:
    lengths, options = MISALIGNED[name]
    targets = nt.ones(2, 2, dtype=nt.int64)
    with pytest.raises(RuntimeError, match="ctc_loss: "):
        nn.functional.ctc_loss(nt.zeros(5, 2, 4), targets, *lengths, **options)
    with pytest.raises(ValueError, match="reduction"):
        nn.CTCLoss(reduction="average")(nt.zeros(5, 2, 4), targets, (5, 5), (2, 2))


KINDS = ("bfloat16", "float16", "float32", "float64")


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:.*batchmean")
@pytest.mark.parametrize("name", ["soft_margin_loss", "multilabel_soft_margin_loss", "kl_div",
                                  "hinge_embedding_loss", "mse_loss", "smooth_l1_loss",
                                  "poisson_nll_loss"])  # fmt: skip
def test_the_dtype_of_a_loss_of_two_dtypes_is_pytorchs(name: str) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("ml_dtypes")
    for kinds, reduction in product(product(KINDS, repeat=2), ("none", "mean")):
        results = []
        for t in (nt, torch):
            x, y = (t.tensor([0.5, -1.0], dtype=getattr(t, kind)) for kind in kinds)
            loss = getattr(t.nn.functional, name)(x.requires_grad_(), y, reduction=reduction)
            loss.sum().backward()
            results.append((str(loss.dtype), str(x.grad.dtype)))
        assert results[0] == results[1], kinds


def built(module: Any, name: str, options: dict[str, Any], reduction: str) -> Any:
    tensors = {k: module.tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    return getattr(module.nn, name)(reduction=reduction, **tensors)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:.*batchmean")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(
    "case", CASES, ids=lambda c: f"{c[0]}{sorted(c[1])}{c[2].shape}{c[3].dtype}"
)
def test_values_and_gradients_are_pytorchs(case: Case, reduction: str) -> None:
    torch = pytest.importorskip("torch")
    name, options, x, target = case

    def run(module: Any) -> tuple[Any, Any, Any]:
        given = module.tensor(x, requires_grad=True)
        wanted = module.tensor(target)
        certain = name == "BCELoss" and not 0 < x.min() < x.max() < 1  # infinite slopes
        wanted.requires_grad_(wanted.is_floating_point() and name != "KLDivLoss" and not certain)
        loss = built(module, name, options, reduction)(given, wanted)
        (loss * loss).sum().backward()
        return loss.detach().numpy(), given.grad.numpy(), wanted.grad

    loss, gradient, target_gradient = run(nt)
    expected, expected_gradient, expected_target_gradient = run(torch)
    np.testing.assert_allclose(loss, expected, rtol=3e-5, atol=2e-6)
    scale = max(1.0, np.abs(expected_gradient).max())
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-5 * scale)
    if expected_target_gradient is not None:
        np.testing.assert_allclose(
            target_gradient.numpy(), expected_target_gradient.numpy(), rtol=1e-4, atol=1e-4 * scale
        )


@pytest.mark.torch
def test_the_divergence_per_sample_is_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    x, target = np.log(distributions(4, 3)), distributions(4, 3)
    ours = nn.KLDivLoss(reduction="batchmean")(nt.tensor(x), nt.tensor(target))
    theirs = torch.nn.KLDivLoss(reduction="batchmean")(torch.tensor(x), torch.tensor(target))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_weights_of_ones_change_nothing_to_the_last_bit() -> None:
    logits, target = nt.tensor(LOGITS), nt.tensor(BINARY)
    plain = nn.BCEWithLogitsLoss()(logits, target)
    weighted = nn.BCEWithLogitsLoss(nt.ones(6, 3))(logits, target)
    assert plain.item() == weighted.item()


def test_an_infinity_does_not_count_where_the_target_is_ignored() -> None:
    logits = nt.tensor([[-math.inf, 1.0, 2.0], [0.0, 1.0, 2.0]], requires_grad=True)
    loss = nn.functional.nll_loss(logits, nt.tensor([-100, 1]))
    loss.backward()
    assert loss.item() == -1
    np.testing.assert_array_equal(logits.grad.numpy(), [[0, 0, 0], [0, -1, 0]])


def test_a_batch_of_ignored_targets_has_a_mean_of_nan_as_in_pytorch() -> None:
    loss = nn.CrossEntropyLoss(ignore_index=0)(nt.tensor(LOGITS), nt.tensor([0] * 6))
    assert math.isnan(loss.item())


def test_weights_are_buffers_that_move_and_are_saved_with_the_module() -> None:
    loss = nn.BCEWithLogitsLoss(pos_weight=nt.ones(3))
    assert list(loss.state_dict()) == ["pos_weight"]
    assert loss.double().pos_weight.dtype is nt.float64
    assert repr(loss) == "BCEWithLogitsLoss()"


@pytest.mark.parametrize("name", ["MSELoss", "L1Loss", "HuberLoss", "SmoothL1Loss"])
def test_targets_of_another_shape_are_broadcast_with_a_warning(name: str) -> None:
    with pytest.warns(UserWarning, match=r"target size \(torch.Size\(\[3\]\)\)"):
        loss = getattr(nn, name)()(nt.zeros(2, 3), nt.ones(3))
    assert loss.shape == ()


def test_the_mean_divergence_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="batchmean"):
        nn.KLDivLoss()(nt.zeros(2, 3), nt.ones(2, 3))


ERRORS: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    (
        "logits and targets",
        lambda: nn.BCEWithLogitsLoss()(nt.ones(3, 1), nt.ones(3)),
        ValueError,
        r"\(3,\).*same.*\(3, 1\)",
    ),
    (
        "probabilities and targets",
        lambda: nn.BCELoss()(nt.ones(3, 1), nt.ones(3)),
        ValueError,
        r"\(3,\).*\(3, 1\)",
    ),
    ("no probabilities", lambda: nn.BCELoss()(nt.ones(3) * 2, nt.ones(3)), RuntimeError, "0 and 1"),
    ("reduction", lambda: nn.MSELoss(reduction="avg")(nt.ones(1), nt.ones(1)), ValueError, "avg"),
    (
        "class",
        lambda: nn.CrossEntropyLoss()(nt.ones(2, 3), nt.tensor([0, 3])),
        IndexError,
        "3 is out of bounds",
    ),
    (
        "classes",
        lambda: nn.CrossEntropyLoss()(nt.ones(2, 3), nt.tensor([0, 1, 2])),
        ValueError,
        r"expected target of shape \(2,\).*got \(3,\)",
    ),
    (
        "class probabilities",
        lambda: nn.CrossEntropyLoss()(nt.ones(2, 3), nt.ones(2, 4)),
        RuntimeError,
        r"\(2, 3\), got \(2, 4\)",
    ),
    (
        "smoothing",
        lambda: nn.CrossEntropyLoss(label_smoothing=1.5)(nt.ones(2, 3), nt.tensor([0, 1])),
        RuntimeError,
        "between 0.0 and 1.0",
    ),
    ("margin's p", lambda: nn.MultiMarginLoss(p=3), ValueError, "got 3"),
    (
        "negative variance",
        lambda: nn.GaussianNLLLoss()(nt.ones(2), nt.ones(2), -nt.ones(2)),
        ValueError,
        "negative entries",
    ),
    (
        "soft margin",
        lambda: nn.SoftMarginLoss()(nt.ones(1), nt.ones(3)),
        RuntimeError,
        r"\(1,\).*\(3,\)",
    ),
    (
        "float classes",
        lambda: nn.NLLLoss()(nt.ones(2, 3), nt.ones(2)),
        RuntimeError,
        "Long",
    ),
]


@pytest.mark.parametrize(
    "make, error, message", [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS]
)
def test_what_does_not_fit_is_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.torch
@pytest.mark.parametrize("name", ["huber_loss", "smooth_l1_loss"])
@pytest.mark.parametrize("error", [0.0, 1e-30, 0.3, 1.0, -1.0, 2.0, math.inf])
@pytest.mark.parametrize("g", [1.0, math.inf, 0.0])
def test_slopes_and_curvatures_of_a_loss_with_a_bend_are_pytorchs(
    name: str, error: float, g: float
) -> None:
    import torch

    results = []
    for T in (torch, nt):
        x = T.tensor(error, dtype=T.float64, requires_grad=True)
        zero = T.zeros((), dtype=T.float64)
        y = getattr(T.nn.functional, name)(x, zero, reduction="none")
        (slope,) = T.autograd.grad(y, x, zero + g, create_graph=True)
        (curvature,) = T.autograd.grad(slope, x)
        results.append([v.item() for v in (y, slope, curvature)])
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("shape", [(5, 7), (100, 10)])
def test_a_step_of_cross_entropy_takes_exponentials_and_checks_classes_once(
    shape: tuple[int, int],
) -> None:
    x, target = nt.randn(*shape, requires_grad=True), nt.randint(0, shape[1], shape[:1])

    def step() -> None:
        x.grad = None
        nn.functional.cross_entropy(x, target).backward()

    compiled = nt.compile(step, pure=True)
    compiled()
    calls = str(compiled.explain()).split()
    assert (calls.count("exp"), calls.count("less"), calls.count("log")) == (1, 1, 1)


def test_losses_are_the_same_with_and_without_a_gradient_to_the_last_bit() -> None:
    for shape in ((5, 7), (100, 10), (64, 300), (3, 4, 2)):
        x = nt.randn(*shape, requires_grad=True)
        target = nt.randint(0, shape[1], (shape[0], *shape[2:]))
        recorded = nn.functional.cross_entropy(x, target, reduction="none")
        plain = nn.functional.cross_entropy(x.detach(), target, reduction="none")
        by_steps = nn.functional.nll_loss(nn.functional.log_softmax(x, 1), target, reduction="none")
        assert nt.equal(recorded, plain) and nt.equal(recorded, by_steps)


# --- shapes that do not fit -----------------------------------------------------------------------

SHAPES = ((), (1,), (2,), (3,), (2, 3), (3, 3), (2, 1), (1, 3), (2, 3, 2), (2, 2), (0,))
NAMED = ("L1Loss", "MSELoss", "SmoothL1Loss", "KLDivLoss", "SoftMarginLoss")
TWO = (
    "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy_with_logits",
    "kl_div", "poisson_nll_loss", "hinge_embedding_loss", "soft_margin_loss",
    "multilabel_soft_margin_loss", "pairwise_distance", "cosine_similarity",
)  # fmt: skip
THREE = (
    "cosine_embedding_loss", "margin_ranking_loss", "triplet_margin_loss", "gaussian_nll_loss",
)  # fmt: skip
OF_CLASSES = ("cross_entropy", "nll_loss", "multi_margin_loss")


def outcome(library: Any, name: str, make: Callable[[Any], Any], **more: Any) -> Any:
    """The shape of the losses, or the class of the error."""
    how = {} if name in ("pairwise_distance", "cosine_similarity") else {"reduction": "none"}
    try:
        options = {k: library.ones(shape) for k, shape in more.items()}
        return tuple(getattr(library.nn.functional, name)(*make(library), **how, **options).shape)
    except Exception as error:
        return error


def disagree(torch: Any, *case: Any, **more: Any) -> bool:
    ours, theirs = outcome(nt, *case, **more), outcome(torch, *case, **more)
    if isinstance(theirs, Exception):
        return not isinstance(ours, type(theirs))
    return bool(ours != theirs)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*TWO, *THREE, *OF_CLASSES])
def test_shapes_fit_or_are_refused_as_by_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch")
    wrong: list[Any] = []
    for shapes in product(SHAPES, repeat=3 if name in THREE else 2):
        if name in OF_CLASSES:
            x, target = shapes

            def make(t: Any, x: Any = x, target: Any = target) -> Any:
                return t.ones(x), t.zeros(target, dtype=t.int64)

            wrong += [shapes] * disagree(torch, name, make)
            if x:  # and weights of the classes
                wrong += [("weight", *shapes)] * disagree(
                    torch, name, lambda t, x=x: make(t, x, x[:1]), weight=target
                )
        else:
            wrong += [shapes] * disagree(
                torch, name, lambda t, shapes=shapes: [t.ones(shape) for shape in shapes]
            )
    assert not wrong


@pytest.mark.parametrize("name", NAMED)
def test_a_reduction_is_named_since_pytorchs_first_argument_is_another(name: str) -> None:
    assert getattr(nn, name)(reduction="sum").reduction == "sum"
    with pytest.raises(TypeError, match="positional"):
        getattr(nn, name)("none")


@pytest.mark.torch
@pytest.mark.parametrize("classes, weights", [(1, 2), (3, 1), (3, 2), (3, 3)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["numbers", "probabilities"])
def test_one_weight_for_each_class(classes: int, weights: int, smoothing: float, kind: str) -> None:
    torch = pytest.importorskip("torch")
    results: list[Any] = []
    for t in (nt, torch):
        target = t.zeros(2, dtype=t.int64) if kind == "numbers" else t.ones(2, classes) / classes
        options = {"weight": t.ones(weights), "label_smoothing": smoothing}
        try:
            loss = t.nn.functional.cross_entropy(t.ones(2, classes), target, **options)
            results.append(round(loss.item(), 5))
        except RuntimeError:
            results.append("refused")
    assert results[0] == results[1]
