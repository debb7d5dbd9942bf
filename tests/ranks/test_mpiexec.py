"""The same bits from any number of ranks under a real mpiexec, and one line for what goes wrong."""

import json
import re
import signal
import time
from pathlib import Path

import pytest
from helpers import crashes, mpi

from minigam.training.run import Run

TRAIN = ("-m", "minigam.train")
SHAPE = ["--backend=numpy", "--block-size=32", "--d-model=8", "--n-layers=2", "--n-slots=4",
         "--batch-size=8", "--dropout=0.2", "--warmup-steps=2"]  # fmt: skip
STEPS = ["--steps=12", "--eval-every=6", "--checkpoint-every=4"]
HOW = {"rows": ["--rank-tree"], "tokens": ["--split-sequence"]}  # how one process gets the bits of the ranks


@pytest.fixture(params=mpi.MPIS, scope="module")
def kind(request) -> str:
    """The name of each MPI in turn."""
    mpi.require(request.param)
    return request.param


@pytest.fixture(scope="module")
def flags(tmp_path_factory) -> list[str]:
    path = tmp_path_factory.mktemp("text") / "t.txt"
    path.write_text("\n".join(f"the cat sat on mat {n} and the dog ran." for n in range(40)) + "\n")
    return [*SHAPE, f"--text={path}"]


@pytest.fixture(scope="module")
def references(flags, tmp_path_factory) -> dict[str, Path]:
    """Runs of one process without a launcher."""
    folder = tmp_path_factory.mktemp("references")
    for name, how in HOW.items():
        done = mpi.alone([*TRAIN, *flags, *STEPS, *how, f"--out={folder / name}"])
        assert done.code == 0, done.err
    return {name: folder / name for name in HOW}


def whole(done: mpi.Ended, path: Path) -> None:
    """Require a run that has ended well, and that rank 0 alone has printed."""
    assert done.code == 0, done.err
    assert (path / "complete.json").exists()
    for said in ("Saved in", "validation    ", "step     6", "A sample"):
        assert done.out.count(said) == 1, done.out
    assert done.lines() == []


@pytest.mark.parametrize(("n", "others"), [
    (1, []), (2, []), (4, []), (2, ["--shard-optimizer"]), (4, ["--shard-optimizer"]),
    (2, ["--split-sequence"]), (4, ["--split-sequence", "--shard-optimizer"]),
])  # fmt: skip
def test_any_number_of_ranks_gives_the_bits_of_one_process(kind, n, others, flags, references, tmp_path):
    path = tmp_path / "run"
    done = mpi.mpiexec(kind, n, [*TRAIN, *flags, *STEPS, *others, f"--out={path}"])
    whole(done, path)
    reference = references["tokens" if "--split-sequence" in others else "rows"]
    assert crashes.differences(path, reference) == ""
    assert json.loads((path / "machine.json").read_text(encoding="utf-8")).get("ranks", 1) == n
    assert f"; {n} rank{'s' * (n > 1)}, each 1 thread" in done.out


LONGER = ["--steps=150", "--eval-every=150", "--checkpoint-every=60"]


@pytest.fixture(scope="module")
def longer(flags, tmp_path_factory) -> Path:
    """A run that nothing stops, long enough to be stopped."""
    path = tmp_path_factory.mktemp("longer") / "run"
    done = mpi.alone([*TRAIN, *flags, *LONGER, "--rank-tree", f"--out={path}"])
    assert done.code == 0, done.err
    return path


@pytest.mark.parametrize(("number", "n", "then"), [(signal.SIGINT, 2, 4), (signal.SIGTERM, 4, 2)])
def test_a_stopped_run_is_resumed_by_another_number_of_ranks(kind, number, n, then, flags, longer, tmp_path):
    """Ctrl-C or SIGTERM to mpiexec.

    MPICH passes either signal on, so all ranks end after the same step, save it and say so: exit code 130.
    Open MPI sends SIGTERM to the ranks, for either signal, and shows nothing that they print from then on.
    They save their step as well, but half a second later it kills those that are left: of a model
    whose step takes longer, the last checkpoint is what remains. Its exit code is 1.
    """
    path = tmp_path / "run"
    with mpi.launched(kind, n, [*TRAIN, *flags, *LONGER, f"--out={path}"]) as launch:
        end = time.monotonic() + 30
        while (step := last_step(path)) < 10 and time.monotonic() < end:
            time.sleep(0.01)
        launch.interrupt(number)
        stopped = launch.wait(timeout=30)
        assert launch.left_over(patience=5) == []
    assert stopped.code == (130 if kind == "mpich" else 1), stopped.err
    saved = Run(path).saved_step()
    if kind == "mpich":
        (line,) = stopped.lines()
        assert line == f"minigam train: interrupted. Step {saved} is saved in {path}. To resume:"
        assert f"\n  mpiexec -n {n} minigam train --resume {path}\n" in stopped.err
        assert stopped.err.count("stopping after this step") == 1
    assert 10 <= step <= saved == last_step(path) < 150
    again = mpi.mpiexec(kind, then, [*TRAIN, f"--resume={path}", "--backend=numpy"])
    assert again.code == 0, again.err
    assert f"resuming after step {saved} of 150; {then} ranks" in again.out
    assert crashes.differences(path, longer) == ""


