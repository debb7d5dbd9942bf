"""Faster rules for NumPy, each with the same contract as its reference.

Why they are faster: they work on a few rows at a time, so that intermediate results stay in the cache.
They compute in place, which saves allocations. Sums are products with ones, which BLAS computes. Only
what backward reads is kept. Python stays single-threaded: BLAS uses the cores.
"""

from minigam.engine.cpu import attention, ops, selective_scan, sequence  # noqa: F401  importing registers the rules
