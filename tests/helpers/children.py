"""Child processes that something happens to: before a chosen file operation, in a chosen call, at a size.

Children are forked from a server process that has imported minigam, so that one takes 50 ms instead of 2 s.
"""

import errno
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals, fork and file size limits")

PRELOADED = ("helpers.crashes", "minigam.train", "minigam.data.__main__", "minigam.experiments.__main__",
             "minigam.viz.experiments", "matplotlib.backends.backend_agg")  # fmt: skip
# The audit events of what changes files; `open` counts when it may write.
CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink",
           "os.chmod", "shutil.rmtree", "fcntl.flock")  # fmt: skip
FREEING = ("os.remove", "os.rmdir", "shutil.rmtree", "os.rename", "os.chmod", "lock", "unlock")
LOCK_UN = 8  # of fcntl, which Windows lacks
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Orders:
    """What happens to a child.

    within : folder whose file operations are counted, those on the folder itself included
    at     : the number of the operation, from 1, before which `does` happens; None: never
    does   : a signal; "full": from there on, nothing new can be made; "wait": until the file `go` exists
    times  : before how many operations in a row
    call   : "module:function" whose call number `at` counts instead of the file operations
    limit  : largest size of a file, in bytes; a write beyond it fails, or kills if `fatal`
    quick  : draw no plot and no sample, which take most of the time of a tiny run
    cwd    : the folder to run in
    """

    within: Path
    at: int | None = None
    does: int | str = signal.SIGTERM
    times: int = 1
    call: str = ""
    limit: int | None = None
    fatal: bool = False
    quick: bool = True
    cwd: Path | None = None


@dataclass
class Child:
    """A started child. Its streams and the operations it is about to do are in files."""

    process: Any
    folder: Path
    operations: list[str] = field(default_factory=list)
    code: int | None = None  # minus the signal that ended it
    out: str = ""
    err: str = ""

    @property
    def go(self) -> Path:
        return self.folder / "go"

    def wait(self, seconds: float = 60.0) -> "Child":
        """Wait for the end and read what it left."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            self.err = "hangs\n"
        self.code = self.process.exitcode
        self.process.close()
        self.operations = self.log()
        self.out = (self.folder / "out").read_text(encoding="utf-8", errors="replace")
        self.err += (self.folder / "err").read_text(encoding="utf-8", errors="replace")
        return self

    def kill(self, after: float) -> "Child":
        """Kill the child that many seconds from now, if it still runs then."""
        self.process.join(after)
        if self.process.exitcode is None:
            self.process.kill()
        return self.wait()

    def log(self) -> list[str]:
        """Return the operations so far."""
        return (self.folder / "log").read_text(encoding="utf-8").splitlines()

    def waiting(self, seconds: float = 60.0) -> bool:
        """Wait until the child waits for `go`, or has ended; return which."""
        deadline = time.monotonic() + seconds
        while self.process.is_alive() and time.monotonic() < deadline:
            if (self.folder / "waits").exists():
                return True
            time.sleep(0.005)
        return False


class Server:
    """Starts children, each with a folder of its own for its streams. Start one server per test session."""

    def __init__(self, folder: Path) -> None:
        from multiprocessing import forkserver  # not on Windows

        self.folder, self.started = folder, 0
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(list(PRELOADED))
        with pytest.MonkeyPatch.context() as patch:
            for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
                patch.setenv(name, "1")  # a process with threads must not be forked
            patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
            forkserver.ensure_running()

    def start(self, target: Callable, *args: Any, orders: Orders) -> Child:
        self.started += 1
        folder = self.folder / str(self.started)
        folder.mkdir(parents=True)
        for name in ("out", "err", "log"):
            (folder / name).touch()
        process = self.context.Process(target=_obey, args=(orders, folder, target, args))
        process.start()
        return Child(process, folder)

    def run(self, target: Callable, *args: Any, orders: Orders) -> Child:
        return self.start(target, *args, orders=orders).wait()


def minigam(*argv: str) -> None:
    """A target: the command line."""
    sys.argv = ["minigam", *argv]
    import_module("minigam.__main__").main()


def _obey(orders: Orders, folder: Path, target: Callable, args: tuple) -> None:
    """In the child: follow the orders and call the target."""
    for number, name in ((1, "out"), (2, "err")):
        stream = os.open(folder / name, os.O_WRONLY | os.O_APPEND)
        os.dup2(stream, number)
    sys.stdout = open(1, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    if orders.cwd is not None:
        os.chdir(orders.cwd)
    if orders.quick:
        skip_drawing()
    happens = _happening(orders, folder)
    if orders.call:
        _count_calls(orders.call, happens)
    else:
        _count_operations(orders.within, happens)
    if orders.limit is not None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if orders.fatal else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (orders.limit, resource.RLIM_INFINITY))
    target(*args)


def skip_drawing() -> None:
    """Replace plots by a few bytes, and the sample after training by nothing."""
    from minigam import train, viz
    from minigam.experiments import comparison

    class Blank:
        def savefig(self, path: Path, **settings: Any) -> None:
            Path(path).write_bytes(b"\x89PNG")

    viz.loss_plot = comparison.comparison_plot = comparison.curves_plot = lambda *args, **settings: Blank()
    train.continued = lambda model, tokenizer, ids, **settings: (ids, None)


def _happening(orders: Orders, folder: Path) -> Callable[[str], None]:
    """Return what to call with the name of each operation or call, before it."""
    log = os.open(folder / "log", os.O_WRONLY | os.O_APPEND)
    count = 0

    def happens(name: str) -> None:
        nonlocal count
        count += 1
        if orders.limit is None:  # which this file would exceed too
            os.write(log, f"{name}\n".encode())
        if orders.at is None or count < orders.at:
            return
        if orders.does == "full":
            if not name.startswith(FREEING):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name.partition(" ")[2])
        elif count >= orders.at + orders.times:
            return
        elif orders.does == "wait":
            (folder / "waits").touch()
            deadline = time.monotonic() + 60.0  # if the test was stopped, nobody says go
            while not (folder / "go").exists() and time.monotonic() < deadline:
                time.sleep(0.005)
        else:
            signal.raise_signal(orders.does)

    return happens


def _count_operations(within: Path, happens: Callable[[str], None]) -> None:
    inside, busy = str(within), False

    def hook(event: str, args: tuple) -> None:
        nonlocal busy
        if busy or event not in CHANGES or (event == "open" and not args[2] & WRITING):
            return
        names = [os.fsdecode(a) for a in args[:2] if isinstance(a, str | bytes | os.PathLike)]
        paths = [os.path.abspath(name) for name in names]  # noqa: PTH100  (links are not followed)
        if event == "fcntl.flock":
            event = "unlock" if args[1] & LOCK_UN else "lock"
        elif not any(p == inside or p.startswith(inside + os.sep) for p in paths):
            return
        busy = True
        try:
            happens(" ".join([event, *paths[:1]]))
        finally:
            busy = False

    sys.addaudithook(hook)


def _count_calls(place: str, happens: Callable[[str], None]) -> None:
    module, _, name = place.partition(":")
    *path, last = name.split(".")
    holder: Any = import_module(module)
    for part in path:
        holder = getattr(holder, part)
    called = getattr(holder, last)

    def counted(*args: Any, **settings: Any) -> Any:
        happens(place)
        return called(*args, **settings)

    setattr(holder, last, counted)
