"""Runs PyTorch's own samples of its operators on NanoTorch and compares values and gradients.

    python scripts/op_samples.py [--samples N] [--at-least PERCENT] [operator ...]

Needs `torch` and `expecttest`. Every operator of `torch.testing`'s table that NanoTorch has too is
called with the samples made for float64; it passes if each sample gives what PyTorch gives: values,
dtypes and shapes, the gradients of all inputs, and an error where PyTorch raises one. `--samples`
takes about so many of each operator, spread evenly; the exit status is 1 below `--at-least`.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import numpy
import torch
from torch.testing._internal.common_methods_invocations import op_db

import nanotorch as nt

TOLERANCE, TOLERANCE_OF_FLOATS = 1e-8, 1e-4  # some samples have weights in float32
SEED = 42  # which the table's own functions set
TABLES = "torch.testing._internal"
UNWRITTEN = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")


class Namesake:
    """NanoTorch by PyTorch's name, which has methods such as zero_ as functions, too."""

    def __getattr__(self, name: str) -> Any:
        return getattr(nt, name, None) or getattr(nt.Tensor, name)


def counterpart(op: Any) -> Any:
    """NanoTorch's function or method of that name; None where there is none.

    Where the table calls an operator by a function of its own, which takes the arguments in another
    order, takes one of the results or seeds the generator, it is run with NanoTorch for `torch`.
    """
    value: Any = nt
    for part in op.name.split("."):
        value = getattr(value, part, None)
    if not callable(value) and "." not in op.name:
        value = getattr(nt.Tensor, op.name, None)
    if isinstance(value, property):
        value = value.fget
    if callable(value) and type(op.op) is FunctionType and op.op.__module__.startswith(TABLES):
        names = {**op.op.__globals__, "torch": Namesake(), "F": nt.nn.functional}
        return FunctionType(op.op.__code__, names, None, op.op.__defaults__, op.op.__closure__)
    return value if callable(value) else None


def copied(value: torch.Tensor) -> Any:
    """A copy as an array: of a view, at its place in a copy of its memory."""
    array = value.numpy(force=True)
    memory = value.untyped_storage().nbytes() // max(value.element_size(), 1)
    if memory == value.numel() or value.is_conj() or value.is_neg():
        return array.copy()
    whole = torch.empty(0, dtype=value.dtype).set_(value.untyped_storage()).numpy().copy()
    offset = value.storage_offset() * value.element_size()
    return numpy.ndarray(array.shape, array.dtype, whole, offset, array.strides)


def translated(value: Any, leaves: list[tuple[Any, Any]]) -> Any:
    """A sample's argument for NanoTorch; tensors that require gradients are noted in pairs."""
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided:
            raise NotImplementedError("sparse")
        copy = nt.from_numpy(copied(value.detach()))
        if value.requires_grad and value.is_leaf:
            copy.requires_grad_()
            leaves.append((value, copy))
        return copy
    if isinstance(value, torch.dtype | torch.device):
        return (
            getattr(nt, str(value).removeprefix("torch."))
            if isinstance(value, torch.dtype)
            else nt.device(str(value))
        )
    if isinstance(value, tuple | list):
        parts = [translated(part, leaves) for part in value]
        return type(value)(parts) if type(value) in (tuple, list) else tuple(parts)
    if isinstance(value, dict):
        return {key: translated(part, leaves) for key, part in value.items()}
    return value


