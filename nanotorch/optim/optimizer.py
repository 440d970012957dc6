"""What every optimizer shares: parameter groups, state, hooks, and the walk of one step.

An algorithm is one function of raw arrays, `kernel(xp, parameter, gradient, *state, *scratch,
*numbers)`, which updates in place and makes no temporaries. A subclass says in `_arrays` which
state its kernel gets and in `_numbers` which numbers; the rest is here. Numbers travel as 0-dim
arrays that are rewritten in place when they change: NumPy takes them faster than Python floats, and
a recorded step can be replayed with new ones.

On CUDA devices a step has two parts (device_step.py): the host counts it and brings its numbers to
the device, then kernels are launched. A CUDA graph holds the launches alone, and whoever replays it
does the host's part before, so that rates, schedules and step counts stay live. A live method says
with `in_parts` how it is taken apart:

    make = getattr(method, "parts", None)          # None: all of the method is launches
    parts = make(owner, *args, **kwargs)           # None: it cannot be taken apart
    parts.launch(k)                                # captured once for each step k of a launch
    parts.holds(); parts.advance(k); parts.send()  # before each replay: check; each k; all at once

`parts` is asked for after the method has run once and while the parameters have the gradients that
it is to read; `parts(…, slots=K)` makes room for the numbers of K steps.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any, ClassVar, TypeVar

from nanotorch.autograd.grad_mode import enable_grad, live
from nanotorch.backend import (
    HOST,
    Array,
    array_module,
    device_of,
    keep_freed_memory,
    on_device,
    on_device_of,
)
from nanotorch.node import RemovableHandle
from nanotorch.optim.device_step import DeviceStep, Skips, fuses, members_of
from nanotorch.optim.host_step import HostGroup
from nanotorch.optim.numbers import Numbers
from nanotorch.optim.saving import Saved
from nanotorch.optim.state import coming_step, next_step
from nanotorch.tensor import Tensor

Method = TypeVar("Method", bound=Callable[..., Any])
Parameters = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


def in_parts(make: Callable[..., Any]) -> Callable[[Method], Method]:
    """Notes on a live method how it is taken apart into a part for the host and one of launches."""

    def mark(method: Method) -> Method:
        vars(method)["parts"] = make
        return method

    return mark


class Optimizer(Saved):
    """Holds parameter groups and updates their parameters from their gradients.

    `params`: tensors, (name, tensor) pairs, or dictionaries with the key "params" and options that
    override `defaults` for their group. Order matters, so sets are refused.

    Raises TypeError for anything but tensors in an ordered collection, ValueError for an empty
    collection, a non-leaf tensor, or a parameter that appears in two groups.
    """

    scratches: ClassVar[int] = 1  # scratch arrays of the parameter's shape that the kernel takes
    counts_steps: ClassVar[bool] = True  # in state["step"]; else only the first step may differ
    # The options of a group that its numbers and its state follow from; None: not known.
    options: ClassVar[itemgetter[Any] | None] = None
    # Whether the kernel treats each element alike, by the functions of single.py on arrays alone.
    elementwise: ClassVar[bool] = False
    cuda_kernel: ClassVar[str] = ""  # the same in backend/cuda/optimizers.cu, if there is one

    # Set by a gradient scaler around a step on CUDA devices: see DeviceStep.
    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None

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

    def __init_subclass__(cls) -> None:
        if "kernel" in vars(cls):  # what was said of an inherited one holds no longer
            cls.cuda_kernel = vars(cls).get("cuda_kernel", "")
            cls.elementwise = vars(cls).get("elementwise", False)

    def _start(self) -> None:
        super()._start()
        self._step_count = 0
        self._host_groups: list[HostGroup] = []
        self._scratch: dict[Any, list[Array]] = {}
        self._device_step: DeviceStep | None = None
        self._counted_skips: Skips | None = None

    # Groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group: a dict of "params" (a tensor or an ordered collection) and options."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        params = param_group["params"]
        if isinstance(params, set | frozenset):
            raise TypeError(
                "optimizer parameters need an ordered collection, but got a set, whose order "
                "changes between runs; use a list"
            )
        given = [params] if isinstance(params, Tensor) else list(params)
        names = [entry[0] for entry in given if isinstance(entry, tuple)]
        if names and len(names) != len(given):
            raise ValueError(
                "optimizer params should all have names or all have none, "
                f"but {len(names)} of {len(given)} do"
            )
        parameters = [entry[1] if isinstance(entry, tuple) else entry for entry in given]
        param_group["params"] = parameters
        if names:
            param_group["param_names"] = names
        for parameter in parameters:
            if not isinstance(parameter, Tensor):
                raise TypeError(
                    "optimizer can only optimize Tensors, "
                    f"but one of the params is {type(parameter).__name__}"
                )
            if not (parameter.is_leaf or parameter.retains_grad):
                raise ValueError("can't optimize a non-leaf Tensor")
        for option, default in self.defaults.items():
            param_group.setdefault(option, default)
        if len({id(parameter) for parameter in parameters}) != len(parameters):
            warnings.warn(
                "optimizer contains a parameter group with duplicate parameters; "
                "each is updated once for every time it is listed",
                stacklevel=3,
            )
        held = {id(parameter) for group in self.param_groups for parameter in group["params"]}
        if any(("param_names" in group) != bool(names) for group in self.param_groups):
            raise ValueError("all optimizer param groups should have names, or none of them")
        if any(id(parameter) in held for parameter in parameters):
            raise ValueError("some parameters appear in more than one parameter group")
        self.param_groups.append(param_group)

    @live
    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drops the gradients of all parameters, or fills them with zeros unless `set_to_none`."""
        for group in self.param_groups:
            if set_to_none:
                for parameter in group["params"]:
                    parameter._grad = None
                continue
            for parameter in group["params"]:
                gradient = parameter._grad
                if gradient is None:
                    continue
                if gradient.grad_fn is not None:
                    gradient.detach_()
                with on_device_of(gradient._array):
                    gradient._array.fill(0)
                gradient._bump()

    # One step

    @live
    @in_parts(lambda self, closure=None, slots=1: self._parts(slots))
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
        groups = self._host_groups
        while len(groups) < len(self.param_groups):
            groups.append(HostGroup())
        elsewhere = False
        for group, own in zip(self.param_groups, groups):
            if own.group is not group:  # as after load_state_dict
                own.begin(group)
            elsewhere |= own.run(self)
        if elsewhere:
            self._step_on_devices()
        if self._hooks:
            self._after_step(closure)
        return loss

    def _step_on_devices(self) -> None:
        """The step of the parameters on CUDA devices."""
        parts, scale, found_inf = self._device_step, self.grad_scale, self.found_inf
        if (
            parts is None
            or (parts.found_inf is None) != (found_inf is None)
            or not parts.is_for(members_of(self))
            or not parts.holds()
        ):
            parts = self._device_step = DeviceStep(self, 1, scale, found_inf)
        parts.grad_scale, parts.found_inf = scale, found_inf
        parts.step()

    def _parts(self, slots: int) -> DeviceStep | None:
        """The step of the parameters that have gradients now, in two parts; None with hooks."""
        return None if self._hooks else DeviceStep(self, slots, self.grad_scale, self.found_inf)

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether `step` obeys `grad_scale` and `found_inf`: all parameters with gradients are on
        CUDA devices, and fused kernels update them."""
        arrays = [
            parameter._array
            for group in self.param_groups
            for parameter in group["params"]
            if parameter._grad is not None
        ]
        return all(array_module(a) is not HOST and fuses(self, a) for a in arrays)

    @property
    def _skips(self) -> Skips:
        """The counts of skipped steps on the devices, for the parameters of now."""
        count = sum(len(group["params"]) for group in self.param_groups)
        skips = self._counted_skips
        if skips is None or len(skips.index) != count:
            self._settle()
            skips = self._counted_skips = Skips(self)
        return skips

    def _settle(self) -> None:
        """Takes the steps that devices skipped off the step counts."""
        if self._counted_skips is not None:
            self._counted_skips.settle(self.state)

    def _next_step(self, parameter: Tensor, group: dict[str, Any]) -> float:
        """Counts one more step of the parameter and returns the new count."""
        return next_step(self.state[parameter])

    def _coming_step(self, parameter: Tensor, group: dict[str, Any]) -> float:
        """What `_next_step` will return."""
        return coming_step(self.state[parameter])

    def _arrays(self, parameter: Tensor, group: dict[str, Any]) -> tuple[Array | None, ...]:
        """The state arrays for the kernel; made at the first step, after it was counted."""
        raise self._undefined()

    def _stateless(self, group: dict[str, Any]) -> bool:
        """Whether the group's options make no use of state, nor of the number of a step."""
        return False

    def _numbers(self, group: dict[str, Any], step: float) -> Numbers:
        """The numbers for the kernel, of the `step`-th step of a parameter of the group."""
        raise self._undefined()

    def _flags(self, state: tuple[Array | None, ...], numbers: Numbers) -> int:
        """What the kernel on CUDA devices is to do: 1, to maximize, and flags of its own."""
        return int(bool(numbers[-1]))

    def _numbers_of_steps(self, group: dict[str, Any], step: float) -> Numbers:
        """From what the kernel on CUDA devices finds its numbers where it has skipped steps."""
        return ()

    @staticmethod
    def kernel(*arguments: Any) -> None:
        """One update, in place."""
        raise NotImplementedError(
            "an optimizer without a step of its own defines kernel, which updates one parameter"
        )

    def _undefined(self) -> NotImplementedError:
        return NotImplementedError(
            f"{type(self).__name__} defines neither step nor kernel, _arrays and _numbers"
        )

    def _scratch_for(self, array: Array, count: int | None = None) -> tuple[Array, ...]:
        """Scratch arrays like `array`; parameters are updated in turn, so all share one memory."""
        wanted = self.scratches if count is None else count
        flats = self._scratch.setdefault((array.dtype, device_of(array)), [])
        with on_device(device_of(array)):
            for i in range(wanted):
                if i == len(flats) or flats[i].size < array.size:
                    flats[i : i + 1] = [array_module(array).empty(array.size, dtype=array.dtype)]
        return tuple(flat[: array.size].reshape(array.shape) for flat in flats[:wanted])

    # Hooks

    def _before_step(self, closure: Callable[[], Any] | None) -> Callable[[], Any] | None:
        args: tuple[Any, ...] = (self,) if closure is None else (self, closure)
        kwargs: dict[str, Any] = {}
        for hook in list(self._hooks.get("step_pre", {}).values()):
            changed = hook(self, args, kwargs)
            if changed is not None:
                args, kwargs = changed
        return args[1] if len(args) > 1 else kwargs.get("closure")

    def _after_step(self, closure: Callable[[], Any] | None) -> None:
        args = (self,) if closure is None else (self, closure)
        for hook in list(self._hooks.get("step_post", {}).values()):
            hook(self, args, {})

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Calls `hook(optimizer, args, kwargs)` before each step; may return new (args, kwargs)."""
        return self._register("step_pre", hook)

    def register_step_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Calls `hook(optimizer, args, kwargs)` after each step."""
        return self._register("step_post", hook)

    def __repr__(self) -> str:
        groups = []
        for index, group in enumerate(self.param_groups):
            options = [f"    {key}: {group[key]}\n" for key in sorted(group) if key != "params"]
            groups.append(f"\nParameter Group {index}\n" + "".join(options))
        return f"{type(self).__name__} ({''.join(groups)})"


def check_hyperparameters(name: str, **values: float) -> None:
    """ValueError for a negative (or NaN) hyperparameter, in words that name it."""
    for option, value in values.items():
        if not float(value) >= 0.0:
            raise ValueError(f"{name}: expected {option} >= 0, got {value}")


def penalized(
    xp: Any, parameter: Array, gradient: Array, out: Array, weight_decay: Any, maximize: bool
) -> Array:
    """g + weight_decay · w, with -g for g where `maximize`; g itself where neither applies."""
    if weight_decay is not None:
        xp.multiply(parameter, weight_decay, out)
        return (xp.subtract if maximize else xp.add)(out, gradient, out)
    return xp.negative(gradient, out) if maximize else gradient
