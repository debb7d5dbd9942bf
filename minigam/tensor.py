"""Tensors, the tape, and the walk back: the whole of the automatic differentiation.

An operation is one rule, `rule(xp, *arrays, **settings) -> (y, backward)`, where `backward(dy)`
returns one gradient (or None) per array. `@op` makes it take Tensors and keep the tape. Rules
never see a Tensor, so the tape has no reference cycle and goes when its last tensor does.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigam import backend
from minigam.backend import xp_of
from minigam.graph import draw

_state: dict[str, Any] = {"grad": True, "fast": True, "observer": None}


class ShapeError(ValueError):
    """The shapes of an operation's inputs do not fit together."""


@contextmanager
def _with(**changes):
    before = dict(_state)
    _state.update(changes)
    try:
        yield
    finally:
        _state.update(before)


def no_grad():
    """Inside this context operations keep no tape."""
    return _with(grad=False)


def reference_only():
    """Inside this context every operation runs its reference rule, never a faster one."""
    return _with(fast=False)


def observing(observer: Callable[[str, str, tuple], None]):
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


def _gone(dy):
    raise RuntimeError("backward: this graph was released by backward(retain_graph=False); compute it again")


class Tensor:
    """An array, its gradient, and how it was made.

    array         : an array of any registered library, or what NumPy makes one of
    requires_grad : whether backward() is to leave a gradient in `.grad`
    name          : what to call it in a drawing
    """

    __slots__ = ("__weakref__", "data", "grad", "name", "node", "requires_grad")
    __array_ufunc__ = None  # NumPy array * Tensor is Tensor's to answer

    def __init__(self, array, requires_grad: bool = False, node: Node | None = None, name: str = ""):
        if isinstance(array, Tensor):
            raise TypeError("Tensor: got a Tensor; use .detach() for the values without the graph")
        self.data = xp_of(array).asarray(array)
        if requires_grad and self.data.dtype.kind != "f":
            raise TypeError(f"Tensor: {self.data.dtype} has no gradient; use float32 or float64")
        self.requires_grad, self.node, self.name, self.grad = requires_grad, node, name, None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def dtype(self):
        return self.data.dtype

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        made = f", op={self.node.op}" if self.node else ", requires_grad" if self.requires_grad else ""
        return f"Tensor({self.data}, {self.dtype}{made})"

    def _repr_svg_(self) -> str | None:
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

    def backward(self, cotangent=None, *, retain_graph: bool = True) -> None:
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
            if _state["observer"] is not None:
                _state["observer"](node.op, "backward", gradients)
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

    def _cotangent(self, cotangent):
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


OPS: dict[str, "Op"] = {}  # every operation by name, for the tests and the gradient-check command


class Op:
    """A differentiable operation: one reference rule, plus faster rules by backend."""

    def __init__(self, rule: Callable):
        self.rule, self.fast = rule, {}
        self.name, self.__doc__, self.__wrapped__ = rule.__name__, rule.__doc__, rule
        parameters = list(inspect.signature(rule).parameters.values())[1:]
        self.arguments = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
        OPS[self.name] = self

    def __repr__(self) -> str:
        return f"<op {self.name}({', '.join(self.arguments)})>"

    def __call__(self, *args, **settings) -> Tensor:
        if named := [name for name in self.arguments if name in settings]:
            raise TypeError(f"{self.name}: {', '.join(named)} given by name; arrays go by position")
        arrays = [a.data if isinstance(a, Tensor) else a for a in args]
        xp = xp_of(*arrays, where=self.name, names=self.arguments)
        dtype = self._float_dtype(arrays)
        rule = self.fast.get(xp.__name__, self.rule) if _state["fast"] else self.rule
        y, backward = rule(xp, *arrays, **settings)
        if dtype is not None and y.dtype != dtype:
            raise TypeError(f"{self.name}: {dtype} inputs gave {y.dtype}; convert integer arrays first")
        if _state["observer"] is not None:
            _state["observer"](self.name, "forward", (y,))
        given = args + (None,) * (len(self.arguments) - len(args))  # optional arguments left out
        inputs = tuple((a.node or a) if isinstance(a, Tensor) and a.requires_grad else None for a in given)
        if not _state["grad"] or not any(x is not None for x in inputs):
            return Tensor(y)
        return Tensor(y, True, Node(self.name, inputs, backward, y.shape, y.dtype))

    def _float_dtype(self, arrays):
        """Return the one dtype of the float inputs, None when there is none: no implicit casts."""
        found = {}
        for name, a in zip(self.arguments, arrays, strict=False):
            if getattr(getattr(a, "dtype", None), "kind", "") == "f":
                found.setdefault(a.dtype, f"{name} {tuple(a.shape)} is {a.dtype}")
        if len(found) > 1:
            raise TypeError(f"{self.name}: {', '.join(found.values())}; make them one dtype first")
        return next(iter(found), None)

    def faster(self, backend_name: str):
        """Register another complete rule of the same contract for one backend."""

        def register(rule):
            self.fast[backend_name] = rule
            return rule

        return register


op = Op
