"""Faster rules for GAM's convolution, memory and gate."""

from minigam.engine import sequence
from minigam.engine.cuda.gradients import place_for
from minigam.engine.cuda.kernels import counters, launch, slabs_of
from minigam.engine.cuda.linear import product, rounded
from minigam.engine.cuda.softmax import softmax_backward, softmax_of
from minigam.engine.numeric import packed, rows

# K is a macro.
CONVOLUTION = r"""
// Channel c of token t of sequence b: from u (B, T, C), or for t < 0 from past (B, K-1, C), if there is one.
__device__ REAL input_at(
    const REAL* u, const REAL* past, size has_past, size b, size t, size c, size T, size C)
{
    if (t >= 0) return u[(b * T + t) * C + c];
    return has_past ? past[(b * (K - 1) + t + K - 1) * C + c] : 0;
}

// One thread per channel of a token.
extern "C" __global__ void convolve(
    const REAL* __restrict__ u, const REAL* __restrict__ weight, const REAL* __restrict__ bias,
    const REAL* __restrict__ past, REAL* __restrict__ y, size has_past, size T, size C)
{
    const size b = my_part() / (unsigned)T, t = my_part() % (unsigned)T, c = my_channel();
    if (c >= C) return;
    REAL sum = bias[c];
    for (int j = 0; j < K; ++j)
        sum += weight[c * K + j] * input_at(u, past, has_past, b, t - (K - 1) + j, c, T, C);
    y[my_part() * C + c] = sum;
}

// One thread per channel of an input. The same filter, reversed in time. The first K-1 inputs of a sequence
// are its past, whose gradient is dpast (B, K-1, C), if there is one.
extern "C" __global__ void convolve_du(
    const REAL* __restrict__ weight, const REAL* __restrict__ dy, REAL* __restrict__ du,
    REAL* __restrict__ dpast, size has_past, size T, size C)
{
    const unsigned before = has_past ? K - 1 : 0, inputs = before + (unsigned)T;
    const size b = my_part() / inputs, t = (size)(my_part() % inputs) - before, c = my_channel();
    if (c >= C) return;
    REAL sum = 0;
    for (int j = 0; j < K; ++j) {
        const size later = t + K - 1 - j;  // the token that has this one as input j
        if (later >= 0 && later < T) sum += weight[c * K + j] * dy[(b * T + later) * C + c];
    }
    if (t >= 0) du[(b * T + t) * C + c] = sum;
    else dpast[(b * before + before + t) * C + c] = sum;
}

// One thread per channel of `slab` tokens: their part of dweight and dbias, in sums (slabs, K + 1, C). Then
// the totals.
extern "C" __global__ void convolve_sums(
    const REAL* __restrict__ u, const REAL* __restrict__ past, const REAL* __restrict__ dy,
    REAL* sums, size* arrived, REAL* dweight, size more, REAL* dbias, size more_bias,
    size has_past, size B, size T, size C, size slab)
{
    const size c = my_channel(), first = my_part() * slab;
    if (c < C) {
        REAL weighted[K], plain = 0;
        for (int j = 0; j < K; ++j) weighted[j] = 0;
        size b = T ? first / T : 0, t = first - b * T;
        for (size token = first; token < B * T && token < first + slab; ++token) {
            const REAL d = dy[token * C + c];
            plain += d;
            for (int j = 0; j < K; ++j)
                weighted[j] += d * input_at(u, past, has_past, b, t - (K - 1) + j, c, T, C);
            if (++t == T) ++b, t = 0;
        }
        for (int j = 0; j < K; ++j) sums[(my_part() * (K + 1) + j) * C + c] = weighted[j];
        sums[(my_part() * (K + 1) + K) * C + c] = plain;
    }
    if (!all_arrived(arrived) || c >= C) return;
    for (int j = 0; j < K; ++j)
        put(dweight, c * K + j, total(sums, (K + 1) * C, j * C + c), more);
    put(dbias, c, total(sums, (K + 1) * C, K * C + c), more_bias);
}
"""


@sequence.causal_conv1d.faster("cupy")
def causal_conv1d(xp, u, weight, bias, past=None):
    """No padding; one thread computes one output, or the gradient of one input."""
    (B, T, C), K = u.shape, weight.shape[-1]
    has_past = int(past is not None)
    u, weight, bias, before = packed(xp, u, weight, bias, past if has_past else bias)
    y, (slabs, slab) = xp.empty(u.shape, dtype=u.dtype), slabs_of(B * T)
    launch(xp, CONVOLUTION, "convolve", (B * T, C), u, weight, bias, before, y, has_past, T, C, K=K)

    def backward(dy):
        (dy,), du = packed(xp, dy), xp.empty(u.shape, dtype=u.dtype)
        dpast = xp.empty((B, K - 1, C) if has_past else (0,), dtype=u.dtype)
        inputs = T + (K - 1) * has_past
        launch(xp, CONVOLUTION, "convolve_du", (B * inputs, C),
               weight, dy, du, dpast, has_past, T, C, K=K)  # fmt: skip
        dweight, dbias = place_for(xp, weight), place_for(xp, bias)
        sums = xp.empty((slabs, K + 1, C), dtype=u.dtype)
        launch(xp, CONVOLUTION, "convolve_sums", (slabs, C), u, before, dy, sums, counters(xp, C),
               *dweight, *dbias, has_past, B, T, C, slab, K=K)  # fmt: skip
        return du, dweight[0], dbias[0], dpast if has_past else None

    return y, backward


