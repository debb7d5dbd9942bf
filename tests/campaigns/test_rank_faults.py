"""A rank that dies, hangs or leaves ends all ranks within the deadline, and the run can be resumed.

The fault happens on one rank under a real mpiexec. Afterwards another number of ranks resumes the run, and
the files in the end are those of a run without a fault.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from helpers import crashes, faulty_rank, mpi
from helpers.campaigns import Campaign, campaign, pick
from helpers.children import posix

from minigam.training.ranks.world import EX_TEMPFAIL, ROLL_CALL

pytestmark = posix

DEADLINE = 3
KEPT = f"--shard-optimizer --deadline {DEADLINE}"  # what the line that says how to resume repeats
TRAIN = ("-m", "minigam.train")
SCRIPT = Path(faulty_rank.__file__)
STEPS = {"saving": 8, "validating": 6}  # when each fault happens; the others in step 7, after that of a save
CODES = {"killed": (9, 137), "suspended": (EX_TEMPFAIL,), "raises": (1,), "exits": (3,)}
# Every kind, every place, each of the two ranks, each MPI.
SHORT = [
    ("killed", "in the sum", 1, "mpich"), ("killed", "saving", 0, "openmpi"),
    ("suspended", "before the sum", 0, "mpich"), ("suspended", "saving", 1, "mpich"),
    ("suspended", "validating", 1, "openmpi"), ("raises", "after the sum", 0, "mpich"),
    ("raises", "validating", 1, "openmpi"), ("exits", "saving", 0, "mpich"),
    ("exits", "in the sum", 1, "openmpi"), ("vanishes", "before the sum", 1, "mpich"),
    ("vanishes", "validating", 0, "mpich"), ("vanishes", "after the sum", 1, "openmpi"),
]  # fmt: skip
LONG = list(product(faulty_rank.KINDS, faulty_rank.PLACES, (0, 1), mpi.MPIS))


def flags_of(text: Path) -> list[str]:
    return [
        "--backend=numpy", f"--text={text}", "--block-size=16", "--d-model=8", "--n-layers=1", "--n-slots=2",
        "--batch-size=8", "--dropout=0.2", "--steps=12", "--eval-every=6", "--checkpoint-every=4",
        "--warmup-steps=1",
    ]  # fmt: skip


def complaints(ended: mpi.Ended, path: Path, kind: str, rank: int, of: str, whole: float) -> Iterator[str]:
    """Yield what is wrong with how a fault ended a run.

    whole : seconds that a run without a fault takes: start-up and more than ten steps
    """
    if (path / "complete.json").exists():
        yield "complete.json after a fault"
    # MPICH's mpiexec takes a rank that exits with 0 as done, and kills the others. Nothing here sees it.
    if ended.code == 0 and (kind, of) != ("vanishes", "mpich"):
        yield "no error code"
    if kind in CODES and ended.code not in CODES[kind]:
        yield f"not one of the exit codes {CODES[kind]}"
    if ended.seconds > DEADLINE + ROLL_CALL + 3 * whole:
        yield f"{ended.seconds:.1f} s until the end"
    if ended.err.count("Traceback") != (kind == "raises"):
        yield "not the traceback of the rank that raises alone"
    if kind != "suspended":
        if ended.lines():
            yield "a message of another rank"
        return
    if len(ended.lines()) != 1:
        yield "not one line"
    line = "".join(ended.lines())
    if f"rank {rank} (on" not in line or f"rank {1 - rank} (on" in line or "did not answer" not in line:
        yield f"no line that names rank {rank} alone"
    if (
        not line.endswith("To resume:")
        or f"\n  mpiexec -n 2 minigam train --resume {path} {KEPT}\n" not in ended.err
    ):
        yield "it does not say how to resume"


def resumed(path: Path, whole: Path, n: int, of: str) -> str:
    """Resume with another number of ranks; return what is wrong in the end, empty if nothing is."""
    argv = [*TRAIN, f"--resume={path}", "--backend=numpy"]
    ended = mpi.mpiexec(of, n, argv) if n > 1 else mpi.alone(argv)
    if ended.code != 0:
        return f"cannot be resumed by {n} (exit code {ended.code}): {ended.err.strip()[-600:]}"
    return crashes.differences(path, whole)


def try_fault(
    c: Campaign, fault: tuple[str, str, int, str], flags: list[str], whole: Path, seconds: float, n: int
) -> None:
    kind, place, rank, of = fault
    path = whole.with_name("-".join(map(str, fault)).replace(" ", "-"))
    argv = [SCRIPT, kind, place, rank, STEPS.get(place, 7), *flags, "--shard-optimizer"]
    with mpi.launched(of, 2, [*argv, f"--deadline={DEADLINE}", f"--out={path}"]) as launch:
        ended = launch.wait(timeout=60)
        alive = launch.left_over(patience=5)
    c.count("faults")
    c.measured["longest time to the end, s"] = max(
        round(ended.seconds, 1), c.measured.get("longest time to the end, s", 0.0)
    )
    wrong = [*complaints(ended, path, kind, rank, of, seconds), *(["processes left over"] if alive else [])]
    if wrong:
        c.fault(
            f"{of}: rank {rank} {kind} {place}: {wrong}; exit code {ended.code}: {ended.err.strip()[-600:]}"
        )
    if wrong := resumed(path, whole, n, of):
        c.fault(f"{of}: rank {rank} {kind} {place}: {wrong}")


def test_a_fault_of_a_rank_ends_all_and_the_run_can_be_resumed(text, tmp_path):
    installed = [name for name, m in mpi.MPIS.items() if m.mpiexec.exists()]
    if len(installed) < len(mpi.MPIS):
        pytest.skip("needs two MPIs; make .venv/mpi .venv/openmpi installs them")
    flags, whole = flags_of(text), tmp_path / "whole"
    done = mpi.alone([*TRAIN, *flags, "--rank-tree", f"--out={whole}"])
    assert done.code == 0, done.err
    seconds = max(mpi.mpiexec(of, 2, [*TRAIN, *flags, f"--out={tmp_path / of}"]).seconds for of in installed)
    with campaign("rank_faults") as c:
        for k, fault in enumerate(pick(SHORT, LONG)):
            try_fault(c, fault, flags, whole, seconds, n=(1, 4)[k // 2 % 2])
