"""Matrix products by cuBLAS, in the current precision."""

import math

import numpy as np

from minigam.engine import ops, precision
from minigam.engine.cuda.kernels import REAL
from minigam.engine.numeric import rows


def cublas(xp):
    """Return CuPy's cuBLAS bindings and the cuBLAS handle."""
    return xp.cuda.cublas, xp.cuda.device.get_cublas_handle()


def product(xp, a, b, out=None, add: bool = False):
    """Return a @ b for a batch of matrices; float32 inputs are rounded as `precision` says.

    a : (..., M, K)   b : (..., K, N)   with equal leading axes
    out : C-contiguous (..., M, N) to write to or, with `add`, to add to; None for a new array
    Transposed views are read in place, where xp.matmul would copy a batch of them.
    Source: cublasGemmStridedBatchedEx. It expects column-major matrices. Ours are row-major, which to it
    are transposed matrices, so it computes out^T = b^T a^T.
    """
    if a.dtype.name not in REAL:
        raise TypeError(f"product: {a.dtype} on a GPU, wanted {' or '.join(REAL)}")
    *batch, M, K = a.shape
    N = b.shape[-1]
    out = xp.empty((*batch, M, N), dtype=a.dtype) if out is None else out
    if 0 in (*batch, M, K, N):  # cuBLAS takes no empty matrix
        out[...] = out if add else 0.0
        return out
    (a, a_transposed), (b, b_transposed) = as_stored(xp, a), as_stored(xp, b)
    blas, handle = cublas(xp)
    mode = precision.current() if out.dtype == np.float32 else out.dtype.name
    if mode == "float16":
        a, b = a.astype(np.float16), b.astype(np.float16)
    compute = {"float64": blas.CUBLAS_COMPUTE_64F, "tf32": blas.CUBLAS_COMPUTE_32F_FAST_TF32}
    types = {"float16": 2, "float32": 0, "float64": 1}  # cudaDataType_t
    alpha, beta = np.ones((), out.dtype), np.full((), add, out.dtype)
    blas.gemmStridedBatchedEx(
        handle, int(b_transposed), int(a_transposed), N, M, K, alpha.ctypes.data,
        b.data.ptr, types[b.dtype.name], b.shape[-1], K * N,
        a.data.ptr, types[a.dtype.name], a.shape[-1], M * K, beta.ctypes.data,
        out.data.ptr, types[out.dtype.name], N, M * N,
        math.prod(batch), compute.get(mode, blas.CUBLAS_COMPUTE_32F), blas.CUBLAS_GEMM_DEFAULT,
    )  # fmt: skip
    return out


def as_stored(xp, z):
    """Return (z, False) with z C-contiguous, or (its transpose, True) if only that is C-contiguous."""
    transposed = z.swapaxes(-1, -2)
    if not z.flags.c_contiguous and transposed.flags.c_contiguous:
        return transposed, True
    return xp.ascontiguousarray(z), False


@ops.linear.faster("cupy")
def linear(xp, x, weight, bias=None):
    """Adds the bias in place; its gradient is a product with ones."""
    shape, x = x.shape, rows(x)
    y = product(xp, x, weight.T).reshape(*shape[:-1], weight.shape[0])
    if bias is not None:
        y += bias

    def backward(dy):
        dy = rows(dy)
        dx, dweight = product(xp, dy, weight).reshape(shape), product(xp, dy.T, x)
        return dx, dweight, None if bias is None else xp.ones(len(dy), dtype=dy.dtype) @ dy

    return y, backward
