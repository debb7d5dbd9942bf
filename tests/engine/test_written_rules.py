"""The written memory's faster rules at the sizes where they change their course; CUDA's, emulated.

That they equal the reference on every case of the table is tested in test_compiled_rules.py and
test_cuda_rules.py.
"""

import numpy as np
import pytest
from helpers import fakecuda, launches
from helpers.rules import (
    assert_a_model_runs_by_the_faster_rule,
    assert_all_close,
    assert_backward_walks_twice,
    assert_memory_is_a_fraction,
    assert_state_holds_nothing_else_alive,
    needs_kernels,
)

from minigam import GAM, GAMConfig, Tensor, backend, reference_only
from minigam.config import WRITTEN
from minigam.engine import compiled, cuda, precision
from minigam.engine.sequence import written_memory

each_library = pytest.mark.parametrize("library", ["numpy", *fakecuda.DEVICES])
each_dtype = pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-12), ("float32", 2e-5)])
CHUNK, LONGER = compiled.written_memory.CHUNK, compiled.written_memory.LONGER
ON_GPU = cuda.written_memory.CHUNK
BORDERS = {t for n in (CHUNK, ON_GPU) for t in (n - 1, n, n + 1, 2 * n + 3)}


@pytest.fixture(autouse=True)
def emulated(monkeypatch):
    fakecuda.install(monkeypatch)


def inputs(B, T, C, S, past=False, dtype="float64") -> list[np.ndarray]:
    """Draw u, local_context, memory and, if wanted, a past that holds more than nothing in each slot."""
    rng = np.random.default_rng([B, T, C, S])
    u, local_context, slots = (rng.standard_normal(s) for s in ((B, T, C), (B, T, C), (S, C)))
    held = np.abs(rng.standard_normal((B, S, 1))) + 0.1
    state = np.concatenate([held * rng.standard_normal((B, S, C)), held], axis=-1)
    return [a.astype(dtype) for a in (u, local_context, slots, *([state] if past else []))]


def run(arrays, library="numpy") -> list[np.ndarray]:
    """Return y, the state after the last token, and every gradient, on the host."""
    leaves, last = [Tensor(a, requires_grad=True).to(library) for a in arrays], []
    y = written_memory(*leaves, prior=0.3, remember=last.append)
    cotangent = np.random.default_rng(1).standard_normal(y.shape[::-1]).astype(y.dtype).T  # not contiguous
    y.backward(backend.to(cotangent, library))
    return [backend.to_numpy(a) for a in (y.data, *last, *(t.grad for t in leaves))]


def reference(arrays) -> list[np.ndarray]:
    # A product of such small arrays has once set the flag "invalid" while all its numbers were finite. A nan
    # would not go unnoticed: it equals nothing.
    with reference_only(), np.errstate(invalid="ignore"):
        return run(arrays)


def set_chunk(monkeypatch, tokens: int) -> None:
    for module in (compiled.written_memory, cuda.written_memory):
        monkeypatch.setattr(module, "CHUNK", tokens)


# --------------------------------------------------------------------------- equal to the reference


@each_library
@each_dtype
@pytest.mark.parametrize("past", [False, True], ids=["", "past"])
@pytest.mark.parametrize("T", [1, 2, *sorted(BORDERS)])
def test_every_number_of_tokens_gives_the_reference_result(library, dtype, rtol, past, T):
    arrays = inputs(2, T, 5, 7, past, dtype)
    assert_all_close(run(arrays, library), reference(arrays), rtol)


@needs_kernels
@pytest.mark.parametrize("T", [LONGER - 1, LONGER, 2 * LONGER + 3])
def test_large_states_have_longer_chunks(T):
    C = S = 1 + int((compiled.written_memory.ONE_THREAD / CHUNK) ** 0.5)
    assert max(n for _, n in compiled.written_memory.chunks_of(T, S * C)) == min(T, LONGER)
    assert max(n for _, n in compiled.written_memory.chunks_of(T, S * (C - 1))) == CHUNK
    arrays = inputs(1, T, C, S, past=True)
    assert_all_close(run(arrays), reference(arrays), 1e-12)


@each_library
@pytest.mark.parametrize("tokens", [1, 7, 32, 83])
def test_chunks_of_any_length_are_the_recurrence(library, tokens, monkeypatch):
    set_chunk(monkeypatch, tokens)
    arrays = inputs(2, 83, 4, 3, past=True)
    assert_all_close(run(arrays, library), reference(arrays), 1e-12)


