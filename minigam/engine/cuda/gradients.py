"""Where the backward pass writes the gradient of a parameter: into the optimizer's array, without a copy."""

from weakref import WeakValueDictionary

from minigam.engine.tensor import Array, Tensor

_LEAVES: WeakValueDictionary[int, Tensor] = WeakValueDictionary()  # id of a leaf's array -> the leaf


def register(leaf: Tensor) -> None:
    """Let rules write the gradient of this leaf into its `home`."""
    _LEAVES[id(leaf.data)] = leaf


def place_for(xp, values: Array) -> tuple[Array, int]:
    """Return (array, add): where a rule writes the gradient of `values`, and 1 if it is to add it there.

    That is the home of a leaf, if it has one that no other rule is writing to; else a new array. The rule
    returns the array, by which the leaf knows that its home has the gradient already.
    """
    leaf = _LEAVES.get(id(values))
    if leaf is None or leaf.data is not values or leaf.home is None or leaf.written is not None:
        return xp.empty(values.shape, dtype=values.dtype), 0
    if leaf.grad is not None and leaf.grad is not leaf.home:  # the user has set it
        return xp.empty(values.shape, dtype=values.dtype), 0
    leaf.written = leaf.home[...]
    return leaf.written, int(leaf.grad is not None)
