"""A pretend CUDA for the pretend GPU: the kernels' own source, compiled for the processor.

A launch runs one thread after the other, so it is for kernels whose threads do not wait for each other.
"""

import ctypes
import itertools
import re
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import fakegpu
import numpy as np

SHIM = """
#include <cmath>
using std::exp;
struct Dim { int x, y, z; };
extern "C" { Dim threadIdx, blockIdx, blockDim, gridDim; }
#define __global__
#define __device__
"""
FENCE = 64  # numbers of nan before and behind each array: who reads or writes there is found out


class Dim(ctypes.Structure):
    """The three numbers of a thread's or a block's place."""

    _fields_ = [(axis, ctypes.c_int) for axis in "xyz"]


class RawModule:
    """What CuPy's class of this name does with `code` and `options`, on the host."""

    def __init__(self, *, code: str, options: tuple[str, ...]):
        self.code, self.real = code, np.dtype("float64" if "-DREAL=double" in options else "float32")
        with tempfile.TemporaryDirectory() as folder:
            source, library = Path(folder, "kernel.cpp"), Path(folder, "kernel.so")
            source.write_text(SHIM + code)
            subprocess.run(["g++", "-O1", "-shared", "-fPIC", *options, "-o", library, source], check=True)
            self.library = ctypes.CDLL(str(library))

    def get_function(self, name: str):
        return partial(self._launch, name)

    def _launch(self, name: str, grid: tuple, block: tuple, arguments: tuple) -> None:
        parameters = re.search(rf"void {name}\((.*?)\)", self.code, re.DOTALL)[1].split(",")
        assert len(arguments) == len(parameters)
        fenced, passed = [], []
        for parameter, a in zip(parameters, arguments, strict=True):
            if "*" not in parameter:
                assert parameter.split()[0] == "size", parameter
                assert type(a) is np.int64, f"{parameter}: {a!r}"
                passed.append(ctypes.c_longlong(a))
                continue
            assert type(a) is fakegpu.DeviceArray, f"{parameter}: {a!r}"
            assert a._host.dtype == self.real, f"{parameter}: {a.dtype}"
            assert a._host.flags.c_contiguous, f"{parameter}: a kernel needs its numbers side by side"
            fenced.append((a._host, np.pad(a._host.ravel(), FENCE, constant_values=np.nan)))
            passed.append(ctypes.c_void_p(fenced[-1][1][FENCE:].ctypes.data))
        self._run(getattr(self.library, name), grid, block, passed)
        for (array, copy), parameter in zip(fenced, (p for p in parameters if "*" in p), strict=True):
            assert np.isnan([copy[:FENCE], copy[-FENCE:]]).all(), f"{parameter}: written outside"
            if "const" not in parameter:
                array[...] = copy[FENCE:-FENCE].reshape(array.shape)

    def _run(self, kernel, grid: tuple, block: tuple, passed: list) -> None:
        kernel.restype = None
        place = {n: Dim.in_dll(self.library, n) for n in ("threadIdx", "blockIdx", "blockDim", "gridDim")}
        grid, block = ((*n, 1, 1)[:3] for n in (grid, block))
        for name, n in (("gridDim", grid), ("blockDim", block)):
            place[name].x, place[name].y, place[name].z = n
        for at in itertools.product(*map(range, grid)):
            place["blockIdx"].x, place["blockIdx"].y, place["blockIdx"].z = at
            for thread in itertools.product(*map(range, block)):
                place["threadIdx"].x, place["threadIdx"].y, place["threadIdx"].z = thread
                kernel(*passed)
