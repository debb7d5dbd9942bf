"""Operations: `@op` wraps a rule so that it takes Tensors, checks its inputs and records the tape."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Concatenate, Generic, ParamSpec

import numpy as np

from minigam.engine.backend import xp_of
from minigam.engine.tensor import OPS, Array, Node, Tensor, as_numbers, observe, state

Backward = Callable[[Array], tuple[Array, ...]]
P = ParamSpec("P")


class Op(Generic[P]):
    """A differentiable operation: one reference rule, and faster rules for some backends.

    integers : whether all inputs may be integers; if not, at least one must be a float array
    """

    def __init__(self, rule: Callable[Concatenate[Any, P], tuple[Array, Backward]], integers: bool = False):
        self.rule: Callable[..., tuple[Array, Backward]] = rule
        self.fast: dict[str, Callable[..., tuple[Array, Backward]]] = {}
        self.checks: Callable[..., None] | None = None
        self.name, self.__doc__, self.__wrapped__, self.integers = rule.__name__, rule.__doc__, rule, integers
        parameters = list(inspect.signature(rule).parameters.values())[1:]  # callers do not pass xp
        self.__signature__ = inspect.Signature(parameters)
        arrays = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
        self.arguments = tuple(p.name for p in arrays)
        self._required = sum(p.default is p.empty for p in arrays)
        OPS[self.name] = self

    def __repr__(self) -> str:
        return f"<op {self.name}{self.__signature__}>"

    def __call__(self, *args: P.args, **settings: P.kwargs) -> Tensor:
        by_name = not settings.keys().isdisjoint(self.arguments)
        if by_name or not self._required <= len(args) <= len(self.arguments):
            args, settings = self._by_position(args, settings)  # type: ignore[assignment]
        arrays = self._arrays(args)
        xp = xp_of(*arrays, where=self.name, names=self.arguments)
        dtype = self._float_dtype(arrays)
        if self.checks is not None:
            self.checks(*arrays, **settings)
        rule = self.rule if state().reference_only else self.fast.get(xp.__name__, self.rule)
        y, backward = rule(xp, *arrays, **settings)
        if dtype is not None and y.dtype != dtype:
            raise TypeError(f"{self.name}: {dtype} inputs gave {y.dtype}; convert integer arrays first")
        observe(self.name, "forward", (y,))
        padded = args + (None,) * (len(self.arguments) - len(args))  # None for omitted optional arrays
        inputs = tuple((a.node or a) if isinstance(a, Tensor) and a.requires_grad else None for a in padded)
        if state().no_grad or inputs.count(None) == len(inputs):
            return Tensor(y)
        node = Node(self.name, inputs, backward, y.shape, y.dtype, 0)
        node.version = node.leaf_version()
        result = Tensor(y, True, node)
        if xp is np and not any(y is a for a in arrays):
            result.data.flags.writeable = False  # backward may read it
        return result

    def _by_position(self, args: tuple, settings: dict) -> tuple[tuple, dict]:
        """Return (args, settings) with every array in args. Raises TypeError for a wrong number of arrays."""
        try:
            bound = self.__signature__.bind(*args, **settings)
        except TypeError as e:
            raise TypeError(f"{self.name}: {e}; wanted {self.name}{self.__signature__}") from None
        bound.apply_defaults()
        return bound.args, bound.kwargs

    def _arrays(self, args: tuple) -> list[Array]:
        """Unwrap Tensors and convert lists to arrays.

        A list takes the dtype of the other float inputs, as a Python number does. A Python number stays
        one in operations that accept integers, and becomes an array in all others.
        """
        arrays = [a.data if isinstance(a, Tensor) else a for a in args]
        converted = (list, tuple) if self.integers else (list, tuple, int, float)
        for i, a in enumerate(arrays):
            if isinstance(a, converted):
                dtype = next((b.dtype for b in arrays if hasattr(b, "dtype") and b.dtype.kind == "f"), None)
                a = xp_of(*arrays).asarray(as_numbers(a))
                arrays[i] = (
                    a.astype(dtype) if dtype is not None and (a.dtype.kind == "f" or self.integers) else a
                )
        return arrays

    def _float_dtype(self, arrays: list[Array]) -> np.dtype | None:
        """Return the dtype that all float inputs share, None if there are none. No implicit casts."""
        dtypes = [a.dtype for a in arrays if hasattr(a, "dtype") and a.dtype.kind == "f"]
        if not dtypes and self.integers:
            return None
        if not dtypes or dtypes.count(dtypes[0]) != len(dtypes):
            named = zip(self.arguments, arrays, strict=False)
            inputs = [f"{name} {tuple(a.shape)} is {a.dtype}" for name, a in named if hasattr(a, "dtype")]
            wanted = "make them one dtype first" if dtypes else "wanted float32 or float64; convert it first"
            raise TypeError(f"{self.name}: {', '.join(inputs)}; {wanted}")
        return dtypes[0]

    def check(self, check: Callable[..., None]) -> Callable[..., None]:
        """Register a check of arrays and settings. It runs before any rule, and raises if they do not fit."""
        self.checks = check
        return check

    def faster(self, backend_name: str) -> Callable[[Callable], Callable]:
        """Register a faster rule for one backend: a complete rule with the same contract."""

        def register(rule: Callable) -> Callable:
            self.fast[backend_name] = rule
            return rule

        return register


op = Op  # @op turns a rule into an operation, @integer_op into one whose inputs may all be integers
integer_op = partial(Op, integers=True)
