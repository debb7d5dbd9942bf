"""The rank that is missing is named, and no other, whatever the ranks are doing at that time."""

import re

import pytest
from helpers import mpi

from minigam.training.ranks.world import EX_TEMPFAIL

SHAPE = ["--backend=numpy", "--block-size=16", "--d-model=8", "--n-layers=1", "--n-slots=2", "--batch-size=8",
         "--steps=4", "--eval-every=4", "--checkpoint-every=2"]  # fmt: skip
# The calls of a rank at which something happens to it: rank, module, function, which call of it, what.
CODE = """
import os, signal, sys, time
from importlib import import_module
from minigam import cli, launcher, train
from minigam.training.ranks import mpi

mpi.ROLL_CALL = train.ROLL_CALL = 2.0
for order in sys.argv.pop(1).split(";"):
    rank, place, function, at, what = order.split()
    if launcher.rank() != int(rank):
        continue
    module = import_module(place)
    calls, original = [], getattr(module, function)
    def counted(*args, calls=calls, original=original, at=int(at), what=what, **settings):
        calls.append(None)
        if len(calls) == at and what == "suspended":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif len(calls) == at:
            time.sleep(float(what))
        return original(*args, **settings)
    setattr(module, function, counted)
cli.run(train.main, train.PROG)
"""
LATE = "0 minigam.training.loop begin_step 3 2"  # later than the others, but within the roll call


@pytest.mark.parametrize(("orders", "n", "resumable"), [
    (f"{LATE};2 minigam.training.loop begin_step 3 suspended", 3, True),
    ("1 minigam.train make_corpus 1 suspended", 2, False), ("1 socket gethostname 1 suspended", 2, False),
], ids=["while-another-is-late", "before-the-first-step", "while-connecting"])  # fmt: skip
@pytest.mark.parametrize("kind", mpi.MPIS)
def test_the_missing_rank_alone_is_named(kind, orders, n, resumable, tmp_path):
    mpi.require(kind)
    (tmp_path / "t.txt").write_text("the cat sat on the mat and the dog ran. " * 40)
    flags = [*SHAPE, f"--text={tmp_path / 't.txt'}", "--deadline=1", f"--out={tmp_path / 'run'}"]
    with mpi.launched(kind, n, ["-c", CODE, orders, *flags]) as launch:
        ended = launch.wait(timeout=30)
        assert launch.left_over(patience=5) == []
    assert ended.code == EX_TEMPFAIL, ended.err
    assert "Traceback" not in ended.err
    (line,) = ended.lines()
    assert re.findall(r"rank (\d+)(?: \(on .*?\))?(?=,| did not answer)", line) == [f"{n - 1}"], line
    assert ("Step 2 is saved" in line) == ("To resume" in line) == resumable
