"""NumPy's warnings and errors are for a program's own arithmetic: none comes out of the package's,
whatever the program has asked for, and the values are the same."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import pytest

import nanotorch as nt
from nanotorch import nn, optim
from nanotorch.backend import silence

F = nn.functional
INF, NAN = math.inf, math.nan
VALUES = [NAN, INF, -INF, 0.0, -0.0, 1e30, -1e30, 1e-40, 1000.0, -1000.0, 88.8, 3.0]
DTYPES = (nt.float32, nt.float64, nt.float16, nt.bfloat16)


@pytest.fixture(params=["warnings are errors", "warnings are shown", "numpy raises", "both"])
def strict(request: Any) -> Iterator[None]:
    settings = {"all": "warn" if request.param.startswith("warnings") else "raise"}
    with warnings.catch_warnings(record=True) as shown, numpy.errstate(**settings):
        if request.param != "numpy raises":
            warnings.simplefilter("always" if request.param == "warnings are shown" else "error")
        yield
    assert [f"{w.filename} {w.lineno}" for w in shown if w.category is RuntimeWarning] == []


def differentiated(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The value of f, its gradient, and the gradient of that."""

    def program(x: Any) -> Any:
        x = x.clone().requires_grad_()
        y = f(x)
        (slope,) = nt.autograd.grad(y.sum(), x, create_graph=True)
        slope.sum().backward()
        return y, slope, x.grad

    return program


def in_place(x: Any) -> Any:
    x = x.clone()
    x.mul_(1e30).div_(0)
    x[0] = NAN
    x[1:3] /= 0
    x.view(3, 4)[0].exp_()
    x += x
    return x


def trained(name: str, how: str, **options: Any) -> Callable[[Any], Any]:
    """The weights after steps whose loss and gradients are no numbers."""

    def program(x: Any) -> Any:
        w, v = nn.Parameter(x.clone()), nn.Parameter(nt.zeros(3, 4, dtype=x.dtype))
        optimizer = getattr(optim, name)([w, v], **options)

        def step(x: Any) -> Any:
            optimizer.zero_grad()
            loss = (w * w).sum().exp() * (x * v).log().sum() / 0 + F.softmax(x * v, -1).sum()
            loss.backward()
            nn.utils.clip_grad_norm_([w, v], 1.0)
            return loss

        def whole(x: Any) -> Any:
            step(x)
            optimizer.step()

        run = {"plain": whole, "compiled": nt.compile(whole), "pure": nt.compile(whole, pure=True)}
        for _ in range(3):
            run[how](x.reshape(3, 4))
        return w, v

    return program


PROGRAMS: dict[str, Callable[[Any], Any]] = {
    "logarithm": differentiated(lambda x: x.log()),
    "quotients": differentiated(lambda x: 1 / x + x / x + x / 0),
    "exponentials": differentiated(lambda x: (x.log() / x).exp()),
    "powers": differentiated(lambda x: x**-1.5 + x**x),
    "softmax": differentiated(lambda x: F.softmax(x, -1) * F.softplus(x)),
    "variance": differentiated(lambda x: x.var() + x[:1].var(correction=2)),
    "norms": differentiated(lambda x: F.layer_norm(x, (12,)) * x.norm()),
    "products": differentiated(lambda x: x.cumprod(0) + x.prod()),
    "losses": differentiated(lambda x: F.binary_cross_entropy_with_logits(x, x.sigmoid())),
    "in place": in_place,
    "casts": lambda x: [x.half(), x.int(), x.bool(), x.bfloat16(), x.double(), x.float()],
    "texts": lambda x: [nt.tensor([ord(c) for c in repr(x) + f"{x[2]} {x}"])],
    "forward mode": lambda x: nt.func.jvp(lambda x: (x.log() / x).exp(), (x,), (x,)),
    "samples": lambda x: nt.func.vmap(nt.func.grad(lambda x: (x.log() / x).sum()))(x.view(3, 4)),
    "creation": lambda x: [
        nt.tensor([1e300, 1e-300, INF], dtype=x.dtype),
        nt.logspace(-50, 50, 5, dtype=x.dtype),
    ],
    "large steps": trained("SGD", "plain", lr=1e30, momentum=0.9, weight_decay=0.1),
    **{
        f"{name}, {how}": trained(name, how)
        for name in ("SGD", "Adam", "RMSprop", "Adagrad", "NAdam")
        for how in ("plain", "compiled")
    },
    "SGD, pure": trained("SGD", "pure", lr=1e30),
}


