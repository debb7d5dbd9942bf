"""Faster rules for NumPy, each of the same contract as its reference.

What makes them faster: a few rows at a time, so that what is between stays in the cache; in place, so
that fewer large arrays are asked for; sums as products with ones, which BLAS does; and nothing kept but
what backward reads. Python stays single-threaded: BLAS uses the cores.
"""

from minigam.engine.cpu import attention, ops, selective_scan, sequence  # noqa: F401  importing registers the rules
