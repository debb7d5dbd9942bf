"""Connect the ranks that a launcher has started, and see that there is work for each."""

import math
import time
from dataclasses import replace
from itertools import count
from types import ModuleType

from minigam import launcher
from minigam.config import WRITTEN, GAMConfig, InputError, ModelConfig, TrainConfig
from minigam.launcher import Place
from minigam.training.ranks.agreement import Silent, together
from minigam.training.ranks.world import ALONE, HOLD_BACK, LEAVES, World, share


def connected(place: Place | None, deadline: float) -> World:
    """Return the ranks that were started together with this process, by MPI; ALONE without others.

    place    : what the launcher says of this process, None without a launcher
    deadline : seconds to wait for another rank, in addition to the time of ten steps
    Raises InputError if they cannot be connected; SystemExit, which prints nothing, on all ranks of a machine
    but one.
    """
    try:
        if not 0.0 < deadline < math.inf:
            raise InputError(f"--deadline is {deadline}, wanted a number of seconds above 0")
        if place is None or place.size == 1:
            return ALONE
        from minigam.training.ranks.nccl import NCCLWorld

        return NCCLWorld(place, deadline)
    except InputError as e:
        if place is not None and place.local_rank > 0:
            time.sleep(HOLD_BACK)
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


def divided(train: TrainConfig, given: dict, backend: str) -> TrainConfig:
    """Return the settings of a new run with the tree that ranks need. Raises InputError for flags that do not
    go together.

    given : the flags that the user has set
    """
    launched = launcher.place() is not None
    if given.get("rank_tree") and backend != "numpy":
        raise InputError("--rank-tree has no effect on a GPU, where the order of sums is not fixed; omit it")
    if given.get("rank_tree") is False and launched:
        raise InputError("--no-rank-tree has no effect under mpiexec; omit it, or start one process without")
    if train.split_sequence and train.rank_tree:
        raise InputError("--rank-tree has no effect with --split-sequence, which has a tree; omit it")
    if train.split_sequence and train.micro_batch:
        raise InputError(
            "--micro-batch has no effect with --split-sequence, which takes one row at a time; omit it"
        )
    tree = train.rank_tree or (launched and backend == "numpy" and not train.split_sequence)
    return replace(train, rank_tree=tree)


def require_divisible(model: ModelConfig, train: TrainConfig, ranks: int) -> None:
    """Raise InputError unless each rank gets rows of a batch, or tokens of a row."""
    leaves = max(LEAVES, ranks)
    if train.split_sequence:
        if not isinstance(model, GAMConfig) or model.mixer == WRITTEN:
            raise InputError(
                f"--split-sequence: a token of {model.label} depends on all earlier ones, so a row cannot be "
                "split; omit it, or train a GAM of the paper"
            )
        if model.block_size < leaves:
            raise InputError(f"--block-size is {model.block_size}, wanted at least {leaves} to split a row")
        return
    least = next(n for n in count(ranks) if all(_rows(n, rank, ranks, leaves) for rank in range(ranks)))
    if train.batch_size < least:
        raise InputError(
            f"--batch-size is {train.batch_size}, wanted at least {least}, so that each of {ranks} ranks has "
            "a row; choose a larger batch, or --split-sequence"
        )


def _rows(batch: int, rank: int, ranks: int, leaves: int) -> int:
    """Return how many rows of a batch a rank computes."""
    own = share(leaves, rank, ranks)
    return share(batch, own.stop - 1, leaves).stop - share(batch, own.start, leaves).start
