"""Shared by the campaigns that start children: the server, a text, the run that nothing interrupts."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.children import Server
from helpers.world import World


@pytest.fixture(scope="session", autouse=True)
def signals_are_heard():
    """Children inherit what this process ignores: Ctrl-C if a script started it with &, or SIGHUP."""
    for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


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
    world = World(tmp_path_factory.mktemp("worlds") / "world", server)
    yield world
    world.lines.close()
