"""Models small enough to check number by number."""

import numpy as np

from minigam import GAM, GAMConfig

TINY = {"vocab_size": 7, "block_size": 6, "d_model": 4, "n_layers": 2, "n_slots": 3, "kernel_size": 3}


def randomise(module, seed: int = 0):
    """Make every parameter random; return the module.

    Initial values hide faults: a LayerNorm weight of 1 hides a factor that was left out.
    """
    rng = np.random.default_rng(seed)
    for p in module.parameters():
        p.data = (0.5 * rng.standard_normal(p.shape)).astype(p.dtype)
    return module


def gam(mixer: str = "gated", *, seed: int = 0, dtype: str = "float64", kind: type = GAM, **changes) -> GAM:
    """Return a tiny GAM in eval mode, all of its parameters random."""
    config = GAMConfig(**(TINY | {"mixer": mixer} | changes))
    return randomise(kind(config, dtype=dtype), seed).eval()


def draw_ids(model: GAM, B: int, T: int, seed: int = 1) -> np.ndarray:
    """Return random ids (B, T) that the model can read."""
    return np.random.default_rng(seed).integers(model.config.vocab_size, size=(B, T))


def window(tokens: np.ndarray, T: int) -> np.ndarray:
    """Return the tokens a stream answers from: when T + 1 are there, the oldest T/2 go, again and again."""
    while tokens.shape[1] > T:
        tokens = tokens[:, max(1, T // 2) :]
    return tokens


def sees_all_before_and_none_after(model) -> bool:
    """Return whether changing a token changes all logits from its position on, and none before it."""
    ids = draw_ids(model, 1, model.config.block_size)
    before, T = model(ids).data, ids.shape[1]
    for t in range(T):
        changed = ids.copy()
        changed[0, t] = (changed[0, t] + 1) % model.config.vocab_size
        moved = np.abs(model(changed).data - before).max(axis=-1)[0] > 0.0
        if list(moved) != [False] * t + [True] * (T - t):
            return False
    return True
