"""Shared by the campaigns that start children: the server, a text, the run that nothing interrupts."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.children import Server
from helpers.world import World


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Server:
    return Server(tmp_path_factory.mktemp("children"))


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "t.txt"
    path.write_text("\n".join(f"the cat sat on mat {n} and the dog ran." for n in range(40)) + "\n")
    return path


@pytest.fixture(scope="session")
def world(server, tmp_path_factory) -> Iterator[World]:
    for package in ("jupytext", "pyarrow", "tokenizers"):  # its commands use them
        pytest.importorskip(package, reason="needs the extra `data` and the group `test`")
    world = World(tmp_path_factory.mktemp("worlds") / "world", server)
    yield world
    world.lines.close()
