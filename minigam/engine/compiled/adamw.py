"""AdamW on flat arrays, and the norm of a gradient."""

import math

import numpy as np

from minigam.engine import adamw as reference
from minigam.engine.compiled.kernels import BLOCK, CHECKS, SOURCES, launch, usable

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


def squares(xp, g):
    """Return the sum of the squares of g (n), an array of one number."""
    return (_squares if xp is np and usable(g.dtype) else reference.squares)(xp, g)


def _squares(xp, g):
    sums = np.empty(-(-len(g) // BLOCK), g.dtype)
    launch("squares", len(g), BLOCK, g, sums, BLOCK)
    return sums.sum(dtype=np.float64).astype(g.dtype)


def update(xp, p, g, m, v, factor, **settings) -> None:
    """Do what `engine.adamw.update` does."""
    (_update if usable(p.dtype) else reference.update)(xp, p, g, m, v, factor, **settings)


def _update(xp, p, g, m, v, factor, *, lr, betas, weight_decay, eps, t) -> None:
    if not math.isfinite(float(factor)):
        return
    beta1, beta2 = betas
    launch(
        "adamw", p.size, BLOCK, p, g, m, v, float(factor), 1.0 - lr * weight_decay, beta1, 1.0 - beta1,
        beta2, 1.0 - beta2, lr / (1.0 - beta1**t), math.sqrt(1.0 - beta2**t), eps,
    )  # fmt: skip


def _pairs(dtype):
    """Yield what the kernels compute of a small example, and what the reference does."""
    drawn = np.random.default_rng(0).random((4, 9)).astype(dtype)
    yield _squares(np, drawn[0]), reference.squares(np, drawn[0])
    settings = {"lr": 0.1, "betas": (0.9, 0.95), "weight_decay": 0.1, "eps": 1e-8, "t": 3}
    results = [drawn.copy() for _ in range(2)]
    for rule, (p, g, m, v) in zip((_update, reference.update), results):
        rule(np, p, g, m, v, np.asarray(0.5, dtype), **settings)
    yield tuple(results)


CHECKS["AdamW"] = _pairs
