"""Rules of GAM's convolution, memory and gate."""

import numpy as np

from minigam.engine import sequence
from minigam.engine.compiled.kernels import SOURCES, blocks_of, launch, rule_for
from minigam.engine.compiled.rows import softmax_backward, softmax_of
from minigam.engine.numeric import packed, rows

SOURCES.append(r"""
// filters (K, C): filters[lag] weights the token `lag` steps back.
KERNEL convolve(
    size first, size last, const REAL* u, const REAL* filters, const REAL* bias, REAL* y,
    size K, size T, size C)
{
    for (size token = first; token < last; ++token) {
        REAL* out = y + token * C;
        memcpy(out, bias, C * sizeof(REAL));
        for (size lag = 0; lag < K && lag <= token % T; ++lag)
            EACH for (size c = 0; c < C; ++c) out[c] += filters[lag * C + c] * u[(token - lag) * C + c];
    }
}

// The same filter, reversed in time. sums (blocks, K + 1, C): the part of dfilters and dbias of each block.
KERNEL convolve_back(
    size first, size last, const REAL* u, const REAL* filters, const REAL* dy, REAL* du, REAL* sums,
    size K, size T, size C, size step)
{
    REAL *dfilters = sums + first / step * (K + 1) * C, *dbias = dfilters + K * C;
    memset(dfilters, 0, (K + 1) * C * sizeof(REAL));
    for (size token = first; token < last; ++token) {
        const REAL* d = dy + token * C;
        EACH for (size c = 0; c < C; ++c) {
            dbias[c] += d[c];
            du[token * C + c] = 0;
        }
        for (size lag = 0; lag < K; ++lag) {
            if (lag <= token % T)
                EACH for (size c = 0; c < C; ++c) dfilters[lag * C + c] += d[c] * u[(token - lag) * C + c];
            if (lag < T - token % T)
                EACH for (size c = 0; c < C; ++c) du[token * C + c] += filters[lag * C + c] * d[lag * C + c];
        }
    }
}
""")


@rule_for(sequence.causal_conv1d, (2, 4, 3), (3, 3), (3,))
def causal_conv1d(xp, u, weight, bias, past=None):
    """No padding."""
    if past is not None:
        return sequence.causal_conv1d.rule(xp, u, weight, bias, past)  # the parts are short
    u, filters, bias = packed(np, u, weight.T[::-1], bias)
    (B, T, C), K, y = u.shape, len(filters), np.empty(u.shape, u.dtype)
    step = blocks_of(C)
    launch("convolve", B * T, step, u, filters, bias, y, K, T, C)

    def backward(dy):
        (dy,), du, sums = (
            packed(np, dy),
            np.empty(u.shape, u.dtype),
            np.empty((-(-B * T // step), K + 1, C), u.dtype),
        )
        launch("convolve_back", B * T, step, u, filters, dy, du, sums, K, T, C, step)
        total = sums.sum(axis=0)
        return du, total[K - 1 :: -1].T, total[K], None

    return y, backward


@rule_for(sequence.associative_memory, (3, 4), (5, 4))
def associative_memory(xp, u, memory):
    """Computes the softmax and its gradient in place."""
    u_ = rows(u)
    a = u_ @ memory.T  # (N, S)
    softmax_of(a, a)

    def backward(dy):
        dy = rows(dy)
        ds = dy @ memory.T
        softmax_backward(a, ds, ds)
        dmemory = a.T @ dy  # M as values
        dmemory += ds.T @ u_  # M as keys
        return (ds @ memory).reshape(u.shape), dmemory

    return (a @ memory).reshape(u.shape), backward


SOURCES.append(r"""
KERNEL fuse(
    size first, size last, const REAL* local, const REAL* global, const REAL* gate, const REAL* bias, REAL* y,
    size C)
{
    for (size row = first; row < last; ++row) {
        const REAL *g = gate + 2 * row * C, *l = local + row * C, *m = global + row * C;
        EACH for (size c = 0; c < C; ++c)
            y[row * C + c] = sigmoid_(g[c] + bias[c]) * l[c] + sigmoid_(g[C + c] + bias[C + c]) * m[c];
    }
}

// sums (blocks, 2C): the part of dbias of each block of `step` rows.
KERNEL fuse_back(
    size first, size last, const REAL* local, const REAL* global, const REAL* gate, const REAL* bias,
    const REAL* dy, REAL* dlocal, REAL* dglobal, REAL* dgate, REAL* sums, size C, size step)
{
    REAL* sum = sums + first / step * 2 * C;
    memset(sum, 0, 2 * C * sizeof(REAL));
    for (size row = first; row < last; ++row) {
        const REAL* g = gate + 2 * row * C;
        REAL* dg = dgate + 2 * row * C;
        EACH for (size c = 0; c < C; ++c) {
            const size i = row * C + c;
            const REAL p = g[c] + bias[c], q = g[C + c] + bias[C + c];
            dlocal[i] = dy[i] * sigmoid_(p);
            dglobal[i] = dy[i] * sigmoid_(q);
            sum[c] += dg[c] = dlocal[i] * local[i] * sigmoid_(-p);
            sum[C + c] += dg[C + c] = dglobal[i] * global[i] * sigmoid_(-q);
        }
    }
}
""")


@rule_for(sequence.gated_fusion, (3, 4), (3, 4), (3, 8), (8,))
def gated_fusion(xp, local_context, global_context, gate, bias=None):
    """Keeps only its inputs; backward recomputes the two sigmoids."""
    shape, C = local_context.shape, local_context.shape[-1]
    added = np.zeros(2 * C, gate.dtype) if bias is None else bias
    inputs, y = packed(np, local_context, global_context, gate, added), np.empty(shape, gate.dtype)
    N, step = y.size // max(1, C), blocks_of(C)
    launch("fuse", N, step, *inputs, y, C)

    def backward(dy):
        (dy,), gradients = packed(np, dy), [np.empty(z.shape, z.dtype) for z in inputs[:3]]
        sums = np.empty((-(-N // step), 2 * C), gate.dtype)
        launch("fuse_back", N, step, *inputs, dy, *gradients, sums, C, step)
        return *gradients, None if bias is None else sums.sum(axis=0)

    return y, backward
