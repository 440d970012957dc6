"""`compile`: runs a training or evaluation step once, and replays its kernels from then on.

The first call for a signature (shapes and dtypes of the tensors among the arguments, values of the
other arguments, gradient mode) runs as always and is recorded: forward, loss, `backward()`. Later
calls run one flat program over memory that is allocated once: no tensor, no graph, no dispatch.
`optimizer.step()`, `zero_grad()`, gradient clipping and random draws stay live calls, so learning
rates, step counts and random streams are those of an eager run, and results are bit-equal to it.
Large batches are passed over once, tile by tile; there sums are taken in another order, the same
for any number of threads. On a GPU the program is captured: a call is one CUDA graph.

What a replay would get wrong is refused at the recording (reading a number out of a tensor, hooks,
tensors made from Python values, outputs whose gradient is still to be asked for), and the function
stays eager with one warning that names the line. What may change later (a replaced `.data`,
`requires_grad`, train or eval mode, plain Python values in sight of the function) is compared at
every call, and a new recording made.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def compile(
    function: Callable[..., Any] | None = None, *, explain: bool = False, warn: bool = True
) -> Callable[..., Any]:
    """`function`, or a module, replayed from its second call on; as a call or as a decorator.

    function: a training or evaluation step on tensors, such as one that computes a loss, calls
        `backward()`, `optimizer.step()` and `zero_grad()`, and returns the loss. Tensors that it
        returns are copies, outside of any graph. Or a `nn.Module`, whose output then carries one
        backward node: its backward pass is replayed as well, for the latest call.
        A compiled function has `steps(*stacked)`: as many steps as the arguments' first dimension
        says, on a GPU at one launch.
    explain: print each plan with its first replay: its kernels, how long they took, the bytes they
        move, the memory they share (of a module, the plan without gradients).
    warn: say why a function stays eager, or on a GPU is no CUDA graph, where that is so.
    """
    if function is None:
        return functools.partial(compile, explain=explain, warn=warn)
    # Loaded here, because most programs that import nanotorch compile nothing.
    from nanotorch.compile.modules import CompiledModule
    from nanotorch.compile.steps import Compiled

    if hasattr(function, "forward") and hasattr(function, "named_parameters"):
        return CompiledModule(function, explain, warn)
    return Compiled(function, explain, warn)
