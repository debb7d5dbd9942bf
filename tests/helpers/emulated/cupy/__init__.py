"""CuPy for a machine without a GPU: with this folder's parent on PYTHONPATH, `import cupy` finds it.

It lets `python -m minigam train --backend cupy`, `pytest -m gpu` and `python -m benchmarks.gpu` run from end
to end, through the code that a device would run. It is the pretend GPU (helpers/fakegpu.py) with the emulated
kernels and products (helpers/fakecuda.py), in copies of its own: next to it the tests have theirs, whose
arrays belong to another library. Its times and its memory are those of no device.
"""

import importlib.util
import math
import os
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

HELPERS = Path(__file__).parents[2]
if str(HELPERS.parent) not in sys.path:
    sys.path.append(str(HELPERS.parent))


def _copy_of(name: str) -> types.ModuleType:
    """Return another module made from the file of helpers.NAME."""
    spec = importlib.util.spec_from_file_location(f"cupy._{name}", HELPERS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fakegpu, fakecuda = _copy_of("fakegpu"), _copy_of("fakecuda")
fakecuda.fakegpu = fakegpu  # its kernels take the arrays of the copy
fakecuda.cuda.adamw.BLOCKS = 4  # of threads that take turns here; on a device there are enough for all of it
globals().update({k: v for k, v in vars(fakegpu.xp).items() if not k.startswith("__")})

__version__ = "0.0 (emulator)"
NAME, CAPABILITY, TOTAL = "emulated GPU (no device)", "90", 8 * 2**30
RawModule = fakecuda.RawModule
float16, float32, float64, int32, int64 = np.float16, np.float32, np.float64, np.int32, np.int64


def matmul(a: fakegpu.DeviceArray, b: fakegpu.DeviceArray, out: fakegpu.DeviceArray | None = None):
    product = a @ b
    if out is None:
        return product
    out[...] = product
    return out


class OutOfMemoryError(MemoryError):
    """CuPy's class of this name."""


def empty(shape: int | tuple[int, ...], dtype: np.typing.DTypeLike) -> fakegpu.DeviceArray:
    size = math.prod(np.atleast_1d(shape).tolist()) * np.dtype(dtype).itemsize
    if size > TOTAL:
        raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes")
    return fakegpu.xp.empty(shape, dtype)


def _get(self: fakegpu.DeviceArray, out: np.ndarray | None = None, blocking: bool = True) -> np.ndarray:
    """Copy to the host; `blocking` changes nothing, for the array is there already."""
    out = np.empty(self.shape, self.dtype) if out is None else out
    out[...] = self._host
    return out


fakegpu.DeviceArray.get = _get
_cupyx, _special = types.ModuleType("cupyx"), types.ModuleType("cupyx.scipy.special")
_cupyx.empty_pinned = np.empty
_special.erf = lambda x: fakegpu.DeviceArray(np.vectorize(math.erf, otypes=[x.dtype])(x.get()))
sys.modules |= {module.__name__: module for module in (_cupyx, _special)}


# ------------------------------------------------------------------------------------------- memory


class MemoryPool:
    """Counts the bytes of the arrays that were made while it was the current pool."""

    def __init__(self):
        self.used = self.most = 0

    def malloc(self, size: int) -> None:
        """Count an array."""
        self.used += size
        self.most = max(self.most, self.used)

    def free(self, size: int) -> None:
        self.used -= size

    def used_bytes(self) -> int:
        return self.used

    def total_bytes(self) -> int:
        return self.most

    def free_all_blocks(self) -> None:
        self.most = self.used


_pools, _owners = [MemoryPool()], {}  # the current pool is the last one; of each array by id: its pool
_wrap = fakegpu.DeviceArray.__init__


def _allocate(self: fakegpu.DeviceArray, host: object) -> None:
    _wrap(self, host)
    if self._host.base is None:  # no view
        _owners[id(self)] = (_pools[-1], self._host.nbytes)
        _pools[-1].malloc(self._host.nbytes)


def _free(self: fakegpu.DeviceArray, _owners: dict = _owners) -> None:  # at exit, the name is gone
    pool, size = _owners.pop(id(self), (None, 0))
    if pool is not None:
        pool.free(size)


fakegpu.DeviceArray.__init__, fakegpu.DeviceArray.__del__ = _allocate, _free


@contextmanager
def _using_allocator(malloc: Callable[[int], None]) -> Iterator[None]:
    _pools.append(malloc.__self__)
    try:
        yield
    finally:
        _pools.pop()


def get_default_memory_pool() -> MemoryPool:
    return _pools[0]


# --------------------------------------------------------------------------------------------- cuda


class _Event:
    """The emulator has finished whatever was started, but says so only to those who have waited."""

    recorded = reached = 0  # number of the last event, and of the last that somebody has waited for

    def __init__(self, disable_timing: bool = False):
        pass

    def record(self, stream: object = None) -> None:
        _Event.recorded += 1
        self.number, self.moment = _Event.recorded, time.perf_counter()

    @property
    def done(self) -> bool:
        self.synchronize()
        return True

    def synchronize(self) -> None:
        _Event.reached = max(_Event.reached, self.number)


class _Stream:
    """Does its work at once."""

    ptr = 0

    def __init__(self, non_blocking: bool = False):
        pass

    def synchronize(self) -> None:
        _Event.reached = _Event.recorded

    def wait_event(self, event: _Event) -> None:
        pass


class _Device:
    """One of as many as are asked for: each rank of a machine has one."""

    compute_capability, current = CAPABILITY, 0

    def __init__(self, id: int | None = None):
        self.id = _Device.current if id is None else id

    def use(self) -> None:
        _Device.current = self.id


def _elapsed(a: _Event, b: _Event) -> float:
    if max(a.number, b.number) > _Event.reached:
        raise RuntimeError("cudaErrorNotReady: device not ready")
    return 1e3 * (b.moment - a.moment)


def _malloc(size: int) -> None:
    """Fail as cudaMalloc does; nothing here takes memory without the pool."""
    raise RuntimeError("cudaErrorMemoryAllocation: out of memory")


_properties = {"name": NAME.encode(), "totalGlobalMem": TOTAL, "multiProcessorCount": 1}
cuda = types.SimpleNamespace(
    Device=_Device,
    Event=_Event,
    get_elapsed_time=_elapsed,
    Stream=_Stream,
    get_current_stream=_Stream,
    MemoryPool=MemoryPool,
    using_allocator=_using_allocator,
    cublas=types.SimpleNamespace(**vars(fakecuda.CUBLAS), getVersion=lambda handle: 0),
    device=types.SimpleNamespace(get_cublas_handle=lambda: "handle"),
    runtime=types.SimpleNamespace(
        getDeviceProperties=lambda device: _properties,
        memGetInfo=lambda: (TOTAL - sum(pool.total_bytes() for pool in _pools), TOTAL),
        runtimeGetVersion=lambda: 0,
        driverGetVersion=lambda: 0,
        getDeviceCount=lambda: int(os.environ.get("EMULATED_GPUS", "1")),
        deviceGetPCIBusId=lambda device: f"0000:{device:02}:00.0",
        malloc=_malloc,
        deviceSynchronize=lambda: None,
    ),
)

# NCCL has to be imported, as CuPy's has. A module alone stands for the package that it is in.
from . import nccl  # noqa: E402

cuda.nccl, sys.modules["cupy.cuda.nccl"] = nccl, nccl
