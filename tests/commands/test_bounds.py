"""Numbers that no machine can hold, and arguments that are no text, are refused in one line and at once."""

import json

import numpy as np
import pytest
from helpers.commands import SMALL, assert_refused, call

from minigam import evaluate, generate, train
from minigam.config import LARGEST, InputError
from minigam.data.ngram import NGram
from minigam.experiments import __main__ as experiments
from minigam.training.run import make_corpus

HUGE = 10**30


@pytest.fixture
def no_corpus(monkeypatch):
    monkeypatch.setattr(train, "make_corpus", None)  # to call it would raise a TypeError


@pytest.mark.parametrize(
    "name", ["n_layers", "d_model", "block_size", "n_slots", "kernel_size", "batch_size"]
)
def test_sizes_are_refused_before_the_corpus_is_made(name, no_corpus, capsys, tmp_path):
    flags = [*SMALL, f"--out={tmp_path / 'new'}", f"--{name}={10**12}"]
    assert_refused(train.main, flags, capsys, "GAM of", "parameters", "GiB", f"choose a smaller {name}")
    assert_refused(train.main, [*SMALL, "--profile", f"--{name}={10**12}"], capsys, f"a smaller {name}")
    assert not list(tmp_path.iterdir())


def test_the_rows_that_are_computed_at_a_time_count(no_corpus, capsys):
    flags = [*SMALL, "--d-model=80", f"--batch-size={10**8}", f"--micro-batch={10**8}"]
    assert_refused(train.main, flags, capsys, "choose a smaller micro_batch")


def test_stories_are_counted_before_one_is_told(capsys):
    flags = [*SMALL, f"--stories={10**12}"]
    assert_refused(train.main, flags, capsys, "1,000,000,000,002 stories", "choose fewer stories")


@pytest.mark.parametrize("changes", [{"mqar_rows": 10**12}, {"mqar_keys": 10**12}])
def test_rows_of_recall_are_counted_before_one_is_drawn(changes):
    from minigam.config import DataConfig

    with pytest.raises(InputError, match="fewer mqar_rows or mqar_keys"):
        make_corpus(DataConfig(dataset="mqar", **changes), 64)


def test_ngrams_are_measured_before_they_are_counted():
    rows = np.lib.stride_tricks.as_strided(np.zeros(1, np.int32), (10**5, 10**6), (0, 0))  # takes no memory
    with pytest.raises(InputError, match=r"GiB.*a smaller order"):
        NGram(rows, 5, order=1000)


def test_a_damaged_config_neither_hangs_nor_takes_memory(run_folder, capsys, tmp_path):
    damaged = tmp_path / "run"
    damaged.mkdir()
    (damaged / "tokenizer.json").write_bytes((run_folder / "tokenizer.json").read_bytes())
    content = json.loads((run_folder / "config.json").read_text())
    content["model"]["n_layers"] = 10**8
    (damaged / "config.json").write_text(json.dumps(content))
    assert_refused(generate.main, [damaged, "--backend=numpy"], capsys)
    assert_refused(evaluate.main, [damaged, "--backend=numpy"], capsys)
    assert_refused(train.main, [f"--resume={damaged}", "--backend=numpy"], capsys, "smaller n_layers")


def test_a_length_that_does_not_fit_is_left_out(capsys, tmp_path):
    flags = ["table2", "--scale=small", "--models", "gam", "--lengths", f"{10**12}", "--backend=numpy"]
    code, out, err = call(experiments.main, [*flags, f"--out={tmp_path / 'new'}"], capsys)
    assert code == 0, err
    assert "left out" in out


@pytest.mark.parametrize(
    ("flag", "wanted"),
    [
        (f"--steps={HUGE}", [f"{HUGE} is too large, wanted at most {LARGEST}"]),
        (f"--seed=-{HUGE}", ["too large"]),
        ("--steps=" + "9" * 5000, ["argument --steps: invalid int value: '999", " ... "]),
        ("--out=--", ["--out=--", "the value is --"]),
        ("--lr=--", ["--lr=--"]),
        ("--text=\udcff.txt", [r"\udcff", "not Unicode"]),
        ("--prompt=a\udcff", [r"\udcff"]),
        ("--prompt=a\0", [r"\x00"]),
        ("--out=a\nb", [r"'a\nb' has a control character"]),
        ("--dataset=a\nb", ["control character"]),
        ("--model=a\nb", [r"a\nb"]),
        ("a\nb", ["unknown argument a b"]),
    ],
)
def test_what_no_flag_takes_is_one_short_line(flag, wanted, capsys):
    assert_refused(train.main, [*SMALL, flag], capsys, *wanted)
    assert_refused(train.main, [*SMALL, flag], capsys, "minigam train: ")


def test_weights_that_overflow_are_no_warning_of_numpy(capsys, tmp_path):
    flags = [*SMALL, "--steps=1", "--warmup-steps=1", "--weight-decay=1e10", f"--out={tmp_path / 'new'}"]
    code, _, err = call(train.main, flags, capsys)  # a warning would be an error
    assert code == 0, err


def test_a_long_value_is_shortened(capsys):
    _, _, err = call(train.main, [*SMALL, "--model=" + "x" * 10_000], capsys)
    assert len(err) < 600


def test_the_largest_count_is_accepted():
    assert train.parser().parse_args([f"--steps={LARGEST}"]).steps == LARGEST
