"""Modules: named parameters, and the layers that the models share.

Initial values are PyTorch's defaults for each layer, drawn on the host in float64, so that
both backends and both precisions start from the same numbers.
"""

import math
from collections.abc import Callable, Iterator
from itertools import groupby
from textwrap import indent
from typing import Any, ClassVar, Self

import numpy as np

from minigam.engine import backend, ops
from minigam.engine.sequence import causal_conv1d
from minigam.engine.tensor import Array, ShapeError, Tensor


class Parameter(Tensor):
    """A tensor that training changes. `on_gradient(self)` is called each time that a backward pass has added
    to its gradient.

    >>> p = mg.nn.Parameter(np.array([1.0, 2.0]))
    >>> (p * p).sum().backward()
    >>> p.grad.tolist()
    [2.0, 4.0]
    """

    def __init__(self, array: Array) -> None:
        super().__init__(array, requires_grad=True)
        self.on_gradient: Callable[[Parameter], None] | None = None

    def _add_gradient(self, g: Array) -> None:
        super()._add_gradient(g)
        if self.on_gradient is not None:
            self.on_gradient(self)


class MaskCounter:
    """Numbers the dropout masks of one model: (seed, n) determines mask n.

    `drawn` is the whole state: restore it, and the same masks follow. `first_token` is the position of
    the current tokens in the whole batch: a token has the same mask however the batch is split.

    >>> masks = mg.nn.MaskCounter(seed=5)
    >>> masks.next_mask(), masks.drawn
    ({'key': (5, 1), 'first_token': 0}, 1)
    """

    def __init__(self, seed: int) -> None:
        self.seed, self.drawn, self.first_token = seed, 0, 0

    def next_mask(self) -> dict[str, Any]:
        """Return the arguments of a dropout rule that select the next mask."""
        self.drawn += 1
        return {"key": (self.seed, self.drawn), "first_token": self.first_token}


class Module:
    """A function with parameters, found by walking the attributes in the order they were set.

    >>> class Twice(mg.nn.Module):
    ...     def __init__(self):
    ...         self.scale = mg.nn.Parameter(np.array([2.0]))
    ...     def __call__(self, x):
    ...         return x * self.scale
    ...
    >>> Twice()(mg.Tensor([3.0])).numpy().tolist(), [name for name, _ in Twice().named_parameters()]
    ([6.0], ['scale'])
    """

    training = True

    __call__: Callable[..., Tensor]  # defined by each subclass

    def children(self) -> Iterator[tuple[str, "Module"]]:
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, list):
                yield from ((f"{name}.{i}", m) for i, m in enumerate(value) if isinstance(m, Module))

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + name, value
        for name, child in self.children():
            yield from child.named_parameters(f"{prefix}{name}.")

    def __repr__(self) -> str:
        """One line with the shapes of the parameters and the settings, then the children, indented."""
        details = [f"{name} {list(v.shape)}" for name, v in vars(self).items() if isinstance(v, Parameter)]
        details += [f"{name}={v}" for name, v in vars(self).items() if type(v) in (int, float, str)]
        size = f"  {self.num_parameters():,} parameters" if self.parameters() else ""
        lines = [type(self).__name__ + (f"({', '.join(details)})" if details else "") + size]
        for text, alike in groupby(self.children(), key=lambda child: repr(child[1])):
            first, *others = (name for name, _ in alike)
            lines.append(indent(f"{first}{f' to {others[-1]}, each' if others else ''}: {text}", "  "))
        return "\n".join(lines)

    def parameters(self) -> list[Parameter]:
        """Return every parameter once, even if two modules share it."""
        return list({id(p): p for _, p in self.named_parameters()}.values())

    def num_parameters(self) -> int:
        """Return the number of trainable values; a parameter with several uses counts once."""
        return sum(p.data.size for p in self.parameters())

    def train(self, mode: bool = True) -> Self:
        """Switch dropout on (or off) here and below; return self."""
        self.training = mode
        for _, child in self.children():
            child.train(mode)
        return self

    def eval(self) -> Self:
        """Switch dropout off here and below; return self."""
        return self.train(False)

    def zero_grad(self) -> None:
        for p in self.parameters():
            p.grad = None

    def to(self, name: str) -> Self:
        """Move every parameter, in place, to the backend called `name`; return self."""
        for p in self.parameters():
            p.data, p.grad = backend.to(p.data, name), None
        return self

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return a copy of every parameter on the host, by name."""
        return {name: backend.to_numpy(p.data).copy() for name, p in self.named_parameters()}

    def load_state_dict(self, arrays: dict[str, np.ndarray]) -> None:
        """Replace every parameter. Nothing changes unless all names, shapes and dtypes fit.

        Raises KeyError listing missing and unknown names, ShapeError or TypeError listing misfits.
        """
        own = dict(self.named_parameters())
        missing, unknown = sorted(own.keys() - arrays.keys()), sorted(arrays.keys() - own.keys())
        if missing or unknown:
            raise KeyError(f"load_state_dict: missing {missing}, unknown {unknown}")
        for what, error in (("shape", ShapeError), ("dtype", TypeError)):
            wrong = [
                f"{name} {getattr(arrays[name], what)}, wanted {getattr(p, what)}"
                for name, p in own.items()
                if getattr(arrays[name], what) != getattr(p, what)
            ]
            if wrong:
                raise error(f"load_state_dict: {'; '.join(wrong)}")
        for name, p in own.items():
            p.data = backend.xp_of(p.data).array(arrays[name])  # a copy, on the parameter's device


# -------------------------------------------------------------------------- initial values


def uniform(rng: np.random.Generator, shape: tuple[int, ...], bound: float) -> np.ndarray:
    """Uniform in (-bound, bound).

    >>> w = mg.nn.uniform(np.random.default_rng(0), (2, 3), bound=0.5)
    >>> w.shape, bool((abs(w) <= 0.5).all())
    ((2, 3), True)
    """
    return rng.uniform(-bound, bound, shape)


def xavier_uniform(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Uniform with bound sqrt(6 / (rows + columns)).   Source: Glorot and Bengio (2010).

    >>> w = mg.nn.xavier_uniform(np.random.default_rng(0), (2, 4))
    >>> w.shape, bool((abs(w) <= 1.0).all())
    ((2, 4), True)
    """
    return uniform(rng, shape, math.sqrt(6.0 / sum(shape)))


