"""The process group and its collectives, under `torch.distributed`'s names and with its meaning.

There is one group, of all ranks that the launcher started. Numbers are those that PyTorch's
collectives give; a group of one does nothing and loads no MPI.
"""

from __future__ import annotations

import atexit
import datetime
import enum
import importlib.util
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.autograd.grad_mode import no_grad
from nanotorch.distributed.world import TIMEOUT, Alone, DistError, World, join
from nanotorch.tensor import Tensor

Array = NDArray[Any]
BACKEND = "mpi"
NOT_READY = (
    "Default process group has not been initialized, please make sure to call init_process_group."
)

_world: Alone | World | None = None


class ReduceOp(enum.Enum):
    """What `all_reduce` makes of the elements of all ranks."""

    SUM = "SUM"
    AVG = "AVG"
    PRODUCT = "PROD"
    MIN = "MIN"
    MAX = "MAX"
    BAND = "BAND"
    BOR = "BOR"
    BXOR = "BXOR"


def is_available() -> bool:
    """Whether several processes can work together here: mpi4py is installed."""
    return importlib.util.find_spec("mpi4py") is not None


def is_initialized() -> bool:
    return _world is not None


def init_process_group(
    backend: str | None = None,
    init_method: None = None,
    timeout: datetime.timedelta | None = None,
    world_size: int = -1,
    rank: int = -1,
) -> None:
    """Joins the ranks that `mpiexec` or `srun` started; a process started alone is a group of one.

    - `timeout`: how long a rank waits for others before the job ends, 300 seconds if not given
    - `world_size` and `rank` may be left out; they must be what the launcher says

    From here on an exception that nobody catches ends all ranks. Source:
    https://docs.pytorch.org/docs/2.13/distributed.html

    >>> import nanotorch as nt
    >>> nt.distributed.init_process_group()
    >>> nt.distributed.get_rank(), nt.distributed.get_world_size()
    (0, 1)
    >>> nt.distributed.destroy_process_group()
    """
    global _world
    if _world is not None:
        raise ValueError("trying to initialize the default process group twice!")
    if backend not in (None, BACKEND):
        raise ValueError(f"init_process_group: the one backend is {BACKEND!r}, got {backend!r}")
    if init_method is not None:
        raise ValueError("init_process_group: ranks find each other by mpiexec, not init_method")
    seconds = TIMEOUT if timeout is None else timeout.total_seconds()
    world = join(seconds)
    for name, wanted, actual in (
        ("world_size", world_size, world.size),
        ("rank", rank, world.rank),
    ):
        if wanted not in (-1, actual):
            raise ValueError(f"init_process_group: {name} is {actual}, and {wanted} was given")
    _world = world
    if world.size > 1:
        atexit.register(_leave, world)


def _leave(world: Alone | World) -> None:
    """At the end of a process: end the others too if an exception ended it, else wait for them."""
    reason = getattr(sys, "last_value", None)  # of an exception that nobody has caught
    if reason is None:
        try:
            world.leave()
            return
        except DistError as error:
            reason = error
    print(f"rank {world.rank}: {type(reason).__name__}: {reason}", file=sys.stderr)
    world.abort(1)


def end_all_ranks(code: int) -> None:
    """End the processes of all ranks at once; a group of one goes on."""
    if _world is not None:
        _world.abort(code)


def destroy_process_group(group: None = None) -> None:
    """Ends the group; MPI itself ends with the process."""
    global _world
    the_world(group)
    _world = None


def the_world(group: None = None) -> Alone | World:
    """What the group stands on; ValueError before `init_process_group`."""
    if group is not None:
        raise ValueError("there is one group, of all ranks: group is None")
    if _world is None:
        raise ValueError(NOT_READY)
    return _world


def get_rank(group: None = None) -> int:
    return the_world(group).rank


def get_world_size(group: None = None) -> int:
    return the_world(group).size


def get_backend(group: None = None) -> str:
    the_world(group)
    return BACKEND


