"""Several ranks on GPUs, on a pretend NCCL: sums, whole steps, faults of the ranks and of NCCL itself."""

import json
import sys

import numpy as np
import pytest
from helpers import fakecuda, fakegpu, pretend_mpi, pretend_nccl
from helpers.pretend_nccl import here
from helpers.runs import losses
from helpers.steps import batch, tiny

from minigam import backend
from minigam.config import DataConfig, GAMConfig, InputError, TrainConfig
from minigam.data.corpus import from_pocketstories
from minigam.launcher import Place
from minigam.models.nn import Parameter
from minigam.training import loop
from minigam.training.optim import AdamW
from minigam.training.ranks.agreement import require_same_weights
from minigam.training.ranks.nccl import NCCLWorld, binding
from minigam.training.ranks.start import use_gpus
from minigam.training.ranks.world import RankLost
from minigam.training.run import Run, RunConfig
from minigam.training.step import begin_step, train_step

XP = fakegpu.xp


@pytest.fixture
def nccl(monkeypatch):
    return pretend_nccl.install(monkeypatch)


def connected(rank: int, size: int, deadline: float = 30.0, library=XP) -> NCCLWorld:
    world = NCCLWorld(Place(rank, size, size, rank), deadline)
    world.choose_gpu()
    use_gpus(world, library)
    if size == 1:  # which has nothing to connect
        world.connect_gpus(library, world.find_gpus(library))
    here.log.clear()
    return world


# ----------------------------------------------------------------------------------- sums and gathers


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_device_arrays_are_summed_and_gathered_by_nccl(nccl, size, dtype):
    rows = np.random.default_rng(0).standard_normal((size, 7)).astype(dtype)
    total = rows.sum(axis=0)

    def work(rank: int):
        world = connected(rank, size)
        a, b = XP.asarray(rows[rank]), XP.asarray(2.0 * rows[rank][:2])
        world.start_sum(a)
        world.start_sum(b)
        sums = list(here.log)
        world.finish_sums()
        shares = XP.zeros(7, dtype=dtype)
        own = world.share(7)
        shares[own] = a[own]
        few = XP.asarray(np.full(2, rank, dtype))  # of three ranks one has no share
        world.all_gather(shares)
        world.all_gather(few)
        moments = world.gather(a[own], 7)
        assert ("synchronize",) not in here.log  # only the device waits
        assert world.in_use == []  # memory is free again
        return sums, a.get(), b.get(), shares.get(), few.get(), moments, world.sent

    for rank, (sums, a, b, shares, few, moments, sent) in enumerate(pretend_mpi.run(size, work)):
        assert sums == [("allReduce", 7, dtype), ("allReduce", 2, dtype)]
        np.testing.assert_allclose(a, total, rtol=1e-6)
        np.testing.assert_allclose(b, 2.0 * total[:2], rtol=1e-6)
        np.testing.assert_array_equal(shares, a)
        assert list(few) == {1: [0, 0], 2: [0, 1], 3: [1, 2]}[size]
        assert (moments is None) == (rank > 0)
        assert (sent > 0) == (size > 1)
        if rank == 0:
            assert type(moments) is np.ndarray
            np.testing.assert_array_equal(moments, a)


def test_uneven_shares_are_sent_in_one_group(nccl):
    def work(rank: int):
        world = connected(rank, 3)
        world.all_gather(XP.zeros(7, dtype=np.float32))
        world.all_gather(XP.zeros(2, dtype=np.float64))
        return list(here.log)

    first, *others = pretend_mpi.run(3, work)
    assert first == [
        ("groupStart",), *(("broadcast", n, "float32", r) for r, n in enumerate([2, 2, 3])), ("groupEnd",),
        ("groupStart",), *(("broadcast", 1, "float64", r) for r in (1, 2)), ("groupEnd",),
    ]  # fmt: skip
    assert others == [first, first]


