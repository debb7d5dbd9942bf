"""Run the answers in notebooks and check them, in processes with limits.

This protects from honest mistakes and simple cheats: endless loops, too much memory, Python that ends, a
check that was edited or replaced. It is no protection from hostile code, which runs with the rights of the
user: it can read and delete files, use the network, and search Python's memory for the verdict.
"""

import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import minigam
from minigam.config import InputError
from minigam.course import check
from minigam.course.worker import FORKS, READY
from minigam.files import reading

CHECKS = "minigam.course.check"
MOST = 2**26  # bytes of a notebook
RESTARTS = 12  # how often a notebook may end its process
STATES = ("solved", "failing", "open", "error", "missing")  # the best first: of two verdicts it counts


class Verdict(NamedTuple):
    """The state of an exercise, one of STATES, and in one line why."""

    state: str
    message: str


@dataclass(frozen=True)
class Limits:
    """What a notebook may use.

    seconds : for each start of its process, which starts again after an endless loop
    """

    seconds: int = 60
    memory_mib: int = 4096
    file_mib: int = 64


def read_cells(path: Path) -> list[tuple[str, str]]:
    """Return the type and the text of every cell of a notebook. Raises InputError, in one line, for a file
    that is none."""
    with reading(path, "a notebook") as f:
        data = f.read(MOST + 1)
    if len(data) > MOST:
        raise InputError(f"{path}: more than {MOST:,} bytes; clear its outputs")
    try:
        notebook = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as e:
        raise InputError(f"{path}: not UTF-8 ({e.reason} at byte {e.start})") from e
    except (ValueError, RecursionError) as e:
        why = "empty" if not data.strip() else f"not JSON ({e})"
        why = "has the marks of a merge conflict" if re.search(rb"^<<<<<<< ", data, re.M) else why
        raise InputError(f"{path}: not a notebook: {why}") from e
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list):
        raise InputError(f"{path}: not a notebook of format 4: it has no list of cells")
    return [(str(c.get("cell_type")), _source(c)) for c in cells if isinstance(c, dict)]


def _source(cell: dict) -> str:
    """Return the text of a cell, which is stored as one or as a list of lines."""
    source = cell.get("source", "")
    lines = source if isinstance(source, list) else [source]
    return "".join(line for line in lines if isinstance(line, str))


def code(cells: list[tuple[str, str]]) -> list[str]:
    """Return the texts of the code cells."""
    return [text for kind, text in cells if kind == "code"]


def notebook_of(cells: list[str], known: list[str]) -> str | None:
    """Return which of the known notebooks NN these code cells call most checks of, None for none."""
    called = [n for n in re.findall(r"\bcheck\.ex_(\d\d)_\d+\s*\(", "\n".join(cells)) if n in known]
    return max(sorted(set(called)), key=called.count) if called else None


def exercises(package: Any = check) -> dict[str, list[str]]:
    """Return the exercises NN_K of every notebook NN that has checks, in order."""
    numbers: dict[str, list[tuple[int, str]]] = {}
    for name in dir(package):
        if found := re.fullmatch(r"ex_(\d\d)_(\d+)", name):
            numbers.setdefault(found[1], []).append((int(found[2]), name[3:]))
    return {n: [name for _, name in sorted(numbers[n])] for n in sorted(numbers)}


