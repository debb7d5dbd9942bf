"""The GAM block: local context by convolution, global context by memory, fused by a gate."""

import math

import numpy as np

from minigam.backend import xp_of
from minigam.config import GAMConfig
from minigam.nn import (
    DropoutStream,
    FeedForward,
    LayerNorm,
    Linear,
    Module,
    Parameter,
    uniform,
    xavier_uniform,
)
from minigam.sequence import associative_memory, causal_conv1d, gated_fusion


class CausalConv(Module):
    """Depthwise causal convolution over the K latest tokens.   E2"""

    def __init__(self, c: int, kernel_size: int, rng: np.random.Generator):
        bound = 1.0 / math.sqrt(kernel_size)  # a depthwise filter has K inputs
        self.weight = Parameter(uniform(rng, (c, kernel_size), bound))
        self.bias = Parameter(uniform(rng, (c,), bound))

    def __call__(self, u, state: "BlockState | None" = None):
        past = state.advance(u.data) if state is not None else None
        return causal_conv1d(u, self.weight, self.bias, past)


class BlockState:
    """All that a GAM block remembers of the tokens before: its K-1 latest convolution inputs."""

    def __init__(self, past):
        self.past = past  # (B, K-1, C)

    def advance(self, u):
        """Return the past that `u` (B, T, C) continues, and remember the K-1 latest inputs."""
        past, T = self.past, u.shape[1]
        self.past = xp_of(u).concatenate([past, u], axis=1)[:, T:]
        return past


class GAMBlock(Module):
    """x + gate(local_context, global_context), then x + feed-forward.   E1-E9

    `config.mixer` leaves parts out, as the paper's ablation does: "sum" adds the two contexts
    without a gate, "local" and "global" keep one of them; what is unused is not created.
    """

    def __init__(self, config: GAMConfig, stream: DropoutStream, rng: np.random.Generator):
        C, self.mixer = config.d_model, config.mixer
        self.norm1, self.norm2 = LayerNorm(C), LayerNorm(C)
        if self.mixer != "global":
            self.conv = CausalConv(C, config.kernel_size, rng)
        if self.mixer != "local":
            self.memory = Parameter(xavier_uniform(rng, (config.n_slots, C)))  # (S, C)
        if self.mixer == "gated":
            self.gate = Linear(C, 2 * C, rng)
        self.feed = FeedForward(C, 4 * C, config.dropout, stream, rng)

    def __call__(self, x, state: BlockState | None = None):  # (B, T, C) -> (B, T, C)
        u = self.norm1(x)  # E1
        x = x + self.mix(u, state)  # E8
        return x + self.feed(self.norm2(x))  # E9

    def new_state(self, batch: int) -> BlockState | None:
        """Return the state before the first token: a past of zeros, which is E2's padding."""
        if self.mixer == "global":
            return None
        (C, K), zeros = self.conv.weight.shape, xp_of(self.conv.weight.data).zeros
        return BlockState(zeros((batch, K - 1, C), dtype=self.conv.weight.dtype))

    def mix(self, u, state: BlockState | None):
        if self.mixer == "global":
            return associative_memory(u, self.memory)
        local_context = self.conv(u, state)  # E2, sees K tokens
        if self.mixer == "local":
            return local_context
        global_context = associative_memory(u, self.memory)  # E3-E5, sees one
        if self.mixer == "sum":
            return local_context + global_context
        return gated_fusion(local_context, global_context, self.gate(u))  # E6-E7
