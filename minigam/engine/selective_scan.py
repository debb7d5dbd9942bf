"""Mamba's sequence operation, written by hand: the selective scan and its gradient.

Letters: B batch, T tokens, E expanded channels, N states per channel.
"""

from minigam.engine.dispatch import op
from minigam.engine.numeric import rows
from minigam.engine.tensor import ShapeError


@op
def selective_scan(xp, x, delta, A, B, C, skip, past=None, *, remember=None):
    """Run a recurrence with N states per channel, in which the input decides what is remembered.

        h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t,   y_t = C_t h_t + skip x_t

    x, delta : (B, T, E)   the input, and its step size, above 0
    A        : (E, N)      negative: how fast each state forgets (zero-order hold: a = exp(delta A))
    B, C     : (b, T, N)   weights for writing to the states and for reading them, per token
    skip     : (E)         the paper's D
    past     : (B, E, N) or None   the state before the first token; None is zero
    remember : called, if given, with the state (B, E, N) after the last token
    returns    (B, T, E)   output t depends on tokens up to t only
    Raises ShapeError if a shape does not fit.
    Cost: O(B T E N), one token after the other; keeps the states, B T E N numbers.
    Source: Gu and Dao, arXiv 2312.00752, section 3; B discretised by delta B, as in their code.

    >>> x = np.ones((1, 3, 1))
    >>> one = np.ones((1, 3, 1))
    >>> mg.sequence.selective_scan(x, one, np.zeros((1, 1)), one, one, np.zeros(1)).numpy().ravel().tolist()
    [1.0, 2.0, 3.0]
    """
    (b, T, E), N = x.shape, A.shape[1]
    states, y = [xp.zeros((b, E, N), dtype=x.dtype) if past is None else past], skip * x
    for t in range(T):
        a = xp.exp(delta[:, t, :, None] * A)  # (B, E, N)
        states.append(a * states[t] + (delta[:, t] * x[:, t])[:, :, None] * B[:, t, None])
        y[:, t] += (states[-1] * C[:, t, None]).sum(axis=-1)
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
            raise ShapeError(f"selective_scan: {name} {z.shape}, wanted {wanted} for x {x.shape}")
