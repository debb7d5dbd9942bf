"""A run of mixer "written" in every command that takes a model or a run, and what its flags refuse."""

import json
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from helpers import runs
from helpers.commands import ON_TEXT, SMALL, assert_refused
from helpers.runs import assert_same_run

from minigam import evaluate, generate, train
from minigam.config import MIXERS, GAMConfig, InputError, MambaConfig, TransformerConfig
from minigam.experiments import __main__ as experiments
from minigam.explain import __main__ as explain
from minigam.files import read_json
from minigam.gradcheck.cases import CASES, MODELS
from minigam.training.run import Run

ROOT = Path(__file__).parents[2]
WRITTEN = [*SMALL, "--mixer=written"]
MAKE = shutil.which("make")
LABEL = "GAM, written memory (ours)"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "written"
    assert train.main([*WRITTEN, f"--out={path}"]) == 0
    return path


def test_every_model_has_a_label():
    labels = {config().label for config in (GAMConfig, TransformerConfig, MambaConfig)}
    assert labels == {"GAM", "Transformer", "Mamba"}
    assert {GAMConfig(mixer=mixer).label for mixer in MIXERS} == {"GAM", LABEL}


def test_training_says_that_the_model_is_ours(tmp_path, capsys):
    assert train.main([*WRITTEN, f"--out={tmp_path / 'run'}"]) == 0
    out = capsys.readouterr().out
    assert f"{LABEL} of " in out
    assert "receptive field" not in out.lower(), "it has no bound"


def test_generate_evaluate_and_explain(run, tmp_path, capsys):
    assert generate.main([str(run), "--backend=numpy", "--tokens=150"]) == 0, "beyond block_size too"
    assert evaluate.main([str(run), "--backend=numpy", f"--json={tmp_path / 'e.json'}"]) == 0
    out = capsys.readouterr().out
    assert f"The {LABEL} predicts" in out
    assert read_json(tmp_path / "e.json")["model"] == LABEL
    table = out[out.index(" bytes\n\n") + 8 : out.index("\n\nThe GAM")].splitlines()
    assert len({len(line) for line in table}) == 1, "the columns are aligned"
    assert explain.main([str(run), "--backend=numpy", f"--out={tmp_path / 'e.html'}"]) == 0


def test_the_measured_reach_of_both_gams_side_by_side(run, tmp_path):
    assert train.main([*SMALL, f"--out={tmp_path / 'plain'}"]) == 0
    flags = ["--rows=2", "--backend=numpy", f"--out={tmp_path / 'reach'}"]
    assert experiments.main(["reach", str(tmp_path / "plain"), str(run), *flags]) == 0
    measured = read_json(tmp_path / "reach" / "reach.json")["runs"]
    assert (measured["GAM"]["reach"], measured["GAM"]["measured_reach"]) == (4, 4)
    assert measured[LABEL]["reach"] is None
    assert measured[LABEL]["measured_reach"] > 100
    assert f"| {LABEL} | all |" in " ".join((tmp_path / "reach" / "reach.md").read_text().split())


def test_its_gradients_are_among_those_checked():
    assert [c.label for c in MODELS if c.name == "GAM"].count("written") == 1
    assert [c for c in CASES if c.name == "written_memory"]


def test_profile_names_it(capsys):
    assert train.main([*WRITTEN, "--profile"]) == 0
    out = capsys.readouterr().out
    assert f"{LABEL} of " in out
    assert "written_memory" in out


def test_an_interrupted_run_ends_in_the_same_bits(tmp_path, monkeypatch):
    flags, log = [*runs.FLAGS, "--mixer=written"], Run.log
    assert train.main([*flags, f"--out={tmp_path / 'whole'}"]) == 0

    def log_and_interrupt(self, line):
        log(self, line)
        if line["step"] == 7 and "lr" in line:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Run, "log", log_and_interrupt)
    path = tmp_path / "interrupted"
    assert train.main([*flags, f"--out={path}"]) == 130
    monkeypatch.undo()
    assert train.main([f"--resume={path}", "--backend=numpy"]) == 0
    assert_same_run(tmp_path / "whole", path)


