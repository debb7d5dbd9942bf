"""Matrix products by cuBLAS, in the precision that is set."""

import math

import numpy as np

from minigam.engine import ops, precision
from minigam.engine.cuda.kernels import REAL
from minigam.engine.numeric import rows


def cublas(xp):
    """Return CuPy's own door to cuBLAS, and the handle to it."""
    return xp.cuda.cublas, xp.cuda.device.get_cublas_handle()


def product(xp, a, b, out=None, add: bool = False):
    """Return a @ b, matrix by matrix; of float32 arrays as `precision` says.

    a : (..., M, K)   b : (..., K, N)   out : a C-contiguous (..., M, N) to write into, or with `add`
    to add to; None for a new one. The leading axes are the same in all.
    Transposed views are read as they lie, where xp.matmul would first copy a batch of them.
    Source: cublasGemmStridedBatchedEx. It takes matrices column by column, which for ours, that lie row
    by row, means all transposed: out^T = b^T a^T.
    """
    if a.dtype.name not in REAL:
        raise TypeError(f"product: {a.dtype} on a GPU, wanted {' or '.join(REAL)}")
    *batch, M, K = a.shape
    N = b.shape[-1]
    out = xp.empty((*batch, M, N), dtype=a.dtype) if out is None else out
    (a, a_turned), (b, b_turned) = as_stored(xp, a), as_stored(xp, b)
    blas, handle = cublas(xp)
    how = precision.current() if out.dtype == np.float32 else out.dtype.name
    if how == "float16":
        a, b = a.astype(np.float16), b.astype(np.float16)
    compute = {"float64": blas.CUBLAS_COMPUTE_64F, "tf32": blas.CUBLAS_COMPUTE_32F_FAST_TF32}
    kinds = {"float16": 2, "float32": 0, "float64": 1}  # cudaDataType_t
    alpha, beta = np.ones((), out.dtype), np.full((), add, out.dtype)
    blas.gemmStridedBatchedEx(
        handle, int(b_turned), int(a_turned), N, M, K, alpha.ctypes.data,
        b.data.ptr, kinds[b.dtype.name], b.shape[-1], K * N,
        a.data.ptr, kinds[a.dtype.name], a.shape[-1], M * K, beta.ctypes.data,
        out.data.ptr, kinds[out.dtype.name], N, M * N,
        math.prod(batch), compute.get(how, blas.CUBLAS_COMPUTE_32F), blas.CUBLAS_GEMM_DEFAULT,
    )  # fmt: skip
    return out


def as_stored(xp, z):
    """Return an array whose matrices lie in memory as they are, and whether z has them transposed."""
    turned = z.swapaxes(-1, -2)
    if not z.flags.c_contiguous and turned.flags.c_contiguous:
        return turned, True
    return xp.ascontiguousarray(z), False


@ops.linear.faster("cupy")
def linear(xp, x, weight, bias=None):
    """The bias added in place, its gradient a product with ones."""
    shape, x = x.shape, rows(x)
    y = product(xp, x, weight.T).reshape(*shape[:-1], weight.shape[0])
    if bias is not None:
        y += bias

    def backward(dy):
        dy = rows(dy)
        dx, dweight = product(xp, dy, weight).reshape(shape), product(xp, dy.T, x)
        return dx, dweight, None if bias is None else xp.ones(len(dy), dtype=dy.dtype) @ dy

    return y, backward
