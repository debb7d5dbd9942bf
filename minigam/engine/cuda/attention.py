"""Causal attention, one warp per query."""

import math

from minigam.engine import attention as reference
from minigam.engine.cuda.kernels import WARP, launch
from minigam.engine.cuda.linear import product, rounded
from minigam.engine.masks import mask_arguments

ATTENTION = r"""
// One warp per query. Replaces a by the softmax of scale * a over the keys up to the query, and by 0 after
// it. Writes a after dropout to kept. Each row of a belongs to query row % T, which follows P past keys.
// Without dropout, kept may be a itself.
extern "C" __global__ void attend(
    REAL* a, REAL* kept, size rows, size T, size P, REAL scale,
    size first, word seed, size threshold, REAL keep_scale)
{
    const size row = my_row(), keys = P + T, visible = P + row % T + 1, begin = row * keys;
    if (row >= rows) return;
    REAL top = a[begin] * scale, total = 0;
    for (size j = my_lane(); j < visible; j += 32) top = fmax(top, a[begin + j] * scale);  // ignores nan
    top = max_of_warp(top);
    for (size j = my_lane(); j < visible; j += 32) total += exp(a[begin + j] * scale - top);
    total = sum_of_warp(total);
    for (size j = my_lane(); j < keys; j += 32) {
        const size i = begin + j;
        const REAL weight = (j < visible ? exp(a[i] * scale - top) : 0) / total;
        a[i] = weight;
        kept[i] = weight * dropout_factor(first + i, seed, threshold, keep_scale);
    }
}

// Replaces da, the gradient of the weights after dropout, by that of q k^T. Writes kept again, as above.
extern "C" __global__ void attend_back(
    const REAL* a, REAL* da, REAL* kept, size rows, size keys, REAL scale,
    size first, word seed, size threshold, REAL keep_scale)
{
    const size row = my_row(), begin = row * keys + my_lane(), end = (row + 1) * keys;
    if (row >= rows) return;
    REAL mean = 0;
    for (size i = begin; i < end; i += 32) {
        const REAL factor = dropout_factor(first + i, seed, threshold, keep_scale);
        da[i] *= factor;
        kept[i] = a[i] * factor;
        mean += da[i] * a[i];
    }
    mean = sum_of_warp(mean);
    for (size i = begin; i < end; i += 32) da[i] = a[i] * (da[i] - mean) * scale;
}
"""


@reference.causal_attention.faster("cupy")
def causal_attention(
    xp, qkv, past=None, *, n_heads: int, p: float = 0.0, key: tuple[int, ...] = (), first_token: int = 0
):
    """Computes scale, mask, softmax and dropout in one kernel, in place, between the two products.

    Keeps q, k, v and a, which has B H T (P+T) numbers; backward recomputes the dropout mask.
    """
    (B, T, C3), H = qkv.shape, n_heads
    C, P = C3 // 3, 0 if past is None else past.shape[1]

    def heads(z):  # (B, n, C) -> (B, H, n, D)
        return xp.ascontiguousarray(z.reshape(B, z.shape[1], H, C // H).transpose(0, 2, 1, 3))

    def merged(z):  # (B, H, n, D) -> (B, n, C)
        return z.transpose(0, 2, 1, 3).reshape(B, z.shape[2], C)

    kv = qkv[..., C:] if past is None else xp.concatenate([past, qkv[..., C:]], axis=1)  # (B, P+T, 2C)
    q, k, v = rounded(xp, heads(qkv[..., :C]), heads(kv[..., :C]), heads(kv[..., C:]))
    scale, n = 1.0 / math.sqrt(C // H), B * H * T
    mask = mask_arguments(p, key, first_token * H * (P + T))
    a = product(xp, q, k.swapaxes(-1, -2))  # (B, H, T, P+T)
    dropped = xp.empty(a.shape, dtype=a.dtype) if p > 0.0 else a
    launch(xp, ATTENTION, "attend", n * WARP, a, dropped, n, T, P, scale, *mask)
    y = merged(product(xp, dropped, v))
    del dropped  # backward recomputes it

    def backward(dy):
        (dy,) = rounded(xp, heads(dy), like=q)
        ds, dropped = product(xp, dy, v.swapaxes(-1, -2)), a
        if p > 0.0:
            dropped = xp.empty(a.shape, dtype=a.dtype)
        launch(xp, ATTENTION, "attend_back", n * WARP, a, ds, dropped, n, P + T, scale, *mask)
        dv = product(xp, dropped.swapaxes(-1, -2), dy)
        (ds,) = rounded(xp, ds, like=q)
        dq, dk = product(xp, ds, k), product(xp, ds.swapaxes(-1, -2), q)
        dkv = xp.concatenate([merged(dk), merged(dv)], axis=-1)  # (B, P+T, 2C)
        dqkv = xp.concatenate([merged(dq), dkv[:, P:]], axis=-1)
        return dqkv, None if past is None else dkv[:, :P]

    return y, backward
