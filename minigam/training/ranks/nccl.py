"""The GPUs of the ranks. NCCL adds and gathers what is on them; everything else goes through MPI.

NCCL works on a stream of its own, so that it adds one bucket of gradients while the backward pass computes
the next, and the host waits for neither. Tested against a pretend NCCL, not yet run on a device.
"""

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from minigam.config import InputError
from minigam.engine.backend import to_numpy
from minigam.engine.tensor import Array
from minigam.launcher import Place
from minigam.training.ranks.mpi import PARAMETERS, SUM, MPIWorld, alarm
from minigam.training.ranks.world import DEADLINE, RankLost, share


class NCCLWorld(MPIWorld):
    """The processes of an MPI launcher. After `connect_gpus` each has a GPU of its own.

    All ranks get the same bits from a sum, but NCCL adds in an order of its own, which depends on the number
    of ranks and on how they are connected. That 1, 2, 4 and 8 ranks train the same bits is promised on NumPy
    only.
    The deadline holds where the host waits by `wait`, at the end of each step. It does not hold where CUDA
    lets the host wait, as it does when a device that waits for another has 1,024 launches in its queue.
    """

    def __init__(self, place: Place, deadline: float):
        self.communicator: Any = None
        self.in_use: list[Array] = []  # by the sums under way
        super().__init__(place, deadline)

    # ---------------------------------------------------------------------------- the start

    def choose_gpu(self) -> None:
        """Make the GPU of this rank the current device: the n-th for the n-th rank on this machine. Call this
        before anything uses a GPU. Without CuPy or a GPU it does nothing."""
        try:
            import cupy

            count = cupy.cuda.runtime.getDeviceCount()
        except Exception:  # CuPy raises many types; whoever chooses the backend says why
            return
        if count:
            cupy.cuda.Device(self.hosts[: self.rank].count(self.host) % count).use()

    def find_gpus(self, xp: ModuleType) -> tuple[int, ...]:
        """Return the id by which NCCL connects the GPUs of all ranks.

        Raises InputError, the same on all ranks, if one cannot use NCCL or two have one GPU.
        """
        own: dict[str, Any] = {"problem": "", "gpu": "", "id": []}
        try:
            nccl = binding(xp)
            device = xp.cuda.Device().id
            own["gpu"] = f"{self.host}, {xp.cuda.runtime.deviceGetPCIBusId(device)}"
            if self.rank == 0:
                own["id"] = nccl.get_unique_id()
        except (ImportError, RuntimeError) as e:  # errors of CUDA and of NCCL are RuntimeErrors
            own["problem"] = " ".join(str(e).split())
        facts = [json.loads(text) for text in self.exchange(json.dumps(own))]
        for rank, fact in enumerate(facts):
            if fact["problem"]:
                raise InputError(
                    f"rank {rank} (on {self.hosts[rank]}): several ranks on GPUs need NCCL, which cannot be "
                    f"used ({fact['problem']}); install it (see docs/install.md), or add --backend numpy"
                )
        gpus = [fact["gpu"] for fact in facts]
        for rank, gpu in enumerate(gpus):
            if (first := gpus.index(gpu)) < rank:
                here, there = self.hosts.count(self.hosts[rank]), self.hosts[rank]
                raise InputError(
                    f"ranks {first} and {rank} would share a GPU: {here} ranks run on {there}, which has "
                    "fewer GPUs; start at most one rank per GPU, or add --backend numpy"
                )
        return tuple(facts[0]["id"])

    def connect_gpus(self, xp: ModuleType, unique_id: tuple[int, ...]) -> None:
        """Connect the GPUs of all ranks, and try a sum.

        Raises InputError if this rank fails. The others may then wait for it without a deadline: end all.
        """
        self.nccl, self.current_stream = binding(xp), xp.cuda.get_current_stream
        self.dtypes = {"float32": self.nccl.NCCL_FLOAT32, "float64": self.nccl.NCCL_FLOAT64}
        # The default stream would wait for a stream that is not non-blocking, and that for it.
        self.stream = xp.cuda.Stream(non_blocking=True)
        self.computed, self.summed = (xp.cuda.Event(disable_timing=True) for _ in range(2))
        try:
            with alarm(max(self.deadline, DEADLINE)):
                self.communicator = self.nccl.NcclCommunicator(self.size, unique_id, self.rank)
            ones = xp.ones(1, dtype=np.float32)
            self.start_sum(ones)
            self.finish_sums()
            self.wait(lambda: self.summed.done, self.summed.synchronize)
            if ones.item() != self.size:
                raise RuntimeError(f"the sum of {self.size} ones is {ones.item()}")
        except RankLost:
            raise
        except RuntimeError as e:
            raise InputError(
                f"rank {self.rank} (on {self.host}): NCCL cannot be used ({' '.join(str(e).split())}); "
                "NCCL_DEBUG=INFO in the environment tells more, or use --backend numpy"
            ) from e

    # --------------------------------------------------------------------------------- sums

    def start_sum(self, a: Array) -> None:
        if isinstance(a, np.ndarray):
            return super().start_sum(a)
        with self._communicating(a, SUM) as (address, dtype, stream):
            self.communicator.allReduce(address, address, a.size, dtype, self.nccl.NCCL_SUM, stream)
        own = self.share(len(a))  # the least that a sum has to send; NCCL does not say what it sends
        self.sent += (len(a) + (self.size - 2) * (own.stop - own.start)) * a.dtype.itemsize

    def finish_sums(self) -> None:
        """Let the device, not the host, wait for the sums of device arrays."""
        super().finish_sums()
        if self.in_use:
            self.summed.record(self.stream)
            self.current_stream().wait_event(self.summed)
            self.in_use.clear()  # the memory of an array is reused on the current stream, so after the wait

    def all_gather(self, a: Array) -> None:
        """Let each rank send its share to all others, for shares differ in length."""
        if isinstance(a, np.ndarray):
            return super().all_gather(a)
        with self._communicating(a, PARAMETERS) as (address, dtype, stream):
            self.nccl.groupStart()
            for root in range(self.size):
                part = share(len(a), root, self.size)
                if part.stop > part.start:
                    place = address + part.start * a.dtype.itemsize
                    self.communicator.broadcast(place, place, part.stop - part.start, dtype, root, stream)
            self.nccl.groupEnd()
        own = self.share(len(a))
        self.sent += (self.size - 1) * (own.stop - own.start) * a.dtype.itemsize
        self.finish_sums()

    def gather(self, own: Array, n: int) -> Array | None:
        """Return on rank 0 the array (n) of all ranks' shares, on the host."""
        return super().gather(to_numpy(own), n)

    @contextmanager
    def _communicating(self, a: Array, what: str) -> Iterator[tuple[int, int, int]]:
        """Let the communication stream wait for all that the current stream has been given, so that `a` is
        computed. Yield the address and the dtype of `a`, and the stream, as NCCL takes them."""
        self.computed.record(self.current_stream())
        self.stream.wait_event(self.computed)
        self.in_use.append(a)
        with self._failing(what):
            yield a.data.ptr, self.dtypes[a.dtype.name], self.stream.ptr

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        """Raise RankLost if NCCL reports an error."""
        try:
            yield
        except self.nccl.NcclError as e:
            self._abort()
            raise RankLost(f"NCCL failed in {what}: {e}") from e

    # ---------------------------------------------------------------------- deadline and end

    def wait(self, done: Callable[[], bool], wait: Callable[[], object]) -> None:
        def ended() -> bool:
            self.communicator.check_async_error()  # such as a rank that has gone, or a broken connection
            return done()

        with self._failing(SUM):
            self._until(ended, SUM)

    def _lost(self, what: str, waited: float, timed_out: bool) -> RankLost:
        error = super()._lost(what, waited, timed_out)
        self._abort()
        return error

    def close(self) -> None:
        super().close()
        if self.communicator is not None:
            self.communicator.destroy()

    def leave(self, code: int) -> None:
        if not self.closed:
            self._abort()
        super().leave(code)

    def _abort(self) -> None:
        """End NCCL's kernels, which otherwise wait for another rank for ever, and this process for them."""
        if self.communicator is not None:
            self.communicator.abort()


def binding(xp: ModuleType) -> ModuleType:
    """Return CuPy's binding of NCCL. Raises ImportError if there is none, or NCCL itself is missing."""
    with warnings.catch_warnings(record=True) as caught:  # by which CuPy says that NCCL is missing
        warnings.simplefilter("always")
        nccl = import_module(f"{xp.__name__}.cuda.nccl")
    if not nccl.available:
        raise ImportError(str(caught[0].message) if caught else f"{xp.__name__} is built without it")
    return nccl
