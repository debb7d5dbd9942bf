"""Faster rules of the general operations."""

import math

import numpy as np

from minigam.engine import ops
from minigam.engine.masks import keep_mask
from minigam.engine.numeric import mills_ratio, rows, tiles, without_ignored


def row_sums(z):
    """Return the sum of each row of z (N, C)."""
    return np.vecdot(z, np.ones(z.shape[1], z.dtype))  # takes half the time of z.sum(axis=1)


def softmax_in_place(s) -> None:
    """Replace each row of s (N, C) by its softmax."""
    for part in tiles(*s.shape):
        e = s[part]
        e -= e.max(axis=-1, keepdims=True)
        np.exp(e, out=e)
        e /= row_sums(e)[:, None]


def softmax_backward_in_place(a, da) -> None:
    """Replace each row of da (N, C) by a_i (da_i - sum over j of da_j a_j), for a the softmax."""
    for part in tiles(*a.shape):
        d = da[part]
        d -= np.vecdot(d, a[part])[:, None]
        d *= a[part]


# ------------------------------------------------------------------------------ general operations


@ops.getitem.faster("numpy")
def getitem(xp, x, *, index):
    """Copies the gradient of a slice without adding: only a list or an array can repeat an entry."""
    parts = index if isinstance(index, tuple) else (index,)
    if not all(i is None or i is ... or isinstance(i, slice | int) for i in parts):
        return ops.getitem.rule(xp, x, index=index)
    shape, dtype = x.shape, x.dtype

    def backward(dy):
        dx = np.zeros(shape, dtype)
        dx[index] = dy
        return (dx,)

    return x[index], backward


@ops.embedding.faster("numpy")
def embedding(xp, table, ids):
    """Sorts the rows of the gradient by id, then sums the rows of each id."""
    shape, dtype = table.shape, table.dtype

    def backward(dy):
        dtable, order = np.zeros(shape, dtype), np.argsort(ids, axis=None, kind="stable")
        unique_ids, first = np.unique(ids.reshape(-1)[order], return_index=True)
        dtable[unique_ids] = np.add.reduceat(rows(dy)[order], first, axis=0)
        return dtable, None

    return table[ids], backward


@ops.linear.faster("numpy")
def linear(xp, x, weight, bias=None):
    """Adds the bias in place."""
    y, backward = ops.linear.rule(xp, x, weight)
    if bias is None:
        return y, backward
    y += bias
    return y, lambda dy: (*backward(dy)[:2], rows(dy).sum(axis=0))


@ops.layer_norm.faster("numpy")
def layer_norm(xp, x, weight, bias, *, eps: float = 1e-5):
    """Keeps x and three numbers per row; backward normalises again."""
    x_, C = rows(x), x.shape[-1]
    y = np.empty(x.shape, x.dtype)
    mean, shift, scale = np.empty((3, len(x_)), x.dtype)
    share = np.full(C, 1.0 / C, x.dtype)
    for part in tiles(*x_.shape):
        mean[part] = np.vecdot(x_[part], share)
        n = np.subtract(x_[part], mean[part, None], out=rows(y)[part])
        shift[part] = row_sums(n) / C  # the rounding error of the mean
        n -= shift[part, None]
        scale[part] = 1.0 / np.sqrt(np.vecdot(n, n) / C + eps)
        n *= scale[part, None]
        n *= weight
        n += bias

    def backward(dy):
        dx, dweight, dys = np.empty(x.shape, x.dtype), np.zeros_like(weight), rows(dy)
        for part in tiles(*x_.shape):
            n, dy_ = x_[part] - mean[part, None], dys[part]
            n -= shift[part, None]
            n *= scale[part, None]
            dx_ = np.multiply(dy_, n, out=rows(dx)[part])
            dweight += dx_.sum(axis=0)
            mean_dn_n = np.vecdot(dx_, weight) / C  # through the variance
            mean_dn = np.vecdot(dy_, weight) / C  # through the mean
            np.multiply(dy_, weight, out=dx_)
            n *= mean_dn_n[:, None]
            dx_ -= n
            dx_ -= mean_dn[:, None]
            dx_ *= scale[part, None]
        return dx, dweight, dys.sum(axis=0)

    return y, backward


@ops.dropout.faster("numpy")
def dropout(xp, x, *, p: float, key: tuple[int, ...], first_token: int = 0):
    """Keeps the mask, one byte per entry."""
    mask = keep_mask(xp, key, p, x.shape, first_token * x.shape[-1])

    def masked(z):
        y = np.empty(z.shape, z.dtype)
        z_, mask_, y_ = rows(z), rows(mask), rows(y)
        for part in tiles(*z_.shape):
            np.multiply(mask_[part], 1.0 / (1.0 - p), out=y_[part], dtype=z.dtype)
            y_[part] *= z_[part]
        return y

    return masked(x), lambda dy: (masked(dy),)


