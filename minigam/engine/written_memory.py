"""A memory that the text writes: the extension of GAM that is not in its paper, and its gradient.

Letters: B batch, T tokens, C channels, S memory slots.
"""

from types import ModuleType

from minigam.config import LEAST_PRIOR
from minigam.engine.dispatch import op
from minigam.engine.numeric import rows
from minigam.engine.tensor import Array, ShapeError


@op
def written_memory(xp, u, local_context, memory, past=None, *, prior=None, remember=None):
    """Recall from slots in which every token writes itself, under what was said just before.   X1-X5

        w_t = softmax(local_context_t M^T)              X1, the slots that token t is written to
        n_t = n_{t-1} + w_t,        n_0 = lambda        X2, how much each slot holds
        N_t = N_{t-1} + w_t^T u_t,  N_0 = lambda M      X3, the sum of what it holds
        M_t = N_t / n_t                                 X4, the mean of what it holds
        y_t = softmax(u_t M^T) M_t                      X5, read under what token t is

    u             : (B, T, C)   what a token is: its query, and what it writes
    local_context : (B, T, C)   the last tokens, itself included, which tell where it is written (E2)
    memory        : (S, C)      M, which tells where to read and to write, and what the slots hold at first
    past          : (B, S, C+1) or None   N and, in the last column, n, if a sequence is read in parts
    prior         : lambda, how many written tokens a row of M weighs as much as, LEAST_PRIOR or more; None is
                    1/S. The larger it is, the closer to `associative_memory`. With a past it has no effect
    remember      : called, if given, with N and n (B, S, C+1) after the last token
    returns         (B, T, C)   output t depends on tokens up to t, and is a convex mix of slots of M and of u
    Raises ShapeError if a shape does not fit, ValueError for a prior that is too small or infinite.
    Cost: O(B T S C), one token after the other; keeps N_t, B T S C numbers.
    Source: minigam, not the paper; docs/extension.md names its relatives.

    >>> u = np.zeros((1, 2, 1))
    >>> u[0, :, 0] = 4.0, 8.0
    >>> memory = np.zeros((1, 1))  # one slot: the mean of 0, 4 and 8 in the end
    >>> mg.sequence.written_memory(u, u, memory, prior=1.0).numpy().ravel().tolist()
    [2.0, 4.0]
    """
    (B, T), S = u.shape[:2], len(memory)
    prior = 1.0 / S if prior is None else float(prior)  # NumPy's float64 would change the dtype
    w, a = _softmax(xp, local_context @ memory.T), _softmax(xp, u @ memory.T)  # (B, T, S)
    N, n = _before(xp, memory, past, prior, B)
    y, states = xp.zeros_like(u), []
    for t in range(T):
        n = n + w[:, t]
        N = N + w[:, t, :, None] * u[:, t, None, :]
        states.append((N, n))
        y[:, t] = ((a[:, t] / n)[:, None, :] @ N)[:, 0]
    if remember is not None:
        remember(xp.concatenate([N, n[..., None]], axis=-1))

    def backward(dy):
        du, da, dw = xp.zeros_like(u), xp.zeros_like(a), xp.zeros_like(w)
        dN, dn = xp.zeros_like(N), xp.zeros_like(n)
        for t in range(T - 1, -1, -1):
            N_t, n_t = states[t]
            r = a[:, t] / n_t
            dr = (N_t @ dy[:, t, :, None])[..., 0]  # y_t = r N_t, through r
            dN = dN + r[:, :, None] * dy[:, t, None, :]  # and through N_t, which N_{t+1} uses as well
            da[:, t] = dr / n_t
            dn = dn - dr * r / n_t
            dw[:, t] = (dN @ u[:, t, :, None])[..., 0] + dn  # X3 and X2
            du[:, t] = (w[:, t, None, :] @ dN)[:, 0]
        ds, dq = _softmax_back(a, da), _softmax_back(w, dw)
        dmemory = rows(ds).T @ rows(u) + rows(dq).T @ rows(local_context)  # M where to read, where to write
        if past is None:
            return du + ds @ memory, dq @ memory, dmemory + prior * dN.sum(axis=0), None  # M as N_0
        return du + ds @ memory, dq @ memory, dmemory, xp.concatenate([dN, dn[..., None]], axis=-1)

    return y, backward


def _before(xp: ModuleType, memory: Array, past: Array | None, prior: float, B: int) -> tuple[Array, Array]:
    """Return N (B, S, C) and n (B, S) before the first token."""
    if past is not None:
        return past[..., :-1], past[..., -1]
    N = xp.zeros((B, *memory.shape), dtype=memory.dtype) + prior * memory
    return N, xp.zeros(N.shape[:2], dtype=memory.dtype) + prior


def _softmax(xp: ModuleType, s: Array) -> Array:
    e = xp.exp(s - s.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _softmax_back(a: Array, da: Array) -> Array:
    return a * (da - (da * a).sum(axis=-1, keepdims=True))


@written_memory.check
def _(u, local_context, memory, past=None, *, prior=None, remember=None):
    if u.ndim != 3 or memory.ndim != 2 or u.shape[2:] != memory.shape[1:] or len(memory) == 0:
        raise ShapeError(
            f"written_memory: u {u.shape}, memory {memory.shape}, wanted (B, T, C), (S, C), S > 0"
        )
    if local_context.shape != u.shape:
        raise ShapeError(f"written_memory: local_context {local_context.shape}, wanted {u.shape}, as u")
    wanted = (len(u), len(memory), u.shape[2] + 1)
    if past is not None and past.shape != wanted:
        raise ShapeError(f"written_memory: past {past.shape}, wanted {wanted}")
    if prior is not None and not LEAST_PRIOR <= prior < float("inf"):
        raise ValueError(f"written_memory: prior {prior}, wanted {LEAST_PRIOR:g} or more, or None for 1/S")
