"""What the variables of a launcher say, and how many threads a rank then uses."""

import os
import subprocess
import sys

import pytest

from minigam import launcher, threads
from minigam.launcher import Place

CORES = threads.cores()
SET_BY_LAUNCHERS = sorted({name for names in launcher.VARIABLES for name in names})
OPEN_MPI, MPICH, SLURM = (
    dict(zip(names, values, strict=True))
    for names, values in zip(launcher.VARIABLES, [("2", "8", "4", "1")] * 3, strict=True)
)
RANK, SIZE, LOCAL, LOCAL_RANK = OPEN_MPI


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    """Forget the launcher that these tests themselves may have."""
    for name in SET_BY_LAUNCHERS:
        monkeypatch.delenv(name, raising=False)


def place_of(variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return launcher.place()


def test_a_process_without_a_launcher_has_no_place():
    assert launcher.place() is None and launcher.rank() == 0


@pytest.mark.parametrize("variables", [OPEN_MPI, MPICH, SLURM], ids=["Open MPI", "MPICH", "Slurm"])
def test_each_launcher_is_known(variables, monkeypatch):
    assert place_of(variables, monkeypatch) == Place(2, 8, 4, 1)
    assert launcher.rank() == 2


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2(x3),1"}, Place(2, 8, 2, 1)),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "3,5"}, Place(2, 8, 3, 1)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, None),  # a script of sbatch, before srun
        (MPICH | SLURM | {"MPI_LOCALNRANKS": ""}, Place(2, 8, 4, 1)),  # srun --mpi=pmi2
        (
            OPEN_MPI | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
            Place(2, 8, 4, 1),
        ),  # mpirun in an srun
        (OPEN_MPI | {LOCAL: ""}, Place(2, 8, 8, 1)),  # all on this machine, for all that is known
        (OPEN_MPI | {LOCAL: "0"}, Place(2, 8, 8, 1)),
        ({RANK: "0", SIZE: "1", LOCAL: "1"}, Place(0, 1, 1, 0)),
        ({RANK: "5", SIZE: "8", LOCAL: "4"}, Place(5, 8, 4, 1)),  # machine by machine, for all that is known
        (MPICH | SLURM | {"MPI_LOCALRANKID": "", "SLURM_LOCALID": "3"}, Place(2, 8, 4, 3)),
    ],
)
def test_variables_that_are_set_in_part(variables, wanted, monkeypatch):
    assert place_of(variables, monkeypatch) == wanted


@pytest.mark.parametrize("rank", ["", "-1", "x", "2x", "1.5", "8", "²", "9" * 5000, " 2"])
@pytest.mark.parametrize("others", [{}, MPICH])
def test_a_broken_value_is_no_launcher(rank, others, monkeypatch):
    found = place_of(OPEN_MPI | {RANK: rank} | others, monkeypatch)
    assert found == (Place(2, 8, 4, 1) if others else None)


@pytest.mark.parametrize("size", ["", "0", "x", "2", "-8"])
def test_a_rank_is_below_the_size(size, monkeypatch):
    assert place_of(OPEN_MPI | {SIZE: size}, monkeypatch) is None


# ----------------------------------------------------------------------------------- threads


@pytest.mark.parametrize(
    ("launchers", "bound", "neighbours", "wanted"),
    [
        (8, 8, 1, 8),
        (8, 8, 2, 4),  # not bound: the ranks share all cores
        (8, 8, 3, 2),
        (8, 4, 2, 4),  # bound to halves
        (8, 2, 4, 2),
        (8, 4, 4, 1),  # bound to halves that two ranks share
        (8, 8, 100, 1),
        (2, 1, 2, 1),
        (16, 16, 4, 4),
    ],
)
def test_ranks_of_a_machine_share_its_cores(launchers, bound, neighbours, wanted, monkeypatch):
    """The machine has 64 cores, of which the launcher itself may use some."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    cores = {0: range(bound), os.getppid(): range(launchers)}
    monkeypatch.setattr(os, "sched_getaffinity", cores.__getitem__, raising=False)
    ranks = {RANK: "0", SIZE: str(2 * neighbours), LOCAL: str(neighbours)}
    place_of(ranks, monkeypatch)
    assert threads.cores() == wanted
    for name in ranks:
        monkeypatch.delenv(name)
    assert threads.cores() == bound


CODE = """
import os, minigam
from minigam import threads
print([os.environ.get(name, "") for name in threads.COUNTS], threads.count())
"""


def started(**variables) -> tuple[list[str], int]:
    """Start minigam with these variables; return what it sets, and the threads of its kernels."""
    env = {k: v for k, v in os.environ.items() if k not in (*threads.COUNTS, threads.WAIT)}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=env | variables, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    values, _, count = done.stdout.rpartition(" ")
    return listed(values), int(count)


def listed(text: str) -> list[str]:
    return [part.strip(" '") for part in text.strip("[] \n").split(",")]


def test_without_a_launcher_nothing_is_set():
    assert started() == ([""] * 4, CORES)


def test_a_launcher_divides_the_cores():
    ranks = {RANK: "0", SIZE: "999", LOCAL: "999"}
    assert started(**ranks) == (["1"] * 4, 1)
    assert started(**{RANK: "0", SIZE: "1", LOCAL: "1"}) == ([str(CORES)] * 4, CORES)


@pytest.mark.parametrize("name", threads.COUNTS)
def test_what_the_user_sets_wins(name):
    values, count = started(**{RANK: "0", SIZE: "999", LOCAL: "999", name: "3"})
    assert values == ["3" if other == name else "" for other in threads.COUNTS]
    assert count == 1  # of the one core that is there for a rank


def test_one_thread_for_all_libraries_is_one_for_the_kernels():
    assert started(OPENBLAS_NUM_THREADS="1") == (["1", "", "", ""], 1)
