"""Comparisons of minigam with PyTorch, HIPS autograd and its own lower bound; run from the project's folder.

    python -m benchmarks.train_step   one training step: time and peak memory, against every rival
    python -m benchmarks.scaling      one training step against the length of the text
    python -m benchmarks.generate     tokens a second against the position, for ten thousand tokens
    python -m benchmarks.gpu          the same step, and the paper's table 2, on a CUDA device
    python -m benchmarks.environment  what computes here, one line, which stands above every result

They need `pip install -e '.[bench]'`, write into benchmarks/results/NAME, and are never imported by minigam.
"""
