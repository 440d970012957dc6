"""Whole training loops, written once and run with NanoTorch and with PyTorch: the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nanotorch as nt

Loop = Callable[[Any], list[float]]


def data(torch: Any, classes: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((90, 6)).astype(np.float32)
    y = (x @ rng.standard_normal((6, classes))).argmax(1)
    return torch.tensor(x), torch.tensor(y)


def classifier(torch: Any) -> list[float]:
    """An MLP with dropout and batch normalization, shuffled batches, Adam and a schedule."""
    torch.manual_seed(0)
    x, y = data(torch, 3)
    train, held_out = torch.utils.data.random_split(torch.utils.data.TensorDataset(x, y), [70, 20])
    loader = torch.utils.data.DataLoader(train, batch_size=16, shuffle=True)
    model = torch.nn.Sequential(
        torch.nn.Linear(6, 16),
        torch.nn.BatchNorm1d(16),
        torch.nn.ReLU(),
        torch.nn.LayerNorm(16),
        torch.nn.Linear(16, 3),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, epochs=4, steps_per_epoch=5)
    loss_fn = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    seen = []
    for _ in range(4):
        model.train()
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = loss_fn(model(inputs), targets)
            loss.backward()
            seen.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
            optimizer.step()
            schedule.step()
            seen.append(loss.item())
        model.eval()
        with torch.no_grad():
            outputs = torch.stack([model(held_out[i][0].unsqueeze(0))[0] for i in range(20)])
            targets = torch.stack([held_out[i][1] for i in range(20)])
        seen.append((outputs.argmax(1) == targets).float().mean().item())
        seen.append(torch.nn.functional.cross_entropy(outputs, targets).item())
    return seen


def logistic(torch: Any) -> list[float]:
    """A logistic model with momentum, class weight, accumulated gradients and a frozen bias."""
    torch.manual_seed(1)
    x, y = data(torch, 2)
    model = torch.nn.Linear(6, 1)
    model.bias.requires_grad_(False)
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30)
    loss_fn = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2.0]))
    seen = []
    for epoch in range(30):
        for part in range(3):
            rows = slice(30 * part, 30 * (part + 1))
            loss = loss_fn(model(x[rows]), y[rows].float().unsqueeze(1)) / 3
            loss.backward()
            seen.append(loss.item())
        optimizer.step()
        optimizer.zero_grad(set_to_none=epoch % 2 == 0)
        schedule.step()
    return [*seen, *model.weight.flatten().tolist(), model.bias.item()]


def second_order(torch: Any) -> list[float]:
    """Regression with a penalty on the gradient of the output, and L-BFGS."""
    torch.manual_seed(2)
    x, _ = data(torch, 2)
    target = torch.sin(x.sum(1, keepdim=True))
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    model.double()
    x, target = x.double().requires_grad_(), target.double()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=5, line_search_fn="strong_wolfe")
    seen = []

    def closure() -> Any:
        optimizer.zero_grad()
        y = model(x)
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        loss = torch.nn.functional.mse_loss(y, target) + 0.01 * (slope**2).mean()
        loss.backward()
        seen.append(loss.item())
        return loss

    for _ in range(4):
        optimizer.step(closure)
    return seen


def embedded(torch: Any) -> list[float]:
    """An embedding with padding, dropout in evaluation, AdamW over two groups."""
    torch.manual_seed(3)

    class Model(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(10, 4, padding_idx=0)
            self.drop = torch.nn.Dropout(0.5)
            self.out = torch.nn.Linear(4, 2)
            self.register_buffer("scale", torch.full((1,), 0.5))

        def forward(self, words: Any) -> Any:
            return self.out(self.drop(self.table(words).mean(1) * self.scale))

    model = Model().eval()
    optimizer = torch.optim.AdamW(
        [
            {"params": model.table.parameters(), "weight_decay": 0.0},
            {"params": model.out.parameters(), "lr": 0.05},
        ],
        lr=0.1,
    )
    words = torch.tensor([[1, 2, 0], [3, 0, 0], [4, 5, 6], [7, 8, 9]])
    targets = torch.tensor([0, 1, 0, 1])
    seen = []
    for _ in range(20):
        loss = torch.nn.functional.cross_entropy(model(words), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    return seen + model.table.weight[0].tolist() + model.table.weight[5].tolist()


@pytest.mark.torch
@pytest.mark.parametrize("loop", [classifier, logistic, second_order, embedded])
def test_losses_are_pytorchs_all_along(loop: Loop) -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = loop(nt), loop(torch)
    assert len(ours) == len(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)
