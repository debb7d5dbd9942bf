"""Tensors, the tape and the backward pass: all of the automatic differentiation.

An operation is one rule, `rule(xp, *arrays, **settings) -> (y, backward)`, where `backward(dy)`
returns one gradient (or None) per array. `@op` makes it take Tensors and record the tape. A rule
never handles a Tensor, so the tape has no reference cycle: it is freed with its last tensor.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from operator import iadd
from typing import Any, NamedTuple

import numpy as np

from minigam.engine import backend
from minigam.engine.backend import xp_of

Array = Any  # a NumPy or CuPy array; a type checker cannot tell them apart here
Axes = int | tuple[int, ...] | None

OPS: dict[str, Callable[..., "Tensor"]] = {}  # every operation by name; dispatch.py fills it
ADD: dict[str, Callable[..., Array]] = {}  # name of an array library -> a faster `summed`


def summed(a: Array, b: Array, in_place: bool = False) -> Array:
    """Return a + b, two arrays of one shape; in place means in a."""
    if faster := ADD.get(xp_of(a).__name__):
        return faster(a, b, in_place)
    return iadd(a, b) if in_place else a + b


Observer = Callable[[str, str, tuple], None]


class ShapeError(ValueError):
    """The shapes of an operation's inputs do not fit together."""


class State(NamedTuple):
    """What operations do in this thread or task: the number of contexts entered and not left of each sort."""

    no_grad: int = 0
    reference_only: int = 0
    observers: tuple[Observer | None, ...] = ()


INPUTS: ContextVar[tuple] = ContextVar("minigam.inputs", default=())  # of the node whose rule runs backward
_state: ContextVar[State] = ContextVar("minigam.state", default=State())  # noqa: B039  immutable
state = _state.get


def no_grad() -> AbstractContextManager[None]:
    """Operations inside this context record no tape."""
    return _counted("no_grad")


def reference_only() -> AbstractContextManager[None]:
    """Inside this context every operation runs its reference rule, never a faster one."""
    return _counted("reference_only")


@contextmanager
def _counted(name: str) -> Iterator[None]:
    """Count this context in and out, so that several may end in any order, in any thread or task."""

    def count(by: int) -> None:
        _state.set(state()._replace(**{name: getattr(state(), name) + by}))

    count(1)
    try:
        yield
    finally:
        count(-1)


@contextmanager
def observing(observer: Observer | None) -> Iterator[None]:
    """Call `observer(op_name, "forward" | "backward", arrays)` on every result inside this context.
    Only the innermost context counts; None observes nothing."""
    _state.set(state()._replace(observers=(*state().observers, observer)))
    try:
        yield
    finally:
        others = list(state().observers)
        others.remove(observer)
        _state.set(state()._replace(observers=tuple(others)))


def observe(op_name: str, phase: str, arrays: tuple) -> None:
    """Tell the innermost observer, if there is one, of a result."""
    if (observers := state().observers) and observers[-1] is not None:
        observers[-1](op_name, phase, arrays)


@dataclass(slots=True, eq=False)
class Node:
    """How a tensor was computed: the operation, its inputs, and the backward rule.

    An input is the node of a computed tensor, a leaf, or None if it needs no gradient. A node holds no
    computed tensor, so a value that no rule keeps for backward is freed with the last reference to it."""

    op: str
    inputs: tuple["Node | Tensor | None", ...]
    backward: Callable[[Any], tuple[Any, ...]]
    shape: tuple[int, ...]
    dtype: Any
    version: int  # of the leaves among the inputs, when their values were read

    def leaf_version(self) -> int:
        """Return the sum of the versions that the leaves among the inputs have now."""
        return sum([x.version for x in self.inputs if isinstance(x, Tensor)])

    def gradients(self, dy: Array) -> list[tuple["Node | Tensor", Array]]:
        """Run the backward rule, check what it returns, and return the inputs with their gradients."""
        token = INPUTS.set(self.inputs)
        try:
            found: Any = self.backward(dy)
        finally:
            INPUTS.reset(token)
        if not isinstance(found, tuple) or len(found) != len(self.inputs):
            raise AssertionError(f"{self.op}.backward must return a tuple of {len(self.inputs)}")
        observe(self.op, "backward", found)
        pairs = [(x, dx) for x, dx in zip(self.inputs, found) if x is not None and dx is not None]
        for x, dx in pairs:
            if dx.shape != x.shape or dx.dtype != x.dtype:
                got, wanted = f"{dx.shape} {dx.dtype}", f"{x.shape} {x.dtype}"
                raise AssertionError(f"{self.op}.backward gave {got} for an input of {wanted}")
        return pairs


