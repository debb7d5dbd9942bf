"""Starting CUDA kernels of our own: what the faster rules for CuPy share.

A source is a string beside the rule that uses it. Each is compiled when first used, once for each
precision, with REAL for the type of its numbers; COMMON stands before it.
"""

import sys
from functools import cache

import numpy as np

THREADS = 128  # of a block
WARP = 32  # threads that run together; one warp does one row
REAL = {"float32": "float", "float64": "double"}

COMMON = r"""
typedef long long size;
typedef unsigned long long word;

__device__ size my_index() { return (size)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ size my_row() { return my_index() / 32; }  // a warp of 32 threads does one row
__device__ int my_lane() { return threadIdx.x % 32; }

// Every thread of a warp gets the sum of what all of them bring, or the largest.
__device__ REAL sum_of_warp(REAL x) {
    for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}
__device__ REAL max_of_warp(REAL x) {
    for (int distance = 16; distance > 0; distance /= 2)
        x = fmax(x, __shfl_xor_sync(0xffffffffu, x, distance));
    return x;
}

__device__ REAL sigmoid(REAL x) { return (REAL)0.5 * (1 + tanh((REAL)0.5 * x)); }

// What dropout multiplies an entry by: `scale` or 0, as masks.keep_mask says. Four entries share number
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
    """Start kernel `name` of `source` in at least `threads` threads; nobody waits for it here.

    arguments : C-contiguous arrays, all of one REAL type or of int64; whole numbers, which become int64;
                other numbers, which become REAL
    macros    : what the source leaves open, by name
    Raises TypeError for numbers that are neither float32 nor float64, and for arrays of another kind.
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
    """Return one kernel, compiled."""
    return module(xp, source, options).get_function(name)


@cache
def module(xp, source: str, options: tuple[str, ...]):
    """Return the kernels of one source, compiled with these options when the first is asked for."""
    announce()
    return xp.RawModule(code=COMMON + source, options=options)


@cache
def announce() -> None:
    """Say, once, what the wait before the first step is for."""
    print("loading CUDA kernels (the first time here: compiling them)", file=sys.stderr)


def packed(xp, *arrays):
    """Return the arrays as kernels read them: C-contiguous, integers as int64; a copy only where needed."""
    return tuple(
        xp.ascontiguousarray(a if a.dtype.kind == "f" or a.dtype == np.int64 else a.astype(np.int64))
        for a in arrays
    )
