"""How many threads compute on the CPU. Imported before NumPy: OpenBLAS reads its settings when it is loaded.

After a matrix product OpenBLAS's threads spin for some milliseconds, in case there is another one. They keep
a core from everything else: from the C kernels of the engine, and from other processes. The least
OPENBLAS_THREAD_TIMEOUT ends that. Under an MPI launcher the ranks of a machine share its cores.
"""

import os
import sys

from minigam import launcher

WAIT = "OPENBLAS_THREAD_TIMEOUT"  # a power of two, of processor cycles
COUNTS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def cores() -> int:
    """Return how many cores this process may use: those that a launcher has bound it to, else its share of
    those that the launcher itself may use."""
    place = launcher.place()
    neighbours = place.neighbours if place is not None else 1
    if not hasattr(os, "sched_getaffinity"):
        return max(1, (os.cpu_count() or 1) // neighbours)
    own = len(os.sched_getaffinity(0))
    if neighbours == 1 or own * neighbours <= len(os.sched_getaffinity(os.getppid())):  # the launcher's cores
        return own
    return max(1, own // neighbours)


if "numpy" not in sys.modules:
    os.environ.setdefault(WAIT, "4")
    if launcher.place() is not None and not any(name in os.environ for name in COUNTS):
        os.environ |= dict.fromkeys(COUNTS, str(cores()))
    FREE = True
else:
    FREE = WAIT in os.environ  # what was set before NumPy was loaded


def count() -> int:
    """Return how many threads the kernels use: as many as BLAS may use, one if OpenBLAS's spin."""
    if not FREE:
        return 1
    for name in COUNTS[:2]:
        if os.environ.get(name, "").isdecimal():
            return max(1, min(cores(), int(os.environ[name])))
    return cores()
