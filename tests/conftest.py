"""Shared by all tests: the pretend GPU, and `xp`, which is each array library in turn."""

import os
import signal

import numpy as np
import pytest
from helpers import browser as browsers
from helpers import fakegpu
from hypothesis import settings

from minigam import backend

backend.register(fakegpu.DeviceArray, fakegpu.xp)  # from here on .to("fakegpu") works

settings.register_profile("minigam", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("minigam")


def pytest_sessionstart(session):
    """With MINIGAM_REQUIRE_GPU=1, end at once where the tests marked gpu would be skipped."""
    if os.environ.get("MINIGAM_REQUIRE_GPU") == "1":
        try:
            backend.get("cupy")
        except backend.BackendUnavailable as e:
            pytest.exit(f"MINIGAM_REQUIRE_GPU is 1, and {e}", returncode=2)


def pytest_runtest_setup(item):
    """Skip tests marked gpu if CuPy cannot compute; the reason is the backend's error."""
    if item.get_closest_marker("gpu"):
        try:
            backend.get("cupy")
        except backend.BackendUnavailable as e:
            pytest.skip(str(e))


@pytest.fixture(scope="session", autouse=True)
def signals_are_heard():
    """Do not inherit what a script that starts the tests with & or nohup ignores: Ctrl-C, SIGHUP."""
    for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


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
