"""What an experiment has stored: used again if it is whole, refused if anything in it has changed."""

import errno
import json
from pathlib import Path

import pytest
from helpers.commands import assert_refused, call

from minigam.config import DataConfig, GAMConfig, InputError, TrainConfig
from minigam.data.corpus import from_pocketstories
from minigam.experiments import __main__ as command
from minigam.experiments import report
from minigam.experiments.training_cell import Cell, trained
from minigam.files import locked

TABLE2 = ["table2", "--scale=small", "--lengths", "8", "16", "--models=gam", "--repeats=1", "--backend=numpy"]


def change_a_digit(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    digit = next(i for i in range(len(text) // 2, len(text)) if text[i].isdigit() and text[i] != "9")
    path.write_text(text[:digit] + str(int(text[digit]) + 1) + text[digit + 1 :], encoding="utf-8")


def test_a_changed_result_of_a_cell_is_refused(tmp_path):
    data = DataConfig(stories=8, valid_stories=2)
    corpus = from_pocketstories(128, n_train=8, n_valid=2)
    model = GAMConfig(block_size=128, d_model=8, n_layers=1, n_slots=4)
    arguments = Cell("a", "gam", model, TrainConfig(batch_size=2, steps=2)), tmp_path, data, corpus, "numpy"
    result = trained(*arguments)
    assert trained(*arguments) == result
    change_a_digit(tmp_path / "a" / "result.json")
    with pytest.raises(InputError, match=r"result\.json: changed since it was written"):
        trained(*arguments)
    (tmp_path / "a" / "result.json").unlink()
    (tmp_path / "a" / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match=r"metrics\.jsonl: no step is left in it"):
        trained(*arguments)


def test_changed_measurements_are_refused(tmp_path, capsys):
    assert call(command.main, [*TABLE2, "--out", tmp_path], capsys)[0] == 0
    stored = json.loads((tmp_path / "table2.json").read_text())
    assert call(command.main, [*TABLE2, "--out", tmp_path], capsys)[0] == 0
    assert json.loads((tmp_path / "table2.json").read_text()) == stored
    change_a_digit(tmp_path / "cells.json")
    assert_refused(command.main, [*TABLE2, "--out", tmp_path], capsys, "cells.json: changed since")


def test_two_experiments_do_not_share_a_folder(tmp_path, capsys):
    with locked(tmp_path):
        assert_refused(command.main, [*TABLE2, "--out", tmp_path], capsys, "in use by another process")


@pytest.mark.parametrize(
    ("error", "code", "wanted"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "cells.json"), 2, "cells.json: No space left"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, "nobody reads the output"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_ends_an_experiment_early_says_that_progress_is_saved(
    error, code, wanted, tmp_path, capsys, monkeypatch
):
    def write_sealed(*sealed):
        raise error

    monkeypatch.setattr(report, "write_sealed", write_sealed)
    got, _, err = call(command.main, [*TABLE2, "--out", tmp_path], capsys)
    assert got == code
    assert wanted in err and "progress is saved, run the same command again" in err
