"""The written memory: chunks of tokens at a time, as matrix products; all chunks at once.

Letters: B batch, T tokens, C channels, S slots; k chunks of n tokens. N is the state before a chunk:

    P = tril(r w^T),   y = r N + P u,   N <- N + w^T u,   where r = a / n_t

What one chunk hands to the next, N and n_t, is a running sum over chunks, so that one launch or one product
does all chunks: as many launches for any T.
"""

from minigam.engine import written_memory as reference
from minigam.engine.cuda.gradients import place_for
from minigam.engine.cuda.kernels import WARP, launch
from minigam.engine.cuda.linear import product, rounded
from minigam.engine.cuda.softmax import softmax_of
from minigam.engine.numeric import packed, rows

CHUNK = 64  # tokens in a chunk, at most

# Most launches are over the slots of each chunk: part b * chunks + c is chunk c of sequence b, and a thread
# walks over its n tokens. Neighbouring threads have neighbouring slots.
WRITTEN = r"""
// One thread per slot of a chunk: totals (B, chunks, S) of w over its tokens. Those from T on are padding,
// which writes nothing.
extern "C" __global__ void weigh(REAL* __restrict__ w, REAL* totals, size chunks, size n, size T, size S) {
    const size s = my_channel(), begin = my_part() * n, left = T - my_part() % (unsigned)chunks * n;
    if (s >= S) return;
    const size end = begin + (left < n ? left : n);
    REAL sum = 0;
#pragma unroll 8  // eight reads under way at a time
    for (size t = begin; t < end; ++t) sum += w[t * S + s];
    for (size t = end; t < begin + n; ++t) w[t * S + s] = 0;
    totals[my_part() * S + s] = sum;
}

// The same threads. n_t = n_{t-1} + w_t in held (B, chunks * n, S), and r = a / n_t. n before the first token
// is the last column of past (B, S, C+1), if there is one, and after the last token that of ends.
extern "C" __global__ void hold(
    const REAL* __restrict__ a, const REAL* __restrict__ w, const REAL* __restrict__ totals,
    const REAL* __restrict__ past, REAL* __restrict__ r, REAL* __restrict__ held, REAL* __restrict__ ends,
    size has_past, size chunks, size n, size S, size C, REAL prior)
{
    const size s = my_channel(), begin = my_part() * n;
    const size chunk = my_part() % (unsigned)chunks, first = my_part() - chunk;
    if (s >= S) return;
    const size column = (my_part() / (unsigned)chunks * S + s) * (C + 1) + C;
    REAL sum = has_past ? past[column] : prior;
#pragma unroll 8
    for (size c = first; c < first + chunk; ++c) sum += totals[c * S + s];
#pragma unroll 8
    for (size t = begin; t < begin + n; ++t) {
        sum += w[t * S + s];
        held[t * S + s] = sum;
        r[t * S + s] = a[t * S + s] / sum;
    }
    if (chunk == chunks - 1) ends[column] = sum;
}

// Each of `count` numbers, `step` apart, becomes `sum` and the sum of those before it. Returns that of all.
__device__ REAL running_sum(REAL* z, size count, size step, REAL sum) {
    for (size c = 0; c < count; ++c) {
        const REAL here = z[c * step];
        z[c * step] = sum;
        sum += here;
    }
    return sum;
}

// One thread per channel of a slot of a sequence. What each chunk writes, in state (B, chunks, S, C),
// becomes the state before it; ends (B, S, C+1) gets that after the last.
extern "C" __global__ void states(
    REAL* state, const REAL* __restrict__ memory, const REAL* __restrict__ past, REAL* __restrict__ ends,
    size has_past, size chunks, size S, size C, REAL prior)
{
    const size b = my_part() / (unsigned)S, s = my_part() % (unsigned)S, c = my_channel();
    if (c >= C) return;
    const size end = my_part() * (C + 1) + c;
    const REAL before = has_past ? past[end] : prior * memory[s * C + c];
    ends[end] = running_sum(state + (b * chunks * S + s) * C + c, chunks, S * C, before);
}

// The same backward: what each chunk gives to the gradient of the state, in dstate, becomes that of the state
// after it; dstart (B, S, C+1) gets that of the state before the first.
extern "C" __global__ void states_back(REAL* dstate, REAL* __restrict__ dstart, size chunks, size S, size C) {
    const size b = my_part() / (unsigned)S, s = my_part() % (unsigned)S, c = my_channel();
    if (c >= C) return;
    REAL* last = dstate + ((b * chunks + chunks - 1) * S + s) * C + c;
    dstart[my_part() * (C + 1) + c] = running_sum(last, chunks, -S * C, 0);
}

// One thread per channel of a slot: adds what all sequences give to M as their N before the first token.
extern "C" __global__ void start_back(
    const REAL* __restrict__ dstart, REAL* dmemory, size B, size S, size C, REAL prior)
{
    const size s = my_part(), c = my_channel();
    if (c >= C) return;
    REAL sum = 0;
#pragma unroll 8
    for (size b = 0; b < B; ++b) sum += dstart[(b * S + s) * (C + 1) + c];
    dmemory[s * C + c] += prior * sum;
}

// One thread per token that one token reads: P (B, chunks, n, n). None reads those that come later.
extern "C" __global__ void until_now(REAL* P, size n) {
    const size written = my_channel(), now = my_part() % (unsigned)n;
    if (now < written && written < n) P[my_part() * n + written] = 0;
}

// One thread per slot of a chunk: totals of dr r / n_t, by which n_t lowers y, as in `weigh`.
extern "C" __global__ void weigh_back(
    const REAL* __restrict__ r, const REAL* __restrict__ held, const REAL* __restrict__ dr, REAL* totals,
    size n, size S)
{
    const size s = my_channel(), begin = my_part() * n;
    if (s >= S) return;
    REAL sum = 0;
#pragma unroll 8
    for (size t = begin; t < begin + n; ++t) sum += dr[t * S + s] * r[t * S + s] / held[t * S + s];
    totals[my_part() * S + s] = sum;
}

// The same threads: dn (B, chunks * n, S), to which all later tokens add, as n_t is used by n_{t+1}.
extern "C" __global__ void hold_back(
    const REAL* __restrict__ r, const REAL* __restrict__ held, const REAL* __restrict__ dr,
    const REAL* __restrict__ totals, REAL* __restrict__ dn, REAL* __restrict__ dstart,
    size chunks, size n, size S, size C)
{
    const size s = my_channel(), begin = my_part() * n;
    const size chunk = my_part() % (unsigned)chunks, first = my_part() - chunk;
    if (s >= S) return;
    REAL sum = 0;
#pragma unroll 8
    for (size c = first + chunks - 1; c > first + chunk; --c) sum -= totals[c * S + s];
#pragma unroll 8
    for (size t = begin + n - 1; t >= begin; --t) {
        sum -= dr[t * S + s] * r[t * S + s] / held[t * S + s];
        dn[t * S + s] = sum;
    }
    if (chunk == 0) dstart[(my_part() / (unsigned)chunks * S + s) * (C + 1) + C] = sum;
}

// One warp per token. dr becomes the gradient of the scores whose softmax is a = r n_t; dw, which comes
// without what n_t gives, that of the scores whose softmax is w. See softmax_back.
extern "C" __global__ void scores_back(
    const REAL* __restrict__ r, const REAL* __restrict__ held, const REAL* __restrict__ w,
    const REAL* __restrict__ dn, REAL* __restrict__ dr, REAL* __restrict__ dw, size tokens, size S)
{
    const size begin = my_row() * S + my_lane(), end = (my_row() + 1) * S;
    if (my_row() >= tokens) return;
    REAL read = 0, written = 0;
    for (size i = begin; i < end; i += 32) {
        read += dr[i] * r[i];  // da a, where da = dr / n_t
        written += (dw[i] + dn[i]) * w[i];
    }
    read = sum_of_warp(read);
    written = sum_of_warp(written);
    for (size i = begin; i < end; i += 32) {
        dr[i] = r[i] * (dr[i] - held[i] * read);
        dw[i] = w[i] * (dw[i] + dn[i] - written);
    }
}
"""


