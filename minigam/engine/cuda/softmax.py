"""Softmax, one warp per row.

Each thread of the warp reads every 32nd entry, so that neighbouring threads read neighbouring numbers.
"""

from minigam.engine import ops
from minigam.engine.cuda.kernels import WARP, launch
from minigam.engine.numeric import packed, rows

SOFTMAX = r"""
// y may be x itself.
extern "C" __global__ void softmax(const REAL* x, REAL* y, size rows, size width) {
    const size begin = my_row() * width + my_lane(), end = (my_row() + 1) * width;
    if (my_row() >= rows) return;
    REAL top = x[my_row() * width], total = 0;
    for (size i = begin; i < end; i += 32) top = fmax(top, x[i]);  // ignores nan, but total does not
    top = max_of_warp(top);
    for (size i = begin; i < end; i += 32) {
        y[i] = exp(x[i] - top);
        total += y[i];
    }
    total = sum_of_warp(total);
    for (size i = begin; i < end; i += 32) y[i] /= total;
}

// dx may be dy itself.   dx_i = y_i (dy_i - sum over j of dy_j y_j)
extern "C" __global__ void softmax_back(const REAL* y, const REAL* dy, REAL* dx, size rows, size width) {
    const size begin = my_row() * width + my_lane(), end = (my_row() + 1) * width;
    if (my_row() >= rows) return;
    REAL mean = 0;
    for (size i = begin; i < end; i += 32) mean += dy[i] * y[i];
    mean = sum_of_warp(mean);
    for (size i = begin; i < end; i += 32) dx[i] = y[i] * (dy[i] - mean);
}
"""


def softmax_of(xp, x, y) -> None:
    """Write the softmax of every row of x into y, which may be x; both C-contiguous."""
    N, width = rows(x).shape
    launch(xp, SOFTMAX, "softmax", N * WARP, x, y, N, width)


def softmax_backward(xp, y, dy, dx) -> None:
    """Write dL/dx of y = softmax(x) into dx, which may be dy; all C-contiguous."""
    N, width = rows(y).shape
    launch(xp, SOFTMAX, "softmax_back", N * WARP, y, dy, dx, N, width)


@ops.softmax.faster("cupy")
def softmax(xp, x):
    """Keeps only y."""
    (x,), y = packed(xp, x), xp.empty(x.shape, dtype=x.dtype)
    softmax_of(xp, x, y)

    def backward(dy):
        (dy,), dx = packed(xp, dy), xp.empty(y.shape, dtype=y.dtype)
        softmax_backward(xp, y, dy, dx)
        return (dx,)

    return y, backward
