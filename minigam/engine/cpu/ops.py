"""Faster rules of the general operations."""

import math

import numpy as np

from minigam.engine import ops
from minigam.engine.masks import keep_mask
from minigam.engine.numeric import erf, rows, tiles, without_ignored


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
    """Keeps x and two numbers per row; backward normalises again."""
    x_, C = rows(x), x.shape[-1]
    y = np.empty(x.shape, x.dtype)
    mean, scale = row_sums(x_) / C, np.empty(len(x_), x.dtype)
    for part in tiles(*x_.shape):
        n = np.subtract(x_[part], mean[part, None], out=rows(y)[part])
        scale[part] = 1.0 / np.sqrt(np.vecdot(n, n) / C + eps)
        n *= scale[part, None]
        n *= weight
        n += bias

    def backward(dy):
        dx, dweight, dys = np.empty(x.shape, x.dtype), np.zeros_like(weight), rows(dy)
        for part in tiles(*x_.shape):
            n, dy_ = x_[part] - mean[part, None], dys[part]
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


# erfc(z) = t (a_1 + t (a_2 + ...)) exp(-z^2),  t = 1 / (1 + P z),  z >= 0, with an error below 1.5e-7.
# Source: Abramowitz and Stegun (1964), 7.1.26.
P, A = 0.3275911, (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


@ops.gelu.faster("numpy")
def gelu(xp, x):
    """Computes value and slope in the forward pass, from one exponential. Keeps only the slope.

    In float32 a short formula for erf is as accurate as the dtype.
    """
    y, slope = np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype)
    flat = x.reshape(-1), y.reshape(-1), slope.reshape(-1)
    for part in tiles(x.size):
        x_, y_, e = (z[part] for z in flat)
        np.multiply(x_, -0.5, out=e)
        e *= x_
        np.exp(e, out=e)  # exp(-x^2 / 2)
        if x.dtype == np.float32:
            size = np.abs(x_)
            t = size * (P * math.sqrt(0.5))
            t += 1.0
            np.divide(1.0, t, out=t)
            q = np.multiply(t, -0.5 * A[-1], out=y_)
            for a in A[-2::-1]:
                q += -0.5 * a
                q *= t
            q *= e  # -erfc(|x| / sqrt 2) / 2
            q += 0.5
            size += 1e-30  # so that x / |x| is 0 at x = 0
            Phi = np.divide(x_, size, out=size)
            Phi *= q
            Phi += 0.5
        else:
            Phi = 0.5 * (1.0 + erf(xp, x_ * math.sqrt(0.5)))
        e *= x_
        e *= 1.0 / math.sqrt(2.0 * math.pi)
        e += Phi
        np.multiply(x_, Phi, out=y_)
    return y, lambda dy: (dy * slope,)


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
            loss += counts[part] @ (np.log(s) + top - at_target[part]).astype(np.float64)
            e *= (counts[part] / (s * total)).astype(e.dtype)[:, None]
        z[places] -= counts / total
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
        s = sigmoid(x_)
        np.multiply(x_, s, out=y_)
        np.subtract(1.0, s, out=d)
        d *= x_
        d += 1.0
        d *= s  # s (1 + x (1 - s))
    return y, lambda dy: (dy * slope,)


def sigmoid(z, out=None):
    """Return 1 / (1 + exp(-z)), computed with tanh."""
    s = np.multiply(z, 0.5, out=out)
    np.tanh(s, out=s)
    s += 1.0
    s *= 0.5
    return s
