"""Memory: how much there is, what is refused for it, when it ran out, and the peak that is measured."""

import gc
import math
import subprocess
import sys
import types
import weakref
from contextlib import contextmanager

import numpy as np
import pytest

from minigam.config import InputError
from minigam.engine import backend, memory


def test_track_memory_sees_the_peak_and_not_what_was_there_before():
    before, megabyte = np.ones(250_000), 1_000_000
    with memory.track_memory(np) as taken:
        kept = np.ones(125_000)  # 1 MB
        np.ones(500_000).sum()  # 4 MB, freed again
    assert 5 * megabyte <= taken.peak_bytes < 5.1 * megabyte
    assert before.nbytes + kept.nbytes == 3 * megabyte


def test_track_memory_nests():
    with memory.track_memory(np) as outer:
        np.ones(250_000).sum()
        with memory.track_memory(np) as inner:
            np.ones(125_000).sum()
    assert 1_000_000 <= inner.peak_bytes < 1_100_000
    assert outer.peak_bytes >= inner.peak_bytes


class Pool:
    """As CuPy's: it keeps what is freed, and gives it back to the device when told to, or when deleted."""

    def __init__(self, device):
        self.device, self.kept, self.total = device, 0, 0

    def malloc(self, size: int) -> "Block":
        self.kept -= size
        if self.kept < 0:  # the device has the rest
            self.device.free += self.kept
            self.total -= self.kept
            self.kept = 0
            if self.device.free < 0:
                raise MemoryError
        return Block(size, weakref.ref(self))

    def free_all_blocks(self) -> None:
        self.device.free += self.kept
        self.total -= self.kept
        self.kept = 0

    def total_bytes(self) -> int:
        return self.total


class Block:
    def __init__(self, size: int, pool):
        self.size, self.pool = size, pool

    def free(self) -> None:
        self.pool().kept += self.size


def device(size: int) -> types.ModuleType:
    """A pretend library with a device of `size` bytes; `allocate` takes some from the current pool."""
    xp = types.ModuleType("pretend")
    xp.free, xp.default = size, Pool(xp)
    xp.allocate = xp.default.malloc
    xp.get_default_memory_pool = lambda: xp.default

    @contextmanager
    def using_allocator(malloc):
        xp.allocate = malloc
        yield
        xp.allocate = xp.default.malloc

    stream = types.SimpleNamespace(synchronize=lambda: None)
    xp.cuda = types.SimpleNamespace(
        MemoryPool=lambda: Pool(xp), using_allocator=using_allocator, get_current_stream=lambda: stream
    )
    return xp


def test_what_other_pools_keep_for_reuse_is_there_for_a_measurement():
    xp = device(100)
    xp.allocate(60).free()
    assert xp.free == 40
    with memory.track_memory(xp) as taken:
        xp.allocate(80).free()
    assert taken.peak_bytes == 80
    assert xp.free == 100
    xp.allocate(90)  # and the other way round


def test_an_array_may_outlive_its_measurement():
    xp = device(100)
    with memory.track_memory(xp) as taken:
        kept = xp.allocate(30)
    gc.collect()
    assert kept.pool() is not None, "without its pool its memory belongs to nobody"
    assert taken.peak_bytes == 30
    with memory.track_memory(xp) as taken:
        xp.allocate(50).free()
    assert taken.peak_bytes == 50
    kept.free()
    memory.release_freed_memory(xp)
    assert xp.free == 100


def test_numpy_has_no_pool_to_release():
    memory.release_freed_memory(np)


@pytest.mark.gpu
def test_track_memory_on_a_gpu():
    cupy = backend.get("cupy")
    with memory.track_memory(cupy) as taken:
        kept = cupy.ones(1_000_000)
        del kept
        kept = cupy.ones(500_000)
    assert 8_000_000 <= taken.peak_bytes < 12_000_000
    other = cupy.zeros(500_000)
    assert float(kept.sum()) == 500_000.0
    assert float(other.sum()) == 0.0


RAN_OUT = [
    MemoryError(),
    RuntimeError("cudaErrorMemoryAllocation: out of memory"),
    RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
    RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"),
    RuntimeError("CURAND_STATUS_ALLOCATION_FAILED"),
    RuntimeError("CUSOLVER_STATUS_ALLOC_FAILED"),
    RuntimeError("NVRTC_ERROR_OUT_OF_MEMORY (1)"),
    RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139 GiB"),
]
OTHERWISE = [
    ValueError("out of memory"),
    RuntimeError("cudaErrorLaunchOutOfResources: too many resources requested for launch"),
    RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED"),
    backend.NoDevice("no GPU responds (cudaErrorMemoryAllocation: out of memory)"),
]


@pytest.mark.parametrize("error", RAN_OUT, ids=str)
def test_every_library_says_in_its_own_words_that_memory_ran_out(error):
    assert memory.ran_out(error)


@pytest.mark.parametrize("error", OTHERWISE, ids=str)
def test_other_errors_are_not_taken_for_it(error):
    assert not memory.ran_out(error)


@pytest.mark.gpu
def test_cupy_says_so_in_these_words():
    cupy = backend.get("cupy")
    with pytest.raises((MemoryError, RuntimeError)) as e:
        cupy.empty(2**50, dtype="float64")
    assert memory.ran_out(e.value)
    with pytest.raises(RuntimeError) as e:
        cupy.cuda.runtime.malloc(2**50)
    assert memory.ran_out(e.value)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the memory of a process")
def test_a_limit_on_the_process_is_the_memory_there_is():
    code = (
        "import resource, minigam.engine.memory as m; before = m.physical_memory(); "
        "resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30,) * 2); print(before, m.physical_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, limited = map(float, done.stdout.split())
    assert limited == min(before, 3 * 2**30)


@pytest.mark.parametrize(
    ("content", "limit"), [("max\n", math.inf), ("1073741824\n", 2**30), (None, math.inf)]
)
def test_the_limit_of_a_container_counts(content, limit, tmp_path, monkeypatch):
    path = tmp_path / "memory.max"
    if content is not None:
        path.write_text(content)
    monkeypatch.setattr(memory, "_installed_memory", lambda: 2.0**50)
    monkeypatch.setattr(memory, "_process_limit", lambda: math.inf)
    monkeypatch.setattr(memory, "Path", lambda name: path)
    assert memory.physical_memory() == min(2.0**50, limit)


def test_what_does_not_fit_is_refused_with_both_sizes(monkeypatch):
    monkeypatch.setattr(memory, "physical_memory", lambda name: 2 * memory.GIB)
    memory.require_memory("a", 2 * memory.GIB, "b")
    with pytest.raises(InputError) as e:
        memory.require_memory("7 rows", 3 * memory.GIB + 2**29, "fewer rows", "cupy")
    assert str(e.value) == "7 rows: at least 3.5 GiB of memory needed, the GPU has 2.0; choose fewer rows"


def test_sizes_are_brief():
    assert [memory.brief(n) for n in (1234, 0.5, 10**30)] == ["1,234", "0.5", "1.0e+30"]
