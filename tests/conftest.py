"""Shared by all tests: the pretend GPU, and `xp`, which is each array library in turn."""

import numpy as np
import pytest
from helpers import browser as browsers
from helpers import fakegpu
from hypothesis import settings

from minigam import backend

backend.register(fakegpu.DeviceArray, fakegpu.xp)  # from here on .to("fakegpu") works

settings.register_profile("minigam", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("minigam")


def pytest_runtest_setup(item):
    """Skip tests marked gpu if CuPy cannot compute; the reason is the backend's error."""
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


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """One headless Chromium for all tests that look at a page."""
    driver = browsers.start(tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()
