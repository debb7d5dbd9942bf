"""Which MPI launcher started this process, as its environment says. Imported before NumPy, and before MPI."""

import os
import re
from typing import NamedTuple


class Place(NamedTuple):
    """The place of this process among those that were launched together."""

    rank: int  # 0 .. size - 1
    size: int  # ranks on all machines
    neighbours: int  # ranks on this machine, this one included


# The variables of (rank, size, ranks on this machine)
VARIABLES = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"),  # Open MPI
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS"),  # MPICH, Intel MPI, MVAPICH
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE"),  # srun; the last as in 2(x3),1
)


def rank() -> int:
    """Return the number of this process among those that were launched together; 0 without a launcher."""
    launched = place()
    return 0 if launched is None else launched.rank


def place() -> Place | None:
    """Return the place that a launcher gave this process; None for a process started without one."""
    for names in VARIABLES:
        texts = [re.match(r"\d+", os.environ.get(name, "")) for name in names]
        if texts[0] is None or texts[1] is None:
            continue
        rank, size = int(texts[0][0]), int(texts[1][0])
        neighbours = int(texts[2][0]) if texts[2] is not None else size
        if 0 <= rank < size and neighbours > 0:
            return Place(rank, size, neighbours)
    return None
