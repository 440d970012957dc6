"""gradcheck and gradgradcheck, hooks on what is kept, anomaly detection, inference mode."""

from __future__ import annotations

from typing import Any

import pytest

import nanotorch
from nanotorch import autograd
from nanotorch.autograd import Function, gradcheck, gradgradcheck, graph
from nanotorch.autograd.gradcheck import GradcheckError, fixed_vector


def leaf(*values: float) -> Any:
    return nanotorch.tensor(values, dtype=nanotorch.float64, requires_grad=True)


def with_slope(slope: Any, tangent: Any = None) -> type[Function]:
    """y = x * x with a given backward, and a jvp if there is one"""

    class Squared(Function):
        @staticmethod
        def forward(x: Any) -> Any:
            return x * x

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return slope(g, *ctx.saved_tensors)

        @staticmethod
        def jvp(ctx: Any, t: Any) -> Any:
            return tangent(t, *ctx.saved_tensors)

    return Squared


RIGHT = with_slope(lambda g, x: 2 * g * x, lambda t, x: 2 * t * x)
WRONG = with_slope(lambda g, x: 3 * g * x, lambda t, x: 2 * t * x)
WRONG_FORWARD = with_slope(lambda g, x: 2 * g * x, lambda t, x: 3 * t * x)
WRONG_SECOND = with_slope(lambda g, x: 2 * g * x.detach())


@pytest.mark.parametrize("fast", [False, True])
def test_right_derivatives_pass(fast: bool) -> None:
    x, y = leaf(1, 2, -3), leaf(0.5, 1, 4)
    options = {"fast_mode": fast, "check_forward_ad": True, "check_batched_grad": True}
    assert gradcheck(RIGHT.apply, x, **options)
    assert gradcheck(lambda x, y: (x * y, (x / y).sum()), (x, y), **options)
    assert gradgradcheck(lambda x, y: x * x * y, (x, y), check_fwd_over_rev=True, fast_mode=fast)
    assert gradgradcheck(lambda x: x.exp(), x, gen_non_contig_grad_outputs=True)


def test_a_wrong_backward_is_shown_with_both_jacobians() -> None:
    with pytest.raises(GradcheckError) as caught:
        gradcheck(WRONG.apply, leaf(1, 2))
    assert str(caught.value) == (
        "Jacobian mismatch for output 0 with respect to input 0,\n"
        "numerical:tensor([[2.0000, 0.0000],\n        [0.0000, 4.0000]], dtype=torch.float64)\n"
        "analytical:tensor([[3., 0.],\n        [0., 6.]], dtype=torch.float64)\n"
    )
    assert gradcheck(WRONG.apply, leaf(1, 2), raise_exception=False) is False
    with pytest.raises(GradcheckError, match=r"numerical:[\d.e-]+\nanalytical:"):
        gradcheck(WRONG.apply, leaf(1, 2), fast_mode=True)


@pytest.mark.parametrize("mode", ["reverse", "forward"])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_fast_check_allows_more_the_more_elements_there_are(size: int, mode: str) -> None:
    fault = 0.01  # of each slope
    wrong = with_slope(lambda g, x: g * (2 * x + fault), lambda t, x: t * (2 * x + fault))
    forward = mode == "forward"
    right = with_slope(lambda g, x: g * 2 * x, lambda t, x: t * (2 * x + fault))
    x = leaf(*[0.5] * size)
    error = fault * float((fixed_vector(x) ** 2).sum())
    for share, passes in ((1.1, True), (0.9, False)):
        assert passes is gradcheck(
            (right if forward else wrong).apply, x, fast_mode=True, rtol=0,
            atol=share * error / size, check_forward_ad=forward, raise_exception=False,
        )  # fmt: skip


def test_the_place_of_the_fault_is_named() -> None:
    with pytest.raises(GradcheckError, match="output 1 with respect to input 2"):
        gradcheck(
            lambda a, b, c: (a * b, WRONG.apply(c)), (leaf(1), nanotorch.ones(1).double(), leaf(2))
        )


def test_forward_mode_is_checked_on_its_own() -> None:
    assert gradcheck(WRONG_FORWARD.apply, leaf(1, 2))
    assert gradcheck(WRONG.apply, leaf(1, 2), check_backward_ad=False, check_forward_ad=True)
    with pytest.raises(GradcheckError, match="computed with forward mode mismatch"):
        gradcheck(WRONG_FORWARD.apply, leaf(1, 2), check_forward_ad=True)


def test_a_wrong_second_derivative_is_found() -> None:
    assert gradcheck(WRONG_SECOND.apply, leaf(1, 2))
    assert not gradgradcheck(WRONG_SECOND.apply, leaf(1, 2), raise_exception=False)


def test_a_backward_that_changes_between_calls_is_found() -> None:
    calls = [0]

    def slope(g: Any, x: Any) -> Any:
        calls[0] += 1
        return 2 * g * x * (1 + 1e-7 * calls[0])

    assert not gradcheck(with_slope(slope).apply, leaf(1, 2), raise_exception=False)
    assert gradcheck(with_slope(slope).apply, leaf(1, 2), nondet_tol=1e-3)


