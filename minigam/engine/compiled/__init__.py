"""Faster rules for NumPy, each with the same contract as its reference, written as C kernels.

Why they are faster: one loop on all cores replaces many NumPy operations, each of which would read and
write all data again on one core. Matrix products stay NumPy's. What is faster to recompute than to read is
not kept. No result depends on the number of threads. Where C cannot be compiled the reference rules run.
"""

from minigam.engine.compiled import (  # noqa: F401  importing registers the rules  # isort: skip
    adamw, attention, elementwise, rows, selective_scan, sequence, written_memory,
)  # fmt: skip