def test_host_arrays_are_summed_by_mpi(nccl):
    def work(rank: int):
        world = connected(rank, 2)
        a, b = np.arange(5.0) + rank, np.array([rank, rank], np.float64)
        world.start_sum(a)
        world.finish_sums()
        world.all_gather(b)
        return a, b, here.log

    for a, b, log in pretend_mpi.run(2, work):
        assert list(a) == [1.0, 3.0, 5.0, 7.0, 9.0]
        assert list(b) == [0.0, 1.0]
        assert log == []


def test_the_pretend_nccl_finds_a_missing_wait(nccl, monkeypatch):
    def too_early(rank: int):
        world = connected(rank, 2)
        world.stream.wait_event = lambda event: None
        world.start_sum(XP.ones(3, dtype=np.float32))

    with pytest.raises(AssertionError, match="has not waited"):
        pretend_mpi.run(2, too_early)

    def read_early(rank: int):
        world, a = connected(rank, 2), XP.ones(3, dtype=np.float32)
        world.start_sum(a)
        early = a.get()
        world.finish_sums()
        return early, a.get()

    for early, late in pretend_mpi.run(2, read_early):
        assert np.isnan(early).all()
        assert list(late) == [2.0, 2.0, 2.0]


# --------------------------------------------------------------------------------------- training


def steps_of(world, leaves: int, n: int = 3, shard: bool = False, dropout: float = 0.2):
    """Take some steps, each begun before the last has ended; return the losses and the weights."""
    model = tiny(dropout=dropout).to("fakegpu")
    optimizer = AdamW(model.parameters(), world=world, shard=shard)
    ends = []
    for seed in range(n):
        ids, targets = batch(seed)
        ends.append(begin_step(model, optimizer, ids, targets, world=world, leaves=leaves))
        world.any(False)
    losses = [end() for end in ends]
    require_same_weights(world, optimizer, n)
    moments = optimizer.state_dict([name for name, _ in model.named_parameters()])
    return losses, model.state_dict() | moments


@pytest.mark.parametrize("rules", ["reference", pytest.param("emulated", marks=fakecuda.needs_compiler)])
@pytest.mark.parametrize(("size", "shard"), [(2, False), (3, True)])
def test_ranks_on_gpus_train_what_one_process_trains(nccl, monkeypatch, rules, size, shard):
    if rules == "emulated":
        fakecuda.install(monkeypatch)
    model = tiny(dropout=0.2).to("fakegpu")
    alone = AdamW(model.parameters())
    expected = [train_step(model, alone, *batch(seed)) for seed in range(3)]
    weights = model.state_dict() | alone.state_dict([name for name, _ in model.named_parameters()])

    def work(rank: int):
        world = connected(rank, size)
        return *steps_of(world, size, shard=shard), list(here.log)

    (first, state, log), *others = pretend_mpi.run(size, work)
    np.testing.assert_allclose(first, expected, rtol=1e-6)
    assert state.keys() == weights.keys()
    for name, a in state.items():
        np.testing.assert_allclose(a, weights[name], rtol=1e-6, atol=1e-9)
    for other_losses, other_state, other_log in others:
        assert other_losses == first
        assert other_log == log
        for name, a in other_state.items():
            if name[:2] not in ("m.", "v."):
                np.testing.assert_array_equal(a, state[name])
    assert sum(call[0] == "allReduce" for call in log) >= 6  # of each step the gradients, then the loss
    assert ("allReduce", 1, "float64") in log
    assert (("groupStart",) in log) == shard
    assert ("synchronize",) not in log


def test_gradients_are_sent_while_the_backward_pass_goes_on(nccl, monkeypatch):
    """The first bucket leaves before the last gradient is computed."""
    monkeypatch.setattr("minigam.training.ranks.gradient.BUCKET", 1)
    add = Parameter._add_gradient
    monkeypatch.setattr(Parameter, "_add_gradient", lambda p, g: (here.log.append("gradient"), add(p, g))[1])

    def work(rank: int):
        world, model = connected(rank, 2), tiny().to("fakegpu")
        optimizer = AdamW(model.parameters(), world=world)
        begin_step(model, optimizer, *batch(), world=world, leaves=2)()
        return ["sum" if call != "gradient" else call for call in here.log]

    for calls in pretend_mpi.run(2, work):
        last = len(calls) - 1 - calls[::-1].index("gradient")
        assert calls[:last].count("sum") > 10
        assert calls.count("sum") == len(tiny().parameters()) + 1


