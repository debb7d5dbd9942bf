"""A pretend NCCL, and the streams and events of a pretend CUDA, for the pretend GPU. Ranks are threads.

`install` gives the pretend GPU `cuda` and `cuda.nccl`; run ranks with `pretend_mpi.run`. Collectives really
add over the ranks, in an order of their own. What may go wrong on a device goes wrong here every time:

* A collective on a stream that has not waited for all that the current stream has been given fails.
* From its call on, its buffer holds nan. The result is written once the current stream waits for an event
  that was recorded on the stream of the collective after it. Whoever reads the buffer before reads nan.
* Ranks that call collectives in different orders, or with other counts or dtypes, fail.
"""

import ctypes
import sys
import threading
from collections.abc import Callable
from itertools import count
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from helpers import fakecuda, fakegpu, pretend_mpi

ID = tuple(range(-64, 64))  # 128 chars, some of them negative, as CuPy returns them
DTYPES = {7: np.dtype("float32"), 8: np.dtype("float64")}  # ncclDataType_t
SUM = 0  # ncclRedOp_t
GPUS = 4  # on the pretend machine


class NcclError(RuntimeError):
    """CuPy's class of this name."""


class _Device(threading.local):
    """What a thread has of CUDA."""

    def __init__(self) -> None:
        self.device, self.given = 0, 0  # the current device; pieces of work that its stream has been given
        self.log: list[tuple] = []  # calls of NCCL, and of what makes the host wait
        self.null, self.streams = Null(), {}
        self.group: list[Callable[[], None]] | None = None
        self.async_error = ""  # what NCCL reports when asked


class Null:
    """The default stream, which does its work at once."""

    ptr = 0

    def position(self) -> int:
        return here.given

    def wait_event(self, event: "Event") -> None:
        event.reach()

    def synchronize(self) -> None:
        here.log.append(("synchronize",))


class Stream:
    """Another stream: what it is given is done once somebody waits for it."""

    numbers = count(1)

    def __init__(self, non_blocking: bool = False):
        assert non_blocking, "this stream and the default stream would wait for each other"
        self.ptr, self.seen, self.given, self.ended = next(self.numbers), 0, [], 0
        here.streams[self.ptr] = self

    def position(self) -> int:
        return len(self.given)

    def wait_event(self, event: "Event") -> None:
        assert event.stream is here.null, "waits for an event that no stream has recorded"
        self.seen = max(self.seen, event.place)

    def reach(self, place: int) -> None:
        """Do what was given up to a place."""
        while self.ended < place:
            self.ended += 1
            self.given[self.ended - 1]()


class Event:
    """CuPy's class of this name."""

    def __init__(self, disable_timing: bool = False):
        self.stream, self.place = None, 0

    def record(self, stream: Stream | Null | None = None) -> None:
        self.stream = stream or here.null
        self.place = self.stream.position()

    def reach(self) -> None:
        assert self.stream is not None, "waits for an event that no stream has recorded"
        if self.stream is not here.null:
            self.stream.reach(self.place)

    @property
    def done(self) -> bool:
        self.reach()
        return True

    def synchronize(self) -> None:
        here.log.append(("synchronize",))
        self.reach()


here = _Device()


def _memory(address: int, n: int, datatype: int) -> np.ndarray:
    dtype = DTYPES[datatype]
    return np.frombuffer((ctypes.c_char * (n * dtype.itemsize)).from_address(address), dtype)


