"""Memory: keeping what was freed for the next array, and measuring the peak."""

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
    """Let NumPy's next large array have the memory of the last, from now on in the whole process.

    glibc otherwise hands it back to the system, which fills it with zeros, page by page, before anyone
    gets it again. Does nothing where the C library is another.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)  # large arrays from the heap as well
        libc.mallopt(_M_TRIM_THRESHOLD, -1)  # which never shrinks


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


@contextmanager
def track_memory(xp: ModuleType) -> Iterator[SimpleNamespace]:
    """Measure array memory inside a `with` block: afterwards its target has `.peak_bytes`.

    NumPy: the peak of traced allocations above what was held at the start (tracemalloc,
    which NumPy reports to). CuPy: what a fresh memory pool took from the device, which is
    the peak of use rounded up to the pool's blocks.
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
