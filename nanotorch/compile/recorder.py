"""Listens while a step runs once, and writes down every kernel with the arrays it read and wrote.

The engine tells the recorder of each kernel (`ran`), of each write into an existing tensor
(`wrote`), and of what is added to a leaf's gradient (`deposited`). Calls that must see live values,
such as `optimizer.step()`, are written down as they stand (`live`). What a recording cannot stand
for, such as reading a number out of a tensor, is refused with `Refused`, and the function stays
eager.
"""

from __future__ import annotations

import functools
import itertools
import linecache
import os
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from nanotorch.autograd.engine import go_on
from nanotorch.autograd.inplace import go_on_writing
from nanotorch.autograd.rings import SILENCE, Listener, Ring, Rings, modes, with_ring, without_ring
from nanotorch.backend import HOST, MODULES, Array, array_module, device, device_of, promote
from nanotorch.backend.halves import is_half
from nanotorch.compile.memory import root_of
from nanotorch.compile.stacks import mapped
from nanotorch.node import Node, Traced
from nanotorch.ops.casting import Clone
from nanotorch.primitive import Primitive
from nanotorch.tensor import Tensor

PACKAGE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
Where = tuple[str, int]  # a file and a line


class Live(NamedTuple):
    """A call that is made again at each replay, and the static tensor that holds what it
    returned."""

    call: Callable[[], Any]
    result: Array | None
    gradients: tuple[tuple[Tensor, Array | None], ...]
    where: Where | None = None


class Draw(NamedTuple):
    """Random numbers that are drawn again at each replay, into the same array."""

    fill: Callable[[Array], Any]
    out: Array


class Kernel(NamedTuple):
    """One kernel call: operands are arrays or plain values; `out` is what it made or wrote into."""

    primitive: type[Primitive]
    xp: Any
    operands: tuple[Any, ...]
    attributes: dict[str, Any]
    out: Array
    into_existing: bool
    promotes: bool
    where: Where | None = None  # the user's line that led to it

    @property
    def arrays(self) -> list[Array]:
        """Those among its operands."""
        return [a for a in self.operands if type(a) in MODULES]

    @property
    def shares(self) -> bool:
        """Whether its output is memory of an operand."""
        return root_of(self.out) in map(root_of, self.arrays)


