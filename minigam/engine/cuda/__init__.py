"""Faster rules for CuPy, each with the same contract as its reference, written as CUDA kernels.

Why they are faster: one kernel replaces many CuPy operations, each of which would read and write all data
again. Matrix products read transposed arrays without copying them. What is faster to recompute is not
kept. No rule waits for the device, and no result depends on the order in which threads run: the same
inputs give the same bits. Memory needs no code, because CuPy's default allocator is already a pool.
The tests compile and emulate the kernels; they have not run on a device yet.
"""

from minigam.engine.cuda import (  # noqa: F401  importing registers the rules  # isort: skip
    attention, cross_entropy, elementwise, embedding, layer_norm, linear, selective_scan, sequence, softmax,
    written_memory,
)  # fmt: skip
