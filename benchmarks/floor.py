"""The floor of a training step: its matrix products alone, into arrays that are there already.

What computes these products by the same library, in parts of this size, can not be faster: 2,048 tokens at
a time through the blocks, 1,024 rows of them at a time through the head, about what minigam takes.
"""

from collections.abc import Callable

import numpy as np

from minigam.config import GAMConfig

TOKENS, HEAD_ROWS = 2048, 1024

Product = tuple[np.ndarray, np.ndarray, np.ndarray]  # a, b and where a b goes


def step(config: GAMConfig, tokens: int) -> Callable[[], None]:
    """Return a function that computes every matrix product of one training step on that many tokens.

    Values are random; all blocks share their arrays, which leaves the work what it is.
    """
    C, S, V = config.d_model, config.n_slots, config.vocab_size
    plan: list[tuple[int, list[Product]]] = []  # how often, which products
    for n, times in parts(tokens, TOKENS):
        block = [*linear(n, C, 2 * C), *linear(n, C, 4 * C), *linear(n, 4 * C, C), *memory(n, C, S)]
        plan.append((times * config.n_layers, block))
    for n, times in parts(tokens, HEAD_ROWS):
        plan.append((times, linear(n, C, V)))

    def run() -> None:
        for times, products in plan:
            for _ in range(times):
                for a, b, out in products:
                    np.matmul(a, b, out=out)

    return run


def flops(config: GAMConfig, tokens: int) -> int:
    """Return the floating-point operations of those products, 2 for each multiplication and its addition:
    gate, feed-forward and memory of every block, and the head; forward, and twice as much backward."""
    C, S, V = config.d_model, config.n_slots, config.vocab_size
    return 2 * 3 * tokens * (config.n_layers * (2 * C * C + 2 * 4 * C * C + 2 * S * C) + C * V)


def parts(total: int, size: int) -> list[tuple[int, int]]:
    """Return (length, how many) of the parts of at most `size` that `total` is cut into."""
    whole = [(size, total // size)] if total >= size else []
    return whole + ([(total % size, 1)] if total % size else [])


def _array(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def linear(n: int, c_in: int, c_out: int) -> list[Product]:
    """y = x W^T,   dx = dy W,   dW = dy^T x"""
    x, dy, w = _array(n, c_in), _array(n, c_out), _array(c_out, c_in)
    return [(x, w.T, np.empty_like(dy)), (dy, w, np.empty_like(x)), (dy.T, x, np.empty_like(w))]


def memory(n: int, C: int, S: int) -> list[Product]:
    """s = u M^T,  y = a M;   da = dy M^T,  du = ds M,  dM = a^T dy + ds^T u"""
    u, dy, a, ds, M = _array(n, C), _array(n, C), _array(n, S), _array(n, S), _array(S, C)
    s, y, da, du, dM = (np.empty_like(z) for z in (a, u, a, u, M))
    return [(u, M.T, s), (a, M, y), (dy, M.T, da), (ds, M, du), (a.T, dy, dM), (ds.T, u, dM)]
