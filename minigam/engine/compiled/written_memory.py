"""The rule of the written memory: chunks of tokens at a time, as matrix products.

Letters: B batch, T tokens, C channels, S slots; k chunks of n tokens. N is the state before a chunk:

    P = tril(r w^T),   y = r N + P u,   N <- N + w^T u,   where r = a / n
"""

from contextvars import copy_context

import numpy as np

from minigam import threads
from minigam.engine import written_memory as reference
from minigam.engine.compiled.kernels import SOURCES, launch, rule_for
from minigam.engine.compiled.rows import softmax_of
from minigam.engine.numeric import packed, rows

CHUNK, LONGER = 32, 64  # tokens of a chunk, where products are small and where they are large
ONE_THREAD = 2**18  # multiplications of a product that OpenBLAS computes without waking another thread

# A row of these kernels is one sequence: a token needs the one before it.
SOURCES.append(r"""
// n_t = n_{t-1} + w_t, and r_t = a_t / n_t in the place of a_t. held (B, S) is n before the first token, and
// becomes n after the last.
KERNEL hold(size first, size last, REAL* a, const REAL* w, REAL* n, REAL* held, size T, size S) {
    for (size b = first; b < last; ++b)
        for (size t = 0; t < T; ++t) {
            const size i = (b * T + t) * S;
            EACH for (size s = 0; s < S; ++s) {
                n[i + s] = held[b * S + s] += w[i + s];
                a[i + s] /= n[i + s];
            }
        }
}

// dr becomes the gradient of the scores whose softmax is a = r n, and dw, the gradient through N alone, that
// of the scores whose softmax is w. dheld (B, S), given as 0, becomes the gradient of n before all tokens.
KERNEL hold_back(
    size first, size last, const REAL* r, const REAL* w, const REAL* n, REAL* dr, REAL* dw, REAL* dheld,
    size T, size S)
{
    for (size b = first; b < last; ++b)
        for (size t = T - 1; t >= 0; --t) {
            const size i = (b * T + t) * S;
            REAL *dn = dheld + b * S, read = 0, written = 0;
            _Pragma("omp simd reduction(+ : read, written)") for (size s = 0; s < S; ++s) {
                const REAL through = dr[i + s] * r[i + s];
                read += through;
                dn[s] -= through / n[i + s];
                dw[i + s] += dn[s];  // n_t is used by n_{t+1}
                written += dw[i + s] * w[i + s];
            }
            EACH for (size s = 0; s < S; ++s) {
                dr[i + s] = r[i + s] * (dr[i + s] - n[i + s] * read);
                dw[i + s] = w[i + s] * (dw[i + s] - written);
            }
        }
}
""")


@rule_for(reference.written_memory, (2, 2 * CHUNK + 6, 3), (2, 2 * CHUNK + 6, 3), (5, 3))
def written_memory(xp, u, local_context, memory, past=None, *, prior=None, remember=None):
    """Computes all chunks at once; keeps the states between them, B (T / n + 1) S C numbers."""
    (B, T, C), S = u.shape, len(memory)
    prior = 1.0 / S if prior is None else float(prior)
    u, local_context, memory = packed(np, u, local_context, memory)
    r, w = ((rows(z) @ memory.T).reshape(B, T, S) for z in (u, local_context))
    softmax_of(r, r)
    softmax_of(w, w)
    n, y, parts = np.empty_like(w), np.empty_like(u), []
    N, held = np.broadcast_to(prior * memory, (B, S, C)), np.full((B, S), prior, u.dtype)
    if past is not None:
        N, held = past[..., :-1], past[..., -1].copy()
    launch("hold", B, 1, r, w, n, held, T, S)
    for tokens, chunk in chunks_of(T, S * C):
        k = (tokens.stop - tokens.start) // chunk
        states, P = np.empty((B, k + 1, S, C), u.dtype), np.empty((B, k, chunk, chunk), u.dtype)
        states[:, 0] = N
        for_sequences(_read, S * C, *(_cut(z, tokens, chunk) for z in (r, w, u, y)), states, P)
        parts.append((tokens, chunk, states, P))
        N = states[:, -1]
    if remember is not None:
        remember(np.concatenate([N, held[..., None]], axis=-1))

    def backward(dy):
        (dy,), dr, dw, du = packed(np, dy), np.empty_like(r), np.empty_like(w), np.empty_like(u)
        dN, dheld = np.zeros((B, S, C), u.dtype), np.zeros((B, S), u.dtype)
        for tokens, chunk, states, P in reversed(parts):
            cut, dstates = (_cut(z, tokens, chunk) for z in (r, w, u, dy, dr, dw, du)), np.empty_like(states)
            dstates[:, -1] = dN
            for_sequences(_read_backward, S * C, *cut, states, dstates, P)
            dN = dstates[:, 0]
        launch("hold_back", B, 1, r, w, n, dr, dw, dheld, T, S)
        ds, dq = rows(dr), rows(dw)
        du += (ds @ memory).reshape(u.shape)
        dmemory = ds.T @ rows(u)  # M as where to read
        dmemory += dq.T @ rows(local_context)  # and where to write
        dlocal = (dq @ memory).reshape(u.shape)
        if past is None:
            return du, dlocal, dmemory + prior * dN.sum(axis=0), None  # and as N_0
        return du, dlocal, dmemory, np.concatenate([dN, dheld[..., None]], axis=-1)

    return y, backward


