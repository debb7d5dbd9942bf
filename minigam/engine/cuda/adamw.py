"""AdamW on flat arrays, in one kernel."""

import math

from minigam.engine.cuda.kernels import launch

ADAMW = r"""
extern "C" __global__ void adamw(
    REAL* __restrict__ p, const REAL* __restrict__ g, REAL* __restrict__ m, REAL* __restrict__ v,
    const REAL* __restrict__ factor, size n, REAL shrink, REAL beta1, REAL rest1, REAL beta2, REAL rest2,
    REAL rate, REAL root, REAL eps)
{
    const size i = my_index();
    if (i >= n || *factor - *factor != 0) return;  // x - x is nan for infinity and nan
    const REAL gradient = *factor * g[i];
    m[i] = beta1 * m[i] + rest1 * gradient;
    v[i] = beta2 * v[i] + rest2 * gradient * gradient;
    p[i] = shrink * p[i] - rate * m[i] / (sqrt(v[i]) / root + eps);
}
"""


def update(
    xp, p, g, m, v, factor, *, lr: float, betas: tuple[float, float], weight_decay: float, eps: float, t: int
) -> None:
    """Do what `engine.adamw.update` does. The device reads `factor`, so the host does not wait for it."""
    beta1, beta2 = betas
    launch(
        xp, ADAMW, "adamw", p.size, p, g, m, v, factor.astype(p.dtype), p.size,
        1.0 - lr * weight_decay, beta1, 1.0 - beta1, beta2, 1.0 - beta2,
        lr / (1.0 - beta1**t), math.sqrt(1.0 - beta2**t), float(eps),
    )  # fmt: skip