def bits(result: Any) -> Any:
    if isinstance(result, tuple | list):
        return [bits(part) for part in result]
    return result.detach().double().numpy().tobytes()


@pytest.mark.ring
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", PROGRAMS)
def test_values_are_the_same_where_numpy_may_raise(name: str, dtype: Any, strict: None) -> None:
    if "pure" in name and dtype in (nt.float16, nt.bfloat16):
        pytest.skip("is not compiled")
    x = nt.tensor(VALUES).to(dtype)
    result = PROGRAMS[name](x)
    with warnings.catch_warnings(), numpy.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        assert bits(result) == bits(PROGRAMS[name](x))


def test_a_write_is_made_once_where_numpy_may_raise(strict: None) -> None:
    for dtype in DTYPES:
        x = nt.tensor([3.0, 0.0], dtype=dtype)
        x.add_(1).div_(nt.tensor([0.0, 4.0], dtype=dtype)).mul_(2)
        assert x.tolist() == [INF, 0.5]


def test_a_line_search_that_overflows_is_silent(strict: None) -> None:
    for dtype in DTYPES:
        w = nn.Parameter(nt.tensor(VALUES).to(dtype))
        optimizer = optim.LBFGS([w], line_search_fn="strong_wolfe")

        def closure(w: Any = w, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            loss = (w * w).exp().sum() / 0
            loss.backward()
            return loss

        optimizer.step(closure)


def test_probabilities_that_are_nan_are_refused_by_us(strict: None) -> None:
    for dtype in DTYPES:
        x = nt.tensor([NAN, 0.5], dtype=dtype)
        with pytest.raises(RuntimeError, match="expected"):
            nt.bernoulli(x)
        with pytest.raises(RuntimeError, match="expected"):
            nt.multinomial(x, 1)


def test_a_programs_own_arithmetic_raises_as_it_asked() -> None:
    lines = (
        "import warnings, numpy, nanotorch as nt",
        "warnings.simplefilter('error')",
        "x = nt.tensor([0.0], requires_grad=True)",
        "x.log().backward(); y = nt.tensor([1.0]); y.div_(0); print(x.grad, y, x.detach().log())",
        "numpy.seterr(all='raise')",
        "print(y.sub(y), nt.tensor([2.0]).div_(0))",
        "try: numpy.log(numpy.zeros(1))",
        "except FloatingPointError: print('raised')",
    )
    command = [sys.executable, "-c", "\n".join(lines)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.stdout.splitlines() == [
        "tensor([inf]) tensor([inf]) tensor([-inf])", "tensor([nan]) tensor([inf])", "raised",
    ], run.stderr  # fmt: skip


@pytest.mark.parametrize("how", ["eager", "compiled", "pure"])
def test_what_comes_first_after_a_program_asked_for_warnings_is_silent_too(how: str) -> None:
    w = nn.Parameter(nt.tensor([1.0, 2.0, 3.0]))
    x = nt.tensor([0.0, -1.0, 1e30])

    def step(x: Any) -> Any:
        loss = (w * x).log().sum() / 0
        loss.backward()
        return loss

    run = {"eager": step, "compiled": nt.compile(step), "pure": nt.compile(step, pure=True)}[how]
    for _ in range(4):
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("always")
            run(x)
        assert shown == []


@pytest.mark.parametrize(
    "settings, sets_aside",
    [({}, 0), ({"all": "ignore"}, 0), ({"over": "warn"}, 0), ({"under": "raise"}, 1)],
)
def test_settings_that_raise_nothing_are_not_set_aside(
    settings: dict[str, Any], sets_aside: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def silently(function: Any, *args: Any) -> Any:
        calls.append(function)
        return function(*args)

    monkeypatch.setattr(silence, "silently", silently)
    with numpy.errstate(**settings):
        for _ in range(3):
            silence.silent(lambda: None)()
    assert len(calls) == 3 * sets_aside