def test_a_run_on_gpus_is_that_of_one_process(nccl, monkeypatch, tmp_path):
    """The loop begins a step before the last has ended; validation is shared too, by MPI."""
    settings = {"batch_size": 4, "steps": 5, "checkpoint_every": 3, "eval_every": 2, "eval_rows": 2}
    corpus = from_pocketstories(128, n_train=8, n_valid=2)
    config = GAMConfig(block_size=128, d_model=8, n_layers=1, n_slots=4)

    def trained(world, name: str):
        made = RunConfig.of("gam", config, DataConfig(), TrainConfig(**settings), corpus)
        run, model, optimizer = Run.create(
            tmp_path / name, made, corpus.tokenizer, world=world, shard=world.size > 1
        )
        model.to("fakegpu")
        optimizer.lay_out()
        assert loop.leaves_of(made.train, model, world) == world.size
        loop.train(run, model, optimizer, corpus, 0, world=world)
        return run, model.state_dict()

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, weights = trained(loop.ALONE, "one")

    def work(rank: int):
        world = connected(rank, 2)
        _, state = trained(world, "two")  # without a tree, as the command sets it for GPUs
        world.close()
        return state, here.log

    for state, log in pretend_mpi.run(2, work):
        for name, a in state.items():
            np.testing.assert_allclose(a, weights[name], rtol=1e-4, atol=1e-6)
        assert log[-1] == ("destroy",)
    assert Run(tmp_path / "two").saved_step() == 5
    for line, other in zip(losses(one.path), losses(tmp_path / "two"), strict=True):
        assert other["step"] == line["step"]
        assert other["loss"] == pytest.approx(line["loss"], rel=1e-5)


# ---------------------------------------------------------------------------- which GPU, and faults


def start(rank: int, size: int):
    """Connect; return the device of this rank, or what is said instead."""
    world = NCCLWorld(Place(rank, size, size, rank), 30.0)
    world.choose_gpu()
    try:
        use_gpus(world, XP)
    except (InputError, SystemExit) as e:
        return str(e)
    return here.device


def test_ranks_of_a_host_get_a_gpu_each(nccl, monkeypatch):
    hosts = ["a", "b", "a", "a", "b"]
    monkeypatch.setattr("socket.gethostname", lambda: hosts[pretend_mpi.rank()])
    assert pretend_mpi.run(5, lambda rank: start(rank, 5)) == [0, 0, 1, 2, 1]


def test_more_ranks_than_gpus_are_refused_in_one_line(nccl):
    said, *others = pretend_mpi.run(6, lambda rank: start(rank, 6))
    assert said.startswith("ranks 0 and 4 would share a GPU: 6 ranks run on ")
    assert said.endswith("start at most one rank per GPU, or add --backend numpy")
    assert others == ["2"] * 5  # in silence


def test_a_launcher_may_show_each_rank_its_own_gpu_only(nccl, monkeypatch):
    """As srun --gpus-per-task=1 does: every rank counts one GPU, and each has another."""
    monkeypatch.setattr(XP.cuda.runtime, "getDeviceCount", lambda: 1)
    monkeypatch.setattr(XP.cuda.runtime, "deviceGetPCIBusId", lambda device: f"{pretend_mpi.rank()}")
    assert pretend_mpi.run(3, lambda rank: start(rank, 3)) == [0, 0, 0]


@pytest.mark.parametrize("how", ["no module", "no library", "no network"])
def test_without_nccl_one_rank_says_so(nccl, monkeypatch, how):
    if how == "no module":
        monkeypatch.delitem(sys.modules, "fakegpu.cuda.nccl")
    elif how == "no library":
        nccl.available = False
    else:

        def fails():
            raise nccl.NcclError("NCCL_ERROR_SYSTEM_ERROR:\nunhandled system error")

        nccl.get_unique_id = fails
    said, silent = pretend_mpi.run(2, lambda rank: start(rank, 2))
    assert "several ranks on GPUs need NCCL, which cannot be used (" in said
    assert "\n" not in said
    assert silent == "2"


