"""Layers for features that are looked up: hashed columns, and sparse rows.

Their weights are a table of which a step reads and updates a few rows alone: the gradient is
row-sparse, and the optimizer takes it as such.
"""

from __future__ import annotations

import fnmatch
from typing import Any

import nanotorch as nt
from nanotorch import nn
from nanotorch.training.config import choices
from nanotorch.training.config.sections import Config
from nanotorch.training.data.encoding import Tables
from nanotorch.training.data.hashing import MOST
from nanotorch.training.errors import InputError

DEVIATION = 0.1  # of the initial values of embeddings


class HashedColumns(nn.Module):
    """The inputs with each hashed column replaced by what its table holds of it.

    Shapes: (rows, inputs) to (rows, `width`): first the other columns, then `dim` numbers for each
    hashed one. The tables lie one after the other in `weight`.
    """

    def __init__(self, inputs: int, hashed: list[tuple[int, int]], dim: int) -> None:
        super().__init__()
        places, sizes = [at for at, _ in hashed], [size for _, size in hashed]
        self.places = _slice_or_list(places)
        others = [at for at in range(inputs) if at not in set(places)]
        self.others = _slice_or_list(others)
        self.starts = nt.tensor([sum(sizes[:at]) for at in range(len(sizes))])
        self.weight = nn.Parameter(nt.zeros(sum(sizes), dim))
        self.width = len(others) + dim * len(places)

    def rows(self, input: nt.Tensor) -> nt.Tensor:
        """What the tables hold of each hashed column: (rows, columns, dim)."""
        numbers = input[:, self.places].long() + self.starts
        return nn.functional.embedding(numbers, self.weight, sparse=True)

    def forward(self, input: nt.Tensor) -> nt.Tensor:
        """Shapes: (rows, inputs) to (rows, width)."""
        rows = self.rows(input).flatten(1)
        return nt.cat([input[:, self.others], rows], 1) if self.others else rows


class HashedLinear(HashedColumns):
    """y = b + the other columns · dense + the sum of what the tables hold of the hashed columns.

    Shapes: (rows, inputs) to (rows, outputs). The tables start at 0.
    """

    def __init__(
        self, inputs: int, outputs: int, hashed: list[tuple[int, int]], bias: bool = True
    ) -> None:
        super().__init__(inputs, hashed, outputs)
        others = inputs - len(hashed)
        self.dense = nn.Linear(others, outputs, bias=False) if others else None
        self.bias = nn.Parameter(nt.zeros(outputs)) if bias else None

    def forward(self, input: nt.Tensor) -> nt.Tensor:
        """Shapes: (rows, inputs) to (rows, outputs)."""
        y = self.rows(input).sum(1)
        if self.dense is not None:
            y = y + self.dense(input[:, self.others])
        return y if self.bias is None else y + self.bias


class SparseLinear(nn.Module):
    """y = x W + b for rows of x of which the stored features alone are given.

    Shapes: (rows, 2 · places) to (rows, outputs). The first half of a row are the numbers of its
    features, `features` where a place is not used, and the second half their values. The last row
    of `weight` is for places that are not used, and is not trained.
    """

    def __init__(self, features: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.features = features
        self.weight = nn.Parameter(nt.zeros(features + 1, outputs))
        self.bias = nn.Parameter(nt.zeros(outputs)) if bias else None

    def forward(self, input: nt.Tensor) -> nt.Tensor:
        """Shapes: (rows, 2 · places) to (rows, outputs)."""
        places = input.shape[1] // 2
        numbers, values = input[:, :places].long(), input[:, places:]
        rows = nn.functional.embedding(numbers, self.weight, self.features, sparse=True)
        y = (rows * values.unsqueeze(-1)).sum(1)
        return y if self.bias is None else y + self.bias


def _slice_or_list(places: list[int]) -> Any:
    """Places that follow each other as a slice, which is a view; others as they are."""
    if places and places == list(range(places[0], places[-1] + 1)):
        return slice(places[0], places[-1] + 1)
    return places


def first_layer(tables: Tables, inputs: int, outputs: int, bias: bool) -> nn.Module:
    """The layer that takes a run's rows to so many numbers."""
    if tables.sparse is not None:
        return SparseLinear(tables.sparse, outputs, bias)
    return HashedLinear(inputs, outputs, tables.hashed, bias)


def embedded(tables: Tables, inputs: int, config: choices.MultilayerPerceptron) -> list[nn.Module]:
    """The layers of a perceptron before its first activation."""
    width = config.hidden[0]
    if tables.sparse is not None:
        layers: list[nn.Module] = [SparseLinear(tables.sparse, width, config.bias)]
    else:
        columns = HashedColumns(inputs, tables.hashed, config.embedding)
        layers = [columns, nn.Linear(columns.width, width, bias=config.bias)]
    for table in layers[0].parameters():
        if table.ndim == 2:
            nn.init.normal_(table, std=DEVIATION)
    return layers


def table_size(tables: Tables, config: Any, outputs: int) -> int:
    """How many numbers the tables of a model hold, which it makes before it reads any."""
    if not isinstance(config, choices.MultilayerPerceptron):
        return tables.rows * outputs
    return tables.rows * (config.embedding if tables.hashed else config.hidden[0])


def tables_in(model: nn.Module) -> list[str]:
    """The names of the parameters that are tables."""
    return [
        f"{name}.weight".lstrip(".")
        for name, module in model.named_modules()
        if isinstance(module, HashedColumns | SparseLinear)
    ]


def refuse_with_tables(
    config: Config, model: nn.Module, tables: Tables, device: nt.device, cuts: bool
) -> None:
    """InputError for what needs the whole gradient of a table, or adds it up over ranks."""
    if not tables:
        return
    what = "data.hash" if tables.hashed else "data.sparse"
    optimizer, dtype = config.optimizer, config.training.dtype
    decays = [getattr(optimizer, "weight_decay", 0.0)]
    decays += [group.weight_decay or 0.0 for group in optimizer.groups]
    names = tables_in(model)
    penalized = [
        name
        for name in names
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in config.penalty.parameters)
    ]
    largest = max([*(size for _, size in tables.hashed), tables.sparse or 0])
    every = "every row of the table in every step"
    refused = {
        f"{what}: {largest:,} are more than {dtype} can count, {MOST[dtype]:,}; give fewer, or "
        'training.dtype = "float64"': largest > MOST[dtype],
        f'optimizer.name: expected "sgd", "adagrad" or "adam", which update those rows of a table '
        f'alone that a batch names ({what}); given "{optimizer.name}"': type(optimizer)
        not in (choices.SGD, choices.Adagrad, choices.Adam),
        f"optimizer.momentum: moves {every} ({what}); set it to 0": bool(
            getattr(optimizer, "momentum", 0.0)
        ),
        f"optimizer.amsgrad: is not there for tables ({what}); set it to false": bool(
            getattr(optimizer, "amsgrad", False)
        ),
        f"optimizer.weight_decay: shrinks {every} ({what}); set it to 0": any(decays),
        f"penalty.parameters: {', '.join(penalized)}: a penalty changes {every} ({what}); name "
        "other parameters": bool(penalized and (config.penalty.l1 or config.penalty.l2)),
        f"training.accumulate: {what} makes a step of each batch; set it to 1": (
            config.training.accumulate > 1
        ),
        f"training.shards: {what} is trained by one process without shards: gradients of tables "
        "are not added up over ranks": cuts,
        f'device: {what} is trained on the CPU alone; set device = "cpu"': device.type != "cpu",
    }
    if mistakes := [words for words, applies in refused.items() if applies]:
        raise InputError(*mistakes)
