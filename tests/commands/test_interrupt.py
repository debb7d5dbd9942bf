"""Ctrl-C while Python imports: a command of minigam ends in one line, any other program handles it itself."""

import signal
import subprocess
import sys

import pytest

HANDLED = (
    "import signal\ntry:\n    signal.raise_signal(signal.SIGINT)\n"
    "except KeyboardInterrupt:\n    print('my own handler')\n"
)


@pytest.mark.parametrize(
    "start", [["-m", "theirs.train"], ["-Wdefault", "-m", "theirs.train"], ["minigam_theirs.py"]]
)
def test_another_program_keeps_its_handling_of_ctrl_c(tmp_path, start):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "__init__.py").write_text("import minigam\n")
    (tmp_path / "theirs" / "train.py").write_text(HANDLED)
    (tmp_path / "minigam_theirs.py").write_text("import minigam\n" + HANDLED)
    done = subprocess.run([sys.executable, *start], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "my own handler\n", "")


@pytest.mark.parametrize(
    "start", [["-m", "minigam.train"], ["-m", "minigam"], ["-Wdefault", "-m", "minigam.data"]]
)
def test_a_command_ends_in_one_line(tmp_path, start):
    """A stand-in for NumPy, the first library that minigam imports, raises the signal."""
    (tmp_path / "numpy.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    done = subprocess.run([sys.executable, *start], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (128 + signal.SIGINT, "")
    assert done.stderr == "minigam: interrupted\n"
