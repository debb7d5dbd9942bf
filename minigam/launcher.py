"""Which MPI launcher started this process, as its environment says. Imported before NumPy, and before MPI."""

import os
import re
from typing import NamedTuple


class Place(NamedTuple):
    """The place of this process among those that were launched together."""

    rank: int  # 0 .. size - 1
    size: int  # ranks on all machines
    neighbours: int  # ranks on this machine, this one included
    local_rank: int  # 0 .. neighbours - 1, of those on this machine


# The variables of (rank, size, ranks on this machine, rank among these)
VARIABLES = (
    (  # Open MPI
        "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
    ),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS", "MPI_LOCALRANKID"),  # MPICH, Intel MPI, MVAPICH
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE", "SLURM_LOCALID"),  # srun
)  # fmt: skip


def rank() -> int:
    """Return the number of this process among those that were launched together; 0 without a launcher."""
    launched = place()
    return 0 if launched is None else launched.rank


def place() -> Place | None:
    """Return the place that a launcher gave this process; None for a process started without one."""
    for names in VARIABLES:
        rank, size, neighbours, local_rank = (_number(name) for name in names)
        if rank is not None and size is not None and rank < size:
            # srun --mpi=pmi2 sets the first two of MPICH's variables, and all of its own.
            _, _, of_srun, local_of_srun = map(_number, VARIABLES[-1])
            neighbours = neighbours or of_srun or size
            local_rank = local_of_srun if local_rank is None else local_rank
            return Place(rank, size, neighbours, rank % neighbours if local_rank is None else local_rank)
    return None


def _number(variable: str) -> int | None:
    """Return the number that a variable of the environment holds, or the 2 of 2(x3),1; None for no number."""
    number = re.fullmatch(r"(\d{1,9})([(,].*)?", os.environ.get(variable, ""), re.ASCII)
    return int(number[1]) if number else None
