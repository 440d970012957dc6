"""What an optimizer is: a formula for one parameter (`Rule`), and the groups and steps around it.

A step goes through the parameters and updates each that has a gradient. `Runner` makes it in the
plainest way; what is added to `runners` makes the same steps with less Python, or on GPUs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeVar

from nanotorch.autograd.grad_mode import enable_grad, live
from nanotorch.backend import (
    HOST,
    Array,
    array_module,
    get_default_dtype,
    on_device_of,
)
from nanotorch.backend.allocator import keep_freed_memory
from nanotorch.backend.dtypes import float64
from nanotorch.backend.halves import widened
from nanotorch.backend.silence import silent
from nanotorch.optim.groups import Group, Groups, Parameters
from nanotorch.tensor import Tensor

Method = TypeVar("Method", bound=Callable[..., Any])


class Rule:
    """How one parameter is updated: a formula on arrays, and the names of what it takes.

    `kernel(xp, parameter, gradient, …)` is the formula. It computes with functions of the array
    module `xp`, which write into its arguments. The name of each further argument says what it is:

    - in `arrays`: an array of the parameter's state, shaped like it; None if the group needs none
    - a field of `Numbers`: a number of this step as a 0-dim array; None and booleans as they are
    - in `scratch`: memory of the parameter's shape to compute in

    TypeError when a class is defined whose kernel takes anything else.
    """

    class Numbers(NamedTuple):
        """What `numbers` returns. A term that the group's options leave out is None."""

    arrays: ClassVar[tuple[str, ...]] = ()
    counters: ClassVar[dict[str, float]] = {"step": 0.0}  # numbers in the state: first values
    scratch: ClassVar[tuple[str, ...]] = ("scratch",)
    elementwise: ClassVar[bool] = False  # whether the kernel treats each element by itself
    cuda_kernel: ClassVar[str] = ""  # the same in backend/cuda/optimizers.cu, if there is one
    _names: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        attributes = vars(cls)
        if "kernel" in attributes:  # a new formula inherits nothing that was said of the old one
            cls.elementwise = attributes.get("elementwise", False)
        if not attributes.keys().isdisjoint(("kernel", "Numbers", "numbers")):
            cls.cuda_kernel = attributes.get("cuda_kernel", "")
        code, known = cls.kernel.__code__, cls._known()
        cls._names = code.co_varnames[3 : code.co_argcount]
        for name in cls._names:
            if known.count(name) != 1:
                raise TypeError(
                    f"{cls.__name__}.kernel: expected `{name}` once among arrays, the fields of "
                    f"Numbers and scratch, which have {', '.join(known)}"
                )

    @classmethod
    def _known(cls) -> tuple[str, ...]:
        return (*cls.arrays, *cls.Numbers._fields, *cls.scratch)

    @staticmethod
    def kernel(*arguments: Any) -> None:
        """One update, in place."""
        raise NotImplementedError(
            "this optimizer defines neither step nor kernel, the formula of one update"
        )

    def arrays_in_use(self, group: Group) -> tuple[str, ...]:
        """Those of `arrays` that the options of the group make use of."""
        return self.arrays

    def initial(self, group: Group, name: str) -> float:
        """The value that an array of the state starts from."""
        return 0.0

    def advance(self, group: Group, *counts: Any) -> tuple[float, ...]:
        """The counters after one more step; for a rule without any, 1 in the first step, then 2."""
        return (counts[0] + 1.0,)

    def counts_by_one(self) -> bool:
        """Whether `advance` is the one above, and there is at most one counter."""
        return type(self).advance is Rule.advance and len(self.counters) < 2

    def numbers(self, group: Group, *counts: Any) -> Any:
        """The `Numbers` of a step, from the group's options and the counters with this step.

        Which terms are None, and booleans, follow from the options alone, not from the counters.
        """
        return self.Numbers()

    def numbers_after_skips(self, group: Group, *counts: Any) -> tuple[float, ...]:
        """What a CUDA kernel computes its numbers from where it has skipped steps."""
        return ()

    def arguments(self, arrays: Any, numbers: Any, scratch: Any) -> tuple[Any, ...]:
        """What the kernel takes after the gradient, in its order."""
        values = dict(zip(self._known(), (*arrays, *numbers, *scratch), strict=True))
        return tuple(values[name] for name in self._names)


