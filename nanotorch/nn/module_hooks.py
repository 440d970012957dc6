"""The hooks of one module, and a call that runs them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from nanotorch.nn.backward_hooks import BackwardHooks
from nanotorch.node import RemovableHandle


class Hook:
    """A function that was registered, and how it is to be called."""

    def __init__(self, function: Callable[..., Any], with_kwargs: bool, always_call: bool) -> None:
        self.function, self.with_kwargs, self.always_call = function, with_kwargs, always_call


class ModuleHooks:
    """Hooks by kind, each kind in the order of calling."""

    def __init__(self) -> None:
        self.forward_pre: OrderedDict[int, Hook] = OrderedDict()
        self.forward: OrderedDict[int, Hook] = OrderedDict()
        self.backward_pre: OrderedDict[int, Hook] = OrderedDict()
        self.backward: OrderedDict[int, Hook] = OrderedDict()

    def register(
        self,
        kind: str,
        function: Callable[..., Any],
        prepend: bool = False,
        with_kwargs: bool = False,
        always_call: bool = False,
    ) -> RemovableHandle:
        """Adds a hook at the end of its kind, or at the start with `prepend`."""
        hooks: OrderedDict[int, Any] = getattr(self, kind)
        handle = RemovableHandle(hooks, Hook(function, with_kwargs, always_call))
        if prepend:
            hooks.move_to_end(handle.id, last=False)
        return handle

    def call(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """`module.forward` with the hooks before, after, and in the backward pass."""
        called: set[int] = set()
        try:
            for hook in list(self.forward_pre.values()):
                args, kwargs = _before(hook, module, args, kwargs)
            watch = None
            if self.backward or self.backward_pre:
                watch = BackwardHooks(
                    module,
                    [hook.function for hook in self.backward_pre.values()],
                    [hook.function for hook in self.backward.values()],
                )
                args = watch.enter(args)
            output = module.forward(*args, **kwargs)
            for key, hook in list(self.forward.items()):
                called.add(key)
                output = _after(hook, module, args, kwargs, output)
            return output if watch is None else watch.leave(output)
        except Exception:
            for key, hook in list(self.forward.items()):
                if hook.always_call and key not in called:
                    _after(hook, module, args, kwargs, None)
            raise


def _before(
    hook: Hook, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if hook.with_kwargs:
        result = hook.function(module, args, kwargs)
        if result is None:
            return args, kwargs
        if not (isinstance(result, tuple) and len(result) == 2):
            raise RuntimeError(
                "forward pre-hook: expected None or a tuple (args, kwargs) to be returned, "
                f"got {type(result).__name__}"
            )
        return result
    result = hook.function(module, args)
    if result is None:
        return args, kwargs
    return (result if isinstance(result, tuple) else (result,)), kwargs


def _after(
    hook: Hook, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> Any:
    if hook.with_kwargs:
        result = hook.function(module, args, kwargs, output)
    else:
        result = hook.function(module, args, output)
    return output if result is None else result