def chunks_of(T: int, state: int) -> list[tuple[slice, int]]:
    """Cut tokens 0 .. T-1 into those of whole chunks and the others: (tokens, length of a chunk).

    state : S C, the numbers of a state. Longer chunks do less work for each token. But above ONE_THREAD
            multiplications OpenBLAS wakes a second thread, which for small products costs more than it saves,
            and seconds a step where other programs use the cores
    """
    chunk = CHUNK if CHUNK * state <= ONE_THREAD else LONGER
    whole = T // chunk * chunk
    return [(slice(i, j), min(chunk, j - i)) for i, j in ((0, whole), (whole, T)) if i < j]


def _cut(z: np.ndarray, tokens: slice, chunk: int) -> np.ndarray:
    """Return these tokens of z (B, T, width) as a view (B, k, chunk, width)."""
    return z[:, tokens].reshape(len(z), (tokens.stop - tokens.start) // chunk, chunk, z.shape[-1])


def for_sequences(work, state: int, *arrays: np.ndarray) -> None:
    """Call work(*arrays): in two threads, each with half the sequences, if no product wakes a second thread.

    state : as in `chunks_of`
    """
    half = len(arrays[0]) // 2
    if half == 0 or threads.count() == 1 or CHUNK * state > ONE_THREAD:
        work(*arrays)
        return
    from concurrent.futures import ThreadPoolExecutor  # here: few programs need it and all it imports

    with ThreadPoolExecutor(1) as pool:  # a new one each time, as threads do not survive a fork
        second = pool.submit(copy_context().run, work, *(a[half:] for a in arrays))
        work(*(a[:half] for a in arrays))
        second.result()


def _read(r, w, u, y, states, P) -> None:
    """Write y, P (B, k, n, n), and the states (B, k+1, S, C) after each chunk; the first is given.

    r, w : (B, k, n, S)   u, y : (B, k, n, C)
    """
    np.matmul(w.swapaxes(-1, -2), u, out=states[:, 1:])
    for c in range(u.shape[1]):
        states[:, c + 1] += states[:, c]
    np.matmul(r, w.swapaxes(-1, -2), out=P)
    P *= np.tri(P.shape[-1], dtype=P.dtype)
    np.matmul(r, states[:, :-1], out=y)
    y += P @ u


def _read_backward(r, w, u, dy, dr, dw, du, states, dstates, P) -> None:
    """Write dr, du, dw as far as it goes through N, and the gradients of the states; the last is given."""
    np.matmul(r.swapaxes(-1, -2), dy, out=dstates[:, :-1])
    for c in reversed(range(u.shape[1])):
        dstates[:, c] += dstates[:, c + 1]
    before, after = states[:, :-1], dstates[:, 1:]  # a chunk reads the one and writes the other
    dP = dy @ u.swapaxes(-1, -2)
    dP *= np.tri(u.shape[2], dtype=dP.dtype)
    np.matmul(dy, before.swapaxes(-1, -2), out=dr)
    dr += dP @ w
    np.matmul(u, after.swapaxes(-1, -2), out=dw)
    dw += dP.swapaxes(-1, -2) @ r
    np.matmul(w, after, out=du)
    du += P.swapaxes(-1, -2) @ dy