class Runner:
    """Makes the steps of an optimizer, one parameter after the other."""

    @silent
    def run(self, optimizer: Optimizer) -> None:
        """Updates each parameter that has a gradient."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter._grad is not None:
                    with on_device_of(parameter._array):
                        optimizer.update(parameter, group)

    def parts(self, optimizer: Optimizer, slots: int) -> Any:
        """A step as a part for the host and one of launches, for a graph; None: it has no parts."""
        return None

    def skips(self, optimizer: Optimizer) -> bool:
        """Whether a step leaves everything as it is where `optimizer.found_inf` is not 0."""
        return False

    def settle(self, optimizer: Optimizer) -> None:
        """Brings the counters of the state up to date."""


runners: list[Callable[[], Runner]] = [Runner]  # a new optimizer takes the last one


def in_parts(method: Method) -> Method:
    """Lets whoever captures a step in a graph ask for its parts (see `Runner.parts`)."""
    vars(method)["parts"] = lambda self, closure=None, slots=1: self._parts(slots)
    return method


class Optimizer(Rule, Groups):
    """Holds parameter groups and updates their parameters from their gradients.

    `params`: tensors, (name, tensor) pairs, or dictionaries with the key "params" and options that
    override `defaults` for their group. Order matters, so sets are refused.

    Raises TypeError for anything but tensors in an ordered collection, ValueError for an empty
    collection, a non-leaf tensor, or a parameter that appears in two groups.
    """

    def __init__(self, params: Parameters, defaults: dict[str, Any]) -> None:
        if isinstance(params, Tensor):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or dicts, "
                f"but got {type(params).__name__}; write [parameter] for a single one"
            )
        if defaults.get("differentiable"):
            raise ValueError(
                f"{type(self).__name__}: differentiable=True is not supported, as updates are not "
                "recorded"
            )
        keep_freed_memory()  # here begins a training, whose steps make the same arrays each time
        self.defaults = defaults
        self.state = defaultdict(dict)
        self.param_groups = []
        self._start()
        groups: list[Any] = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def _start(self) -> None:
        super()._start()
        self._step_count = 0
        self._runner = runners[-1]()

    @live
    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drops the gradients of all parameters, or fills them with zeros unless `set_to_none`."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if set_to_none or (gradient := parameter._grad) is None:
                    parameter._grad = None
                    continue
                if gradient.grad_fn is not None:
                    gradient.detach_()
                with on_device_of(gradient._array):
                    gradient._array.fill(0)
                gradient._bump()

    @live
    @in_parts
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates every parameter that has a gradient.

        `closure`, where given, clears the gradients, computes the loss and its gradients, and
        returns the loss, which `step` then returns.
        """
        if self._hooks:
            closure = self._before_step(closure)
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        self._step_count += 1
        self._runner.run(self)
        if self._hooks:
            self._after_step(closure)
        return loss

    def update(self, parameter: Tensor, group: Group) -> None:
        """One step of one parameter that has a gradient: counts it, and runs the kernel."""
        numbers = self.numbers(group, *self._count(parameter, group))
        gradient: Any = parameter._grad
        arrays = [parameter._array, *self._state_arrays(parameter, group)]
        wide = [widened(a) for a in arrays]  # of float16 and bfloat16; the others as they are
        xp = array_module(wide[0])
        arguments = self.arguments(
            wide[1:], numbers, [xp.empty_like(wide[0]) for _ in self.scratch]
        )
        self.kernel(xp, wide[0], widened(gradient._array), *arguments)
        for array, result in zip(arrays, wide):
            if array is not result:
                xp.copyto(array, result, casting="unsafe")
        parameter._bump()

    def _next_counts(self, parameter: Tensor, group: Group) -> tuple[float, ...]:
        """The counters of the parameter after one more step."""
        state = self.state.get(parameter) or {}
        if not self.counters:
            begun = all(state.get(name) is not None for name in self.arrays_in_use(group))
            return self.advance(group, float(begun))
        counts = [state.get(name, start) for name, start in self.counters.items()]
        return self.advance(group, *(_number(count) for count in counts))

    def _count(self, parameter: Tensor, group: Group) -> tuple[float, ...]:
        """Counts one more step in the parameter's state; returns the counters stored there."""
        counts = self._next_counts(parameter, group)
        if not self.counters:
            return counts
        state = self.state[parameter]
        for name, count in zip(self.counters, counts, strict=True):
            write_counter(state, name, count)
        return tuple(state[name]._array.item() for name in self.counters)

    def _state_arrays(self, parameter: Tensor, group: Group) -> tuple[Array | None, ...]:
        """The parameter's state, an array or None for each of `arrays`; missing ones are made."""
        names = self.arrays_in_use(group)
        state: dict[str, Any] = self.state[parameter] if names else {}
        for name in names:
            if state.get(name) is None:
                array, value = parameter._array, self.initial(group, name)
                with on_device_of(array):
                    state[name] = Tensor._wrap(array_module(array).full_like(array, value))
        return tuple(state[name]._array if name in names else None for name in self.arrays)

    # What other rings ask: gradient scaling, graphs, saving

    @property
    def _step_supports_amp_scaling(self) -> bool:
        return self._runner.skips(self)

    def _parts(self, slots: int) -> Any:
        return None if self._hooks else self._runner.parts(self, slots)

    def _settle(self) -> None:
        self._runner.settle(self)


def _number(count: Any) -> float:
    return float(count._array.item() if isinstance(count, Tensor) else count)


def counter_kind() -> str:
    """The letter of the dtype of a new counter: float32, unless the default dtype is float64."""
    return "d" if get_default_dtype() is float64 else "f"


def write_counter(state: dict[str, Any], name: str, value: float) -> None:
    """Sets a number of a parameter's state, a 0-dim tensor on the CPU, in place."""
    if not isinstance(state.get(name), Tensor):
        state[name] = Tensor._wrap(HOST.zeros((), counter_kind()))
    state[name]._array.fill(value)


def penalized(
    xp: Any, parameter: Array, gradient: Array, out: Array, weight_decay: Any, maximize: bool
) -> Array:
    """g + weight_decay · w, with -g for g where `maximize`; g itself where neither applies."""
    if weight_decay is not None:
        xp.multiply(parameter, weight_decay, out)
        return (xp.subtract if maximize else xp.add)(out, gradient, out)
    return xp.negative(gradient, out) if maximize else gradient
