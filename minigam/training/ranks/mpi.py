"""The ranks of an MPI launcher: collective operations of MPI, each with a deadline.

Sums: every rank gets its share of an array from all ranks (MPI_Ialltoallv), adds in the order of the tree,
and gives the sum to all (MPI_Iallgatherv). That is the least that a sum has to send, and unlike
MPI_Allreduce it adds in an order that depends on nothing else.
"""

import atexit
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import current_thread, main_thread
from typing import Any

import numpy as np

from minigam.config import InputError
from minigam.engine.tensor import Array
from minigam.launcher import VARIABLES, Place
from minigam.training.ranks.world import (
    DEADLINE,
    EX_TEMPFAIL,
    HOLD_BACK,
    ROLL_CALL,
    RankLost,
    World,
    share,
    tree_sum,
)

SPIN, NAP = 2e-2, 1e-4  # seconds: how long to ask without a pause, and the pauses after that
BURST = 32  # questions between two pauses: MPI moves a piece of a message at each, MPICH's are 16 KiB
GAP = 1.0  # seconds between two questions, at most, that count: this process itself may have been suspended
SUM, PARAMETERS = "a sum over all ranks", "the parameters of the other ranks"  # what a rank may wait for
RANKS = [names[0] for names in VARIABLES]  # the variables that say that a process is one of several
PRESENT = 1  # tag of the message with which a rank calls the roll, and answers it


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """End this process, by the signal SIGALRM, if the block takes longer. MPI's own start and end wait for
    all ranks, and let no other code of Python run meanwhile."""
    if not hasattr(signal, "setitimer") or current_thread() is not main_thread():
        yield
        return
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


@dataclass
class _Sum:
    """A sum under way: first the shares come in, then the sums of the shares go out."""

    array: Array
    received: Array  # (ranks, share of this rank)
    request: Any
    gathering: bool = False