@ops.gelu.faster("numpy")
def gelu(xp, x):
    """Computes value and slope in the forward pass, from one exponential. Keeps only the slope."""
    p, q, end = mills_ratio(x.dtype)
    y, slope = np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype)
    flat = x.reshape(-1), y.reshape(-1), slope.reshape(-1)
    for part in tiles(x.size):
        x_, y_, e = (z[part] for z in flat)
        size = np.abs(x_)
        np.clip(size, 0.0, end, out=size)
        phi = np.multiply(size, -0.5, out=e)
        phi *= size
        np.exp(phi, out=phi)
        phi *= 1.0 / math.sqrt(2.0 * math.pi)
        tail = polynomial(p, size, out=y_)
        tail /= polynomial(q, size, out=np.empty_like(size))
        tail *= phi  # Phi(-|x|)
        Phi = np.subtract(x_ >= 0, tail, out=size, dtype=x.dtype)
        np.abs(Phi, out=Phi)
        phi *= x_
        phi += Phi  # the slope
        np.multiply(x_, Phi, out=y_)
    return y, lambda dy: (dy * slope,)


def polynomial(coefficients, x, out):
    """Write the polynomial with these coefficients, the highest power first, to `out`, and return it."""
    np.multiply(x, coefficients[0], out=out)
    for a in coefficients[1:-1]:  # Horner's rule
        out += a
        out *= x
    out += coefficients[-1]
    return out


@ops.softmax.faster("numpy")
def softmax(xp, x):
    """Computes in place, on a copy."""
    y = x.copy()
    softmax_in_place(rows(y))

    def backward(dy):
        dx = dy.copy()
        softmax_backward_in_place(rows(y), rows(dx))
        return (dx,)

    return y, backward


ROWS = 1024  # rows of logits in memory at a time


@ops.linear_cross_entropy.faster("numpy")
def linear_cross_entropy(xp, x, weight, targets):
    """Computes the logits of a few rows at a time, and their gradient in the forward pass: y is one
    number, so its cotangent is one too and only scales the gradient. Keeps dx and dweight."""
    x_, t, total = rows(x), targets.reshape(-1), (targets >= 0).sum()
    divisor = max(1, total)  # for the gradient, which is 0 without targets; the mean of no losses is nan
    if total < len(t):
        x_ = without_ignored(xp, x_, t)
    dx, dweight, loss = np.empty(x_.shape, x.dtype), np.zeros(weight.shape, x.dtype), 0.0
    logits = np.empty((min(ROWS, len(x_)), len(weight)), x.dtype)
    for start in range(0, len(x_), ROWS):
        block = slice(start, min(start + ROWS, len(x_)))
        counts = t[block] >= 0
        z = np.matmul(x_[block], weight.T, out=logits[: len(counts)])
        places = np.arange(len(z)), np.maximum(t[block], 0)
        at_target = z[places]
        for part in tiles(*z.shape):
            e = z[part]
            top = e.max(axis=-1)
            e -= top[:, None]
            np.exp(e, out=e)
            s = row_sums(e)
            loss += counts[part] @ (np.log(s) + (top - at_target[part])).astype(np.float64)
            e *= (counts[part] / (s * divisor)).astype(e.dtype)[:, None]
        z[places] -= counts / divisor
        np.matmul(z, weight, out=dx[block])
        for v in range(0, len(weight), 2 * ROWS):  # in parts, which keeps the temporary array small
            words = slice(v, v + 2 * ROWS)
            dweight[words] += z[:, words].T @ x_[block]
    dx = dx.reshape(x.shape)
    return (loss / total).astype(x.dtype), lambda dy: (dy * dx, dy * dweight, None)


@ops.silu.faster("numpy")
def silu(xp, x):
    """Computes value and slope in the forward pass. Keeps only the slope."""
    y, slope = np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype)
    flat = x.reshape(-1), y.reshape(-1), slope.reshape(-1)
    for part in tiles(x.size):
        x_, y_, d = (z[part] for z in flat)
        sigmoid_and_slope(x_, out=(y_, d))
        d *= x_
        d += y_  # s + x s (1 - s)
        y_ *= x_
    return y, lambda dy: (dy * slope,)


def sigmoid_and_slope(z, out) -> None:
    """Write s = 1 / (1 + exp(-z)) and its slope s (1 - s) to the two arrays `out`, both to the last bits."""
    s, e = out
    np.abs(z, out=e)
    np.negative(e, out=e)
    np.exp(e, out=e)
    r = e + 1.0
    np.divide(1.0, r, out=r)  # sigmoid(|z|); sigmoid(-|z|) is e r
    np.maximum(e, z >= 0, out=s)  # e for negative z, 1 for the others
    s *= r
    e *= r
    e *= r
