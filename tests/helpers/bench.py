"""Shared by the tests of the benchmarks."""

import pytest

from benchmarks import measure
from helpers import tiny
from minigam import GAMConfig

TINY = GAMConfig(**tiny.TINY, dropout=0.0)
needs_torch = pytest.mark.skipif(not measure.find_spec("torch"), reason="measures PyTorch")


def flops_of_a_step(config, tokens: int) -> int:
    """By the equations: gate, feed-forward and memory of every block, and the head; backward costs twice."""
    C, S, V = config.d_model, config.n_slots, config.vocab_size
    return 6 * tokens * (config.n_layers * (2 * C * C + 2 * 4 * C * C + 2 * S * C) + C * V)
