"""Cross-entropy of logits, and of a linear head whose logits are never all in memory."""

from minigam.engine import ops
from minigam.engine.cuda.gradients import place_for
from minigam.engine.cuda.kernels import WARP, launch
from minigam.engine.cuda.linear import product, rounded
from minigam.engine.numeric import packed, rows

CROSS_ENTROPY = r"""
struct Row { REAL top, total; };

// The largest number of a row and the sum of exp(x - largest), in one pass: each thread scales its sum down
// when it meets a larger number, and the warp scales all sums to the largest of all.
__device__ Row read_row(const REAL* x, size width) {
    REAL top = x[0], total = 0;
    for (size i = my_lane(); i < width; i += 32) {
        if (x[i] > top) {
            total = total * exp(top - x[i]) + 1;
            top = x[i];
        } else {
            total += x[i] == top ? (REAL)1 : exp(x[i] - top);  // also for -inf; nan goes into total
        }
    }
    const REAL largest = max_of_warp(top);
    return {largest, sum_of_warp(total * exp(top - largest))};
}

// softmax, minus 1 at the target
__device__ REAL slope_of(REAL logit, size v, size target, Row row) {
    return target >= 0 ? exp(logit - row.top) / row.total - (v == target) : (REAL)0;
}

// One warp per row: its loss and, for backward, its largest logit and the sum of exp(logit - largest).
extern "C" __global__ void cross_entropy(
    const REAL* __restrict__ logits, const size* __restrict__ targets, REAL* __restrict__ losses,
    REAL* __restrict__ tops, REAL* __restrict__ totals, size rows, size V)
{
    const size row = my_row();
    if (row >= rows) return;
    const Row read = read_row(logits + row * V, V);
    if (my_lane() == 0) {
        const size target = targets[row] >= 0 ? targets[row] : 0;
        const REAL loss = log(read.total) - (logits[row * V + target] - read.top);
        losses[row] = targets[row] >= 0 ? loss : (REAL)0;
        tops[row] = read.top;
        totals[row] = read.total;
    }
}

extern "C" __global__ void cross_entropy_back(
    const REAL* __restrict__ logits, const size* __restrict__ targets, const REAL* __restrict__ tops,
    const REAL* __restrict__ totals, const REAL* __restrict__ dlosses, REAL* __restrict__ dlogits,
    size rows, size V)
{
    const size row = my_row(), begin = row * V;
    if (row >= rows) return;
    const Row read = {tops[row], totals[row]};
    for (size v = my_lane(); v < V; v += 32)
        dlogits[begin + v] = slope_of(logits[begin + v], v, targets[row], read) * dlosses[row];
}

// One warp per row: its loss; the logits become the gradient of the sum of the losses.
extern "C" __global__ void losses_and_slopes(
    REAL* logits, const size* __restrict__ targets, REAL* __restrict__ losses, size rows, size V)
{
    const size row = my_row(), begin = row * V;
    if (row >= rows) return;
    const Row read = read_row(logits + begin, V);
    if (my_lane() == 0 && targets[row] < 0) losses[row] = 0;
    for (size v = my_lane(); v < V; v += 32) {
        const REAL logit = logits[begin + v];
        if (v == targets[row]) losses[row] = log(read.total) - (logit - read.top);
        logits[begin + v] = slope_of(logit, v, targets[row], read);
    }
}

// One thread per channel of a row: x, or 0 where the target is ignored, so that nan there changes nothing.
extern "C" __global__ void without_ignored(
    const REAL* __restrict__ x, const size* __restrict__ targets, REAL* __restrict__ y, size C)
{
    const size c = my_channel(), i = my_part() * C + c;
    if (c < C) y[i] = targets[my_part()] >= 0 ? x[i] : (REAL)0;
}

// One warp: the mean of the losses of the targets that count, and 1 / their number.
extern "C" __global__ void mean_loss(
    const REAL* __restrict__ losses, const size* __restrict__ targets, REAL* __restrict__ mean,
    REAL* __restrict__ share, size rows)
{
    REAL sum = 0, count = 0;
    for (size row = my_lane(); row < rows; row += 32) {
        sum += losses[row];
        count += targets[row] >= 0;
    }
    sum = sum_of_warp(sum);
    count = sum_of_warp(count);
    if (my_index() == 0) {
        *mean = sum / count;
        *share = 1 / fmax(count, (REAL)1);
    }
}

// y = x dy share, added to y where `more` says so.
extern "C" __global__ void scale(
    const REAL* __restrict__ x, const REAL* __restrict__ dy, const REAL* __restrict__ share, REAL* y,
    size more, size n)
{
    const size i = my_index();
    if (i < n) y[i] = (more ? y[i] : (REAL)0) + x[i] * (*dy * *share);
}
"""


