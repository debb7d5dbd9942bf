"""Compile and launch CUDA kernels: what the faster rules for CuPy share.

A source is a string next to the rule that uses it. COMMON is prepended to it. It is compiled on first
use, once per dtype, with the macro REAL as the type of its numbers.
"""

import sys
from functools import cache

import numpy as np

THREADS = 128  # per block
WARP = 32  # threads that run together; one warp handles one row
REAL = {"float32": "float", "float64": "double"}

COMMON = r"""
typedef long long size;
typedef unsigned long long word;

__device__ size my_index() { return (size)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ size my_row() { return my_index() / 32; }  // a warp of 32 threads handles one row
__device__ int my_lane() { return threadIdx.x % 32; }

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


def launch(xp, source: str, name: str, threads: int, *arguments, **macros) -> None:
    """Launch kernel `name` of `source` with at least `threads` threads, without waiting for it.

    arguments : C-contiguous arrays of int64 or REAL, the one float dtype of a launch; ints, which become
                int64; floats, which become REAL
    macros    : other macros of the source, by name
    Raises TypeError if REAL is neither float32 nor float64, and for arrays of any other layout or dtype.
    """
    arrays = [a for a in arguments if isinstance(a, xp.ndarray)]
    dtype = next((a.dtype for a in arrays if a.dtype.kind == "f"), np.dtype("float32"))
    if dtype.name not in REAL:
        raise TypeError(f"{name}: {dtype} on a GPU, wanted {' or '.join(REAL)}")
    for a in arrays:
        if a.dtype not in (dtype, np.int64) or not a.flags.c_contiguous:
            raise TypeError(f"{name}: an array {a.shape} {a.dtype}, wanted C-contiguous {dtype} or int64")

    def as_c(a):
        return np.int64(a) if isinstance(a, int) else dtype.type(a) if isinstance(a, float) else a

    if threads:
        macros["REAL"], blocks = REAL[dtype.name], -(-threads // THREADS)
        options = tuple(f"-D{macro}={value}" for macro, value in macros.items())
        kernel(xp, source, options, name)((blocks,), (THREADS,), tuple(map(as_c, arguments)))


@cache
def kernel(xp, source: str, options: tuple[str, ...], name: str):
    """Return one compiled kernel."""
    return module(xp, source, options).get_function(name)


@cache
def module(xp, source: str, options: tuple[str, ...]):
    """Return the module of one source, compiled with these options on first use."""
    announce()
    return xp.RawModule(code=COMMON + source, options=options)


@cache
def announce() -> None:
    """Explain the wait before the first step, once."""
    print("loading CUDA kernels (the first run on a machine compiles them)", file=sys.stderr)
