"""The runs that the tests write pages about."""

from pathlib import Path

import pytest
from helpers.commands import ON_TEXT, SMALL
from helpers.pages import HOSTILE, write

from minigam import train


@pytest.fixture(scope="module")
def stories(tmp_path_factory) -> Path:
    """A run on PocketStories: two layers and K = 3, so a receptive field of 5 tokens."""
    path = tmp_path_factory.mktemp("stories") / "run"
    assert train.main([*SMALL, "--n-layers=2", "--kernel-size=3", f"--out={path}"]) == 0
    return path


@pytest.fixture(scope="module")
def rival_of_stories(tmp_path_factory) -> Path:
    """A Transformer on PocketStories."""
    path = tmp_path_factory.mktemp("rival") / "transformer"
    assert train.main([*SMALL, "--model=transformer", "--n-heads=2", f"--out={path}"]) == 0
    return path


@pytest.fixture(scope="module")
def duel(stories, rival_of_stories, tmp_path_factory) -> Path:
    """The page of a GAM and a Transformer, on PocketStories."""
    path = tmp_path_factory.mktemp("duel") / "duel.html"
    write(stories, path, f"--rival={rival_of_stories}")
    return path


@pytest.fixture(scope="module")
def recalling(tmp_path_factory) -> Path:
    """A run of mixer "written" on PocketStories, which sees all tokens."""
    path = tmp_path_factory.mktemp("recalling") / "run"
    flags = ["--mixer=written", "--n-layers=2", "--kernel-size=3", f"--out={path}"]
    assert train.main([*SMALL, *flags]) == 0
    return path


@pytest.fixture(scope="module")
def letters(tmp_path_factory) -> Path:
    """A run on a text, with characters as tokens."""
    folder = tmp_path_factory.mktemp("letters")
    (folder / "t.txt").write_text(f"{HOSTILE} and some other letters\tof a text.\n" * 40, encoding="utf-8")
    flags = [*ON_TEXT, f"--text={folder / 't.txt'}", "--block-size=64", f"--out={folder / 'run'}"]
    assert train.main(flags) == 0
    return folder / "run"