def chunks_of(T: int) -> tuple[int, int]:
    """Return (k, n): the fewest chunks that T tokens need, and the fewest tokens that these then need."""
    k = max(1, -(-T // CHUNK))
    return k, -(-T // k)


@reference.written_memory.faster("cupy")
def written_memory(xp, u, local_context, memory, past=None, *, prior=None, remember=None):
    """Computes all chunks at once; keeps the states between them. The last has less than k tokens of padding.

    Where products round their inputs, each array is rounded once. Softmaxes and running sums are not rounded.
    """
    (B, T, C), S, has_past, dtype = u.shape, len(memory), int(past is not None), u.dtype
    prior, (k, n) = 1.0 / S if prior is None else float(prior), chunks_of(T)
    v, q, slots = rounded(xp, _padded(xp, u, k * n), _padded(xp, local_context, k * n), memory)
    a, w = (product(xp, rows(z), slots.T) for z in (v, q))  # (B k n, S)
    softmax_of(xp, a, a)
    softmax_of(xp, w, w)
    r, held = (xp.empty(w.shape, dtype=dtype) for _ in range(2))
    totals, ends = xp.empty((B, k, S), dtype=dtype), xp.empty((B, S, C + 1), dtype=dtype)
    first, before = packed(xp, memory, past if has_past else memory)
    launch(xp, WRITTEN, "weigh", (B * k, S), w, totals, k, n, T, S)
    launch(xp, WRITTEN, "hold", (B * k, S), a, w, totals, before, r, held, ends, has_past, k, n, S, C, prior)

    def cut(z):  # (B, T, width) or (B k n, width) -> (B, k, n, width)
        return z.reshape(B, k, n, z.shape[-1])

    reads, writes, values = map(cut, (*rounded(xp, r, w, like=v), v))
    N = product(xp, writes.swapaxes(-1, -2), values)  # (B, k, S, C)
    launch(xp, WRITTEN, "states", (B * S, C), N, first, before, ends, has_past, k, S, C, prior)
    (N,) = rounded(xp, N, like=v)
    y, P = _read(xp, N, reads, writes, values)
    if remember is not None:
        remember(ends)

    def backward(dy):
        (dy,) = map(cut, rounded(xp, _padded(xp, dy, k * n), like=v))
        dN, dstart = product(xp, reads.swapaxes(-1, -2), dy), xp.empty((B, S, C + 1), dtype=dtype)
        launch(xp, WRITTEN, "states_back", (B * S, C), dN, dstart, k, S, C)
        (dN,) = rounded(xp, dN, like=v)
        dr, dw, du = map(rows, _read_backward(xp, N, dN, P, reads, writes, values, dy))
        totals, dn = xp.empty((B, k, S), dtype=dtype), xp.empty(dw.shape, dtype=dtype)
        launch(xp, WRITTEN, "weigh_back", (B * k, S), r, held, dr, totals, n, S)
        launch(xp, WRITTEN, "hold_back", (B * k, S), r, held, dr, totals, dn, dstart, k, n, S, C)
        launch(xp, WRITTEN, "scores_back", len(dr) * WARP, r, held, w, dn, dr, dw, len(dr), S)
        ds, dq = rounded(xp, dr, dw, like=v)
        product(xp, ds, slots, out=du, add=True)
        dlocal = product(xp, dq, slots)
        dmemory = product(xp, ds.T, rows(v), *place_for(xp, memory))  # M as where to read
        product(xp, dq.T, rows(q), out=dmemory, add=True)  # and where to write
        du, dlocal = (z.reshape(B, k * n, C)[:, :T] for z in (du, dlocal))
        if has_past:
            return du, dlocal, dmemory, dstart
        launch(xp, WRITTEN, "start_back", (S, C), dstart, dmemory, B, S, C, prior)  # and as N_0
        return du, dlocal, dmemory, None

    return y.reshape(B, k * n, C)[:, :T], backward


def _padded(xp, z, length: int):
    """Return z (B, T, C) as (B, length, C), C-contiguous, with zeros after its tokens."""
    (z,) = packed(xp, z)
    if z.shape[1] == length:
        return z
    y = xp.zeros((len(z), length, z.shape[2]), dtype=z.dtype)
    y[:, : z.shape[1]] = z
    return y


def _until_now(xp, P, like):
    """Return tril(P), in place, as products read it."""
    n = P.shape[-1]
    launch(xp, WRITTEN, "until_now", (P.size // max(1, n), n), P, n)
    return rounded(xp, P, like=like)[0]


def _read(xp, N, r, w, u):
    """Return y (B, k, n, C) and P (B, k, n, n), for N (B, k, S, C); r, w (B, k, n, S); u (B, k, n, C)."""
    P = _until_now(xp, product(xp, r, w.swapaxes(-1, -2)), u)
    y = product(xp, r, N)
    product(xp, P, u, out=y, add=True)
    return y, P


def _read_backward(xp, N, dN, P, r, w, u, dy):
    """Return dr, dw as far as it goes through N, and du; dN (B, k, S, C) is the gradient after each chunk."""
    dP = _until_now(xp, product(xp, dy, u.swapaxes(-1, -2)), u)
    dr, dw, du = product(xp, dy, N.swapaxes(-1, -2)), product(xp, u, dN.swapaxes(-1, -2)), product(xp, w, dN)
    product(xp, dP, w, out=dr, add=True)
    product(xp, dP.swapaxes(-1, -2), r, out=dw, add=True)
    product(xp, P.swapaxes(-1, -2), dy, out=du, add=True)
    return dr, dw, du
