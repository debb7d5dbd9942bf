"""What happens inside a GAM while it reads: gates, shares of the slots, and the words that excite them."""

from dataclasses import dataclass

import numpy as np

from minigam.engine import numeric, ops
from minigam.engine.tensor import Array, Tensor, no_grad
from minigam.models.gam import GAM, GAMBlock


@dataclass(frozen=True, eq=False)
class BlockView:
    """What one block computed for every token; None where its mixer has no such part.

    local_gate, global_gate : (B, T, C)   sigmoid(g_local) and sigmoid(g_global)   E6-E7
    shares                  : (B, T, S)   a, how much each slot answers            E4
    """

    local_gate: np.ndarray | None
    global_gate: np.ndarray | None
    shares: np.ndarray | None


def views(model: GAM, ids: Array) -> tuple[np.ndarray, list[BlockView]]:
    """Read ids (B, T); return the logits (B, T, V) and one view a block, on the host, without dropout."""
    was_training = model.training
    model.eval()
    try:
        with no_grad():
            logits, inputs = _read(model, ids)
            return logits.numpy(), [_view(b, u) for b, u in zip(model.blocks, inputs, strict=True)]
    finally:
        model.train(was_training)


def _read(model: GAM, ids: Array) -> tuple[Tensor, list[Tensor]]:
    """Return the logits, and u of E1 for every block, (B, T, C) each."""
    seen: list = []
    for block in model.blocks:
        mix = block.mix

        def watched(u, state, mix=mix):
            seen.append(u)
            return mix(u, state)

        block.mix = watched
    try:
        return model(ids), seen
    finally:
        for block in model.blocks:
            del block.mix


def _view(block: GAMBlock, u: Tensor) -> BlockView:
    C, local_gate, global_gate, shares = u.shape[-1], None, None, None
    if block.mixer == "gated":
        gate = ops.sigmoid(block.gate(u)).numpy()
        local_gate, global_gate = gate[..., :C], gate[..., C:]
    if block.mixer != "local":
        shares = ops.softmax(ops.linear(u, block.memory)).numpy()
    return BlockView(local_gate, global_gate, shares)


def exciting_tokens(shares: np.ndarray, ids: np.ndarray, n_tokens: int, least: int = 3) -> np.ndarray:
    """Return how much each slot answers to each token of the vocabulary, on average: (S, V).

    shares : (B, T, S)   of one block
    ids    : (B, T)      what was read; negative places are left out
    least  : a token that came less often has nan, as its mean says little
    """
    return mean_shares(*share_sums(shares, ids, n_tokens), least)


def share_sums(shares: np.ndarray, ids: np.ndarray, n_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum of the shares at the places of each token, (V, S), and how many places those are, (V).

    Sums of several texts may be added up before `mean_shares`; arguments as `exciting_tokens` has them.
    """
    known = ids >= 0
    total = numeric.scatter_add(np, n_tokens, ids[known], shares[known])
    return total, np.bincount(ids[known], minlength=n_tokens)


def mean_shares(total: np.ndarray, count: np.ndarray, least: int) -> np.ndarray:
    """Return the means of `share_sums`, (S, V); nan for a token that came less than `least` times."""
    return np.where(count >= least, total.T / np.maximum(count, 1), np.nan)
