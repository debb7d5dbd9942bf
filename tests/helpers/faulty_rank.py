"""minigam train, in which a fault happens on one rank, at one place of one step.

    mpiexec -n 2 python tests/helpers/faulty_rank.py KIND PLACE RANK STEP --backend=numpy ...

The package has no hooks for this: functions are replaced from outside.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minigam import cli, launcher, train
from minigam.training import loop, validation
from minigam.training.optim import AdamW
from minigam.training.ranks.mpi import MPIWorld
from minigam.training.run import Run


def _raise() -> None:
    raise RuntimeError("a fault on purpose")


KINDS: dict[str, Callable[[], Any]] = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "suspended": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "raises": _raise,
    "exits": lambda: sys.exit(3),
    "vanishes": lambda: os._exit(0),
}


class Fault:
    """A fault that waits for its step, and happens once."""

    def __init__(self, kind: str, step: int) -> None:
        self.happen, self.step, self.now, self.armed = KINDS[kind], step, 0, True
        begin = loop.begin_step

        def counted(*args: Any, **settings: Any) -> Any:
            self.now += 1
            return begin(*args, **settings)

        loop.begin_step = counted

    def before(self, owner: Any, name: str, so_far: Callable[[], bool] = lambda: True) -> None:
        """Let the fault happen before the first call of owner.name in its step, once `so_far()` is true."""
        call = getattr(owner, name)

        def faulty(*args: Any, **settings: Any) -> Any:
            if self.armed and self.now == self.step and so_far():
                self.armed = False
                self.happen()
            return call(*args, **settings)

        setattr(owner, name, faulty)


def _before_the_sum(fault: Fault) -> None:
    fault.before(MPIWorld, "start_sum")


def _in_the_sum(fault: Fault) -> None:
    fault.before(MPIWorld, "finish_sums")


def _after_the_sum(fault: Fault) -> None:
    fault.before(AdamW, "step")


def _saving(fault: Fault) -> None:
    """Between the two files of a checkpoint, or in sending the moments that go into the first."""
    saving, save = [], Run.save

    def noted(*args: Any) -> None:
        saving.append(True)
        save(*args)

    Run.save = noted
    fault.before(Run, "_save_weights", lambda: bool(saving))
    if launcher.rank() > 0:
        fault.before(MPIWorld, "gather", lambda: bool(saving))


def _validating(fault: Fault) -> None:
    """In the middle of `evaluate`, where the model is in eval mode and no loss is there yet."""
    fault.before(validation, "no_grad")


PLACES = {
    "before the sum": _before_the_sum,
    "in the sum": _in_the_sum,
    "after the sum": _after_the_sum,
    "saving": _saving,
    "validating": _validating,
}


def main() -> None:
    kind, place, rank, step, *sys.argv[1:] = sys.argv[1:]
    if launcher.rank() == int(rank):
        PLACES[place](Fault(kind, int(step)))
    cli.run(train.main, train.PROG)


if __name__ == "__main__":
    # The folder of this script is that of the helpers, whose names must not hide other modules.
    sys.path.remove(str(Path(__file__).parent))
    main()
