"""L-BFGS (Nocedal, 1980), with the strong-Wolfe line search of Nocedal and Wright (2006)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from nanotorch.autograd.grad_mode import enable_grad
from nanotorch.backend import (
    CPU,
    HOST,
    Array,
    array_module,
    dense,
    device_of,
    on_device_of,
    to_device,
)
from nanotorch.backend.silence import silent
from nanotorch.optim.groups import Parameters, options_of
from nanotorch.optim.optimizer import Optimizer
from nanotorch.tensor import Tensor


class Trial(NamedTuple):
    """A point on the search line: step length, loss, gradient there, and slope along the line."""

    t: float
    loss: float
    gradient: Array
    slope: float


class LBFGS(Optimizer):
    """w ← w + t · d, with d = -H g and H the inverse Hessian as the last steps suggest it.

    One call of `step(closure)` makes up to `max_iter` iterations and `max_eval` evaluations of the
    closure (default 1.25 · max_iter), and stops early where the largest gradient entry is at most
    `tolerance_grad`, or where the step or the loss changes by less than `tolerance_change`.
    `line_search_fn`: None takes steps of length `lr` (the first: lr · min(1, 1 / |g|₁)),
    "strong_wolfe" searches for t from there. All parameters form one vector: one group, one dtype,
    one device; those that require no gradient stay as they are. State (under the first parameter),
    as PyTorch names it: "func_evals", "n_iter", "d", "t", "old_dirs", "old_stps", "ro", "H_diag",
    "prev_flat_grad", "prev_loss".
    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.LBFGS.html

    Raises ValueError for a negative lr, several groups, or an unknown line search.
    """

    def __init__(
        self, params: Parameters, lr: float = 1, max_iter: int = 20, max_eval: int | None = None,
        tolerance_grad: float = 1e-7, tolerance_change: float = 1e-9, history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:  # fmt: skip
        options = options_of(locals(), "lr")
        if line_search_fn not in (None, "strong_wolfe"):
            raise ValueError(
                f"LBFGS: expected line_search_fn None or 'strong_wolfe', got {line_search_fn!r}"
            )
        if max_eval is None:
            options["max_eval"] = max_iter * 5 // 4
        super().__init__(params, options)
        if len(self.param_groups) != 1:
            raise ValueError(
                f"LBFGS: expected one parameter group, got {len(self.param_groups)}; "
                "it treats all parameters as one vector"
            )

    _history: _History | None = None  # of the last step, unless its state was loaded since

    # The parameters as one vector

    def _place(self) -> Array:
        """The values of all parameters in one vector, which is a copy."""
        return _joined([parameter._array for parameter in self.param_groups[0]["params"]])

    def _gradient(self) -> Array:
        """The gradients of all parameters in one vector, zeros where there is none."""
        parameters = self.param_groups[0]["params"]
        zeros = array_module(parameters[0]._array).zeros_like
        return _joined(
            [zeros(p._array) if p._grad is None else dense(p._grad._array) for p in parameters]
        )

    def _move(self, place: Array) -> None:
        """Writes a vector into the parameters that require a gradient."""
        position = 0
        for parameter in self.param_groups[0]["params"]:
            array = parameter._array
            end = position + array.size
            if parameter.requires_grad:
                array[...] = place[position:end].reshape(array.shape)
                parameter._bump()
            position = end

    @silent
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Iterates until a limit or tolerance is met, and returns the first loss.

        `closure` (needed) clears the gradients, computes the loss and its gradients, and returns
        the loss.
        """
        if self._hooks:
            closure = self._before_step(closure)
        if closure is None:
            raise TypeError(
                "LBFGS.step needs a closure that returns the loss, since it asks for it often"
            )
        self._step_count += 1
        with on_device_of(self.param_groups[0]["params"][0]._array), enable_grad():
            first = self._iterate(closure)
        if self._hooks:
            self._after_step(closure)
        return first

    def _iterate(self, closure: Callable[[], Any]) -> Any:
        group = self.param_groups[0]
        parameters, lr = group["params"], float(group["lr"])
        tolerance, least_change = group["tolerance_grad"], group["tolerance_change"]
        state = self.state[parameters[0]]
        state.update(func_evals=state.get("func_evals", 0), n_iter=state.get("n_iter", 0))

        first = closure()
        loss, gradient = float(first), self._gradient()
        evaluations = 1
        state["func_evals"] += 1
        if _largest(gradient) <= tolerance:
            return first

        history = self._history
        if history is None or not history.is_of(state):
            history = _History(state)
        history.size = group["history_size"]
        self._history = history
        direction = None if state.get("d") is None else state["d"]._array
        previous = None if state.get("prev_flat_grad") is None else state["prev_flat_grad"]._array
        t, previous_loss = float(state.get("t", lr)), state.get("prev_loss", loss)
        iterations = 0
        while iterations < group["max_iter"]:
            iterations += 1
            state["n_iter"] += 1
            if direction is None or previous is None or state["n_iter"] == 1:
                direction = -gradient
                t = min(1.0, 1.0 / float(abs(gradient).sum())) * lr
            else:
                history.add(gradient - previous, direction * t)
                direction = history.direction(gradient)
                t = lr
            previous, previous_loss = gradient, loss
            slope = _dot(gradient, direction)
            if slope > -least_change:
                break
            start, length = self._place(), _largest(direction)
            used = 0
            if group["line_search_fn"] is not None:
                line, latest = direction, 0.0

                def trial(t: float) -> Trial:
                    nonlocal latest
                    latest = t
                    self._move(start + t * line)  # noqa: B023 - called within this iteration only
                    loss, gradient = float(closure()), self._gradient()
                    return Trial(t, loss, gradient, _dot(gradient, line))  # noqa: B023

                begin = Trial(0.0, loss, gradient, slope)
                limit = group["max_eval"] - evaluations
                point, used = strong_wolfe(trial, begin, t, length, limit)
                t, loss, gradient, _ = point
                if t != latest:
                    self._move(start + t * direction)
            else:
                self._move(start + t * direction)
                if iterations != group["max_iter"]:  # the last one's loss would not be used
                    loss, gradient, used = float(closure()), self._gradient(), 1
            evaluations += used
            state["func_evals"] += used
            if (
                iterations == group["max_iter"]
                or evaluations >= group["max_eval"]
                or _largest(gradient) <= tolerance
                or length * abs(t) <= least_change
                or abs(loss - previous_loss) < least_change
            ):
                break
        history.save(state)
        wrap = Tensor._wrap
        state.update(d=wrap(direction), t=t, prev_flat_grad=wrap(previous), prev_loss=previous_loss)
        return first


