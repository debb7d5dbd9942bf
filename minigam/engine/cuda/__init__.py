"""Faster rules for CuPy, each of the same contract as its reference, by CUDA kernels of our own.

What makes them faster: one kernel where CuPy's array operations would start many, each of which reads and
writes everything once more; products that read transposed arrays as they lie; and nothing kept that is
quicker to compute again. No rule waits for the device, and none depends on the order in which threads
run, so the same numbers give the same bits. Memory needs no code: CuPy's default allocator is a pool.
Compiled and emulated in the tests, not yet run on a device.
"""

from minigam.engine.cuda import (  # noqa: F401  importing registers the rules  # isort: skip
    attention, cross_entropy, elementwise, embedding, layer_norm, linear, selective_scan, sequence, softmax,
)  # fmt: skip
