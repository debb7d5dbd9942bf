"""What happens inside a GAM while it reads: gates, slots, the tokens that excite them, sources of recall."""

from dataclasses import dataclass

import numpy as np

from minigam.config import WRITTEN
from minigam.engine import numeric, ops
from minigam.engine.tensor import Array, Tensor, no_grad
from minigam.models.gam import GAM, GAMBlock


@dataclass(frozen=True, eq=False)
class BlockView:
    """What one block computed for every token; None where its mixer has no such part.

    local_gate, global_gate : (B, T, C)   sigmoid(g_local) and sigmoid(g_global)   E6-E7
    shares                  : (B, T, S)   a, the share of each slot in the recall  E4

    Mixer "written", ours, has three more. The recall is a mix of u and M: sources and prior sum to 1.

    written : (B, T, S)   w, the share of each slot that a token is written to   X1
    sources : (B, T, T)   how much of the recall of token t is u of token j: sum_s a_t[s] w_j[s] / n_t[s]
    prior   : (B, T)      how much of it is the learned M: sum_s a_t[s] lambda / n_t[s]

    >>> config = mg.GAMConfig(vocab_size=9, block_size=8, d_model=4, n_layers=2, n_slots=3)
    >>> _, (first, second) = mg.anatomy.views(mg.GAM(config), np.array([[1, 2, 3]]))
    >>> isinstance(first, mg.anatomy.BlockView), bool(np.allclose(first.shares.sum(-1), 1.0))
    (True, True)
    """

    local_gate: np.ndarray | None
    global_gate: np.ndarray | None
    shares: np.ndarray | None
    written: np.ndarray | None = None
    sources: np.ndarray | None = None
    prior: np.ndarray | None = None


def views(model: GAM, ids: Array) -> tuple[np.ndarray, list[BlockView]]:
    """Read ids (B, T); return the logits (B, T, V) and one view per block, on the host, without dropout.

    >>> config = mg.GAMConfig(vocab_size=9, block_size=8, d_model=4, n_layers=2, n_slots=3)
    >>> logits, views = mg.anatomy.views(mg.GAM(config), np.array([[1, 2, 3]]))
    >>> len(views), views[0].shares.shape, views[0].local_gate.shape
    (2, (1, 3, 3), (1, 3, 4))
    """
    was_training = model.training
    model.eval()
    try:
        with no_grad():
            logits, inputs = _read(model, ids)
            return logits.numpy(), [_view(b, u) for b, u in zip(model.blocks, inputs, strict=True)]
    finally:
        model.train(was_training)


def _read(model: GAM, ids: Array) -> tuple[Tensor, list[Tensor]]:
    """Return the logits, and u of E1 for every block, each (B, T, C)."""
    inputs: list = []
    for block in model.blocks:
        mix = block.mix

        def recording(u, state, mix=mix):
            inputs.append(u)
            return mix(u, state)

        block.mix = recording
    try:
        return model(ids), inputs
    finally:
        for block in model.blocks:
            del block.mix


def _view(block: GAMBlock, u: Tensor) -> BlockView:
    C, local_gate, global_gate, shares = u.shape[-1], None, None, None
    if block.mixer in ("gated", WRITTEN):
        gate = ops.sigmoid(block.gate(u)).numpy()
        local_gate, global_gate = gate[..., :C], gate[..., C:]
    if block.mixer != "local":
        shares = ops.softmax(ops.linear(u, block.memory)).numpy()
    if block.mixer != WRITTEN or shares is None:
        return BlockView(local_gate, global_gate, shares)
    w = ops.softmax(ops.linear(block.conv(u), block.memory)).numpy()  # X1
    r = shares / (block.prior + w.cumsum(axis=1))  # a_t / n_t, n_t = lambda + the sum of w up to t   X2
    sources = np.tril(r @ w.swapaxes(1, 2))  # no token recalls a later one
    return BlockView(local_gate, global_gate, shares, w, sources, prior=block.prior * r.sum(axis=-1))


def exciting_tokens(shares: np.ndarray, ids: np.ndarray, n_tokens: int, least: int = 3) -> np.ndarray:
    """Return the mean share of each slot, per token of the vocabulary: (S, V).

    shares : (B, T, S)   of one block
    ids    : (B, T)      the tokens that were read; negative ids are ignored
    least  : a token that occurs less often gets nan, because its mean says little

    >>> shares = np.array([[[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]])
    >>> ids = np.array([[2, 2, 0]])
    >>> mg.anatomy.exciting_tokens(shares, ids, n_tokens=3, least=1).tolist()
    [[0.0, nan, 0.75], [1.0, nan, 0.25]]
    """
    return mean_shares(*share_sums(shares, ids, n_tokens), least)


def share_sums(shares: np.ndarray, ids: np.ndarray, n_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Return, per token, the sum of the shares over its occurrences, (V, S), and how many there are, (V).

    Arguments as in `exciting_tokens`. The sums of several texts can be added before `mean_shares`.

    >>> shares, ids = np.array([[[1.0, 0.0], [0.5, 0.5]]]), np.array([[1, 1]])
    >>> total, count = mg.anatomy.share_sums(shares, ids, n_tokens=2)
    >>> total.tolist(), count.tolist()
    ([[0.0, 0.0], [1.5, 0.5]], [0, 2])
    """
    valid = ids >= 0
    total = numeric.scatter_add(np, n_tokens, ids[valid], shares[valid])
    return total, np.bincount(ids[valid], minlength=n_tokens)


def mean_shares(total: np.ndarray, count: np.ndarray, least: int) -> np.ndarray:
    """Return the means of `share_sums`, (S, V); nan for a token with fewer than `least` occurrences.

    >>> total, count = np.array([[0.0, 0.0], [1.5, 0.5]]), np.array([0, 2])
    >>> mg.anatomy.mean_shares(total, count, least=1).tolist()
    [[nan, 0.75], [nan, 0.25]]
    """
    return np.where(count >= least, total.T / np.maximum(count, 1), np.nan)
