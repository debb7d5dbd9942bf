"""The sequence maps, by hand: GAM's convolution, memory and gate, the rivals' attention and scan.

Letters: B batch, T tokens (the paper's N), C channels, K kernel size, S memory slots, H heads,
D = C / H channels of a head, P tokens of a past, E expanded channels and N states of each (Mamba).
"""

import math

from minigam.engine.masks import keep_mask
from minigam.engine.numeric import rows, sigmoid
from minigam.engine.operation import op
from minigam.engine.tensor import ShapeError


@op
def causal_conv1d(xp, u, weight, bias, past=None):
    """Mix each channel over the K latest tokens.   E2

        local_context[t] = b + sum over j = 0..K-1 of w[:, j] * u[t - (K-1) + j]

    u      : (B, T, C)   what was before the first token is zero, or `past`
    weight : (C, K)      one filter a channel (depthwise); column K-1 meets the present token
    bias   : (C)
    past   : (B, K-1, C) or None   the K-1 inputs before u, when a sequence comes in parts
    returns  (B, T, C)   token t has seen tokens t-K+1 .. t and none after it
    Raises ShapeError when a shape does not fit.
    Cost: 2 B T C K flop forward, twice that backward; keeps u.
    Source: GAM (arXiv 2509.00605), causal convolution.
    """
    (B, T, C), K = u.shape, weight.shape[-1]
    before = xp.zeros((B, K - 1, C), dtype=u.dtype) if past is None else past
    padded = xp.concatenate([before, u], axis=1)  # (B, K-1+T, C)
    y = xp.zeros_like(u) + bias
    for j in range(K):
        y = y + weight[:, j] * padded[:, j : j + T]

    def backward(dy):
        dpadded = xp.zeros_like(padded)
        for j in range(K):
            dpadded[:, j : j + T] += weight[:, j] * dy  # the same filter, read backwards in time
        dweight = [(padded[:, j : j + T] * dy).sum(axis=(0, 1)) for j in range(K)]
        dpast = None if past is None else dpadded[:, : K - 1]
        return dpadded[:, K - 1 :], xp.stack(dweight, axis=1), dy.sum(axis=(0, 1)), dpast

    return y, backward


@causal_conv1d.check
def _(u, weight, bias, past=None):
    if u.ndim != 3:
        raise ShapeError(f"causal_conv1d: u {u.shape}, wanted (B, T, C)")
    (B, _, C), K = u.shape, weight.shape[-1]
    if weight.shape != (C, K) or bias.shape != (C,):
        raise ShapeError(f"causal_conv1d: weight {weight.shape}, bias {bias.shape}, wanted ({C}, K), ({C},)")
    if past is not None and past.shape != (B, K - 1, C):
        raise ShapeError(f"causal_conv1d: past {past.shape}, wanted {(B, K - 1, C)}")


@op
def associative_memory(xp, u, memory):
    """Recall from a learned memory, which serves as both keys and values.   E3-E5

        s = u M^T,   a = softmax(s) over the S slots,   global_context = a M

    u      : (B, T, C)   one query per token
    memory : (S, C)      the S slots, M
    returns  (B, T, C)   each token's a convex mix of slots; no token sees another
    Raises ShapeError when the C differ.
    Cost: 4 B T S C flop forward, twice that backward; keeps a, B T S numbers.
    Source: GAM (arXiv 2509.00605), global context; one update of a modern Hopfield network
    (Ramsauer et al., arXiv 2008.02217) with patterns M and beta = 1.
    """
    s = rows(u) @ memory.T  # (N, S), N = B T
    e = xp.exp(s - s.max(axis=-1, keepdims=True))
    a = e / e.sum(axis=-1, keepdims=True)
    y = a @ memory  # (N, C)

    def backward(dy):
        dy = rows(dy)
        da = dy @ memory.T  # y = a M, through a
        ds = a * (da - (da * a).sum(axis=-1, keepdims=True))  # softmax: a_i (1[i=j] - a_j)
        du = ds @ memory  # s = u M^T, through u
        dmemory = a.T @ dy + ds.T @ rows(u)  # M as values, M as keys
        return du.reshape(u.shape), dmemory

    return y.reshape(u.shape), backward


