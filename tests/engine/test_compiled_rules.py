"""The scan's faster rules at the sizes where they change their course; CUDA's, emulated.

That they equal the reference on every case of the table is tested in test_ops.py and test_cuda_rules.py.
"""

from contextlib import nullcontext

import numpy as np
import pytest
from helpers import fakecuda
from helpers.rules import (
    assert_a_model_runs_by_the_faster_rule,
    assert_all_close,
    assert_backward_walks_twice,
    assert_memory_is_a_fraction,
    assert_state_holds_nothing_else_alive,
    needs_kernels,
    small_blocks,
    value_and_gradients,
)

from minigam import Mamba, MambaConfig, Tensor, backend, reference_only
from minigam.engine import compiled, cuda
from minigam.engine.ops import linear_cross_entropy
from minigam.engine.sequence import causal_attention, selective_scan
from minigam.gradcheck.cases import CASES, transposed

LIBRARIES = ["numpy", *fakecuda.DEVICES]
each_library = pytest.mark.parametrize("library", LIBRARIES)
each_dtype = pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-12), ("float32", 2e-5)])
CHUNK, ON_GPU = compiled.selective_scan.CHUNK, cuda.selective_scan.CHUNK


@pytest.fixture(autouse=True)
def emulated(monkeypatch):
    fakecuda.install(monkeypatch)


def inputs(b, T, E, N, past=False, dtype="float64", largest_step=1.0) -> list[np.ndarray]:
    """Draw the arguments of a scan."""
    rng = np.random.default_rng([b, T, E, N])
    x, B, C, skip, h = map(rng.standard_normal, [(b, T, E), (b, T, N), (b, T, N), (E,), (b, E, N)])
    delta, A = rng.uniform(0.001, largest_step, (b, T, E)), -rng.uniform(0.1, N, (E, N))
    return [a.astype(dtype) for a in (x, delta, A, B, C, skip, *([h] if past else []))]


def scan(arrays, library="numpy") -> list[np.ndarray]:
    """Return y, the state after the last token, and every gradient, on the host."""
    leaves, last = [Tensor(a, requires_grad=True).to(library) for a in arrays], []
    y = selective_scan(*leaves, remember=last.append)
    cotangent = np.random.default_rng(1).standard_normal(y.shape[::-1]).astype(y.dtype).T  # not contiguous
    y.backward(backend.to(cotangent, library))
    return [backend.to_numpy(a) for a in (y.data, *last, *(t.grad for t in leaves))]


def reference(arrays) -> list[np.ndarray]:
    with reference_only():
        return scan(arrays)


# --------------------------------------------------------------------------- equal to the reference

BY_NUMPY = [c for c in CASES if "numpy" in c.op.fast]


@pytest.mark.parametrize("case", BY_NUMPY, ids=str)
@pytest.mark.parametrize("size", ["one block", "many blocks"])
@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-10), ("float32", 2e-6)])
def test_numpys_rules_equal_the_reference(case, size, dtype, rtol, monkeypatch):
    """In float32 the measure is the reference in float64, and twice the error it has itself in float32."""
    if size == "many blocks":
        small_blocks(monkeypatch)
    tensors = [case.tensors(dtype=dtype) for _ in range(2)]
    exact = [
        Tensor(t.data.astype("float64"), True) if isinstance(t, Tensor) else t
        for t in case.tensors(dtype=dtype)
    ]
    got = value_and_gradients(case, tensors[0])
    with reference_only():
        own, want = value_and_gradients(case, tensors[1]), value_and_gradients(case, exact)
    for a, b, c in zip(got, own, want, strict=True):
        assert a.dtype == dtype
        allowed = rtol * np.abs(c).max(initial=1.0) + 2.0 * np.abs(b - c).max(initial=0.0)
        np.testing.assert_allclose(a, c, rtol=0.0, atol=allowed)


