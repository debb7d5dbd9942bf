"""Shared by the tests of the engine: the making of operations."""

import pytest

from minigam.engine.dispatch import op
from minigam.engine.tensor import OPS


@pytest.fixture
def new_op():
    """The decorator `op`, whose operations are forgotten after the test."""
    before = dict(OPS)
    yield op
    OPS.clear()
    OPS.update(before)