def tensors_in(value: Any, kind: type) -> Iterator[Any]:
    """The tensors in a result, in their order."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors_in(part, kind)


def difference(theirs: Any, ours: Any, what: str) -> str:
    """In what two tensors differ; empty where they agree."""
    if theirs.dtype is torch.bfloat16 and ours.dtype is nt.bfloat16:  # which NumPy has not
        theirs, ours = theirs.float(), ours.float()
    a, b = theirs.detach().numpy(force=True), ours.detach().numpy()
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{what}: expected {a.dtype} {a.shape}, got {b.dtype} {b.shape}"
    near = TOLERANCE if a.dtype.itemsize >= 8 else TOLERANCE_OF_FLOATS
    if not numpy.allclose(a, b, near, near, equal_nan=True):
        return f"{what}: expected {str(a)[:200]}, got {str(b)[:200]}"
    return ""


def fault(op: Any, function: Any, sample: Any) -> str:
    """What is wrong with NanoTorch's answer to a sample; empty where nothing is."""
    theirs = (sample.input, *sample.args), sample.kwargs
    leaves: list[tuple[Any, Any]] = []
    arguments, keywords = translated(theirs[0], leaves), translated(theirs[1], leaves)
    torch.manual_seed(SEED)
    nt.manual_seed(SEED)
    try:
        expected = op.op(*theirs[0], **theirs[1])
    except Exception as error:
        try:
            function(*arguments, **keywords)
        except Exception:
            return ""
        return f"no error, where PyTorch says {error}"
    try:
        # Of vectors whose sign is free the table compares the sizes.
        got = sample.output_process_fn_grad(function(*arguments, **keywords))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    expected = sample.output_process_fn_grad(expected)
    ours = list(tensors_in(got, nt.Tensor))
    references = list(tensors_in(expected, torch.Tensor))
    if len(ours) != len(references):
        return f"expected {len(references)} tensors, got {len(ours)}"
    if not references and expected != got and expected == expected:
        return f"expected {expected}, got {got}"
    generator = numpy.random.default_rng(1)
    total: Any = None
    total_of_ours: Any = None
    for number, (a, b) in enumerate(zip(references, ours, strict=True)):
        if op.name in UNWRITTEN:
            a, b = a * 0, b * 0
        if message := difference(a, b, f"result {number}"):
            return message
        if a.requires_grad != b.requires_grad and a.is_floating_point():
            return f"result {number}: requires_grad is {a.requires_grad} in PyTorch"
        if a.requires_grad and a.is_floating_point():
            g = numpy.asarray(generator.uniform(0.5, 1.5, tuple(a.shape)))
            total = (a * torch.from_numpy(g)).sum() + (0 if total is None else total)
            total_of_ours = (b * nt.from_numpy(g)).sum() + (
                0 if total_of_ours is None else total_of_ours
            )
    if total is None:
        return ""
    try:
        gradients = torch.autograd.grad(total, [a for a, _ in leaves], allow_unused=True)
    except (RuntimeError, NotImplementedError):
        return ""
    try:
        mine = nt.autograd.grad(total_of_ours, [b for _, b in leaves], allow_unused=True)
    except Exception as error:
        return f"backward: {type(error).__name__}: {error}"
    for number, (a, b) in enumerate(zip(gradients, mine, strict=True)):
        zero = [x is None or not bool(x.any()) for x in (a, b)]
        if all(zero):
            continue
        if a is None or b is None:
            return f"gradient {number}: expected {a}, got {b}"
        if message := difference(a, b, f"gradient {number}"):
            return message
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=0)
    parser.add_argument("--at-least", type=float, default=95.0)
    parser.add_argument("operators", nargs="*")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    passed, faults = 0, []
    for op in op_db:
        name = op.name if not op.variant_test_name else f"{op.name} ({op.variant_test_name})"
        function = counterpart(op)
        if function is None or (options.operators and op.name not in options.operators):
            continue
        if torch.float64 not in op.supported_dtypes("cpu"):
            continue
        samples = list(op.sample_inputs("cpu", torch.float64, requires_grad=op.supports_autograd))
        step = max(1, len(samples) // options.samples) if options.samples else 1
        wrong = []
        for sample in samples[::step]:
            try:
                message = fault(op, function, sample)
            except NotImplementedError as error:
                if str(error) == "sparse":
                    continue
                raise
            if message:
                wrong.append(message)
        if wrong:
            faults.append(f"{name}: {len(wrong)} of {len(samples[::step])}: {wrong[0]}")
        else:
            passed += 1
    print("\n".join(faults))
    total = passed + len(faults)
    share = 100 * passed / max(total, 1)
    print(f"{passed} of {total} operators pass ({share:.1f}%)")
    return int(share < options.at_least)


if __name__ == "__main__":
    sys.exit(main())
