"""Memory: how much there is, whether it ran out, reusing what was freed, and measuring the peak."""

import ctypes
import math
import os
import platform
import re
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from minigam.config import InputError
from minigam.engine import backend
from minigam.engine.backend import synchronize

GIB = 2**30


def physical_memory(backend_name: str = "numpy") -> float:
    """Return the memory of this machine, or of its GPU, in bytes; infinity if it cannot be read.

    A limit on this process (ulimit -v, or a container's) counts as the memory of the machine.

    >>> mg.memory.physical_memory() > 2**20
    True
    """
    if backend_name == "cupy":
        return backend.get("cupy").cuda.runtime.memGetInfo()[1]
    return min(_installed_memory(), _process_limit(), _container_limit())


def _installed_memory() -> float:
    if sys.platform == "win32":
        kib = ctypes.c_ulonglong(0)
        ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kib))
        return kib.value * 1024 or math.inf
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return math.inf


def _process_limit() -> float:
    if sys.platform == "win32":
        return math.inf
    import resource  # not on Windows

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return math.inf if limit == resource.RLIM_INFINITY else limit


def _container_limit() -> float:
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
    except OSError:
        return math.inf
    return int(limit) if limit.isdigit() else math.inf


def require_memory(what: str, needed: int, remedy: str, backend_name: str = "numpy") -> None:
    """Raise InputError if `needed` bytes are more than this machine, or its GPU, has.

    what   : subject of the message, such as "1,000 stories"
    remedy : what to make smaller

    >>> mg.memory.require_memory("a table", 1000, "a smaller one")  # there is enough
    """
    there = physical_memory(backend_name)
    if needed > there:
        owner = "this machine" if backend_name == "numpy" else "the GPU"
        raise InputError(
            f"{what}: at least {brief(needed / GIB)} GiB of memory needed, {owner} has {brief(there / GIB)}; "
            f"choose {remedy}"
        )


# In the words of PyTorch, CuPy and CUDA's libraries: out of memory, cudaErrorMemoryAllocation,
# CUDA_ERROR_OUT_OF_MEMORY, CUBLAS_STATUS_ALLOC_FAILED, CURAND_STATUS_ALLOCATION_FAILED.
_RAN_OUT = re.compile(r"out[ _]of[ _]memory|MemoryAllocation|ALLOC(ATION)?_FAILED", re.IGNORECASE)


def ran_out(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on this machine or on its GPU.

    >>> mg.memory.ran_out(MemoryError()), mg.memory.ran_out(RuntimeError("CUDA out of memory"))
    (True, True)
    """
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and not isinstance(error, backend.BackendUnavailable)
        and _RAN_OUT.search(str(error)) is not None
    )


def brief(number: float) -> str:
    """Return a number with separators, or as a power of ten if it would be long.

    >>> mg.memory.brief(1234567), mg.memory.brief(1.5e15)
    ('1,234,567', '1.5e+15')
    """
    if number >= 1e12:
        return f"{number:.1e}"
    return f"{number:,}" if isinstance(number, int) else f"{number:,.1f}"


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
    tracemalloc). CuPy: the memory that an empty pool took from the device, which is the peak
    rounded up to the pool's blocks.

    >>> with mg.memory.track_memory(np) as memory:
    ...     x = np.ones(10**6)
    ...
    >>> round(memory.peak_bytes / 1e6)
    8
    """
    memory = SimpleNamespace(peak_bytes=0)
    if hasattr(xp, "cuda"):
        release_freed_memory(xp)
        pool = _pool(xp)
        start = pool.total_bytes()  # above 0 if arrays of an earlier measurement are alive
        try:
            with xp.cuda.using_allocator(pool.malloc):
                yield memory
                synchronize(xp)
            memory.peak_bytes = pool.total_bytes() - start
        finally:
            release_freed_memory(xp)
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


def release_freed_memory(xp: ModuleType) -> None:
    """Give a device what CuPy's pools keep of it for reuse: one pool cannot take what another keeps.

    >>> mg.memory.release_freed_memory(np)  # nothing to do for NumPy
    """
    if hasattr(xp, "cuda"):
        for pool in (xp.get_default_memory_pool(), _pool(xp)):
            pool.free_all_blocks()


@cache
def _pool(xp: ModuleType) -> Any:
    """Return the pool that measures. It is never deleted: an array does not keep the pool that it comes from,
    and without the pool its memory goes back to the device."""
    return xp.cuda.MemoryPool()
