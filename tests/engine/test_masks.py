"""Masks of dropout: the numbers of SplitMix64, the same in every library."""

import math

import numpy as np
import pytest

from minigam.engine import backend, masks


def mask(xp, *key, p=0.3, shape=(50, 40), first=0) -> np.ndarray:
    kept = masks.keep_mask(xp, key, p, shape, first)
    assert (type(kept), kept.dtype, kept.shape) == (xp.ndarray, bool, shape)
    return backend.to_numpy(kept)


def test_a_mask_is_splitmix64_sixteen_bits_at_a_time(xp):
    """The generator once more, in Python's own numbers."""
    state, bits, wanted = int(masks.mask_seed((4, 2))), 2**64 - 1, []
    for _ in range(5):
        state = (state + 0x9E3779B97F4A7C15) & bits
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & bits
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & bits
        z ^= z >> 31
        wanted += [(z >> shift & 0xFFFF) >= 0.25 * 65536 for shift in (0, 16, 32, 48)]
    assert mask(xp, 4, 2, p=0.25, shape=(1, 18)).tolist() == [wanted[:18]]


def test_a_mask_is_decided_by_its_key_in_every_library(xp):
    first = mask(xp, 1, 2)
    np.testing.assert_array_equal(first, mask(np, 1, 2))
    for other in (mask(xp, 1, 3), mask(xp, 2, 1), mask(xp, 1)):
        assert abs((first != other).mean() - 2 * 0.3 * 0.7) < 0.05  # as often as two that know nothing


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_a_mask_drops_a_share_p_of_the_entries(p):
    n = 400_000
    dropped = n - mask(np, 7, p=p, shape=(n,)).sum()
    assert abs(dropped - p * n) <= 4.0 * math.sqrt(n * p * (1.0 - p)) + n / 131072  # 4 standard deviations


@pytest.mark.parametrize("row", [(3,), (4,), (2, 3)], ids=str)
def test_a_row_has_its_mask_however_the_batch_is_split(row, xp):
    whole = mask(xp, 3, shape=(7, *row))
    for size in (1, 2, 3, 7):
        starts = range(0, 7, size)
        parts = [mask(xp, 3, shape=(min(size, 7 - i), *row), first=i * math.prod(row)) for i in starts]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
