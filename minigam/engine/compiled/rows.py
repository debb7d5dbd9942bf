"""Rules that work on rows: layer_norm, softmax, the bias of linear, and the loss of a linear head."""

import numpy as np

from minigam.engine import ops
from minigam.engine.compiled.kernels import SOURCES, blocks_of, launch, rule_for
from minigam.engine.numeric import packed, rows, without_ignored

SOURCES.append(r"""
KERNEL layer_norm(
    size first, size last, const REAL* x, const REAL* weight, const REAL* bias, REAL* y, REAL* moments,
    size C, REAL eps)
{
    for (size row = first; row < last; ++row) {
        const REAL* in = x + row * C;
        REAL* out = y + row * C;
        REAL mean = 0, shift = 0, variance = 0, share = (REAL)1 / C;
        SUM(mean) for (size c = 0; c < C; ++c) mean += in[c] * share;
        SUM(shift) for (size c = 0; c < C; ++c) shift += in[c] - mean;
        shift /= C;  // the rounding error of the mean
        SUM(variance) for (size c = 0; c < C; ++c) {
            const REAL centred = in[c] - mean - shift;
            variance += centred * centred;
        }
        const REAL scale = 1 / sqrtf(variance / C + eps);
        EACH for (size c = 0; c < C; ++c) out[c] = (in[c] - mean - shift) * scale * weight[c] + bias[c];
        moments[3 * row] = mean;
        moments[3 * row + 1] = shift;
        moments[3 * row + 2] = scale;
    }
}

// sums (blocks, 2, C): the part of dweight and dbias of each block of `step` rows.
KERNEL layer_norm_back(
    size first, size last, const REAL* x, const REAL* weight, const REAL* moments, const REAL* dy, REAL* dx,
    REAL* sums, size C, size step)
{
    REAL *dweight = sums + first / step * 2 * C, *dbias = dweight + C;
    memset(dweight, 0, 2 * C * sizeof(REAL));
    for (size row = first; row < last; ++row) {
        const REAL *in = x + row * C, *d = dy + row * C;
        const REAL mean = moments[3 * row], shift = moments[3 * row + 1], scale = moments[3 * row + 2];
        REAL *out = dx + row * C, mean_dn = 0, mean_dn_n = 0;  // through the mean, through the variance
        _Pragma("omp simd reduction(+ : mean_dn, mean_dn_n)") for (size c = 0; c < C; ++c) {
            const REAL n = (in[c] - mean - shift) * scale, dn = d[c] * weight[c];
            out[c] = dn;
            mean_dn += dn;
            mean_dn_n += dn * n;
            dweight[c] += d[c] * n;
            dbias[c] += d[c];
        }
        mean_dn /= C;
        mean_dn_n /= C;
        EACH for (size c = 0; c < C; ++c) {
            const REAL n = (in[c] - mean - shift) * scale;
            out[c] = scale * (out[c] - mean_dn - n * mean_dn_n);  // dn was rounded: one alone is its mean
        }
    }
}
""")


