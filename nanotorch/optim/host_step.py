"""One step of an optimizer on the host, with as little Python per parameter as it can do with.

What a kernel is called with is bound once and kept for as long as parameters, options and state are
the same, which each step checks. A large parameter is updated in pieces that stay in cache: the
scratch memory is as large as a piece, and the numbers are those of the whole, element by element.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nanotorch.backend import HOST, Array, array_module
from nanotorch.backend.dtypes import float32
from nanotorch.backend.halves import is_half
from nanotorch.optim import single
from nanotorch.optim.numbers import NONE, Scalars
from nanotorch.optim.state import Held, comparable, held_in
from nanotorch.tensor import Tensor

if TYPE_CHECKING:
    from nanotorch.optim.optimizer import Optimizer

PIECE = 2**18  # bytes of a parameter that are updated at once: three such arrays fit a cache


class Update:
    """What the kernel is called with for one parameter."""

    __slots__ = (
        "arguments", "array", "bound", "elsewhere", "held", "module", "own", "parameter", "pieces",
        "scalars", "states",
    )  # fmt: skip

    def __init__(self) -> None:
        self.parameter: Tensor | None = None
        self.array: Array = None
        self.module: Any = HOST
        self.elsewhere = False  # on a CUDA device
        self.states: tuple[Array | None, ...] = ()
        self.held: Held | None = None  # its state by name; None: not known
        self.scalars: Scalars  # shared by those that step alike
        self.own: Scalars | None = None  # of a parameter that has skipped steps
        self.bound: Any = None  # the arrays of the scalars that are among the arguments
        self.arguments: tuple[Any, ...] = ()
        self.pieces: list[Piece] | None = None

    def renew(self, parameter: Tensor, scalars: dict[Any, Scalars]) -> None:
        """Turns to a parameter, or to another array of it."""
        self.parameter, self.array = parameter, parameter._array
        self.elsewhere = array_module(self.array) is not HOST
        self.held = self.bound = self.own = None
        if not self.elsewhere:
            kind = float32.numpy if is_half(self.array) else self.array.dtype
            if kind not in scalars:
                scalars[kind] = Scalars(kind)
            self.scalars = scalars[kind]

    def count(self, optimizer: Optimizer, parameter: Tensor, group: dict[str, Any]) -> float:
        """The number of this step for the parameter, with its state found."""
        entry: Any = optimizer.state.get(parameter)
        held = self.held if entry else None
        if held is not None:
            for name, array in held:
                tensor = entry.get(name)
                if tensor is None or tensor._array is not array:
                    held = None
                    break
            else:
                if not optimizer.counts_steps:
                    return 2.0
                tensor = entry.get("step")
                if type(tensor) is Tensor:
                    step: float = tensor._array.item() + 1.0
                    tensor._array.fill(step)
                    return step
        step = optimizer._next_step(parameter, group)
        if held is None:
            self.find_state(optimizer, parameter, group)
        return step

    def find_state(self, optimizer: Optimizer, parameter: Tensor, group: dict[str, Any]) -> None:
        """The arrays of the state, and the names under which they are kept."""
        states = optimizer._arrays(parameter, group)
        if len(states) != len(self.states) or any(a is not b for a, b in zip(states, self.states)):
            self.bound = None
        self.states = states
        self.held = held_in(optimizer.state.get(parameter), states)

    def own_scalars(self) -> Scalars:
        if self.own is None:
            self.own = Scalars(self.scalars.kind)
        return self.own

    def bind(self, optimizer: Optimizer, scalars: Scalars) -> None:
        """Puts the arguments together: for the parameter, or for each piece of a large one."""
        array, numbers = self.array, scalars.arrays
        self.bound, self.pieces, self.module = numbers, None, HOST
        ours = optimizer.elementwise
        in_order = array.flags.c_contiguous and all(
            a is None or a.flags.c_contiguous for a in self.states
        )
        half = ours and is_half(array)
        nbytes = array.nbytes * (2 if half else 1)
        if not half and not (ours and in_order and nbytes > PIECE):
            if ours and array.size == 1 and array.dtype.kind == "f":
                self.module = single
            self.arguments = (*self.states, *optimizer._scratch_for(array), *numbers)
            return
        count = -(-nbytes // PIECE) if in_order else 1
        size = -(-array.size // count) if array.size else 1
        arrays: list[Any] = [array, *self.states]
        if in_order:
            arrays = [a if a is None else a.reshape(-1) for a in arrays]
        self.pieces = []
        for start in range(0, array.size if in_order else 1, size):
            end = start + size
            parts = [a if a is None or not in_order else a[start:end] for a in arrays]
            make = HalfPiece if half else Piece
            self.pieces.append(make(optimizer, start, end, parts, numbers))

    def run_pieces(self, optimizer: Optimizer, gradient: Array) -> None:
        """The update piece by piece; of the whole where the gradient lies in another order."""
        pieces: Any = self.pieces
        if len(pieces) == 1:
            pieces[0].run(optimizer.kernel, gradient.reshape(pieces[0].shape))
            return
        if not gradient.flags.c_contiguous:
            whole = type(pieces[0])(optimizer, 0, 0, [self.array, *self.states], self.bound)
            whole.run(optimizer.kernel, gradient)
            return
        gradient = gradient.reshape(-1)
        for piece in pieces:
            piece.run(optimizer.kernel, gradient[piece.start : piece.end])


class Piece:
    """A stretch of a parameter and of its state, with what else the kernel takes."""

    __slots__ = ("arguments", "end", "parameter", "shape", "start")

    def __init__(
        self, optimizer: Optimizer, start: int, end: int, arrays: list[Any], numbers: Any
    ) -> None:
        self.start, self.end = start, end
        self.parameter, states = arrays[0], arrays[1:]
        self.shape = self.parameter.shape
        self.arguments = (*states, *optimizer._scratch_for(self.parameter), *numbers)

    def run(self, kernel: Any, gradient: Array) -> None:
        kernel(HOST, self.parameter, gradient, *self.arguments)


class HalfPiece(Piece):
    """The same of float16 or bfloat16: computed in float32, and rounded once at the end."""

    __slots__ = ("gradient", "pairs", "wide")

    def __init__(
        self, optimizer: Optimizer, start: int, end: int, arrays: list[Any], numbers: Any
    ) -> None:
        self.start, self.end, self.shape = start, end, arrays[0].shape
        like = HOST.broadcast_to(float32.numpy.type(0), self.shape)
        memory = optimizer._scratch_for(like, len(arrays) + 1 + optimizer.scratches)
        self.gradient, *rest = memory
        wide: list[Any] = [None if a is None else rest.pop() for a in arrays]
        self.pairs = [(a, w) for a, w in zip(arrays, wide, strict=True) if a is not None]
        self.wide = wide[0]
        self.arguments = (*wide[1:], *rest[: optimizer.scratches], *numbers)

    def run(self, kernel: Any, gradient: Array) -> None:
        HOST.copyto(self.gradient, gradient)
        for half, wide in self.pairs:
            HOST.copyto(wide, half)
        kernel(HOST, self.wide, self.gradient, *self.arguments)
        for half, wide in self.pairs:
            HOST.copyto(half, wide, casting="unsafe")


class HostGroup:
    """The updates of one parameter group."""

    def __init__(self) -> None:
        self.begin({})

    def begin(self, group: dict[str, Any]) -> None:
        """Turns to a group, of which nothing is known."""
        self.group = group
        self.updates: list[Update] = []
        self.scalars: dict[Any, Scalars] = {}  # of the parameters that step alike, by dtype
        self.options: Any = None
        self.plain = False  # whether the options can be compared with those of the next step
        self.stateless = False
        self.step, self.numbers = 0.0, NONE  # of the first parameter in the last step
        self.elsewhere = self.begun = False  # what was met in the step that runs

    def reconsider(self, optimizer: Optimizer, options: tuple[Any, ...] | None) -> None:
        """Forgets what followed from other options."""
        self.options = options
        self.plain = comparable(options)
        self.stateless = optimizer._stateless(self.group)
        self.step = 0.0
        for update in self.updates:
            update.held = update.bound = None

    def prepare(self, optimizer: Optimizer, parameter: Tensor, update: Update) -> bool:
        """Counts the step and makes the arguments of the update valid; False where it is not for
        the host."""
        if update.elsewhere:
            self.elsewhere = True
            return False
        group, step = self.group, 2.0
        if not self.stateless:
            step = update.count(optimizer, parameter, group)
        elif update.held is None:
            update.find_state(optimizer, parameter, group)
        scalars = update.scalars
        if step == self.step:
            numbers = self.numbers
        elif self.begun:  # it has made another number of steps than the first of the group
            numbers, scalars = optimizer._numbers(group, step), update.own_scalars()
        else:
            self.step, numbers = step, optimizer._numbers(group, step)
            if numbers != self.numbers:
                self.numbers = numbers
            numbers = self.numbers
        self.begun = True
        if scalars.numbers is not numbers:
            scalars.rewrite(numbers)
        if update.bound is not scalars.arrays:
            update.bind(optimizer, scalars)
        return True

    def run(self, optimizer: Optimizer) -> bool:
        """Updates the parameters that have a gradient; True where some are on CUDA devices."""
        group, updates = self.group, self.updates
        parameters = group["params"]
        if len(updates) != len(parameters):
            updates = self.updates = [Update() for _ in parameters]
        options = None if optimizer.options is None else optimizer.options(group)
        if not self.plain or options != self.options:
            self.reconsider(optimizer, options)
        kernel, stateless = optimizer.kernel, self.stateless
        self.elsewhere = self.begun = False
        for parameter, update in zip(parameters, updates):
            gradient = parameter._grad
            if gradient is None:
                continue
            array = parameter._array
            if update.array is not array or update.parameter is not parameter:
                update.renew(parameter, self.scalars)
            if update.bound is None or not stateless:
                if not self.prepare(optimizer, parameter, update):
                    continue
            if update.pieces is None:
                kernel(update.module, array, gradient._array, *update.arguments)
            else:
                update.run_pieces(optimizer, gradient._array)
            version = parameter._cell
            if version is None:
                parameter._bump()
            else:
                version[0] += 1
        return self.elsewhere
