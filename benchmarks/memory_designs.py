"""Designs of a memory that the text writes, to compare with the one in the package (X1-X5).

Each is a GAM block that differs in `recall` alone. They are written with minigam's operations as sums over
all pairs of tokens, (T, T) at a time: short to read, and quadratic in T. Letters as in the package; a is the
address under which a token reads, w the one under which it is written:

    a = softmax(u M^T),   w = softmax(local_context M^T),   D[t, j] = 1 if j <= t, else 0
"""

import numpy as np

from minigam import GAMConfig, Tensor, ops
from minigam.engine.dispatch import Op
from minigam.engine.tensor import OPS
from minigam.models.gam import GAM, GAMBlock
from minigam.models.nn import LayerNorm, MaskCounter, Parameter

HEADS = 4


def addresses(z: Tensor, memory: Tensor) -> Tensor:
    """Return the softmax of z M^T over the slots, (B, T, S)."""
    return ops.softmax(ops.linear(z, memory))


def transposed(z: Tensor) -> Tensor:
    """Return z (B, T, n) as (B, n, T)."""
    return ops.transpose(z, axes=(0, 2, 1))


def before(T: int, dtype) -> np.ndarray:
    """Return D (T, T): 1 where token j is not after token t."""
    return np.tri(T, dtype=dtype)


class Sum(GAMBlock):
    """No division: y_t = sum over j <= t of (sqrt(a_t) . sqrt(w_j)) u_j. An address has length 1 after the
    square root, so a value is read back as it was written. The sum starts at 0, and grows with the text."""

    def recall(self, u, local_context, state):
        q, k = (addresses(z, self.memory) ** 0.5 for z in (u, local_context))
        return (q @ transposed(k) * before(u.shape[1], u.dtype)) @ u


class Mean(GAMBlock):
    """The same, divided by the sum of its weights: a weighted mean for each query. The weight of a M is
    `prior`, small here: 1/S against weights of up to 1."""

    def recall(self, u, local_context, state):
        a = addresses(u, self.memory)
        weights = a**0.5 @ transposed(addresses(local_context, self.memory) ** 0.5)
        weights = weights * before(u.shape[1], u.dtype)
        total = weights.sum(axis=-1, keepdims=True) + self.prior
        return (weights @ u + self.prior * (a @ self.memory)) / total


class Norm(GAMBlock):
    """X1-X5, and a LayerNorm on what is recalled: a mean of many is weak. 2C parameters more."""

    def __init__(self, config: GAMConfig, masks: MaskCounter, rng: np.random.Generator):
        super().__init__(config, masks, rng)
        self.norm3 = LayerNorm(config.d_model)

    @staticmethod
    def count_parameters(config) -> int:
        return GAMBlock.count_parameters(config) + 2 * config.d_model

    def recall(self, u, local_context, state):
        return self.norm3(super().recall(u, local_context, state))


class Forget(GAMBlock):
    """X1-X5, where all slots forget before a token is written: N_t = gamma_t N_{t-1} + w_t^T u_t, n_t alike.

    gamma_t = sigmoid(v . local_context_t + b), close to 1 at first. C + 1 parameters more.
    """

    def __init__(self, config: GAMConfig, masks: MaskCounter, rng: np.random.Generator):
        super().__init__(config, masks, rng)
        self.forget = Parameter(np.zeros((1, config.d_model)))
        self.forget_bias = Parameter(np.array([6.0]))

    @staticmethod
    def count_parameters(config) -> int:
        return GAMBlock.count_parameters(config) + config.d_model + 1

    def recall(self, u, local_context, state):
        D = before(u.shape[1], u.dtype)
        kept = -ops.softplus(
            -ops.linear(local_context, self.forget, self.forget_bias)
        )  # log gamma, (B, T, 1)
        kept = D @ kept  # the log of how much of the prior is left after token t
        left = ops.exp((kept - transposed(kept)) * D) * D  # (B, T, T), of what token j wrote
        a, w = addresses(u, self.memory), addresses(local_context, self.memory)
        r = a / (left @ w + self.prior * ops.exp(kept))
        prior = r * (self.prior * ops.exp(kept))
        return (r @ transposed(w) * left) @ u + prior @ self.memory


