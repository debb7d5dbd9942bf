"""What all ranks must have in common, and what is said when they do not."""

import errno
import threading
from dataclasses import replace

import numpy as np
import pytest
from helpers.ranked import drawn, made
from helpers.thread_world import ended, run_ranks

from minigam import threads
from minigam.config import DataConfig, GAMConfig, InputError, TrainConfig
from minigam.engine.backend import BackendUnavailable
from minigam.training import provenance
from minigam.training.optim import AdamW
from minigam.training.ranks.agreement import (
    Diverged,
    Silent,
    require_agreement,
    require_same_weights,
    together,
)  # fmt: skip
from minigam.training.ranks.world import ALONE
from minigam.training.run import RunConfig
from minigam.training.step import begin_step

CONFIG = RunConfig("gam", GAMConfig(vocab_size=7), DataConfig(), TrainConfig(), "f1")
DIFFERENCES = {
    "--lr": replace(CONFIG, train=replace(CONFIG.train, lr=0.5)),
    "--d-model": replace(CONFIG, model=replace(CONFIG.model, d_model=8)),
    "--stories": replace(CONFIG, data=replace(CONFIG.data, stories=5)),
    "--rank-tree": replace(CONFIG, train=replace(CONFIG.train, rank_tree=True)),
    "fingerprint of the data": replace(CONFIG, corpus_sha256="f2"),
    "model": replace(CONFIG, model_type="mamba"),
}


def agreed(n, config_of=lambda rank: CONFIG, options_of=lambda rank: {}):
    """Return what each of n ranks gets from `require_agreement`."""
    return run_ranks(n, lambda w: ended(lambda: require_agreement(w, config_of(w.rank), options_of(w.rank))))


def assert_names(found, *wanted):
    """Check that rank 0 raises an error with these parts, and the others end in silence."""
    assert [type(e) for e in found] == [InputError] + [Silent] * (len(found) - 1), found
    for part in wanted:
        assert part in str(found[0])


def by_rank(values):
    """Return a function that returns, in a thread of `run_ranks`, what belongs to its rank."""
    return lambda *_: values[int(threading.current_thread().name.split()[1])]


def test_ranks_that_have_the_same_agree():
    assert agreed(4) == [None] * 4
    assert require_agreement(ALONE, CONFIG, {}) is None


@pytest.mark.parametrize("name", DIFFERENCES)
def test_the_first_rank_that_differs_is_named_with_both_values(name):
    found = agreed(4, lambda rank: DIFFERENCES[name] if rank in (2, 3) else CONFIG)
    assert_names(found, f"rank 2 differs from rank 0: {name} is ", "there, ", "on rank 0; start all ranks")


def test_a_flag_that_is_not_part_of_the_configuration_counts_too():
    found = agreed(2, options_of=lambda rank: {"--deadline": None if rank == 0 else 5.0})
    assert_names(found, "rank 1 differs from rank 0: --deadline is 5.0 there, None on rank 0")


@pytest.mark.parametrize(
    ("owner", "function", "values", "wanted"),
    [
        (threads, "count", [4, 4, 2], "rank 2 differs from rank 0: threads is 2 there, 4 on rank 0"),
        (provenance, "versions", [{"numpy": "2.0"}, {"numpy": "2.1"}, {"numpy": "2.0"}],
         "rank 1 differs from rank 0: version of numpy is 2.1 there, 2.0 on rank 0"),
        (provenance, "versions", [{}, {}, {"cupy-cuda12x": "13"}],
         "rank 2 differs from rank 0: version of cupy-cuda12x is 13 there, None on rank 0"),
        (provenance, "commit", ["a", "a", "a-dirty"], "rank 2 differs from rank 0: commit is a-dirty there"),
    ],
)  # fmt: skip
def test_what_changes_the_bits_is_compared(owner, function, values, wanted, monkeypatch):
    monkeypatch.setattr(owner, function, by_rank(values))
    assert_names(agreed(3), wanted)


def test_an_error_in_what_is_compared_is_named_as_well(monkeypatch):
    """One rank alone raises it, before the ranks compare."""

    def commit():
        if by_rank([False, True, False])():
            raise InputError("MINIGAM_COMMIT is bad")

    monkeypatch.setattr(provenance, "commit", commit)
    assert_names(agreed(3), "rank 1: MINIGAM_COMMIT is bad")


