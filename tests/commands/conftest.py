"""Shared by the tests of the commands: a run to use and not to change."""

from pathlib import Path

import pytest
from helpers.commands import SMALL

from minigam import train


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    assert train.main([*SMALL, f"--out={path}"]) == 0
    return path