# -------------------------------------------------------------------------------- layers


class Linear(Module):
    """y = x W^T + b, from c_in to c_out channels; without b if `bias` is False.

    >>> layer = mg.nn.Linear(3, 2, np.random.default_rng(0))
    >>> layer(mg.Tensor(np.ones((5, 3)))).shape, layer.num_parameters()
    ((5, 2), 8)
    """

    def __init__(self, c_in: int, c_out: int, rng: np.random.Generator, bias: bool = True) -> None:
        bound = 1.0 / math.sqrt(c_in)
        self.weight = Parameter(uniform(rng, (c_out, c_in), bound))
        self.bias = Parameter(uniform(rng, (c_out,), bound)) if bias else None

    def __call__(self, x: Tensor) -> Tensor:
        return ops.linear(x, self.weight, self.bias)

    def product(self, x: Tensor) -> Tensor:
        """Return x W^T, for an operation that adds the bias itself, which saves a pass over the array."""
        return ops.linear(x, self.weight)


class LayerNorm(Module):
    """Normalise the C channels of every token, then scale and shift them.   E1

    >>> y = mg.nn.LayerNorm(4)(mg.Tensor([[1.0, 2.0, 3.0, 6.0]]))
    >>> round(float(y.data.mean()), 3), round(float(y.data.std()), 3)
    (0.0, 1.0)
    """

    rows: ClassVar = 2  # parameters per channel

    def __init__(self, c: int) -> None:
        self.weight, self.bias = Parameter(np.ones(c)), Parameter(np.zeros(c))

    def __call__(self, x: Tensor) -> Tensor:
        return ops.layer_norm(x, self.weight, self.bias, eps=1e-5)


class RMSNorm(Module):
    """Divide the C channels of every token by their root mean square, then scale them.

    >>> mg.nn.RMSNorm(2)(mg.Tensor([[3.0, -3.0]])).numpy().round(3).tolist()
    [[1.0, -1.0]]
    """

    rows: ClassVar = 1

    def __init__(self, c: int) -> None:
        self.weight = Parameter(np.ones(c))

    def __call__(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, eps=1e-5)


NORMS: dict[str, type[LayerNorm] | type[RMSNorm]] = {"layer": LayerNorm, "rms": RMSNorm}