@rule_for(ops.layer_norm, (5, 7), (7,), (7,))
def layer_norm(xp, x, weight, bias, *, eps: float = 1e-5):
    """Keeps x and three numbers per row; backward normalises again."""
    x, weight, bias = packed(np, x, weight, bias)
    (N, C), y = rows(x).shape, np.empty(x.shape, x.dtype)
    moments, step = np.empty((N, 3), x.dtype), blocks_of(C)  # mean, shift, scale
    launch("layer_norm", N, step, x, weight, bias, y, moments, C, eps)

    def backward(dy):
        (dy,), dx, sums = packed(np, dy), np.empty(x.shape, x.dtype), np.empty((-(-N // step), 2, C), x.dtype)
        launch("layer_norm_back", N, step, x, weight, moments, dy, dx, sums, C, step)
        dweight, dbias = sums.sum(axis=0)
        return dx, dweight, dbias

    return y, backward


SOURCES.append(r"""
// y may be x itself.
KERNEL softmax(size first, size last, const REAL* x, REAL* y, size width) {
    for (size row = first; row < last; ++row) {
        const REAL* in = x + row * width;
        REAL *out = y + row * width, top = -INFINITY, total = 0;
        MOST(top) for (size i = 0; i < width; ++i) top = in[i] > top ? in[i] : top;
        SUM(total) for (size i = 0; i < width; ++i) total += out[i] = exp_(in[i] - top);
        EACH for (size i = 0; i < width; ++i) out[i] /= total;
    }
}

// dx may be dy itself.   dx_i = y_i (dy_i - sum over j of dy_j y_j)
KERNEL softmax_back(size first, size last, const REAL* y, const REAL* dy, REAL* dx, size width) {
    for (size row = first; row < last; ++row) {
        const REAL *a = y + row * width, *d = dy + row * width;
        REAL *out = dx + row * width, mean = 0;
        SUM(mean) for (size i = 0; i < width; ++i) mean += d[i] * a[i];
        EACH for (size i = 0; i < width; ++i) out[i] = a[i] * (d[i] - mean);
    }
}
""")


def softmax_of(x, y) -> None:
    """Write the softmax of every row of x into y, which may be x."""
    N, width = rows(x).shape
    launch("softmax", N, blocks_of(width), x, y, width)


def softmax_backward(y, dy, dx) -> None:
    """Write dL/dx of y = softmax(x) into dx, which may be dy."""
    N, width = rows(y).shape
    launch("softmax_back", N, blocks_of(width), y, dy, dx, width)


@rule_for(ops.softmax, (3, 5))
def softmax(xp, x):
    """Keeps only y."""
    (x,), y = packed(np, x), np.empty(x.shape, x.dtype)
    softmax_of(x, y)

    def backward(dy):
        (dy,), dx = packed(np, dy), np.empty(y.shape, y.dtype)
        softmax_backward(y, dy, dx)
        return (dx,)

    return y, backward


SOURCES.append(r"""
KERNEL add_bias(size first, size last, REAL* y, const REAL* bias, size D) {
    for (size row = first; row < last; ++row)
        EACH for (size d = 0; d < D; ++d) y[row * D + d] += bias[d];
}

// sums (blocks, D): the sum of each block of `step` rows.
KERNEL sum_rows(size first, size last, const REAL* x, REAL* sums, size D, size step) {
    REAL* sum = sums + first / step * D;
    memset(sum, 0, D * sizeof(REAL));
    for (size row = first; row < last; ++row)
        EACH for (size d = 0; d < D; ++d) sum[d] += x[row * D + d];
}
""")


def sum_of_rows(x):
    """Return the sum of the rows of x (N, D)."""
    (x,), (N, D), step = packed(np, x), x.shape, blocks_of(x.shape[1])
    sums = np.empty((-(-N // step), D), x.dtype)
    launch("sum_rows", N, step, x, sums, D, step)
    return sums.sum(axis=0)


@rule_for(ops.linear, (3, 5), (4, 5), (4,))
def linear(xp, x, weight, bias=None):
    """Adds the bias in place."""
    y, backward = ops.linear.rule(xp, x, weight)
    if bias is None:
        return y, backward
    (bias,), D = packed(np, bias), len(bias)
    N, step = y.size // max(1, D), blocks_of(D)
    launch("add_bias", N, step, y, bias, D)

    return y, lambda dy: (*backward(dy)[:2], sum_of_rows(rows(dy)))


SOURCES.append(r"""
// The loss of each row of logits, which are overwritten by `weight` times their gradient: softmax, minus 1 at
// the target. A row whose target is negative has no loss and no gradient.
KERNEL cross_entropy(
    size first, size last, REAL* logits, const size* targets, REAL* losses, size V, REAL weight)
{
    for (size row = first; row < last; ++row) {
        REAL *z = logits + row * V, top = -INFINITY, total = 0;
        const size target = targets[row];
        losses[row] = 0;
        if (target < 0) {
            memset(z, 0, V * sizeof(REAL));
            continue;
        }
        MOST(top) for (size v = 0; v < V; ++v) top = z[v] > top ? z[v] : top;
        const REAL below = top - z[target];
        SUM(total) for (size v = 0; v < V; ++v) total += z[v] = exp_(z[v] - top);
        losses[row] = log_(total) + below;
        const REAL share = weight / total;
        EACH for (size v = 0; v < V; ++v) z[v] *= share;
        z[target] -= weight;
    }
}
""")

ROWS = 1024  # rows of logits in memory at a time


@rule_for(ops.linear_cross_entropy, (3, 5), (4, 5), [1, -1, 3])
def linear_cross_entropy(xp, x, weight, targets):
    """Computes the logits of a few rows at a time, and their gradient in the forward pass: y is one
    number, so its cotangent is one too and only scales the gradient. Keeps dx and dweight."""
    shape, (x, t), total = x.shape, packed(np, rows(x), targets.reshape(-1)), (targets >= 0).sum()
    if len(t) and t.max() >= len(weight):
        raise IndexError(f"linear_cross_entropy: target {t.max()}, wanted less than {len(weight)}")
    if total < len(t):
        x = without_ignored(xp, x, t)
    N, V = len(x), len(weight)
    dx, dweight, losses = np.empty_like(x), np.zeros(weight.shape, x.dtype), np.empty(N, x.dtype)
    step = -(-N // max(1, -(-N // ROWS)))  # blocks of nearly equal size
    logits = np.empty((step, V), x.dtype)
    for start in range(0, N, max(1, step)):
        block = slice(start, min(start + step, N))
        z = np.matmul(x[block], weight.T, out=logits[: block.stop - start])
        launch("cross_entropy", len(z), blocks_of(V), z, t[block], losses[block], V, 1.0 / max(1, total))
        np.matmul(z, weight, out=dx[block])
        if start == 0:
            np.matmul(z.T, x[block], out=dweight)
        for v in range(0, V if start else 0, 2 * ROWS):  # in parts, which keeps the temporary array small
            words = slice(v, v + 2 * ROWS)
            dweight[words] += z[:, words].T @ x[block]
    dx = dx.reshape(shape)
    mean = losses.sum(dtype=np.float64) / total  # of no losses nan
    return mean.astype(x.dtype), lambda dy: (dy * dx, dy * dweight, None)


SOURCES.append(r"""
// Channels first .. last-1 of the gradient of a table (V, C): row i of dy is added to row ids[i].
KERNEL add_rows(size first, size last, const REAL* dy, const size* ids, REAL* dtable, size n, size C) {
    for (size i = 0; i < n; ++i)
        EACH for (size c = first; c < last; ++c) dtable[ids[i] * C + c] += dy[i * C + c];
}
""")


@rule_for(ops.embedding, (4, 3), [1, 3, 1])
def embedding(xp, table, ids):
    """Adds the gradients of a row in the order of their positions."""
    shape = table.shape

    def backward(dy):
        (dy, flat), dtable = packed(np, rows(dy), ids.reshape(-1) % shape[0]), np.zeros(shape, dy.dtype)
        launch("add_rows", shape[1], 64, dy, flat, dtable, len(flat), shape[1])
        return dtable, None

    return table[ids], backward
