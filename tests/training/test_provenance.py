"""Which commit a run and a measurement name: the clone's, or what a copy without .git is told."""

import pytest
from helpers.commands import SMALL, assert_refused, call

from minigam import train
from minigam.training import provenance

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the source that is no clone."""
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "minigam" / "training" / "provenance.py"))
    monkeypatch.delenv("MINIGAM_COMMIT", raising=False)
    return tmp_path


@pytest.mark.parametrize("commit", [COMMIT, f"{COMMIT}-dirty", COMMIT[:7]])
def test_a_copy_has_the_commit_of_its_environment(commit, copy, monkeypatch):
    assert provenance.commit() is None
    monkeypatch.setenv("MINIGAM_COMMIT", "")
    assert provenance.commit() is None
    monkeypatch.setenv("MINIGAM_COMMIT", commit)
    assert provenance.commit() == commit


def test_a_clone_is_asked_itself(copy, monkeypatch):
    monkeypatch.setenv("MINIGAM_COMMIT", COMMIT)
    (copy / ".git").mkdir()  # an empty one, which git refuses
    assert provenance.commit() is None


@pytest.mark.parametrize("wrong", ["main", COMMIT[:6], f"{COMMIT}0", f"{COMMIT} ", f"{COMMIT}-dirt"])
def test_what_is_no_commit_is_refused_before_the_run_starts(wrong, copy, monkeypatch, capsys):
    flags = [*SMALL, f"--out={copy / 'run'}"]
    monkeypatch.setenv("MINIGAM_COMMIT", wrong)
    assert_refused(
        train.main, flags, capsys, f"MINIGAM_COMMIT is {wrong!r}, wanted 7 to 40 hexadecimal digits"
    )
    assert not (copy / "run").exists()


def test_a_run_stores_it(copy, monkeypatch, capsys):
    monkeypatch.setenv("MINIGAM_COMMIT", COMMIT)
    code, _, err = call(train.main, [*SMALL, f"--out={copy / 'run'}"], capsys)
    assert code == 0, err
    assert f'"commit": "{COMMIT}"' in (copy / "run" / "machine.json").read_text()
