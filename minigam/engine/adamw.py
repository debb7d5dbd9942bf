"""The rules of the optimizer AdamW on flat arrays: one step, and the sum of squares that clipping needs."""

import math
from types import ModuleType

from minigam.engine.numeric import tiles
from minigam.engine.tensor import Array


def squares(xp: ModuleType, g: Array) -> Array:
    """Return the sum of the squares of g (n), an array of one number."""
    return xp.vdot(g, g)


def update(
    xp: ModuleType, p: Array, g: Array, m: Array, v: Array, factor: Array, *,
    lr: float, betas: tuple[float, float], weight_decay: float, eps: float, t: int,
) -> None:  # fmt: skip
    """Take one step of AdamW, in place; nothing changes if `factor` is not finite.

        g <- factor g,   p <- p (1 - lr decay)
        m <- beta1 m + (1 - beta1) g,   v <- beta2 v + (1 - beta2) g^2
        p <- p - lr m_hat / (sqrt(v_hat) + eps),   m_hat = m / (1 - beta1^t),  v_hat = v / (1 - beta2^t)

    p, g, m, v : (n) parameters, gradients, moments      factor : one number, scales the gradients
    Source: Loshchilov and Hutter, arXiv 1711.05101; torch.optim.AdamW.
    """
    if not math.isfinite(float(factor)):
        return
    (beta1, beta2), factor = betas, factor.astype(g.dtype)
    correction1, correction2 = 1.0 - beta1**t, 1.0 - beta2**t
    for part in tiles(len(p)):  # so that intermediate results stay in the cache
        g_, p_, m_, v_ = factor * g[part], p[part], m[part], v[part]
        p_ *= 1.0 - lr * weight_decay
        m_ *= beta1
        m_ += (1.0 - beta1) * g_
        v_ *= beta2
        v_ += (1.0 - beta2) * g_ * g_
        p_ -= (lr / correction1) * m_ / (xp.sqrt(v_) / math.sqrt(correction2) + eps)