def _released(dy: Array) -> tuple[Array, ...]:
    raise RuntimeError("backward: this graph was released by backward(retain_graph=False); compute it again")


Operator = Callable[["Tensor", Any], "Tensor"]


def _operator(name: str) -> tuple[Operator, Operator]:
    """Return the methods for `tensor op other` and `other op tensor`."""
    return lambda a, b: OPS[name](a, b), lambda a, b: OPS[name](b, a)


class Tensor:
    """An array, its gradient, and how it was computed.

    array         : an array of any registered library, or anything that NumPy converts to one
    requires_grad : whether backward() stores a gradient in `.grad`
    name          : label in a drawing of the graph
    Raises TypeError if the array does not hold numbers, or if integers require a gradient.
    """

    __slots__ = ("__weakref__", "data", "grad", "home", "name", "node", "requires_grad", "version", "written")
    __array_ufunc__ = None  # so that NumPy array * Tensor calls Tensor.__rmul__

    def __init__(
        self, array: Array, requires_grad: bool = False, node: Node | None = None, name: str = ""
    ) -> None:
        self.data = as_numbers(array)
        if requires_grad and self.data.dtype.kind != "f":
            raise TypeError(f"Tensor: {self.data.dtype} has no gradient; use float32 or float64")
        self.requires_grad, self.node, self.name = requires_grad, node, name
        self.grad: Array = None
        self.home: Array = None  # an optimizer's array that the gradient is written to, if it has one
        self.written: Array = None  # a view of home that a rule has written to; see cuda/gradients.py
        self.version = 0  # raised by what changes the values in place, as optimizers do

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
        return bool(self.data)  # NumPy raises unless it is one number

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
        """Return the values as a NumPy array: the tensor's own array if that is NumPy's, else a copy."""
        return backend.to_numpy(self.data)

    def item(self) -> float:
        """Return the only value as a Python number."""
        return self.data.item()

    def detach(self) -> "Tensor":
        """Return the same values without the graph."""
        return Tensor(self.data)

    def to(self, name: str) -> "Tensor":
        """Return the same values as a new leaf of the backend called `name`."""
        return Tensor(backend.to(self.data, name), self.requires_grad, name=self.name)

    # Operators: each calls the operation of that name in ops.py. The second of a pair swaps the operands.

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
        n = self.data.size // max(1, self.data.any(axis=axis).size)
        if self.dtype == np.float16:  # whose sum of 70,000 ones is infinite
            return (self * (1.0 / max(1, n))).sum(axis, keepdims)
        return self.sum(axis, keepdims) / n

    def reshape(self, *shape: Any) -> "Tensor":
        """Return the same entries in another shape, given as reshape(2, 3) or reshape((2, 3))."""
        return OPS["reshape"](self, shape=_unpacked(shape))

    def transpose(self, *axes: Any) -> "Tensor":
        """Permute the axes, as in transpose(1, 0) or transpose((1, 0)); without arguments reverse them."""
        return OPS["transpose"](self, axes=_unpacked(axes) or tuple(range(self.ndim))[::-1])

    def backward(self, cotangent: Array = None, *, retain_graph: bool = True) -> None:
        """Add d<cotangent, self>/dx to `x.grad` for every leaf x that requires it.

        cotangent    : array of this tensor's shape; for a single value a number, by default 1
        retain_graph : False releases each node and its arrays once it is done; no second pass is possible
        Raises ShapeError if the cotangent does not have this tensor's shape, RuntimeError if an optimizer
        has changed a leaf since the forward pass. NumPy arrays of computed tensors are read-only. Any other
        write between the two passes, into a leaf, ids, targets or an array on a GPU, gives wrong gradients.
        """
        if not self.requires_grad:
            raise RuntimeError("backward: no input of this tensor requires a gradient")
        g = self._cotangent(cotangent)
        if self.node is None:
            return self._add_gradient(g)
        pending = {id(self.node): g}
        for node in _order(self.node):
            g = pending.pop(id(node), None)
            if g is None:  # every rule that uses it returned None
                continue
            if node.version != node.leaf_version():
                raise RuntimeError(f"backward: an input of {node.op} changed since the forward pass; redo it")
            for x, dx in node.gradients(g):
                if isinstance(x, Tensor):
                    x._add_gradient(dx)
                else:  # out of place: a rule may return dy itself, or one array for two inputs
                    pending[id(x)] = summed(pending[id(x)], dx) if id(x) in pending else dx
            if not retain_graph:  # drop everything that is kept for the backward pass
                node.inputs, node.backward, node.version = (), _released, 0
            del node, g

    def _add_gradient(self, g: Array) -> None:
        """Add g to `.grad`, an array that this leaf alone holds."""
        if g is self.written:  # its rule has added it to home
            g, self.written = self.home, None
        elif self.grad is not None:
            g = summed(self.grad, g, in_place=self.grad is self.home)
        elif type(self.home) is type(g) and (self.home.shape, self.home.dtype) == (g.shape, g.dtype):
            self.home[...] = g
            g = self.home
        else:
            g = g.copy()
        self.grad = g if type(g) is type(self.data) else xp_of(self.data).asarray(g)  # no NumPy scalar

    def _cotangent(self, cotangent: Array) -> Array:
        xp = xp_of(self.data, cotangent, where="backward", names=("tensor", "cotangent"))
        if cotangent is None and self.data.size != 1:
            raise ValueError(f"backward: a tensor of {self.shape} needs a cotangent of that shape")
        cotangent = xp.asarray(1.0 if cotangent is None else cotangent, dtype=self.dtype)
        if cotangent.size == 1 == self.data.size:
            cotangent = cotangent.reshape(self.shape)
        if cotangent.shape != self.shape:
            raise ShapeError(f"backward: cotangent {cotangent.shape}, wanted the tensor's {self.shape}")
        return cotangent