def test_a_backward_that_needs_all_cotangents_is_found() -> None:
    class Pair(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.set_materialize_grads(False)
            return x * 2, x * 3

        @staticmethod
        def backward(ctx: Any, a: Any, b: Any) -> Any:
            return 2 * a + 3 * b

    assert gradcheck(lambda x: sum(Pair.apply(x)), leaf(1, 2))
    assert gradcheck(Pair.apply, leaf(1, 2), check_undefined_grad=False, nondet_tol=1) is True
    with pytest.raises(GradcheckError, match="for output 0 only it raised TypeError"):
        gradcheck(Pair.apply, leaf(1, 2))


def test_inputs_that_cannot_be_checked_are_told() -> None:
    with pytest.raises(ValueError, match="at least one input tensor to require gradient"):
        gradcheck(lambda x: x, nanotorch.ones(2).double())
    with pytest.warns(UserWarning, match=r"input 0 .* torch.float32"):
        gradcheck(lambda x: x * 2, nanotorch.ones(2, requires_grad=True), atol=1, rtol=1)
    with pytest.raises(ValueError, match="at least one of"):
        gradcheck(lambda x: x, leaf(1), check_backward_ad=False)


# --- what is kept for backward --------------------------------------------------------------------


def test_kept_values_may_be_stored_elsewhere_and_differentiated_twice(tmp_path: Any) -> None:
    numbers = iter(range(100))

    def store(value: Any) -> Any:
        path = tmp_path / f"{next(numbers)}.txt"
        path.write_text(repr(value.tolist()))
        return path

    def load(path: Any) -> Any:
        return nanotorch.tensor(eval(path.read_text()), dtype=nanotorch.float64)

    x = leaf(1, 2)
    with graph.saved_tensors_hooks(store, load):
        y = (x.exp() * x).sum()
        (slope,) = autograd.grad(y, x, create_graph=True)
    (curve,) = autograd.grad(slope.sum(), x)
    assert nanotorch.allclose(slope, x.exp() * (x + 1))
    assert nanotorch.allclose(curve, x.exp() * (x + 2))
    assert list(tmp_path.iterdir())


def test_hooks_of_an_inner_block_count_and_can_be_forbidden() -> None:
    x = leaf(1, 2)
    with (
        graph.saved_tensors_hooks(lambda v: v * 100, lambda v: v),
        graph.saved_tensors_hooks(lambda v: v * 10, lambda v: v),
    ):
        y = (x * x).sum()
    y.backward()
    assert x.grad.tolist() == [20, 40]
    with (
        graph.disable_saved_tensors_hooks("not here"),
        pytest.raises(RuntimeError, match="not here"),
        graph.save_on_cpu(),
    ):
        pass
    with graph.save_on_cpu():
        (x * x).sum().backward()
    assert x.grad.tolist() == [22, 44]


def test_a_kept_value_that_changed_is_refused_unless_it_was_copied() -> None:
    x = leaf(1, 2)
    b = x * 1
    y = (b * b).sum()
    graph.increment_version(b)
    with pytest.raises(RuntimeError, match="version 1; expected version 0"):
        y.backward()
    with graph.allow_mutation_on_saved_tensors():
        b = x * 1
        y = (b * b).sum()
        b.zero_()
    y.backward()
    assert x.grad.tolist() == [2, 4]


# --- modes ----------------------------------------------------------------------------------------


def test_anomaly_detection_names_the_forward_line() -> None:
    x = nanotorch.zeros(1, requires_grad=True)
    with autograd.detect_anomaly():
        y = x.sqrt() * 0  # the line to be named
    with autograd.detect_anomaly(), pytest.raises(RuntimeError) as caught:
        y.backward()
    message = str(caught.value)
    assert message.startswith("Function 'SqrtBackward0' returned nan values")
    assert "y = x.sqrt() * 0  # the line to be named" in message
    assert (
        message.rstrip()
        .splitlines()[-2]
        .endswith("in test_anomaly_detection_names_the_forward_line")
    )


def test_recording_has_mxnets_names_too() -> None:
    x = leaf(1)
    with nanotorch.no_grad():
        assert not (x * 2).requires_grad
        with autograd.record():
            assert (x * 2).requires_grad
            with autograd.pause():
                assert not (x * 2).requires_grad

    @autograd.pause()
    def apart(x: Any) -> Any:
        return x * 2

    assert not apart(x).requires_grad


def test_tensors_of_inference_mode_stay_outside_of_graphs() -> None:
    x, w = nanotorch.ones(2), leaf(1, 2)
    with nanotorch.inference_mode():
        y = x * 2
        assert y.is_inference()
        assert not x.view(2).is_inference()
        y.add_(1)
        assert not (w * 2).requires_grad
    assert not (y + 1).is_inference()
    for refused in (
        lambda: y.add_(1),
        lambda: y.requires_grad_(),
        lambda: y * w,
    ):
        with pytest.raises(RuntimeError, match=r"[Ii]nference"):
            refused()
    (y.clone() * w).sum().backward()
    assert w.grad.tolist() == [3, 3]


def test_anomaly_detection_may_leave_nan_alone() -> None:
    for check_nan in (True, False):
        with autograd.set_detect_anomaly(True, check_nan):
            assert nanotorch.is_anomaly_enabled()
            assert nanotorch.is_anomaly_check_nan_enabled() is check_nan
    assert not nanotorch.is_anomaly_enabled()
    x = leaf(1, 2)
    with autograd.detect_anomaly(check_nan=False):
        y = x * 2
        y.register_hook(lambda g: g * float("nan"))
        y.sum().backward()
        assert x.grad.isnan().all()
        z = (x * x).sum()
        x.data.add_(1)
        z.backward()
