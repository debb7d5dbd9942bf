"""GAM's operations, written by hand: convolution, memory, gate. Also re-exports those of other models.

Letters: B batch, T tokens (the paper's N), C channels, K kernel size, S memory slots.
"""

from minigam.engine.attention import causal_attention
from minigam.engine.dispatch import op
from minigam.engine.numeric import require_bias, rows, sigmoid
from minigam.engine.selective_scan import selective_scan
from minigam.engine.tensor import ShapeError
from minigam.engine.written_memory import written_memory

__all__ = [
    "associative_memory",
    "causal_attention",
    "causal_conv1d",
    "gated_fusion",
    "selective_scan",
    "written_memory",
]


@op
def causal_conv1d(xp, u, weight, bias, past=None):
    """Mix each channel over the last K tokens.   E2

        local_context[t] = b + sum over j = 0..K-1 of w[:, j] * u[t - (K-1) + j]

    u      : (B, T, C)   inputs before the first token are zero, or `past`
    weight : (C, K)      one filter per channel (depthwise); column K-1 multiplies the current token
    bias   : (C)
    past   : (B, K-1, C) or None   the K-1 inputs before u, if a sequence is read in parts
    returns  (B, T, C)   output t depends on tokens t-K+1 .. t only
    Raises ShapeError if a shape does not fit.
    Cost: 2 B T C K flop forward, twice that backward; keeps u.
    Source: GAM (arXiv 2509.00605), causal convolution.

    >>> u = np.array([[[1.0], [2.0], [3.0]]])
    >>> mg.sequence.causal_conv1d(u, np.array([[10.0, 1.0]]), np.zeros(1)).numpy().ravel().tolist()
    [1.0, 12.0, 23.0]
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
            dpadded[:, j : j + T] += weight[:, j] * dy  # the same filter, reversed in time
        dweight = [(padded[:, j : j + T] * dy).sum(axis=(0, 1)) for j in range(K)]
        dpast = None if past is None else dpadded[:, : K - 1]
        return dpadded[:, K - 1 :], xp.stack(dweight, axis=1), dy.sum(axis=(0, 1)), dpast

    return y, backward


@causal_conv1d.check
def _(u, weight, bias, past=None):
    if u.ndim != 3:
        raise ShapeError(f"causal_conv1d: u {u.shape}, wanted (B, T, C)")
    (B, _, C), K = u.shape, weight.shape[-1]
    if weight.shape != (C, K) or bias.shape != (C,) or K == 0:
        raise ShapeError(
            f"causal_conv1d: weight {weight.shape}, bias {bias.shape}, wanted ({C}, K), ({C},), K > 0"
        )
    if past is not None and past.shape != (B, K - 1, C):
        raise ShapeError(f"causal_conv1d: past {past.shape}, wanted {(B, K - 1, C)}")


@op
def associative_memory(xp, u, memory):
    """Recall from a learned memory, which serves as both keys and values.   E3-E5

        s = u M^T,   a = softmax(s) over the S slots,   global_context = a M

    u      : (B, T, C)   one query per token
    memory : (S, C)      the S slots, M
    returns  (B, T, C)   a convex combination of slots per token, independent of all other tokens
    Raises ShapeError if C differs.
    Cost: 4 B T S C flop forward, twice that backward; keeps a, B T S numbers.
    Source: GAM (arXiv 2509.00605), global context; one update of a modern Hopfield network
    (Ramsauer et al., arXiv 2008.02217) with patterns M and beta = 1.

    >>> memory = np.array([[9.0, 0.0], [0.0, 9.0]])
    >>> mg.sequence.associative_memory(np.array([[[3.0, 0.0]]]), memory).numpy().round(3).tolist()
    [[[9.0, 0.0]]]
    """
    s = rows(u) @ memory.T  # (B T, S)
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
    if memory.ndim != 2 or u.shape[-1:] != memory.shape[1:] or len(memory) == 0:
        raise ShapeError(
            f"associative_memory: u {u.shape}, memory {memory.shape}, wanted (B, T, C), (S, C), S > 0"
        )


@op
def gated_fusion(xp, local_context, global_context, gate, bias=None):
    """Weight each context by its own gate, for every token and channel.   E7

        fused = sigmoid(g_local) * local_context + sigmoid(g_global) * global_context

    local_context, global_context : (B, T, C)
    gate    : (B, T, 2C)   [g_local, g_global], before the sigmoid; plus the bias, if there is one
    bias    : (2C) or None
    returns   (B, T, C)
    Raises ShapeError if a shape does not fit.
    Cost: O(B T C); keeps its inputs and the two sigmoids.
    Source: GAM (arXiv 2509.00605), gating.

    >>> local, recalled = np.array([[[2.0]]]), np.array([[[4.0]]])
    >>> mg.sequence.gated_fusion(local, recalled, np.array([[[0.0, -99.0]]])).numpy().round(3).tolist()
    [[[1.0]]]
    """
    C = local_context.shape[-1]
    gate = gate if bias is None else gate + bias
    p = sigmoid(xp, gate[..., :C])
    q = sigmoid(xp, gate[..., C:])
    y = p * local_context + q * global_context

    def backward(dy):
        dg_local = dy * local_context * p * sigmoid(xp, -gate[..., :C])  # sigmoid' = p (1 - p)
        dg_global = dy * global_context * q * sigmoid(xp, -gate[..., C:])
        dgate = xp.concatenate([dg_local, dg_global], axis=-1)
        return dy * p, dy * q, dgate, None if bias is None else rows(dgate).sum(axis=0)

    return y, backward


@gated_fusion.check
def _(local_context, global_context, gate, bias=None):
    require_bias("gated_fusion", gate, bias)
    if local_context.shape != global_context.shape or gate.shape != (
        *local_context.shape[:-1],
        2 * local_context.shape[-1],
    ):
        raise ShapeError(
            f"gated_fusion: local_context {local_context.shape}, global_context {global_context.shape}, "
            f"gate {gate.shape}, wanted (B, T, C), (B, T, C), (B, T, 2C)"
        )
