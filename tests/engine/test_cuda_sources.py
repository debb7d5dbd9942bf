"""Every CUDA source compiles for a device, as CuPy would compile it, and its threads fit their registers."""

import pkgutil
from importlib import import_module

import pytest
from helpers import fakecuda, nvrtc

from minigam.engine import cuda
from minigam.engine.cuda import kernels

MODULES = [import_module(f"{cuda.__name__}.{m.name}") for m in pkgutil.iter_modules(cuda.__path__)]
SOURCES = {
    name: source
    for module in MODULES
    for name, source in vars(module).items()
    if isinstance(source, str) and "__global__" in source
}
MACROS = ("-DN=16", "-DK=3", "-DVALUE=gelu", "-DSLOPE=gelu_slope")  # those of a default model
ARCHITECTURE = "-arch=sm_90"


def test_the_sources_are_found():
    assert {"ADAMW", "SCAN", "SOFTMAX"} < SOURCES.keys()


@nvrtc.each_compiler
@pytest.mark.parametrize("real", kernels.REAL.values())
@pytest.mark.parametrize("name", SOURCES)
def test_a_source_compiles_for_a_device_and_spills_nothing(name, real, compiled, tmp_path):
    options = (ARCHITECTURE, f"-DREAL={real}", *MACROS)
    ptx, log = compiled(kernels.whole(SOURCES[name]), options, tmp_path)
    print(log)
    assert "warning" not in log
    names = {kernel for kernel, _ in fakecuda.KERNEL.findall(SOURCES[name])}
    assert names and {kernel for kernel in names if f".entry {kernel}(" not in ptx} == set()
    assert real == "double" or ".f64" not in ptx, "a number slipped into double precision"
    used = nvrtc.registers(log)
    assert used.keys() == names
    assert max(used.values()) * kernels.THREADS <= 65_536  # the registers of a multiprocessor
    assert nvrtc.spilled(log) == 0, log


SPILLS = r"""
extern "C" __global__ void __launch_bounds__(1024, 2) spills(REAL* y) {
    REAL z[64];
#pragma unroll
    for (int i = 0; i < 64; ++i) z[i] = y[64 * my_index() + i];
#pragma unroll
    for (int i = 0; i < 64; ++i) y[64 * my_index() + i] = z[i] * z[63 - i] + z[(7 * i + 5) % 64];
}
"""


@nvrtc.each_compiler
def test_a_spill_and_a_mistake_are_seen(compiled, tmp_path):
    options = (ARCHITECTURE, "-DREAL=double")
    _, log = compiled(kernels.whole(SPILLS), options, tmp_path)
    assert nvrtc.spilled(log) > 0
    with pytest.raises(nvrtc.Unusable, match=r"identifier .*nothing.* is undefined"):
        compiled("__global__ void f(int* y) { *y = nothing; }", options, tmp_path)
