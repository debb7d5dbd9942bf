"""Faster rules for GAM's convolution, memory and gate."""

import numpy as np

from minigam.engine import sequence
from minigam.engine.cpu.ops import sigmoid_and_slope, softmax_backward_in_place, softmax_in_place
from minigam.engine.numeric import rows, tiles


@sequence.causal_conv1d.faster("numpy")
def causal_conv1d(xp, u, weight, bias, past=None):
    """Processes a few tokens of one sequence at a time, without padding."""
    (B, T, C), K = u.shape, weight.shape[-1]
    if past is not None:
        return sequence.causal_conv1d.rule(xp, u, weight, bias, past)  # the parts are short
    filters = np.ascontiguousarray(weight.T[::-1])  # (K, C): filters[lag] weights the token `lag` steps back
    y = np.empty(u.shape, u.dtype)

    def pairs():
        """For every tile and lag, yield the lag, the outputs, and the inputs `lag` tokens before them."""
        for b in range(B):
            for part in tiles(T, C):
                for lag in range(min(K, part.stop)):
                    first = max(part.start, lag)
                    yield lag, (b, slice(first, part.stop)), (b, slice(first - lag, part.stop - lag))

    for lag, later, earlier in pairs():
        if lag == 0:
            np.multiply(u[earlier], filters[0], out=y[later])
            y[later] += bias
        else:
            y[later] += u[earlier] * filters[lag]

    def backward(dy):
        du, dfilters = np.empty(u.shape, u.dtype), np.zeros_like(filters)
        np.multiply(dy, filters[0], out=du)
        for lag, later, earlier in pairs():
            if lag:
                du[earlier] += dy[later] * filters[lag]
            dfilters[lag] += (dy[later] * u[earlier]).sum(axis=0)
        return du, dfilters[::-1].T, rows(dy).sum(axis=0), None

    return y, backward


@sequence.associative_memory.faster("numpy")
def associative_memory(xp, u, memory):
    """Computes the softmax and its gradient in place."""
    u_ = rows(u)
    a = u_ @ memory.T  # (N, S)
    softmax_in_place(a)

    def backward(dy):
        dy = rows(dy)
        ds = dy @ memory.T
        softmax_backward_in_place(a, ds)
        dmemory = a.T @ dy
        dmemory += ds.T @ u_
        return (ds @ memory).reshape(u.shape), dmemory

    return (a @ memory).reshape(u.shape), backward


@sequence.gated_fusion.faster("numpy")
def gated_fusion(xp, local_context, global_context, gate):
    """Keeps the two sigmoids and, instead of contexts and gate, the factors of the gate's gradient."""
    shape, C = local_context.shape, local_context.shape[-1]
    dtype, sides = gate.dtype, (slice(C), slice(C, None))
    contexts = rows(local_context), rows(global_context)
    gate_, y = rows(gate), np.empty(shape, dtype)
    opened, slopes = np.empty((2, *gate_.shape), dtype)
    for part in tiles(*opened.shape):
        p, slope = opened[part], slopes[part]
        sigmoid_and_slope(gate_[part], out=(p, slope))
        y_ = np.multiply(p[:, :C], contexts[0][part], out=rows(y)[part])
        y_ += p[:, C:] * contexts[1][part]
        for context, side in zip(contexts, sides, strict=True):
            slope[:, side] *= context[part]

    def backward(dy):
        dgate, dcontexts = np.empty((*shape[:-1], 2 * C), dtype), [np.empty(shape, dtype) for _ in sides]
        dy = rows(dy)
        for part in tiles(*opened.shape):
            dy_ = dy[part]
            for dcontext, side in zip(dcontexts, sides, strict=True):
                np.multiply(dy_, opened[part, side], out=rows(dcontext)[part])
                np.multiply(dy_, slopes[part, side], out=rows(dgate)[part, side])
        return *dcontexts, dgate

    return y, backward
