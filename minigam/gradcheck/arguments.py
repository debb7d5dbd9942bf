"""Arguments of a gradient check: a shape means normal numbers; the functions here draw other numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minigam.engine import backend
from minigam.engine.tensor import Tensor

Draw = Callable[[np.random.Generator], np.ndarray]


def between(low: float, high: float, *shape: int) -> Draw:
    """Uniform numbers, for operations that are not defined everywhere."""
    return lambda rng: rng.uniform(low, high, shape)


def scaled(by: float, *shape: int) -> Draw:
    """Normal numbers times a factor."""
    return lambda rng: by * rng.standard_normal(shape)


def signs(size: float, *shape: int) -> Draw:
    """Either -size or +size."""
    return lambda rng: size * rng.choice([-1.0, 1.0], shape)


def huge(*shape: int) -> Draw:
    """Numbers near 1e4 with small differences, in multiples of 2^-10: adding a `step` of 2^-17 is exact."""
    return lambda rng: 2.0**14 + np.rint(rng.standard_normal(shape) * 2**10) / 2**10


def apart(*shape: int) -> Draw:
    """Multiples of 1e4, all different along the last axis: their softmax is 0 or 1."""
    return lambda rng: 1e4 * rng.permuted(np.broadcast_to(np.arange(shape[-1]), shape), axis=-1)


def slots_apart(s: int) -> Draw:
    """A memory (S, 1) in which queries of -1 or +1 get scores that are 1e4 apart."""
    return lambda rng: apart(s)(rng)[:, None]


def transposed(*shape: int) -> Draw:
    """Not contiguous: the transpose of an array."""
    return lambda rng: rng.standard_normal(shape[::-1]).T


def strided(*shape: int) -> Draw:
    """Not contiguous: every second entry of an array."""
    return lambda rng: rng.standard_normal((*shape, 2))[..., 0]


def ids(*shape: int, below: int) -> Draw:
    """Integers from 0 to below - 1."""
    return lambda rng: rng.integers(below, size=shape)


def some_ignored(*shape: int, below: int) -> Draw:
    """Targets, of which the first is -1 and therefore ignored."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        targets = rng.integers(below, size=shape)
        targets.flat[0] = -1
        return targets

    return draw


def draw(argument: Any, rng: np.random.Generator) -> Any:
    """Turn an argument of a case into an array, a number or None."""
    if isinstance(argument, tuple):
        return np.asarray(rng.standard_normal(argument))  # asarray: for the shape () NumPy returns a number
    return argument(rng) if callable(argument) else argument


def has_gradient(a: object) -> bool:
    """Whether an argument is an array of floating-point numbers."""
    return isinstance(a, np.ndarray) and a.dtype.kind == "f"


def place(a: Any, library: str) -> Any:
    """Move an array to a library, as a Tensor if it has a gradient. Numbers and None stay the same."""
    if not isinstance(a, np.ndarray):
        return a
    moved = backend.to(a, library)
    return Tensor(moved, requires_grad=True) if has_gradient(a) else moved