@associative_memory.check
def _(u, memory):
    if memory.ndim != 2 or u.shape[-1:] != memory.shape[1:]:
        raise ShapeError(
            f"associative_memory: u {u.shape} and memory {memory.shape}, wanted (B, T, C), (S, C)"
        )


@op
def gated_fusion(xp, local_context, global_context, gate):
    """Let every token and channel choose how much of each context to take.   E6-E7

        fused = sigmoid(g_local) * local_context + sigmoid(g_global) * global_context

    local_context, global_context : (B, T, C)
    gate    : (B, T, 2C)   [g_local, g_global], before the sigmoid
    returns   (B, T, C)
    Raises ShapeError when a shape does not fit.
    Cost: O(B T C); keeps the two sigmoids.
    Source: GAM (arXiv 2509.00605), gating.
    """
    C = local_context.shape[-1]
    p = sigmoid(xp, gate[..., :C])
    q = sigmoid(xp, gate[..., C:])
    y = p * local_context + q * global_context

    def backward(dy):
        dg_local = dy * local_context * p * (1.0 - p)  # sigmoid' = p (1 - p)
        dg_global = dy * global_context * q * (1.0 - q)
        return dy * p, dy * q, xp.concatenate([dg_local, dg_global], axis=-1)

    return y, backward


@gated_fusion.check
def _(local_context, global_context, gate):
    if local_context.shape != global_context.shape or gate.shape != (
        *local_context.shape[:-1],
        2 * local_context.shape[-1],
    ):
        raise ShapeError(
            f"gated_fusion: local_context {local_context.shape}, global_context {global_context.shape}, "
            f"gate {gate.shape}, wanted (B, T, C), (B, T, C), (B, T, 2C)"
        )


