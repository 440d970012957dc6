"""The optimizer's step on the CPU, with minimal Python per parameter.

A kernel's arguments are put together once, and again when the parameter, options or state change,
which each step checks. A large parameter is updated in pieces that stay in
cache: the scratch memory is as large as a piece, and the results are those of the whole, element
by element. Many small parameters are updated as one: their states then lie in a row, in common
memory. float16 and bfloat16 are computed in float32 and rounded once at the end.
"""

from __future__ import annotations

from itertools import repeat
from operator import attrgetter, is_, is_not, itemgetter
from types import FunctionType
from typing import Any

from nanotorch.backend import (
    HOST,
    Array,
    array_module,
    device_of,
    get_num_threads,
    is_sparse,
    on_device,
)
from nanotorch.backend.dtypes import float32
from nanotorch.backend.halves import is_half
from nanotorch.backend.loading import when_called
from nanotorch.backend.silence import silent
from nanotorch.backend.workers import side_by_side
from nanotorch.optim import single
from nanotorch.optim.groups import Group
from nanotorch.optim.optimizer import Optimizer, Rule, Runner
from nanotorch.tensor import Tensor

PIECE = 2**18  # bytes of a parameter that are updated at once: three such arrays fit a cache
THREADED = 12  # pieces of a parameter from which on several threads update them
NUMPYS = HOST.ndarray
SMALL = 2**15  # bytes of a parameter up to which it may be updated together with others, …
MANY = 8  # … if there are so many: fewer are updated as fast one by one
NOT_OPTIONS = {"params", "param_names", "foreach", "fused", "capturable", "differentiable"}
Numbers = tuple[float | bool | None, ...]
Checks = tuple[tuple[str, Tensor, Array], ...]

devices = when_called("nanotorch.optim.device_step", "DeviceRunner")
update_rows = when_called("nanotorch.optim.sparse_step", "update")


class Memory:
    """Scratch memory for kernels. Parameters are updated in turn, so all share it."""

    def __init__(self) -> None:
        self.flats: dict[Any, list[Array]] = {}
        self._others: list[Memory] = []

    def of_thread(self, number: int) -> Memory:
        """The memory of each of the threads that update pieces of one parameter; this one's, of
        number 0."""
        while len(self._others) < number:
            self._others.append(Memory())
        return self._others[number - 1] if number else self

    def like(self, array: Array, count: int, dtype: Any = None) -> list[Array]:
        """Arrays of the same shape and device, of this dtype or the same."""
        dtype, place = dtype or array.dtype, device_of(array)
        flats = self.flats.setdefault((dtype, place), [])
        with on_device(place):
            for i in range(count):
                if i == len(flats) or flats[i].size < array.size:
                    flats[i : i + 1] = [array_module(array).empty(array.size, dtype=dtype)]
        return [flat[: array.size].reshape(array.shape) for flat in flats[:count]]


def completed(kernel: Any, arguments: tuple[Any, ...]) -> Any:
    """The kernel as a function of `xp`, the parameter and the gradient.

    What else it takes become its defaults: to pass a tuple of arguments at each call takes 0.15 us.
    """
    code = kernel.__code__
    if code.co_argcount < 3 + len(arguments):  # it names not all of them
        return lambda xp, parameter, gradient: kernel(xp, parameter, gradient, *arguments)
    return FunctionType(code, kernel.__globals__, code.co_name, arguments, kernel.__closure__)


class Piece:
    """A parameter or a stretch of one, with its state and whatever else the kernel takes."""

    def __init__(
        self, rule: Rule, memory: Memory, arrays: list[Any], numbers: Any, stretch: slice
    ) -> None:
        self.xp, self.stretch = array_module(arrays[0]), stretch
        self.parameter, *state = arrays
        scratch = memory.like(self.parameter, len(rule.scratch))
        self.kernel = completed(rule.kernel, rule.arguments(state, numbers, scratch))

    def run(self, gradient: Array) -> None:
        """The update from the gradient of these elements."""
        self.kernel(self.xp, self.parameter, gradient)


class HalfPiece(Piece):
    """The same of float16 or bfloat16, by copies in float32."""

    def __init__(self, rule: Rule, memory: Memory, arrays: list[Any], *others: Any) -> None:
        used = len(rule.scratch)
        like = memory.like(arrays[0], used + 1 + len(arrays), float32.numpy)
        self.gradient, *copies = like[used:]
        wide = [None if a is None else copy for a, copy in zip(arrays, copies, strict=True)]
        super().__init__(rule, memory, wide, *others)
        self.pairs = [(a, w) for a, w in zip(arrays, wide, strict=True) if a is not None]

    def run(self, gradient: Array) -> None:
        xp = self.xp
        xp.copyto(self.gradient, gradient)
        for half, wide in self.pairs:
            xp.copyto(wide, half)
        super().run(self.gradient)
        for half, wide in self.pairs:
            xp.copyto(half, wide, casting="unsafe")


