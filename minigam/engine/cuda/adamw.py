"""AdamW on flat arrays: one kernel for the norm and clipping, one for the step."""

import math

from minigam.engine import adamw as reference
from minigam.engine.cuda.kernels import THREADS, WARP, counters, launch

BLOCKS = 1024  # that add up squares: always as many, so that the bits depend on nothing else

ADAMW = r"""
// Every warp adds up some squares, in sums (warps); the first of the last block then adds up the sums.
extern "C" __global__ void clip(
    const REAL* __restrict__ g, const REAL* __restrict__ loss, REAL* sums, size* arrived, REAL* blocked,
    REAL* norm, REAL* factor, size n, REAL max_norm, REAL scale)
{
    const size threads = (size)gridDim.x * blockDim.x;
    REAL sum = 0;
    for (size i = my_index(); i < n; i += threads) sum += g[i] * g[i];
    sum = sum_of_warp(sum);
    if (my_lane() == 0) sums[my_row()] = sum;
    if (!all_arrived(arrived) || threadIdx.x >= 32) return;
    sum = 0;
    for (size i = my_lane(); i < threads / 32; i += 32) sum += ((const volatile REAL*)sums)[i];
    sum = sqrt(sum_of_warp(sum)) / scale;
    if (my_lane() > 0) return;
    const REAL whole = sum + *loss + *blocked, nothing = whole - whole;  // nan for infinity and nan
    *norm = sum;
    *factor = fmin(max_norm / (sum + (REAL)1e-6), (REAL)1) / scale + nothing;
    *blocked = nothing;
}

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


def clip(xp, gradients, loss, blocked, *, max_norm: float, scale: float, squares=reference.squares):
    """Do what `engine.adamw.clip` does, without waiting for the device."""
    if len(gradients) > 1:
        return reference.clip(xp, gradients, loss, blocked, max_norm=max_norm, scale=scale)
    (g,), dtype, threads = gradients, blocked.dtype, BLOCKS * THREADS
    norm, factor, sums = (xp.empty(shape, dtype=dtype) for shape in ((), (), threads // WARP))
    loss = xp.asarray(loss, dtype=dtype)
    launch(xp, ADAMW, "clip", threads, g, loss, sums, counters(xp, 1), blocked, norm, factor, g.size,
           float(max_norm), float(scale))  # fmt: skip
    return norm, factor


def update(
    xp, p, g, m, v, factor, *, lr: float, betas: tuple[float, float], weight_decay: float, eps: float, t: int
) -> None:
    """Do what `engine.adamw.update` does. The device reads `factor`, so the host does not wait for it."""
    beta1, beta2 = betas
    launch(
        xp, ADAMW, "adamw", p.size, p, g, m, v, factor, p.size,
        1.0 - lr * weight_decay, beta1, 1.0 - beta1, beta2, 1.0 - beta2,
        lr / (1.0 - beta1**t), math.sqrt(1.0 - beta2**t), float(eps),
    )  # fmt: skip
