"""A run of several ranks: who writes, how it stops and goes on, what its validation gives."""

import json
import math
import threading

import numpy as np
import pytest
from helpers.runs import STATE, losses
from helpers.thread_world import ThreadWorld, ended, run_ranks

from minigam.config import DataConfig, GAMConfig, TrainConfig
from minigam.data.corpus import from_pocketstories
from minigam.engine import ops
from minigam.files import read_json
from minigam.training import loop
from minigam.training.ranks.agreement import Diverged
from minigam.training.ranks.world import ALONE
from minigam.training.run import COMPLETE, Run, RunConfig
from minigam.training.step import NonFinite
from minigam.training.validation import evaluate

DATA = DataConfig(stories=16, valid_stories=5)
TRAIN = TrainConfig(batch_size=8, steps=6, warmup_steps=2, eval_every=2, checkpoint_every=3, rank_tree=True)


@pytest.fixture(scope="module")
def corpus():
    return from_pocketstories(128, n_train=16, n_valid=5)


def config_of(corpus, **changes):
    model = GAMConfig(block_size=128, d_model=8, n_layers=1, n_slots=4, dropout=0.2)
    train = TrainConfig(**{**TRAIN.to_dict(), **changes})
    return RunConfig.of("gam", model, DATA, train, corpus)


def trains(world, path, corpus, *, shard=False, finish=True, spoil=lambda *_: None, **changes):
    """Start a run, or go on with the one that is there, as `minigam train` does; return the last step."""
    there = bool(world.exchange("yes" if Run.exists(path) else "")[0])
    if there:
        run = Run(path, writes=world.rank == 0)
        model, optimizer, start = run.resume(world=world, shard=shard)
    else:
        config, start = config_of(corpus, **changes), 0
        run, model, optimizer = Run.create(path, config, corpus.tokenizer, world=world, shard=shard)
    world.any(False)  # as in a command, nobody trains before rank 0 has read and written
    spoil(world, model, optimizer)
    step = loop.train(run, model, optimizer, corpus, start, world=world)
    if step == run.config.train.steps and finish:
        loop.finish(run, model, corpus, world)
    return step


@pytest.fixture(scope="module")
def alone(corpus, tmp_path_factory):
    """The run of one process with --rank-tree; do not change it."""
    path = tmp_path_factory.mktemp("alone")
    assert trains(ALONE, path, corpus) == 6
    return path


def assert_same(found, wanted):
    for name in (*STATE, COMPLETE):
        assert (found / name).read_bytes() == (wanted / name).read_bytes(), name
    assert losses(found) == losses(wanted)


@pytest.mark.parametrize(("n", "shard"), [(2, False), (4, True), (8, False)])
def test_several_ranks_leave_the_run_of_one(n, shard, corpus, alone, tmp_path):
    assert run_ranks(n, lambda world: trains(world, tmp_path, corpus, shard=shard)) == [6] * n
    assert_same(tmp_path, alone)
    assert read_json(tmp_path / "machine.json")["ranks"] == n


def test_rank_0_alone_writes(corpus, tmp_path):
    def own_folder(world):
        path = tmp_path / str(world.rank)
        path.mkdir()
        return trains(world, path, corpus, shard=True)

    assert run_ranks(4, own_folder) == [6] * 4
    left = {rank: sorted(p.name for p in (tmp_path / str(rank)).iterdir()) for rank in range(4)}
    assert COMPLETE in left[0] and "loss.png" in left[0] and "optimizer.safetensors" in left[0]
    assert [left[rank] for rank in (1, 2, 3)] == [[], [], []]


class Stopping(ThreadWorld):
    """A world in which a rank is asked to stop in a step."""

    @classmethod
    def at(cls, world, rank, step):
        world.__class__, world.asked, world.step = cls, world.rank == rank, step
        return world

    def any(self, flag):
        self.step -= 1
        return super().any(flag or (self.asked and self.step == 0))


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_a_rank_that_is_asked_to_stop_stops_all_after_the_same_step(rank, corpus, tmp_path):
    found = run_ranks(4, lambda world: trains(Stopping.at(world, rank, 1 + 4), tmp_path, corpus))
    assert found == [4] * 4
    assert Run(tmp_path).saved_step() == 4
    assert [m["step"] for m in losses(tmp_path) if "lr" in m] == [1, 2, 3, 4]
    assert not (tmp_path / COMPLETE).exists()


@pytest.mark.parametrize("counts", [(4, 2), (1, 8), (8, 1), (2, 4)])
def test_another_number_of_ranks_goes_on_with_the_same_bits(counts, corpus, alone, tmp_path):
    before, after = counts
    first = run_ranks(
        before, lambda world: trains(Stopping.at(world, 0, 1 + 4), tmp_path, corpus, shard=before > 1)
    )
    assert first == [4] * before
    assert run_ranks(after, lambda world: trains(world, tmp_path, corpus, shard=after > 1)) == [6] * after
    assert_same(tmp_path, alone)


