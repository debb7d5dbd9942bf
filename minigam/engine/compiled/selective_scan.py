"""The rule of the selective scan; it keeps only the states at the borders of chunks.

Letters: b sequences, T tokens, E channels, N states per channel.
"""

import numpy as np

from minigam.engine import selective_scan as reference
from minigam.engine.compiled.kernels import SOURCES, launch, rule_for
from minigam.engine.numeric import packed, rows

CHUNK, WIDTH = 16, 32  # tokens per chunk, one state of which is kept; channels of a thread, a few vectors

# A block is WIDTH channels of one sequence. States are stored as (..., N, E): neighbours are channels.
SOURCES.append(
    rf"enum {{ CHUNK = {CHUNK}, WIDTH = {WIDTH} }};"
    + r"""
// Copies `width` channels of `tokens` tokens to or from a work array.
static void gather(const REAL* from, REAL to[CHUNK][WIDTH], size tokens, size width, size E) {
    for (size t = 0; t < tokens; ++t)
        for (size e = 0; e < WIDTH; ++e) to[t][e] = e < width ? from[t * E + e] : 0;
}
static void scatter(REAL from[CHUNK][WIDTH], REAL* to, size tokens, size width, size E) {
    for (size t = 0; t < tokens; ++t) memcpy(to + t * E, from[t], width * sizeof(REAL));
}

// a_t = exp(delta_t A) and h_t of one state n of a chunk; h_t follows `before`, which becomes the last h_t.
static void recur(
    REAL step[CHUNK][WIDTH], REAL write[CHUNK][WIDTH], const REAL* A, const REAL* B, REAL before[WIDTH],
    REAL a[CHUNK][WIDTH], REAL h[CHUNK][WIDTH], size tokens, size N)
{
    for (size t = 0; t < tokens; ++t)
        EACH for (size e = 0; e < WIDTH; ++e) a[t][e] = exp_(step[t][e] * A[e]);
    for (size t = 0; t < tokens; ++t)
        EACH for (size e = 0; e < WIDTH; ++e)
            before[e] = h[t][e] = a[t][e] * before[e] + write[t][e] * B[t * N];
}

// Writes y, and to borders (chunks + 1, b, N, E) the states after each chunk; borders[0] is given.
KERNEL scan(
    size first, size last, const REAL* x, const REAL* delta, const REAL* A, const REAL* B, const REAL* C,
    const REAL* skip, REAL* borders, REAL* y, size sequences, size T, size E, size N)
{
    const size blocks = (E + WIDTH - 1) / WIDTH;
    for (size row = first; row < last; ++row) {
        const size b = row / blocks, e0 = row % blocks * WIDTH, width = E - e0 < WIDTH ? E - e0 : WIDTH;
        for (size start = 0; start < T; start += CHUNK) {
            const size tokens = T - start < CHUNK ? T - start : CHUNK, at = (b * T + start) * E + e0;
            REAL step[CHUNK][WIDTH], write[CHUNK][WIDTH], out[CHUNK][WIDTH], a[CHUNK][WIDTH], h[CHUNK][WIDTH];
            gather(delta + at, step, tokens, width, E);
            gather(x + at, write, tokens, width, E);
            for (size t = 0; t < tokens; ++t)
                for (size e = 0; e < WIDTH; ++e) {
                    out[t][e] = e < width ? skip[e0 + e] * write[t][e] : 0;
                    write[t][e] *= step[t][e];
                }
            for (size n = 0; n < N; ++n) {
                REAL rate[WIDTH], state[WIDTH];
                REAL* border = borders + ((start / CHUNK * sequences + b) * N + n) * E + e0;
                for (size e = 0; e < WIDTH; ++e) {
                    rate[e] = e < width ? A[n * E + e0 + e] : 0;
                    state[e] = e < width ? border[e] : 0;
                }
                recur(step, write, rate, B + (b * T + start) * N + n, state, a, h, tokens, N);
                const REAL* read = C + (b * T + start) * N + n;
                for (size t = 0; t < tokens; ++t)
                    EACH for (size e = 0; e < WIDTH; ++e) out[t][e] += read[t * N] * h[t][e];
                memcpy(border + sequences * N * E, state, width * sizeof(REAL));
            }
            scatter(out, y + at, tokens, width, E);
        }
    }
}

// carry (b, N, E), given as 0, becomes the gradient of the state before the first token; dA (b, N, E), given
// as 0, each sequence's part of it. dBC (blocks, 2, b, T, N): each block's part of dB and dC.
KERNEL scan_back(
    size first, size last, const REAL* x, const REAL* delta, const REAL* A, const REAL* B, const REAL* C,
    const REAL* skip, const REAL* borders, const REAL* dy, REAL* dx, REAL* ddelta, REAL* dA, REAL* dBC,
    REAL* carry, size sequences, size T, size E, size N)
{
    const size blocks = (E + WIDTH - 1) / WIDTH;
    for (size row = first; row < last; ++row) {
        const size b = row / blocks, e0 = row % blocks * WIDTH, width = E - e0 < WIDTH ? E - e0 : WIDTH;
        REAL *dB = dBC + row % blocks * 2 * sequences * T * N, *dC = dB + sequences * T * N;
        for (size start = (T - 1) / CHUNK * CHUNK; start >= 0; start -= CHUNK) {
            const size tokens = T - start < CHUNK ? T - start : CHUNK, at = (b * T + start) * E + e0;
            REAL step[CHUNK][WIDTH], in[CHUNK][WIDTH], write[CHUNK][WIDTH], d[CHUNK][WIDTH];
            REAL written[CHUNK][WIDTH], exponent[CHUNK][WIDTH], a[CHUNK][WIDTH], h[CHUNK][WIDTH];
            gather(delta + at, step, tokens, width, E);
            gather(x + at, in, tokens, width, E);
            gather(dy + at, d, tokens, width, E);
            for (size t = 0; t < tokens; ++t)
                for (size e = 0; e < WIDTH; ++e) {
                    write[t][e] = step[t][e] * in[t][e];
                    written[t][e] = exponent[t][e] = 0;
                }
            for (size n = 0; n < N; ++n) {
                const size state_at = (b * N + n) * E + e0;
                const REAL* border = borders + start / CHUNK * sequences * N * E + state_at;
                REAL rate[WIDTH], state[WIDTH], before[WIDTH], dh[WIDTH], drate[WIDTH];
                for (size e = 0; e < WIDTH; ++e) {
                    rate[e] = e < width ? A[n * E + e0 + e] : 0;
                    state[e] = before[e] = e < width ? border[e] : 0;
                    dh[e] = e < width ? carry[state_at + e] : 0;
                    drate[e] = 0;
                }
                recur(step, write, rate, B + (b * T + start) * N + n, state, a, h, tokens, N);
                for (size t = tokens - 1; t >= 0; --t) {
                    const size token = (b * T + start + t) * N + n;
                    const REAL *previous = t > 0 ? h[t - 1] : before, B_t = B[token], C_t = C[token];
                    REAL dB_t = 0, dC_t = 0;
                    _Pragma("omp simd reduction(+ : dB_t, dC_t)") for (size e = 0; e < WIDTH; ++e) {
                        dC_t += d[t][e] * h[t][e];
                        const REAL dh_t = dh[e] + d[t][e] * C_t;      // h_t is read at t, and used by h_{t+1}
                        dB_t += dh_t * write[t][e];
                        written[t][e] += dh_t * B_t;                  // through delta_t x_t
                        const REAL through = dh_t * a[t][e], decayed = through * previous[e];
                        exponent[t][e] += decayed * rate[e];          // through the exponent delta_t A
                        drate[e] += decayed * step[t][e];
                        dh[e] = through;
                    }
                    dB[token] = dB_t;
                    dC[token] = dC_t;
                }
                for (size e = 0; e < width; ++e) {
                    carry[state_at + e] = dh[e];
                    dA[state_at + e] += drate[e];
                }
            }
            for (size t = 0; t < tokens; ++t)
                for (size e = 0; e < width; ++e) {
                    dx[at + t * E + e] = d[t][e] * skip[e0 + e] + written[t][e] * step[t][e];
                    ddelta[at + t * E + e] = written[t][e] * in[t][e] + exponent[t][e];
                }
        }
    }
}
"""
)


