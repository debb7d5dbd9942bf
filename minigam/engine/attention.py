"""The Transformer's sequence operation, written by hand: causal attention and its gradient.

Letters: B batch, T tokens, C channels, H heads, D = C / H channels per head, P tokens of the past.
"""

import math

from minigam.engine.dispatch import op
from minigam.engine.masks import keep_mask
from minigam.engine.tensor import ShapeError


@op
def causal_attention(
    xp, qkv, past=None, *, n_heads: int, p: float = 0.0, key: tuple[int, ...] = (), first_token: int = 0
):
    """Average the values up to each token, weighted by how well its query matches their keys.

        s = q k^T / sqrt(D), minus infinity where a key comes after the query
        a = Dropout(softmax(s)),   y = a v,   in each of the H heads separately

    qkv  : (B, T, 3C)   queries, keys and values, each H heads of D channels side by side
    past : (B, P, 2C) or None   keys and values of earlier tokens, if a sequence is read in parts
    p, key, first_token : dropout of the weights a (see `ops.dropout`)
    returns (B, T, C)
    Raises ShapeError if H does not divide C, or if past does not fit.
    Cost: 4 B T (P+T) C flop forward, twice that backward; keeps B H T (P+T) numbers, twice that with dropout.
    Both grow with the square of the length.
    Source: Vaswani et al., arXiv 1706.03762; dropout on the weights as in GPT-2.

    >>> qkv = np.zeros((1, 3, 3))
    >>> qkv[0, :, 2] = 3.0, 6.0, 9.0  # equal scores: each token averages the values so far
    >>> mg.sequence.causal_attention(qkv, n_heads=1).numpy().ravel().tolist()
    [3.0, 4.5, 6.0]
    """
    (B, T, C3), H = qkv.shape, n_heads
    C = C3 // 3
    P = 0 if past is None else past.shape[1]
    kv = qkv[..., C:] if past is None else xp.concatenate([past, qkv[..., C:]], axis=1)  # (B, P+T, 2C)

    def heads(z):  # (B, n, C) -> (B, H, n, D)
        return z.reshape(B, z.shape[1], H, C // H).transpose(0, 2, 1, 3)

    def merged(z):  # (B, H, n, D) -> (B, n, C)
        return z.transpose(0, 2, 1, 3).reshape(B, z.shape[2], C)

    q, k, v = heads(qkv[..., :C]), heads(kv[..., :C]), heads(kv[..., C:])
    scale = 1.0 / math.sqrt(C // H)
    after = xp.arange(P + T) > (P + xp.arange(T))[:, None]  # True where the key comes after the query
    s = xp.where(after, -math.inf, (q @ k.swapaxes(-1, -2)) * scale)  # (B, H, T, P+T)
    e = xp.exp(s - s.max(axis=-1, keepdims=True))
    a = e / e.sum(axis=-1, keepdims=True)
    drop = 1.0
    if p > 0.0:
        drop = keep_mask(xp, key, p, a.shape, first_token * H * (P + T)).astype(a.dtype) * (1.0 / (1.0 - p))
    y = merged((a * drop) @ v)

    def backward(dy):
        dy = heads(dy)
        dv = (a * drop).swapaxes(-1, -2) @ dy  # y = (a * drop) v, through v
        da = (dy @ v.swapaxes(-1, -2)) * drop  # through a
        ds = a * (da - (da * a).sum(axis=-1, keepdims=True)) * scale  # softmax: a_i (1[i=j] - a_j)
        dq, dk = merged(ds @ k), merged(ds.swapaxes(-1, -2) @ q)  # s = q k^T
        dkv = xp.concatenate([dk, merged(dv)], axis=-1)  # (B, P+T, 2C)
        return xp.concatenate([dq, dkv[:, P:]], axis=-1), None if past is None else dkv[:, :P]

    return y, backward


@causal_attention.check
def _(qkv, past=None, *, n_heads, **_dropout):
    if qkv.ndim != 3 or n_heads < 1 or qkv.shape[2] % (3 * n_heads) or qkv.shape[2] == 0:
        wanted = f"(B, T, 3C), C > 0 divisible by {n_heads}"
        raise ShapeError(f"causal_attention: qkv {qkv.shape}, wanted {wanted}")
    B, T, C3 = qkv.shape
    if T == 0 and (past is None or past.shape[1:2] == (0,)):
        raise ShapeError(f"causal_attention: qkv {qkv.shape}, wanted at least one token")
    if past is not None and (past.ndim != 3 or past.shape != (B, past.shape[1], C3 // 3 * 2)):
        raise ShapeError(f"causal_attention: past {past.shape}, wanted ({B}, P, {C3 // 3 * 2})")
