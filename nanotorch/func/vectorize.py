"""vmap: a function of one sample, applied to each sample of a batch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from nanotorch import ops
from nanotorch.func.levels import call
from nanotorch.func.structures import leaves, mapped, rebuilt, spread_over
from nanotorch.sampling import count_of_draws, mark
from nanotorch.tensor import Tensor

RANDOMNESS = ("error", "different", "same")


def vmap(
    func: Callable[..., Any], in_dims: Any = 0, out_dims: Any = 0, randomness: str = "error", *,
    chunk_size: int | None = None,
) -> Callable[..., Any]:  # fmt: skip
    """A function that applies func to each slice of its inputs and stacks the results.

    This is a loop in Python, not a batched kernel: it gives the values and derivatives of PyTorch's
    `vmap`, but takes as long as the loop does. Where speed matters, write the batch dimension out.

    in_dims: for each argument (or one for all) the dimension that counts the samples, or None for
    what every sample shares; nested as the arguments are. out_dims: where that dimension goes in
    the outputs. randomness: "error" refuses functions that draw random numbers, "different" gives
    every sample its own draws, "same" gives all the same. chunk_size is accepted and changes
    nothing.
    """
    if randomness not in RANDOMNESS:
        raise RuntimeError(f"vmap: randomness must be one of {RANDOMNESS}, got {randomness!r}")
    if not isinstance(in_dims, int | tuple | list):
        raise ValueError(
            "vmap: expected in_dims to be an int or a (nested) tuple that matches the structure of "
            f"the inputs, got {type(in_dims).__name__}"
        )

    @functools.wraps(func)
    def over_batch(*args: Any, **kwargs: Any) -> Any:
        values = leaves(args)
        dims = spread_over(
            in_dims if isinstance(in_dims, int) else tuple(in_dims), args, "vmap: in_dims"
        )
        size = batch_size(values, dims)
        shared = mapped(lambda x: x, kwargs)
        go_back = None if randomness == "different" else mark()
        before = count_of_draws() if randomness == "error" else None
        rows: list[list[Any]] = []
        output: Any = None
        for sample in range(size):
            if randomness == "same" and go_back is not None:
                go_back()
            arguments = [
                x if d is None else ops.select(x, d, sample)
                for x, d in zip(values, dims, strict=True)
            ]
            output = call(func, "vmap", *rebuilt(args, arguments), **shared)
            rows.append(leaves(output))
            if sample == 0 and go_back is not None and before not in (None, count_of_draws()):
                go_back()
                raise RuntimeError(
                    "vmap: called random operation while in randomness error mode; use "
                    "randomness='same' or 'different', or draw outside of vmap"
                )
        places = spread_over(out_dims, output, "vmap: out_dims")
        columns = [list(column) for column in zip(*rows, strict=True)]
        pairs = zip(columns, places, strict=True)
        return rebuilt(output, [gather(column, place) for column, place in pairs])

    return over_batch


def batch_size(values: list[Any], dims: list[Any]) -> int:
    """The number of samples, on which all mapped inputs must agree."""
    sizes = []
    for x, d in zip(values, dims, strict=True):
        if d is None:
            continue
        if not isinstance(x, Tensor):
            raise ValueError(
                f"vmap: got in_dim={d} for an input of type {type(x).__name__}; only Tensors can "
                "be mapped over, use None as the in_dim of others"
            )
        if not -x.ndim <= d < x.ndim:
            raise ValueError(
                f"vmap: got in_dim={d} for an input that is a Tensor of dimensionality {x.ndim}"
            )
        sizes.append(x.shape[d])
    if not sizes:
        raise ValueError("vmap: at least one input must be mapped over, but all in_dims are None")
    if len(set(sizes)) > 1:
        raise ValueError(
            "vmap: expected all tensors to have the same size in the mapped dimension, got sizes "
            f"{sizes}"
        )
    if sizes[0] == 0:
        raise ValueError(
            "vmap: the mapped dimension has size 0; there is no sample to call func on"
        )
    return int(sizes[0])


def gather(column: list[Any], place: Any) -> Any:
    """The results for all samples as one tensor, or the first for out_dim None."""
    for value in column:
        if not isinstance(value, Tensor):
            if place is None:
                return value
            raise ValueError(
                f"vmap: the function must only return Tensors, got {type(value).__name__}; for "
                "what all samples share set out_dims to None"
            )
    if place is None:
        if not all(ops.equal(value, column[0]) for value in column[1:]):
            raise ValueError("vmap: out_dims is None for an output that differs between samples")
        return column[0]
    return ops.stack(column, place)