@op
def causal_attention(
    xp, qkv, past=None, *, n_heads: int, p: float = 0.0, key: tuple[int, ...] = (), first_token: int = 0
):
    """Let every token take a mean of the values before it, weighted by how its query meets their keys.

        s = q k^T / sqrt(D), minus infinity where a key comes after the query
        a = Dropout(softmax(s)),   y = a v,   in each of H heads alone

    qkv  : (B, T, 3C)   queries, keys and values, each H heads of D channels side by side
    past : (B, P, 2C) or None   keys and values of the tokens before, when a sequence comes in parts
    p, key, first_token : share of the weights a to drop, and what decides which (see `ops.dropout`)
    returns (B, T, C)
    Raises ShapeError when H does not divide C, or past does not fit.
    Cost: 4 B T (P+T) C flop forward, twice that backward; keeps two arrays of B H T (P+T) numbers,
    which is what grows with the square of the length.
    Source: Vaswani et al., arXiv 1706.03762; dropout on the weights as in GPT-2.
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
    after = xp.arange(P + T) > (P + xp.arange(T))[:, None]  # keys that come after the query
    s = xp.where(after, -math.inf, (q @ k.swapaxes(-1, -2)) * scale)  # (B, H, T, P+T)
    e = xp.exp(s - s.max(axis=-1, keepdims=True))
    a = e / e.sum(axis=-1, keepdims=True)
    kept = 1.0
    if p > 0.0:
        kept = keep_mask(xp, key, p, a.shape, first_token * H * (P + T)).astype(a.dtype) * (1.0 / (1.0 - p))
    y = merged((a * kept) @ v)

    def backward(dy):
        dy = heads(dy)
        dv = (a * kept).swapaxes(-1, -2) @ dy  # y = (a kept) v, through v
        da = (dy @ v.swapaxes(-1, -2)) * kept  # through a
        ds = a * (da - (da * a).sum(axis=-1, keepdims=True)) * scale  # softmax: a_i (1[i=j] - a_j)
        dq, dk = merged(ds @ k), merged(ds.swapaxes(-1, -2) @ q)  # s = q k^T
        dkv = xp.concatenate([dk, merged(dv)], axis=-1)  # (B, P+T, 2C)
        return xp.concatenate([dq, dkv[:, P:]], axis=-1), None if past is None else dkv[:, :P]

    return y, backward


@causal_attention.check
def _(qkv, past=None, *, n_heads, **_dropout):
    if qkv.ndim != 3 or qkv.shape[2] % (3 * n_heads):
        raise ShapeError(
            f"causal_attention: qkv {qkv.shape}, wanted (B, T, 3C) with C a multiple of {n_heads} heads"
        )
    B, _, C3 = qkv.shape
    if past is not None and (past.ndim != 3 or past.shape != (B, past.shape[1], C3 // 3 * 2)):
        raise ShapeError(f"causal_attention: past {past.shape}, wanted ({B}, P, {C3 // 3 * 2})")


@op
def selective_scan(xp, x, delta, A, B, C, skip, past=None, *, remember=None):
    """Carry N numbers for each channel through time, and let the input decide what is kept.

        h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t,   y_t = C_t h_t + skip x_t

    x, delta : (B, T, E)   the input, and its step size, above 0
    A        : (E, N)      negative: how fast each state forgets (zero-order hold: a = exp(delta A))
    B, C     : (B, T, N)   what is written and what is read, for each token its own
    skip     : (E)         the paper's D
    past     : (B, E, N) or None   the state before the first token; None is zero
    remember : called, if given, with the state (B, E, N) after the last token
    returns    (B, T, E)   token t has seen every token up to t and none after it
    Raises ShapeError when a shape does not fit.
    Cost: O(B T E N); keeps the states, B T E N numbers. Token by token, as the recurrence reads.
    Source: Gu and Dao, arXiv 2312.00752, section 3; B discretised by delta B, as in their code.
    """
    (b, T, E), N = x.shape, A.shape[1]
    states = [xp.zeros((b, E, N), dtype=x.dtype) if past is None else past]
    for t in range(T):
        a = xp.exp(delta[:, t, :, None] * A)  # (B, E, N)
        states.append(a * states[t] + (delta[:, t] * x[:, t])[:, :, None] * B[:, t, None])
    y = xp.stack([(h * C[:, t, None]).sum(axis=-1) for t, h in enumerate(states[1:])], axis=1) + skip * x
    if remember is not None:
        remember(states[-1])

    def backward(dy):
        dx, ddelta, dB, dC = dy * skip, xp.zeros_like(delta), xp.zeros_like(B), xp.zeros_like(C)
        dA, dh = xp.zeros_like(A), xp.zeros_like(states[0])
        for t in range(T - 1, -1, -1):
            before, h, dy_t, step = states[t], states[t + 1], dy[:, t, :, None], delta[:, t, :, None]
            dh = dh + dy_t * C[:, t, None]  # h_t is read at t, and used by h_{t+1}
            dC[:, t] = (dy_t * h).sum(axis=1)
            dB[:, t] = (dh * step * x[:, t, :, None]).sum(axis=1)
            written = (dh * B[:, t, None]).sum(axis=-1)  # through delta_t x_t
            dx[:, t] += written * delta[:, t]
            a = xp.exp(step * A)
            decayed = dh * before * a  # through the exponent delta_t A
            ddelta[:, t] = written * x[:, t] + (decayed * A).sum(axis=-1)
            dA += (decayed * step).sum(axis=0)
            dh = dh * a
        return dx, ddelta, dA, dB, dC, rows(dy * x).sum(axis=0), None if past is None else dh

    return y, backward


@selective_scan.check
def _(x, delta, A, B, C, skip, past=None, *, remember=None):
    if x.ndim != 3 or A.ndim != 2:
        raise ShapeError(f"selective_scan: x {x.shape} and A {A.shape}, wanted (B, T, E) and (E, N)")
    (b, T, E), N = x.shape, A.shape[1]
    for name, z, wanted in (
        ("delta", delta, (b, T, E)), ("A", A, (E, N)), ("B", B, (b, T, N)), ("C", C, (b, T, N)),
        ("skip", skip, (E,)), ("past", past, (b, E, N)),
    ):  # fmt: skip
        if z is not None and z.shape != wanted:
            raise ShapeError(f"selective_scan: {name} {z.shape}, wanted {wanted} beside x {x.shape}")