def _order(root: Node) -> Iterator[Node]:
    """Yield nodes from `root` back, each once, after all its users. Loops: a graph can be of any depth."""
    users: dict[int, int] = {}
    stack = [root]
    while stack:
        node = stack.pop()
        users[id(node)] = users.get(id(node), 0) + 1
        if users[id(node)] == 1:
            stack += [x for x in node.inputs if isinstance(x, Node)]
    ready = [root]
    while ready:
        node = ready.pop()
        inputs = node.inputs  # read now: backward() may release the node
        yield node
        del node
        for x in inputs:
            if isinstance(x, Node):
                users[id(x)] -= 1
                if users[id(x)] == 0:
                    ready.append(x)


def as_numbers(values: Array) -> Array:
    """Return `values` as an array of numbers, in this machine's byte order."""
    if isinstance(values, Tensor):
        raise TypeError("Tensor: got a Tensor; use .detach() for the values without the graph")
    array = xp_of(values).asarray(values)
    if array.dtype.kind not in "fiub":
        wanted = "float32 or float64 numbers, or integers, not complex numbers, text or lists of Tensors"
        raise TypeError(f"Tensor: {array.dtype} values, wanted {wanted}")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _unpacked(numbers: tuple) -> tuple:
    """Accept reshape(2, 3) as well as reshape((2, 3)), as NumPy does."""
    return tuple(numbers[0]) if len(numbers) == 1 and isinstance(numbers[0], (tuple, list)) else numbers
