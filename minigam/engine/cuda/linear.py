"""Matrix products by cuBLAS, in the current precision."""

import math

import numpy as np

from minigam.engine import ops, precision
from minigam.engine.cuda.gradients import place_for
from minigam.engine.cuda.kernels import BITS, FLOAT, REAL, counters, launch, slabs_of
from minigam.engine.numeric import packed, rows

HALF, HALVES = np.dtype("float16"), ("float16", "bfloat16")
TYPES = {FLOAT: 0, np.dtype("float64"): 1, HALF: 2, BITS: 14}  # cudaDataType_t
ZERO_ONE = {real: np.arange(2, dtype=real) for real in REAL}  # kept here: cuBLAS is given their addresses
ADDRESS = {real: numbers.ctypes.data for real, numbers in ZERO_ONE.items()}


def cublas(xp):
    """Return CuPy's cuBLAS bindings and the cuBLAS handle."""
    return xp.cuda.cublas, xp.cuda.device.get_cublas_handle()


def product(xp, a, b, out=None, add: bool | int = False):
    """Return a @ b for a batch of matrices; float32 inputs are rounded as `precision` says.

    a : (..., M, K)   b : (..., K, N)   with equal leading axes; both as they are, or both from `rounded`
    out : C-contiguous (..., M, N) to write to or, with `add`, to add to; None for a new array
    Transposed views are read in place, where xp.matmul would copy a batch of them.
    Source: cublasGemmStridedBatchedEx. It expects column-major matrices. Ours are row-major, which to it
    are transposed matrices, so it computes out^T = b^T a^T.
    """
    mode = precision.current()
    if a.dtype != b.dtype:  # one was rounded before
        a, b = rounded(xp, a, b, like=b if a.dtype == FLOAT else a)
    elif a.dtype == FLOAT and mode in HALVES:
        a, b = rounded(xp, a, b)
    dtype = a.dtype
    if dtype != b.dtype or dtype not in TYPES:
        raise TypeError(f"product: {a.dtype} and {b.dtype} on a GPU, wanted float32 or float64")
    *batch, M, K = a.shape
    N, real = b.shape[-1], dtype if dtype in REAL else FLOAT
    if out is None:
        out = xp.empty((*batch, M, N), dtype=real)
    if 0 in (M, K, N, *batch):  # cuBLAS takes no empty matrix
        out[...] = out if add else 0.0
        return out
    (a, a_transposed), (b, b_transposed) = as_stored(xp, a), as_stored(xp, b)
    (blas, handle), zero, kind = cublas(xp), ADDRESS[real], TYPES[dtype]
    compute = blas.CUBLAS_COMPUTE_32F if real == FLOAT else blas.CUBLAS_COMPUTE_64F
    if dtype == FLOAT and mode == "tf32":
        compute = blas.CUBLAS_COMPUTE_32F_FAST_TF32
    blas.gemmStridedBatchedEx(
        handle, b_transposed, a_transposed, N, M, K, zero + real.itemsize,
        b.data.ptr, kind, K if b_transposed else N, K * N,
        a.data.ptr, kind, M if a_transposed else K, M * K, zero + real.itemsize * bool(add),
        out.data.ptr, TYPES[real], N, M * N, math.prod(batch), compute, blas.CUBLAS_GEMM_DEFAULT,
    )  # fmt: skip
    return out


def as_stored(xp, z):
    """Return (z, 0) with z C-contiguous, or (its transpose, 1) if only that is C-contiguous."""
    if z.flags.c_contiguous:
        return z, 0
    transposed = z.swapaxes(-1, -2)
    if transposed.flags.c_contiguous:
        return transposed, 1
    return xp.ascontiguousarray(z), 0


ROUND = r"""
// The upper 16 bits of each number, rounded to the nearest, to the even one of two.
extern "C" __global__ void to_bfloat16(const REAL* __restrict__ x, bits* __restrict__ y, size n) {
    const size i = my_index();
    if (i >= n) return;
    const unsigned z = __float_as_uint(x[i]);
    y[i] = x[i] == x[i] ? (z + 0x7fff + (z >> 16 & 1)) >> 16 : 0x7fff;  // nan stays nan
}
"""


def rounded(xp, *arrays, like=None):
    """Return float32 arrays as products read them: float16 or bfloat16 copies where that is the precision, or
    that of `like`, an array from an earlier call. The bits of bfloat16 are in a uint16.
    """
    name = precision.current() if like is None else {HALF: "float16", BITS: "bfloat16"}.get(like.dtype)
    if name not in HALVES:
        return arrays
    return tuple(z if z.dtype != FLOAT else _to_half(xp, z, name) for z in arrays)


def _to_half(xp, z, name: str):
    if name == "float16":
        return z.astype(HALF)
    stored, transposed = as_stored(xp, z)
    y = xp.empty(stored.shape, dtype=BITS)
    launch(xp, ROUND, "to_bfloat16", y.size, stored, y, y.size)
    return y.swapaxes(-1, -2) if transposed else y


BIAS = r"""
// One thread per channel of `slab` rows: their sum, in sums (slabs, C). Then the totals.
extern "C" __global__ void column_sums(
    const REAL* __restrict__ dy, REAL* sums, size* arrived, REAL* dbias, size more,
    size rows, size C, size slab)
{
    const size c = my_channel(), first = my_part() * slab;
    if (c < C) {
        REAL sum = 0;
        for (size row = first; row < rows && row < first + slab; ++row) sum += dy[row * C + c];
        sums[my_part() * C + c] = sum;
    }
    if (all_arrived(arrived) && c < C) put(dbias, c, total(sums, C, c), more);
}
"""


def bias_gradient(xp, dy, bias):
    """Return the sum of the rows of dy (N, C), where the gradient of the bias is kept."""
    (dy,), (N, C), (dbias, more) = packed(xp, dy), dy.shape, place_for(xp, bias)
    slabs, slab = slabs_of(N)
    sums = xp.empty((slabs, C), dtype=dy.dtype)
    launch(xp, BIAS, "column_sums", (slabs, C), dy, sums, counters(xp, C), dbias, more, N, C, slab)
    return dbias


@ops.linear.faster("cupy")
def linear(xp, x, weight, bias=None):
    """Adds the bias in place. Keeps x and the weight as the products read them."""
    shape, (inputs, w) = x.shape, rounded(xp, rows(x), weight)
    y = product(xp, inputs, w.T).reshape(*shape[:-1], weight.shape[0])
    if bias is not None:
        y += bias

    def backward(dy):
        dy = rows(dy)
        (d,) = rounded(xp, dy, like=w)
        dx, dweight = product(xp, d, w).reshape(shape), product(xp, d.T, inputs, *place_for(xp, weight))
        return dx, dweight, None if bias is None else bias_gradient(xp, dy, bias)

    return y, backward