def test_rows_in_parts_give_the_same_losses(tmp_path):
    losses = []
    for n in (0, 1, 2):
        path = tmp_path / str(n)
        flags = ["--batch-size=4", "--steps=3", f"--micro-batch={n}", f"--out={path}"]
        assert train.main([*WRITTEN, *flags]) == 0
        losses.append([m["loss"] for m in Run(path).metrics()])
    np.testing.assert_allclose(losses[1:], losses[:1] * 2, rtol=1e-5)


def test_a_text_file_is_read_too(tmp_path):
    (tmp_path / "t.txt").write_text("Some text, long enough for a few blocks.\n" * 40)
    flags = [*ON_TEXT, "--mixer=written", f"--text={tmp_path / 't.txt'}", "--block-size=32"]
    assert train.main([*flags, f"--out={tmp_path / 'run'}"]) == 0
    assert generate.main([str(tmp_path / "run"), "--backend=numpy", "--tokens=80"]) == 0


@pytest.mark.skipif(MAKE is None, reason="needs make")
@pytest.mark.parametrize(("given", "command"), [([], "train"), (["MIXER=written"], "train --mixer written")])
def test_make_train_takes_a_mixer(given, command, tmp_path):
    printed = subprocess.run(
        [MAKE, "--dry-run", "--no-print-directory", "train", f"VENV={tmp_path}", *given],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert printed.stdout.splitlines()[-1] == f"{tmp_path}/bin/minigam {command}"


# ------------------------------------------------------------------------------- flags


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["--mixer=written", "--prior=-1"], "prior is -1.0, wanted 0, or 1e-6 to 1e6"),
        (["--mixer=written", "--prior=nan"], "prior is nan, wanted 0, or 1e-6 to 1e6"),
        (["--mixer=written", "--prior=much"], "'much'"),
        (["--mixer=wrote"], "'wrote'"),
        (["--prior=0.5"], "prior is 0.5, wanted 0: mixer gated has no written memory"),
        (["--mixer=sum", "--prior=0.5"], "prior is 0.5, wanted 0: mixer sum has no written memory"),
        (["--model=mamba", "--prior=0.5"], "--prior does not belong to --model mamba"),
    ],
)
def test_a_bad_flag_is_one_line(flags, wanted, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(train.main, [*SMALL, *flags], capsys, wanted)
    assert not list(tmp_path.iterdir())


def test_a_prior_is_kept_and_decides(run, tmp_path):
    path = tmp_path / "heavy"
    assert train.main([*WRITTEN, "--prior=0.5", f"--out={path}"]) == 0
    assert read_json(path / "config.json")["model"]["prior"] == 0.5
    assert Run(path).load_model().blocks[0].prior == 0.5
    assert Run(run).load_model().blocks[0].prior == 1.0 / 64, "1/S by default"


# ------------------------------------------------------------- runs from before there was a prior


def test_a_stored_run_from_before_has_equal_settings():
    path = ROOT / "benchmarks" / "results" / "default_run"
    stored = read_json(path / "config.json")
    assert "prior" not in stored["model"]
    assert Run(path).config.to_dict() == stored
    assert Run(path).config.model.prior == 0.0


def test_a_run_without_a_prior_loads_and_resumes(tmp_path):
    """A plain run is stored as it always was: its config.json has no prior, and so has the hash of it."""
    path = tmp_path / "plain"
    assert train.main([*SMALL, f"--out={path}"]) == 0
    assert "prior" not in read_json(path / "config.json")["model"]
    assert generate.main([str(path), "--backend=numpy", "--tokens=2"]) == 0
    assert train.main([f"--resume={path}", "--backend=numpy"]) == 0


def test_a_settings_file_may_state_the_default_prior_and_no_other(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    config = read_json(copy / "config.json")
    for prior in (0.0, 0.5):
        config["model"]["prior"] = prior
        (copy / "config.json").write_text(json.dumps(config))
        if prior == 0.0:
            Run(copy).load_model()
            continue
        with pytest.raises(InputError, match=r"belongs to another config\.json"):
            Run(copy).load_model()