@rule_for(
    reference.selective_scan, (2, 20, 3), [[[0.5, 0.1, 0.2]] * 20] * 2, (3, 2), (2, 20, 2), (2, 20, 2), (3,)
)
def selective_scan(xp, x, delta, A, B, C, skip, past=None, *, remember=None):
    """The same recurrence, with the states of a few channels in the cache.

    Backward recomputes the states of a chunk, as the hardware-aware scan of arXiv 2312.00752 does.
    """
    (b, T, E), N = x.shape, A.shape[1]
    inputs, blocks = packed(np, x, delta, A.T, B, C, skip), -(-E // WIDTH)
    borders = np.zeros((-(-T // CHUNK) + 1, b, N, E), x.dtype)  # the states before and after each chunk
    if past is not None:
        borders[0] = past.swapaxes(1, 2)
    y = np.empty((b, T, E), x.dtype)
    launch("scan", b * blocks, 1, *inputs, borders, y, b, T, E, N)
    if remember is not None:
        remember(borders[-1].swapaxes(1, 2).copy())  # a view would keep all borders alive

    def backward(dy):
        (dy,), dx, ddelta = packed(np, dy), np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype)
        (dA, carry), dBC = np.zeros((2, b, N, E), x.dtype), np.empty((blocks, 2, b, T, N), x.dtype)
        launch("scan_back", b * blocks, 1, *inputs, borders, dy, dx, ddelta, dA, dBC, carry, b, T, E, N)
        dB, dC = dBC.sum(axis=0)
        dpast = None if past is None else carry.swapaxes(1, 2)
        return dx, ddelta, dA.sum(axis=0).T, dB, dC, rows(dy * x).sum(axis=0), dpast

    return y, backward
