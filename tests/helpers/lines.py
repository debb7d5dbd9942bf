"""Many command lines, each in a child process of its own with limits on time and memory.

A worker process that has imported minigam forks a child for each line: 10 ms instead of 2 s.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

from minigam.__main__ import COMMANDS, module_of
from minigam.engine.memory import GIB

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs fork and a limit on memory")

CPU_S, WALL_S, REFUSED_S = 60, 120, 5.0  # seconds until a child is killed, and for a line that is refused


@dataclass(frozen=True)
class Ended:
    """How a command line ended. `code` is minus the signal that ended it; `cpu_s` excludes waiting."""

    code: int
    out: str
    err: str
    cpu_s: float
    peak_mib: float

    def fault(self) -> str:
        """Return what breaks the promise of one line and exit code 2, or ''."""
        if self.code < 0:
            return f"killed by signal {-self.code}" + (", hangs" if self.code == -signal.SIGKILL else "")
        if "Traceback" in self.err or "Warning" in self.err:
            return self.err.strip().splitlines()[-1]
        if self.peak_mib > 1024:
            return f"{self.peak_mib:.0f} MiB"
        if self.code == 0 or (self.code == 1 and "Start again with a smaller --lr" in self.err):
            return ""  # done, or a training that diverged
        lines = [line for line in self.err.splitlines() if not line.startswith("backend numpy (auto")]
        if self.code != 2 or len(lines) != 1 or not lines[0].strip():
            return f"exit code {self.code}, {self.err[:300]!r}"
        return f"{self.cpu_s:.1f} s until refused" if self.cpu_s > REFUSED_S else ""


class Lines:
    """Runs command lines in a folder.

    prepare : a function to call in the worker first, with that folder
    """

    def __init__(self, context: Any, folder: Path, prepare: Callable[[Path], None]) -> None:
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, folder, prepare), daemon=True)
        self.process.start()

    def run(self, *argv: str) -> Ended:
        """Run `minigam ARGV`."""
        self.connection.send(argv)
        return Ended(*self.connection.recv())

    def close(self) -> None:
        self.connection.send(None)
        self.process.join()


def _work(connection: Any, folder: Path, prepare: Callable[[Path], None]) -> None:
    for name in COMMANDS:
        import_module(f"minigam.{module_of(name)}")
    streams = folder.with_name(f"{folder.name}-streams")
    streams.mkdir()
    os.chdir(folder)
    tqdm.get_lock()  # one for all children: each would leave its own behind
    prepare(folder)
    while (argv := connection.recv()) is not None:
        connection.send(_ended(argv, streams))


def _ended(argv: tuple[str, ...], streams: Path) -> tuple:
    for name in ("out", "err"):
        (streams / name).write_bytes(b"")
    child = os.fork()
    if child == 0:
        _run(argv, streams)
    deadline = time.monotonic() + WALL_S
    while not (waited := os.wait4(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.001)
    _, status, usage = waited
    texts = [(streams / name).read_text(encoding="utf-8", errors="replace") for name in ("out", "err")]
    cpu_s = usage.ru_utime + usage.ru_stime
    return os.waitstatus_to_exitcode(status), *texts, cpu_s, usage.ru_maxrss / 1024


def _run(argv: tuple[str, ...], streams: Path) -> None:
    """In the child: run the line within limits, and exit with its code."""
    import resource

    os.setpgid(0, 0)
    virtual = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * os.sysconf(
        "SC_PAGE_SIZE"
    )
    for what, most in (("CPU", CPU_S), ("AS", virtual + GIB), ("FSIZE", GIB), ("CORE", 0)):
        resource.setrlimit(getattr(resource, f"RLIMIT_{what}"), (most, most))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(streams / name, os.O_WRONLY | os.O_APPEND), number)
    sys.stdout, sys.stderr = (
        open(number, "w", encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        for number, errors in ((1, "replace"), (2, "backslashreplace"))
    )
    sys.argv, code = ["minigam", *argv], 1
    try:
        import_module("minigam.__main__").main()
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 0 if e.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
