"""Nobody reads: stdout, stderr or both are closed, full or a pipe whose reader left. Training is saved."""

import os
import re
import subprocess
import sys

import pytest
from helpers import crashes
from helpers.campaigns import campaign, pick
from helpers.children import posix

pytestmark = posix

SHELL = {
    "stdout closed": "{} >&-",
    "stderr closed": "{} 2>&-",
    "both closed": "{} >&- 2>&-",
    "all three closed": "{} <&- >&- 2>&-",
    "head": "{} | head -n 1",
    "head of both": "{} 2>&1 | head -n 1",
    "no reader": "{} | true",
    "stderr without a reader": "{} 2>&1 >&3 3>&- | true",
    "stdout full": "{} > /dev/full",
    "stderr full": "{} 2> /dev/full",
    "both full": "{} > /dev/full 2>&1",
}
UNREADABLE = {"stderr", "both", "three"}  # words in the names of those whose stderr nobody can read
SHORT = ("both closed", "head", "stderr full", "stdout full")


def started(shell: str, argv: list[str]) -> subprocess.Popen:
    line = shell.format('"$@"')
    command = ["/bin/sh", "-c", f"exec 3>&1; {line}", "sh", sys.executable, "-m", "minigam", "train", *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_streams_that_nobody_reads(server, text, tmp_path):
    flags = crashes.flags_of(text, "--steps=8", "--eval-every=1", "--backend=auto")
    run = crashes.whole(server, tmp_path / "whole", flags)
    with campaign("closed_streams") as c:
        names = [name for name in SHELL if name in pick(SHORT, tuple(SHELL))]
        for k in range(0, len(names), 2):  # two at a time
            paths = {name: tmp_path / name.replace(" ", "-") for name in names[k : k + 2]}
            running = {name: started(SHELL[name], [*flags, f"--out={p}"]) for name, p in paths.items()}
            for name, process in running.items():
                out, err = process.communicate(timeout=120)
                c.count("commands")
                path = paths[name]
                wrong = "a traceback" if re.search("Traceback|Exception ignored", out + err) else ""
                wrong = wrong or ("" if (path / "config.json").exists() else "nothing is saved")
                if not wrong and crashes.differences(path, run.path) and not UNREADABLE & set(name.split()):
                    wrong = "" if re.search(r"[Ss]tep \d+ is saved", err) else "it does not say what is saved"
                if wrong := wrong or crashes.end(server, path, run):
                    c.fault(f"{name}: {wrong}: {err}")


TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def test_a_terminal_that_is_closed(server, text, tmp_path):
    """The window is closed while it trains: SIGHUP comes, and both streams give an error."""
    pty = pytest.importorskip("pty")
    flags = crashes.flags_of(text, "--steps=60", "--eval-every=1")
    run = crashes.whole(server, tmp_path / "whole", flags)
    with campaign("closed_terminals") as c:
        for n in range(pick(1, 20)):
            path = tmp_path / f"{n}"
            ours, theirs = pty.openpty()
            command = [sys.executable, "-c", TERMINAL, "-m", "minigam", "train", *flags, f"--out={path}"]
            process = subprocess.Popen(
                command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
            )
            os.close(theirs)
            read = b""
            while read.count(b"\n") <= n:
                read += os.read(ours, 1000)
            os.close(ours)
            c.count("terminals")
            code = process.wait(timeout=60)
            wrong = "" if code in (0, 1, 129, 130) else f"exit code {code}"
            if wrong := wrong or crashes.end(server, path, run):
                c.fault(f"closed after {n + 1} lines: {wrong}")