def whole(rule: Rule, memory: Memory, arrays: list[Any], numbers: Any) -> Piece:
    """The update of a parameter and its state at once."""
    make = HalfPiece if is_half(arrays[0]) else Piece
    return make(rule, memory, arrays, numbers, slice(None))


def same_terms(old: Numbers, new: Numbers) -> bool:
    """Whether both have the same terms and flags, so that only values may differ."""
    for a, b in zip(old, new):
        if a is not b and (a is None or b is None or type(a) is bool or type(b) is bool):
            return False
    return True


class Scalars:
    """The numbers of an update as 0-dim arrays, which NumPy takes faster than Python floats.

    One set serves all parameters that step alike. None and flags stay as they are.
    """

    __slots__ = ("arrays", "dtype", "numbers")

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        self.numbers: Numbers = ()
        self.arrays: tuple[Any, ...] = ()  # another tuple where other terms come in

    def rewrite(self, numbers: Numbers) -> None:
        """Writes the numbers that changed into their arrays."""
        olds, self.numbers = self.numbers, numbers
        for array, old, new in zip(self.arrays, olds, numbers):
            if old != new:
                if array is None or new is None or type(array) is bool or type(new) is bool:
                    olds = ()  # a term that comes in or goes, or a flag
                    break
                array.fill(new)
        if not olds:
            self.arrays = tuple(
                n if n is None or type(n) is bool else HOST.asarray(n, dtype=self.dtype)
                for n in numbers
            )


def comparable(options: tuple[Any, ...]) -> bool:
    """Whether options equal to these say the same later on, as none of them changes in place."""
    return all(
        comparable(value) if type(value) is tuple else isinstance(value, float | int | str | None)
        for value in options
    )


def options_in(group: Group) -> Any:
    """What reads the options of a group that numbers and state may follow from, as a tuple."""
    names = [name for name in group if name not in NOT_OPTIONS]
    return itemgetter(*names, names[0]) if names else lambda group: ()


def checks_of(optimizer: Optimizer, parameter: Tensor, arrays: Any) -> Checks:
    """The counters and arrays in use of a parameter's state: their names, tensors and memory."""
    used = {*optimizer.counters, *(n for n, a in zip(optimizer.arrays, arrays) if a is not None)}
    state = optimizer.state.get(parameter) or {}
    return tuple((name, t, t._array) for name, t in state.items() if name in used)


def state_holds(state: Any, checks: Checks) -> bool:
    """Whether the state has the same tensors, with the same memory, under these names."""
    for name, tensor, array in checks:
        if not state or state.get(name) is not tensor or tensor._array is not array:
            return False
    return True


