"""Steps that end after the next has begun, as on a GPU: the same run, and a fault undoes both."""

import math
import signal
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from helpers import fakecuda, fakegpu
from helpers.steps import batch, tiny

from minigam import backend
from minigam.config import DataConfig, GAMConfig, TrainConfig
from minigam.data.corpus import from_pocketstories
from minigam.models.nn import Parameter
from minigam.training import loop, step
from minigam.training.optim import AdamW, LossScale
from minigam.training.run import Run, RunConfig
from minigam.training.step import NonFinite, begin_step, train_step

SETTINGS = {"batch_size": 2, "steps": 7, "checkpoint_every": 5, "eval_every": 3, "eval_rows": 2}


def trained(path, library: str, monkeypatch, scale=None, interrupt_at=None):
    """Train in a folder; return the run, the model, and in which order steps began and ended."""
    path.mkdir(exist_ok=True)
    corpus, order = from_pocketstories(128, n_train=8, n_valid=2), []
    config = GAMConfig(block_size=128, d_model=8, n_layers=1, n_slots=4)
    made = RunConfig.of("gam", config, DataConfig(), TrainConfig(**SETTINGS), corpus)
    run, model, optimizer = Run.create(path, made, corpus.tokenizer)
    model.to(library)
    optimizer.loss_scale = scale

    def noted(*args, begin=begin_step):
        order.append(number := optimizer.steps + 1)
        end = begin(*args)
        if number == interrupt_at:
            signal.raise_signal(signal.SIGINT)
        return lambda: (end(), order.append(-number))[0]

    monkeypatch.setattr(loop, "begin_step", noted)
    loop.train(run, model, optimizer, corpus, 0)
    return run, model, order


def test_a_run_is_the_same_with_host_and_device_at_work_at_once(tmp_path, monkeypatch):
    fakecuda.install(monkeypatch)
    late, model, order = trained(tmp_path / "late", "fakegpu", monkeypatch)
    at_once, other, in_turn = trained(tmp_path / "at_once", "fakegpu", monkeypatch, LossScale(1.0))
    assert order == [1, 2, -1, 3, -2, -3, 4, 5, -4, -5, 6, -6, 7, -7]  # all have ended before a validation
    assert in_turn == [1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6, 7, -7]
    lines = [[{**line, "seconds": 0} for line in run.metrics()] for run in (late, at_once)]
    assert lines[0] == lines[1]
    assert [line["step"] for line in lines[0]] == [1, 2, 3, 3, 4, 5, 6, 6, 7]
    assert all(line.get("seconds", 1) > 0 for line in late.metrics())
    for name, a in model.state_dict().items():
        np.testing.assert_array_equal(a, other.state_dict()[name])


def test_numpy_ends_each_step_at_once(tmp_path, monkeypatch):
    assert trained(tmp_path, "numpy", monkeypatch)[2][:4] == [1, -1, 2, -2]


def test_an_interrupt_ends_all_steps_that_have_begun(tmp_path, monkeypatch):
    fakecuda.install(monkeypatch)
    run, _, order = trained(tmp_path, "fakegpu", monkeypatch, interrupt_at=2)
    assert order == [1, 2, -1, -2]
    assert run.saved_step() == 2
    assert [line["step"] for line in run.metrics()] == [1, 2]


@pytest.mark.parametrize("library", ["numpy", "fakegpu"])
def test_a_fault_undoes_its_step_and_the_one_that_has_begun(library, monkeypatch):
    fakecuda.install(monkeypatch)
    model, (ids, targets) = tiny(dropout=0.3).to(library), batch()
    optimizer, mean_loss = AdamW(model.parameters()), model.mean_loss
    train_step(model, optimizer, ids, targets)
    before, drawn = model.state_dict(), model.mask_counter.drawn
    monkeypatch.setattr(model, "mean_loss", lambda *given: mean_loss(*given) * math.inf)
    with np.errstate(all="ignore"):
        first = begin_step(model, optimizer, ids, targets)
        monkeypatch.setattr(model, "mean_loss", mean_loss)
        begin_step(model, optimizer, ids, targets)
        monkeypatch.setattr(model, "mean_loss", lambda *given: mean_loss(*given) * math.inf)
        with pytest.raises(NonFinite, match="first fault: op 'mul', forward"):
            first()
    assert (optimizer.steps, model.mask_counter.drawn) == (1, drawn)
    for name, a in model.state_dict().items():
        np.testing.assert_array_equal(a, before[name])
    monkeypatch.setattr(model, "mean_loss", mean_loss)
    train_step(model, optimizer, ids, targets)  # nothing is blocked any more
    assert any((a != before[name]).any() for name, a in model.state_dict().items())


@pytest.mark.parametrize("scale", [None, 2.0**10], ids=["", "loss scale"])
def test_training_continues_after_a_step_whose_end_was_interrupted(scale, monkeypatch):
    """Ctrl-C in a notebook arrives where the host waits. A step that is not finite is skipped, as ever."""
    fakecuda.install(monkeypatch)
    model, (ids, targets) = tiny(dtype="float32").to("fakegpu"), batch()
    optimizer = AdamW(model.parameters(), loss_scale=LossScale(scale) if scale else None)
    reader = step.later

    def interrupted(*_, **__):
        def wait():
            raise KeyboardInterrupt

        return wait

    monkeypatch.setattr(step, "later", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_step(model, optimizer, ids, targets)
    monkeypatch.setattr(step, "later", reader)
    assert optimizer.unread == 0
    if scale:
        optimizer.loss_scale = LossScale(2.0**127)
        with np.errstate(all="ignore"):
            train_step(model, optimizer, ids, targets)  # skipped: the gradients overflow
        optimizer.loss_scale = LossScale(scale)
    before = model.state_dict()
    train_step(model, optimizer, ids, targets)
    assert any((a != before[name]).any() for name, a in model.state_dict().items())


@pytest.mark.parametrize("library", ["numpy", "fakegpu"])
def test_a_loop_of_ones_own_loses_only_the_step_that_is_not_finite(library, monkeypatch):
    """Nobody reads the outcome of its steps."""
    fakecuda.install(monkeypatch)
    p = Parameter(backend.to(np.array([1.0]), library))
    optimizer, seen = AdamW([p], lr=0.1), []
    for gradient in (1.0, np.inf, 1.0):
        p.grad = backend.to(np.array([gradient]), library)
        with np.errstate(all="ignore"):
            optimizer.step()
        seen.append(p.numpy().item())
    assert seen[0] == seen[1] < 1.0
    assert seen[2] < seen[1]


def test_what_the_host_waits_for_is_copied_before_the_next_step(monkeypatch):
    """On a device: copies to pinned memory, an event after them, and a wait for this event alone."""
    asked = []

    class Event:
        def record(self):
            asked.append("record")

        def synchronize(self):
            asked.append("wait")

    class Number(fakegpu.DeviceArray):
        def get(self, out, blocking):
            asked.append(f"copy, blocking {blocking}")
            out[...] = self._host
            return out

        def reshape(self, *shape):
            return Number(self._host.reshape(*shape))

    cupyx = ModuleType("cupyx")
    cupyx.empty_pinned = np.empty
    monkeypatch.setitem(sys.modules, "cupyx", cupyx)
    numbers = step.later(
        SimpleNamespace(__name__="cupy", cuda=SimpleNamespace(Event=Event)), Number(2.5), Number(3.5)
    )
    assert asked == ["copy, blocking False", "copy, blocking False", "record"]
    assert numbers() == [2.5, 3.5]
    assert asked[3:] == ["wait"]
