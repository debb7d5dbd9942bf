"""Processes that take the emulator in helpers/emulated for CuPy."""

import os
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processes that a test starts from now on find the emulator when they import cupy."""
    paths = (TESTS / "helpers" / "emulated", TESTS.parent, os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, map(str, paths))))
