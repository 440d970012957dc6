"""`compile`: a training or evaluation step whose kernels are replayed, with eager's results.

Python runs at every call of `compile(step)`. Each operation is matched with what earlier calls did
at the same point: what is known is computed by a function made for it, and `backward()` is one flat
program; what is new is computed as always, and known from then on. So nothing that Python reads can
be stale, nothing that it does is lost, and results are bit-equal to those of an eager step.

`compile(step, pure=True)` is a promise that the step's Python does the same for the same arguments:
it runs once for each signature (shapes, dtypes and layouts of tensors, values of other arguments,
modes), and then one program is replayed. `optimizer.step()`, `zero_grad()`, clipping and random
draws stay live calls. Large batches are passed over once, tile by tile; there sums are taken in
another order, the same for any number of threads. On a GPU the program is one CUDA graph. What a
replay would get wrong (reading a number out of a tensor, hooks, tensors made of Python values) is
refused at the recording, and the function stays eager with one warning that names the line.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def compile(
    function: Callable[..., Any] | None = None, *, pure: bool = False, explain: bool = False,
    warn: bool = True, fullgraph: bool = False, dynamic: bool | None = None, backend: Any = None,
    mode: str | None = None, options: dict[str, Any] | None = None, disable: bool = False,
) -> Callable[..., Any]:  # fmt: skip
    """`function`, or a module, with its kernels replayed; as a call or as a decorator.

    function: a training or evaluation step on tensors, such as one that computes a loss, calls
        `backward()`, `optimizer.step()` and `zero_grad()`, and returns the loss. Or a `nn.Module`,
        for calls without gradients; a training step gains if it is compiled as a whole.
        A compiled function has `steps(*stacked)`: as many steps as the arguments' first dimension
        says; with `pure` on a GPU at one launch.
    pure: the function's Python does the same at every call with the same arguments, so that it may
        run once for each kind of them; see docs/compile.md. Tensors that the function returns are
        copies, outside of any graph.
    explain: print what the third call does: its kernels, how long they took, the bytes they move,
        the memory they share; with `pure`, each plan with its first replay.
    warn: with `pure`: say why a function stays eager, or on a GPU is no CUDA graph.
    disable: `function` itself. PyTorch's other options change nothing.
    """
    if function is None:
        return functools.partial(compile, pure=pure, explain=explain, warn=warn, disable=disable)
    if disable:
        return function
    # Loaded here, because most programs that import nanotorch compile nothing.
    from nanotorch.compile.modules import OptimizedModule
    from nanotorch.compile.pure import PureStep
    from nanotorch.compile.steps import Step

    def make(function: Any) -> Any:
        return PureStep(function, explain, warn) if pure else Step(function, explain)

    is_module = hasattr(function, "forward") and hasattr(function, "named_parameters")
    return OptimizedModule(function, make) if is_module else make(function)
