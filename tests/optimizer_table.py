"""One row for each optimizer: its update in NumPy, written anew, and the options to try it with.

The tests read a row in every way: large parameters in pieces, single elements, halves, compiled,
on a GPU, captured, saved and loaded, and beside PyTorch's.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import numpy as np

Options = dict[str, Any]


class Row(NamedTuple):
    """update(w, g, s, t, **options) returns w after step t = 1, 2, …; s is a dict for the state."""

    name: str
    update: Callable[..., Any]
    cases: list[Options]

    @property
    def few(self) -> list[Options]:
        """Three of the cases, where each of them would take too long."""
        return [self.cases[i] for i in (0, len(self.cases) // 2, -1)]


def combinations(**choices: list[Any]) -> list[Options]:
    return [dict(zip(choices, values)) for values in product(*choices.values())]


def penalized(w: Any, g: Any, weight_decay: float, maximize: bool) -> Any:
    return (-g if maximize else g) + weight_decay * w


def mean(s: Options, name: str, value: Any, beta: float) -> Any:
    s[name] = beta * s.get(name, 0.0) + (1 - beta) * value
    return s[name]


def sgd(
    w: Any, g: Any, s: Options, t: int, lr: float, momentum: float = 0, dampening: float = 0,
    weight_decay: float = 0, nesterov: bool = False, maximize: bool = False,
) -> Any:  # fmt: skip
    d = penalized(w, g, weight_decay, maximize)
    if momentum:
        v = s["momentum_buffer"] = (
            d if t == 1 else momentum * s["momentum_buffer"] + (1 - dampening) * d
        )
        d = d + momentum * v if nesterov else v
    return w - lr * d


def adam(
    w: Any, g: Any, s: Options, t: int, lr: float = 1e-3, betas: Any = (0.9, 0.999),
    eps: float = 1e-8, weight_decay: float = 0, amsgrad: bool = False, maximize: bool = False,
    decoupled_weight_decay: bool = False,
) -> Any:  # fmt: skip
    if decoupled_weight_decay:
        w, weight_decay = w * (1 - lr * weight_decay), 0
    g = penalized(w, g, weight_decay, maximize)
    m = mean(s, "exp_avg", g, betas[0]) / (1 - betas[0] ** t)
    v = mean(s, "exp_avg_sq", g * g, betas[1])
    if amsgrad:
        v = s["max_exp_avg_sq"] = np.maximum(s.get("max_exp_avg_sq", 0.0), v)
    return w - lr * m / (np.sqrt(v / (1 - betas[1] ** t)) + eps)


def adamw(w: Any, g: Any, s: Options, t: int, weight_decay: float = 1e-2, **options: Any) -> Any:
    return adam(w, g, s, t, weight_decay=weight_decay, decoupled_weight_decay=True, **options)


def nadam(
    w: Any, g: Any, s: Options, t: int, lr: float = 2e-3, betas: Any = (0.9, 0.999),
    eps: float = 1e-8, weight_decay: float = 0, momentum_decay: float = 4e-3,
    decoupled_weight_decay: bool = False, maximize: bool = False,
) -> Any:  # fmt: skip
    if decoupled_weight_decay:
        w, weight_decay = w * (1 - lr * weight_decay), 0
    g = penalized(w, g, weight_decay, maximize)
    mu = [betas[0] * (1 - 0.96 ** (i * momentum_decay) / 2) for i in (t, t + 1)]
    product_now = s["mu_product"] = s.get("mu_product", 1.0) * mu[0]
    m, v = mean(s, "exp_avg", g, betas[0]), mean(s, "exp_avg_sq", g * g, betas[1])
    ahead = mu[1] * m / (1 - product_now * mu[1]) + (1 - mu[0]) * g / (1 - product_now)
    return w - lr * ahead / (np.sqrt(v / (1 - betas[1] ** t)) + eps)


def radam(
    w: Any, g: Any, s: Options, t: int, lr: float = 1e-3, betas: Any = (0.9, 0.999),
    eps: float = 1e-8, weight_decay: float = 0, decoupled_weight_decay: bool = False,
    maximize: bool = False,
) -> Any:  # fmt: skip
    if decoupled_weight_decay:
        w, weight_decay = w * (1 - lr * weight_decay), 0
    g = penalized(w, g, weight_decay, maximize)
    m = mean(s, "exp_avg", g, betas[0]) / (1 - betas[0] ** t)
    v = mean(s, "exp_avg_sq", g * g, betas[1])
    most = 2 / (1 - betas[1]) - 1
    rho = most - 2 * t * betas[1] ** t / (1 - betas[1] ** t)
    if rho <= 5:
        return w - lr * m
    r = np.sqrt((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho))
    return w - lr * m * r * np.sqrt(1 - betas[1] ** t) / (np.sqrt(v) + eps)


def adamax(
    w: Any, g: Any, s: Options, t: int, lr: float = 2e-3, betas: Any = (0.9, 0.999),
    eps: float = 1e-8, weight_decay: float = 0, maximize: bool = False,
) -> Any:  # fmt: skip
    g = penalized(w, g, weight_decay, maximize)
    m = mean(s, "exp_avg", g, betas[0]) / (1 - betas[0] ** t)
    u = s["exp_inf"] = np.maximum(betas[1] * s.get("exp_inf", 0.0), abs(g) + eps)
    return w - lr * m / u


def adadelta(
    w: Any, g: Any, s: Options, t: int, lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6,
    weight_decay: float = 0, maximize: bool = False,
) -> Any:  # fmt: skip
    g = penalized(w, g, weight_decay, maximize)
    square = mean(s, "square_avg", g * g, rho)
    d = np.sqrt(s.get("acc_delta", 0.0) + eps) / np.sqrt(square + eps) * g
    mean(s, "acc_delta", d * d, rho)
    return w - lr * d


def rmsprop(
    w: Any, g: Any, s: Options, t: int, lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8,
    weight_decay: float = 0, momentum: float = 0, centered: bool = False, maximize: bool = False,
) -> Any:  # fmt: skip
    g = penalized(w, g, weight_decay, maximize)
    spread = mean(s, "square_avg", g * g, alpha)
    if centered:
        spread = spread - mean(s, "grad_avg", g, alpha) ** 2
    d = g / (np.sqrt(spread) + eps)
    if momentum:
        d = s["momentum_buffer"] = momentum * s.get("momentum_buffer", 0.0) + d
    return w - lr * d


def adagrad(
    w: Any, g: Any, s: Options, t: int, lr: float = 1e-2, lr_decay: float = 0,
    weight_decay: float = 0, initial_accumulator_value: float = 0, eps: float = 1e-10,
    maximize: bool = False,
) -> Any:  # fmt: skip
    g = penalized(w, g, weight_decay, maximize)
    s["sum"] = s.get("sum", initial_accumulator_value) + g * g
    return w - lr / (1 + (t - 1) * lr_decay) * g / (np.sqrt(s["sum"]) + eps)


SWITCH, DECAY = [False, True], [0, 0.1]
SGDS = combinations(lr=[0.05], momentum=[0, 0.9], dampening=[0, 0.3], weight_decay=DECAY,
                   nesterov=SWITCH, maximize=SWITCH)  # fmt: skip
ADAM = combinations(lr=[0.01], amsgrad=SWITCH, weight_decay=DECAY, maximize=SWITCH)
DECOUPLED = combinations(decoupled_weight_decay=SWITCH, weight_decay=DECAY, maximize=SWITCH)

ROWS = [
    Row("SGD", sgd, [o for o in SGDS if not o["nesterov"] or o["momentum"] > o["dampening"] == 0]),
    Row("Adam", adam, [*ADAM, {"betas": (0.0, 0.9), "eps": 1e-3, "weight_decay": 0.1}]),
    Row("AdamW", adamw, [*ADAM, {"betas": (0.5, 0.5)}]),
    Row("NAdam", nadam, [*DECOUPLED, {"momentum_decay": 0.5, "betas": (0.8, 0.9), "lr": 0.05}]),
    Row("RAdam", radam, [*DECOUPLED, {"betas": (0.8, 0.99), "lr": 0.05, "eps": 1e-3}]),
    Row("Adamax", adamax, combinations(lr=[2e-3, 0.05], weight_decay=DECAY, maximize=SWITCH)),
    Row("Adadelta", adadelta, combinations(rho=[0.9, 0.5], weight_decay=DECAY, maximize=SWITCH)),
    Row("RMSprop", rmsprop, combinations(momentum=[0, 0.9], centered=SWITCH, weight_decay=DECAY,
                                         maximize=SWITCH)),
    Row("Adagrad", adagrad, combinations(lr_decay=DECAY, weight_decay=DECAY, maximize=SWITCH,
                                         initial_accumulator_value=[0, 0.5])),
]  # fmt: skip

CASES = [(row.name, options) for row in ROWS for options in row.cases]
FEW = [(row.name, options) for row in ROWS for options in row.few]


def named(value: Any) -> str:
    """The id of a test's case: the optimizer, or those of its options that are set."""
    if isinstance(value, dict):
        return "-".join(f"{key}={option}" for key, option in value.items() if option) or "plain"
    return str(value)
