"""The faster rule of the selective scan, for Mamba.

Letters: b sequences, T tokens, E channels, N states per channel; a tile has q tokens of r sequences.
"""

import numpy as np

from minigam.engine import selective_scan as reference
from minigam.engine.numeric import rows

CHUNK = 16  # tokens per chunk; one state per chunk is kept, where the reference keeps one per token
TILE = 400_000  # numbers in a work array: enough to amortise the cost of a call, few enough for the cache


@reference.selective_scan.faster("numpy")
def selective_scan(xp, x, delta, A, B, C, skip, past=None, *, remember=None):
    """The same recurrence, for a chunk of tokens of a few sequences at a time, in reused work arrays.

    Keeps the states at the borders of the chunks; backward recomputes those in between, as the
    hardware-aware scan of arXiv 2312.00752 does. Channels are the last axis, so that inner loops run
    over E, not over N. Nothing is divided by a product of decays, which would underflow.
    """
    (b, T, E), N = x.shape, A.shape[1]
    A = np.ascontiguousarray(A.T)  # (N, E)
    q = max(1, min(CHUNK, T))
    r = max(1, min(b, TILE // max(1, q * N * E)))
    chunks = [slice(t, t + q) for t in range(0, T, q)]
    batches = [slice(i, i + r) for i in range(0, b, r)]
    borders = np.zeros((len(chunks) + 1, b, N, E), dtype=x.dtype)  # the states before and after each chunk
    if past is not None:
        borders[0] = past.swapaxes(1, 2)

    def scan_tile(work, here, h):
        """Continue from state h; return a_t, a_t h_{t-1}, h_t (q, r, N, E) and delta_t x_t (q, r, E)."""
        step = tile(delta, here)
        write = step * tile(x, here)
        a, ah, states = work[:3, : len(step), : len(h)]
        np.exp(np.multiply(step[:, :, None], A, out=a), out=a)
        np.einsum("tbe,tbn->tbne", write, tile(B, here), out=states)
        for t in range(len(a)):
            h = np.add(np.multiply(a[t], h, out=ah[t]), states[t], out=states[t])
        return a, ah, states, write

    y, work = skip * x, np.empty((3, q, r, N, E), dtype=x.dtype)
    for batch in batches:
        for c, chunk in enumerate(chunks):
            here = batch, chunk
            h = scan_tile(work, here, borders[c, batch])[2]
            tile(y, here)[...] += (tile(C, here)[:, :, None] @ h)[:, :, 0]
            borders[c + 1, batch] = h[-1]
    if remember is not None:
        remember(borders[-1].swapaxes(1, 2).copy())  # a view would keep all borders alive

    def backward(dy):
        dx, ddelta, dB, dC = dy * skip, np.empty_like(delta), np.empty_like(B), np.empty_like(C)
        dA, dpast = np.zeros_like(A), np.zeros((b, N, E), dtype=x.dtype)
        work = np.empty((4, q, r, N, E), dtype=x.dtype)
        for batch in batches:
            carry = dpast[batch]  # the gradient that h_{t+1} passes to h_t, and h_1 to the past
            for c in range(len(chunks) - 1, -1, -1):
                here = batch, chunks[c]
                a, ah, h, write = scan_tile(work, here, borders[c, batch])
                dh = work[3, : len(a), : len(carry)]
                np.einsum("tbe,tbn->tbne", tile(dy, here), tile(C, here), out=dh)  # h_t is read at t
                for t in range(len(a) - 1, -1, -1):
                    dh[t] += carry  # and used by h_{t+1}
                    np.multiply(dh[t], a[t], out=carry)
                tile(dC, here)[...] = (h @ tile(dy, here)[..., None])[..., 0]
                tile(dB, here)[...] = (dh @ write[..., None])[..., 0]
                written = (tile(B, here)[:, :, None] @ dh)[:, :, 0]  # through delta_t x_t
                tile(dx, here)[...] += written * tile(delta, here)
                decayed = np.multiply(dh, ah, out=ah)  # through the exponent delta_t A
                tile(ddelta, here)[...] = written * tile(x, here) + np.einsum("tbne,ne->tbe", decayed, A)
                dA += np.einsum("tbne,tbe->ne", decayed, tile(delta, here))
        dskip = rows(dy * x).sum(axis=0)
        return dx, ddelta, dA.T, dB, dC, dskip, None if past is None else dpast.swapaxes(1, 2)

    return y, backward


def tile(z, here: tuple[slice, slice]):
    """Return the sequences and tokens `here` of z (b, T, ...) as a view (q, r, ...), time first."""
    return z[here].swapaxes(0, 1)
