"""Generation: read a text part by part, sample the next token, continue the text."""

from typing import TYPE_CHECKING, Any

import numpy as np

from minigam.config import InputError
from minigam.engine import backend
from minigam.engine.tensor import Array, ShapeError, no_grad

if TYPE_CHECKING:
    from minigam.models.lm import LanguageModel


def sample(logits: np.ndarray, temperature: float, top_k: int | None, rng: np.random.Generator) -> np.ndarray:
    """Draw one id per row of logits (B, V): the argmax of logits / temperature + Gumbel noise.

    top_k : exactly so many ids can be drawn; of equal logits those with the lower ids
    Raises InputError for logits of which none can be drawn: nan, or all -infinity.
    """
    z = logits.astype(np.float64)
    top = z.max(axis=-1, keepdims=True)
    if not np.isfinite(top).all():
        largest = top[~np.isfinite(top)][0]
        raise InputError(f"logits: the largest is {largest}, wanted a number; use a smaller --lr")
    if temperature == 0.0:
        return z.argmax(axis=-1)
    excluded = np.isneginf(z)
    if top_k is not None and top_k < z.shape[-1]:
        np.put_along_axis(excluded, np.argsort(-z, axis=-1, kind="stable")[:, top_k:], True, axis=-1)
    with np.errstate(over="ignore"):  # at most 0: a tiny temperature overflows to -infinity
        z = np.where(excluded, 0.0, z - top) / temperature
    return np.where(excluded, -np.inf, z + rng.gumbel(size=z.shape)).argmax(axis=-1)


class Stream:
    """A decoder: reads a text part by part, and remembers it in one state per block.

    For GAM the state of a block is its last K-1 convolution inputs, and with mixer "written" its slots:
    constant time and memory per token, however long the text.

    The learned positions end at T = block_size. When token T + 1 arrives, the decoder drops the
    oldest T/2 tokens and moves the others to positions 0 .. T/2 - 1. It does so every T/2 tokens.
    The logits always equal those of a full pass over the tokens left; for these, it rereads
    only the last `reach` of them. Where that is all, it reads about two tokens for each one fed.

    >>> config = mg.GAMConfig(vocab_size=9, block_size=8, d_model=4, n_layers=2, n_slots=3)
    >>> stream = mg.Stream(mg.GAM(config).eval())
    >>> for word in (1, 2, 3):
    ...     logits = stream.feed(np.array([[word]]))
    ...
    >>> logits.shape
    (1, 9)
    """

    def __init__(self, model: "LanguageModel", batch: int = 1):
        self.model = model
        self.tokens = np.zeros((batch, 0), dtype=np.int64)  # the window, at most T
        self.states: list = []
        self._restart()

    def _restart(self) -> None:
        self.states = [block.new_state(len(self.tokens)) for block in self.model.blocks]
        self.read = 0  # number of tokens of the window that the states include

    def feed(self, ids: Array) -> np.ndarray:
        """Read ids (B, n), n >= 1; return the logits (B, V) after the last token, on the host.

        Raises ShapeError, TypeError or ValueError for ids that cannot be read. After any error, Ctrl-C
        included, the decoder is as if it had not been given these ids.
        """
        T = self.model.config.block_size
        ids, before = backend.to_numpy(self.model.checked(ids)).astype(np.int64), self.tokens
        if len(ids) != len(before):
            raise ShapeError(f"ids: {ids.shape}, wanted ({len(before)}, n), as many rows as before")
        self.tokens = np.concatenate([before, ids], axis=1)
        over = self.tokens.shape[1] - T
        if over > 0:
            half = max(1, T // 2)
            self.tokens = self.tokens[:, -(-over // half) * half :]
            self._restart()
            self.read = max(0, self.tokens.shape[1] - (self.model.reach or T))
        try:
            with no_grad():
                logits = self.model(self.tokens[:, self.read :], self.states, start=self.read)
        except BaseException:  # some blocks may have read on: the next feed reads the window again
            self.tokens = before
            self._restart()
            raise
        self.read = self.tokens.shape[1]
        return backend.to_numpy(logits.data[:, -1])


def continued(
    model: "LanguageModel", tokenizer: Any, ids: list[int], n: int = 300, temperature: float = 0.8,
    top_k: int | None = None, seed: int = 0, progress: bool = False,
) -> tuple[list[int], int | None]:  # fmt: skip
    """Return ids continued by at most n sampled tokens, and the token that ended the text, or None.

    A story or a document ends when the model samples the end token.
    """
    from tqdm import tqdm  # here: a model alone does not need tqdm

    ids = list(ids)
    sampled = model.continuation(np.array([ids]), n, temperature, top_k, seed)
    for new in tqdm(sampled, total=n, unit="token", leave=False, delay=2, disable=None if progress else True):
        if new[0] == tokenizer.end:
            return ids, int(new[0])
        ids.append(int(new[0]))
    return ids, None


def first_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Return the ids that sampling starts from. A story or document follows the end token of another."""
    if tokenizer.end is not None:
        return [tokenizer.end, *tokenizer.encode(prompt)]
    ids = tokenizer.encode(prompt) if prompt else tokenizer.encode("\n", strict=False)
    if not ids:
        raise InputError("--prompt is empty, wanted a text to continue")
    return ids
