"""CuPy's binding of NCCL, by MPI: with more ranks than one they must be processes of an MPI launcher."""

import ctypes

import numpy as np

available, NCCL_FLOAT32, NCCL_FLOAT64, NCCL_SUM = True, 7, 8, 0
DTYPES = {NCCL_FLOAT32: np.dtype("float32"), NCCL_FLOAT64: np.dtype("float64")}


class NcclError(RuntimeError):
    """CuPy's class of this name."""


def get_unique_id() -> tuple[int, ...]:
    return (0,) * 128


def groupStart() -> None:
    pass


def groupEnd() -> None:
    pass


class NcclCommunicator:
    """CuPy's class of this name. Each call waits until it is done."""

    def __init__(self, ndev: int, commId: tuple, rank: int):
        assert (commId, ndev > rank) == (get_unique_id(), True)
        self.ranks = None
        if ndev > 1:
            from mpi4py import MPI

            self.ranks, self.in_place = MPI.COMM_WORLD.Dup(), MPI.IN_PLACE

    def allReduce(self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, stream: int) -> None:
        assert (sendbuf, op) == (recvbuf, NCCL_SUM)
        if self.ranks:
            self.ranks.Allreduce(self.in_place, _memory(recvbuf, count, datatype))

    def broadcast(
        self, sendbuf: int, recvbuf: int, count: int, datatype: int, root: int, stream: int
    ) -> None:
        assert sendbuf == recvbuf
        if self.ranks:
            self.ranks.Bcast(_memory(recvbuf, count, datatype), root)

    def check_async_error(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def destroy(self) -> None:
        pass


def _memory(address: int, n: int, datatype: int) -> np.ndarray:
    dtype = DTYPES[datatype]
    return np.frombuffer((ctypes.c_char * (n * dtype.itemsize)).from_address(address), dtype)