class NcclCommunicator:
    """CuPy's class of this name."""

    def __init__(self, ndev: int, commId: tuple, rank: int):
        assert commId == ID and type(commId) is tuple
        self.meeting, self.size, self.rank = pretend_mpi.meeting(), ndev, rank
        self.ended = ""
        self.meeting.wait(self.meeting.come("NcclCommunicator", ndev))
        here.log.append(("connect", ndev, rank, here.device))

    def allReduce(self, sendbuf, recvbuf, count, datatype, op, stream) -> None:
        assert (sendbuf, op) == (recvbuf, SUM)
        here.log.append(("allReduce", count, DTYPES[datatype].name))
        place = _memory(sendbuf, count, datatype)

        def start() -> Callable[[], None]:
            call = self.meeting.come("nccl", ("allReduce", count, datatype, place.copy()))
            place[...] = np.nan

            def end() -> None:
                brought = self._agreed(call)
                place[...] = sum(brought[r][-1] for r in reversed(range(self.size)))

            return end

        self._enqueue(stream, start)

    def broadcast(self, sendbuf, recvbuf, count, datatype, root, stream) -> None:
        assert sendbuf == recvbuf and count > 0
        here.log.append(("broadcast", count, DTYPES[datatype].name, root))
        place = _memory(sendbuf, count, datatype)

        def start() -> Callable[[], None]:
            sent = place.copy() if self.rank == root else None
            call = self.meeting.come("nccl", ("broadcast", root, count, datatype, sent))
            if self.rank != root:
                place[...] = np.nan

            def end() -> None:
                place[...] = self._agreed(call)[root][-1]

            return end

        self._enqueue(stream, start)

    def _enqueue(self, stream: int, start: Callable[[], Callable[[], None]]) -> None:
        assert not self.ended, f"used after {self.ended}()"

        def enqueue() -> None:
            s = here.streams[stream]
            assert s.seen == here.given, "the stream has not waited for what the collective reads"
            s.given.append(start())

        if here.group is None:
            enqueue()
        else:
            here.group.append(enqueue)

    def _agreed(self, call) -> dict[int, tuple]:
        brought = self.meeting.wait(call)
        assert len({b[:-1] for b in brought.values()}) == 1, f"the ranks differ: {brought}"
        return brought

    def check_async_error(self) -> None:
        assert not self.ended
        if here.async_error:
            raise NcclError(here.async_error)

    def abort(self) -> None:
        self._end("abort")

    def destroy(self) -> None:
        self._end("destroy")

    def _end(self, how: str) -> None:
        if not self.ended:
            here.log.append((how,))
        self.ended = self.ended or how


def group_start() -> None:
    assert here.group is None
    here.log.append(("groupStart",))
    here.group = []


def group_end() -> None:
    here.log.append(("groupEnd",))
    group, here.group = here.group, None
    for enqueue in group:
        enqueue()


def _given(owner: type, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Count calls of a method as work that the current stream is given."""
    method = getattr(owner, name)

    def call(*args, **settings):
        here.given += 1
        return method(*args, **settings)

    monkeypatch.setattr(owner, name, call)


def install(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Give the pretend GPU streams, events and NCCL for threads as ranks; return `cuda.nccl`."""
    pretend_mpi.install(monkeypatch)
    in_place = [f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "pow", "and", "or", "xor")]
    for name in ("__init__", "__setitem__", *in_place):
        _given(fakegpu.DeviceArray, name, monkeypatch)
    launch, turn = fakecuda.RawModule._launch, threading.Lock()

    def one_at_a_time(*args) -> None:  # all launches of a source share the threads of a block
        here.given += 1
        with turn:
            launch(*args)

    monkeypatch.setattr(fakecuda.RawModule, "_launch", one_at_a_time)
    nccl = ModuleType("fakegpu.cuda.nccl")
    nccl.available, nccl.NCCL_FLOAT32, nccl.NCCL_FLOAT64, nccl.NCCL_SUM = True, 7, 8, SUM
    nccl.get_unique_id, nccl.groupStart, nccl.groupEnd = lambda: ID, group_start, group_end
    nccl.NcclCommunicator, nccl.NcclError = NcclCommunicator, NcclError

    class Device:
        compute_capability = "90"

        def __init__(self, id: int | None = None):
            self.id = here.device if id is None else id

        def use(self) -> None:
            here.device = self.id

    cuda = SimpleNamespace(
        nccl=nccl,
        Stream=Stream,
        Event=Event,
        Device=Device,
        get_current_stream=lambda: here.null,
        runtime=SimpleNamespace(
            getDeviceCount=lambda: GPUS, deviceGetPCIBusId=lambda device: f"0000:{device:02}:00.0"
        ),
    )
    monkeypatch.setattr(fakegpu.xp, "cuda", cuda, raising=False)
    monkeypatch.setitem(sys.modules, nccl.__name__, nccl)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))  # for whoever chooses a GPU
    return nccl
