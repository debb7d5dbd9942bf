"""Dropout masks. Each entry is a function of its position, so a mask can be recomputed instead of stored."""

import math
from types import ModuleType

import numpy as np

from minigam.engine.tensor import Array


def keep_mask(
    xp: ModuleType, key: tuple[int, ...], p: float, shape: tuple[int, ...], first: int = 0
) -> Array:
    """Return whether dropout keeps each entry: False with probability p, rounded to a multiple of 1/65536.

    key   : non-negative integers that determine the mask, the same in every library
    first : position of the first entry in the mask of the whole batch; an entry then has the same mask
            however the batch is split
    Four entries share one number of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), 16 bits each. The
    n-th number is a function of n, so a mask can be recomputed from any entry on.

    >>> mg.masks.keep_mask(np, key=(0, 1), p=0.5, shape=(2, 3)).tolist()
    [[True, False, True], [True, True, True]]
    """
    size = math.prod(shape)
    z = xp.arange(first // 4 + 1, (first + size - 1) // 4 + 2, dtype=np.uint64)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z += mask_seed(key)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z ^= z >> np.uint64(shift)
        z *= np.uint64(factor)
    z ^= z >> np.uint64(31)
    drawn = z.view(np.uint16)[first % 4 :][:size]
    return (drawn >= mask_threshold(p)).reshape(shape)


def mask_seed(key: tuple[int, ...]) -> np.uint64:
    """Return the initial state of SplitMix64 for this key.

    >>> int(mg.masks.mask_seed((0, 1))) == int(mg.masks.mask_seed((0, 1)))
    True
    """
    return np.random.SeedSequence(key).generate_state(1, np.uint64)[0]


def mask_threshold(p: float) -> int:
    """Return the smallest 16-bit number for which an entry is kept.

    >>> mg.masks.mask_threshold(0.25)
    16384
    """
    return round(p * 65536)


def mask_arguments(p: float, key: tuple[int, ...], first: int) -> tuple:
    """Return the arguments of kernels that define a dropout mask: first entry, seed, threshold, scale.

    >>> first, seed, threshold, scale = mg.masks.mask_arguments(0.5, (0, 1), first=8)
    >>> first, threshold, scale
    (8, 32768, 2.0)
    """
    seed = mask_seed(key) if p > 0.0 else np.uint64(0)  # without dropout there is no key
    return first, seed, mask_threshold(p), 1.0 / (1.0 - p)
