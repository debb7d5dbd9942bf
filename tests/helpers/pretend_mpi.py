"""A pretend MPI: the ranks are threads of one process. It has what minigam uses of mpi4py, no more.

    results = run(4, work)    # work(rank), on four threads

A collective is done once all ranks have called it, each its n-th of a communicator. Whoever calls another one
than the others fails.
"""

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

LIMIT = 60.0  # seconds for a test's ranks to end

_local = threading.local()


def rank() -> int:
    """Return the rank of this thread."""
    return _local.rank


class Meeting:
    """What the ranks have brought to each call: by call, then by rank."""

    def __init__(self, size: int):
        self.size, self.lock = size, threading.Lock()
        self.calls: dict[Any, dict[int, Any]] = defaultdict(dict)
        self.counts: dict[Any, int] = defaultdict(int)  # calls so far, by (what, rank)
        self.failed = threading.Event()

    def come(self, what: Any, brought: Any) -> Any:
        """Bring something to the next call of this rank; return the key of the call."""
        with self.lock:
            number = self.counts[what, rank()]
            self.counts[what, rank()] += 1
            self.calls[what, number][rank()] = brought
            return what, number

    def all_here(self, call: Any) -> bool:
        """Return whether all ranks have come to a call. Raises if one of them has failed."""
        if self.failed.is_set():
            raise RuntimeError("another rank has failed")
        with self.lock:
            return len(self.calls[call]) == self.size

    def wait(self, call: Any) -> dict[int, Any]:
        """Wait until all have come to a call; return what they have brought."""
        end = time.monotonic() + LIMIT
        while not self.all_here(call):
            assert time.monotonic() < end, f"{call}: not all ranks came"
            time.sleep(1e-4)
        return self.calls[call]


class Request:
    """A collective under way: `Test` copies what has come in, once all are there."""

    def __init__(self, meeting: Meeting, call: Any, finish: Callable[[dict[int, Any]], None]):
        self.meeting, self.call, self.finish = meeting, call, finish
        self.done = False

    def Test(self) -> bool:
        if not self.done and self.meeting.all_here(self.call):
            self.finish(self.meeting.calls[self.call])
            self.done = True
        return self.done

    @staticmethod
    def Testall(requests: list["Request"]) -> bool:
        return sum(request.Test() for request in requests) == len(requests)  # each one is asked


class Communicator:
    """One communicator, as one rank has it."""

    def __init__(self, meeting: Meeting, name: str = "world"):
        self.meeting, self.name = meeting, name
        self.rank, self.size, self.copies = rank(), meeting.size, 0
        self.aborted: int | None = None

    def _collective(self, kind: str, sent: Any, finish: Callable[[dict[int, Any]], None]) -> Request:
        def same_kind(brought: dict[int, Any]) -> None:
            assert {other for other, _ in brought.values()} == {kind}
            finish({rank: sent for rank, (_, sent) in brought.items()})

        return Request(self.meeting, self.meeting.come(self.name, (kind, sent)), same_kind)

    def Idup(self) -> tuple["Communicator", Request]:
        self.copies += 1
        copy = Communicator(self.meeting, f"{self.name}.{self.copies}")
        return copy, self._collective("Idup", None, lambda brought: None)

    def Ibarrier(self) -> Request:
        return self._collective("Ibarrier", None, lambda brought: None)

    def Iallgather(self, own: np.ndarray, whole: np.ndarray) -> Request:
        def finish(brought: dict[int, np.ndarray]) -> None:
            whole[...] = np.concatenate([brought[r] for r in range(self.size)])

        return self._collective("Iallgather", own.copy(), finish)

    def _gather(self, kind: str, own: np.ndarray, whole: list | None) -> Request:
        def finish(brought: dict[int, np.ndarray]) -> None:
            if whole is not None:
                array, (counts, starts) = whole
                for r, (count, start) in enumerate(zip(counts, starts, strict=True)):
                    assert brought[r].size == count and brought[r].dtype == array.dtype
                    array[start : start + count] = brought[r]

        return self._collective(kind, own.copy(), finish)

    def Iallgatherv(self, own: np.ndarray, whole: list) -> Request:
        return self._gather("Iallgatherv", own, whole)

    def Igatherv(self, own: np.ndarray, whole: list | None) -> Request:
        return self._gather("Igatherv", own, whole)

    def Ialltoallv(self, sent: list, received: list) -> Request:
        array, (counts, starts) = sent

        def finish(brought: dict[int, list[np.ndarray]]) -> None:
            into, (sizes, places) = received
            for r, (size, place) in enumerate(zip(sizes, places, strict=True)):
                into.reshape(-1)[place : place + size] = brought[r][self.rank]

        parts = [array[start : start + count].copy() for count, start in zip(counts, starts, strict=True)]
        return self._collective("Ialltoallv", parts, finish)

    # The roll call: nobody answers here, so whoever waits too long is told that all others are missing.

    def Irecv(self, into: np.ndarray, source: int, tag: int) -> SimpleNamespace:
        return SimpleNamespace(Test=lambda: False)

    def Isend(self, data: np.ndarray, dest: int, tag: int) -> None:
        pass

    def Iprobe(self, tag: int) -> bool:
        return False

    def Abort(self, code: int) -> None:
        self.aborted = code


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `from mpi4py import MPI` find the communicator of the current thread."""
    from minigam.training.ranks import mpi

    class MPI:
        Request, Exception = Request, type("Exception", (Exception,), {})

        @property
        def COMM_WORLD(self) -> Communicator:
            return Communicator(_local.meeting)

        def Finalize(self) -> None:
            pass

    module = ModuleType("mpi4py")
    module.MPI = MPI()
    monkeypatch.setitem(sys.modules, "mpi4py", module)
    # Threads end together, whatever happens to one; the process must not.
    monkeypatch.setattr(mpi, "atexit", SimpleNamespace(register=lambda end: None))


def run(size: int, work: Callable[[int], Any]) -> list[Any]:
    """Call work(rank) on a thread per rank; return the results. Raises the first error that is not the
    consequence of another."""
    meeting, results, errors = Meeting(size), [None] * size, []

    def of_rank(r: int) -> None:
        _local.rank, _local.meeting = r, meeting
        try:
            results[r] = work(r)
        except BaseException as e:  # of a pytest.fail too
            errors.append(e)
            meeting.failed.set()

    threads = [threading.Thread(target=of_rank, args=(r,), daemon=True) for r in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive(), "a rank hangs"
    if errors:
        raise errors[0]
    return results


def meeting() -> Meeting:
    """Return the meeting of the ranks to which this thread belongs."""
    return _local.meeting
