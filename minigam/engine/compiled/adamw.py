"""AdamW on flat arrays, and the norm of a gradient."""

import math

import numpy as np

from minigam.engine.compiled.kernels import BLOCK, SOURCES, launch

SOURCES.append(r"""
// sums (blocks): the sum of the squares of each block.
KERNEL squares(size first, size last, const REAL* g, REAL* sums, size step) {
    double sum = 0;
    SUM(sum) for (size i = first; i < last; ++i) sum += (double)g[i] * g[i];
    sums[first / step] = sum;
}

KERNEL adamw(
    size first, size last, REAL* p, const REAL* g, REAL* m, REAL* v, REAL factor,
    REAL shrink, REAL beta1, REAL rest1, REAL beta2, REAL rest2, REAL rate, REAL root, REAL eps)
{
    EACH for (size i = first; i < last; ++i) {
        const REAL gradient = factor * g[i];
        m[i] = beta1 * m[i] + rest1 * gradient;
        v[i] = beta2 * v[i] + rest2 * gradient * gradient;
        p[i] = shrink * p[i] - rate * m[i] / (sqrtf(v[i]) / root + eps);
    }
}
""")


def squares(g):
    """Return the sum of the squares of g (n), an array of one number."""
    sums = np.empty(-(-len(g) // BLOCK), g.dtype)
    launch("squares", len(g), BLOCK, g, sums, BLOCK)
    return sums.sum(dtype=np.float64).astype(g.dtype)


def update(
    xp, p, g, m, v, factor, *, lr: float, betas: tuple[float, float], weight_decay: float, eps: float, t: int
) -> None:
    """Do what `training.optim.update` does."""
    if not math.isfinite(float(factor)):
        return
    beta1, beta2 = betas
    launch(
        "adamw", p.size, BLOCK, p, g, m, v, float(factor), 1.0 - lr * weight_decay, beta1, 1.0 - beta1,
        beta2, 1.0 - beta2, lr / (1.0 - beta1**t), math.sqrt(1.0 - beta2**t), eps,
    )  # fmt: skip
