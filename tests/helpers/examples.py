"""Random arguments of an operation: shapes, layouts in memory, dtypes, sizes of numbers.

The numbers drawn are multiples of 1/8 from -3 to 3, so ties, zeros and constant rows occur.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from minigam.engine.dispatch import Op

LAYOUTS = ["C", "Fortran", "strided", "reversed"]


def laid_out(a: np.ndarray, layout: str) -> np.ndarray:
    """Return a copy of `a` with this layout in memory."""
    if layout == "Fortran":
        return np.array(a, order="F")
    if layout == "strided":
        return np.stack([a, a], axis=-1)[..., 0]
    if layout == "reversed" and a.ndim:
        return np.flip(np.flip(a).copy())
    return a.copy()


class Draw:
    """The random choices of one example.

    extreme : whether logits may be minus infinity and scores huge
    empty   : whether every axis may have length 0
    """

    def __init__(self, draw: Callable, extreme: bool = False, empty: bool = False):
        self.any, self.extreme, self.empty = draw, extreme, empty
        self.rng = np.random.default_rng(draw(st.integers(0, 2**16)))

    def one_of(self, *choices: Any) -> Any:
        return self.any(st.sampled_from(choices))

    def size(self, least: int = 0, most: int = 3) -> int:
        return self.any(st.integers(0 if self.empty else least, most))

    def shape(self, most_axes: int = 3) -> tuple[int, ...]:
        return tuple(self.size() for _ in range(self.size(0, most_axes)))

    def array(self, *shape: int) -> np.ndarray:
        return np.asarray(self.rng.integers(-24, 25, shape) / 8)

    def positive(self, *shape: int) -> np.ndarray:
        return np.asarray(self.rng.integers(1, 17, shape) / 8)

    def logits(self, *shape: int) -> np.ndarray:
        """Draw rows of scores, of which some may be minus infinity but the last one is finite."""
        z = self.array(*shape)
        if self.extreme and self.one_of(True, False):
            z *= 2.0**14
        if self.extreme and self.one_of(True, False):
            z[self.rng.random(shape) < 0.3] = -math.inf
            z[..., -1:] = 0.0
        return z

    def ids(self, *shape: int, below: int, least: int = 0) -> np.ndarray:
        return np.asarray(self.rng.integers(least, below, shape))


@dataclass
class Equation:
    """An operation, its equation as a function of float64 arrays, and a strategy for its arguments.

    linear : arguments in which the operation is linear when all of them are scaled together
    """

    op: Op
    arguments: Callable[[Draw], tuple[list, dict]]
    value: Callable[..., np.ndarray]
    linear: tuple[str, ...]

    def __str__(self) -> str:
        return self.op.name


EQUATIONS: list[Equation] = []  # helpers/equations.py fills it


def equation(op: Op, arguments: Callable, linear: str = "") -> Callable:
    """Register the decorated function as the equation of `op`."""

    def register(value: Callable) -> Callable:
        EQUATIONS.append(Equation(op, arguments, value, tuple(linear.split())))
        return value

    return register


@dataclass
class Example:
    """Arguments of an operation, and the value that its equation has for them.

    factor  : a power of two by which the linear arguments, and with them the value, are scaled
    factors : by which each gradient is scaled: 1 for the linear arguments, `factor` for the others
    """

    op: Op
    arrays: list
    settings: dict
    want: np.ndarray
    factor: float
    factors: list[float]


@st.composite
def examples(draw: Callable, equation: Equation, dtype: str, extreme: bool = True) -> Example:
    """Draw arguments of one dtype, in any layout, writeable or not; if `extreme`, some huge or denormal."""
    choices = Draw(draw, extreme)
    plain, settings = equation.arguments(choices)
    factor = 2.0 ** choices.one_of(0, *SCALES[dtype]) if extreme and equation.linear else 1.0
    arrays, factors = [], []
    for name, a in zip(equation.op.arguments, plain, strict=False):
        linear = name in equation.linear
        if linear and a is not None:
            a = a * factor
        if isinstance(a, np.ndarray | np.generic):  # NumPy turns 0-d products into scalars
            a = np.asarray(a)
            a = laid_out(a.astype(dtype) if a.dtype.kind == "f" else a, choices.one_of(*LAYOUTS))
            a.setflags(write=choices.one_of(True, False))
        arrays.append(a)
        factors.append(1.0 if linear else factor)
    want = equation.value(*plain, **settings) * factor
    return Example(equation.op, arrays, settings, want, factor, factors)


SCALES = {"float32": (100, -100, -140), "float64": (900, -900, -1060)}  # the last one gives denormal numbers
