"""The paper's baseline: a pre-norm Transformer, with attention written by hand."""

from typing import Any

import numpy as np

from minigam.config import TransformerConfig
from minigam.engine.backend import xp_of
from minigam.engine.sequence import causal_attention
from minigam.engine.tensor import Array, Tensor
from minigam.models.lm import LanguageModel
from minigam.models.nn import Dropout, FeedForward, LayerNorm, Linear, MaskCounter, Module


class Attention(Module):
    """Causal multi-head attention: one Linear for queries, keys and values, one for the output."""

    def __init__(self, config: TransformerConfig, masks: MaskCounter, rng: np.random.Generator):
        C = config.d_model
        self.n_heads, self.p, self.masks = config.n_heads, config.dropout, masks
        self.qkv, self.out = Linear(C, 3 * C, rng), Linear(C, C, rng)
        self.dropout = Dropout(config.dropout, masks)

    def __call__(self, x: Tensor, state: "KeyValueCache | None" = None) -> Tensor:  # (B, T, C) -> (B, T, C)
        qkv = self.qkv(x)
        past = state.advance(qkv.data) if state is not None else None
        drop = {"p": self.p, **self.masks.next_mask()} if self.training and self.p else {}
        y = causal_attention(qkv, past, n_heads=self.n_heads, **drop)
        return self.dropout(self.out.product(y), self.out.bias)


class KeyValueCache:
    """What attention remembers of earlier tokens: all their keys and values."""

    def __init__(self, past: Array):
        self.past = past  # (B, P, 2C), where P grows

    def advance(self, qkv: Array) -> Array:
        """Return the keys and values before `qkv` (B, T, 3C), and remember its own too."""
        past, C = self.past, qkv.shape[-1] // 3
        self.past = xp_of(qkv).concatenate([past, qkv[..., C:]], axis=1)
        return past


class TransformerBlock(Module):
    """x + attention, then x + feed-forward, each after a LayerNorm.

    >>> config = mg.TransformerConfig(d_model=4, n_heads=2)
    >>> block = mg.TransformerBlock(config, mg.nn.MaskCounter(0), np.random.default_rng(0))
    >>> block(mg.Tensor(np.ones((1, 5, 4)))).shape
    (1, 5, 4)
    """

    def __init__(self, config: TransformerConfig, masks: MaskCounter, rng: np.random.Generator):
        C = config.d_model
        self.norm1, self.norm2 = LayerNorm(C), LayerNorm(C)
        self.attention = Attention(config, masks, rng)
        self.feed = FeedForward(C, 4 * C, config.dropout, masks, rng)

    @staticmethod
    def count_parameters(config: Any) -> int:
        """Return the number of parameters of a block of this configuration."""
        C = config.d_model
        attention = 4 * C * C + 4 * C
        return attention + 4 * C + FeedForward.count_parameters(C, 4 * C)

    def __call__(self, x: Tensor, state: KeyValueCache | None = None) -> Tensor:  # (B, T, C) -> (B, T, C)
        x = x + self.attention(self.norm1(x), state)
        return x + self.feed(self.norm2(x))

    def new_state(self, batch: int) -> KeyValueCache:
        """Return the state before the first token: nothing remembered."""
        weight = self.attention.out.weight
        return KeyValueCache(xp_of(weight.data).zeros((batch, 0, 2 * weight.shape[0]), dtype=weight.dtype))


class Transformer(LanguageModel):
    """The paper's baseline: every output depends on all tokens up to it, at quadratic cost.

    >>> config = mg.TransformerConfig(vocab_size=9, block_size=8, d_model=4, n_layers=1, n_heads=2)
    >>> transformer = mg.Transformer(config)
    >>> transformer(np.array([[1, 2, 3]])).shape, transformer.reach
    ((1, 3, 9), None)
    """

    Block, Config = TransformerBlock, TransformerConfig
    config: TransformerConfig
