"""How many threads compute on the CPU. Imported before NumPy: OpenBLAS reads its settings when it is loaded.

After a matrix product OpenBLAS's threads spin for some milliseconds, in case there is another one. They keep
a core from everything else: from the C kernels of the engine, and from other processes. The least
OPENBLAS_THREAD_TIMEOUT ends that.
"""

import os
import sys

WAIT = "OPENBLAS_THREAD_TIMEOUT"  # a power of two, of processor cycles

if "numpy" not in sys.modules:
    os.environ.setdefault(WAIT, "4")
    FREE = True
else:
    FREE = WAIT in os.environ  # what was set before NumPy was loaded


def count() -> int:
    """Return how many threads the kernels use: as many as BLAS may use, one if OpenBLAS's spin."""
    if not FREE:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        if os.environ.get(name, "").isdecimal():
            return max(1, min(cores, int(os.environ[name])))
    return cores
