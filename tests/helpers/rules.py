"""Shared by the tests of rules: one forward and backward pass, and comparisons of arrays."""

import tracemalloc
from contextlib import nullcontext

import numpy as np
import pytest

from helpers import tiny
from minigam import reference_only
from minigam.engine import backend, compiled, memory, numeric
from minigam.engine.compiled import kernels
from minigam.engine.tensor import Tensor

needs_kernels = pytest.mark.skipif(kernels.in_use() == "reference", reason="no C compiler can be used here")


def value_and_gradients(case, tensors, cotangent=None) -> list:
    """Return the arrays y, dx, ... of one forward and backward pass; without a cotangent, dy is random."""
    y = case.op(*tensors, **case.settings)
    if cotangent is None:
        cotangent = np.random.default_rng(1).standard_normal(y.shape).astype(y.dtype)
    y.backward(backend.xp_of(y.data).asarray(cotangent))
    return [y.data, *(t.grad for t in tensors if isinstance(t, Tensor))]


def assert_all_close(got, want, rtol: float) -> None:
    """Compare arrays, each within rtol of its largest entry, or of 1 if that is larger."""
    for a, b in zip(got, want, strict=True):
        a, b = backend.to_numpy(a), backend.to_numpy(b)
        np.testing.assert_allclose(a, b, rtol=0.0, atol=rtol * np.abs(b).max(initial=1.0))


def assert_faster_equals_reference(case, library: str, monkeypatch) -> None:
    fast, runs = case.op.fast[library], []

    def counted(xp, *arrays, **settings):
        runs.append(library)
        return fast(xp, *arrays, **settings)

    monkeypatch.setitem(case.op.fast, library, counted)
    got = value_and_gradients(case, case.tensors(library=library))
    assert runs, "the faster rule did not run"
    with reference_only():
        want = value_and_gradients(case, case.tensors(library=library))
    assert len(runs) == 1, "the faster rule ran where the reference was asked for"
    assert_all_close(got, want, rtol=1e-10)


def assert_backward_walks_twice(op, arrays, library: str) -> None:
    """Check that a second backward pass gives the bits of the first."""
    leaves = [Tensor(a, requires_grad=True).to(library) for a in arrays]
    y, once = op(*leaves), []
    for _ in range(2):
        for t in leaves:
            t.grad = None
        y.backward(backend.to(np.ones(y.shape), library))
        once.append([backend.to_numpy(t.grad) for t in leaves])
    for a, b in zip(*once, strict=True):
        np.testing.assert_array_equal(a, b)


def assert_state_holds_nothing_else_alive(op, arrays, library: str, shape: tuple[int, ...]) -> None:
    """Check that the state handed on by `remember` has this shape and is no view of a larger array."""
    last = []
    op(*(backend.to(a, library) for a in arrays), remember=last.append)
    array = last[0]._host if library == "fakegpu" else last[0]
    assert array.shape == shape
    assert array.base is None


def assert_memory_is_a_fraction(op, arrays, states: int) -> None:
    """Check that the faster rule takes a fraction of `states` bytes, which the reference keeps."""
    leaves, held, peak = [Tensor(a, requires_grad=True) for a in arrays], {}, {}
    for rules in (nullcontext, reference_only):
        with rules(), memory.track_memory(np) as taken:
            y = op(*leaves)
            held[rules] = tracemalloc.get_traced_memory()[0]
            y.backward(np.ones_like(y.data))
        peak[rules] = taken.peak_bytes / states
    assert held[reference_only] > states
    assert held[nullcontext] < states / 8
    assert peak[nullcontext] < 0.5


def assert_a_model_runs_by_the_faster_rule(op, model, library: str, monkeypatch) -> None:
    """Check that a model of two layers trains and generates by the faster rule, as by the reference."""
    runs, fast = [], op.fast[library]
    monkeypatch.setitem(op.fast, library, lambda *a, **s: runs.append(1) or fast(*a, **s))
    model, ids = tiny.randomise(model).eval().to(library), tiny.draw_ids(model, 2, 36)
    with reference_only():
        want = model.loss(ids, ids).item(), model.generate(ids, 6, seed=1)
    assert not runs
    got = model.loss(ids, ids).item(), model.generate(ids, 6, seed=1)
    assert len(runs) == 2 * (1 + 6)  # each layer once for the loss, and once for every new token
    np.testing.assert_allclose(got[0], want[0], rtol=1e-12)
    np.testing.assert_array_equal(got[1], want[1])


def small_blocks(monkeypatch) -> None:
    """Make the faster rules of the CPU cut even the smallest arrays into several parts."""
    monkeypatch.setattr(numeric, "TILE", 8)
    for module in (kernels, compiled.elementwise, compiled.adamw):
        monkeypatch.setattr(module, "BLOCK", 8)
    monkeypatch.setattr(compiled.rows, "ROWS", 3)
    monkeypatch.setattr(compiled.attention, "QUERIES", 2)