@ops.cross_entropy.faster("cupy")
def cross_entropy(xp, logits, targets):
    """Keeps the logits and two numbers per row."""
    shape, (z, t) = logits.shape, packed(xp, rows(logits), targets.reshape(-1))
    (N, V), (losses, tops, totals) = z.shape, (xp.empty(len(z), dtype=z.dtype) for _ in range(3))
    launch(xp, CROSS_ENTROPY, "cross_entropy", N * WARP, z, t, losses, tops, totals, N, V)

    def backward(dy):
        (dy,), dlogits = packed(xp, dy.reshape(-1)), xp.empty(z.shape, dtype=z.dtype)
        launch(xp, CROSS_ENTROPY, "cross_entropy_back", N * WARP, z, t, tops, totals, dy, dlogits, N, V)
        return dlogits.reshape(shape), None

    return losses.reshape(targets.shape), backward


ROWS = 4096  # rows of logits in memory at a time


@ops.linear_cross_entropy.faster("cupy")
def linear_cross_entropy(xp, x, weight, targets):
    """Computes the logits of some rows at a time and overwrites them with their gradient. Keeps dx and
    dweight of the sum of the losses: y is their mean, so its cotangent only scales them.

    The gradient of the sum, not of the mean, is kept because of float16: it has no numbers below
    6e-8, and the loss scale arrives only with the cotangent, too late for these products.
    """
    shape, (x, weight, t) = x.shape, packed(xp, rows(x), weight, targets.reshape(-1))
    (N, C), V = x.shape, len(weight)
    counted, dx, dweight = (xp.empty(z.shape, dtype=x.dtype) for z in (x, x, weight))
    losses, mean, share = (xp.empty(n, dtype=x.dtype) for n in (N, (), ()))
    launch(xp, CROSS_ENTROPY, "without_ignored", (N, C), x, t, counted, C)
    counted, w = rounded(xp, counted, weight)
    logits = xp.empty((min(ROWS, N), V), dtype=x.dtype)
    for start in range(0, max(N, 1), ROWS):
        part = slice(start, min(start + ROWS, N))
        z = product(xp, counted[part], w.T, out=logits[: part.stop - start])
        launch(xp, CROSS_ENTROPY, "losses_and_slopes", len(z) * WARP, z, t[part], losses[part], len(z), V)
        (z,) = rounded(xp, z)
        product(xp, z, w, out=dx[part])
        product(xp, z.T, counted[part], out=dweight, add=start > 0)
    launch(xp, CROSS_ENTROPY, "mean_loss", WARP, losses, t, mean, share, N)

    def backward(dy):
        dx_scaled, (place, more) = xp.empty(dx.shape, dtype=x.dtype), place_for(xp, weight)
        launch(xp, CROSS_ENTROPY, "scale", dx.size, dx, dy, share, dx_scaled, 0, dx.size)
        launch(xp, CROSS_ENTROPY, "scale", dweight.size, dweight, dy, share, place, more, dweight.size)
        return dx_scaled.reshape(shape), place, None

    return mean, backward