class Heads(GAMBlock):
    """X1-X5 in HEADS heads: each has its own C / HEADS channels of M, u and local_context, and S slots."""

    def recall(self, u, local_context, state):
        D, width = before(u.shape[1], u.dtype), u.shape[2] // HEADS
        y = None
        for h in range(HEADS):
            channels = np.s_[h * width : (h + 1) * width]
            u_h, memory = u[..., channels], self.memory[:, channels]
            a, w = addresses(u_h, memory), addresses(local_context[..., channels], memory)
            r = a / (D @ w + self.prior)
            part = (r @ transposed(w) * D) @ u_h + (self.prior * r) @ memory
            place = np.zeros((width, u.shape[2]), dtype=u.dtype)
            place[:, channels] = np.eye(width)
            y = part @ place if y is None else y + part @ place
        return y


class Delta(GAMBlock):
    """The delta rule: W_t = W_{t-1} + beta_t k_t^T (u_t - k_t W_{t-1}), y_t = q_t W_t.

    k = sqrt(w), q = sqrt(a), beta_t = sigmoid(v . local_context_t): a token replaces what its address holds.
    It starts at W_0 = 0. C parameters more. Published forms have learned projections for q, k and v; this one
    has the addresses of X1-X5.
    Source: Schlag et al., arXiv 2102.11174; all tokens at once as in Yang et al., arXiv 2406.06484.
    """

    def __init__(self, config: GAMConfig, masks: MaskCounter, rng: np.random.Generator):
        super().__init__(config, masks, rng)
        self.strength = Parameter(np.zeros((1, config.d_model)))

    @staticmethod
    def count_parameters(config) -> int:
        return GAMBlock.count_parameters(config) + config.d_model

    def recall(self, u, local_context, state):
        D = before(u.shape[1], u.dtype)
        strictly = D - np.eye(len(D), dtype=u.dtype)
        q, k = (addresses(z, self.memory) ** 0.5 for z in (u, local_context))
        beta = ops.sigmoid(ops.linear(local_context, self.strength))  # (B, T, 1)
        written = solve(beta * (k @ transposed(k)) * strictly, beta * u)
        return (q @ transposed(k) * D) @ written


@Op
def solve(xp, A, b):
    """Return x of (I + A) x = b, for A (B, T, T) with zeros on and above the diagonal."""
    whole = A + xp.eye(A.shape[-1], dtype=A.dtype)
    x = xp.linalg.solve(whole, b)

    def backward(dx):
        db = xp.linalg.solve(whole.swapaxes(-1, -2), dx)
        return -db @ x.swapaxes(-1, -2), db

    return x, backward


del OPS["solve"]  # not an operation of the package


class UnderItself(GAMBlock):
    """X1-X5, written under the address that is read: w = a."""

    def recall(self, u, local_context, state):
        return super().recall(u, u, state)


class Heavy(GAMBlock):
    """X1-X5 with lambda 1: each row of M weighs as much as a token, and so all of M as S tokens."""

    def __init__(self, config: GAMConfig, masks: MaskCounter, rng: np.random.Generator):
        super().__init__(config, masks, rng)
        self.prior = 1.0


DESIGNS = {
    "written": ("written memory, X1-X5", GAMBlock),
    "sum": ("unnormalised sum", Sum),
    "mean": ("mean for each query", Mean),
    "norm": ("written, LayerNorm on the recall", Norm),
    "forget": ("written, forgetting", Forget),
    "heads": (f"written, {HEADS} heads", Heads),
    "delta": ("delta rule on the same addresses", Delta),
    "under-u": ("written under u itself", UnderItself),
    "heavy": ("lambda 1", Heavy),
}
WRONG_TURNS = ("under-u", "heavy")


def model_of(design: str) -> type[GAM]:
    """Return the class of a GAM with this memory; its configuration has mixer "written"."""
    label, block = DESIGNS[design]
    return type(f"GAM_{design}", (GAM,), {"Block": block, "__doc__": label})
