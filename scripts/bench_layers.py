"""The layers that bench.py times: each with its input, and one network of them.

A step is zero_grad, forward, the mean square of the output and backward, in float32; the forward
pass alone is timed without recording. The numbers for a seed are PyTorch's, so all peers start from
the same weights and see the same input.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

PEERS = ("nanotorch", "nanotorch-compile", "torch")


def lenet(nn: Any) -> Any:
    """LeNet-5 (LeCun et al., 1998), with ReLU and max pooling, for 28 x 28 images."""
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


# What makes it of `nn`, and the shape of its input.
LAYERS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "LeNet": (lenet, (64, 1, 28, 28)),
    "Conv2d 16-32, 3 x 3": (lambda nn: nn.Conv2d(16, 32, 3, padding=1), (32, 16, 32, 32)),
    "Conv1d 32-32, 5": (lambda nn: nn.Conv1d(32, 32, 5), (32, 32, 256)),
    "ConvTranspose2d 16-8, 4 x 4": (
        lambda nn: nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1),
        (16, 16, 16, 16),
    ),
    "MaxPool2d 2": (lambda nn: nn.MaxPool2d(2), (32, 16, 32, 32)),
    "AvgPool2d 2": (lambda nn: nn.AvgPool2d(2), (32, 16, 32, 32)),
    "BatchNorm2d": (lambda nn: nn.BatchNorm2d(16), (32, 16, 32, 32)),
    "Upsample 2, bilinear": (
        lambda nn: nn.Upsample(scale_factor=2, mode="bilinear"),
        (16, 16, 16, 16),
    ),
    "RNN 64-128": (lambda nn: nn.RNN(64, 128), (50, 32, 64)),
    "LSTM 64-128": (lambda nn: nn.LSTM(64, 128), (50, 32, 64)),
    "GRU 64-128": (lambda nn: nn.GRU(64, 128), (50, 32, 64)),
    "LSTM 16-32": (lambda nn: nn.LSTM(16, 32), (20, 8, 16)),
}


def build(peer: str, name: str, backward: bool) -> Callable[[], float]:
    """One call of a layer; it returns a number of its result, which peers must agree on."""
    library, _, compiled = peer.partition("-")
    torch = importlib.import_module(library)
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer = make(torch.nn)
    x = torch.randn(*shape).requires_grad_(backward and name != "LeNet")
    optimizer = torch.optim.SGD([x, *layer.parameters()], lr=0.0)

    def step(x: Any) -> Any:
        optimizer.zero_grad()
        output = layer(x)
        loss = (output[0] if isinstance(output, tuple) else output).square().mean()
        loss.backward()
        return loss

    def forward(x: Any) -> Any:
        with torch.no_grad():
            output = layer(x)
        return output[0] if isinstance(output, tuple) else output

    call = step if backward else forward
    if compiled:
        call = torch.compile(call)
    return lambda: float(call(x).flatten()[0])
