"""The kernels on several threads: the same bits as on one, whoever else uses them, also after a fork."""

import multiprocessing
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny
from helpers.rules import needs_kernels, small_blocks, value_and_gradients

from minigam import GAM, AdamW, GAMConfig, Tensor, ops, threads, train_step
from minigam.engine.compiled import kernels
from minigam.gradcheck.cases import CASES

pytestmark = needs_kernels


@pytest.fixture
def use():
    """A function that sets the number of threads for the rest of the test."""
    yield kernels.set_threads
    kernels.set_threads(threads.count())


def assert_same_bits(results) -> None:
    for arrays in zip(*results, strict=True):
        assert len({np.asarray(a).tobytes() for a in arrays}) == 1  # the sign of a zero included


@pytest.mark.parametrize("case", [c for c in CASES if "numpy" in c.op.fast], ids=str)
def test_the_number_of_threads_changes_no_bit(case, use, monkeypatch):
    small_blocks(monkeypatch)
    results = []
    for n in (1, 2, 3, 3):
        use(n)
        results.append(value_and_gradients(case, case.tensors(dtype="float32")))
    assert_same_bits(results)


def test_nor_does_it_in_training(use, monkeypatch):
    small_blocks(monkeypatch)
    results = []
    for n in (1, 2, 3):
        use(n)
        config = GAMConfig(vocab_size=11, block_size=16, d_model=8, n_layers=2, n_slots=5, dropout=0.2)
        model = tiny.randomise(GAM(config))
        optimizer, ids = AdamW(model.parameters()), tiny.draw_ids(model, 4, 16)
        losses = [np.array(train_step(model, optimizer, ids, np.roll(ids, -1, axis=1))) for _ in range(3)]
        results.append([*losses, *model.state_dict().values()])
    assert_same_bits(results)


def gelu(x: np.ndarray) -> np.ndarray:
    return ops.gelu(Tensor(x)).data


def test_threads_of_python_do_not_disturb_each_other(use):
    use(3)
    arrays = [np.full(200_000, 0.1 * i, "float32") for i in range(4)]
    want, wrong = [gelu(x) for x in arrays], []

    def repeat(i: int) -> None:
        wrong.extend(i for _ in range(100) if not np.array_equal(gelu(arrays[i]), want[i]))

    workers = [threading.Thread(target=repeat, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


TASKS = Path("/proc/self/task")  # of Linux: a folder for each thread of this process


def _in_child(x: np.ndarray, answer) -> None:
    before = len(list(TASKS.glob("*")))
    y = gelu(x)
    answer.put((y, len(list(TASKS.glob("*"))) - before))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12 warns of fork beside threads
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_forked_process_computes_with_workers_of_its_own(busy, use):
    """Also if another thread was in a kernel at that moment."""
    use(3)
    x = np.linspace(-3.0, 3.0, 200_000, dtype="float32")
    want, context, stop = gelu(x), multiprocessing.get_context("fork"), threading.Event()

    def compute() -> None:
        while not stop.is_set():
            gelu(x)

    other = threading.Thread(target=compute)
    if busy:
        other.start()
    try:
        for _ in range(5):
            answer = context.Queue()
            child = context.Process(target=_in_child, args=(x, answer), daemon=True)
            child.start()
            try:
                got, started = answer.get(timeout=20)
                child.join(timeout=20)
                assert child.exitcode == 0
            finally:
                child.kill()  # it may hang
                child.join()
            np.testing.assert_array_equal(got, want)
            assert started == (2 if TASKS.exists() else 0)
    finally:
        stop.set()
        if busy:
            other.join()
