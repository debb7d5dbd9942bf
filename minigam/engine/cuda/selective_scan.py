"""The selective scan; it keeps only the states at the borders of chunks.

Letters: b sequences, T tokens, E channels, N states per channel.
"""

from minigam.engine import selective_scan as reference
from minigam.engine.cuda.kernels import WARP, launch
from minigam.engine.numeric import packed, rows

CHUNK = 64  # tokens per chunk; one state per chunk is kept, where the reference keeps one per token

# N is a macro. One thread handles one channel of one sequence: its N states stay in registers for the whole
# sequence. States are stored as (..., N, E), so that neighbouring threads read neighbouring numbers. No
# thread waits for another: another kernel computes the sums over channels.
SCAN = r"""
struct Place { size row, e; bool outside; };

__device__ Place my_place(size b, size E) {
    return {my_index() / E, my_index() % E, my_index() >= b * E};
}

// Writes y, and to borders (chunks + 1, b, N, E) the states after each chunk; borders[0] is given.
extern "C" __global__ void scan_forward(
    const REAL* __restrict__ x, const REAL* __restrict__ delta, const REAL* __restrict__ A,
    const REAL* __restrict__ B, const REAL* __restrict__ C, const REAL* __restrict__ skip,
    REAL* borders, REAL* __restrict__ y, size b, size T, size E, size chunk)
{
    const Place p = my_place(b, E);
    if (p.outside) return;
    REAL h[N], rate[N];
    for (int n = 0; n < N; ++n) {
        h[n] = borders[(p.row * N + n) * E + p.e];
        rate[n] = A[n * E + p.e];
    }
    for (size t = 0; t < T; ++t) {
        const size token = p.row * T + t, i = token * E + p.e;
        const REAL step = delta[i], write = step * x[i];
        REAL sum = skip[p.e] * x[i];
        for (int n = 0; n < N; ++n) {
            h[n] = exp(step * rate[n]) * h[n] + write * B[token * N + n];
            sum += C[token * N + n] * h[n];
        }
        y[i] = sum;
        if ((t + 1) % chunk == 0 || t + 1 == T)
            for (int n = 0; n < N; ++n)
                borders[((t / chunk + 1) * b + p.row) * N * E + n * E + p.e] = h[n];
    }
}

// One chunk, tokens begin .. end-1. From `border` (b, N, E), the state before it, computes the states h_t and
// their gradients (b, chunk, N, E), dx and ddelta. carry (b, N, E) is the gradient that the next chunk
// passes to the last state. carry and dA (b, N, E) are updated for the chunk before.
extern "C" __global__ void scan_backward(
    const REAL* __restrict__ x, const REAL* __restrict__ delta, const REAL* __restrict__ A,
    const REAL* __restrict__ B, const REAL* __restrict__ C, const REAL* __restrict__ skip,
    const REAL* __restrict__ dy, const REAL* __restrict__ border,
    REAL* states, REAL* __restrict__ dstates, REAL* __restrict__ dx, REAL* __restrict__ ddelta,
    REAL* __restrict__ dA, REAL* __restrict__ carry,
    size b, size T, size E, size chunk, size begin, size end)
{
    const Place p = my_place(b, E);
    if (p.outside) return;
    const size first = p.row * N * E + p.e;           // state 0 of this channel in (b, N, E)
    const size work = p.row * chunk * N * E + p.e;    // and of the chunk's first token in (b, chunk, N, E)
    REAL h[N], rate[N], dh[N], drate[N];
    for (int n = 0; n < N; ++n) {
        h[n] = border[first + n * E];
        rate[n] = A[n * E + p.e];
        dh[n] = carry[first + n * E];
        drate[n] = dA[first + n * E];
    }
    for (size t = begin; t < end; ++t) {
        const size token = p.row * T + t, i = token * E + p.e;
        const REAL step = delta[i], write = step * x[i];
        for (int n = 0; n < N; ++n) {
            h[n] = exp(step * rate[n]) * h[n] + write * B[token * N + n];
            states[work + ((t - begin) * N + n) * E] = h[n];
        }
    }
    for (size t = end - 1; t >= begin; --t) {
        const size token = p.row * T + t, i = token * E + p.e;
        const REAL step = delta[i];
        REAL written = 0, exponent = 0;
        for (int n = 0; n < N; ++n) {
            const size here = work + ((t - begin) * N + n) * E;
            const REAL before = t > begin ? states[here - N * E] : border[first + n * E];
            const REAL a = exp(step * rate[n]);
            dh[n] += dy[i] * C[token * N + n];         // h_t is read at t, and used by h_{t+1}
            dstates[here] = dh[n];
            written += dh[n] * B[token * N + n];       // through delta_t x_t
            const REAL decayed = dh[n] * a * before;   // through the exponent delta_t A
            exponent += decayed * rate[n];
            drate[n] += decayed * step;
            dh[n] *= a;
        }
        dx[i] = dy[i] * skip[p.e] + written * step;
        ddelta[i] = written * x[i] + exponent;
    }
    for (int n = 0; n < N; ++n) {
        carry[first + n * E] = dh[n];
        dA[first + n * E] = drate[n];
    }
}

// One warp per state of a token of the chunk: dB and dC, sums over the channels.
extern "C" __global__ void scan_sums(
    const REAL* __restrict__ x, const REAL* __restrict__ delta, const REAL* __restrict__ dy,
    const REAL* __restrict__ states, const REAL* __restrict__ dstates,
    REAL* __restrict__ dB, REAL* __restrict__ dC, size b, size T, size E, size chunk, size begin, size end)
{
    const size n = my_row() % N, t = my_row() / N % (end - begin), row = my_row() / N / (end - begin);
    if (row >= b) return;
    const size token = row * T + begin + t, work = ((row * chunk + t) * N + n) * E;
    REAL written = 0, read = 0;
    for (size e = my_lane(); e < E; e += 32) {
        written += dstates[work + e] * (delta[token * E + e] * x[token * E + e]);
        read += states[work + e] * dy[token * E + e];
    }
    written = sum_of_warp(written);
    read = sum_of_warp(read);
    if (my_lane() == 0) {
        dB[token * N + n] = written;
        dC[token * N + n] = read;
    }
}
"""


