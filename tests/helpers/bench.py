"""Shared by the tests of the benchmarks."""

import pytest

from benchmarks import measure
from helpers import tiny
from minigam import GAMConfig

TINY = GAMConfig(**tiny.TINY, dropout=0.0)
needs_torch = pytest.mark.skipif(not measure.find_spec("torch"), reason="measures PyTorch")
