"""The learning rate and the rows of each training step. Both depend on the step alone, so that a run can
resume at any step."""

import math
from functools import lru_cache

import numpy as np


def warmup_cosine(step: int, steps: int, warmup_steps: int, peak: float) -> float:
    """Return the learning rate of one step: linear up to the peak, then half a cosine down to 0.

    step : 1 .. steps; the last warm-up step gets the peak, the last step gets 0
    Source: the paper's schedule; Loshchilov and Hutter, arXiv 1608.03983.

    >>> [round(mg.warmup_cosine(step, steps=6, warmup_steps=2, peak=1.0), 2) for step in range(1, 7)]
    [0.5, 1.0, 0.85, 0.5, 0.15, 0.0]
    """
    if step <= warmup_steps:
        return peak * (step / warmup_steps)  # in this order, the last one is exactly the peak
    return peak * 0.5 * (1.0 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))


@lru_cache(maxsize=2)
def _shuffled(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng(np.random.SeedSequence((seed, epoch))).permutation(n)


def batch_of(step: int, n_rows: int, batch_size: int, seed: int) -> np.ndarray:
    """Return the row numbers of one step (1, 2, ...). Each epoch takes all rows in a random order that
    depends only on (seed, epoch), so a run can resume at any step."""
    place = np.arange((step - 1) * batch_size, step * batch_size)
    return np.array([_shuffled(n_rows, seed, int(p // n_rows))[p % n_rows] for p in place])
