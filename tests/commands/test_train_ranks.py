"""minigam train under a launcher, or with the flags for it, where no MPI is needed."""

import os
import subprocess
import sys

import pytest
from helpers.commands import ON_TEXT, SMALL, assert_refused, call
from helpers.runs import STATE, losses

from minigam import launcher, train
from minigam.config import WRITTEN_LABEL, GAMConfig, InputError, TrainConfig
from minigam.files import read_json
from minigam.models import MODELS
from minigam.training import size
from minigam.training.ranks import start
from minigam.training.run import COMPLETE, Run

ONE = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}
TWO = {"PMI_RANK": "0", "PMI_SIZE": "2", "MPI_LOCALNRANKS": "2"}


@pytest.fixture
def launched(monkeypatch):
    """Return a function that sets the variables of a launcher. Until then there is none."""
    for names in launcher.VARIABLES:
        for name in names:
            monkeypatch.delenv(name, raising=False)
    return lambda variables: [monkeypatch.setenv(name, value) for name, value in variables.items()]


def files(folder):
    return [p for p in folder.rglob("*") if p.is_file()]


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["--shard-optimizer"], ["--shard-optimizer needs several ranks", "start them with mpiexec"]),
        (["--split-sequence", "--model=transformer"],
         ["--split-sequence: a token of Transformer depends on all earlier ones", "train a GAM"]),
        (["--split-sequence", "--model=mamba"], ["--split-sequence: a token of Mamba depends"]),
        (["--split-sequence", "--mixer=written"], [f"--split-sequence: a token of {WRITTEN_LABEL} depends"]),
        (["--split-sequence", "--rank-tree"], ["--rank-tree has no effect with --split-sequence", "omit it"]),
        (["--deadline=0"], ["--deadline is 0.0, wanted a number of seconds above 0"]),
        (["--deadline=-1"], ["--deadline is -1.0"]),
        (["--deadline=nan"], ["--deadline is nan"]),
        (["--deadline=inf"], ["--deadline is inf"]),
        (["--deadline=soon"], ["--deadline", "invalid float value: 'soon'"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("variables", [{}, ONE], ids=["alone", "mpiexec -n 1"])
def test_train_refuses(flags, wanted, variables, launched, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    launched(variables)
    assert_refused(train.main, [*SMALL, *flags], capsys, *wanted)
    assert not list(tmp_path.iterdir())


def test_a_row_that_is_split_has_a_token_for_each_leaf(launched, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_text("some text " * 50)
    flags = [*ON_TEXT, "--text=t.txt", "--split-sequence"]
    assert_refused(
        train.main, [*flags, "--block-size=7"], capsys, "--block-size is 7, wanted at least 8 to split"
    )
    assert call(train.main, [*flags, "--block-size=8", "--out=run"], capsys)[0] == 0
    assert read_json(tmp_path / "run" / "config.json")["train"]["split_sequence"] is True


def test_flags_that_have_no_effect_are_refused(launched, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_text("a cat sat. " * 300)
    split = [*ON_TEXT, "--text=t.txt", "--split-sequence"]
    assert_refused(
        train.main, [*split, "--micro-batch=1"], capsys, "--micro-batch has no effect with --split"
    )
    launched(ONE)
    assert_refused(
        train.main, [*SMALL, "--no-rank-tree"], capsys, "--no-rank-tree has no effect under mpiexec"
    )
    assert not (tmp_path / "runs").exists()


def test_a_tree_is_for_numpy(launched):
    launched(ONE)
    settings = TrainConfig()
    assert start.divided(settings, {}, "numpy").rank_tree
    assert not start.divided(settings, {}, "cupy").rank_tree
    with pytest.raises(InputError, match="--rank-tree has no effect on a GPU"):
        start.divided(settings, {"rank_tree": True}, "cupy")


@pytest.mark.parametrize(
    ("ranks", "least"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (8, 8), (9, 9), (16, 16)]
)
def test_each_rank_has_a_row(ranks, least):
    """3 ranks have 2, 3 and 3 of 8 leaves, so 3 rows would leave the first without one."""
    start.require_divisible(GAMConfig(), TrainConfig(batch_size=least), ranks)
    if least > 1:
        with pytest.raises(
            InputError, match=f"wanted at least {least}, so that each of {ranks} ranks has a row"
        ):
            start.require_divisible(GAMConfig(), TrainConfig(batch_size=least - 1), ranks)


def test_the_ranks_of_a_machine_share_its_memory(launched, monkeypatch):
    asked = []
    monkeypatch.setattr(MODELS["gam"], "require_memory", lambda *arguments: asked.append(arguments[1:3]))
    for variables in ({}, {"PMI_RANK": "0", "PMI_SIZE": "8", "MPI_LOCALNRANKS": "4"}):
        launched(variables)
        size.require_memory("gam", GAMConfig(), TrainConfig(), "numpy")
    (alone, rest), (shared, rest_of_four) = asked
    assert (alone, shared) == (16, 40)  # the moments may be shared
    assert rest_of_four == {name: 4 * n for name, n in rest.items()}


def test_one_rank_of_a_launcher_leaves_the_run_of_one_process_with_a_tree(launched, capsys, tmp_path):
    assert train.main([*SMALL, "--rank-tree", f"--out={tmp_path / 'alone'}"]) == 0
    assert train.main([*SMALL, f"--out={tmp_path / 'plain'}"]) == 0
    capsys.readouterr()
    launched(ONE)
    assert train.main([*SMALL, f"--out={tmp_path / 'one'}"]) == 0
    assert "; 1 rank, each " in capsys.readouterr().out
    for name in (*STATE, COMPLETE):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name
    assert losses(tmp_path / "one") == losses(tmp_path / "alone") != losses(tmp_path / "plain")


def test_a_launcher_does_not_resume_a_run_that_adds_in_another_order(launched, capsys, tmp_path):
    run = tmp_path / "run"
    assert train.main([*SMALL, f"--out={run}"]) == 0
    before = {p: p.read_bytes() for p in files(run)}
    launched(ONE)
    assert_refused(train.main, [f"--resume={run}", "--backend=numpy"], capsys,
                   "one process started it without --rank-tree", "resume it without mpiexec")  # fmt: skip
    assert {p: p.read_bytes() for p in files(run)} == before


def test_one_process_resumes_the_run_of_a_launcher_and_says_what_it_was_started_with(
    launched, capsys, tmp_path
):
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ONE.items():
            patch.setenv(name, value)
        assert train.main([*SMALL, f"--out={run}"]) == 0
    before = (run / "optimizer.safetensors").read_bytes()
    assert train.main([f"--resume={run}", "--backend=numpy"]) == 0
    assert (run / "optimizer.safetensors").read_bytes() == before
    assert Run(run).config.train.rank_tree
    assert_refused(train.main, [f"--resume={run}", "--backend=numpy", "--no-rank-tree"], capsys,
                   "--rank-tree is False, the run was started with True")  # fmt: skip


def test_several_processes_without_mpi_are_one_line(launched, capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)  # its import fails
    monkeypatch.chdir(tmp_path)
    launched(TWO)
    assert_refused(train.main, SMALL, capsys, "started as 2 processes, but MPI cannot be used (", "mpi4py",
                   "install minigam[mpi], or mpi4py and your cluster's MPI")  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_mpi_that_does_not_load_is_one_line(launched, capsys, tmp_path, monkeypatch):
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").write_text("")
    (tmp_path / "mpi4py" / "MPI.py").write_text("raise RuntimeError('cannot load MPI library\\nlibmpi.so')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "mpi4py"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    launched(TWO)
    assert_refused(
        train.main, SMALL, capsys, "MPI cannot be used (cannot load MPI library libmpi.so); install"
    )
    for name in ("mpi4py.MPI", "mpi4py"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "flags", [[], ["--deadline=0"], ["--deadline=x"], ["--no-such-flag"]], ids=lambda flags: " ".join(flags)
)
def test_what_rank_0_says_no_other_rank_repeats(flags, tmp_path):
    code = (
        "import sys; sys.modules['mpi4py'] = None; from minigam import cli, train; "
        "cli.run(train.main, train.PROG)"
    )
    lines = []
    for rank in "01":
        done = subprocess.run(
            [sys.executable, "-c", code, *SMALL, *flags], env=os.environ | TWO | {"PMI_RANK": rank},
            cwd=tmp_path, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 2 and done.stdout == ""
        lines.append(done.stderr.count("\n"))
    assert lines == [1, 0] and not list(tmp_path.iterdir())
