"""What happens inside a GAM while it reads: gates, shares of the slots, and the words that excite them."""

from dataclasses import dataclass

import numpy as np

from minigam import backend, ops
from minigam.lm import GAM
from minigam.tensor import no_grad


@dataclass(frozen=True)
class BlockView:
    """What one block computed for every token; None where its mixer has no such part.

    local_gate, global_gate : (B, T, C)   sigmoid(g_local) and sigmoid(g_global)   E6-E7
    shares                  : (B, T, S)   a, how much each slot answers            E4
    """

    local_gate: np.ndarray | None
    global_gate: np.ndarray | None
    shares: np.ndarray | None


def views(model: GAM, ids) -> tuple[np.ndarray, list[BlockView]]:
    """Read ids (B, T); return the logits (B, T, V) and one view a block, on the host, without dropout."""
    found, C = [], model.config.d_model
    was_training = model.training
    model.eval()
    try:
        with no_grad():
            for block, u in zip(model.blocks, _inputs(model, ids), strict=True):
                local_gate = global_gate = shares = None
                if block.mixer == "gated":
                    gate = ops.sigmoid(block.gate(u)).data
                    local_gate, global_gate = (backend.to_numpy(g) for g in (gate[..., :C], gate[..., C:]))
                if block.mixer != "local":
                    shares = ops.softmax(ops.linear(u, block.memory)).numpy()
                found.append(BlockView(local_gate, global_gate, shares))
            return model(ids).numpy(), found
    finally:
        model.train(was_training)


def _inputs(model: GAM, ids) -> list:
    """Return u of E1 for every block, (B, T, C) each."""
    seen: list = []
    for block in model.blocks:
        mix = block.mix

        def watched(u, state, mix=mix):
            seen.append(u)
            return mix(u, state)

        block.mix = watched
    try:
        model(ids)
    finally:
        for block in model.blocks:
            del block.mix
    return seen


def exciting_tokens(shares: np.ndarray, ids: np.ndarray, n_tokens: int, least: int = 3) -> np.ndarray:
    """Return how much each slot answers to each token of the vocabulary, on average: (S, V).

    shares : (B, T, S)   of one block
    ids    : (B, T)      what was read; negative places are left out
    least  : a token that came less often has nan, as its mean says little
    """
    S = shares.shape[-1]
    known = ids.reshape(-1) >= 0
    seen, a = ids.reshape(-1)[known], shares.reshape(-1, S)[known]
    count = np.bincount(seen, minlength=n_tokens)
    total = np.zeros((n_tokens, S))
    np.add.at(total, seen, a)
    mean = np.full((n_tokens, S), np.nan)
    often = count >= least
    mean[often] = total[often] / count[often, None]
    return mean.T
