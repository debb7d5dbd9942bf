"""LayerNorm, one warp per row; for the sums over rows, one thread per channel."""

from minigam.engine import ops
from minigam.engine.cuda.gradients import place_for
from minigam.engine.cuda.kernels import SLAB, WARP, counters, launch
from minigam.engine.numeric import packed, rows

LAYER_NORM = r"""
extern "C" __global__ void layer_norm(
    const REAL* __restrict__ x, const REAL* __restrict__ weight, const REAL* __restrict__ bias,
    REAL* __restrict__ y, REAL* __restrict__ means, REAL* __restrict__ shifts, REAL* __restrict__ scales,
    size rows, size C, REAL eps)
{
    const size row = my_row(), begin = row * C;
    if (row >= rows) return;
    REAL mean = 0, shift = 0, variance = 0;
    for (size c = my_lane(); c < C; c += 32) mean += x[begin + c] / C;
    mean = sum_of_warp(mean);
    for (size c = my_lane(); c < C; c += 32) shift += x[begin + c] - mean;
    shift = sum_of_warp(shift) / C;  // the rounding error of the mean
    for (size c = my_lane(); c < C; c += 32) {
        const REAL centred = x[begin + c] - mean - shift;
        variance += centred * centred;
    }
    const REAL scale = 1 / sqrt(sum_of_warp(variance) / C + eps);
    for (size c = my_lane(); c < C; c += 32)
        y[begin + c] = (x[begin + c] - mean - shift) * scale * weight[c] + bias[c];
    if (my_lane() == 0) {
        means[row] = mean;
        shifts[row] = shift;
        scales[row] = scale;
    }
}

extern "C" __global__ void layer_norm_dx(
    const REAL* __restrict__ x, const REAL* __restrict__ weight, const REAL* __restrict__ means,
    const REAL* __restrict__ shifts, const REAL* __restrict__ scales, const REAL* __restrict__ dy,
    REAL* __restrict__ dx, size rows, size C)
{
    const size row = my_row(), begin = row * C;
    if (row >= rows) return;
    const REAL mean = means[row], shift = shifts[row], scale = scales[row];
    REAL mean_dn = 0, mean_dn_n = 0;  // through the mean, through the variance
    for (size c = my_lane(); c < C; c += 32) {
        const REAL dn = dy[begin + c] * weight[c];
        mean_dn += dn;
        mean_dn_n += dn * (x[begin + c] - mean - shift) * scale;
    }
    mean_dn = sum_of_warp(mean_dn) / C;
    mean_dn_n = sum_of_warp(mean_dn_n) / C;
    for (size c = my_lane(); c < C; c += 32) {
        const REAL n = (x[begin + c] - mean - shift) * scale;
        dx[begin + c] = scale * (dy[begin + c] * weight[c] - mean_dn - n * mean_dn_n);
    }
}

// One thread per channel of `slab` rows: their part of dweight and dbias, in sums (slabs, 2, C). Then the
// totals, added to dweight if `more` says so, to dbias if `more_bias` does, else written there.
extern "C" __global__ void layer_norm_sums(
    const REAL* __restrict__ x, const REAL* __restrict__ means, const REAL* __restrict__ shifts,
    const REAL* __restrict__ scales, const REAL* __restrict__ dy, REAL* sums, size* arrived,
    REAL* dweight, size more, REAL* dbias, size more_bias, size rows, size C, size slab)
{
    const size c = my_channel(), first = my_part() * slab;
    if (c < C) {
        REAL weighted = 0, plain = 0;
        for (size row = first; row < rows && row < first + slab; ++row) {
            weighted += dy[row * C + c] * (x[row * C + c] - means[row] - shifts[row]) * scales[row];
            plain += dy[row * C + c];
        }
        sums[my_part() * 2 * C + c] = weighted;
        sums[my_part() * 2 * C + C + c] = plain;
    }
    if (!all_arrived(arrived) || c >= C) return;
    dweight[c] = (more ? dweight[c] : (REAL)0) + total(sums, 2 * C, c);
    dbias[c] = (more_bias ? dbias[c] : (REAL)0) + total(sums, 2 * C, C + c);
}
"""


@ops.layer_norm.faster("cupy")
def layer_norm(xp, x, weight, bias, *, eps: float = 1e-5):
    """Keeps x and three numbers per row; backward normalises again."""
    x, weight, bias = packed(xp, x, weight, bias)
    (N, C), y = rows(x).shape, xp.empty(x.shape, dtype=x.dtype)
    moments = tuple(xp.empty(N, dtype=x.dtype) for _ in range(3))  # mean, shift, scale
    launch(xp, LAYER_NORM, "layer_norm", N * WARP, x, weight, bias, y, *moments, N, C, float(eps))

    def backward(dy):
        dy, dx, slabs = *packed(xp, dy), xp.empty(x.shape, dtype=x.dtype), max(1, -(-N // SLAB))
        launch(xp, LAYER_NORM, "layer_norm_dx", N * WARP, x, weight, *moments, dy, dx, N, C)
        sums, dweight, dbias = (
            xp.empty((slabs, 2, C), dtype=x.dtype),
            place_for(xp, weight),
            place_for(xp, bias),
        )
        launch(xp, LAYER_NORM, "layer_norm_sums", (slabs, C), x, *moments, dy, sums, counters(xp, C),
               *dweight, *dbias, N, C, SLAB)  # fmt: skip
        return dx, dweight[0], dbias[0]

    return y, backward
