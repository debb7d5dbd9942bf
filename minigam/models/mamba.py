"""The paper's second baseline: Mamba, a selective state-space model, written by hand.

Letters: C channels, E = expand C expanded channels, N = d_state states per expanded channel, R = C / 16
(rounded up), the rank of the projection for the step size.
"""

import math
from typing import Any

import numpy as np

from minigam.config import MambaConfig
from minigam.engine import ops
from minigam.engine.backend import xp_of
from minigam.engine.sequence import selective_scan
from minigam.engine.tensor import Array, Tensor
from minigam.models.lm import LanguageModel

from minigam.models.nn import (  # isort: skip
    NORMS, BlockState, CausalConv, Linear, MaskCounter, Module, Parameter, uniform,
)  # fmt: skip


def dt_rank(d_model: int) -> int:
    """Return R, the rank of the projection for the step size, as published."""
    return math.ceil(d_model / 16)


class StepSize(Module):
    """delta = softplus(x W^T + b), with b initialised so that softplus(b) is log-uniform in 0.001 .. 0.1."""

    def __init__(self, rank: int, c_out: int, rng: np.random.Generator):
        self.weight = Parameter(uniform(rng, (c_out, rank), 1.0 / math.sqrt(rank)))
        delta = np.exp(rng.uniform(math.log(0.001), math.log(0.1), c_out))
        self.bias = Parameter(delta + np.log(-np.expm1(-delta)))  # softplus(bias) = delta

    def __call__(self, x: Tensor) -> Tensor:
        return ops.softplus(ops.linear(x, self.weight, self.bias))


class SelectiveSSM(Module):
    """Expand, convolve, scan with input-dependent parameters, gate, contract.

        x, z = W_in u                         E channels each
        x = SiLU(conv(x))                     causal, depthwise, d_conv tokens
        delta, B, C = W_x x                   delta: R numbers, which StepSize maps to E
        y = scan(x, delta, -exp(A_log), B, C, D)
        out = W_out (y SiLU(z))

    Source: Gu and Dao, arXiv 2312.00752, with the initial values of their code: A_log = log(1..N), D = 1.
    """

    def __init__(self, config: MambaConfig, rng: np.random.Generator):
        C, E, N = config.d_model, config.expand * config.d_model, config.d_state
        self.rank, self.n = dt_rank(C), N
        self.expand = Linear(C, 2 * E, rng, bias=False)
        self.conv = CausalConv(E, config.d_conv, rng)
        self.select = Linear(E, self.rank + 2 * N, rng, bias=False)
        self.step_size = StepSize(self.rank, E, rng)
        self.A_log = Parameter(np.log(np.tile(np.arange(1.0, N + 1.0), (E, 1))))  # (E, N), S4D-real
        self.D = Parameter(np.ones(E))
        self.contract = Linear(E, C, rng, bias=False)

    def __call__(self, u: Tensor, state: "MambaState | None" = None) -> Tensor:  # (B, T, C) -> (B, T, C)
        E, R, N = self.D.shape[0], self.rank, self.n
        xz = self.expand(u)
        x = ops.silu(self.conv(xz[..., :E], state.conv if state is not None else None))
        selected = self.select(x)
        delta = self.step_size(selected[..., :R])
        B, C = selected[..., R : R + N], selected[..., R + N :]
        A = -ops.exp(self.A_log)
        past, remember = (state.h, state.remember) if state is not None else (None, None)
        y = selective_scan(x, delta, A, B, C, self.D, past, remember=remember)
        return self.contract(y * ops.silu(xz[..., E:]))


class MambaState:
    """What a Mamba block remembers: the last inputs of its convolution, and the N states of each channel."""

    def __init__(self, conv: BlockState, h: Array):
        self.conv, self.h = conv, h  # h is (B, E, N)

    def remember(self, h: Array) -> None:
        """Store the state after the tokens just read."""
        self.h = h


class MambaBlock(Module):
    """x + ssm(norm(x)); with `residual=False` ssm(x) alone, as the authors of GAM stacked it.

    >>> config = mg.MambaConfig(d_model=4, d_state=2)
    >>> block = mg.MambaBlock(config, mg.nn.MaskCounter(0), np.random.default_rng(0))
    >>> block(mg.Tensor(np.ones((1, 5, 4)))).shape
    (1, 5, 4)
    """

    def __init__(self, config: MambaConfig, masks: MaskCounter, rng: np.random.Generator):
        self.residual = config.residual
        if self.residual:
            self.norm = NORMS[config.norm](config.d_model)
        self.ssm = SelectiveSSM(config, rng)

    @staticmethod
    def count_parameters(config: Any) -> int:
        """Return the number of parameters of a block of this configuration."""
        C, E, N, R = config.d_model, config.expand * config.d_model, config.d_state, dt_rank(config.d_model)
        conv, select, step_size = E * config.d_conv + E, E * (R + 2 * N), E * R + E
        ssm = 2 * E * C + conv + select + step_size + E * N + E + E * C
        return ssm + NORMS[config.norm].rows * C if config.residual else ssm

    def __call__(self, x: Tensor, state: MambaState | None = None) -> Tensor:  # (B, T, C) -> (B, T, C)
        return x + self.ssm(self.norm(x), state) if self.residual else self.ssm(x, state)

    def new_state(self, batch: int) -> MambaState:
        """Return the state before the first token: zeros."""
        A = self.ssm.A_log
        return MambaState(
            self.ssm.conv.new_state(batch), xp_of(A.data).zeros((batch, *A.shape), dtype=A.dtype)
        )


class Mamba(LanguageModel):
    """The second baseline: an output depends on all tokens up to it, as far as its states remember them.

    >>> config = mg.MambaConfig(vocab_size=9, block_size=8, d_model=4, n_layers=1)
    >>> mg.Mamba(config)(np.array([[1, 2, 3]])).shape
    (1, 3, 9)
    """

    Block, Config = MambaBlock, MambaConfig
    config: MambaConfig
