"""Small models, batches and training steps, for the tests of what replays steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nanotorch as nt
from nanotorch import nn, optim

ROWS, FEATURES = 24, 6
Step = Callable[[nt.Tensor, nt.Tensor], Any]


def batches(
    count: int = 6, classes: int = 1, device: str = "cpu"
) -> list[tuple[nt.Tensor, nt.Tensor]]:
    nt.manual_seed(3)
    made = []
    for _ in range(count):
        x = nt.randn(ROWS, FEATURES)
        y = nt.randint(0, classes, (ROWS,)) if classes > 1 else nt.rand(ROWS, 1).round()
        made.append((x.to(device), y.to(device)))
    return made


def logistic() -> nn.Module:
    return nn.Linear(FEATURES, 1)


def softmax() -> nn.Module:
    return nn.Linear(FEATURES, 3)


def perceptron() -> nn.Module:
    return nn.Sequential(
        nn.Linear(FEATURES, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 8), nn.ReLU(),
        nn.Linear(8, 1),
    )  # fmt: skip


def normalized() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Linear(8, 1))


def training_step(
    make: Callable[[], nn.Module],
    make_optimizer: Callable[[Any], Any],
    loss_function: Any = None,
    device: str = "cpu",
) -> tuple[Step, nn.Module, Any]:
    nt.manual_seed(0)
    model = make().to(device)
    optimizer = make_optimizer(model.parameters())
    loss_of = loss_function or nn.BCEWithLogitsLoss()

    def step(x: nt.Tensor, y: nt.Tensor) -> nt.Tensor:
        optimizer.zero_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step, model, optimizer


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda p: optim.SGD(p, lr=0.1),
    "sgd with momentum": lambda p: optim.SGD(
        p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01
    ),
    "adamw": lambda p: optim.AdamW(p, lr=0.01),
}
MODELS: dict[str, tuple[Callable[[], nn.Module], Any, int]] = {
    "logistic": (logistic, None, 1),
    "softmax": (softmax, nn.CrossEntropyLoss(), 3),
    "perceptron with dropout": (perceptron, None, 1),
    "batch norm": (normalized, None, 1),
    "mse": (perceptron, nn.MSELoss(), 1),
}
