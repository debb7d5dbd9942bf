"""Sums, elementwise functions, which keep only their input, and dropout, which keeps nothing."""

import numpy as np

from minigam.engine import ops
from minigam.engine.compiled.kernels import BLOCK, CHECKS, SOURCES, blocks_of, launch, rule_for, usable
from minigam.engine.compiled.rows import sum_of_rows
from minigam.engine.masks import mask_arguments
from minigam.engine.numeric import packed, rows, shape_of
from minigam.engine.tensor import ADD

SOURCES.append(r"""
static inline REAL value_gelu(REAL x) { return x * Phi_(x).value; }
static inline REAL slope_gelu(REAL x) { return Phi_(x).value + x * Phi_(x).slope; }

static inline REAL value_silu(REAL x) { return x * sigmoid_(x); }
static inline REAL slope_silu(REAL x) { return sigmoid_(x) * (1 + x * sigmoid_(-x)); }

static inline REAL value_softplus(REAL x) { return (x > 0 ? x : 0) + log1p_(exp_(-fabsf(x))); }
static inline REAL slope_softplus(REAL x) { return sigmoid_(x); }

static inline REAL value_sigmoid(REAL x) { return sigmoid_(x); }
static inline REAL slope_sigmoid(REAL x) { return sigmoid_(x) * sigmoid_(-x); }

static inline REAL value_tanh(REAL x) { return tanh_(x); }
static inline REAL slope_tanh(REAL x) { return 4 * sigmoid_(2 * x) * sigmoid_(-2 * x); }  // 1 - y^2 cancels
""")

ACTIVATION = r"""
KERNEL each_NAME(size first, size last, const REAL* x, REAL* y) {
    EACH for (size i = first; i < last; ++i) y[i] = value_NAME(x[i]);
}

KERNEL each_NAME_back(size first, size last, const REAL* x, const REAL* dy, REAL* dx) {
    EACH for (size i = first; i < last; ++i) dx[i] = dy[i] * slope_NAME(x[i]);
}
"""


def activation(op):
    """Return the rule of an elementwise function, whose value and slope the C text defines."""
    SOURCES.append(ACTIVATION.replace("NAME", op.name))

    def rule(xp, x):
        (x,) = packed(np, x)
        y = np.empty(x.shape, x.dtype)
        launch(f"each_{op.name}", x.size, BLOCK, x, y)

        def backward(dy):
            (dy,), dx = packed(np, dy), np.empty(x.shape, x.dtype)
            launch(f"each_{op.name}_back", x.size, BLOCK, x, dy, dx)
            return (dx,)

        return y, backward

    return rule


for _op in (ops.silu, ops.softplus, ops.sigmoid, ops.tanh):
    rule_for(_op, (3, 5))(activation(_op))

_gelu = activation(ops.gelu)
SOURCES.append(r"""
KERNEL gelu_of_sum(size first, size last, const REAL* x, const REAL* bias, REAL* y, size C) {
    for (size row = first; row < last; ++row)
        EACH for (size c = 0; c < C; ++c) y[row * C + c] = value_gelu(x[row * C + c] + bias[c]);
}

// sums (blocks, C): the part of dbias of each block of `step` rows.
KERNEL gelu_of_sum_back(
    size first, size last, const REAL* x, const REAL* bias, const REAL* dy, REAL* dx, REAL* sums,
    size C, size step)
{
    REAL* sum = sums + first / step * C;
    memset(sum, 0, C * sizeof(REAL));
    for (size row = first; row < last; ++row)
        EACH for (size c = 0; c < C; ++c) {
            const size i = row * C + c;
            sum[c] += dx[i] = dy[i] * slope_gelu(x[i] + bias[c]);
        }
}
""")


@rule_for(ops.gelu, (3, 5), (5,))
def gelu(xp, x, bias=None):
    """Keeps only x and the bias."""
    if bias is None:
        y, backward = _gelu(xp, x)
        return y, lambda dy: (*backward(dy), None)
    x, bias = packed(np, x, bias)
    (N, C), y = rows(x).shape, np.empty(x.shape, x.dtype)
    step = blocks_of(C)
    launch("gelu_of_sum", N, step, x, bias, y, C)

    def backward_of_sum(dy):
        (dy,), dx, sums = packed(np, dy), np.empty(x.shape, x.dtype), np.empty((-(-N // step), C), x.dtype)
        launch("gelu_of_sum_back", N, step, x, bias, dy, dx, sums, C, step)
        return dx, sums.sum(axis=0)

    return y, backward_of_sum


SOURCES.append(r"""
KERNEL dropout(
    size first, size last, const REAL* x, const REAL* bias, REAL* y, size C,
    word entry, word seed, size threshold, REAL scale)
{
    word z[DRAWN / 4 + 2];
    for (size begin = first, n; begin < last; begin += n) {
        const size c = begin % C, most = bias && C - c < DRAWN ? C - c : DRAWN;  // a bias ends with the row
        n = last - begin < most ? last - begin : most;
        const unsigned short* bits = draw(z, entry + begin, n, seed);
        const REAL* in = x + begin;
        REAL* out = y + begin;
        EACH for (size i = 0; i < n; ++i) out[i] = bits[i] >= threshold ? scale : 0;
        if (bias)
            EACH for (size i = 0; i < n; ++i) out[i] *= in[i] + bias[c + i];
        else
            EACH for (size i = 0; i < n; ++i) out[i] *= in[i];
    }
}
""")


@rule_for(ops.dropout, (3, 300), (300,), p=0.25, key=(1,), first_token=1)
def dropout(xp, x, bias=None, *, p: float, key: tuple[int, ...], first_token: int = 0):
    """Keeps nothing: backward recomputes the mask."""
    C, mask = x.shape[-1], mask_arguments(p, key, first_token * x.shape[-1])

    def masked(z, bias):
        (z, *added), y = packed(np, z, *([] if bias is None else [bias])), np.empty(z.shape, z.dtype)
        launch("dropout", z.size, BLOCK, z, *(added or [None]), y, C, *mask)
        return y

    def backward(dy):
        dx = masked(dy, None)
        return dx, None if bias is None else sum_of_rows(rows(dx))

    return masked(x, bias), backward


SOURCES.append(r"""
KERNEL add(size first, size last, const REAL* a, const REAL* b, REAL* y) {
    EACH for (size i = first; i < last; ++i) y[i] = a[i] + b[i];
}
""")


def summed(a, b, in_place=False):
    """Return a + b; in place means in a. On several threads where that pays."""
    alike = np.ndim(a) and a.size > 4 * BLOCK and a.shape == b.shape and a.dtype == b.dtype
    if not (alike and a.flags.c_contiguous and b.flags.c_contiguous and usable(a.dtype)):
        return np.add(a, b, out=a if in_place else None)
    y = a if in_place else np.empty(a.shape, a.dtype)
    launch("add", a.size, BLOCK, a, b, y)
    return y


def _pairs(dtype):
    """Yield what the kernel computes of a small example, for which `summed` does not call it."""
    a, b, y = np.random.default_rng(0).random((3, 9)).astype(dtype)
    launch("add", y.size, BLOCK, a, b, y)
    yield y, a + b


ADD["numpy"], CHECKS["sum"] = summed, _pairs


@rule_for(ops.add, (3, 5), (3, 5))
def add(xp, a, b):
    """Adds two arrays of one shape on several threads."""
    if shape_of(a) != shape_of(b):
        return ops.add.rule(xp, a, b)
    return summed(a, b), lambda dy: (dy, dy)
