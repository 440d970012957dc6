"""What the C library does with the memory of arrays that are let go of."""

from __future__ import annotations

import ctypes
import functools
import os
import sys

# glibc's names for what mallopt sets.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 256 << 20  # free memory at the end of the heap that is not given back
SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


@functools.cache
def keep_freed_memory() -> None:
    """Lets glibc keep what a step frees for the next one, for the rest of the process.

    Otherwise it may give the memory of large gradients back to the system after each step, and take
    it again, page by page, in the next: of a step with gradients of 1 MB that was a third of the
    time, of a group norm of 2 MB without an optimizer three quarters. Nothing is done with another
    C library or allocator, or where the environment has settings of its own.
    Source: https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in SETTINGS):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(MMAP_THRESHOLD, 32 << 20)  # the most that glibc accepts
        library.mallopt(TRIM_THRESHOLD, KEPT_BYTES)
