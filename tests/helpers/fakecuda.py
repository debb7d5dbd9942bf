"""A pretend CUDA for the pretend GPU: the source of the kernels, compiled for the CPU, and a cuBLAS.

The threads of a block are coroutines that take turns: each runs until it has to wait for its warp, or ends.
"""

import ctypes
import hashlib
import re
import shutil
import subprocess
import tempfile
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from helpers import fakegpu
from minigam.engine import cuda
from minigam.engine.compiler import cache_folder, processor
from minigam.engine.tensor import OPS
from minigam.files import replacing
from minigam.training import optim

SHIM = r"""
#include <cmath>
#include <cstring>
#include <ucontext.h>
using std::exp; using std::fabs; using std::fmax; using std::log; using std::log1p; using std::sqrt;
template <class T> T normcdf(T x) { return T(std::erfc(-x / std::sqrt(2.0L)) / 2); }
struct Dim { unsigned x, y, z; };
static Dim threadIdx, blockIdx, blockDim, gridDim;
#define __global__
#define __device__
#define __shared__ static  // one block runs at a time
inline void __threadfence() {}
inline unsigned __float_as_uint(float x) { unsigned z; std::memcpy(&z, &x, sizeof z); return z; }

struct Thread { ucontext_t context; bool ended; int waits, meetings; char sent[2][8]; char stack[1 << 15]; };
static Thread threads[1024];
static ucontext_t scheduler;

// Returns the value of lane `lane ^ mask`. All lanes of a warp send a value, then all read one. There are
// two buffers, because a lane that reads early may send its next value before the others have read.
template <class T> T __shfl_xor_sync(unsigned warp, T value, int mask) {
    const int me = threadIdx.x, turn = threads[me].waits++ % 2;
    std::memcpy(threads[me].sent[turn], &value, sizeof value);
    swapcontext(&threads[me].context, &scheduler);
    std::memcpy(&value, threads[me ^ mask].sent[turn], sizeof value);
    return value;
}

// Waits until every thread of the block has come here as often, or has ended, which `run_blocks` finds.
static void __syncthreads() {
    Thread& me = threads[threadIdx.x];
    ++me.meetings;
    for (bool all = false; !all;) {
        swapcontext(&me.context, &scheduler);
        all = true;
        for (int i = 0; i < blockDim.x; ++i)
            all = all && (threads[i].meetings >= me.meetings || threads[i].ended);
    }
}

template <class T> T atomicAdd(T* place, T value) { const T old = *place; *place += value; return old; }

// Run `body` as each thread of each block; return 0, or 1 if some threads of a warp, or of a block, ended
// while others waited for them.
template <class Body> int run_blocks(int blocks, int columns, int n, Body body) {
    static Body* life;
    life = &body;
    gridDim = {(unsigned)blocks, (unsigned)columns, 1}; blockDim = {(unsigned)n, 1, 1};
    for (int b = 0; b < blocks * columns; ++b) {
        blockIdx = {(unsigned)(b % blocks), (unsigned)(b / blocks), 0};
        for (int i = 0; i < n; ++i) {
            Thread& t = threads[i];
            t.ended = false; t.waits = t.meetings = 0;
            getcontext(&t.context);
            t.context.uc_stack.ss_sp = t.stack; t.context.uc_stack.ss_size = sizeof t.stack;
            t.context.uc_link = &scheduler;
            makecontext(&t.context, [] { (*life)(); threads[threadIdx.x].ended = true; }, 0);
        }
        for (bool all = false; !all;) {
            all = true;
            for (int i = 0; i < n; ++i) if (!threads[i].ended) {
                threadIdx = {(unsigned)i, 0, 0};
                swapcontext(&scheduler, &threads[i].context);
                all = all && threads[i].ended;
            }
            for (int i = 0; i < n; ++i) {
                const Thread &t = threads[i], &first = threads[i / 32 * 32];
                if (t.ended != first.ended || t.waits != first.waits) return 1;
            }
        }
        for (int i = 0; i < n; ++i) if (threads[i].meetings != threads[0].meetings) return 1;
    }
    return 0;
}
"""
ONE_AT_A_TIME = threading.Lock()  # the variables of a launch belong to the library, which ranks share
FENCE = 64  # numbers before and after each array, to detect reads and writes outside it
POISON = {"f": np.nan, "i": -(2**62), "u": 2**16 - 1}  # their value, by kind of dtype
KERNEL = re.compile(r'extern "C" __global__ void (\w+)\((.*?)\)', re.DOTALL)