class Embedding(Module):
    """A learned vector for each of n ids; `initial` is (n, C).

    >>> table = mg.nn.Embedding(np.array([[1.0, 2.0], [3.0, 4.0]]))
    >>> table(np.array([1, 1, 0])).numpy().tolist()
    [[3.0, 4.0], [3.0, 4.0], [1.0, 2.0]]
    """

    def __init__(self, initial: np.ndarray) -> None:
        self.weight = Parameter(initial)

    def __call__(self, ids: Array) -> Tensor:
        return ops.embedding(self.weight, ids)


class Dropout(Module):
    """Zero a fraction p of the entries of x + bias in training mode, none in evaluation mode.

    >>> layer = mg.nn.Dropout(0.5, mg.nn.MaskCounter(0))
    >>> layer.eval()(mg.Tensor([1.0, 2.0])).numpy().tolist()
    [1.0, 2.0]
    """

    def __init__(self, p: float, masks: MaskCounter) -> None:
        self.p, self.masks = p, masks

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        p = self.p if self.training else 0.0
        if p == 0.0 and bias is None:
            return x
        which = self.masks.next_mask() if p > 0.0 else {"key": (0,)}
        return ops.dropout(x, bias, p=p, **which)


class FeedForward(Module):
    """Dropout(W_2 GELU(W_1 x + b_1) + b_2), for each token separately.   Part of E9

    >>> layer = mg.nn.FeedForward(4, 16, 0.1, mg.nn.MaskCounter(0), np.random.default_rng(0))
    >>> layer(mg.Tensor(np.ones((2, 3, 4)))).shape
    (2, 3, 4)
    """

    def __init__(self, c: int, hidden: int, p: float, masks: MaskCounter, rng: np.random.Generator) -> None:
        self.expand, self.contract = Linear(c, hidden, rng), Linear(hidden, c, rng)
        self.dropout = Dropout(p, masks)

    @staticmethod
    def count_parameters(c: int, hidden: int) -> int:
        """Return the number of parameters of such a layer."""
        return 2 * c * hidden + hidden + c

    def __call__(self, x: Tensor) -> Tensor:  # (B, T, C) -> (B, T, C)
        hidden = ops.gelu(self.expand.product(x), self.expand.bias)
        return self.dropout(self.contract.product(hidden), self.contract.bias)


class CausalConv(Module):
    """Depthwise causal convolution over the last K tokens.   E2

    >>> layer = mg.nn.CausalConv(4, 3, np.random.default_rng(0))
    >>> layer(mg.Tensor(np.ones((1, 5, 4))), layer.new_state(1)).shape
    (1, 5, 4)
    """

    def __init__(self, c: int, kernel_size: int, rng: np.random.Generator) -> None:
        bound = 1.0 / math.sqrt(kernel_size)  # a depthwise filter has K inputs
        self.weight = Parameter(uniform(rng, (c, kernel_size), bound))
        self.bias = Parameter(uniform(rng, (c,), bound))

    def __call__(self, u: Tensor, state: "BlockState | None" = None) -> Tensor:
        past = state.advance(u.data) if state is not None else None
        return causal_conv1d(u, self.weight, self.bias, past)

    def new_state(self, batch: int) -> "BlockState":
        """Return the state before the first token: a past of zeros, which is E2's padding."""
        (C, K), zeros = self.weight.shape, backend.xp_of(self.weight.data).zeros
        return BlockState(zeros((batch, K - 1, C), dtype=self.weight.dtype))


class BlockState:
    """What a causal convolution, and so a GAM block, remembers of earlier tokens: its last K-1 inputs.

    >>> state = mg.nn.BlockState(np.zeros((1, 2, 1)))
    >>> state.advance(np.array([[[1.0], [2.0], [3.0]]])).ravel().tolist(), state.past.ravel().tolist()
    ([0.0, 0.0], [2.0, 3.0])
    """

    def __init__(self, past: Array) -> None:
        self.past = past  # (B, K-1, C)

    def advance(self, u: Array) -> Array:
        """Return the K-1 inputs before `u` (B, T, C), and remember the latest K-1 for the next call."""
        past, T = self.past, u.shape[1]
        self.past = backend.xp_of(u).concatenate([past, u], axis=1)[:, T:]
        return past
