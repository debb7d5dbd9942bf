"""Tensors, the tape, and the walk back: the whole of the automatic differentiation.

An operation is one rule, `rule(xp, *arrays, **settings) -> (y, backward)`, where `backward(dy)`
returns one gradient (or None) per array. `@op` makes it take Tensors and keep the tape. Rules
never see a Tensor, so the tape has no reference cycle and goes when its last tensor does.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigam.engine import backend
from minigam.engine.backend import xp_of

Array = Any  # an array of NumPy or of CuPy, which a type checker cannot tell apart here
Axes = int | tuple[int, ...] | None

OPS: dict[str, Callable[..., "Tensor"]] = {}  # every operation by name; dispatch.py fills it
state: dict[str, Any] = {"grad": True, "fast": True, "observer": None}


class ShapeError(ValueError):
    """The shapes of an operation's inputs do not fit together."""


@contextmanager
def _with(**changes: Any) -> Iterator[None]:
    before = dict(state)
    state.update(changes)
    try:
        yield
    finally:
        state.update(before)


def no_grad() -> AbstractContextManager[None]:
    """Inside this context operations keep no tape."""
    return _with(grad=False)


def reference_only() -> AbstractContextManager[None]:
    """Inside this context every operation runs its reference rule, never a faster one."""
    return _with(fast=False)


def observing(observer: Callable[[str, str, tuple], None] | None) -> AbstractContextManager[None]:
    """Inside this context call `observer(op_name, "forward" | "backward", arrays)` on every result."""
    return _with(observer=observer)


@dataclass(slots=True, eq=False)
class Node:
    """How a tensor was made: the operation, where its inputs came from, and the backward rule.

    Inputs are the nodes of computed tensors, the leaves themselves, None for what needs no gradient.
    No node holds a tensor that was computed. The graph so has no cycle and goes with its last tensor,
    and a value that no rule kept and nobody else holds goes at once.
    """

    op: str
    inputs: tuple["Node | Tensor | None", ...]
    backward: Callable[[Any], tuple[Any, ...]]
    shape: tuple[int, ...]
    dtype: Any

    def release(self) -> None:
        """Let go of everything that is kept for the walk back."""
        self.inputs, self.backward = (), _gone


def _gone(dy: Array) -> tuple[Array, ...]:
    raise RuntimeError("backward: this graph was released by backward(retain_graph=False); compute it again")


Operator = Callable[["Tensor", Any], "Tensor"]


def _operator(name: str) -> tuple[Operator, Operator]:
    """Return the methods for `tensor op other` and `other op tensor`."""
    return lambda a, b: OPS[name](a, b), lambda a, b: OPS[name](b, a)


