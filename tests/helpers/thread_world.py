"""Ranks that are threads of this process, to test training on several ranks without MPI.

Each thread has its own model and optimizer. They meet at a barrier: a rank that fails breaks it, and one that
waits too long gives up, so no test hangs.
"""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, TypeVar

import numpy as np

from minigam.engine.backend import to_numpy, xp_of
from minigam.engine.tensor import Array
from minigam.training.ranks.world import RankLost, World, tree_sum

Result = TypeVar("Result")
SECONDS = 30.0  # to wait for another rank


@dataclass
class Hall:
    """Where the ranks meet: the barrier, and a place for what each of them brings."""

    size: int
    seconds: float = SECONDS
    brought: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.size, timeout=self.seconds)
        self.brought = [None] * self.size


class ThreadWorld(World):
    """One of the threads, as `MPIWorld` is one of the processes: sums are started now and done later, each
    rank adds its share, and the order is that of the tree.

    calls : the methods that this rank has called, each with what has to be the same on every rank
    Raises AssertionError, on every rank, when they do not all call the same method.
    """

    def __init__(self, rank: int, hall: Hall):
        self.rank, self.size, self.hall = rank, hall.size, hall
        self.sent, self.closed, self.left = 0, False, None
        self.calls: list[tuple] = []
        self.started: list[tuple[Array, Array]] = []  # an array that will be the sum, and what was in it

    def _met(self, call: tuple, brings: Any) -> list[Any]:
        """Meet the others in this call; return what each rank brings."""
        self.calls.append(call)
        try:
            self.hall.brought[self.rank] = call, brings
            self.hall.barrier.wait()
            everything = list(self.hall.brought)
            self.hall.barrier.wait()  # nobody brings the next before all have read this
        except threading.BrokenBarrierError as e:
            raise RankLost(f"rank {self.rank}: not all came to {call}") from e
        calls = [c for c, _ in everything]
        assert calls == [calls[0]] * self.size, f"the ranks call different methods: {calls}"
        return [b for _, b in everything]

    def start_sum(self, a: Array) -> None:
        assert a.ndim == 1
        self.calls.append(("start_sum", a.shape, a.dtype.str))
        self.started.append((a, to_numpy(a).copy()))
        a[...] = math.nan  # nobody may read or change it until the sum is there
        self.sent += (a.size - len(a[self.share(len(a))])) * a.dtype.itemsize

    def finish_sums(self) -> None:
        started, self.started = self.started, []
        shapes = tuple((a.shape, a.dtype.str) for a, _ in started)
        brought = self._met(("finish_sums", shapes), [given for _, given in started])
        for (a, _), given in zip(started, zip(*brought, strict=True), strict=True):
            own = tree_sum(np.stack([g[self.share(len(a))] for g in given]))
            a[self.share(len(a))] = xp_of(a).asarray(own)
            self.all_gather(a)

    def all_gather(self, a: Array) -> None:
        own = to_numpy(a[self.share(len(a))]).copy()
        self.sent += (self.size - 1) * own.nbytes
        a[...] = xp_of(a).asarray(np.concatenate(self._met(("all_gather", a.shape), own)))

    def gather(self, own: Array, n: int) -> Array | None:
        assert len(own) == len(range(n)[self.share(n)])
        parts = self._met(("gather", n), to_numpy(own).copy())
        return xp_of(own).asarray(np.concatenate(parts)) if self.rank == 0 else None

    def exchange(self, text: str, what: str = "an agreement") -> list[str]:
        assert isinstance(text, str)
        return self._met(("exchange",), text)

    def any(self, flag: bool) -> bool:
        return any(self._met(("any",), bool(flag)))

    def close(self) -> None:
        self._met(("close",), None)
        self.closed = True

    def leave(self, code: int) -> None:
        if not self.closed:
            self.left = code
            self.hall.barrier.abort()


def run_ranks(n: int, f: Callable[[ThreadWorld], Result], seconds: float = SECONDS) -> list[Result]:
    """Call f(world) in n threads, one for each rank; return the results in the order of the ranks. Raises the
    first error of any rank, and AssertionError unless all have called the same methods in the same order."""
    hall, lock = Hall(n, seconds), threading.Lock()
    worlds, results = [ThreadWorld(rank, hall) for rank in range(n)], {}
    errors: list[BaseException] = []

    def run(world: ThreadWorld) -> None:
        try:
            results[world.rank] = f(world)
        except BaseException as e:
            with lock:
                errors.append(e)
            hall.barrier.abort()

    threads = [threading.Thread(target=run, args=(w,), daemon=True, name=f"rank {w.rank}") for w in worlds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(4 * seconds)
    if errors:
        raise errors[0]
    assert len(results) == n, f"of {n} ranks these have ended: {sorted(results)}"
    for world in worlds:
        assert world.calls == worlds[0].calls, f"rank {world.rank} calls other methods than rank 0"
    for world in worlds:
        assert not world.started, f"rank {world.rank} has not finished its sums"
    return [result for _, result in sorted(results.items(), key=itemgetter(0))]


def ended(f: Callable[[], Result]) -> Result | BaseException:
    """Return what f returns, or the error it raises, for a test of what each rank does."""
    try:
        return f()
    except (Exception, SystemExit) as e:
        return e
