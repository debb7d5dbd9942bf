"""The language model around the blocks: embeddings, head, loss, and generation.

x = Dropout(token_embedding[ids] + position_embedding[0..T-1])
x = block(x) for each of L blocks
logits = LayerNorm(x) E^T,   E the token embedding again (tied)

A Mamba may have an RMSNorm for the LayerNorm, and no position_embedding.
"""

import math
from collections import Counter
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from minigam.config import ModelConfig
from minigam.engine import backend, memory, ops
from minigam.engine.tensor import Array, ShapeError, Tensor
from minigam.models import nn
from minigam.models.decoding import Stream, sample

BLOCK_OBJECTS = 5_000  # bytes of the Python objects of a block, at least


class LanguageModel(nn.Module):
    """What GAM and its baselines share; a subclass sets its block and its configuration.

    Raises InputError for a model that does not fit in memory, before any of it is allocated.

    config  : the hyperparameters of the model
    seed    : determines the initial values and the dropout masks
    backend : "numpy" or "cupy", where the parameters live
    dtype   : float32 to train, float64 to check
    """

    Block: Any  # the class of its blocks, which counts their parameters too
    Config: type[ModelConfig]
    config: ModelConfig

    def __init__(
        self, config: ModelConfig | None = None, *, seed: int = 0, backend: str = "numpy",
        dtype: "np.typing.DTypeLike" = "float32",
    ):  # fmt: skip
        self.config = config = config if config is not None else self.Config()
        self.require_memory(config, bytes_each=8)  # initial values are drawn in float64
        initial, masks = np.random.SeedSequence(seed).spawn(2)
        rng, C = np.random.default_rng(initial), config.d_model
        self.mask_counter = nn.MaskCounter(int(masks.generate_state(1)[0]))
        # The embedding is also the head, so it has the initial values of a head (a Linear).
        bound = 1.0 / math.sqrt(C)
        self.token_embedding = nn.Embedding(nn.uniform(rng, (config.vocab_size, C), bound))
        self.position_embedding = (
            nn.Embedding(config.position_std * rng.standard_normal((config.block_size, C)))
            if config.positions
            else None
        )
        self.dropout = nn.Dropout(config.dropout, self.mask_counter)
        self.blocks = [self.Block(config, self.mask_counter, rng) for _ in range(config.n_layers)]
        self.norm = nn.NORMS[config.norm](C)
        for name, p in self.named_parameters():
            p.name, p.data = name, p.data.astype(dtype)
        self.to(backend)

    @classmethod
    def count_parameters(cls, config: Any) -> int:
        """Return `num_parameters()` of a model of this configuration, computed without making the model."""
        c = config
        rows = c.vocab_size + (c.block_size if c.positions else 0) + nn.NORMS[c.norm].rows
        return rows * c.d_model + c.n_layers * cls.Block.count_parameters(c)

    @classmethod
    def require_memory(
        cls, config: ModelConfig, bytes_each: int, rest: dict[str, int] | None = None, backend: str = "numpy"
    ) -> None:
        """Raise InputError if a model of this configuration does not fit in memory.

        bytes_each : bytes for each parameter
        rest       : bytes of all else that is needed at the same time, by the setting that determines them
        """
        n = cls.count_parameters(config)
        values = {"norm": config.norm, "positions": config.positions} | vars(config)
        without = {  # parameters left if a setting were 1
            name: cls.count_parameters(SimpleNamespace(**values | {name: 1}))
            for name, value in values.items()
            if type(value) is int
        }
        model = n * bytes_each + config.n_layers * BLOCK_OBJECTS
        needs = Counter(rest or {})
        needs[min(without, key=without.__getitem__)] += model
        memory.require_memory(
            f"{config.label} of {memory.brief(n)} parameters", sum(needs.values()),
            f"a smaller {max(needs, key=needs.__getitem__)}", backend,
        )  # fmt: skip

    @property
    def reach(self) -> int | None:
        """The receptive field: how many tokens, the current one included, an output depends on; None: all."""
        return None

    @property
    def xp(self) -> ModuleType:
        """The array library that holds the parameters."""
        return backend.xp_of(self.token_embedding.weight.data)

    def __call__(self, ids: Array, states: list | None = None, start: int = 0) -> Tensor:
        """Return logits (B, T, V) for ids (B, T).

        ids    : integers 0 .. V-1, best on the host, where checking them costs no synchronisation
        states : one state per block, from `block.new_state`, if a text is read in parts
        start  : position of the first token
        Raises ShapeError, TypeError or ValueError for ids that the model cannot read.
        """
        return ops.linear(self.features(ids, states, start), self.token_embedding.weight)  # (B, T, V)

    def features(self, ids: Array, states: list | None = None, start: int = 0) -> Tensor:
        """Return the input of the head, (B, T, C): the whole model but its last matrix product."""
        return self._features(self.here(self.checked(ids)), states, start)

    def _features(self, ids: Array, states: list | None = None, start: int = 0) -> Tensor:
        T, longest = ids.shape[1], self.config.block_size
        if start + T > longest:
            raise ShapeError(f"ids: {T} tokens from position {start}, wanted at most block_size {longest}")
        x = self.token_embedding(ids)  # (B, T, C)
        if self.position_embedding is not None:
            x = x + self.position_embedding.weight[start : start + T]
        x = self.dropout(x)
        for block, state in zip(self.blocks, states or [None] * len(self.blocks), strict=True):
            x = block(x, state)
        return self.norm(x)

    def here(self, ids: Array) -> Array:
        """Move ids, or targets, to the library of the parameters."""
        return backend.to(ids, self.xp.__name__) if isinstance(ids, np.ndarray) else ids

    def checked(self, ids: Array) -> Array:
        """Check that ids are integers 0 .. V-1; return them as an array. Unchecked, NumPy would count
        negative ids from the end and CuPy would wrap any id: wrong results without an error."""
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
        """Check targets: integers below V, one per id, negative to be ignored. Return them as an array."""
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
        For training: the faster rules compute the gradient too. To evaluate, `token_losses` is cheaper.
        """
        ids = self.checked(ids)
        targets = self.checked_targets(targets, ids)
        if count_targets(targets) == 0:
            raise ValueError("loss: every target is negative, wanted at least one to predict")
        return self.mean_loss(self.here(ids), self.here(targets), start)

    def mean_loss(self, ids: Array, targets: Array, start: int = 0) -> Tensor:
        """Return `loss` of ids and targets that are already checked and on the right device.

        A training step checks and moves its batch once, then computes the loss in parts.
        """
        x = self._features(ids, start=start)
        return ops.linear_cross_entropy(x, self.token_embedding.weight, targets)

    def generate(
        self, ids: Array, n: int, temperature: float = 1.0, top_k: int | None = None, seed: int = 0
    ) -> np.ndarray:
        """Continue `ids` by n sampled tokens; return both together, on the host.

        ids         : (T,) or (B, T) integers; the prompt, at least one token
        temperature : divides the logits; 0 takes the most likely token
        top_k       : sample only among the k most likely tokens
        For texts longer than block_size see `Stream`.
        """
        ids = backend.to_numpy(as_array(ids))
        prompt = self.checked(np.atleast_2d(ids)).astype(np.int64)  # all of it, even what the window drops
        new = [prompt, *(t[:, None] for t in self.continuation(prompt, n, temperature, top_k, seed))]
        tokens = np.concatenate(new, axis=1)
        return tokens if ids.ndim == 2 else tokens[0]

    def continuation(
        self, ids: Array, n: int, temperature: float = 1.0, top_k: int | None = None, seed: int = 0
    ) -> Iterator[np.ndarray]:
        """Yield the tokens that `generate` appends to ids (B, T), one (B,) at a time."""
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
    """Return how many targets count, that is, are not negative."""
    return int((as_array(targets) >= 0).sum())


def as_array(values: Any) -> Array:
    """Unwrap a Tensor, return an array of any library unchanged, convert anything else to NumPy."""
    values = values.data if isinstance(values, Tensor) else values
    return values if backend.owner(values) is not None else np.asarray(values)