def test_complete_json_is_there_at_the_end_only(corpus, tmp_path):
    path, seen = tmp_path / COMPLETE, []

    def look(world, model, optimizer):
        step = optimizer.step
        optimizer.step = lambda *given: seen.append(path.exists()) or step(*given)

    run_ranks(2, lambda world: trains(world, tmp_path, corpus, finish=False, spoil=look))
    assert not path.exists() and Run(tmp_path).saved_step() == 6  # all steps, but not the last validation
    run_ranks(2, lambda world: trains(world, tmp_path, corpus))
    result = json.loads(path.read_text())
    assert result["step"] == 6 and result["loss"] == losses(tmp_path)[-1]["loss"]
    state = path.read_bytes()
    run_ranks(1, lambda world: trains(world, tmp_path, corpus, finish=False))
    assert not path.exists()  # training goes on, even by no step
    run_ranks(1, lambda world: trains(world, tmp_path, corpus))
    assert path.read_bytes() == state and not any(seen)


def test_ranks_with_a_device_each_train_with_steps_that_end_late(corpus, alone, tmp_path):
    def moved(world, model, optimizer):
        model.to("fakegpu")

    def work(world):
        return trains(Stopping.at(world, 1, 1 + 5), tmp_path, corpus, shard=True, spoil=moved)

    assert run_ranks(4, work) == [5] * 4
    found, wanted = losses(tmp_path), [m for m in losses(alone) if m["step"] <= 5]
    assert [m["step"] for m in found] == [m["step"] for m in wanted]
    assert [m["loss"] for m in found] == pytest.approx([m["loss"] for m in wanted], rel=1e-4)
    assert Run(tmp_path).saved_step() == 5


# ------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("library", ["numpy", "fakegpu"])
def test_a_loss_that_is_no_number_on_one_rank_ends_all_with_the_operation(
    library, corpus, tmp_path, monkeypatch
):
    rule, broken = ops.gelu.rule, set()

    def faulty(xp, *arrays):
        y, backward = rule(xp, *arrays)
        return (y * math.nan if threading.current_thread().name in broken else y), backward

    monkeypatch.setattr(ops.gelu, "rule", faulty)
    monkeypatch.setattr(ops.gelu, "fast", {})

    def spoil(world, model, optimizer):
        model.to(library)
        step = optimizer.step

        def next_step(*given):
            if optimizer.steps == 3 and world.rank == 2:
                broken.add("rank 2")
            return step(*given)

        optimizer.step = next_step

    found = run_ranks(4, lambda world: ended(lambda: trains(world, tmp_path, corpus, spoil=spoil)))
    assert all(isinstance(e, NonFinite) for e in found)
    assert len({str(e) for e in found}) == 1
    assert "step 5: loss nan" in str(found[0]) and "first fault: op 'gelu', forward, in a result" in str(
        found[0]
    )
    assert Run(tmp_path).saved_step() == 3


def test_a_step_that_is_not_finite_changes_nothing_on_any_rank(corpus, tmp_path):
    states = {}

    def spoil(world, model, optimizer):
        step = optimizer.step

        def poisoned(*given):
            if optimizer.steps == 2:
                optimizer.gradients[3] = np.inf
                states[world.rank] = optimizer.flat.copy(), optimizer.m.copy(), optimizer
            return step(*given)

        optimizer.step = poisoned

    found = run_ranks(
        4, lambda world: ended(lambda: trains(world, tmp_path, corpus, shard=True, spoil=spoil))
    )
    assert {str(e).partition(";")[2] for e in found} == {
        " first fault: the sum over micro-batches or the gradient norm; each operation by itself is finite"
    }
    for flat, m, optimizer in states.values():
        assert (optimizer.flat == flat).all() and (optimizer.m == m).all() and optimizer.steps == 2


def test_weights_that_differ_are_found_before_they_are_saved(corpus, tmp_path):
    def spoil(world, model, optimizer):
        step = optimizer.step

        def other(*given):
            norm = step(*given)
            if optimizer.steps == 2 and world.rank == 1:
                optimizer.flat[0] = np.nan  # a computer that computes wrongly
            return norm

        optimizer.step = other

    def until_saved(world):
        return ended(lambda: trains(world, tmp_path, corpus, spoil=spoil, checkpoint_every=2))

    found = run_ranks(2, until_saved)
    assert all(isinstance(e, Diverged) and "of rank 1 have checksum" in str(e) for e in found), found
    assert Run(tmp_path).saved_step() == 0


# --------------------------------------------------------------------------------- validation


@pytest.mark.parametrize("settings", [{}, {"rows": 3}, {"batch": 2}, {"rows": 1}])
def test_validation_gives_the_same_bits_on_any_number_of_ranks(settings, corpus):
    def measured(world):
        model = config_of(corpus).new_model()
        result = evaluate(model, corpus, world=world, **settings)
        assert model.training
        return json.dumps(result)

    wanted = measured(ALONE)
    for n in (1, 2, 3, 8):
        assert run_ranks(n, measured) == [wanted] * n