def last_step(path: Path) -> int:
    """Return the last step in the metrics of a run, which may not have begun."""
    metrics = path / "metrics.jsonl"
    return Run(path).metrics()[-1]["step"] if metrics.exists() and metrics.stat().st_size else 0


def one_line(done: mpi.Ended, *wanted: str) -> None:
    """Require that one line refuses the command."""
    assert done.code == 2, done.err
    assert "Traceback" not in done.err and done.out == ""
    (line,) = done.lines()
    for pattern in wanted:
        assert re.search(pattern, line), line


@pytest.mark.parametrize(("wrong", "wanted"), [
    (["--stepps=3"], "unknown argument --stepps=3, did you mean --steps"),
    (["--deadline=0"], "--deadline is 0.0, wanted"),
    (["--batch-size=1"], "wanted at least 2, so that each of 2 ranks has a row"),
    (["--text=nothing.txt"], "nothing.txt"),
    (["--out=minigam"], "minigam: not empty"),
])  # fmt: skip
def test_wrong_input_is_one_line(kind, wrong, wanted, flags, tmp_path):
    one_line(mpi.mpiexec(kind, 2, [*TRAIN, *flags, f"--out={tmp_path / 'run'}", *wrong]), wanted)
    assert not (tmp_path / "run").exists() or not Run.exists(tmp_path / "run")


ODD = """
import os, runpy, sys
if "1" in (os.environ.get("PMI_RANK"), os.environ.get("OMPI_COMM_WORLD_RANK")):
    what = sys.argv.pop(1)
    if what.startswith("--"):
        sys.argv.append(what)
    else:
        os.environ.update([what.split("=")])
else:
    del sys.argv[1]
runpy.run_module("minigam.train", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(("odd", "wanted"), [
    ("--lr=0.5", "--lr is 0.5 there, 0.003 on rank 0"),
    ("OPENBLAS_NUM_THREADS=2", "threads 2 there|'OPENBLAS_NUM_THREADS': '2'"),
    ("--text=other.txt", "fingerprint of the data is "),
])  # fmt: skip
def test_a_rank_that_differs_is_named_in_one_line(kind, odd, wanted, flags, tmp_path):
    (tmp_path / "other.txt").write_text(
        "".join(f"a dog sat on mat {n} and the cat ran.\n" for n in range(40))
    )
    odd = odd.replace("other.txt", str(tmp_path / "other.txt"))
    done = mpi.mpiexec(kind, 2, ["-c", ODD, odd, *flags, f"--out={tmp_path / 'run'}"])
    one_line(done, "rank 1 differs from rank 0: ", wanted)


def test_without_a_launcher_mpi_is_not_imported(flags, tmp_path):
    code = "import sys; from minigam.train import main; main(); assert 'mpi4py' not in sys.modules"
    done = mpi.alone(["-c", code, *flags, "--steps=2", f"--out={tmp_path / 'run'}"])
    assert done.code == 0, done.err


FULL = """
import sys
from minigam import cli, launcher, train

def leave(*args, **settings):
    sys.stdout = open("/dev/full", "w")
    sys.stdout.write("what cannot be written")
    raise SystemExit(3)

if launcher.rank() == 1:
    train.loop.begin_step = leave
cli.run(train.main, train.PROG)
"""


def test_a_rank_whose_output_cannot_be_written_ends_all_the_same(kind, flags, tmp_path):
    """Long before the others miss it."""
    done = mpi.mpiexec(kind, 2, ["-c", FULL, *flags, f"--out={tmp_path / 'run'}"], timeout=20)
    assert done.code == 3, done.err