def test_long_rows_of_attention_and_of_logits_cross_several_blocks():
    rng = np.random.default_rng(0)
    draw = lambda *shape: Tensor(rng.standard_normal(shape), requires_grad=True)  # noqa: E731
    T, V = 2 * compiled.attention.QUERIES + 3, 5
    x, W, ids = draw(2, compiled.rows.ROWS, 3), draw(V, 3), rng.integers(-1, V, (2, compiled.rows.ROWS))
    for op, inputs, settings in (
        (causal_attention, [draw(2, T, 12)], {"n_heads": 2, "p": 0.3, "key": (1,), "first_token": 1}),
        (linear_cross_entropy, [x, W, ids], {}),
    ):
        found = []
        for rules in (nullcontext, reference_only):
            leaves = [t for t in inputs if isinstance(t, Tensor)]
            for t in leaves:
                t.grad = None
            with rules():
                y = op(*inputs, **settings)
                y.backward(np.cos(np.arange(y.data.size)).reshape(y.shape))
            found.append([y.data, *(t.grad for t in leaves)])
        assert_all_close(*found, 1e-12)


@each_library
@each_dtype
@pytest.mark.parametrize("past", [False, True], ids=["", "past"])
@pytest.mark.parametrize("T", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, ON_GPU, ON_GPU + 1, 2 * ON_GPU + 5])
@pytest.mark.parametrize(("b", "E", "N"), [(3, 50, 4), (1, 1, 1)], ids=str)
def test_every_number_of_tokens_gives_the_reference_result(library, dtype, rtol, past, T, b, E, N):
    arrays = inputs(b, T, E, N, past, dtype)
    assert_all_close(scan(arrays, library), reference(arrays), rtol)


def test_the_emulated_sizes_need_several_blocks_the_last_one_not_full():
    assert cuda.kernels.THREADS < 3 * 50 < 2 * cuda.kernels.THREADS
    assert CHUNK < ON_GPU


@each_library
def test_arrays_that_are_not_contiguous_are_read_right(library):
    rng, sizes = np.random.default_rng(0), [(2, CHUNK + 1, 4)] * 2 + [(4, 3), *[(2, CHUNK + 1, 3)] * 2]
    arrays = [0.1 * transposed(*s)(rng) for s in [*sizes, (4,), (2, 4, 3)]]
    assert not any(a.flags.c_contiguous for a in arrays if a.ndim > 1)
    assert_all_close(scan(arrays, library), reference(arrays), 1e-12)


@each_library
def test_steps_that_forget_everything_stay_finite(library):
    arrays = inputs(2, 2 * CHUNK + 1, 4, 3, True, "float32", largest_step=1e4)
    assert np.exp(arrays[1][..., None] * arrays[2]).min() == 0.0
    got = scan(arrays, library)
    assert all(np.isfinite(a).all() for a in got)
    assert_all_close(got, reference(arrays), 2e-5)


@each_library
def test_errors_do_not_grow_with_the_length(library):
    arrays = inputs(1, 3000, 2, 2, largest_step=0.1)
    want = reference(arrays)
    got = scan([a.astype("float32") for a in arrays], library)
    assert_all_close(got, want, 1e-4)


# ------------------------------------------------------------------------------ promises of the rules


@each_library
def test_the_same_numbers_give_the_same_bits(library):
    arrays = inputs(3, CHUNK + 5, 50, 4, True, "float32")
    for a, b in zip(scan(arrays, library), scan(arrays, library), strict=True):
        np.testing.assert_array_equal(a, b)


@each_library
def test_backward_can_walk_twice(library):
    assert_backward_walks_twice(selective_scan, inputs(2, CHUNK + 5, 3, 2, past=True), library)


@needs_kernels
def test_memory_is_a_fraction_of_all_states():
    b, T, E, N = 1, 40 * CHUNK, 64, 64
    assert_memory_is_a_fraction(selective_scan, inputs(b, T, E, N, dtype="float32"), 4 * b * T * E * N)


@each_library
def test_the_state_handed_on_holds_nothing_else_alive(library):
    assert_state_holds_nothing_else_alive(selective_scan, inputs(1, 5 * CHUNK, 3, 2), library, (1, 3, 2))


@each_library
def test_a_model_trains_and_writes_by_the_faster_rule(library, monkeypatch):
    config = MambaConfig(vocab_size=7, block_size=40, d_model=6, n_layers=2, d_state=3, expand=2)
    assert_a_model_runs_by_the_faster_rule(
        selective_scan, Mamba(config, dtype="float64"), library, monkeypatch
    )