class Tensor:
    """An array, its gradient, and how it was made.

    array         : an array of any registered library, or what NumPy makes one of
    requires_grad : whether backward() is to leave a gradient in `.grad`
    name          : what to call it in a drawing
    Raises TypeError for what holds no numbers, and for integers that are to have a gradient.
    """

    __slots__ = ("__weakref__", "data", "grad", "name", "node", "requires_grad")
    __array_ufunc__ = None  # NumPy array * Tensor is Tensor's to answer

    def __init__(
        self, array: Array, requires_grad: bool = False, node: Node | None = None, name: str = ""
    ) -> None:
        self.data = as_numbers(array)
        if requires_grad and self.data.dtype.kind != "f":
            raise TypeError(f"Tensor: {self.data.dtype} has no gradient; use float32 or float64")
        self.requires_grad, self.node, self.name = requires_grad, node, name
        self.grad: Array = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    def __len__(self) -> int:
        return len(self.data)

    def __bool__(self) -> bool:
        return bool(self.data)  # of one number; for more NumPy raises

    def __contains__(self, value: object) -> bool:
        return (value.data if isinstance(value, Tensor) else value) in self.data

    def __iter__(self) -> Iterator["Tensor"]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        made = f", op={self.node.op}" if self.node else ", requires_grad" if self.requires_grad else ""
        return f"Tensor({self.data}, {self.dtype}{made})"

    def _repr_svg_(self) -> str | None:
        from minigam.viz.graph import draw

        return draw(self.node) if self.node is not None else None

    def numpy(self) -> np.ndarray:
        """Return the values on the host (NumPy: the array itself, not a copy)."""
        return backend.to_numpy(self.data)

    def item(self) -> float:
        """Return the only value as a Python number."""
        return self.data.item()

    def detach(self) -> "Tensor":
        """Return the same values without the graph."""
        return Tensor(self.data)

    def to(self, name: str) -> "Tensor":
        """Return these values as a new leaf held by the backend called `name`."""
        return Tensor(backend.to(self.data, name), self.requires_grad, name=self.name)

    # Operators: each is the operation of its name in ops.py; the second of a pair has the operands swapped.

    __add__, __radd__ = _operator("add")
    __sub__, __rsub__ = _operator("sub")
    __mul__, __rmul__ = _operator("mul")
    __truediv__, __rtruediv__ = _operator("div")
    __matmul__, __rmatmul__ = _operator("matmul")

    def __neg__(self) -> "Tensor":
        return OPS["neg"](self)

    def __pow__(self, exponent: float) -> "Tensor":
        return OPS["power"](self, exponent=exponent)

    def __getitem__(self, index: Any) -> "Tensor":
        return OPS["getitem"](self, index=index)

    def sum(self, axis: Axes = None, keepdims: bool = False) -> "Tensor":
        """Sum over `axis`, all axes when None."""
        return OPS["sum"](self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Axes = None, keepdims: bool = False) -> "Tensor":
        """Mean over `axis`, all axes when None; nan where there is nothing to average."""
        total = self.sum(axis, keepdims)
        return total / (self.data.size // max(1, total.data.size))

    def reshape(self, *shape: Any) -> "Tensor":
        """Return the same entries in another shape, given as reshape(2, 3) or reshape((2, 3))."""
        return OPS["reshape"](self, shape=_unpacked(shape))

    def transpose(self, *axes: Any) -> "Tensor":
        """Return the axes in another order, reversed when none is given: transpose(1, 0) or ((1, 0))."""
        return OPS["transpose"](self, axes=_unpacked(axes) or tuple(range(self.ndim))[::-1])

    def backward(self, cotangent: Array = None, *, retain_graph: bool = True) -> None:
        """Add d<cotangent, self>/dx to `x.grad` for every leaf x that requires it.

        cotangent    : array of this shape, or a number for a single value; default 1
        retain_graph : False releases each node, and the arrays it kept, as the walk passes it,
                       so that memory falls while the walk goes on; a second walk is then refused
        Raises ShapeError when the cotangent's shape is not this tensor's.
        """
        if not self.requires_grad:
            raise RuntimeError("backward: no input of this tensor requires a gradient")
        root = self if self.node is None else self.node
        pending = {id(root): self._cotangent(cotangent)}
        for node in _order(root):
            g = pending.pop(id(node), None)
            if g is None:  # every rule below returned None for it
                continue
            if isinstance(node, Tensor):
                g = g if node.grad is None else node.grad + g
                node.grad = xp_of(node.data).asarray(g)  # NumPy makes numbers of arrays without axes
                continue
            gradients = node.backward(g)
            if not isinstance(gradients, tuple) or len(gradients) != len(node.inputs):
                raise AssertionError(f"{node.op}.backward must return a tuple of {len(node.inputs)}")
            if state["observer"] is not None:
                state["observer"](node.op, "backward", gradients)
            for x, dx in zip(node.inputs, gradients, strict=True):
                if x is None or dx is None:
                    continue
                if dx.shape != x.shape or dx.dtype != x.dtype:
                    raise AssertionError(
                        f"{node.op}.backward gave {dx.shape} {dx.dtype} for an input of {x.shape} {x.dtype}"
                    )
                # Out of place: a rule may return dy itself, or one array for two inputs.
                pending[id(x)] = pending[id(x)] + dx if id(x) in pending else dx
            if not retain_graph:
                node.release()
            del node, gradients, g

    def _cotangent(self, cotangent: Array) -> Array:
        xp = xp_of(self.data, cotangent, where="backward", names=("tensor", "cotangent"))
        if cotangent is None:
            if self.data.size != 1:
                raise ValueError(f"backward: a tensor of {self.shape} needs a cotangent of that shape")
            cotangent = 1.0
        cotangent = xp.asarray(cotangent, dtype=self.dtype)
        if cotangent.size == 1 == self.data.size:
            cotangent = cotangent.reshape(self.shape)
        if cotangent.shape != self.shape:
            raise ShapeError(f"backward: cotangent {cotangent.shape}, wanted the tensor's {self.shape}")
        return cotangent


def _order(root: Node | Tensor) -> Iterator[Node | Tensor]:
    """Yield nodes and leaves from `root` back, each only after all its users.

    Users are counted first, so a shared one comes once, after the last of them. Two loops
    and no recursion: depth costs nothing.
    """
    users: dict[int, int] = {}
    stack = [root]
    while stack:
        node = stack.pop()
        users[id(node)] = users.get(id(node), 0) + 1
        if users[id(node)] == 1:
            stack += [x for x in _inputs(node) if x is not None]
    ready = [root]
    while ready:
        node = ready.pop()
        inputs = _inputs(node)  # before the walk releases the node
        yield node
        del node
        for x in inputs:
            if x is None:
                continue
            users[id(x)] -= 1
            if users[id(x)] == 0:
                ready.append(x)


def _inputs(node: Node | Tensor) -> tuple:
    return node.inputs if isinstance(node, Node) else ()


def as_numbers(values: Array) -> Array:
    """Return what holds `values` as an array of numbers, in this machine's byte order."""
    if isinstance(values, Tensor):
        raise TypeError("Tensor: got a Tensor; use .detach() for the values without the graph")
    array = xp_of(values).asarray(values)
    if array.dtype.kind not in "fiub":
        raise TypeError(
            f"Tensor: {array.dtype} values, wanted float32 or float64 numbers, or integers; "
            "complex numbers, text and lists of Tensors are not supported"
        )
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _unpacked(numbers: tuple) -> tuple:
    """Take reshape(2, 3) and reshape((2, 3)) alike, as NumPy does."""
    return tuple(numbers[0]) if len(numbers) == 1 and isinstance(numbers[0], (tuple, list)) else numbers
