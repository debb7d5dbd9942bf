"""The interface between training and the ranks that take part in it, and its simplest maker: one rank.

A sum over ranks is that of a binary tree: ((g0 + g1) + (g2 + g3)) + ... The parts of a batch are the leaves
of the same tree, so 1, 2, 4 and 8 ranks add the same numbers in the same order.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from minigam.engine.tensor import Array, summed

DEADLINE = 60.0  # seconds to wait for another rank, in addition to the time of ten steps
ROLL_CALL = 5.0  # seconds that a rank has to answer when another has waited too long
HOLD_BACK = 1.0  # seconds that a rank has to print why all ranks end
EX_TEMPFAIL = 75  # exit code when a rank is lost, from sysexits.h: the same command may work later
LEAVES = 8  # of the tree, at least; more ranks than that have a leaf each
Item = TypeVar("Item")


class RankLost(Exception):
    """A rank did not take part in time. `speaks` is True on the rank that is to say so."""

    def __init__(self, message: str, speaks: bool = True):
        super().__init__(message)
        self.speaks = speaks


class World:
    """The ranks that train one model together. This one is alone; see `mpi`, `nccl` for several.

    rank, size   : the number of this rank, 0 .. size - 1, and how many there are
    sent         : bytes that this rank has sent in sums and gathers
    step_seconds : time of a step; a rank waits for ten more of them than the deadline says
    patience     : seconds to wait in addition, for rank 0 to write a checkpoint
    Every rank calls the same methods in the same order. A rank that waits for another longer than the
    deadline raises RankLost.
    """

    rank, size, sent, step_seconds, patience = 0, 1, 0, 0.0, 0.0

    def start_sum(self, a: Array) -> None:
        """Begin to replace `a` (n) by its sum over all ranks. `finish_sums` waits until that is done."""

    def finish_sums(self) -> None:
        """Wait until all sums that were started are done."""

    def all_gather(self, a: Array) -> None:
        """Fill `a` (n), of which each rank knows its own `share`, with the shares of the others."""

    def gather(self, own: Array, n: int) -> Array | None:
        """Return on rank 0 the array (n) of all ranks' shares, None on the others."""
        return own

    def exchange(self, text: str, what: str = "an agreement") -> list[str]:
        """Return the texts of all ranks. `what` is what a rank waits for, in the message if it is in vain."""
        return [text]

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank."""
        return flag

    def wait(self, done: Callable[[], bool], wait: Callable[[], object]) -> None:
        """Wait until `done()`, which `wait()` does as well, but without a deadline."""
        wait()

    def choose_gpu(self) -> None:
        """Make the GPU of this rank the current device. Call this before anything uses a GPU."""

    def hold_back(self) -> None:
        """Let another rank print first: a launcher ends all ranks at the first that fails."""

    def close(self) -> None:
        """Wait for all ranks to end. A rank that ends without this ends them all."""

    def leave(self, code: int) -> None:
        """End all ranks with this exit code, unless they have ended together by `close`."""

    def share(self, n: int) -> slice:
        """Return which of n things this rank does: the i-th of nearly equal parts."""
        return share(n, self.rank, self.size)


ALONE = World()


def share(n: int, i: int, parts: int) -> slice:
    """Return the i-th of `parts` nearly equal parts of n things; a part may be empty."""
    return slice(i * n // parts, (i + 1) * n // parts)


def pairwise(items: Sequence[Item | None], add: Callable[[Item, Item], Item]) -> Item | None:
    """Add neighbours, then neighbours of the sums, and so on to one. None counts as nothing."""
    while len(items) > 1:
        pairs = [items[i : i + 2] for i in range(0, len(items), 2)]
        items = [merged(add, *pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return items[0]


def merged(add: Callable[[Item, Item], Item], left: Item | None, right: Item | None) -> Item | None:
    """Return left + right, where None counts as nothing."""
    if left is None or right is None:
        return right if left is None else left
    return add(left, right)


def tree_sum(rows: Array) -> Array:
    """Return the sum of the rows (n, m) of an array, in the order of the tree; the rows are used up."""
    return pairwise(list(rows), lambda a, b: summed(a, b, in_place=True))
