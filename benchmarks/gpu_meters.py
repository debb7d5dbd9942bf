"""The clock and the memory of a device, each by the library that computes, and those of a process on a CPU.

Create a meter before the first allocation: "device_mib" is what the device has in use since then, which
includes what no allocator counts, such as the workspace that cuBLAS takes for CuPy.
"""

import time
from functools import partial

from benchmarks import measure


class CupyMeter:
    """CuPy's events and pool."""

    def __init__(self):
        import cupy

        self.cuda, self.pool = cupy.cuda, cupy.get_default_memory_pool()
        self.before = self._in_use()

    def _in_use(self) -> int:
        free, total = self.cuda.runtime.memGetInfo()
        return total - free

    def reset(self) -> None:
        """Return free memory to the device, so that the memory of the next measurement is its own."""
        self.pool.free_all_blocks()

    def mark(self):
        event = self.cuda.Event()
        event.record()
        return event

    def wait(self, event) -> None:
        event.synchronize()

    def milliseconds(self, a, b) -> float:
        return self.cuda.get_elapsed_time(a, b)

    def memory(self) -> dict:
        """The pool returns nothing on its own, so its size now is its peak."""
        return {
            "device_mib": (self._in_use() - self.before) / measure.MIB,
            "peak_mib": self.pool.total_bytes() / measure.MIB,
        }


class TorchMeter:
    """PyTorch's events and allocator."""

    def __init__(self):
        import torch

        self.cuda, self.Event = torch.cuda, partial(torch.cuda.Event, enable_timing=True)
        self.before = self._in_use()

    def _in_use(self) -> int:
        free, total = self.cuda.mem_get_info()
        return total - free

    def reset(self) -> None:
        self.cuda.empty_cache()
        self.cuda.reset_peak_memory_stats()

    def mark(self):
        event = self.Event()
        event.record()
        return event

    def wait(self, event) -> None:
        event.synchronize()

    def milliseconds(self, a, b) -> float:
        return a.elapsed_time(b)

    def memory(self) -> dict:
        return {
            "device_mib": (self._in_use() - self.before) / measure.MIB,
            "peak_mib": self.cuda.max_memory_reserved() / measure.MIB,
            "allocated_mib": self.cuda.max_memory_allocated() / measure.MIB,
        }


class HostMeter:
    """The clock and the memory of a process without a GPU."""

    mark = staticmethod(time.perf_counter)

    def reset(self) -> None:
        """Return immediately: the peak of a process cannot be reset."""

    def wait(self, moment: float) -> None:
        """Return immediately: the host computes synchronously."""

    def milliseconds(self, a: float, b: float) -> float:
        return 1e3 * (b - a)

    def memory(self) -> dict:
        peak = measure.peak_bytes() / measure.MIB
        return {"device_mib": peak, "peak_mib": peak}
