"""A model and a batch for the tests of training steps."""

import numpy as np

from minigam import GAM, GAMConfig


def tiny(dropout=0.0, dtype="float64", seed=0, mixer="gated") -> GAM:
    sizes = {"vocab_size": 11, "block_size": 8, "d_model": 8, "n_layers": 2, "n_slots": 4}
    config = GAMConfig(**sizes, dropout=dropout, mixer=mixer)
    return GAM(config, dtype=dtype, seed=seed)


def batch(seed=0, rows=6, ignored=0.3):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 11, (rows, 8))
    targets[rng.random(targets.shape) < ignored] = -1
    targets[-1] = -1  # a row without any target
    return rng.integers(0, 11, (rows, 8)), targets