class Update:
    """The update of one parameter: the kernel's arguments, and what they were put together from."""

    __slots__ = (
        "apart", "array", "bound", "checks", "counter", "kernel", "module", "parameter", "pieces",
        "scalars", "state",
    )  # fmt: skip

    def __init__(self) -> None:
        self.parameter: Tensor | None = None
        self.array: Array = None
        self.module: Any = HOST
        self.state: tuple[Array | None, ...] = ()
        self.checks: Checks | None = None  # of its state; None: it has to be looked up
        self.counter: Array | None = None  # the memory of its only counter
        self.scalars: Scalars  # shared by those that step alike
        self.apart: Scalars | None = None  # of a parameter that has made fewer steps than others
        self.bound: Any = None  # the arrays of the scalars that are among the arguments
        self.kernel: Any = None  # of the rule, completed by all other arguments
        self.pieces: list[list[Piece]] | None = None  # for each thread, with memory of its own

    def renew(self, parameter: Tensor, scalars: dict[Any, Scalars]) -> None:
        """Starts over with a parameter, or with a new array of it."""
        self.parameter, self.array = parameter, parameter._array
        self.checks = self.bound = self.apart = None
        dtype = float32.numpy if is_half(self.array) else self.array.dtype
        self.scalars = scalars.setdefault(dtype, Scalars(dtype))

    def look_up(self, optimizer: Optimizer, parameter: Tensor, group: Group) -> None:
        """Looks up the parameter's state; missing arrays are made."""
        state = optimizer._state_arrays(parameter, group)
        if len(state) != len(self.state) or any(a is not b for a, b in zip(state, self.state)):
            self.bound = None
        self.state = state
        self.checks = checks_of(optimizer, parameter, state)
        counters = [array for name, _, array in self.checks if name in optimizer.counters]
        self.counter = counters[0] if counters else None

    def bind(self, optimizer: Optimizer, memory: Memory, scalars: Scalars) -> None:
        """Puts the arguments together: for the parameter, or for each piece of a large one."""
        array, numbers = self.array, scalars.arrays
        arrays = [array, *self.state]
        half = is_half(array)
        cut = optimizer.elementwise and all(a is None or a.flags.c_contiguous for a in arrays)
        count = -(-array.nbytes * (2 if half else 1) // PIECE) if cut else 1
        one = optimizer.elementwise and array.size == 1 and array.dtype.kind == "f"
        self.bound, self.pieces, self.module = numbers, None, single if one else HOST
        if count <= 1:
            piece = whole(optimizer, memory, arrays, numbers)
            self.kernel = piece.kernel
            self.pieces = [[piece]] if half else None
            return
        arrays = [a if a is None else a.reshape(-1) for a in arrays]
        make, size = HalfPiece if half else Piece, -(-array.size // count)
        threads = get_num_threads() if count >= THREADED else 1
        stretches = [slice(start, start + size) for start in range(0, array.size, size)]
        parts = [[a if a is None else a[stretch] for a in arrays] for stretch in stretches]
        self.pieces = [
            [make(optimizer, own, a, numbers, s) for a, s in zip(parts, stretches)]
            for own in map(memory.of_thread, range(threads))
        ]

    def run(self, optimizer: Optimizer, memory: Memory, gradient: Array) -> None:
        """The update from a gradient."""
        if self.pieces is None:
            self.kernel(self.module, self.array, gradient)
        else:
            self.run_pieces(optimizer, memory, gradient)

    def run_pieces(self, optimizer: Optimizer, memory: Memory, gradient: Array) -> None:
        """The update piece by piece; of the whole where the gradient lies in another order."""
        pieces: Any = self.pieces
        if len(pieces[0]) == 1:
            pieces[0][0].run(gradient)
        elif gradient.flags.c_contiguous:
            flat = gradient.reshape(-1)
            waiting = iter(range(len(pieces[0])))  # a thread that is free takes the next piece

            def work(number: int) -> None:
                for place in waiting:
                    piece = pieces[number][place]
                    piece.run(flat[piece.stretch])

            side_by_side(work, min(get_num_threads(), len(pieces)))
        else:
            whole(optimizer, memory, [self.array, *self.state], self.bound).run(gradient)


array_in, gradient_in = attrgetter("_array"), attrgetter("_grad")


class Joined:
    """Small parameters of one dtype that step alike, updated as if they were one.

    Each step copies them and their gradients into a row, calls the kernel once and copies the
    parameters back. Their states are views of rows: the tensors stay, and get other memory.
    """

    def __init__(self, optimizer: Optimizer, updates: list[Update]) -> None:
        self.updates = updates
        self.parameters: list[Any] = [update.parameter for update in updates]
        self.arrays = [update.array for update in updates]
        self.flat = [array.reshape(-1) for array in self.arrays]
        whole = self.whole = Update()
        whole.array, whole.scalars = HOST.concatenate(self.flat), updates[0].scalars
        whole.state = tuple(
            None if column[0] is None else HOST.concatenate([a.reshape(-1) for a in column])
            for column in zip(*(update.state for update in updates))
        )
        self.gradient = HOST.empty_like(whole.array)
        self.places = self.views(whole.array)
        names = [name for name, a in zip(optimizer.arrays, whole.state) if a is not None]
        rows = [self.views(a) for a in whole.state if a is not None]
        self.counts: Any = None  # the counters, in a row
        if optimizer.counters:
            self.counts = HOST.array([update.counter for update in updates])
            names += optimizer.counters
            rows.append([self.counts[i : i + 1].reshape(()) for i in range(len(updates))])
        self.names = names
        self.states: list[Any] = [optimizer.state.get(parameter) for parameter in self.parameters]
        self.tensors = [state[name] for name in names for state in self.states if state is not None]
        self.memory = [array for row in rows for array in row]
        for tensor, array in zip(self.tensors, self.memory):
            tensor._array = array
        for update in updates:
            update.checks = None

    def views(self, row: Array) -> list[Array]:
        """The part of each parameter in a row, in its shape."""
        views, start = [], 0
        for array in self.arrays:
            views.append(row[start : start + array.size].reshape(array.shape))
            start += array.size
        return views

    def holds(self, optimizer: Optimizer, gradients: list[Any]) -> bool:
        """Whether all have gradients, the arrays and states of before, and made as many steps."""
        if not all(map(is_not, gradients, repeat(None))):
            return False
        if not all(map(is_, map(type, map(array_in, gradients)), repeat(NUMPYS))):
            return False
        if not all(map(is_, map(array_in, self.parameters), self.arrays)):
            return False
        if not self.names:
            return True
        state = optimizer.state.get
        try:
            tensors = [s[name] for name in self.names for s in self.states]
        except KeyError:
            return False
        return (
            all(map(is_, map(state, self.parameters), self.states))
            and all(map(is_, tensors, self.tensors))
            and all(map(is_, map(array_in, tensors), self.memory))
            and (self.counts is None or bool((self.counts == self.counts[0]).all()))
        )

    def run(self, group: HostGroup, optimizer: Optimizer) -> bool:
        """The step of all; False, and nothing is done, where they no longer step alike."""
        gradients = list(map(gradient_in, self.parameters))
        if not self.holds(optimizer, gradients):
            return False
        count = 2.0 if self.counts is None else self.counts.item(0) + 1.0
        if self.counts is not None:
            self.counts.fill(count)
        whole = self.whole
        group.numbers_of(optimizer, (count,), whole.scalars)
        if whole.bound is not whole.scalars.arrays:
            whole.bind(optimizer, group.memory, whole.scalars)
        HOST.concatenate(self.flat, out=whole.array)
        HOST.concatenate([a.reshape(-1) for a in map(array_in, gradients)], out=self.gradient)
        whole.run(optimizer, group.memory, self.gradient)
        for array, place in zip(self.arrays, self.places):
            array[...] = place
        for parameter in self.parameters:
            parameter._bump()
        return True


def joinable(update: Update) -> bool:
    """Whether an update may be one of many: of a small parameter that steps like others."""
    array, parameter = update.array, update.parameter
    if parameter is None or parameter._grad is None or update.checks is None:
        return False
    if type(parameter._grad._array) is not NUMPYS:
        return False
    return (
        array.flags.c_contiguous
        and array.flags.owndata  # shares no memory with another parameter
        and array.nbytes <= SMALL
        and array.dtype.kind == "f"
        and array.itemsize > 2
        and update.apart is None
        and all(a is None or (a.dtype, a.shape) == (array.dtype, array.shape) for a in update.state)
    )


class HostGroup:
    """The updates of one parameter group."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.group: Group | None = None

    def begin(self, optimizer: Optimizer, group: Group) -> None:
        """Starts over with a group."""
        self.group, self.length = group, len(group)
        self.read = options_in(group)
        self.known: list[Tensor] = []  # the parameters of the step before, …
        self.updates: list[Update] = []  # … their updates, …
        self.joined: list[Joined] = []  # … of which some are made as one, …
        self.single: list[tuple[Tensor, Update]] = []  # … and the others one by one
        self.alike: list[list[Update]] = []  # those to be joined if they step alike once more
        self.scalars: dict[Any, Scalars] = {}  # of the parameters that step alike, by dtype
        self.options: Any = None
        self.used: tuple[str, ...] = ()  # the arrays of the state
        self.plain = False  # whether the options can be compared with those of the next step
        self.counts: Any = None  # of the first parameter in the last step
        self.numbers: Numbers = ()
        # Steps counted by one are counted here; others are left to the rule.
        self.by_one = optimizer.counts_by_one()
        self.stateless = self.begun = False

    def reconsider(self, optimizer: Optimizer, options: tuple[Any, ...]) -> None:
        """Starts over with other options."""
        self.options, self.plain, self.counts = options, comparable(options), None
        group: Any = self.group
        used = optimizer.arrays_in_use(group)
        self.stateless = self.by_one and not (optimizer.counters or used)
        if used != self.used:
            self.keep([])
        self.used = used
        for _, update in self.single:
            update.checks = update.bound = None

    def join(self, optimizer: Optimizer) -> None:
        """Joins those that stepped alike in this step and in the one before."""
        before = self.alike
        kinds: dict[Any, list[Update]] = {}
        if optimizer.elementwise and self.by_one and self.plain:
            for _, update in self.single:
                if joinable(update):
                    kind = update.scalars, None if update.counter is None else update.counter.dtype
                    kinds.setdefault(kind, []).append(update)
        self.alike = [updates for updates in kinds.values() if len(updates) >= MANY]
        if self.alike and self.alike == before:
            self.keep([*self.joined, *(Joined(optimizer, updates) for updates in self.alike)])

    def keep(self, joined: list[Joined]) -> None:
        """Makes these the ones that are joined, and all others single."""
        if len(joined) != len(self.joined):
            done = {id(update) for each in joined for update in each.updates}
            pairs = zip(self.known, self.updates)
            self.joined, self.single = joined, [pair for pair in pairs if id(pair[1]) not in done]
            self.alike = []

    def numbers_of(self, optimizer: Optimizer, counts: Any, scalars: Scalars) -> None:
        """Writes the numbers of the first to step, and of all others with these counters."""
        if counts != self.counts:
            self.counts, numbers = counts, optimizer.numbers(self.group, *counts)  # type: ignore[arg-type]
            if numbers != self.numbers:
                self.numbers = numbers
        self.begun = True
        if scalars.numbers is not self.numbers:
            scalars.rewrite(self.numbers)

    def prepare(self, optimizer: Optimizer, parameter: Tensor, update: Update) -> None:
        """Counts the step and makes the arguments of the update valid."""
        group: Any = self.group
        if update.checks is None or not state_holds(optimizer.state.get(parameter), update.checks):
            counts = optimizer._count(parameter, group)
            update.look_up(optimizer, parameter, group)
        elif not self.by_one:
            counts = optimizer._count(parameter, group)
        elif update.counter is None:
            counts = (2.0,)
        else:
            counts = (update.counter.item() + 1.0,)
            update.counter.fill(counts[0])
        scalars = update.scalars
        if self.begun and counts != self.counts:  # not the counters of the first to step
            numbers = optimizer.numbers(group, *counts)
            if update.apart is None:
                update.apart = Scalars(scalars.dtype)
            scalars = update.apart
            if scalars.numbers is not numbers:
                scalars.rewrite(numbers)
        else:
            self.numbers_of(optimizer, counts, scalars)
        if update.bound is not scalars.arrays:
            update.bind(optimizer, self.memory, scalars)

    def run(self, optimizer: Optimizer, group: Group) -> list[Tensor]:
        """Updates the parameters that have a gradient, but for those with gradients on other
        devices or row-sparse ones, which are returned."""
        if self.group is not group or len(group) != self.length:  # as after load_state_dict
            self.begin(optimizer, group)
        parameters = group["params"]
        if len(parameters) != len(self.known) or not all(map(is_, parameters, self.known)):
            self.known, self.joined, self.alike = list(parameters), [], []
            self.updates = [Update() for _ in parameters]
            self.single = list(zip(parameters, self.updates))
        options = self.read(group)
        if not self.plain or options != self.options:
            self.reconsider(optimizer, options)
        stateless = self.stateless
        self.begun, others = False, []
        if self.joined:
            self.keep([joined for joined in self.joined if joined.run(self, optimizer)])
        for parameter, update in self.single:
            tensor, array = parameter._grad, parameter._array
            if tensor is None:
                continue
            gradient = tensor._array
            if type(gradient) is not NUMPYS:
                others.append(parameter)
                continue
            if update.array is not array or update.parameter is not parameter:
                update.renew(parameter, self.scalars)
            if update.bound is None or not stateless:
                self.prepare(optimizer, parameter, update)
            if update.pieces is None:
                update.kernel(update.module, array, gradient)
            else:
                update.run_pieces(optimizer, self.memory, gradient)
            version = parameter._cell
            if version is None:
                parameter._bump()
            else:
                version[0] += 1
        if len(self.single) >= MANY:
            self.join(optimizer)
        return others


class HostRunner(Runner):
    """Makes the steps of an optimizer's parameters on the host; those on CUDA devices elsewhere."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.groups: list[HostGroup] = []
        self.devices: Any = None

    @silent
    def run(self, optimizer: Optimizer) -> None:
        groups, elsewhere = self.groups, False
        for number, group in enumerate(optimizer.param_groups):
            if number == len(groups):
                groups.append(HostGroup(self.memory))
            for parameter in groups[number].run(optimizer, group):
                if is_sparse(parameter._grad._array):  # type: ignore[union-attr]
                    update_rows(optimizer, parameter, group)
                else:
                    elsewhere = True
        if elsewhere:
            self.on_devices().run(optimizer)

    def on_devices(self) -> Any:
        """What makes the steps on CUDA devices."""
        if self.devices is None:
            self.devices = devices(self.memory)
        return self.devices

    def parts(self, optimizer: Optimizer, slots: int) -> Any:
        return self.on_devices().parts(optimizer, slots)

    def skips(self, optimizer: Optimizer) -> bool:
        arrays = [p._array for p in optimizer._parameters() if p._grad is not None]
        if any(array_module(array) is HOST for array in arrays):
            return False
        return all(self.on_devices().fuses(optimizer, array) for array in arrays)

    def settle(self, optimizer: Optimizer) -> None:
        if self.devices is not None:
            self.devices.settle(optimizer)
