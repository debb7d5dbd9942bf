"""The command: wrong input, interrupts and losses that are not finite."""

import pytest
from helpers.commands import assert_refused

from minigam import cli
from minigam.experiments import __main__ as command
from minigam.training.step import NonFinite


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["table9"], ["'table9'", "table1"]),
        ([], ["EXPERIMENT"]),
        (["table1", "--scale=huge"], ["'huge'", "small"]),
        (["table1", "--steps=0"], ["--steps is 0, wanted at least 1"]),
        (["table1", "--seeds", "0", "-1"], ["--seeds is -1, wanted at least 0"]),
        (["table1", "--models", "rnn"], ["'rnn'", "mamba-bare"]),
        (["table2", "--lengths", "0"], ["--lengths is 0, wanted at least 1"]),
        (["table2", "--memory=nan"], ["--memory is nan"]),
        (["recall", "--stepz=3"], ["--stepz=3", "did you mean --steps"]),
        (["reach", "/nowhere"], ["/nowhere", "not a folder"]),
        (["table1", "--dataset=mqar"], ["mqar: no prepared dataset"]),
        (["recall", "--out=README.md"], ["--out README.md", "not a writable folder"]),
        (["reach"], ["RUN"]),
    ],
)
def test_wrong_input_is_one_line(flags, wanted, capsys):
    backend = ["--backend=numpy"] if flags and "table9" not in flags else []
    assert_refused(command.main, [*flags, *backend], capsys, *wanted)


@pytest.mark.parametrize("exception", [command.Interrupted, KeyboardInterrupt])
def test_an_interrupt_says_how_to_resume(exception, monkeypatch, capsys, tmp_path):
    def interrupted(*args):
        raise exception

    monkeypatch.setattr(command.recall, "recall", interrupted)
    with pytest.raises(SystemExit) as exit:
        cli.run(lambda: command.main(["recall", "--backend=numpy", f"--out={tmp_path}"]), "command")
    assert exit.value.code == 130
    assert "run the same command again to resume" in capsys.readouterr().err


def test_a_loss_that_is_nan_says_what_to_do(monkeypatch, capsys, tmp_path):
    def diverged(*args):
        raise NonFinite("step 3: loss nan")

    monkeypatch.setattr(command.recall, "recall", diverged)
    assert command.main(["recall", "--backend=numpy", f"--out={tmp_path}"]) == 1
    assert (
        "step 3: loss nan; leave this model out with --models, or choose another seed"
        in capsys.readouterr().err
    )
