"""The losses: cross-entropy of logits, and of a linear head whose logits never exist all at once."""

from minigam.engine import ops
from minigam.engine.cuda.kernels import WARP, launch, packed
from minigam.engine.cuda.linear import product
from minigam.engine.numeric import rows

CROSS_ENTROPY = r"""
// A warp for each row: its loss, and for the way back its largest logit and the sum of exp(logit - largest).
extern "C" __global__ void cross_entropy(
    const REAL* __restrict__ logits, const size* __restrict__ targets, REAL* __restrict__ losses,
    REAL* __restrict__ tops, REAL* __restrict__ totals, size rows, size V)
{
    const size row = my_row(), begin = row * V;
    if (row >= rows) return;
    REAL top = logits[begin], total = 0;
    for (size v = my_lane(); v < V; v += 32) top = fmax(top, logits[begin + v]);  // total is nan if one is
    top = max_of_warp(top);
    for (size v = my_lane(); v < V; v += 32) total += exp(logits[begin + v] - top);
    total = sum_of_warp(total);
    if (my_lane() == 0) {
        const size target = targets[row] >= 0 ? targets[row] : 0;
        const REAL counts = targets[row] >= 0;
        losses[row] = counts * (log(total) - (logits[begin + target] - top));
        tops[row] = top;
        totals[row] = total;
    }
}

// dlogits may be logits itself.   softmax, less 1 at the target
extern "C" __global__ void cross_entropy_back(
    const REAL* logits, const size* __restrict__ targets, const REAL* __restrict__ tops,
    const REAL* __restrict__ totals, const REAL* __restrict__ dlosses, REAL* dlogits, size rows, size V)
{
    const size row = my_row(), begin = row * V;
    if (row >= rows) return;
    const REAL top = tops[row], total = totals[row], counts = targets[row] >= 0;
    const REAL weight = counts * dlosses[row];
    for (size v = my_lane(); v < V; v += 32)
        dlogits[begin + v] = (exp(logits[begin + v] - top) / total - (v == targets[row])) * weight;
}
"""


class Losses:
    """The losses of the rows of logits (N, V), and what their gradient needs. C-contiguous, int64 targets."""

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
    """Keeps the logits and two numbers a row."""
    shape, (z, t) = logits.shape, packed(xp, rows(logits), targets.reshape(-1))
    losses = Losses(xp, z, t)

    def backward(dy):
        (dy,), dlogits = packed(xp, dy.reshape(-1)), xp.empty(z.shape, dtype=z.dtype)
        losses.backward(dy, dlogits)
        return dlogits.reshape(shape), None

    return losses.values.reshape(targets.shape), backward


ROWS = 4096  # of logits that exist at a time


@ops.linear_cross_entropy.faster("cupy")
def linear_cross_entropy(xp, x, weight, targets):
    """The logits of some rows at a time, each with its gradient at once, written over it. Keeps dx and
    dweight of the sum of the losses: y is their mean, so its own cotangent only scales them.

    That the gradient of the sum is kept, and not of the mean, is for float16, which has no numbers
    below 6e-8 and whose loss scale comes too late here.
    """
    shape, (x, weight, t) = x.shape, packed(xp, rows(x), weight, targets.reshape(-1))
    N = len(x)
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
        by = dy / count
        return (dx * by).reshape(shape), dweight * by, None

    return values.sum() / count, backward
