"""The rules of the optimizer AdamW on flat arrays: clipping, and one step."""

import math
from collections.abc import Callable
from types import ModuleType

from minigam.engine.numeric import tiles
from minigam.engine.tensor import Array


def squares(xp: ModuleType, g: Array) -> Array:
    """Return the sum of the squares of g (n), an array of one number."""
    return xp.vdot(g, g)


def clip(
    xp: ModuleType, gradients: list[Array], loss: Array, blocked: Array, *,
    max_norm: float, scale: float, squares: Callable[[ModuleType, Array], Array] = squares,
) -> tuple[Array, Array]:  # fmt: skip
    """Return the joint norm of the gradients, and the factor that undoes `scale` and clips to max_norm.

    The factor is nan if the norm or the loss is not finite, or `blocked` is nan: an array of one number, 0
    until this happens and nan from then on, so that a step that has started meanwhile changes nothing either.
    Source of clipping: Pascanu et al., arXiv 1211.5063; the 1e-6 is torch.nn.utils.clip_grad_norm_'s.
    """
    norm = xp.sqrt(sum((squares(xp, g) for g in gradients), xp.zeros_like(blocked))) / scale
    whole = norm + loss + blocked
    factor = xp.where(xp.isfinite(whole), xp.minimum(max_norm / (norm + 1e-6), 1.0), math.nan)
    blocked[...] = xp.where(xp.isfinite(whole), 0.0, math.nan)
    return norm, factor / scale


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
