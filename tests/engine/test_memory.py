"""Memory: the peak that is measured."""

import numpy as np
import pytest

from minigam.engine import backend, memory


def test_track_memory_sees_the_peak_and_not_what_was_there_before():
    before, megabyte = np.ones(250_000), 1_000_000
    with memory.track_memory(np) as taken:
        kept = np.ones(125_000)  # 1 MB
        np.ones(500_000).sum()  # 4 MB, freed again
    assert 5 * megabyte <= taken.peak_bytes < 5.1 * megabyte
    assert before.nbytes + kept.nbytes == 3 * megabyte


def test_track_memory_nests():
    with memory.track_memory(np) as outer:
        np.ones(250_000).sum()
        with memory.track_memory(np) as inner:
            np.ones(125_000).sum()
    assert 1_000_000 <= inner.peak_bytes < 1_100_000
    assert outer.peak_bytes >= inner.peak_bytes


@pytest.mark.gpu
def test_track_memory_on_a_gpu():
    cupy = backend.get("cupy")
    with memory.track_memory(cupy) as taken:
        cupy.ones(1_000_000)
    assert 8_000_000 <= taken.peak_bytes < 12_000_000
