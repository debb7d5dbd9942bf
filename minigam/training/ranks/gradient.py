"""The gradient of a step: a sum over the leaves of a batch, of which each rank has some.

While the backward pass of the last leaf is still under way, gradients that are already complete are sent, a
bucket at a time, so that communication and computation overlap.
"""

from collections import Counter

from minigam.engine.tensor import Array, Node, Tensor, summed
from minigam.models.nn import Parameter
from minigam.training.optim import AdamW
from minigam.training.ranks.world import World, merged

BUCKET = 2**18  # numbers, at least, that are sent at a time: 1 MiB of float32


class GradientSum:
    """Adds the gradients of leaves, in the order of the tree, in the optimizer's flat array.

    Call `keep` after the backward pass of each leaf but the last. Call `watch` before the last backward pass
    of the last leaf, and `finish` after it.

    leaves : of all ranks. If it is the only one, a parameter without a gradient stays without; else its
             gradient is 0, unless it requires none
    """

    def __init__(self, optimizer: AdamW, world: World, leaves: int):
        self.optimizer, self.world, single = optimizer, world, world.size == leaves == 1
        self.waiting: list[Array | None] = []  # left halves of the tree that wait for their right half
        self.buckets, self.next_bucket = [] if single else buckets_of(optimizer), 0
        self.uses: Counter[int] = Counter()

    def keep(self, leaf: int, empty: bool) -> None:
        """Put the gradient of a leaf in the tree, then forget it. `leaf` counts those of this rank, from 0.

        empty : the leaf has no targets, so no backward pass
        """
        total, level = (None if empty else self._fill_missing(self.optimizer.parameters)), 0
        self.waiting += [None] * (leaf.bit_length() + 1 - len(self.waiting))
        while leaf >> level & 1:  # the left neighbour of the tree so far is complete
            total = merged(_add_to_right, self.waiting[level], total)
            self.waiting[level], level = None, level + 1
        self.waiting[level] = total.copy() if total is self.optimizer.gradients else total
        self.optimizer.zero_grad()

    def watch(self, loss: Tensor) -> None:
        """Send each bucket as soon as the backward pass of `loss`, the last one, has completed it."""
        if self.world.size > 1 and loss.node is not None:
            self.uses = _uses(loss.node)
            for p in self.optimizer.parameters:
                p.on_gradient = self._one_more

    def _one_more(self, p: Parameter) -> None:
        """Note one of the gradients that a backward pass adds to a parameter."""
        self.uses[id(p)] -= 1
        while self.next_bucket < len(self.buckets):
            parameters, _ = self.buckets[self.next_bucket]
            if any(self.uses[id(p)] > 0 for p in parameters):
                break
            self._send()

    def _send(self) -> None:
        parameters, at = self.buckets[self.next_bucket]
        self._fill_missing(parameters)
        bucket = self.optimizer.gradients[at]
        for left in self.waiting:  # from the smallest part of the tree to the largest
            if left is not None:
                _add_to_right(left[at], bucket)
        self.next_bucket += 1
        self.world.start_sum(bucket)

    def finish(self) -> None:
        """Add what is still to be added, and wait until the sum over all ranks is there."""
        for p in self.optimizer.parameters:
            p.on_gradient = None
        while self.next_bucket < len(self.buckets):
            self._send()
        self.waiting.clear()
        self.world.finish_sums()

    def _fill_missing(self, parameters: list[Parameter]) -> Array:
        """Write 0 where a backward pass has left no gradient; return the whole gradient."""
        for p in parameters:
            if p.grad is not p.home:  # a single number is not written to its home
                p.home[...] = 0.0 if p.grad is None else p.grad
                p.grad = p.home if p.requires_grad else None
        return self.optimizer.gradients


def _add_to_right(left: Array, right: Array) -> Array:
    return summed(right, left, in_place=True)  # a + b = b + a to the bit


def buckets_of(optimizer: AdamW) -> list[tuple[list[Parameter], slice]]:
    """Return the parameters and the place of each bucket, from the last parameter to the first, which is the
    order of a backward pass."""
    buckets: list[tuple[list[Parameter], slice]] = []
    for p, at in zip(reversed(optimizer.parameters), reversed(optimizer.places)):
        if buckets and buckets[-1][1].stop - buckets[-1][1].start < BUCKET:
            parameters, later = buckets[-1]
            buckets[-1] = [*parameters, p], slice(at.start, later.stop)
        else:
            buckets.append(([p], at))
    return buckets


def _uses(root: Node) -> Counter[int]:
    """Return how often each leaf of a graph is an input, by its id."""
    uses, seen, stack = Counter[int](), {id(root)}, [root]
    while stack:
        for x in stack.pop().inputs:
            if isinstance(x, Tensor):
                uses[id(x)] += 1
            elif x is not None and id(x) not in seen:
                seen.add(id(x))
                stack.append(x)
    return uses
