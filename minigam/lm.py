"""The language model around the blocks: embeddings, head, loss, and generation.

x = Dropout(token_embedding[ids] + position_embedding[0..T-1])
x = block(x) for each of L blocks
logits = LayerNorm(x) E^T,   E the token embedding again (tied)
"""

import math
from collections.abc import Iterator

import numpy as np

from minigam import backend, nn, ops
from minigam.config import GAMConfig, MambaConfig, ModelConfig, TransformerConfig
from minigam.gam import GAMBlock
from minigam.mamba import MambaBlock
from minigam.tensor import ShapeError, Tensor, no_grad
from minigam.transformer import TransformerBlock


class LanguageModel(nn.Module):
    """What GAM and its rivals share; a subclass names its block and its configuration.

    config  : the numbers of the model
    seed    : decides the initial values and the dropout masks
    backend : "numpy" or "cupy", where the parameters live
    dtype   : float32 to train, float64 to check
    """

    Block: type
    Config: type

    def __init__(
        self, config: ModelConfig | None = None, *, seed: int = 0, backend: str = "numpy", dtype="float32"
    ):
        self.config = config = config if config is not None else self.Config()
        initial, masks = np.random.SeedSequence(seed).spawn(2)
        rng, C = np.random.default_rng(initial), config.d_model
        self.dropout_stream = nn.DropoutStream(int(masks.generate_state(1)[0]))
        # The embedding is the head too, and takes the head's initial values (a Linear's).
        bound = 1.0 / math.sqrt(C)
        self.token_embedding = nn.Embedding(nn.uniform(rng, (config.vocab_size, C), bound))
        self.position_embedding = nn.Embedding(
            config.position_std * rng.standard_normal((config.block_size, C))
        )
        self.dropout = nn.Dropout(config.dropout, self.dropout_stream)
        self.blocks = [self.Block(config, self.dropout_stream, rng) for _ in range(config.n_layers)]
        self.norm = nn.LayerNorm(C)
        for name, p in self.named_parameters():
            p.name, p.data = name, p.data.astype(dtype)
        self.to(backend)

    @property
    def reach(self) -> int | None:
        """How many tokens, the present one included, an output can depend on; None for all."""
        return None

    @property
    def xp(self):
        """The array library that holds the parameters."""
        return backend.xp_of(self.token_embedding.weight.data)

    def __call__(self, ids, states: list | None = None, start: int = 0) -> Tensor:
        """Return logits (B, T, V) for ids (B, T).

        ids    : integers 0 .. V-1, best on the host, where checking them costs no synchronisation
        states : one state a block, as `block.new_state` makes them, when a text comes in parts
        start  : position of the first token
        Raises ShapeError, TypeError or ValueError for ids the model cannot take.
        """
        return ops.linear(self.features(ids, states, start), self.token_embedding.weight)  # (B, T, V)

    def features(self, ids, states: list | None = None, start: int = 0) -> Tensor:
        """Return what the head reads, (B, T, C): everything above but the last product."""
        ids = self._checked(ids)
        T, longest = ids.shape[1], self.config.block_size
        if start + T > longest:
            raise ShapeError(f"ids: {T} tokens from position {start}, wanted at most block_size {longest}")
        ids = self._here(ids)
        x = self.token_embedding(ids) + self.position_embedding.weight[start : start + T]  # (B, T, C)
        x = self.dropout(x)
        for block, state in zip(self.blocks, states or [None] * len(self.blocks), strict=True):
            x = block(x, state)
        return self.norm(x)

    def _here(self, ids):
        """Return ids held by the library of the parameters."""
        return backend.to(ids, self.xp.__name__) if isinstance(ids, np.ndarray) else ids

    def _checked(self, ids):
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

    def token_losses(self, ids, targets, start: int = 0) -> Tensor:
        """Return the loss of every prediction (B, T), in nats; 0 where the target is negative.

        ids, targets : (B, T)   the target of a token is the token after it
        start        : position of the first token
        """
        return ops.cross_entropy(self(ids, start=start), self._checked_targets(targets))

    def loss(self, ids, targets, start: int = 0) -> Tensor:
        """Return the mean loss in nats over the targets that are not negative, one number.

        start : position of the first token
        Made for training: with the loss comes its gradient. `token_losses` costs less where none is wanted.
        """
        if count_targets(targets) == 0:
            raise ValueError("loss: every target is negative, wanted at least one to predict")
        targets = self._checked_targets(targets)
        return ops.linear_cross_entropy(self.features(ids, start=start), self.token_embedding.weight, targets)

    def _checked_targets(self, targets):
        targets, V = as_array(targets), self.config.vocab_size
        if targets.dtype.kind not in "iu":
            raise TypeError(f"targets: {targets.dtype}, wanted integers")
        if targets.size and int(targets.max()) >= V:
            raise ValueError(f"targets: up to {int(targets.max())}, wanted below vocab_size {V}")
        return self._here(targets)

    def generate(
        self, ids, n: int, temperature: float = 1.0, top_k: int | None = None, seed: int = 0
    ) -> np.ndarray:
        """Continue `ids` by n sampled tokens; return both together, on the host.

        ids         : (T,) or (B, T) integers; the prompt, at least one token
        temperature : divides the logits; 0 takes the most likely token
        top_k       : sample among the k most likely only
        Past block_size tokens see `Stream`.
        """
        ids = backend.to_numpy(as_array(ids))
        prompt = self._checked(np.atleast_2d(ids)).astype(np.int64)  # all, also what no window holds
        new = [prompt, *(t[:, None] for t in self.continuation(prompt, n, temperature, top_k, seed))]
        tokens = np.concatenate(new, axis=1)
        return tokens if ids.ndim == 2 else tokens[0]

    def continuation(
        self, ids, n: int, temperature: float = 1.0, top_k: int | None = None, seed: int = 0
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


class GAM(LanguageModel):
    """Gated Associative Memory (arXiv 2509.00605) as a language model.   E1-E9

    Only the convolution moves information between tokens, so an output sees exactly
    `reach` = 1 + L (K - 1) tokens.
    """

    Block, Config = GAMBlock, GAMConfig

    @property
    def reach(self) -> int:
        c = self.config
        return 1 if c.mixer == "global" else 1 + c.n_layers * (c.kernel_size - 1)


class Transformer(LanguageModel):
    """The paper's baseline: every output sees every token before it, at a cost that grows with the square."""

    Block, Config = TransformerBlock, TransformerConfig


class Mamba(LanguageModel):
    """The paper's second baseline: every output sees every token before it, as far as its states remember."""

    Block, Config = MambaBlock, MambaConfig


def count_targets(targets) -> int:
    """Return how many targets are to be predicted, that is, not negative."""
    return int((as_array(targets) >= 0).sum())


def as_array(values):
    """Return the array in a Tensor, an array of any library as it is, anything else as NumPy's."""
    values = values.data if isinstance(values, Tensor) else values
    return values if backend.owner(values) is not None else np.asarray(values)


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

    def __init__(self, model: LanguageModel, batch: int = 1):
        self.model = model
        self.tokens = np.zeros((batch, 0), dtype=np.int64)  # the window, at most T
        self.states: list = []
        self._restart()

    def _restart(self) -> None:
        self.states = [block.new_state(len(self.tokens)) for block in self.model.blocks]
        self.read = 0  # how many tokens of the window the states have seen

    def feed(self, ids) -> np.ndarray:
        """Read ids (B, n), n >= 1; return the logits (B, V) that follow the last, on the host."""
        T = self.model.config.block_size
        ids = backend.to_numpy(self.model._checked(ids)).astype(np.int64)
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
