"""GradScaler: a loss times a large number, so that small gradients of float16 do not become 0.

Source: https://docs.pytorch.org/docs/stable/amp.html#gradient-scaling
(Micikevicius et al., 2018, "Mixed precision training")
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from nanotorch.amp import scaling
from nanotorch.autograd.grad_mode import live
from nanotorch.backend import (
    array_module,
    cuda_unavailable_reason,
    device as Device,
    device_of,
    module_of,
    on_device,
    stored,
    to_device,
)
from nanotorch.tensor import Tensor

READY, UNSCALED, STEPPED = "ready", "unscaled", "stepped"
MADE = ("_scale", "_growth_tracker", "_progress")  # what a pickle makes anew


class Progress:
    """How far an optimizer is since the last update, and what its gradients showed."""

    def __init__(self) -> None:
        self.stage = READY
        self.unscaled_before = False  # the latest step
        self.overflows: dict[
            Device, Tensor
        ] = {}  # 0-dim float32 on each device: 1 if one is infinite

    def note(self, stage: str) -> None:
        """Notes what was done."""
        self.stage = stage


class GradScaler:
    """Scales losses by a number that grows while gradients stay finite and shrinks when they do
    not; a step with infinite gradients is skipped.

        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    device: "cuda" or "cpu". The scale starts at `init_scale`, is multiplied by `growth_factor`
    after `growth_interval` steps in a row without infinities, by `backoff_factor` after one with.
    On a CUDA device nothing waits: optimizers whose kernels are fused learn there whether to skip.
    ValueError for factors that do not grow or shrink.
    """

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        if device not in ("cuda", "cpu"):
            raise ValueError(f"GradScaler: expected device 'cuda' or 'cpu', got {device!r}")
        self._device, self._enabled = device, enabled
        if enabled and device == "cuda" and cuda_unavailable_reason() is not None:
            warnings.warn(
                "GradScaler: device 'cuda' was asked for, but CUDA is not available; disabling",
                stacklevel=2,
            )
            self._enabled = False
        if not growth_factor > 1.0:
            raise ValueError(f"GradScaler: expected growth_factor > 1, got {growth_factor}")
        if not backoff_factor < 1.0:
            raise ValueError(f"GradScaler: expected backoff_factor < 1, got {backoff_factor}")
        self._growth_factor, self._backoff_factor = growth_factor, backoff_factor
        self._growth_interval = growth_interval
        if self._enabled:
            self._start(float(init_scale), 0)

    def _start(self, scale: float, steps: int) -> None:
        """Makes what lives on the device: the scale, and how many steps had no infinities."""
        place = Device(self._device)
        with on_device(place):
            xp = module_of(place)
            self._scale = Tensor._wrap(xp.full((), scale, "f"))
            self._growth_tracker = Tensor._wrap(xp.full((), steps, "i"))
        self._progress: dict[int, tuple[Any, Progress]] = {}  # by the identity of the optimizer

    # --- the steps of a training step -------------------------------------------------------------

    def scale(self, outputs: Any) -> Any:
        """The outputs, a tensor or a (nested) list or tuple of them, times the scale."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, Tensor):
            scale = self._scale
            return outputs * (scale if scale.device == outputs.device else scale.to(outputs.device))
        if isinstance(outputs, list | tuple):
            return type(outputs)(self.scale(part) for part in outputs)
        if isinstance(outputs, Iterable):
            return map(self.scale, outputs)
        raise ValueError("GradScaler.scale: outputs must be a Tensor or an iterable of Tensors")

    def unscale_(self, optimizer: Any) -> None:
        """Divides the gradients of an optimizer by the scale, so that they can be clipped.

        RuntimeError where this was done since the last update, or after `step`.
        """
        if not self._enabled:
            return
        _unscale(optimizer, self)

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """`optimizer.step()` on unscaled gradients, unless one of them is infinite or NaN.

        Returns what the optimizer returns. RuntimeError for a second step before `update`, or with
        a closure.
        """
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if "closure" in kwargs or any(callable(a) for a in args):
            raise RuntimeError("GradScaler.step: closures are not supported; call step() without")
        return _step(optimizer, self, *args, **kwargs)

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """The scale for the next step: smaller after infinite gradients, else now and then larger;
        or `new_scale`."""
        if not self._enabled:
            return
        scale = self._scale
        if new_scale is None:
            _update(scale, self)
            return
        self._forget(self._overflows())
        with on_device(scale.device):
            if isinstance(new_scale, Tensor):
                scale._array[...] = to_device(new_scale._array, scale.device)
            else:
                scale._array.fill(float(new_scale))
        scale._bump()
        self._is_updated()

    # --- what it is like --------------------------------------------------------------------------

    def is_enabled(self) -> bool:
        """Whether it scales at all."""
        return self._enabled

    def get_scale(self) -> float:
        """The scale; waits for the device."""
        return float(self._scale.item()) if self._enabled else 1.0

    def get_growth_factor(self) -> float:
        """What the scale is multiplied by after enough steps without infinities."""
        return self._growth_factor

    def set_growth_factor(self, new_factor: float) -> None:
        """Sets what the scale is multiplied by after enough steps without infinities."""
        self._growth_factor = new_factor

    def get_backoff_factor(self) -> float:
        """What the scale is multiplied by after infinite gradients."""
        return self._backoff_factor

    def set_backoff_factor(self, new_factor: float) -> None:
        """Sets what the scale is multiplied by after infinite gradients."""
        self._backoff_factor = new_factor

    def get_growth_interval(self) -> int:
        """How many steps in a row without infinities let the scale grow."""
        return self._growth_interval

    def set_growth_interval(self, new_interval: int) -> None:
        """Sets how many steps in a row without infinities let the scale grow."""
        self._growth_interval = new_interval

    def state_dict(self) -> dict[str, Any]:
        """Scale, factors and count of steps, for a checkpoint; empty where disabled."""
        if not self._enabled:
            return {}
        return {
            "scale": self.get_scale(),
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": self._growth_tracker.item(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a state; RuntimeError for an empty one, which a disabled scaler gives."""
        if not self._enabled:
            return
        if not state_dict:
            raise RuntimeError(
                "GradScaler.load_state_dict: the state is empty, probably of a disabled GradScaler"
            )
        self._growth_factor = state_dict["growth_factor"]
        self._backoff_factor = state_dict["backoff_factor"]
        self._growth_interval = state_dict["growth_interval"]
        with on_device(self._scale.device):
            self._scale._array.fill(float(state_dict["scale"]))
            self._growth_tracker._array.fill(int(state_dict["_growth_tracker"]))
        self._scale._bump()

    def __getstate__(self) -> dict[str, Any]:
        if self._enabled and any(p.stage is not READY for _, p in self._progress.values()):
            raise RuntimeError("GradScaler: pickle it between update() and the next step")
        kept = {k: v for k, v in vars(self).items() if k not in MADE}
        return {"fields": kept, "state": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state["fields"])
        if self._enabled:
            self._start(state["state"]["scale"], state["state"]["_growth_tracker"])

    # --- what these share -------------------------------------------------------------------------

    def _is_updated(self) -> None:
        for _, progress in self._progress.values():
            progress.stage = READY

    def _of(self, optimizer: Any) -> Progress:
        return self._progress.setdefault(id(optimizer), (optimizer, Progress()))[1]

    def _check(self, optimizer: Any, divide: bool) -> None:
        """Notes for each device whether a gradient is infinite; and divides them by the scale."""
        progress, scale = self._of(optimizer), self._scale
        by_device: dict[Device, list[Any]] = {}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter._grad is None:
                    continue
                gradient = stored(parameter._grad._array)
                if divide and gradient.dtype.char == "e":
                    raise ValueError("Attempting to unscale FP16 gradients.")
                by_device.setdefault(device_of(gradient), []).append(gradient)
                if divide:
                    parameter._grad._bump()
        for place, gradients in by_device.items():
            with on_device(place):
                xp = array_module(gradients[0])
                if place not in progress.overflows:
                    progress.overflows[place] = Tensor._wrap(xp.zeros((), "f"))
                overflow = progress.overflows[place]._array
                scaling.unscale(
                    xp, gradients, to_device(scale._array, place) if divide else None, overflow
                )
        for place in progress.overflows.keys() - by_device.keys():
            del progress.overflows[place]
        if not progress.overflows:
            raise RuntimeError("GradScaler: the optimizer has no gradients to look at")

    def _overflows(self) -> list[Any]:
        return [t._array for _, p in self._progress.values() for t in p.overflows.values()]

    def _grow(self) -> None:
        """The next scale, by what the optimizers' latest gradients showed."""
        scale, steps = self._scale, self._growth_tracker
        overflows = self._overflows()
        with on_device(scale.device):
            xp = array_module(scale._array)
            worst = to_device(overflows[0], scale.device)
            for other in overflows[1:]:
                worst = xp.maximum(worst, to_device(other, scale.device))
            factors = self._growth_factor, self._backoff_factor, self._growth_interval
            scaling.grow(xp, scale._array, steps._array, worst, *factors)
        self._forget(array for array in overflows if array is not worst)
        scale._bump()

    @staticmethod
    def _forget(overflows: Iterable[Any]) -> None:
        for array in overflows:
            with on_device(device_of(array)):
                array.fill(0)

    @contextlib.contextmanager
    def _given_to(self, optimizer: Any, unscaled: bool) -> Iterator[None]:
        """Within it the optimizer's own kernels divide by the scale, and skip an infinite step."""
        overflow = next(iter(self._of(optimizer).overflows.values()))
        optimizer.grad_scale = None if unscaled else self._scale
        optimizer.found_inf = overflow
        try:
            yield
        finally:
            optimizer.grad_scale = optimizer.found_inf = None


# --- calls that a compiled step makes again at each replay: their owner comes first ---------------


class Parts:
    """A call for a CUDA graph, taken apart: what the host notes at each replay, and launches."""

    def __init__(self, note: Callable[[], None], launches: Callable[[], None]) -> None:
        self.note, self.launches = note, launches

    def holds(self) -> bool:
        """Whether its launches do what the call would do now."""
        return True

    def advance(self, slot: int = 0) -> None:
        """Notes one more call."""
        self.note()

    def send(self) -> None:
        """Nothing of it has to be brought to the device."""

    def launch(self, slot: int = 0) -> None:
        """Does on the device what the call does."""
        self.launches()


class StepParts(Parts):
    """A step of a fused optimizer, which has parts itself."""

    def __init__(self, scaler: GradScaler, optimizer: Any, slots: int) -> None:
        progress = scaler._of(optimizer)
        unscaled = progress.unscaled_before
        super().__init__(
            lambda: progress.note(STEPPED),
            lambda: None if unscaled else scaler._check(optimizer, divide=False),
        )
        with scaler._given_to(optimizer, unscaled):
            self.own = optimizer._parts(slots)

    def holds(self) -> bool:
        return bool(self.own.holds())

    def advance(self, slot: int = 0) -> None:
        super().advance(slot)
        self.own.advance(slot)

    def send(self) -> None:
        """Brings the numbers of the steps to the device."""
        self.own.send()

    def launch(self, slot: int = 0) -> None:
        super().launch(slot)
        self.own.launch(slot)


def obeys(optimizer: Any) -> bool:
    """Whether the optimizer itself can skip a step, without a wait: on one device, and fused."""
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        return False
    gradients = [p._grad for group in optimizer.param_groups for p in group["params"]]
    return len({device_of(g._array) for g in gradients if g is not None}) == 1


def _unscale_now(optimizer: Any, scaler: GradScaler) -> None:
    progress = scaler._of(optimizer)
    if progress.stage is UNSCALED:
        raise RuntimeError(
            "unscale_() has already been called on this optimizer since the last update()."
        )
    if progress.stage is STEPPED:
        raise RuntimeError("unscale_() is being called after step().")
    scaler._check(optimizer, divide=True)
    progress.note(UNSCALED)


def _unscale_parts(optimizer: Any, scaler: GradScaler, slots: int = 1) -> Parts:
    progress = scaler._of(optimizer)
    return Parts(lambda: progress.note(UNSCALED), lambda: scaler._check(optimizer, divide=True))


def _step_now(optimizer: Any, scaler: GradScaler, *args: Any, **kwargs: Any) -> Any:
    progress = scaler._of(optimizer)
    if progress.stage is STEPPED:
        raise RuntimeError("step() has already been called since the last update().")
    progress.unscaled_before = unscaled = progress.stage is UNSCALED
    if obeys(optimizer):
        if not unscaled:
            scaler._check(optimizer, divide=False)
        with scaler._given_to(optimizer, unscaled):
            result = optimizer.step(*args, **kwargs)
    else:
        if not unscaled:
            scaler._check(optimizer, divide=True)
        overflowed = any(overflow.item() for overflow in progress.overflows.values())
        result = None if overflowed else optimizer.step(*args, **kwargs)
    progress.note(STEPPED)
    return result


def _step_parts(optimizer: Any, scaler: GradScaler, *args: Any, slots: int = 1) -> Parts | None:
    if args or not obeys(optimizer):
        return None
    parts = StepParts(scaler, optimizer, slots)
    return None if parts.own is None else parts


def _update_now(scale: Tensor, scaler: GradScaler) -> None:
    if all(progress.stage is READY for _, progress in scaler._progress.values()):
        raise RuntimeError("GradScaler.update: no step was made since the last update")
    scaler._grow()
    scaler._is_updated()


def _update_parts(scale: Tensor, scaler: GradScaler, slots: int = 1) -> Parts:
    return Parts(scaler._is_updated, scaler._grow)


def _live(call: Callable[..., Any], parts: Callable[..., Parts | None]) -> Callable[..., Any]:
    vars(call)["parts"] = parts
    return live(call)


_unscale = _live(_unscale_now, _unscale_parts)
_step = _live(_step_now, _step_parts)
_update = _live(_update_now, _update_parts)
