"""Python's collector of reference cycles, held back while a test counts what needs it."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Within the block nothing is collected, and gc.collect() counts what was made in it alone."""
    gc.collect()
    gc.freeze()  # what earlier tests left, or still hold, is not this test's
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
