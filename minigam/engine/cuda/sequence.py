"""Faster rules for GAM's convolution, memory and gate."""

from minigam.engine import sequence
from minigam.engine.cuda.kernels import launch
from minigam.engine.cuda.linear import product
from minigam.engine.cuda.softmax import softmax_backward, softmax_of
from minigam.engine.numeric import packed, rows

SLAB = 64  # tokens that one thread sums, for one channel

# K is a macro. One thread handles one channel of one token.
CONVOLUTION = r"""
// Channel c of token t of sequence b: from u (B, T, C), or for t < 0 from past (B, K-1, C), if there is one.
__device__ REAL input_at(
    const REAL* u, const REAL* past, size has_past, size b, size t, size c, size T, size C)
{
    if (t >= 0) return u[(b * T + t) * C + c];
    return has_past ? past[(b * (K - 1) + t + K - 1) * C + c] : 0;
}

extern "C" __global__ void convolve(
    const REAL* __restrict__ u, const REAL* __restrict__ weight, const REAL* __restrict__ bias,
    const REAL* __restrict__ past, REAL* __restrict__ y, size has_past, size B, size T, size C)
{
    const size c = my_index() % C, t = my_index() / C % T, b = my_index() / C / T;
    if (b >= B) return;
    REAL sum = bias[c];
    for (int j = 0; j < K; ++j)
        sum += weight[c * K + j] * input_at(u, past, has_past, b, t - (K - 1) + j, c, T, C);
    y[my_index()] = sum;
}

// The same filter, reversed in time. Writes dpast (B, K-1, C) if there is a past.
extern "C" __global__ void convolve_du(
    const REAL* __restrict__ weight, const REAL* __restrict__ dy, REAL* __restrict__ du,
    REAL* __restrict__ dpast, size has_past, size B, size T, size C)
{
    const size before = K - 1, c = my_index() % C, b = my_index() / C / (before + T);
    const size t = my_index() / C % (before + T) - before;
    if (b >= B || (t < 0 && !has_past)) return;
    REAL sum = 0;
    for (int j = 0; j < K; ++j) {
        const size later = t + before - j;  // the token that has this one as input j
        if (later >= 0 && later < T) sum += weight[c * K + j] * dy[(b * T + later) * C + c];
    }
    if (t >= 0) du[(b * T + t) * C + c] = sum;
    else dpast[(b * before + before + t) * C + c] = sum;
}

// One thread per channel of `slab` tokens: their part of dweight and dbias, in sums (slabs, K + 1, C).
extern "C" __global__ void convolve_sums(
    const REAL* __restrict__ u, const REAL* __restrict__ past, const REAL* __restrict__ dy,
    REAL* __restrict__ sums, size has_past, size B, size T, size C, size slab)
{
    const size part = my_index() / C, c = my_index() % C, first = part * slab;
    if (first >= B * T) return;
    REAL dweight[K], dbias = 0;
    for (int j = 0; j < K; ++j) dweight[j] = 0;
    for (size token = first; token < B * T && token < first + slab; ++token) {
        const REAL d = dy[token * C + c];
        dbias += d;
        for (int j = 0; j < K; ++j)
            dweight[j] += d * input_at(u, past, has_past, token / T, token % T - (K - 1) + j, c, T, C);
    }
    for (int j = 0; j < K; ++j) sums[(part * (K + 1) + j) * C + c] = dweight[j];
    sums[(part * (K + 1) + K) * C + c] = dbias;
}
"""


@sequence.causal_conv1d.faster("cupy")
def causal_conv1d(xp, u, weight, bias, past=None):
    """No padding; one thread computes one output, or the gradient of one input."""
    (B, T, C), K = u.shape, weight.shape[-1]
    has_past = int(past is not None)
    u, weight, bias, before = packed(xp, u, weight, bias, past if has_past else bias)
    sizes, y = (has_past, B, T, C), xp.empty(u.shape, dtype=u.dtype)
    launch(xp, CONVOLUTION, "convolve", y.size, u, weight, bias, before, y, *sizes, K=K)

    def backward(dy):
        (dy,), du, slabs = packed(xp, dy), xp.empty(u.shape, dtype=u.dtype), -(-B * T // SLAB)
        dpast = xp.empty((B, K - 1, C) if has_past else (0,), dtype=u.dtype)
        sums = xp.empty((slabs, K + 1, C), dtype=u.dtype)
        threads = B * (T + K - 1) * C
        launch(xp, CONVOLUTION, "convolve_du", threads, weight, dy, du, dpast, *sizes, K=K)
        launch(xp, CONVOLUTION, "convolve_sums", slabs * C, u, before, dy, sums, *sizes, SLAB, K=K)
        total = sums.sum(axis=0)
        return du, total[:K].T, total[K], dpast if has_past else None

    return y, backward


@sequence.associative_memory.faster("cupy")
def associative_memory(xp, u, memory):
    """Computes the softmax and its gradient in place, each with one kernel."""
    shape, u = u.shape, rows(u)
    a = product(xp, u, memory.T)  # (N, S)
    softmax_of(xp, a, a)

    def backward(dy):
        dy = rows(dy)
        ds = product(xp, dy, memory.T)
        softmax_backward(xp, a, ds, ds)
        dmemory = product(xp, a.T, dy)  # M as values
        product(xp, ds.T, u, out=dmemory, add=True)  # M as keys
        return product(xp, ds, memory).reshape(shape), dmemory

    return product(xp, a, memory).reshape(shape), backward


GATE = r"""
// One thread handles one channel of one token; its two gates are C entries apart.
extern "C" __global__ void fuse(
    const REAL* __restrict__ local, const REAL* __restrict__ global, const REAL* __restrict__ gate,
    REAL* __restrict__ y, size n, size C)
{
    const size i = my_index(), g = i + i / C * C;
    if (i < n) y[i] = sigmoid(gate[g]) * local[i] + sigmoid(gate[g + C]) * global[i];
}

extern "C" __global__ void fuse_back(
    const REAL* __restrict__ local, const REAL* __restrict__ global, const REAL* __restrict__ gate,
    const REAL* __restrict__ dy, REAL* __restrict__ dlocal, REAL* __restrict__ dglobal,
    REAL* __restrict__ dgate, size n, size C)
{
    const size i = my_index(), g = i + i / C * C;
    if (i >= n) return;
    dlocal[i] = dy[i] * sigmoid(gate[g]);
    dglobal[i] = dy[i] * sigmoid(gate[g + C]);
    dgate[g] = dlocal[i] * local[i] * sigmoid(-gate[g]);
    dgate[g + C] = dglobal[i] * global[i] * sigmoid(-gate[g + C]);
}
"""


@sequence.gated_fusion.faster("cupy")
def gated_fusion(xp, local_context, global_context, gate):
    """Keeps only its inputs; backward recomputes the two sigmoids."""
    shape, C = local_context.shape, local_context.shape[-1]
    inputs, y = packed(xp, local_context, global_context, gate), xp.empty(shape, dtype=gate.dtype)
    launch(xp, GATE, "fuse", y.size, *inputs, y, y.size, C)

    def backward(dy):
        (dy,), gradients = packed(xp, dy), [xp.empty(z.shape, dtype=z.dtype) for z in inputs]
        launch(xp, GATE, "fuse_back", dy.size, *inputs, dy, *gradients, dy.size, C)
        return tuple(gradients)

    return y, backward