class Worker:
    """A process of `minigam.course.worker`. Where it cannot fork, each job starts another."""

    def __init__(self, checks: str) -> None:
        how = "fork" if FORKS else "once"
        self._command = [sys.executable, "-P", "-m", "minigam.course.worker", checks, how]
        paths = [str(Path(minigam.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        changed = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        changed |= {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "MPLBACKEND": "Agg"}
        self._settings: dict[str, Any] = {
            "env": os.environ | changed,
            "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL,
            "start_new_session": True,  # Ctrl-C is for the command, which closes this
        }  # fmt: skip
        self._process: subprocess.Popen | None = None
        self._closed, self._lock = False, threading.Lock()

    def attempt(self, job: dict) -> tuple[str, str]:
        """Run a job; return its output, and how it ended: time or died."""
        line = json.dumps(job).encode() + b"\n"
        if not FORKS:
            return self._alone(line, job["seconds"])
        answer, process = b"", self._started()
        if process is not None:
            with suppress(BrokenPipeError):
                process.stdin.write(line)  # type: ignore[union-attr]
                process.stdin.flush()  # type: ignore[union-attr]
                answer = process.stdout.readline()  # type: ignore[union-attr]
        if not answer:
            self._end()
            return "", "died"
        result = json.loads(answer)
        return result["output"], result["ended"]

    def _started(self) -> subprocess.Popen | None:
        """Return the process, started if there is none; None after `close`."""
        with self._lock:
            if self._process is None and not self._closed:
                self._process = subprocess.Popen(self._command, **self._settings)
                _require_ready(self._process.stdout.readline())  # type: ignore[union-attr]
            return self._process

    def _alone(self, line: bytes, seconds: int) -> tuple[str, str]:
        with subprocess.Popen(self._command, **self._settings) as process:
            self._process = process
            try:
                output, ended = process.communicate(line, timeout=seconds)[0], "died"
            except subprocess.TimeoutExpired:
                process.kill()
                output, ended = process.communicate()[0], "time"
            self._process = None
        if self._closed:
            return "", "died"
        _require_ready(output)
        return output.decode("utf-8", "replace"), ended

    def _end(self) -> None:
        """End the process, and the child that it waits for."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None and not FORKS:
            process.kill()
        elif process is not None:
            with suppress(BrokenPipeError):
                process.stdin.close()  # type: ignore[union-attr]
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            with suppress(RuntimeError, ValueError):  # another thread reads it, and will close it
                process.stdout.close()  # type: ignore[union-attr]

    def close(self) -> None:
        """End the process, and start no other."""
        self._closed = True
        self._end()


def _require_ready(output: bytes) -> None:
    if not output.startswith(READY.encode()):
        raise RuntimeError("a process for the checks did not start; try python -m minigam.course.worker "
                           f"{CHECKS} once, which should print {READY}")  # fmt: skip


def verdicts(cells: list[str], limits: Limits, worker: Worker) -> dict[str, Verdict]:
    """Return the verdict of every exercise that these code cells check.

    A step that exceeds the time, or ends Python, is left out when the notebook runs again.
    """
    found: dict[str, Verdict] = {}
    skip: list[int] = []
    for _ in range(RESTARTS):
        key = secrets.token_hex(16)
        with tempfile.TemporaryDirectory(prefix="minigam-", ignore_cleanup_errors=True) as folder:
            job = {"key": key, "cells": cells, "skip": skip, "folder": folder, **asdict(limits)}
            output, ended = worker.attempt(job)
        at: list | None = None
        for event in _events(output, key):
            if event[0] == "at":
                at = event
            elif event[0] == "verdict":
                _keep(found, event[1], Verdict(event[2], event[3]))
            elif event[0] == "done":
                return found
        why = (
            f"took more than {limits.seconds} s"
            if ended == "time"
            else "ended Python or used too much memory"
        )
        if at is None:
            break
        skip.append(at[1])
        if at[2]:
            _keep(found, at[2], Verdict("error", why))
    for name in re.findall(r"\bcheck\.ex_(\d\d_\d+)\s*\(", "\n".join(cells)):
        found.setdefault(name, Verdict("error", f"its notebook {why}"))
    return found


def _events(output: str, key: str) -> Iterator[list]:
    """Yield the lines of a worker that have the key, which the learner's code does not know."""
    for line in output.splitlines():
        with suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, list) and event[:1] == [key]:
                yield event[1:]


def _keep(found: dict[str, Verdict], exercise: str, verdict: Verdict) -> None:
    """Keep the better of two verdicts; of equally good ones the latest."""
    before = found.get(exercise)
    if before is None or STATES.index(verdict.state) <= STATES.index(before.state):
        found[exercise] = verdict


@contextmanager
def workers(jobs: int, checks: str = CHECKS) -> Iterator[Callable[[Callable, Iterable], Iterator]]:
    """Yield a function like `map` whose calls get a worker as second argument, `jobs` of them at a time."""
    local, made = threading.local(), []

    def call(function: Callable, item: Any) -> Any:
        if not hasattr(local, "worker"):
            local.worker = Worker(checks)
            made.append(local.worker)
        return function(item, local.worker)

    pool = ThreadPoolExecutor(jobs)
    try:
        yield lambda function, items: pool.map(lambda item: call(function, item), items)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in made:
            worker.close()