def test_settings_of_the_threads_of_blas_are_compared(monkeypatch):
    class Environment(dict):
        def __contains__(self, name):
            return name == "OMP_NUM_THREADS"

        def __getitem__(self, name):
            return by_rank(["1", "3"])()

    monkeypatch.setattr("minigam.training.ranks.agreement.os", type("", (), {"environ": Environment()}))
    assert_names(agreed(2), "threads of BLAS is {'OMP_NUM_THREADS': '3'} there")


def test_each_machine_may_keep_its_data_where_it_likes():
    text = [replace(CONFIG, data=replace(CONFIG.data, text=f"/{rank}.txt")) for rank in range(2)]
    assert agreed(2, lambda rank: text[rank]) == [None] * 2


def test_a_long_value_is_shortened():
    found = agreed(2, options_of=lambda rank: {"--name": "x" * 5000 * rank})
    assert_names(found, "--name is xxx")
    assert len(str(found[0])) < 500


# ---------------------------------------------------------------------------------- together


def tried(n, work):
    """Return what each of n ranks gets from `together`, and whether it then ended with the others."""
    return run_ranks(
        n, lambda world: (ended(lambda: together(world, lambda: work(world.rank))), world.closed)
    )


def failing(*ranks, error=lambda rank: InputError(f"bad {rank}")):
    def work(rank):
        if rank in ranks:
            raise error(rank)
        return rank

    return work


def test_work_without_an_error_is_returned():
    assert tried(3, failing()) == [(0, False), (1, False), (2, False)]
    assert together(ALONE, lambda: 7) == 7


@pytest.mark.parametrize(
    ("work", "wanted"),
    [
        (failing(2), "rank 2: bad 2"),
        (failing(0), "rank 0: bad 0"),
        (failing(1, 3), "rank 1: bad 1; rank 3: bad 3"),
        (failing(0, 1, 2, 3), "rank 0: bad 0; rank 1: bad 1; rank 2: bad 2; rank 3: bad 3"),
        (failing(0, 1, 2, 3, error=lambda rank: InputError("all")), "all"),
        (failing(1, error=lambda rank: BackendUnavailable("no GPU")), "rank 1: no GPU"),
        (failing(1, error=lambda rank: Diverged("wrong")), "rank 1: wrong"),
        (failing(1, error=lambda rank: OSError(errno.ENOSPC, "full", "file.txt")), "rank 1: file.txt: full"),
    ],
)
def test_an_error_of_some_ranks_is_one_line_of_rank_0(work, wanted):
    (first, closed), *others = tried(4, work)
    assert isinstance(first, InputError) and str(first) == wanted and closed
    for other, closed in others:
        assert isinstance(other, Silent) and other.code == 2 and closed


def test_many_long_errors_are_shortened():
    (first, _), *_ = tried(8, failing(*range(8), error=lambda rank: InputError(f"{rank}" * 1000)))
    assert len(str(first)) <= 620


def test_one_rank_raises_its_own_error():
    with pytest.raises(OSError, match="full"):
        together(ALONE, lambda: failing(0, error=lambda rank: OSError(errno.ENOSPC, "full", "f"))(0))


def test_an_error_that_is_no_users_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_ranks(2, lambda world: together(world, lambda: 1 // (1 - world.rank)))


# ----------------------------------------------------------------------------------- weights


def compared(n, change=lambda rank, optimizer: None):
    def work(world):
        model = made("GAM")
        optimizer = AdamW(model.parameters(), world=world)
        begin_step(model, optimizer, *drawn(8), world=world, leaves=8)()
        change(world.rank, optimizer)
        return ended(lambda: require_same_weights(world, optimizer, 3))

    return run_ranks(n, work)


def test_ranks_with_the_same_weights_go_on():
    assert compared(4) == [None] * 4


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_a_rank_with_another_weight_is_named(rank):
    def change(own, optimizer):
        if own == rank:
            optimizer.flat[-1] = np.nextafter(optimizer.flat[-1], np.float32(9.0))  # the last bit of one

    found = compared(4, change)
    assert all(isinstance(e, Diverged) for e in found) and len({str(e) for e in found}) == 1
    named = rank or 1  # one of two that differ is rank 0
    assert f"after step 3 the weights of rank {named} have checksum" in str(found[0])
