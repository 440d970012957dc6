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


def attention(nn: Any) -> Any:
    """Causal attention between the three parts of (3, N, H, L, E)."""

    class Attention(nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
        def forward(self, x: Any) -> Any:
            return nn.functional.scaled_dot_product_attention(x[0], x[1], x[2], is_causal=True)

    return Attention()


def gpt(nn: Any, heads: int, width: int, depth: int) -> Any:
    """Blocks of a GPT (Radford et al., 2019): causal attention and two linear layers each."""

    class Heads(nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.inputs, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)

        def forward(self, x: Any) -> Any:
            parts = self.inputs(x).split(width, dim=2)
            q, k, v = (p.view(*x.shape[:2], heads, -1).transpose(1, 2) for p in parts)
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.output(y.transpose(1, 2).contiguous().view(*x.shape))

    class Block(nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.heads, self.first, self.second = Heads(), nn.LayerNorm(width), nn.LayerNorm(width)
            self.forwards = nn.Sequential(
                nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
            )

        def forward(self, x: Any) -> Any:
            x = x + self.heads(self.first(x))
            return x + self.forwards(self.second(x))

    return nn.Sequential(*(Block() for _ in range(depth)), nn.LayerNorm(width))


def transformer(nn: Any) -> Any:
    """A layer of a Transformer's encoder, without dropout, whose noise differs between peers."""
    return nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True)


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
    "attention, 16 x 4 x 64 x 16": (attention, (3, 16, 4, 64, 16)),
    "attention, 4 x 4 x 256 x 32": (attention, (3, 4, 4, 256, 32)),
    "attention, 1 x 8 x 1024 x 64": (attention, (3, 1, 8, 1024, 64)),
    "TransformerEncoderLayer 64": (transformer, (16, 64, 64)),
    "GPT of 4 x 64": (lambda nn: gpt(nn, 4, 64, 4), (16, 64, 64)),
}
# Whose memory alone is measured: how it grows with the length.
LENGTHS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    f"attention, 1 x 1 x {length} x 64": (attention, (3, 1, 1, length, 64))
    for length in (512, 1024, 2048, 4096)
}


def build(peer: str, name: str, backward: bool) -> Callable[[], float]:
    """One call of a layer; it returns a number of its result, which peers must agree on."""
    library, _, compiled = peer.partition("-")
    torch = importlib.import_module(library)
    make, shape = (LAYERS | LENGTHS)[name]
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
