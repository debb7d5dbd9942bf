"""Rules that treat each row alone, a warp for each: softmax and layer norm.

Each thread of the warp reads every 32nd entry, so that neighbours in the warp read neighbours in memory.
"""

from minigam import ops
from minigam.backend import rows
from minigam.fast_cupy.kernels import WARP, launch, packed

SOFTMAX = r"""
// y may be x itself.
extern "C" __global__ void softmax(const REAL* x, REAL* y, size rows, size width) {
    const size begin = my_row() * width + my_lane(), end = (my_row() + 1) * width;
    if (my_row() >= rows) return;
    REAL top = x[my_row() * width], total = 0;
    for (size i = begin; i < end; i += 32) top = fmax(top, x[i]);  // passes nan over, which total then is
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
    """Write what softmax hands back for dy into dx, which may be dy; all C-contiguous."""
    N, width = rows(y).shape
    launch(xp, SOFTMAX, "softmax_back", N * WARP, y, dy, dx, N, width)


@ops.softmax.faster("cupy")
def softmax(xp, x):
    """Keeps y alone."""
    (x,), y = packed(xp, x), xp.empty(x.shape, dtype=x.dtype)
    softmax_of(xp, x, y)

    def backward(dy):
        (dy,), dx = packed(xp, dy), xp.empty(y.shape, dtype=y.dtype)
        softmax_backward(xp, y, dy, dx)
        return (dx,)

    return y, backward


SLAB = 64  # rows that one thread adds up, for one channel

LAYER_NORM = r"""
extern "C" __global__ void layer_norm(
    const REAL* __restrict__ x, const REAL* __restrict__ weight, const REAL* __restrict__ bias,
    REAL* __restrict__ y, REAL* __restrict__ means, REAL* __restrict__ scales, size rows, size C, REAL eps)
{
    const size row = my_row(), begin = row * C;
    if (row >= rows) return;
    REAL mean = 0, variance = 0;
    for (size c = my_lane(); c < C; c += 32) mean += x[begin + c];
    mean = sum_of_warp(mean) / C;
    for (size c = my_lane(); c < C; c += 32) variance += (x[begin + c] - mean) * (x[begin + c] - mean);
    const REAL scale = 1 / sqrt(sum_of_warp(variance) / C + eps);
    for (size c = my_lane(); c < C; c += 32)
        y[begin + c] = (x[begin + c] - mean) * scale * weight[c] + bias[c];
    if (my_lane() == 0) {
        means[row] = mean;
        scales[row] = scale;
    }
}

extern "C" __global__ void layer_norm_dx(
    const REAL* __restrict__ x, const REAL* __restrict__ weight, const REAL* __restrict__ means,
    const REAL* __restrict__ scales, const REAL* __restrict__ dy, REAL* __restrict__ dx, size rows, size C)
{
    const size row = my_row(), begin = row * C;
    if (row >= rows) return;
    const REAL mean = means[row], scale = scales[row];
    REAL mean_dn = 0, mean_dn_n = 0;  // through the mean, through the variance
    for (size c = my_lane(); c < C; c += 32) {
        const REAL dn = dy[begin + c] * weight[c];
        mean_dn += dn;
        mean_dn_n += dn * (x[begin + c] - mean) * scale;
    }
    mean_dn = sum_of_warp(mean_dn) / C;
    mean_dn_n = sum_of_warp(mean_dn_n) / C;
    for (size c = my_lane(); c < C; c += 32) {
        const REAL n = (x[begin + c] - mean) * scale;
        dx[begin + c] = scale * (dy[begin + c] * weight[c] - mean_dn - n * mean_dn_n);
    }
}

// One thread for one channel of `slab` rows: their part of dweight and dbias, sums (slabs, 2, C).
extern "C" __global__ void layer_norm_sums(
    const REAL* __restrict__ x, const REAL* __restrict__ means, const REAL* __restrict__ scales,
    const REAL* __restrict__ dy, REAL* __restrict__ sums, size rows, size C, size slab)
{
    const size part = my_index() / C, c = my_index() % C, first = part * slab;
    if (first >= rows) return;
    REAL dweight = 0, dbias = 0;
    for (size row = first; row < rows && row < first + slab; ++row) {
        dweight += dy[row * C + c] * (x[row * C + c] - means[row]) * scales[row];
        dbias += dy[row * C + c];
    }
    sums[part * 2 * C + c] = dweight;
    sums[part * 2 * C + C + c] = dbias;
}
"""


@ops.layer_norm.faster("cupy")
def layer_norm(xp, x, weight, bias, *, eps: float = 1e-5):
    """Keeps x and two numbers a row; backward normalises again."""
    if not weight.shape == bias.shape == x.shape[-1:]:
        return ops.layer_norm.rule(xp, x, weight, bias, eps=eps)  # which says what is wrong
    x, weight, bias = packed(xp, x, weight, bias)
    (N, C), y = rows(x).shape, xp.empty(x.shape, dtype=x.dtype)
    means, scales = (xp.empty(N, dtype=x.dtype) for _ in range(2))
    launch(xp, LAYER_NORM, "layer_norm", N * WARP, x, weight, bias, y, means, scales, N, C, float(eps))

    def backward(dy):
        (dy,), dx, slabs = packed(xp, dy), xp.empty(x.shape, dtype=x.dtype), -(-N // SLAB)
        launch(xp, LAYER_NORM, "layer_norm_dx", N * WARP, x, weight, means, scales, dy, dx, N, C)
        sums = xp.empty((slabs, 2, C), dtype=x.dtype)
        launch(xp, LAYER_NORM, "layer_norm_sums", slabs * C, x, means, scales, dy, sums, N, C, SLAB)
        total = sums.sum(axis=0)
        return dx, total[0], total[1]

    return y, backward