def test_a_first_sum_that_is_wrong_is_refused(nccl, monkeypatch):
    monkeypatch.setattr(nccl, "NCCL_FLOAT32", 8)  # as with a binding of another NCCL
    monkeypatch.setitem(pretend_nccl.DTYPES, 8, np.dtype("float32"))
    monkeypatch.setattr(nccl.NcclCommunicator, "allReduce", lambda *_: None)

    def work(rank: int):
        with pytest.raises(InputError, match=r"NCCL cannot be used \(the sum of 2 ones is 1.0\)"):
            connected(rank, 2)

    pretend_mpi.run(2, work)


def test_a_deadline_ends_the_kernels_of_nccl(nccl, monkeypatch):
    monkeypatch.setattr("minigam.training.ranks.mpi.ROLL_CALL", 0.05)

    def work(rank: int):
        world = connected(rank, 2)
        world.deadline = 0.05
        if rank == 0:
            with pytest.raises(RankLost, match=r"a sum over all ranks: rank 1 \(on .*\) did not answer"):
                world.wait(lambda: False, lambda: None)
            assert here.log == [("abort",)]
            with pytest.raises(AssertionError, match="used after abort"):
                world.start_sum(XP.ones(1, dtype=np.float32))

    pretend_mpi.run(2, work)


def test_an_error_of_nccl_is_a_lost_rank(nccl, monkeypatch):
    def work(rank: int):
        world = connected(rank, 2)
        here.async_error = "NCCL_ERROR_REMOTE_ERROR: remote process exited"
        with pytest.raises(RankLost, match=r"NCCL failed in a sum over all ranks: .* remote process exited"):
            world.wait(lambda: False, lambda: None)
        assert here.log == [("abort",)]

    pretend_mpi.run(2, work)


def test_a_rank_that_ends_alone_ends_the_kernels_of_nccl(nccl, monkeypatch):
    ended = []
    monkeypatch.setattr("os._exit", ended.append)

    def work(rank: int):
        world = connected(rank, 2)
        world.leave(3)
        return here.log, world.comm.aborted

    assert pretend_mpi.run(2, work) == [([("abort",)], 3)] * 2
    assert ended == [3, 3]


def test_the_id_of_nccl_goes_round_as_json(nccl, monkeypatch):
    texts = []
    exchange = NCCLWorld.exchange
    monkeypatch.setattr(NCCLWorld, "exchange", lambda w, text: (texts.append(text), exchange(w, text))[1])
    pretend_mpi.run(2, lambda rank: connected(rank, 2))
    sent = [json.loads(text)["id"] for text in texts if text.startswith("{")]
    assert sorted(sent) == [[], list(pretend_nccl.ID)]


# ---------------------------------------------------------------------------------------- a device


@pytest.mark.gpu
def test_one_rank_on_a_gpu_sums_by_nccl(monkeypatch):
    """The real NCCL, with itself alone. The MPI is pretended."""
    cupy = backend.get("cupy")
    try:
        binding(cupy)
    except ImportError as e:
        pytest.skip(f"no NCCL: {e}")
    pretend_mpi.install(monkeypatch)

    def work(rank: int):
        world = connected(0, 1, library=cupy)
        for dtype in (np.float32, np.float64):
            numbers = np.random.default_rng(0).standard_normal(1000).astype(dtype)
            a = cupy.asarray(numbers)
            world.start_sum(a)
            world.finish_sums()
            world.all_gather(a)
            np.testing.assert_array_equal(a.get(), numbers)
            np.testing.assert_array_equal(world.gather(a, 1000), numbers)
        states = []
        for w in (world, loop.ALONE):
            model = tiny(dtype="float32").to("cupy")
            optimizer = AdamW(model.parameters(), world=w, shard=w is world)
            loss = begin_step(model, optimizer, *batch(), world=w)()
            states.append((loss, model.state_dict()))
        world.close()
        return states

    ((loss, state), (loss_alone, alone)) = pretend_mpi.run(1, work)[0]
    assert loss == loss_alone
    for name, a in state.items():
        np.testing.assert_array_equal(a, alone[name])
