"""The rule of causal attention."""

import math

import numpy as np

from minigam.engine import attention as reference
from minigam.engine.compiled.kernels import SOURCES, blocks_of, launch, rule_for
from minigam.engine.masks import mask_arguments

QUERIES = 128  # queries per block; keys after the last query of a block are skipped

SOURCES.append(r"""
// a (H, queries, keys) becomes the softmax of scale * a over the keys up to each query, and 0 after it; kept
// is a after dropout, or a itself. The queries are the last of the keys; a row of the mask has T entries.
KERNEL attend(
    size first, size last, REAL* a, REAL* kept, size queries, size keys, REAL scale,
    size T, word entry, word seed, size threshold, REAL keep_scale)
{
    word z[DRAWN / 4 + 2];
    for (size row = first; row < last; ++row) {
        const size query = keys - queries + row % queries, visible = query + 1;
        REAL *in = a + row * keys, *out = kept + row * keys, top = -INFINITY, total = 0;
        MOST(top) for (size j = 0; j < visible; ++j) top = in[j] > top ? in[j] : top;
        SUM(total) for (size j = 0; j < visible; ++j) total += in[j] = exp_((in[j] - top) * scale);
        EACH for (size j = 0; j < visible; ++j) in[j] /= total;
        memset(in + visible, 0, (keys - visible) * sizeof(REAL));
        for (size begin = 0; in != out && begin < keys; begin += DRAWN) {
            const size n = keys - begin < DRAWN ? keys - begin : DRAWN;
            const unsigned short* bits = draw(z, entry + (row / queries * T + query) * T + begin, n, seed);
            EACH for (size j = 0; j < n; ++j)
                out[begin + j] = bits[j] >= threshold ? in[begin + j] * keep_scale : 0;
        }
    }
}

// da, the gradient of the weights after dropout, becomes that of q k^T; kept is written again, as above.
KERNEL attend_back(
    size first, size last, const REAL* a, REAL* da, REAL* kept, size queries, size keys, REAL scale,
    size T, word entry, word seed, size threshold, REAL keep_scale)
{
    word z[DRAWN / 4 + 2];
    for (size row = first; row < last; ++row) {
        const size query = keys - queries + row % queries;
        const REAL* in = a + row * keys;
        REAL *d = da + row * keys, *out = kept + row * keys, mean = 0;
        for (size begin = 0; in != out && begin < keys; begin += DRAWN) {
            const size n = keys - begin < DRAWN ? keys - begin : DRAWN;
            const unsigned short* bits = draw(z, entry + (row / queries * T + query) * T + begin, n, seed);
            EACH for (size j = 0; j < n; ++j) {
                const REAL factor = bits[j] >= threshold ? keep_scale : 0;
                out[begin + j] = in[begin + j] * factor;
                d[begin + j] *= factor;
            }
        }
        SUM(mean) for (size j = 0; j < keys; ++j) mean += d[j] * in[j];
        EACH for (size j = 0; j < keys; ++j) d[j] = in[j] * (d[j] - mean) * scale;
    }
}
""")


@rule_for(reference.causal_attention, (2, 4, 6), n_heads=2, p=0.25, key=(1,), first_token=1)
def causal_attention(xp, qkv, past=None, *, n_heads: int, p: float = 0.0, key=(), first_token: int = 0):
    """Processes a block of queries of one sequence at a time, with the keys up to its last query only."""
    (B, T, C3), H = qkv.shape, n_heads
    C = C3 // 3
    if past is not None:  # a sequence is read in parts, which are short
        return reference.causal_attention.rule(
            xp, qkv, past, n_heads=H, p=p, key=key, first_token=first_token
        )
    scale, blocks = 1.0 / math.sqrt(C // H), [slice(t, min(t + QUERIES, T)) for t in range(0, T, QUERIES)]
    y, (_, *mask) = np.empty((B, T, C), qkv.dtype), mask_arguments(p, key, 0)

    def heads(z, n):  # (T, n C) -> n arrays (H, T, D)
        return z.reshape(T, n, H, C // H).transpose(1, 2, 0, 3)

    def attend(name, b, block, *arrays):
        """Call a kernel on the weights of a block; return an array of those after dropout."""
        n, keys = block.stop - block.start, block.stop
        kept = np.empty_like(arrays[0]) if p else arrays[0]
        entry = (first_token + b * T) * H * T
        launch(name, H * n, blocks_of(keys), *arrays, kept, n, keys, scale, T, entry, *mask)
        return kept

    weights = {}
    for b in range(B):
        (q, k, v), (y_,) = heads(qkv[b], 3), heads(y[b], 1)
        for block in blocks:
            a = weights[b, block.start] = q[:, block] @ k[:, : block.stop].swapaxes(-1, -2)
            y_[:, block] = attend("attend", b, block, a) @ v[:, : block.stop]

    def backward(dy):
        dqkv = np.zeros((B, T, C3), qkv.dtype)
        for b in range(B):
            (q, k, v), (dy_,) = heads(qkv[b], 3), heads(dy[b], 1)
            dq, dk, dv = heads(dqkv[b], 3)
            for block in blocks:
                a, keys = weights[b, block.start], slice(block.stop)
                ds = dy_[:, block] @ v[:, keys].swapaxes(-1, -2)
                kept = attend("attend_back", b, block, a, ds)
                dv[:, keys] += kept.swapaxes(-1, -2) @ dy_[:, block]
                dq[:, block] = ds @ k[:, keys]
                dk[:, keys] += ds.swapaxes(-1, -2) @ q[:, block]
        return dqkv, None

    return y, backward
