"""The faster rule of causal attention."""

import math

import numpy as np

from minigam.engine import attention as reference
from minigam.engine.cpu.ops import softmax_backward_in_place, softmax_in_place
from minigam.engine.masks import keep_mask
from minigam.engine.numeric import rows

QUERIES = 128  # queries per block; keys after the last query of a block are skipped


@reference.causal_attention.faster("numpy")
def causal_attention(xp, qkv, past=None, *, n_heads: int, p: float = 0.0, key=(), first_token: int = 0):
    """Processes a block of queries of one sequence at a time, with the keys up to its last query only."""
    (B, T, C3), H = qkv.shape, n_heads
    C = C3 // 3
    if past is not None:  # a sequence is read in parts, which are short
        return reference.causal_attention.rule(
            xp, qkv, past, n_heads=H, p=p, key=key, first_token=first_token
        )
    scale = 1.0 / math.sqrt(C // H)
    after = np.triu(np.full((QUERIES, QUERIES), -np.inf, qkv.dtype), k=1)
    y, blocks = np.empty((B, T, C), qkv.dtype), [slice(t, min(t + QUERIES, T)) for t in range(0, T, QUERIES)]

    def heads(z, n):  # (T, n C) -> n arrays (H, T, D)
        return z.reshape(T, n, H, C // H).transpose(1, 2, 0, 3)

    def dropout_mask(b):  # (H, T, T)
        return keep_mask(xp, key, p, (H, T, T), (first_token + b * T) * H * T) if p else None

    def dropped(z, mask, block):
        """Apply dropout to z (H, queries, keys)."""
        return z if mask is None else z * (mask[:, block, : block.stop] * z.dtype.type(1.0 / (1.0 - p)))

    weights = {}
    for b in range(B):
        (q, k, v), (y_,), mask = heads(qkv[b], 3), heads(y[b], 1), dropout_mask(b)
        for block in blocks:
            n = block.stop - block.start
            a = (q[:, block] * scale) @ k[:, : block.stop].swapaxes(-1, -2)
            a[..., block] += after[:n, :n]
            softmax_in_place(rows(a))
            y_[:, block] = dropped(a, mask, block) @ v[:, : block.stop]
            weights[b, block.start] = a

    def backward(dy):
        dqkv = np.zeros((B, T, C3), qkv.dtype)
        for b in range(B):
            (q, k, v), (dy_,), mask = heads(qkv[b], 3), heads(dy[b], 1), dropout_mask(b)
            dq, dk, dv = heads(dqkv[b], 3)
            for block in blocks:
                a, keys = weights[b, block.start], slice(block.stop)
                dv[:, keys] += dropped(a, mask, block).swapaxes(-1, -2) @ dy_[:, block]
                ds = dropped(dy_[:, block] @ v[:, keys].swapaxes(-1, -2), mask, block)
                softmax_backward_in_place(rows(a), rows(ds))
                ds *= scale
                dq[:, block] = ds @ k[:, keys]
                dk[:, keys] += ds.swapaxes(-1, -2) @ q[:, block]
        return dqkv, None

    return y, backward