class _History:
    """The last changes of parameters (s) and of gradient (y), which define the inverse Hessian

    H = γ I + [S, γ Y] [[R⁻ᵀ (D + γ Yᵀ Y) R⁻¹, -R⁻ᵀ], [-R⁻¹, 0]] [S, γ Y]ᵀ, where R is the upper
    triangle of Sᵀ Y and D its diagonal: two products with all vectors at once, where the two-loop
    recursion has four with each. Source: Byrd, Nocedal and Schnabel (1994), theorem 2.2.
    """

    def __init__(self, state: dict[str, Any]) -> None:
        self.size = len(state.get("old_dirs") or ())  # how many pairs there may be
        self.scale = float(state.get("H_diag", 1.0))  # γ
        self.first = self.count = 0  # the pairs in use, oldest first; behind them is room for more
        self.pairs: Array = None  # (room, 2, parameters): s and y
        self.sy = self.yy = HOST.zeros((0, 0))  # their products; of sy those of s no newer than y
        self.saved: Any = None
        for y, s in zip(state.get("old_dirs") or (), state.get("old_stps") or ()):
            self._append(y._array, s._array)

    def is_of(self, state: dict[str, Any]) -> bool:
        """Whether the state is the one that was saved here last."""
        return self.saved is not None and self.saved is state.get("old_dirs")

    def save(self, state: dict[str, Any]) -> None:
        used = slice(self.first, self.first + self.count)
        pairs = () if self.pairs is None else self.pairs[used]
        self.saved = state["old_dirs"] = [Tensor._wrap(pair[1]) for pair in pairs]
        state["old_stps"] = [Tensor._wrap(pair[0]) for pair in pairs]
        state["ro"] = (1.0 / self.sy.diagonal()[used]).tolist()
        state["H_diag"] = self.scale

    def add(self, y: Array, s: Array) -> None:
        """Takes a pair in, unless the curvature along it is not safely positive."""
        self._append(y, s)
        last = self.first + self.count - 1
        curvature = float(self.sy[last, last])
        if not curvature > 1e-10:  # NaN is not either
            self.count -= 1
            return
        self.scale = curvature / float(self.yy[last, last])
        if self.count > self.size:
            self.first, self.count = last + 1 - self.size, self.size

    def _append(self, y: Array, s: Array) -> None:
        last = self.first + self.count
        if last == len(self.sy):
            self._make_room(y)
            last = self.count
        self.count += 1
        self.pairs[last, 0], self.pairs[last, 1] = s, y
        # Row by row, so that the bits are the same when the pairs come from a saved state.
        used = slice(self.first, last + 1)
        products = _on_host(self.pairs[used, :, None] @ y)
        self.sy[used, last] = products[:, 0, 0]
        self.yy[used, last] = self.yy[last, used] = products[:, 1, 0]

    def _make_room(self, vector: Array) -> None:
        """Moves the pairs in use to the front, of twice the room at most."""
        used = slice(self.first, self.first + self.count)
        room = min(max(8, 2 * self.count), self.size + self.size // 4 + 1)
        xp = array_module(vector)
        sources = self.pairs, self.sy, self.yy
        self.pairs = xp.empty((room, 2, vector.size), vector.dtype)
        self.sy, self.yy = HOST.zeros((2, room, room))
        if self.count:
            self.pairs[: self.count] = sources[0][used]
            self.sy[: self.count, : self.count] = sources[1][used, used]
            self.yy[: self.count, : self.count] = sources[2][used, used]
        self.first = 0

    def direction(self, gradient: Array) -> Array:
        """-H g"""
        if not self.count:
            return gradient * -self.scale
        used = slice(self.first, self.first + self.count)
        pairs = self.pairs[used].reshape(2 * self.count, -1)
        products = _on_host(pairs @ gradient).reshape(self.count, 2)
        sy, scale = self.sy[used, used], self.scale
        inverse = HOST.linalg.inv(sy)
        u = inverse @ products[:, 0]
        v = sy.diagonal() * u + scale * (self.yy[used, used] @ u - products[:, 1])
        factors = HOST.empty((self.count, 2), gradient.dtype)
        factors[:, 0], factors[:, 1] = -(v @ inverse), scale * u
        d = to_device(factors.reshape(-1), device_of(gradient)) @ pairs
        d -= scale * gradient
        return d


def strong_wolfe(
    trial: Callable[[float], Trial], start: Trial, t: float, length: float, limit: int,
    decrease: float = 1e-4, curvature: float = 0.9, least_change: float = 1e-9,
) -> tuple[Trial, int]:  # fmt: skip
    """A step length at which the loss falls by `decrease` and the slope to `curvature`.

    First brackets such a point, then narrows the bracket by cubic interpolation, with at most
    `limit` evaluations in the second place. `length` is the largest entry of the direction; a
    bracket that moves no parameter by `least_change` ends the search, as in PyTorch whatever the
    optimizer's `tolerance_change` is. Returns the point and the number of evaluations. Source:
    Nocedal and Wright, algorithms 3.5 and 3.6, with the safeguards of minFunc.
    """

    def too_high(point: Trial) -> bool:
        return point.loss > start.loss + decrease * point.t * start.slope

    def flat_enough(point: Trial) -> bool:
        return abs(point.slope) <= -curvature * start.slope

    previous, point = start, trial(t)
    evaluations, searches = 1, 0
    done = False
    bracket: list[Trial] = []
    while searches < limit:
        if too_high(point) or (searches > 1 and point.loss >= previous.loss):
            bracket = [previous, point]
            break
        if flat_enough(point):
            return point, evaluations
        if point.slope >= 0:
            bracket = [previous, point]
            break
        nearest, farthest = point.t + 0.01 * (point.t - previous.t), point.t * 10
        t = cubic_minimum(previous, point, (nearest, farthest))
        previous, point = point, trial(t)
        evaluations += 1
        searches += 1
    if not bracket:
        bracket = [start, point]

    low, high = (0, 1) if bracket[0].loss <= bracket[1].loss else (1, 0)
    stuck = False
    while not done and searches < limit:
        left, right = sorted((bracket[0].t, bracket[1].t))
        if (right - left) * length < least_change:
            break
        t = cubic_minimum(bracket[0], bracket[1])
        margin = 0.1 * (right - left)
        if min(right - t, t - left) < margin:
            # A second trial close to an end, or one at an end, is moved inwards.
            if stuck or t >= right or t <= left:
                t = right - margin if abs(t - right) < abs(t - left) else left + margin
                stuck = False
            else:
                stuck = True
        else:
            stuck = False
        point = trial(t)
        evaluations += 1
        searches += 1
        if too_high(point) or point.loss >= bracket[low].loss:
            bracket[high] = point
            low, high = (0, 1) if bracket[0].loss <= bracket[1].loss else (1, 0)
        else:
            if flat_enough(point):
                done = True
            elif point.slope * (bracket[high].t - bracket[low].t) >= 0:
                bracket[high] = bracket[low]
            bracket[low] = point
    return bracket[low], evaluations


def cubic_minimum(a: Trial, b: Trial, bounds: tuple[float, float] | None = None) -> float:
    """Where the cubic through two points with their slopes is least, within `bounds`.

    The middle of the bounds where the cubic has no minimum, or is NaN. Source: Nocedal and Wright,
    equation 3.59.
    """
    if a.t == b.t:
        return a.t
    if a.t > b.t:
        a, b = b, a
    low, high = bounds if bounds is not None else (a.t, b.t)
    d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t)
    square = d1 * d1 - a.slope * b.slope
    if not square >= 0:  # which NaN is not either
        return (low + high) / 2
    d2 = math.sqrt(square)
    numerator, denominator = b.slope + d2 - d1, b.slope - a.slope + 2 * d2
    if denominator == 0:  # a straight line falls without end, to one side
        return high if numerator < 0 else low if numerator > 0 else (low + high) / 2
    return min(max(b.t - (b.t - a.t) * (numerator / denominator), low), high)


def _joined(arrays: list[Array]) -> Array:
    return array_module(arrays[0]).concatenate([array.reshape(-1) for array in arrays])


def _on_host(products: Array) -> Array:
    """Products of vectors for the few operations among them, in float64."""
    host = to_device(products, CPU)
    return host if host.dtype.char == "d" else host.astype("d")


def _dot(a: Array, b: Array) -> float:
    return float(a @ b)


def _largest(a: Array) -> float:
    return float(abs(a).max())
