"""Connect the ranks that a launcher has started."""

import math
from types import ModuleType

from minigam.config import InputError
from minigam.launcher import Place
from minigam.training.ranks.agreement import Silent, together
from minigam.training.ranks.world import ALONE, World


def connected(place: Place | None, deadline: float) -> World:
    """Return the ranks that were started together with this process, by MPI; ALONE without others.

    place    : what the launcher says of this process, None without a launcher
    deadline : seconds to wait for another rank, in addition to the time of ten steps
    Raises InputError if they cannot be connected; on all ranks but one SystemExit, which prints nothing.
    """
    try:
        if not 0.0 < deadline < math.inf:
            raise InputError(f"--deadline is {deadline}, wanted a number of seconds above 0")
        if place is None or place.size == 1:
            return ALONE
        from minigam.training.ranks.nccl import NCCLWorld

        return NCCLWorld(place, deadline)
    except InputError as e:
        if place is not None and place.rank > 0:
            raise Silent(2) from e
        raise


def use_gpus(world: World, xp: ModuleType) -> None:
    """Connect the GPUs of several ranks, so that sums of device arrays work. `xp` is their array library.

    Raises InputError if a rank has no GPU of its own, or NCCL cannot be used.
    """
    if world.size > 1:
        from minigam.training.ranks.nccl import NCCLWorld

        assert isinstance(world, NCCLWorld)  # noqa: S101  for the type checker
        gpus = world
        unique_id = together(gpus, lambda: gpus.find_gpus(xp))
        gpus.connect_gpus(xp, unique_id)
