"""Cross-entropy of logits, and of a linear head whose logits are never all in memory."""

from minigam.engine import ops
from minigam.engine.cuda.kernels import WARP, launch
from minigam.engine.cuda.linear import product
from minigam.engine.numeric import packed, rows, without_ignored

CROSS_ENTROPY = r"""
// One warp per row: its loss and, for backward, its largest logit and the sum of exp(logit - largest).
extern "C" __global__ void cross_entropy(
    const REAL* __restrict__ logits, const size* __restrict__ targets, REAL* __restrict__ losses,
    REAL* __restrict__ tops, REAL* __restrict__ totals, size rows, size V)
{
    const size row = my_row(), begin = row * V;
    if (row >= rows) return;
    REAL top = logits[begin], total = 0;
    for (size v = my_lane(); v < V; v += 32) top = fmax(top, logits[begin + v]);  // ignores nan
    top = max_of_warp(top);
    for (size v = my_lane(); v < V; v += 32) total += exp(logits[begin + v] - top);
    total = sum_of_warp(total);
    if (my_lane() == 0) {
        const size target = targets[row] >= 0 ? targets[row] : 0;
        losses[row] = targets[row] >= 0 ? log(total) - (logits[begin + target] - top) : (REAL)0;
        tops[row] = top;
        totals[row] = total;
    }
}

// softmax, minus 1 at the target. dlogits may be logits itself.
extern "C" __global__ void cross_entropy_back(
    const REAL* logits, const size* __restrict__ targets, const REAL* __restrict__ tops,
    const REAL* __restrict__ totals, const REAL* __restrict__ dlosses, REAL* dlogits, size rows, size V)
{
    const size row = my_row(), begin = row * V;
    if (row >= rows) return;
    const REAL top = tops[row], total = totals[row], weight = dlosses[row];
    for (size v = my_lane(); v < V; v += 32) {
        const REAL share = exp(logits[begin + v] - top) / total;
        dlogits[begin + v] = targets[row] >= 0 ? (share - (v == targets[row])) * weight : (REAL)0;
    }
}
"""


class Losses:
    """The losses of the rows of C-contiguous logits (N, V), with int64 targets, and their gradient."""

    def __init__(self, xp, logits, targets):
        self.xp, self.logits, self.targets = xp, logits, targets
        N, V = logits.shape
        self.values, self.tops, self.totals = (xp.empty(N, dtype=logits.dtype) for _ in range(3))
        launch(xp, CROSS_ENTROPY, "cross_entropy", N * WARP, logits, targets,
               self.values, self.tops, self.totals, N, V)  # fmt: skip

    def backward(self, dlosses, dlogits) -> None:
        """Write the gradient into dlogits, which may be the logits themselves."""
        N, V = self.logits.shape
        launch(self.xp, CROSS_ENTROPY, "cross_entropy_back", N * WARP, self.logits, self.targets,
               self.tops, self.totals, dlosses, dlogits, N, V)  # fmt: skip


@ops.cross_entropy.faster("cupy")
def cross_entropy(xp, logits, targets):
    """Keeps the logits and two numbers per row."""
    shape, (z, t) = logits.shape, packed(xp, rows(logits), targets.reshape(-1))
    losses = Losses(xp, z, t)

    def backward(dy):
        (dy,), dlogits = packed(xp, dy.reshape(-1)), xp.empty(z.shape, dtype=z.dtype)
        losses.backward(dy, dlogits)
        return dlogits.reshape(shape), None

    return losses.values.reshape(targets.shape), backward


ROWS = 4096  # rows of logits in memory at a time


@ops.linear_cross_entropy.faster("cupy")
def linear_cross_entropy(xp, x, weight, targets):
    """Computes the logits of some rows at a time and overwrites them with their gradient. Keeps dx and
    dweight of the sum of the losses: y is their mean, so its cotangent only scales them.

    The gradient of the sum, not of the mean, is kept because of float16: it has no numbers below
    6e-8, and the loss scale arrives only with the cotangent, too late for these products.
    """
    shape, (x, weight, t) = x.shape, packed(xp, rows(x), weight, targets.reshape(-1))
    x, N = without_ignored(xp, x, t), len(x)
    dx, dweight = xp.empty(x.shape, dtype=x.dtype), xp.zeros(weight.shape, dtype=x.dtype)
    values, ones = xp.empty(N, dtype=x.dtype), xp.ones(N, dtype=x.dtype)
    logits = xp.empty((min(ROWS, N), len(weight)), dtype=x.dtype)
    for start in range(0, N, ROWS):
        part = slice(start, min(start + ROWS, N))
        z = product(xp, x[part], weight.T, out=logits[: part.stop - start])
        losses = Losses(xp, z, t[part])
        values[part] = losses.values
        losses.backward(ones[part], z)
        product(xp, z, weight, out=dx[part])
        product(xp, z.T, x[part], out=dweight, add=True)
    count = (t >= 0).sum().astype(x.dtype)

    def backward(dy):
        scale = dy / xp.maximum(count, 1.0)
        return (dx * scale).reshape(shape), dweight * scale, None

    return values.sum() / count, backward
