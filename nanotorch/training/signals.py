"""Ctrl-C and SIGTERM as a wish to stop, granted between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from nanotorch.training.errors import Interrupted


class StopSignals:
    """While it is entered, the first SIGINT or SIGTERM is noted; a second one acts at once."""

    def __init__(self) -> None:
        self.caught: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.caught is not None:
            raise KeyboardInterrupt
        self.caught = signal.Signals(number).name

    def check(self) -> None:
        """Raise Interrupted if a signal has been noted."""
        if self.caught is not None:
            raise Interrupted(self.caught)

    def forget(self) -> None:
        """Go on after a signal; the next one counts as the first."""
        self.caught = None