@sequence.associative_memory.faster("cupy")
def associative_memory(xp, u, memory):
    """Computes the softmax and its gradient in place, each with one kernel."""
    shape, (h, slots) = u.shape, rounded(xp, rows(u), memory)
    a = product(xp, h, slots.T)  # (N, S)
    softmax_of(xp, a, a)

    def backward(dy):
        (dy,) = rounded(xp, rows(dy), like=h)
        ds = product(xp, dy, slots.T)
        softmax_backward(xp, a, ds, ds)
        dmemory = product(xp, a.T, dy, *place_for(xp, memory))  # M as values
        (ds,) = rounded(xp, ds, like=h)
        product(xp, ds.T, h, out=dmemory, add=True)  # M as keys
        return product(xp, ds, slots).reshape(shape), dmemory

    return product(xp, a, slots).reshape(shape), backward


GATE = r"""
// One thread per channel of a token; its two gates are C entries apart.
extern "C" __global__ void fuse(
    const REAL* __restrict__ local, const REAL* __restrict__ global, const REAL* __restrict__ gate,
    const REAL* __restrict__ bias, REAL* __restrict__ y, size C)
{
    const size c = my_channel(), i = my_part() * C + c, g = i + my_part() * C;
    if (c < C) y[i] = sigmoid(gate[g] + bias[c]) * local[i] + sigmoid(gate[g + C] + bias[C + c]) * global[i];
}

// One thread per channel of `slab` tokens; their part of dbias goes into sums (slabs, 2C). Then dbias.
extern "C" __global__ void fuse_back(
    const REAL* __restrict__ local, const REAL* __restrict__ global, const REAL* __restrict__ gate,
    const REAL* __restrict__ bias, const REAL* __restrict__ dy, REAL* __restrict__ dlocal,
    REAL* __restrict__ dglobal, REAL* __restrict__ dgate, REAL* sums, size* arrived, REAL* dbias, size more,
    size tokens, size C, size slab)
{
    const size c = my_channel(), first = my_part() * slab;
    if (c < C) {
        REAL sum_p = 0, sum_q = 0;
        for (size token = first; token < tokens && token < first + slab; ++token) {
            const size i = token * C + c, g = i + token * C;
            const REAL p = gate[g] + bias[c], q = gate[g + C] + bias[C + c];
            dlocal[i] = dy[i] * sigmoid(p);
            dglobal[i] = dy[i] * sigmoid(q);
            sum_p += dgate[g] = dlocal[i] * local[i] * sigmoid(-p);
            sum_q += dgate[g + C] = dglobal[i] * global[i] * sigmoid(-q);
        }
        sums[my_part() * 2 * C + c] = sum_p;
        sums[my_part() * 2 * C + C + c] = sum_q;
    }
    if (!all_arrived(arrived) || c >= C) return;
    put(dbias, c, total(sums, 2 * C, c), more);
    put(dbias, C + c, total(sums, 2 * C, C + c), more);
}
"""


@sequence.gated_fusion.faster("cupy")
def gated_fusion(xp, local_context, global_context, gate, bias=None):
    """Keeps only its inputs; backward recomputes the two sigmoids."""
    shape, C = local_context.shape, local_context.shape[-1]
    added = xp.zeros(2 * C, dtype=gate.dtype) if bias is None else bias
    inputs, y = packed(xp, local_context, global_context, gate, added), xp.empty(shape, dtype=gate.dtype)
    N = y.size // max(1, C)
    launch(xp, GATE, "fuse", (N, C), *inputs, y, C)

    def backward(dy):
        (dy,), gradients = packed(xp, dy), [xp.empty(z.shape, dtype=z.dtype) for z in inputs[:3]]
        (slabs, slab), (dbias, more) = slabs_of(N), place_for(xp, inputs[3])
        sums = xp.empty((slabs, 2 * C), dtype=gate.dtype)
        launch(xp, GATE, "fuse_back", (slabs, C), *inputs, dy, *gradients, sums, counters(xp, C), dbias, more,
               N, C, slab)  # fmt: skip
        return *gradients, None if bias is None else dbias

    return y, backward
