"""Memory: reusing what was freed, and measuring the peak."""

import ctypes
import platform
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType, SimpleNamespace

from minigam.engine.backend import synchronize


@cache
def keep_freed_memory() -> None:
    """Make NumPy reuse the memory of freed large arrays, from now on and in the whole process.

    By default glibc returns the memory to the system, which fills every page with zeros before the next
    use. Does nothing with any other C library.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)  # take large arrays from the heap too
        libc.mallopt(_M_TRIM_THRESHOLD, -1)  # and never shrink the heap


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


@contextmanager
def track_memory(xp: ModuleType) -> Iterator[SimpleNamespace]:
    """Measure the peak of array memory inside a `with` block; its target then has `.peak_bytes`.

    NumPy: the peak of the traced allocations minus those at the start (NumPy reports to
    tracemalloc). CuPy: the memory that a fresh pool took from the device, which is the peak
    rounded up to the pool's blocks.
    """
    memory = SimpleNamespace(peak_bytes=0)
    if hasattr(xp, "cuda"):
        pool = xp.cuda.MemoryPool()
        with xp.cuda.using_allocator(pool.malloc):
            yield memory
            synchronize(xp)
        memory.peak_bytes = pool.total_bytes()
        return
    nested = tracemalloc.is_tracing()
    if nested:
        tracemalloc.reset_peak()
    else:
        tracemalloc.start()
    start = tracemalloc.get_traced_memory()[0]
    try:
        yield memory
        memory.peak_bytes = tracemalloc.get_traced_memory()[1] - start
    finally:
        if not nested:
            tracemalloc.stop()