def all_reduce(tensor: Tensor, op: ReduceOp = ReduceOp.SUM, group: None = None) -> None:
    """On every rank tensor = op over the ranks' tensors, in place.

    Bits are the same on all ranks; float16 and bfloat16 are computed in float32 and rounded once.
    """
    world = _checked("all_reduce", tensor, group)
    kind = tensor.dtype
    if not isinstance(op, ReduceOp):
        raise TypeError(f"all_reduce: expected a ReduceOp, got {type(op).__name__}")
    if op.name in ("BAND", "BOR", "BXOR") and (kind.is_floating_point or kind.is_complex):
        raise RuntimeError(f"Cannot use ReduceOp.{op.name} with non-integral dtype")
    if kind.is_complex and op.name in ("MIN", "MAX"):
        raise ValueError(f"all_reduce does not support ReduceOp.{op.name} on complex tensors")
    if op is ReduceOp.AVG and not (kind.is_floating_point or kind.is_complex):
        raise RuntimeError(f"all_reduce: ReduceOp.AVG is for floating point, got {kind}")
    if world.size == 1:
        return
    values = _host(tensor)
    wide = values
    operation = "SUM" if op is ReduceOp.AVG else op.value
    if values.dtype == np.bool_:  # true + true is true
        wide = values.view(np.uint8)
        operation = {"SUM": "MAX", "PROD": "MIN"}.get(operation, operation)
    elif values.dtype.itemsize == 2 and kind.is_floating_point:
        wide = values.astype(np.float32)
    result = world.reduce(wide, operation, "all_reduce")
    if op is ReduceOp.AVG:
        result = result / result.dtype.type(world.size)
    _write(tensor, result.view(np.bool_) if values.dtype == np.bool_ else result)


def broadcast(tensor: Tensor, src: int, group: None = None) -> None:
    """On every rank tensor = the tensor of rank `src`, in place; shape and dtype must agree."""
    world = _checked("broadcast", tensor, group)
    if not 0 <= src < world.size:
        raise RuntimeError(f"broadcast: expected a rank of 0 to {world.size - 1}, got src={src}")
    if world.size > 1:
        values = _host(tensor)
        world.broadcast(values.reshape(-1).view(np.uint8), src, "broadcast")
        _write(tensor, values)


def all_gather(tensor_list: Sequence[Tensor], tensor: Tensor, group: None = None) -> None:
    """On every rank tensor_list[r] = the tensor of rank r, in place; shapes and dtypes agree."""
    world = _checked("all_gather", tensor, group)
    if not isinstance(tensor_list, list | tuple):
        raise TypeError(f"all_gather: expected a list of tensors, got {type(tensor_list).__name__}")
    if len(tensor_list) != world.size:
        raise RuntimeError(
            f"all_gather: expected a list of {world.size} tensors, got {len(tensor_list)}"
        )
    for at, out in enumerate(tensor_list):
        if out.dtype != tensor.dtype:
            raise ValueError(f"all_gather: tensor_list[{at}] is {out.dtype}, not {tensor.dtype}")
        if out.shape != tensor.shape:
            raise RuntimeError(
                f"all_gather: tensor_list[{at}] has shape {tuple(out.shape)}, "
                f"not {tuple(tensor.shape)}"
            )
    for out, values in zip(tensor_list, world.gather(_host(tensor), "all_gather"), strict=True):
        _write(out, values)


def barrier(group: None = None) -> None:
    """Returns once every rank has come to it."""
    the_world(group).barrier("barrier")


def _checked(name: str, tensor: Any, group: None) -> Alone | World:
    world = the_world(group)
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a Tensor, got {type(tensor).__name__}")
    return world


def _host(tensor: Tensor) -> Array:
    """A copy of the values on the host, row by row, of one dimension at least."""
    tensor._tell_of_reading()
    return np.array(tensor.detach().cpu()._array, order="C", ndmin=1)


def _write(tensor: Tensor, values: Array) -> None:
    with no_grad():
        tensor.copy_(Tensor._wrap(values.reshape(tensor.shape)))