class MPIWorld(World):
    """The processes of an MPI launcher.

    place    : what the launcher's variables say of this process
    deadline : seconds to wait for another rank, in addition to the time of ten steps
    Raises InputError where mpi4py is missing, or MPI disagrees with the launcher.
    """

    def __init__(self, place: Place, deadline: float):
        try:
            with alarm(max(deadline, DEADLINE)):  # a cluster may be slow to start
                from mpi4py import MPI
        except (ImportError, RuntimeError) as e:
            raise InputError(
                f"started as {place.size} processes, but MPI cannot be used ({' '.join(str(e).split())}); "
                "install minigam[mpi], or mpi4py and your cluster's MPI"
            ) from e
        self.mpi, self.comm, self.deadline = MPI, MPI.COMM_WORLD, deadline
        self.rank, self.size, self.sent = self.comm.rank, self.comm.size, 0
        if self.size != place.size:
            raise InputError(
                f"the launcher started {place.size} processes, but MPI ({MPI.get_vendor()[0]}) connects "
                f"{self.size}; start them with the mpiexec of this MPI (srun: --mpi=pmi2 or pmix), and start "
                f"separate runs without {', '.join(v for v in RANKS if v in os.environ)}"
            )
        self.sums: list[_Sum] = []
        self.hosts: list[str] = []
        self.roll = self.comm
        self.closed, self.code = False, 1  # the exit code of an end without the others
        self.host = socket.gethostname()
        atexit.register(self._end)  # before mpi4py's own, which would wait for the others for ever
        # Collectives of one communicator must start in the same order on every rank. Of a sum the second
        # starts when the first has ended, which depends on time, so each kind has its own.
        copies = [self.comm.Idup() for _ in range(4)]
        self._until(lambda: self.mpi.Request.Testall([request for _, request in copies]), "the start")
        self.shares, self.totals, self.control, self.roll = (communicator for communicator, _ in copies)
        self.hosts = self.exchange(self.host)

    # ------------------------------------------------------------------------------- sums

    def start_sum(self, a: Array) -> None:
        counts, starts = self._shares(len(a))
        own = counts[self.rank]
        received = np.empty((self.size, own), a.dtype)
        places = [own * r for r in range(self.size)]
        self.sent += (len(a) - own) * a.itemsize
        with self._talking(SUM):
            request = self.shares.Ialltoallv([a, (counts, starts)], [received, ([own] * self.size, places)])
            self.sums.append(_Sum(a, received, request))
            any(self._advance() for _ in range(BURST))

    def _advance(self) -> bool:
        """Let MPI work, start what can start, and return whether all sums are done."""
        for s in self.sums:  # in the order in which they were started, which is that of every rank
            if not s.gathering:
                if not s.request.Test():
                    break
                s.request, s.gathering = self._all_gather(s.array, tree_sum(s.received)), True
        self.sums = [s for s in self.sums if not (s.gathering and s.request.Test())]
        return not self.sums

    def finish_sums(self) -> None:
        self._until(self._advance, SUM)

    def _all_gather(self, a: Array, own: Array) -> Any:
        self.sent += (self.size - 1) * own.nbytes
        return self.totals.Iallgatherv(own, [a, self._shares(len(a))])

    def all_gather(self, a: Array) -> None:
        self._complete(PARAMETERS, self._all_gather, a, a[self.share(len(a))].copy())

    def gather(self, own: Array, n: int) -> Array | None:
        whole = np.empty(n, own.dtype) if self.rank == 0 else None
        into = [whole, self._shares(n)] if self.rank == 0 else None
        self._complete("the moments of the other ranks", self.totals.Igatherv, own, into)
        return whole

    def _shares(self, n: int) -> tuple[list[int], list[int]]:
        """Return the lengths and the starts of all ranks' shares of n numbers, as MPI takes them."""
        parts = [share(n, r, self.size) for r in range(self.size)]
        return [p.stop - p.start for p in parts], [p.start for p in parts]

    # ---------------------------------------------------------------------------- control

    def exchange(self, text: str, what: str = "an agreement") -> list[str]:
        data = np.frombuffer(text.encode(), np.uint8)
        lengths = np.empty(self.size, np.int64)
        self._complete(what, self.control.Iallgather, np.array([data.size]), lengths)
        ends = np.cumsum(lengths)
        everything = np.empty(int(ends[-1]), np.uint8)
        starts = (ends - lengths).tolist()
        into = [everything, (lengths.tolist(), starts)]
        self._complete(what, self.control.Iallgatherv, data, into)
        return [
            everything[start:end].tobytes().decode() for start, end in zip(starts, ends.tolist(), strict=True)
        ]

    def any(self, flag: bool) -> bool:
        flags = np.empty(self.size, np.uint8)
        self._complete("the end of a step", self.control.Iallgather, np.array([flag], np.uint8), flags)
        return bool(flags.any())

    def wait(self, done: Callable[[], bool], wait: Callable[[], object]) -> None:
        self._until(done, SUM)

    def _complete(self, what: str, collective: Callable[..., Any], *buffers: Any) -> None:
        """Start a collective operation and wait for its end."""
        with self._talking(what):
            request = collective(*buffers)
        self._until(request.Test, what)

    def _until(self, done: Callable[[], bool], what: str) -> None:
        """Poll `done` until it returns True. Raise RankLost after the deadline, when another rank calls the
        roll, and when MPI reports an error."""
        limit = self.deadline + 10.0 * self.step_seconds + self.patience
        waited, before = 0.0, time.monotonic()
        with self._talking(what):
            while not any(done() for _ in range(BURST)):
                now = time.monotonic()
                waited, before = waited + min(now - before, GAP), now
                timed_out = waited > limit
                if timed_out or (waited > SPIN and self.roll.Iprobe(tag=PRESENT)):
                    raise self._lost(what, waited, timed_out)
                if waited > SPIN:
                    time.sleep(NAP)

    @contextmanager
    def _talking(self, what: str) -> Iterator[None]:
        """Raise RankLost if MPI reports an error."""
        try:
            yield
        except self.mpi.Exception as e:
            raise RankLost(f"MPI failed in {what}: {e}") from e

    def _lost(self, what: str, waited: float, timed_out: bool) -> RankLost:
        """Call all ranks, or answer the call of another; return an error that names those that do not answer.

        Of those that have called, the lowest speaks. One that only answers may be the very rank that was
        missed: a launcher wakes a suspended process when it ends it.
        """
        self.code = EX_TEMPFAIL
        others = [r for r in range(self.size) if r != self.rank]
        called = np.zeros(self.size, np.uint8)
        called[self.rank] = timed_out
        answers = {r: self.roll.Irecv(called[r : r + 1], r, PRESENT) for r in others}
        for r in others:
            self.roll.Isend(called[self.rank : self.rank + 1], r, PRESENT)
        end = time.monotonic() + ROLL_CALL
        present = {self.rank}
        while time.monotonic() < end and len(present) < self.size:
            present |= {r for r in others if r not in present and answers[r].Test()}
            time.sleep(NAP)
        names = [f"rank {r} (on {self.hosts[r]})" if self.hosts else f"rank {r}"
                 for r in others if r not in present]  # fmt: skip
        if names:
            missing = f"{', '.join(names)} did not answer"
        else:
            missing = "every rank answers, but one is slow; choose a longer --deadline"
        message = f"waited {waited:.0f} s for {what}: {missing}"
        return RankLost(message, speaks=self.rank == min(np.flatnonzero(called).tolist(), default=0))

    # -------------------------------------------------------------------------------- end

    def hold_back(self) -> None:
        time.sleep(HOLD_BACK)

    def close(self) -> None:
        self._complete("the end", self.control.Ibarrier)
        self.closed = True
        with alarm(self.deadline + ROLL_CALL):
            self.mpi.Finalize()

    def leave(self, code: int) -> None:
        if not self.closed:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):  # a full disk, or a closed stream
                    stream.flush()
            self.comm.Abort(code or 1)
            os._exit(code or 1)  # where Abort comes back, as it may without a connection to the launcher

    def _end(self) -> None:
        """End all ranks if this one ends without the others, whatever its reason and its exit code."""
        self.leave(self.code)
