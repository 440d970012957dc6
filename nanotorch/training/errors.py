"""The two ways a run ends with a message instead of a result."""

from __future__ import annotations


class InputError(ValueError):
    """What was given cannot be used: one or more lines for the person who gave it; exit code 2."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = list(lines)


class RunFailure(RuntimeError):
    """The run started well and could not go on: one line and what to try; exit code 1."""


class Interrupted(BaseException):
    """A signal asked the run to stop; raised at the next safe moment, between two steps."""

    def __init__(self, signal_name: str) -> None:
        super().__init__(signal_name)
        self.signal_name = signal_name
        self.message = f"stopped by {signal_name}"


def needs_extra(feature: str, package: str, extra: str) -> InputError:
    """The line that names the extra to install when `package` is missing for `feature`."""
    return InputError(
        f'{feature}: needs {package}, which is not installed: pip install "nanotorch[{extra}]"'
    )
