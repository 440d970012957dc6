"""A user's program, for type checkers: each assert_type is exact, so an Any anywhere fails."""

from collections.abc import Iterator
from typing import Any, assert_type

import numpy
from numpy.typing import NDArray

import nanotorch as nt
from nanotorch import nn, optim
from nanotorch.nn import functional as F
from nanotorch.utils.data import DataLoader, TensorDataset


class Classifier(nn.Module):
    def __init__(self, inputs: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.output = nn.Linear(hidden, classes)

    def forward(self, x: nt.Tensor) -> nt.Tensor:
        y = F.relu(self.norm(self.hidden(x)))
        assert_type(y, nt.Tensor)
        return self.output(y)


def arithmetic(x: nt.Tensor) -> None:
    assert_type(x + 1, nt.Tensor)
    assert_type(2.0 * x - x / 3, nt.Tensor)
    assert_type(x > 0, nt.Tensor)
    assert_type(x == x, nt.Tensor)
    assert_type(-x @ x.T, nt.Tensor)
    assert_type(x[0, :, None], nt.Tensor)
    assert_type(x.sum(), nt.Tensor)
    assert_type(nt.exp(x).mean(0).clamp(min=0.0).sqrt_(), nt.Tensor)
    assert_type(x.max().item(), float)
    assert_type(x.max(1).indices, nt.Tensor)
    assert_type(nt.where(x > 0, x, 0.0), nt.Tensor)
    assert_type(nt.cat([x, x], dim=1), nt.Tensor)
    assert_type(x.numpy(), NDArray[Any])
    assert_type(x.shape, nt.Size)
    assert_type(x.shape[0], int)
    assert_type(x.size(), nt.Size)
    assert_type(x.size(0), int)
    assert_type(x.dtype, nt.dtype)
    assert_type(x.device, nt.device)
    assert_type(x.to("cpu").float().detach().requires_grad_(), nt.Tensor)
    assert_type(x.grad, nt.Tensor | None)
    assert_type(len(x), int)
    assert_type(iter(x), Iterator[nt.Tensor])
    x += 1
    assert_type(x, nt.Tensor)


def loss_of(model: Classifier, x: nt.Tensor, y: nt.Tensor) -> nt.Tensor:
    return nn.CrossEntropyLoss()(model(x), y)


def main() -> None:
    nt.manual_seed(0)
    x = nt.randn(120, 4)
    y = x.argmax(dim=1)
    model = Classifier(4, 16, 4)
    optimizer = optim.Adam(model.parameters(), lr=1e-2)
    schedule = optim.lr_scheduler.StepLR(optimizer, step_size=2)
    compiled = nt.compile(loss_of)
    assert_type(compiled(model, x, y), nt.Tensor)
    for _ in range(3):
        for batch, target in DataLoader(TensorDataset(x, y), batch_size=40, shuffle=True):
            assert_type(batch, nt.Tensor)
            loss = loss_of(model, batch, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    with nt.no_grad():
        predicted = nn.Sequential(model, nn.Softmax(dim=1))(x)
        assert_type(predicted, nt.Tensor)
        print(float((predicted.argmax(1) == y).float().mean()), numpy.mean(y.numpy()))


if __name__ == "__main__":
    main()
