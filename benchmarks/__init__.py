"""Compare minigam with PyTorch, JAX, HIPS autograd and the matrix products; run in the project's folder.

    python -m benchmarks.train_step   one training step: time and peak memory, against all competitors
    python -m benchmarks.threads      each compiled kernel with 1 and 2 threads: bytes, operations, GB/s
    python -m benchmarks.scaling      one training step against the length of the text
    python -m benchmarks.generate     tokens per second against the position, for ten thousand tokens
    python -m benchmarks.gpu          the same step, and the paper's table 2, on a CUDA device
    python -m benchmarks.device       everything on a CUDA device: tests, training, times; in minutes
    python -m benchmarks.redraw       the stored plots again, from the stored numbers
    python -m benchmarks.environment  one line about the machine, which heads every result

They need `pip install -e '.[bench]'`, write into benchmarks/results/NAME, and are never imported by minigam.
"""

import minigam.threads  # noqa: F401  before NumPy, so that the kernels use all cores
