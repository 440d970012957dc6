"""Distributions: PyTorch's shapes, samples, densities, gradients and refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest

import nanotorch as nt
from nanotorch import distributions

# For each kind, arguments: numbers, lists for tensors, None.
ARGUMENTS: dict[str, list[tuple[Any, ...]]] = {
    "Normal": [(0.0, 1.0), ([0.5, -1.0], 2.0), ([[0.5], [-1.0]], [1.0, 2.0, 3.0])],
    "Uniform": [(0.0, 1.0), ([0.5, -1.0], 2.0), (-1.0, [[2.0], [3.0]])],
    "Bernoulli": [(0.3,), ([0.2, 0.7],), (None, [0.2, -0.7]), ([0.0, 0.5, 1.0],)],
    "Categorical": [
        ([0.2, 0.3, 0.5],),
        ([[1.0, 2.0, 3.0], [2.0, 0.0, 1.0]],),
        (None, [[1.0, 2.0, 3.0], [-2.0, 2.0, 1.0]]),
    ],
}
CASES = [(kind, arguments) for kind, many in ARGUMENTS.items() for arguments in many]


def make(module: Any, kind: str, arguments: tuple[Any, ...], **options: Any) -> Any:
    package = distributions if module is nt else module.distributions
    values = [
        module.tensor(x, dtype=module.float64) if isinstance(x, list) else x for x in arguments
    ]
    return getattr(package, kind)(*values, **options)


def same(ours: Any, theirs: Any, tolerance: float = 1e-6) -> None:
    assert tuple(ours.shape) == tuple(theirs.shape)
    assert str(ours.dtype) == str(theirs.dtype)
    there = nt.tensor(theirs.detach().numpy())
    if ours.is_floating_point():
        assert nt.allclose(ours.detach(), there, rtol=tolerance, atol=tolerance, equal_nan=True)
    else:
        assert nt.equal(ours, there)


@pytest.mark.torch
@pytest.mark.parametrize(("kind", "arguments"), CASES, ids=str)
def test_samples_and_what_is_computed_of_them_are_pytorchs(kind: str, arguments: Any) -> None:
    torch = pytest.importorskip("torch")
    theirs, ours = make(torch, kind, arguments), make(nt, kind, arguments)
    assert repr(ours) == repr(theirs)
    assert tuple(ours.batch_shape) == tuple(theirs.batch_shape)
    for shape in ((), (3,), (40,), (2, 3)):
        torch.manual_seed(1)
        nt.manual_seed(1)
        value, there = ours.sample(shape), theirs.sample(shape)
        same(value, there)
        assert not value.requires_grad
        for name in ("log_prob", "cdf"):
            if name == "log_prob" or kind in ("Normal", "Uniform"):
                same(getattr(ours, name)(value), getattr(theirs, name)(there))
    for name in ("mean", "variance", "stddev", "mode"):
        same(getattr(ours, name), getattr(theirs, name))
    for name in ("entropy", "perplexity"):
        same(getattr(ours, name)(), getattr(theirs, name)())
    assert ours.has_rsample == theirs.has_rsample
    if theirs.has_enumerate_support:
        for expand in (True, False):
            same(ours.enumerate_support(expand), theirs.enumerate_support(expand))
    assert repr(ours) == repr(theirs)  # now with what was computed in between
    shape = (4, *ours.batch_shape)
    nt.manual_seed(2)
    torch.manual_seed(2)
    same(ours.expand(shape).sample((2,)), theirs.expand(shape).sample((2,)))


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["Normal", "Uniform"])
def test_the_inverse_of_the_distribution_function_is_pytorchs(kind: str) -> None:
    torch = pytest.importorskip("torch")
    for arguments in ARGUMENTS[kind]:
        theirs, ours = make(torch, kind, arguments), make(nt, kind, arguments)
        shares = nt.linspace(0.01, 0.99, 6, dtype=nt.float64).reshape(6, 1, 1)
        same(ours.icdf(shares), theirs.icdf(torch.tensor(shares.numpy())))
        values = ours.icdf(shares)
        assert nt.allclose(ours.cdf(values), shares.expand(values.shape), rtol=0, atol=1e-9)


@pytest.mark.torch
@pytest.mark.parametrize(("kind", "arguments"), CASES, ids=str)
def test_divergences_of_equal_kinds_are_pytorchs(kind: str, arguments: Any) -> None:
    torch = pytest.importorskip("torch")
    for others in ARGUMENTS[kind]:
        try:
            expected = torch.distributions.kl_divergence(
                make(torch, kind, arguments), make(torch, kind, others)
            )
        except RuntimeError:  # shapes that do not broadcast
            continue
        same(
            distributions.kl_divergence(make(nt, kind, arguments), make(nt, kind, others)),
            expected,
        )


@pytest.mark.torch
@pytest.mark.parametrize(("kind", "arguments"), CASES, ids=str)
def test_gradients_flow_to_the_arguments_as_in_pytorch(kind: str, arguments: Any) -> None:
    torch = pytest.importorskip("torch")
    gradients = []
    for module in (torch, nt):
        values = [
            None if x is None else module.tensor(x, dtype=module.float64).requires_grad_()
            for x in arguments
        ]
        package = distributions if module is nt else module.distributions
        variable = getattr(package, kind)(*values)
        module.manual_seed(4)
        value = variable.sample((5,))
        total = variable.log_prob(value).clamp(min=-50).sum() + variable.entropy().sum()
        if variable.has_rsample:
            total = total + variable.rsample((3,)).square().sum()
        total.backward()
        gradients.append([x.grad for x in values if x is not None])
    for theirs, ours in zip(*gradients, strict=True):
        assert (theirs is None) == (ours is None)
        if ours is not None:
            same(ours, theirs)


@pytest.mark.parametrize(
    ("make_it", "words"),
    [
        (lambda: distributions.Normal(0.0, -1.0), "expected scale > 0, got .-1.0"),
        (lambda: distributions.Normal(0.0, nt.tensor([1.0, 0.0])), "expected scale > 0, got .0.0"),
        (lambda: distributions.Normal(math.nan, 1.0), "expected loc to be numbers"),
        (lambda: distributions.Uniform(1.0, 1.0), "expected low below high"),
        (lambda: distributions.Bernoulli(1.5), "expected probs from 0 to 1, got .1.5"),
        (lambda: distributions.Bernoulli(), "Either `probs` or `logits`"),
        (lambda: distributions.Bernoulli(0.5, 0.0), "Either `probs` or `logits`"),
        (lambda: distributions.Categorical(nt.tensor(0.5)), "at least one-dimensional"),
        (lambda: distributions.Categorical(nt.tensor([0.5, -0.1])), "expected probs of at least 0"),
        (lambda: distributions.Normal("0", 1.0), "expected numbers or Tensors as arguments"),
        (lambda: distributions.Normal(0.0, 1.0).log_prob(1.0), "expected a Tensor as value"),
        (lambda: distributions.Bernoulli(0.5).log_prob(nt.tensor(0.5)), "within the support"),
        (lambda: distributions.Uniform(0.0, 1.0).log_prob(nt.tensor(2.0)), "within the support"),
        (
            lambda: distributions.Categorical(nt.ones(3)).log_prob(nt.tensor([0, 3])),
            "within the support of Categorical.* got .3",
        ),
        (
            lambda: distributions.Normal(nt.zeros(3), 1.0).log_prob(nt.zeros(2)),
            r"broadcasts to \(3,\), got \(2,\)",
        ),
    ],
)
def test_what_is_not_possible_is_a_value_error_of_one_line(make_it: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        make_it()
    assert "\n" not in str(error.value)


def test_unchecked_arguments_give_what_the_formulas_give() -> None:
    uniform = distributions.Uniform(0.0, 1.0, validate_args=False)
    assert uniform.log_prob(nt.tensor([0.5, 2.0])).tolist() == [0.0, -math.inf]
    distributions.Normal(0.0, -1.0, validate_args=False)
    distributions.Distribution.set_default_validate_args(False)
    try:
        distributions.Normal(0.0, -1.0)
    finally:
        distributions.Distribution.set_default_validate_args(True)


def test_a_message_shows_three_of_the_wrong_values() -> None:
    with pytest.raises(ValueError, match=r"expected scale > 0, got \[-1.0, -2.0, -3.0\]$"):
        distributions.Normal(0.0, -nt.arange(1.0, 6.0))


@pytest.mark.parametrize("name", ["mean", "mode", "variance", "stddev", "entropy", "sample"])
def test_a_distribution_of_no_kind_has_none_of_what_kinds_have(name: str) -> None:
    with pytest.raises(NotImplementedError):
        value = getattr(distributions.Distribution(validate_args=False), name)
        value()


def test_other_names_are_told_to_be_left_out() -> None:
    with pytest.raises(AttributeError, match="Beta is not part of NanoTorch; there are Bernoulli"):
        distributions.Beta  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute 'Nomal'"):
        distributions.Nomal  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(NotImplementedError, match="of one kind, got Normal and Uniform"):
        distributions.kl_divergence(distributions.Normal(0.0, 1.0), distributions.Uniform(0.0, 1.0))
    with pytest.raises(NotImplementedError, match="has no rsample"):
        distributions.Bernoulli(0.5).rsample()


@pytest.mark.parametrize("pure", [False, True])
def test_a_compiled_step_draws_anew_at_each_call(pure: bool) -> None:
    loc, scale = nt.zeros(3, requires_grad=True), nt.ones(3)

    def step() -> Any:
        loc.grad = None
        normal = distributions.Normal(loc, scale, validate_args=False)
        y = normal.rsample((4,)).square().sum()
        y.backward()
        return y

    nt.manual_seed(0)
    expected = [(step().item(), loc.grad.tolist()) for _ in range(4)]  # type: ignore[union-attr]
    compiled = nt.compile(step, pure=pure)
    nt.manual_seed(0)
    assert [(compiled().item(), loc.grad.tolist()) for _ in range(4)] == expected  # type: ignore[union-attr]
    assert len({value for value, _ in expected}) == 4
