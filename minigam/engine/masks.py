"""Masks of dropout: each entry a function of its place, so that a mask is computed again, never stored."""

import math
from types import ModuleType

import numpy as np

from minigam.engine.tensor import Array


def keep_mask(
    xp: ModuleType, key: tuple[int, ...], p: float, shape: tuple[int, ...], first: int = 0
) -> Array:
    """Return for every entry whether dropout keeps it: False with probability p, to the nearest 1/65536.

    key   : non-negative integers that decide the mask, the same in every library
    first : how many entries of the mask come before these, so that an entry has the same mask however a
            batch is split
    Four entries share a number of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), 16 bits each. Its
    n-th number is a function of n, so a mask can be computed again, from any entry on.
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
    """Return where SplitMix64 starts for this key."""
    return np.random.SeedSequence(key).generate_state(1, np.uint64)[0]


def mask_threshold(p: float) -> int:
    """Return the smallest number of 16 bits that keeps an entry."""
    return round(p * 65536)