@reference.selective_scan.faster("cupy")
def selective_scan(xp, x, delta, A, B, C, skip, past=None, *, remember=None):
    """The same recurrence, with the states in registers; keeps only those at the borders of chunks.

    Backward recomputes the states of a chunk, as the hardware-aware scan of arXiv 2312.00752 does.
    """
    (b, T, E), N = x.shape, A.shape[1]
    inputs = packed(xp, x, delta, A.T, B, C, skip)
    chunks = range(0, T, CHUNK)
    borders = xp.zeros((len(chunks) + 1, b, N, E), dtype=x.dtype)  # the states before and after each chunk
    if past is not None:
        borders[0] = past.swapaxes(1, 2)

    def start(name: str, arrays: tuple, *sizes: int) -> None:
        """Launch one thread per channel of each sequence."""
        launch(xp, SCAN, name, b * E, *inputs, *arrays, b, T, E, CHUNK, *sizes, N=N)

    y = xp.empty((b, T, E), dtype=x.dtype)
    start("scan_forward", (borders, y))
    if remember is not None:
        remember(borders[-1].swapaxes(1, 2).copy())  # a view would keep all borders alive

    def backward(dy):
        (dy,) = packed(xp, dy)
        dx, ddelta, dB, dC = (xp.empty(z.shape, dtype=x.dtype) for z in (x, delta, B, C))
        states, dstates = (xp.empty((b, CHUNK, N, E), dtype=x.dtype) for _ in range(2))
        dA, carry = (xp.zeros((b, N, E), dtype=x.dtype) for _ in range(2))
        for c, begin in reversed(list(enumerate(chunks))):
            end = min(begin + CHUNK, T)
            start("scan_backward", (dy, borders[c], states, dstates, dx, ddelta, dA, carry), begin, end)
            launch(xp, SCAN, "scan_sums", b * (end - begin) * N * WARP, *inputs[:2], dy, states, dstates,
                   dB, dC, b, T, E, CHUNK, begin, end, N=N)  # fmt: skip
        dskip = rows(dy * x).sum(axis=0)
        dpast = None if past is None else carry.swapaxes(1, 2)
        return dx, ddelta, dA.sum(axis=0).T, dB, dC, dskip, dpast

    return y, backward
