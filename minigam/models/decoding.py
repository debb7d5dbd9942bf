"""Streaming generation: read a text part by part, sample the next token, write a text."""

from typing import TYPE_CHECKING, Any

import numpy as np

from minigam.config import InputError
from minigam.engine import backend
from minigam.engine.tensor import Array, no_grad

if TYPE_CHECKING:
    from minigam.models.lm import LanguageModel


def sample(logits: np.ndarray, temperature: float, top_k: int | None, rng: np.random.Generator) -> np.ndarray:
    """Draw one id from each row of logits (B, V): the argmax of logits / temperature + Gumbel noise."""
    z = logits.astype(np.float64)
    if temperature == 0.0:
        return z.argmax(axis=-1)
    if top_k is not None and top_k < z.shape[-1]:
        kth = np.partition(z, -top_k, axis=-1)[:, -top_k, None]
        z = np.where(z >= kth, z, -np.inf)
    z = (z - z.max(axis=-1, keepdims=True)) / temperature  # at most 0: a tiny temperature overflows to -inf
    return (z + rng.gumbel(size=z.shape)).argmax(axis=-1)


class Stream:
    """Read a text part by part, remembering only what the blocks' states hold.

    For GAM a state is the K-1 latest convolution inputs of each block: constant time and
    memory a token, however long the text.

    The learned positions end at T = block_size. When token T + 1 comes, the model forgets the
    oldest T/2 tokens and reads on with the others at positions 0 .. T/2 - 1, and again each T/2
    tokens. What it answers is always what a full pass over that window would answer; GAM needs
    only the last `reach` tokens of the window to get there.
    """

    def __init__(self, model: "LanguageModel", batch: int = 1):
        self.model = model
        self.tokens = np.zeros((batch, 0), dtype=np.int64)  # the window, at most T
        self.states: list = []
        self._restart()

    def _restart(self) -> None:
        self.states = [block.new_state(len(self.tokens)) for block in self.model.blocks]
        self.read = 0  # how many tokens of the window the states have seen

    def feed(self, ids: Array) -> np.ndarray:
        """Read ids (B, n), n >= 1; return the logits (B, V) that follow the last, on the host."""
        T = self.model.config.block_size
        ids = backend.to_numpy(self.model.checked(ids)).astype(np.int64)
        self.tokens = np.concatenate([self.tokens, ids], axis=1)
        over = self.tokens.shape[1] - T
        if over > 0:
            half = max(1, T // 2)
            self.tokens = self.tokens[:, -(-over // half) * half :]
            self._restart()
            self.read = max(0, self.tokens.shape[1] - (self.model.reach or T))
        with no_grad():
            logits = self.model(self.tokens[:, self.read :], self.states, start=self.read)
        self.read = self.tokens.shape[1]
        return backend.to_numpy(logits.data[:, -1])


def continued(
    model: "LanguageModel", tokenizer: Any, ids: list[int], n: int = 300, temperature: float = 0.8,
    top_k: int | None = None, seed: int = 0, progress: bool = False,
) -> tuple[list[int], int | None]:  # fmt: skip
    """Return ids and at most n sampled tokens more; then the token that ended the text, None if none did.

    A story or a document ends where the model ends it.
    """
    from tqdm import tqdm  # here, so that a model alone needs none

    ids = list(ids)
    sampled = model.continuation(np.array([ids]), n, temperature, top_k, seed)
    for new in tqdm(sampled, total=n, unit="token", leave=False, delay=2, disable=None if progress else True):
        if new[0] == tokenizer.end:
            return ids, int(new[0])
        ids.append(int(new[0]))
    return ids, None


def first_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Return the ids that sampling begins with: before a story or a document stands the end of another."""
    if tokenizer.end is not None:
        return [tokenizer.end, *tokenizer.encode(prompt)]
    ids = tokenizer.encode(prompt) if prompt else tokenizer.encode("\n", strict=False)
    if not ids:
        raise InputError("nothing to begin with; give a --prompt")
    return ids
