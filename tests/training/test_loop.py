"""The training loop: interrupts, checkpoints, what it logs."""

import signal

from minigam.config import DataConfig, GAMConfig, TrainConfig
from minigam.data.corpus import from_pocketstories
from minigam.training import loop
from minigam.training.optim import AdamW
from minigam.training.run import Run, RunConfig


class Interrupter:
    """Raises SIGINT in the middle of one optimizer step."""

    def __init__(self, optimizer: AdamW, at: int):
        self.step, self.at, self.optimizer = optimizer.step, at, optimizer
        optimizer.step = self

    def __call__(self, *clip):
        if self.optimizer.steps + 1 == self.at:
            signal.raise_signal(signal.SIGINT)
        return self.step(*clip)


def test_ctrl_c_finishes_the_step_and_makes_a_checkpoint(tmp_path, monkeypatch):
    corpus = from_pocketstories(128, n_train=8, n_valid=2)
    config = GAMConfig(block_size=128, d_model=8, n_layers=1, n_slots=4)
    settings = TrainConfig(batch_size=2, steps=10, checkpoint_every=2)
    run, model, optimizer = Run.create(
        tmp_path, RunConfig.of("gam", config, DataConfig(), settings, corpus), corpus.tokenizer
    )
    Interrupter(optimizer, at=3)
    saved, save = [], Run.save
    monkeypatch.setattr(Run, "save", lambda self, *args: saved.append(args[-1]) or save(self, *args))
    handler = signal.getsignal(signal.SIGINT)
    assert loop.train(run, model, optimizer, corpus, 0) == optimizer.steps == 3
    assert saved == [2, 3]
    assert [line["step"] for line in run.metrics()] == [1, 2, 3]
    assert run.saved_step() == 3
    assert signal.getsignal(signal.SIGINT) is handler
