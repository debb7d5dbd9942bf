"""The language model around the blocks: embeddings, head, loss, and generation.

x = Dropout(token_embedding[ids] + position_embedding[0..T-1])
x = block(x) for each of L blocks
logits = LayerNorm(x) E^T,   E the token embedding again (tied)
"""

import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from minigam.config import ModelConfig
from minigam.engine import backend, ops
from minigam.engine.tensor import Array, ShapeError, Tensor
from minigam.models import nn
from minigam.models.decoding import Stream, sample


class LanguageModel(nn.Module):
    """What GAM and its rivals share; a subclass names its block and its configuration.

    config  : the numbers of the model
    seed    : decides the initial values and the dropout masks
    backend : "numpy" or "cupy", where the parameters live
    dtype   : float32 to train, float64 to check
    """

    Block: type
    Config: type[ModelConfig]
    config: ModelConfig

    def __init__(
        self, config: ModelConfig | None = None, *, seed: int = 0, backend: str = "numpy",
        dtype: "np.typing.DTypeLike" = "float32",
    ):  # fmt: skip
        self.config = config = config if config is not None else self.Config()
        initial, masks = np.random.SeedSequence(seed).spawn(2)
        rng, C = np.random.default_rng(initial), config.d_model
        self.mask_counter = nn.MaskCounter(int(masks.generate_state(1)[0]))
        # The embedding is the head too, and takes the head's initial values (a Linear's).
        bound = 1.0 / math.sqrt(C)
        self.token_embedding = nn.Embedding(nn.uniform(rng, (config.vocab_size, C), bound))
        self.position_embedding = nn.Embedding(
            config.position_std * rng.standard_normal((config.block_size, C))
        )
        self.dropout = nn.Dropout(config.dropout, self.mask_counter)
        self.blocks = [self.Block(config, self.mask_counter, rng) for _ in range(config.n_layers)]
        self.norm = nn.LayerNorm(C)
        for name, p in self.named_parameters():
            p.name, p.data = name, p.data.astype(dtype)
        self.to(backend)

    @property
    def reach(self) -> int | None:
        """How many tokens, the present one included, an output can depend on; None for all."""
        return None

    @property
    def xp(self) -> ModuleType:
        """The array library that holds the parameters."""
        return backend.xp_of(self.token_embedding.weight.data)

    def __call__(self, ids: Array, states: list | None = None, start: int = 0) -> Tensor:
        """Return logits (B, T, V) for ids (B, T).

        ids    : integers 0 .. V-1, best on the host, where checking them costs no synchronisation
        states : one state a block, as `block.new_state` makes them, when a text comes in parts
        start  : position of the first token
        Raises ShapeError, TypeError or ValueError for ids the model cannot take.
        """
        return ops.linear(self.features(ids, states, start), self.token_embedding.weight)  # (B, T, V)

    def features(self, ids: Array, states: list | None = None, start: int = 0) -> Tensor:
        """Return what the head reads, (B, T, C): everything above but the last product."""
        return self._features(self.here(self.checked(ids)), states, start)

    def _features(self, ids: Array, states: list | None = None, start: int = 0) -> Tensor:
        T, longest = ids.shape[1], self.config.block_size
        if start + T > longest:
            raise ShapeError(f"ids: {T} tokens from position {start}, wanted at most block_size {longest}")
        x = self.token_embedding(ids) + self.position_embedding.weight[start : start + T]  # (B, T, C)
        x = self.dropout(x)
        for block, state in zip(self.blocks, states or [None] * len(self.blocks), strict=True):
            x = block(x, state)
        return self.norm(x)

    def here(self, ids: Array) -> Array:
        """Return ids, or targets, held by the library of the parameters."""
        return backend.to(ids, self.xp.__name__) if isinstance(ids, np.ndarray) else ids

    def checked(self, ids: Array) -> Array:
        """Return ids as an array of integers 0 .. V-1. NumPy takes negative ids for places counted
        from the end and CuPy wraps any, so both would answer nonsense without a word."""
        ids, V = as_array(ids), self.config.vocab_size
        if ids.ndim != 2 or ids.size == 0:
            raise ShapeError(f"ids: {ids.shape}, wanted (B, T), with at least one token")
        if ids.dtype.kind not in "iu":
            raise TypeError(f"ids: {ids.dtype}, wanted integers")
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= V:
            raise ValueError(f"ids: from {low} to {high}, wanted 0 to {V - 1} (vocab_size {V})")
        return ids

    def checked_targets(self, targets: Array, ids: Array) -> Array:
        """Return targets as an array of integers below V, one for each of ids; a negative one is ignored."""
        targets, V = as_array(targets), self.config.vocab_size
        if targets.shape != ids.shape:
            raise ShapeError(f"targets: {targets.shape}, wanted one for each of the ids {ids.shape}")
        if targets.dtype.kind not in "iu":
            raise TypeError(f"targets: {targets.dtype}, wanted integers")
        if targets.size and int(targets.max()) >= V:
            raise ValueError(f"targets: up to {int(targets.max())}, wanted below vocab_size {V}")
        return targets

    def token_losses(self, ids: Array, targets: Array, start: int = 0) -> Tensor:
        """Return the loss of every prediction (B, T), in nats; 0 where the target is negative.

        ids, targets : (B, T)   the target of a token is the token after it
        start        : position of the first token
        """
        targets = self.checked_targets(targets, as_array(ids))
        return ops.cross_entropy(self(ids, start=start), self.here(targets))

    def loss(self, ids: Array, targets: Array, start: int = 0) -> Tensor:
        """Return the mean loss in nats over the targets that are not negative, one number.

        start : position of the first token
        Made for training: with the loss comes its gradient. `token_losses` costs less where none is wanted.
        """
        ids = self.checked(ids)
        targets = self.checked_targets(targets, ids)
        if count_targets(targets) == 0:
            raise ValueError("loss: every target is negative, wanted at least one to predict")
        return self.mean_loss(self.here(ids), self.here(targets), start)

    def mean_loss(self, ids: Array, targets: Array, start: int = 0) -> Tensor:
        """Return what `loss` does, of ids and targets that are checked and here already.

        A training step checks and moves its batch once, and asks for the loss part by part.
        """
        x = self._features(ids, start=start)
        return ops.linear_cross_entropy(x, self.token_embedding.weight, targets)

    def generate(
        self, ids: Array, n: int, temperature: float = 1.0, top_k: int | None = None, seed: int = 0
    ) -> np.ndarray:
        """Continue `ids` by n sampled tokens; return both together, on the host.

        ids         : (T,) or (B, T) integers; the prompt, at least one token
        temperature : divides the logits; 0 takes the most likely token
        top_k       : sample among the k most likely only
        Past block_size tokens see `Stream`.
        """
        ids = backend.to_numpy(as_array(ids))
        prompt = self.checked(np.atleast_2d(ids)).astype(np.int64)  # all, also what no window holds
        new = [prompt, *(t[:, None] for t in self.continuation(prompt, n, temperature, top_k, seed))]
        tokens = np.concatenate(new, axis=1)
        return tokens if ids.ndim == 2 else tokens[0]

    def continuation(
        self, ids: Array, n: int, temperature: float = 1.0, top_k: int | None = None, seed: int = 0
    ) -> Iterator[np.ndarray]:
        """Yield what `generate` adds to ids (B, T), token by token, each (B,)."""
        if n < 0 or not temperature >= 0.0 or (top_k is not None and top_k < 1):
            raise ValueError(
                f"generate: n {n}, temperature {temperature}, top_k {top_k}; wanted n and temperature "
                "at least 0, top_k at least 1"
            )
        rng, stream, new = np.random.default_rng(seed), Stream(self, len(ids)), ids
        for _ in range(n):
            was_training = self.training
            self.eval()
            try:
                logits = stream.feed(new)
            finally:
                self.train(was_training)
            chosen = sample(logits, temperature, top_k, rng)
            yield chosen
            new = chosen[:, None]


def count_targets(targets: Array) -> int:
    """Return how many targets are to be predicted, that is, not negative."""
    return int((as_array(targets) >= 0).sum())


def as_array(values: Any) -> Array:
    """Return the array in a Tensor, an array of any library as it is, anything else as NumPy's."""
    values = values.data if isinstance(values, Tensor) else values
    return values if backend.owner(values) is not None else np.asarray(values)
