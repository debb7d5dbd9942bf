"""Compile and launch CUDA kernels: what the faster rules for CuPy share.

A source is a string next to the rule that uses it. COMMON is prepended to it, and SUMS if it needs them. It
is compiled on first use, once per dtype, with the macro REAL as the type of its numbers.
"""

import sys
from functools import cache

import numpy as np

from minigam import launcher

THREADS = 128  # per block
WARP = 32  # threads that run together; one warp handles one row
SLAB = 64  # fewest rows that one thread sums, for one channel
MOST_SLABS = 256  # most parts of such a sum
FLOAT, INTEGER, BITS = np.dtype("float32"), np.dtype("int64"), np.dtype("uint16")
WHOLE = (INTEGER, BITS)
REAL: dict[np.dtype, str] = {FLOAT: "float", np.dtype("float64"): "double"}

COMMON = r"""
typedef long long size;
typedef unsigned long long word;
typedef unsigned short bits;

// A launch is over n things: this thread handles number my_index(); or a warp of 32 threads row my_row().
__device__ size my_index() { return (size)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ size my_row() { return my_index() / 32; }
__device__ int my_lane() { return threadIdx.x % 32; }
// Or it is over parts, such as rows, and channels: this thread handles my_channel() of my_part().
__device__ unsigned my_part() { return blockIdx.x; }
__device__ size my_channel() { return (size)blockIdx.y * blockDim.x + threadIdx.x; }

// Sum and maximum of x over the threads of a warp. Every thread gets the result.
__device__ REAL sum_of_warp(REAL x) {
    for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}
__device__ REAL max_of_warp(REAL x) {
    for (int distance = 16; distance > 0; distance /= 2)
        x = fmax(x, __shfl_xor_sync(0xffffffffu, x, distance));
    return x;
}

// Writes a gradient to its place; with `more`, adds it to what is there.
__device__ void put(REAL* place, size i, REAL gradient, size more) {
    place[i] = more ? place[i] + gradient : gradient;
}

// Right to the last bits however small it is. 1 - sigmoid(x), which cancels for large x, is sigmoid(-x).
__device__ REAL sigmoid(REAL x) {
    const REAL e = exp(-fabs(x));
    return (x < 0 ? e : 1) / (1 + e);
}

// The factor of an entry in dropout: `scale` or 0, according to masks.keep_mask. Four entries share number
// entry / 4 + 1 of SplitMix64, 16 bits each.
__device__ REAL dropout_factor(size entry, word seed, size threshold, REAL scale) {
    word z = seed + (word)(entry / 4 + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    z ^= z >> 31;
    return (size)(z >> 16 * (entry % 4) & 0xffff) >= threshold ? scale : 0;
}
"""

SUMS = r"""
// Called by every thread of a launch over slabs and channels, after each has written its part of a sum. True
// in the last block to come, of those for the same channels: there all parts can be read. Which block that is
// varies, but it adds the parts in their order: the same bits. `arrived` is zeros, and is zeros again then.
__device__ bool all_arrived(size* arrived) {
    __shared__ bool last;
    __threadfence();  // what this thread has written is seen by whoever sees it arrive
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd((word*)&arrived[blockIdx.y], (word)1) == gridDim.x - 1;
        if (last) arrived[blockIdx.y] = 0;
    }
    __syncthreads();
    __threadfence();
    return last;
}

// The total over all slabs of entry i of sums (slabs, width), for the block that all_arrived has told.
__device__ REAL total(const REAL* sums, size width, size i) {
    REAL sum = 0;
#pragma unroll 8  // eight reads under way at a time
    for (size slab = 0; slab < gridDim.x; ++slab) sum += sums[slab * width + i];
    return sum;
}
"""


def launch(xp, source: str, name: str, threads: int | tuple[int, int], *arguments, **macros) -> None:
    """Launch kernel `name` of `source`, without waiting for it.

    threads   : how many, at least; or (parts, channels), for a thread per channel of each part
    arguments : C-contiguous arrays of int64, uint16 or REAL, the one float dtype of a launch; ints, which
                become int64; floats, which become REAL
    macros    : other macros of the source, by name
    Raises TypeError if REAL is neither float32 nor float64, and for arrays of any other layout or dtype.
    """
    parts, channels = threads if isinstance(threads, tuple) else (-(-threads // THREADS), 1)
    if not (parts and channels):
        return
    passed, real, ndarray = list(arguments), None, xp.ndarray
    for i, a in enumerate(arguments):
        if type(a) is ndarray:
            dtype = a.dtype
            if dtype is not real and dtype not in WHOLE:
                if real not in (None, dtype) or dtype not in REAL:
                    raise TypeError(_misfit(name, a, real))
                real = dtype
            if not a.flags.c_contiguous:
                raise TypeError(_misfit(name, a, real))
        elif isinstance(a, float):  # np.float64 too
            passed[i] = (real or FLOAT).type(a)  # the arrays come first
    launched = kernel(xp, source, name, real or FLOAT, *macros.items())
    launched((parts, -(-channels // THREADS)), (THREADS,), tuple(passed))


def _misfit(name: str, a, real: np.dtype | None) -> str:
    if a.dtype.kind == "f" and a.dtype not in REAL:
        return f"{name}: {a.dtype} on a GPU, wanted float32 or float64"
    return f"{name}: an array {a.shape} {a.dtype}, wanted C-contiguous {real or FLOAT} or int64"


@cache
def kernel(xp, source: str, name: str, real: np.dtype, *macros: tuple[str, object]):
    """Return one compiled kernel. A source is compiled on first use, once for each dtype and macros."""
    options = (f"-DREAL={REAL[real]}", *(f"-D{macro}={value}" for macro, value in macros))
    return module(xp, source, options).get_function(name)


@cache
def module(xp, source: str, options: tuple[str, ...]):
    """Return the module of one source, compiled with these options on first use."""
    announce()
    return xp.RawModule(code=whole(source), options=options)


def whole(source: str) -> str:
    """Return the text that is compiled for a source."""
    return COMMON + (SUMS if "all_arrived" in source else "") + source


@cache
def announce() -> None:
    """Explain the wait before the first step, once."""
    if launcher.rank() == 0:
        print("loading CUDA kernels (the first run on a machine compiles them)", file=sys.stderr)


def slabs_of(rows: int) -> tuple[int, int]:
    """Return how many slabs of rows a sum over these rows has, and the rows in each."""
    slab = max(SLAB, -(-rows // MOST_SLABS))
    return max(1, -(-rows // slab)), slab  # one slab of no rows has a sum, too: 0


@cache
def counters(xp, channels: int):
    """Return the zeros with which the blocks of a launch count how many have come; see `all_arrived`.

    Launches share them, one after the other: all must be on one stream.
    """
    return xp.zeros(-(-channels // THREADS), dtype=INTEGER)
