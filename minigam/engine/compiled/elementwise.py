"""Sums, elementwise functions, which keep only their input, and dropout, which keeps nothing."""

import numpy as np

from minigam.engine import ops
from minigam.engine.compiled.kernels import BLOCK, CHECKS, SOURCES, launch, rule_for, usable
from minigam.engine.masks import mask_arguments
from minigam.engine.numeric import packed, shape_of
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


def activation(op) -> None:
    """Register the rule of an elementwise function, whose value and slope the C text defines."""
    SOURCES.append(ACTIVATION.replace("NAME", op.name))

    @rule_for(op, (3, 5))
    def rule(xp, x):
        (x,) = packed(np, x)
        y = np.empty(x.shape, x.dtype)
        launch(f"each_{op.name}", x.size, BLOCK, x, y)

        def backward(dy):
            (dy,), dx = packed(np, dy), np.empty(x.shape, x.dtype)
            launch(f"each_{op.name}_back", x.size, BLOCK, x, dy, dx)
            return (dx,)

        return y, backward


for _op in (ops.gelu, ops.silu, ops.softplus, ops.sigmoid, ops.tanh):
    activation(_op)


SOURCES.append(r"""
KERNEL dropout(
    size first, size last, const REAL* x, REAL* y, word entry, word seed, size threshold, REAL scale)
{
    word z[DRAWN / 4 + 2];
    for (size begin = first; begin < last; begin += DRAWN) {
        const size n = last - begin < DRAWN ? last - begin : DRAWN;
        const unsigned short* bits = draw(z, entry + begin, n, seed);
        EACH for (size i = 0; i < n; ++i) y[begin + i] = bits[i] >= threshold ? x[begin + i] * scale : 0;
    }
}
""")


@rule_for(ops.dropout, (3, 300), p=0.25, key=(1,), first_token=1)
def dropout(xp, x, *, p: float, key: tuple[int, ...], first_token: int = 0):
    """Keeps nothing: backward recomputes the mask."""
    shape, mask = x.shape, mask_arguments(p, key, first_token * x.shape[-1])

    def masked(z):
        (z,), y = packed(np, z), np.empty(shape, z.dtype)
        launch("dropout", z.size, BLOCK, z, y, *mask)
        return y

    return masked(x), lambda dy: (masked(dy),)


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