class Recorder(Ring, Listener):
    """The record of one call of a function."""

    rank = 40  # what the other rings make of a primitive is written down
    reads_rules = True

    def __init__(self, inputs: Iterable[Tensor]) -> None:
        self.inputs = [x._array for x in inputs]
        self.steps: list[Kernel | Draw | Live] = []
        self.made: dict[int, Array] = {}  # arrays that exist only since the recording began
        self.constant: set[int] = set()  # those of them that are the same in every call
        # Tensors from outside, and those that numbers are drawn into, by the identity of the array.
        self.external: dict[int, Tensor] = {}
        self.drawn: dict[int, Tensor] = {}
        self.modules: list[Any] = []  # those that were called
        self.gradients: dict[Tensor, Array | None] = {}  # what each touched leaf's .grad holds now
        self.entry: dict[Tensor, Tensor | None] = {}  # what it must hold when a replay begins
        self.cleared: set[Tensor] = set()
        self.written: dict[int, Tensor] = {}  # tensors from outside whose memory the step changes
        self.walked: set[Node] = set()  # the nodes that a backward pass has run
        self.refusal: str | None = None
        self.written_inputs: set[int] = set()
        self.settle: Callable[[Recorder], None] | None = None  # before a call reads gradients
        self.place: device | None = None  # the GPU that it computes on, if it does
        self._inputs = {id(array): position for position, array in enumerate(self.inputs)}

    # --- what the engine tells --------------------------------------------------------------------

    def __enter__(self) -> Recorder:
        modes.rings, modes.listener = with_ring(modes.rings, self), self
        return self

    def __exit__(self, *error: object) -> None:
        modes.rings, modes.listener = without_ring(modes.rings, self), SILENCE

    def __call__(self, primitive: Any, inputs: Any, attributes: Any, rest: Rings) -> Any:
        out = go_on(primitive, inputs, attributes, rest)
        if self.refusal is None:
            self._kernel(primitive, inputs, attributes, out._array)
            if primitive.constant:
                self.constant.add(id(out._array))
        return out

    def write(self, primitive: Any, inputs: Any, attributes: Any, rest: Rings) -> Any:
        x = go_on_writing(primitive, inputs, attributes, rest)
        if self.refusal is None:
            self._kernel(primitive, inputs, attributes, x._array, into_existing=True)
            if id(x._array) in self._inputs:
                self.written_inputs.add(self._inputs[id(x._array)])
            elif id(x._array) not in self.made:
                self._meet(x)
                self.written[id(x)] = x
        return x

    def copied(self, old: Any, x: Any) -> None:
        """`old` took a copy of x's elements before they are written to."""
        self._kernel(Clone, (x,), {}, old._array)

    def walking(self, node: Node) -> None:
        """A backward pass comes to a node."""
        if node.hooks or node.post_hooks:
            self.refuse(f"runs hooks on {node.name()}")
        self.walked.add(node)

    def deposited(self, leaf: Tensor, held: Tensor | None) -> None:
        """Backward added to the leaf's gradient: to `held`, or there was none so far."""
        if leaf._hooks or leaf._post_hooks:
            self.refuse("runs hooks on a leaf")
        if leaf not in self.gradients and leaf not in self.cleared:
            self.entry[leaf] = held
        if held is not None:
            self._meet(held)
        self.gradients[leaf] = leaf._grad._array if leaf._grad is not None else None
        self.external.setdefault(id(leaf._array), leaf)

    def assigned(self, leaf: Tensor, value: Tensor | None) -> None:
        """The step set a leaf's gradient itself."""
        if value is not None:
            self.refuse("assigns a gradient")
        self.cleared.add(leaf)
        if leaf in self.gradients:
            self.gradients[leaf] = None

    def drew(self, x: Tensor, fill: Callable[[Array], Any]) -> None:
        """Random numbers are drawn into x."""
        self._be_on(x._array)
        self.made[id(x._array)] = x._array
        self.drawn[id(x._array)] = x
        self.steps.append(Draw(fill, x._array))

    def called(self, module: Any) -> None:
        """A module was called: a replay holds as long as its mode and its attributes do."""
        if module._hooks is not None:
            self.refuse(f"calls {type(module).__name__}, which has hooks")
        # With those below that are read and not called, such as lists of parameters.
        self.modules += [m for m in module.modules() if m is module or m._hooks is None]

    def live(self, function: Callable[..., Any], owner: Any, args: Any, kwargs: Any) -> Any:
        """Makes the call now, and again at each replay."""
        if any(callable(a) for a in (*args, *kwargs.values())):
            self.refuse(f"passes a function to {function.__name__}()")
            return function(owner, *args, **kwargs)
        gradients = tuple(self.gradients.items())
        owner, *args = (list(a) if hasattr(a, "__next__") else a for a in (owner, *args))
        self.__exit__()
        if self.settle is not None and self.gradients and self.refusal is None:
            self.settle(self)
            self.settle = None
        try:
            result = function(owner, *args, **kwargs)
        finally:
            if self.refusal is None:
                self.__enter__()
        array = None
        if isinstance(result, Tensor):
            array = result._array
            self.made[id(array)] = array
        elif result is not None:
            self.refuse(f"uses what {function.__name__}() returns")
        call = functools.partial(function, owner, *args, **kwargs)
        self.steps.append(Live(call, array, gradients, line_outside()))
        for leaf in self.leaves_of(owner):
            if leaf._grad is None:
                self.assigned(leaf, None)
        return result

    @staticmethod
    def leaves_of(owner: Any) -> list[Tensor]:
        """The parameters of an optimizer, a module, or a list."""
        if hasattr(owner, "param_groups"):
            return [p for group in owner.param_groups for p in group["params"]]
        found = owner.parameters() if hasattr(owner, "parameters") else owner
        found = [found] if isinstance(found, Tensor) else found
        return [p for p in found if isinstance(p, Tensor)]

    def refuse(self, what: str) -> None:
        """Ends the recording: a replay would get wrong what the step does. The step itself runs
        on."""
        if self.refusal is None:
            self.refusal = place_text(line_outside()) + what
        self.__exit__()

    read = refuse

    def check(self, returned: Any) -> None:
        """Refuses what can only be seen at the end: open graphs, and tensors from nowhere."""
        results: list[Tensor] = []
        mapped(lambda x: results.append(x) if isinstance(x, Tensor) else None, returned)
        nowhere = "that is computed outside of the ops"
        for x in results:
            known = (self.made, self._inputs, self.external)
            if not any(id(x._array) in those for those in known):
                self.refuse(f"returns {title_of(x)} {nowhere}")
            if x._node is not None and x._node not in self.walked:
                self.refuse(
                    f"returns {title_of(x)} whose gradient is still to be asked for; call "
                    "backward() within the step, or return its detach()"
                )
        retained = [node.inputs for node in self.walked if type(node.inputs) is list]
        graph = Counter(map(id, itertools.chain.from_iterable(retained)))

        def is_held(tensors: dict[int, Tensor], key: int) -> bool:
            """Whether somebody else than a graph has the tensor, too."""
            return sys.getrefcount(tensors[key]) - HELD_HERE_ALONE > graph[id(tensors[key])]

        for key in self.drawn:
            self.external.pop(key, None)
            if is_held(self.drawn, key):
                self.refuse("draws random numbers into a tensor from outside")
        self.drawn.clear()
        for key in self.external:
            if not is_held(self.external, key):
                self.refuse(f"uses {title_of(self.external[key])} {nowhere}")

    # --- what it makes of that --------------------------------------------------------------------

    def _kernel(
        self, primitive: Any, inputs: Any, attributes: Any, out: Array, into_existing: bool = False
    ) -> None:
        self._be_on(out)
        if primitive.depends_on_values(inputs):
            self.refuse(f"{primitive.title()} has an output whose shape depends on values")
        for x in inputs:
            if isinstance(x, Traced):
                self._meet(x)
            elif type(x) in MODULES:
                self.refuse(f"{primitive.title()} takes a raw array")
        operands = tuple(x._array if isinstance(x, Traced) else x for x in inputs)
        if type(out) is HOST.ndarray and any(is_half(x) for x in (out, *operands)):
            self.refuse(f"{primitive.title()} is computed in half precision, which is not compiled")
        promotes, where = is_promoted(primitive, operands), line_outside()
        xp = array_module(out)
        kernel = Kernel(primitive, xp, operands, attributes, out, into_existing, promotes, where)
        self.steps.append(kernel)
        if not into_existing:
            self.made[id(out)] = out

    def _be_on(self, out: Array) -> None:
        """Takes note of the GPU that holds a result; there may be one."""
        if MODULES.get(type(out)) is HOST:
            return
        place = device_of(out)
        if self.place is not None and place != self.place:
            self.refuse(f"computes on two GPUs, {self.place} and {place}")
        self.place = place

    def _meet(self, x: Any) -> None:
        """Takes note of a tensor that comes from outside of the call."""
        key = id(x._array)
        if key not in self.made and key not in self._inputs:
            self.external.setdefault(key, x)


def is_promoted(primitive: type[Primitive], operands: Sequence[Any]) -> bool:
    """Whether the engine casts operands of a kernel to one dtype before it is called."""
    if primitive.promotes is None:
        return False
    cast = promote(operands, primitive.promotes == "floating")
    return any(a is not b for a, b in zip(operands, cast, strict=True))


def title_of(x: Tensor) -> str:
    """A tensor, as messages name it."""
    return f"a tensor of shape {tuple(x._array.shape)}"


def place_text(where: Where | None) -> str:
    """A line of the user's, as messages name it."""
    if where is None:
        return ""
    return f"{where[0]}:{where[1]}: `{linecache.getline(*where).strip()}` "


def line_outside() -> Where | None:
    """The file and the line that called into this package."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    return None if frame is None else (frame.f_code.co_filename, frame.f_lineno)


def _references_of_a_value_in_a_dict() -> int:
    held = {0: object()}
    return sys.getrefcount(held[0])


HELD_HERE_ALONE = _references_of_a_value_in_a_dict()