def compiled(code: str, options: tuple[str, ...]) -> ctypes.CDLL:
    """Compile a source, or take the library from a cache: tests start many processes that need the same."""
    command = ["g++", "-O1", "-shared", "-fPIC", *options]
    key = hashlib.sha256("\n".join([*command, *processor(), code]).encode()).hexdigest()
    library = cache_folder() / f"emulated-{key[:32]}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory() as folder, replacing(library) as unfinished:
            source = Path(folder, "kernels.cpp")
            source.write_text(code, encoding="utf-8")
            done = subprocess.run([*command, "-o", unfinished, source], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


class RawModule:
    """CuPy's class of this name, on the host."""

    def __init__(self, *, code: str, options: tuple[str, ...]):
        self.real = np.dtype("float64" if "-DREAL=double" in options else "float32")
        self.parameters = {
            name: [p.replace("__restrict__", "").strip() for p in text.split(",")]
            for name, text in KERNEL.findall(code)
        }
        self.library = compiled("\n".join([SHIM, code, *map(self._runner, self.parameters)]), options)

    def _runner(self, name: str) -> str:
        """Return a C function that runs every thread of a launch."""
        parameters = self.parameters[name]
        names = ", ".join(re.search(r"\w+$", p)[0] for p in parameters)
        return (
            f'extern "C" int run_{name}(int blocks, int columns, int threads, {", ".join(parameters)}) '
            f"{{ return run_blocks(blocks, columns, threads, [&] {{ {name}({names}); }}); }}"
        )

    def get_function(self, name: str):
        return partial(self._launch, name)

    def _launch(self, name: str, grid: tuple, block: tuple, arguments: tuple) -> None:
        (blocks, columns), (threads,) = grid, block
        assert 0 < blocks < 2**31
        assert 0 < columns < 2**16
        assert 0 < threads <= 1024
        assert threads % 32 == 0
        copies, fenced, passed = {}, [], []
        for parameter, a in zip(self.parameters[name], arguments, strict=True):
            dtypes = {"REAL": self.real, "size": "int64", "word": "uint64", "bits": "uint16"}
            dtype = np.dtype(dtypes[re.search("|".join(dtypes), parameter)[0]])
            if "*" not in parameter:
                assert type(a) is dtype.type or (dtype.kind == "i" and type(a) is int), f"{name}: {parameter}"
                passed.append(np.ctypeslib.as_ctypes_type(dtype)(a))
                continue
            assert type(a) is fakegpu.DeviceArray, f"{name}: {parameter}: {a!r}"
            assert a.dtype == dtype, f"{name}: {parameter}: {a.dtype}"
            assert a.flags.c_contiguous, f"{name}: {parameter}: a kernel needs a contiguous array"
            address = a._host.ctypes.data  # an array passed twice is one array on the device too
            copies.setdefault(address, np.pad(a._host.ravel(), FENCE, constant_values=POISON[dtype.kind]))
            fenced.append((parameter, a._host, copies[address]))
            passed.append(ctypes.c_void_p(copies[address][FENCE:].ctypes.data))
        with ONE_AT_A_TIME:
            fault = getattr(self.library, f"run_{name}")(blocks, columns, threads, *passed)
        assert not fault, f"{name}: some threads of a warp or block ended while others waited for them"
        for parameter, array, copy in fenced:
            ends = np.concatenate([copy[:FENCE], copy[-FENCE:]])
            intact = np.isnan(ends) if copy.dtype.kind == "f" else ends == POISON[copy.dtype.kind]
            assert intact.all(), f"{name}: {parameter}: written outside"
            if "const" not in parameter:
                array[...] = copy[FENCE:-FENCE].reshape(array.shape)


# ------------------------------------------------------------------------------------------- cuBLAS

KINDS = {0: np.float32, 1: np.float64, 2: np.float16, 14: np.uint16}  # cudaDataType_t; 14 is bfloat16
COMPUTES = {68: np.float32, 77: np.float32, 70: np.float64}  # cublasComputeType_t
calls: list[SimpleNamespace] = []  # the calls so far, for tests to inspect


def tf32(z: np.ndarray) -> np.ndarray:
    """Round float32 to the 11 significant bits of tf32, halves up."""
    return (z.view(np.uint32) + np.uint32(0x1000) & np.uint32(0xFFFFE000)).view(np.float32)


def gemm_strided_batched(
    handle, transa, transb, m, n, k, alpha, A, Atype, lda, strideA, B, Btype, ldb, strideB,
    beta, C, Ctype, ldc, strideC, batch, compute, algorithm,
):  # fmt: skip
    """C = alpha op(A) op(B) + beta C for each matrix of a batch, stored column by column.

    The parameters are those of cublasGemmStridedBatchedEx, in its order; A, B and C are addresses.
    """
    assert handle == "handle"
    assert min(m, n, k, batch) > 0
    assert (Ctype == 1) == (compute == 70)
    assert Atype == Btype
    kind = "bfloat16" if Atype == 14 else KINDS[Atype]
    calls.append(SimpleNamespace(kind=kind, out=KINDS[Ctype], compute=compute))

    def matrices(address: int, data_type: int, columns: int, leading: int, stride: int) -> np.ndarray:
        dtype, n = np.dtype(KINDS[data_type]), (batch - 1) * stride + columns * leading
        memory = (ctypes.c_char * (n * dtype.itemsize)).from_address(address)
        flat = np.frombuffer(memory, dtype)
        strides = (stride * dtype.itemsize, leading * dtype.itemsize, dtype.itemsize)
        return np.lib.stride_tricks.as_strided(flat, (batch, columns, leading), strides).swapaxes(1, 2)

    def operand(address: int, data_type: int, trans: int, rows: int, columns: int, leading: int, stride: int):
        rows, columns = (columns, rows) if trans else (rows, columns)
        assert leading >= rows
        z = matrices(address, data_type, columns, leading, stride)[:, :rows]
        if data_type == 14:  # the upper half of a float32
            z = (z.astype(np.uint32) << 16).view(np.float32)
        z = z.astype(COMPUTES[compute])
        z = tf32(z) if compute == 77 else z
        return z.swapaxes(1, 2) if trans else z

    alpha, beta = (np.ctypeslib.as_array(ctypes.cast(p, ctypes.POINTER(
        np.ctypeslib.as_ctypes_type(COMPUTES[compute]))), (1,))[0] for p in (alpha, beta))  # fmt: skip
    assert ldc >= m
    product = operand(A, Atype, transa, m, k, lda, strideA) @ operand(B, Btype, transb, k, n, ldb, strideB)
    out = matrices(C, Ctype, n, ldc, strideC)[:, :m]
    out[...] = alpha * product + (beta * out if beta else 0.0)  # C is not read if beta is 0


CUBLAS = SimpleNamespace(
    gemmStridedBatchedEx=gemm_strided_batched,
    CUBLAS_COMPUTE_32F=68, CUBLAS_COMPUTE_64F=70, CUBLAS_COMPUTE_32F_FAST_TF32=77, CUBLAS_GEMM_DEFAULT=-1,
)  # fmt: skip


needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ for the emulated kernels")
DEVICES = [
    pytest.param("fakegpu", marks=needs_compiler, id="emulated"),
    pytest.param("cupy", marks=pytest.mark.gpu),
]
each_device = pytest.mark.parametrize("library", DEVICES)


def install(monkeypatch) -> None:
    """Let the pretend GPU run CuPy's faster rules, with the emulated kernels and products of this file."""
    real = cuda.linear.cublas

    def cublas(xp):
        return (CUBLAS, "handle") if xp is fakegpu.xp else real(xp)

    monkeypatch.setattr(cuda.linear, "cublas", cublas)
    monkeypatch.setattr(cuda.adamw, "BLOCKS", 4)  # whose threads take turns here
    monkeypatch.setattr(fakegpu.xp, "RawModule", RawModule, raising=False)
    for table in [*(op.fast for op in OPS.values()), optim.FASTER, optim.CLIP]:
        if "cupy" in table:
            monkeypatch.setitem(table, "fakegpu", table["cupy"])
