"""Shared by the tests of training: a short run."""

import shutil
from pathlib import Path

import pytest
from helpers.runs import FLAGS

from minigam import train


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> Path:
    """A run never interrupted; do not change it."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    assert train.main([*FLAGS, f"--out={path}"]) == 0
    return path


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))