@pytest.mark.parametrize("T", [*range(2 * ON_GPU + 3), 1000, 4097, 200 * ON_GPU + 1])
def test_chunks_on_a_gpu_hold_all_tokens_and_little_padding(T):
    k, n = cuda.written_memory.chunks_of(T)
    assert n <= ON_GPU
    assert T <= k * n < T + k
    assert k * n - T < max(n, 1)  # of the last chunk alone
    assert (k - 1) * ON_GPU < max(T, 1) <= k * ON_GPU  # no more chunks than needed


@each_library
def test_errors_do_not_grow_with_the_length(library):
    arrays = inputs(1, 3000, 3, 4)
    want = reference(arrays)
    got = run([a.astype("float32") for a in arrays], library)
    assert_all_close(got, want, 1e-4)


@fakecuda.each_device
@pytest.mark.parametrize(("name", "rtol"), [("float16", 5e-3), ("bfloat16", 4e-2)])
@pytest.mark.parametrize("T", [ON_GPU, ON_GPU + 1])
def test_products_that_round_give_almost_the_same(library, name, rtol, T, monkeypatch):
    if library == "fakegpu":
        monkeypatch.setattr(precision, "capability", lambda xp: 90)
    arrays = inputs(2, T, 6, 5, past=True, dtype="float32")
    exact = run(arrays, library)
    with precision.using(backend.get(library), name):
        got = run(arrays, library)
    assert_all_close(got, exact, rtol)
    assert max(np.abs(a - b).max() for a, b in zip(got, exact, strict=True)) > rtol / 100
    assert {a.dtype for a in got} == {np.dtype("float32")}


# ------------------------------------------------------------------------------ promises of the rules


@each_library
def test_the_same_numbers_give_the_same_bits(library):
    arrays = inputs(3, CHUNK + 5, 6, 40, True, "float32")
    for a, b in zip(run(arrays, library), run(arrays, library), strict=True):
        np.testing.assert_array_equal(a, b)


@needs_kernels
@pytest.mark.parametrize("B", [1, 2, 5])
def test_two_threads_give_the_bits_of_one(B, monkeypatch):
    arrays, results = inputs(B, 2 * CHUNK + 3, 6, 5, True, "float32"), []
    for count in (1, 2):
        monkeypatch.setattr(compiled.written_memory.threads, "count", lambda n=count: n)
        results.append(run(arrays))
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


@each_library
def test_backward_can_walk_twice(library):
    assert_backward_walks_twice(written_memory, inputs(2, CHUNK + 5, 3, 2, past=True), library)


@each_library
@pytest.mark.parametrize("past", [False, True], ids=["", "past"])
def test_the_state_handed_on_holds_nothing_else_alive(library, past):
    assert_state_holds_nothing_else_alive(
        written_memory, inputs(1, 5 * CHUNK, 3, 2, past), library, (1, 2, 4)
    )


@needs_kernels
def test_memory_is_a_fraction_of_all_states():
    B, T, C, S = 1, 20 * CHUNK, 64, 64
    assert_memory_is_a_fraction(written_memory, inputs(B, T, C, S, dtype="float32"), 4 * B * T * C * S)


@fakecuda.needs_compiler
@pytest.mark.parametrize("past", [False, True], ids=["", "past"])
def test_launches_do_not_grow_with_the_length(past):
    """Padding takes two for each of u, local_context and dy."""
    counts = {}
    with launches.counting() as count:
        for T in (1, ON_GPU, 2 * ON_GPU, 10 * ON_GPU, 2 * ON_GPU + 3):
            xp, *arrays = (
                backend.get("fakegpu"),
                *(backend.to(a, "fakegpu") for a in inputs(2, T, 5, 7, past)),
            )
            dy = backend.to(np.ones(arrays[0].shape), "fakegpu")
            count.clear()
            _, backward = written_memory.fast["cupy"](xp, *arrays, remember=lambda state: None)
            backward(dy)
            counts[T] = count.total()
    padded = counts.pop(2 * ON_GPU + 3)
    assert set(counts.values()) == {29 if past else 30}
    assert padded == counts[1] + 3 * 2


@each_library
def test_a_model_trains_and_writes_by_the_faster_rule(library, monkeypatch):
    set_chunk(monkeypatch, 16)
    config = GAMConfig(vocab_size=7, block_size=40, d_model=6, n_layers=2, n_slots=3, mixer=WRITTEN)
    assert_a_model_runs_by_the_faster_rule(written_memory, GAM(config, dtype="float64"), library, monkeypatch)
