"""The signals that ask a command to stop: Ctrl-C, SIGTERM, and the SIGHUP of a closed terminal."""

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from minigam import launcher

Handler = Callable[[int, Any], None]


def _signals() -> list[signal.Signals]:
    """Return those of this system. One that is ignored, as under nohup, stays ignored."""
    names = (name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
    return [s for s in (signal.Signals[name] for name in names) if signal.getsignal(s) != signal.SIG_IGN]


def _leave(signum: int, frame: Any) -> None:
    if launcher.rank() == 0:  # a launcher passes the signal to all ranks
        os.write(2, b"minigam: interrupted\n")
    os._exit(128 + signum)


def _starts_a_command() -> bool:
    """Return whether Python was started for a command: `-m minigam.NAME`, or the script `minigam`. Any other
    program that imports minigam keeps its own handling of signals."""
    if sys.argv[:1] == ["-m"]:  # while Python looks for the module, of whatever package
        _, _, modules = " ".join(sys.orig_argv).partition(" -m ")
        return re.match(r"minigam\b", modules) is not None
    return Path(*sys.argv[:1]).stem == "minigam"


if _starts_a_command():
    # Until `handled` takes over, a signal ends the command in one line, not with a traceback that leads
    # through the libraries it imports.
    for _signal in _signals():
        signal.signal(_signal, _leave)


def _raise(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


@contextmanager
def handled(handler: Handler = _raise) -> Iterator[dict[int, Any]]:
    """Call `handler` at each of the signals; yield the handlers that this replaces. The default raises
    KeyboardInterrupt."""
    try:
        before: dict[int, Any] = {s: signal.signal(s, handler) for s in _signals()}
    except ValueError:  # not the main thread, which alone gets signals
        before = {}
    try:
        yield before
    finally:
        for s, previous in before.items():
            signal.signal(s, previous)


@contextmanager
def noticed() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether one of the signals has come, so that a step can be finished
    first. A second one stops immediately."""
    came = False

    def notice(signum: int, frame: Any) -> None:
        nonlocal came
        came = True
        signal.signal(signum, before[signum])
        with suppress(OSError):  # nobody may be there to read it
            if launcher.rank() == 0:
                print("\nstopping after this step; press Ctrl-C again to stop immediately", file=sys.stderr)

    with handled(notice) as before:
        yield lambda: came
