"""GAM: the model and its block. A gate fuses convolution (local context) and memory (global context)."""

from typing import Any, cast

import numpy as np

from minigam.config import WRITTEN, GAMConfig
from minigam.engine.sequence import associative_memory, gated_fusion, written_memory
from minigam.engine.tensor import Array, Tensor
from minigam.models.lm import LanguageModel

from minigam.models.nn import (  # isort: skip
    BlockState, CausalConv, FeedForward, LayerNorm, Linear, MaskCounter, Module, Parameter, xavier_uniform,
)  # fmt: skip


class GAMBlock(Module):
    """x + gate(local_context, global_context), then x + feed-forward.   E1-E9

    `config.mixer` omits parts, as in the paper's ablation: "sum" adds the two contexts without
    a gate, "local" and "global" keep only one of them. Unused parts are not created.
    "written" is not in the paper: the parts and the gate of "gated", but the text writes the memory.   X1-X5

    >>> config = mg.GAMConfig(d_model=4, n_slots=3, kernel_size=2)
    >>> block = mg.GAMBlock(config, mg.nn.MaskCounter(0), np.random.default_rng(0))
    >>> block(mg.Tensor(np.ones((1, 5, 4)))).shape
    (1, 5, 4)
    """

    def __init__(self, config: GAMConfig, masks: MaskCounter, rng: np.random.Generator):
        C, self.mixer = config.d_model, config.mixer
        self.norm1, self.norm2 = LayerNorm(C), LayerNorm(C)
        if self.mixer != "global":
            self.conv = CausalConv(C, config.kernel_size, rng)
        if self.mixer != "local":
            self.memory = Parameter(xavier_uniform(rng, (config.n_slots, C)))  # (S, C)
        if self.mixer == WRITTEN:
            self.prior = config.prior or 1.0 / config.n_slots  # lambda
        if self.mixer in ("gated", WRITTEN):
            self.gate = Linear(C, 2 * C, rng)
        self.feed = FeedForward(C, 4 * C, config.dropout, masks, rng)

    @staticmethod
    def count_parameters(config: Any) -> int:
        """Return the number of parameters of a block of this configuration."""
        C, K, S = config.d_model, config.kernel_size, config.n_slots
        conv, memory, gate = C * K + C, S * C, 2 * C * C + 2 * C
        mixing = {"gated": conv + memory + gate, "sum": conv + memory, "local": conv, "global": memory}
        mixing[WRITTEN] = mixing["gated"]
        return mixing[config.mixer] + 4 * C + FeedForward.count_parameters(C, 4 * C)

    def __call__(self, x: Tensor, state: BlockState | None = None) -> Tensor:  # (B, T, C) -> (B, T, C)
        u = self.norm1(x)  # E1
        x = x + self.mix(u, state)  # E8
        return x + self.feed(self.norm2(x))  # E9

    def new_state(self, batch: int) -> BlockState | None:
        """Return the state before the first token: a past of zeros, which is E2's padding; the memory."""
        if self.mixer == "global":
            return None
        past = self.conv.new_state(batch)
        return WrittenState(past.past) if self.mixer == WRITTEN else past

    def mix(self, u: Tensor, state: BlockState | None) -> Tensor:
        if self.mixer == "global":
            return associative_memory(u, self.memory)
        local_context = self.conv(u, state)  # E2, reads K tokens
        if self.mixer == "local":
            return local_context
        if self.mixer == WRITTEN:
            global_context = self.recall(u, local_context, cast(WrittenState | None, state))  # X1-X5
        else:
            global_context = associative_memory(u, self.memory)  # E3-E5, reads one token
        if self.mixer == "sum":
            return local_context + global_context
        return gated_fusion(local_context, global_context, self.gate.product(u), self.gate.bias)  # E6-E7

    def recall(self, u: Tensor, local_context: Tensor, state: "WrittenState | None") -> Tensor:
        """Return the global context of all tokens read so far."""
        past, remember = (state.written, state.remember) if state is not None else (None, None)
        return written_memory(u, local_context, self.memory, past, prior=self.prior, remember=remember)


class WrittenState(BlockState):
    """What a block with a written memory remembers: the last inputs of its convolution, and its slots."""

    written: Array | None = None  # N and n (B, S, C+1) of X2 and X3; None before the first token

    def remember(self, written: Array) -> None:
        """Store the slots after the tokens just read."""
        self.written = written


class GAM(LanguageModel):
    """Gated Associative Memory (arXiv 2509.00605) as a language model.   E1-E9

    Only the convolution moves information between tokens, so the receptive field is exactly
    `reach` = 1 + L (K - 1) tokens; with mixer "written", which is not in the paper, it is all tokens.

    >>> config = mg.GAMConfig(vocab_size=9, block_size=8, d_model=4, n_layers=2, n_slots=3)
    >>> gam = mg.GAM(config, seed=0)
    >>> gam(np.array([[1, 2, 3]])).shape, gam.reach, gam.num_parameters()
    ((1, 3, 9), 5, 540)
    """

    Block, Config = GAMBlock, GAMConfig
    config: GAMConfig

    @property
    def reach(self) -> int | None:
        c = self.config
        if c.mixer == WRITTEN:
            return None
        return 1 if c.mixer == "global" else 1 + c.n_layers * (c.kernel_size - 1)
