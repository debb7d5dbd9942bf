"""What every test file shares: the pretend GPU, and `xp`, one library after the other."""

import numpy as np
import pytest
from helpers import fakegpu
from hypothesis import settings

from minigam import backend

backend.register(fakegpu.DeviceArray, fakegpu.xp)  # from here on .to("fakegpu") works

settings.register_profile("minigam", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("minigam")


def pytest_runtest_setup(item):
    """Skip what is marked gpu, in the backend's own words, where CuPy cannot compute."""
    if item.get_closest_marker("gpu"):
        try:
            backend.get("cupy")
        except backend.BackendUnavailable as e:
            pytest.skip(str(e))


@pytest.fixture(params=["numpy", "fakegpu", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request):
    """Each array library in turn."""
    return backend.get(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
