"""Draws the plan of a compiled step of logistic regression, with what each call takes.

    python scripts/draw_plan.py docs/images/plan.png [--batch 32] [--features 30] [--steps 200]

The file's ending says what is written: .png, .svg or .pdf. The plan is printed as well.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import nanotorch as nt
from nanotorch import nn, optim, viz


def main() -> int:
    parser = argparse.ArgumentParser(description="Draws the plan of a compiled step.")
    parser.add_argument("path", type=Path, help="the picture to write: .png, .svg or .pdf")
    parser.add_argument("--batch", type=int, default=32, help="rows; default 32")
    parser.add_argument("--features", type=int, default=30, help="columns; default 30")
    parser.add_argument("--steps", type=int, default=200, help="steps to be timed; default 200")
    options = parser.parse_args()

    nt.manual_seed(0)
    x, y = nt.randn(options.batch, options.features), nt.rand(options.batch, 1).round()
    model = nn.Linear(options.features, 1)
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @nt.compile(pure=True)
    def step(x: nt.Tensor, y: nt.Tensor) -> nt.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    step(x, y)
    for _ in range(options.steps):
        plan = step.explain(x, y)
    print(plan)
    viz.plan(plan).save(options.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
